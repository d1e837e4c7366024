//! One `warren node` as a child process: started, awaited, stopped, never left behind.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

use crate::client::Client;
use crate::command;

/// From start to the first healthy answer. A slow disk and a cold engine fit in.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(90);
/// From SIGTERM to the end: all sandboxes are destroyed meanwhile.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Lines of the log that are shown when the node fails.
const LOG_TAIL_LINES: usize = 30;

/// How to start a node.
pub struct NodeOrder {
    pub warren: PathBuf,
    pub agent: PathBuf,
    pub data_directory: PathBuf,
    pub run_directory: PathBuf,
    pub log: PathBuf,
    pub port: u16,
    pub key: String,
    pub pool_size: u32,
    pub runtime: Option<String>,
}

/// A running node. Dropping it stops it.
pub struct NodeProcess {
    child: Child,
    log: PathBuf,
    url: String,
    ended: bool,
}

impl NodeOrder {
    /// Where the node will answer.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Starts the node. It outlives neither this process, should that be killed, nor its guard.
    pub fn start(&self) -> Result<NodeProcess> {
        let log = File::create(&self.log).with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(&self.warren).arg("node");
        command.arg("--data-dir").arg(&self.data_directory).arg("--run-dir").arg(&self.run_directory);
        command.args(["--listen", &format!("127.0.0.1:{}", self.port)]).arg("--agent").arg(&self.agent);
        command.args(["--pool-size", &self.pool_size.to_string(), "--default-image", crate::image::DEFAULT_IMAGE]);
        command.arg("--destroy-on-exit");
        if let Some(runtime) = &self.runtime {
            command.args(["--runtime", runtime]);
        }
        // By environment, since arguments are everybody's to read.
        command.env("WARREN_API_KEY", &self.key);
        // A group of its own: Ctrl-C reaches this process, which then ends the node in order.
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("cannot start the node")?;
        Ok(NodeProcess { child, log: self.log.clone(), url: self.url(), ended: false })
    }
}

impl NodeProcess {
    /// Waits until the health route answers 200. A node that ends meanwhile is quoted.
    pub fn wait_until_healthy(&mut self, client: &Client, interrupted: &dyn Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + HEALTHY_TIMEOUT;
        loop {
            let error = match client.health() {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if let Some(status) = self.child.try_wait()? {
                self.ended = true;
                bail!("the node ended ({status}). Its last words:\n{}", self.log_tail());
            }
            if interrupted() {
                bail!("interrupted");
            }
            if Instant::now() > deadline {
                let waited = HEALTHY_TIMEOUT.as_secs();
                bail!("{} is not healthy after {waited} s: {error:#}. Its last words:\n{}", self.url, self.log_tail());
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Whether it has ended by itself.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        self.ended |= status.is_some();
        Ok(status)
    }

    /// SIGTERM, and its end awaited. One that does not end is killed, which is an error.
    pub fn stop(mut self) -> Result<()> {
        let status = self.terminate()?;
        if !status.success() {
            bail!("the node ended with {status} after SIGTERM. Its last words:\n{}", self.log_tail());
        }
        Ok(())
    }

    /// The end of the node's log.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_else(|error| format!("(no log: {error})"));
        command::tail(&text, LOG_TAIL_LINES)
    }

    fn terminate(&mut self) -> Result<ExitStatus> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("the node has no pid")?;
        // The child is not reaped before try_wait says so, hence the pid is still its own.
        rustix::process::kill_process(pid, Signal::TERM).context("cannot signal the node")?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.ended = true;
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.child.kill()?;
                self.child.wait()?;
                self.ended = true;
                bail!("the node did not end within {} s of SIGTERM, so it was killed", STOP_TIMEOUT.as_secs());
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if let Err(error) = self.terminate() {
            eprintln!("error: {error:#}");
        }
    }
}
