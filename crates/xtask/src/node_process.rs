//! One `warren node` as a child process: started, awaited, stopped, never left behind.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hosts::Host;
use rustix::process::{Pid, Signal};

use crate::client::Client;
use crate::command;

/// From start to the first healthy answer. A slow disk and a cold engine fit in.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(90);
/// From SIGTERM to the end: all sandboxes are destroyed meanwhile.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Where a node with an address of its own shows its metrics, on that address.
const METRICS_PORT: u16 = 7702;
/// How often a condition is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// In a line of the log that says no more than this.
const HEALTH_WAS_ASKED: &str = "path=\"/api/v1/health\"";
/// Lines of the log that are shown when the node fails.
const LOG_TAIL_LINES: usize = 30;

/// How to start a node.
pub struct NodeOrder {
    pub warren: PathBuf,
    pub agent: PathBuf,
    pub data_directory: PathBuf,
    pub run_directory: PathBuf,
    pub log: PathBuf,
    pub address: IpAddr,
    pub port: u16,
    pub key: String,
    pub pool_size: u32,
    pub runtime: Option<String>,
    /// None for a node alone.
    pub peers: Option<PeerOrder>,
}

/// How a node finds the others.
pub struct PeerOrder {
    /// Where it lets others in.
    pub listen: SocketAddr,
    /// Where a member lets it in, and the token that opens; none for the first node.
    pub join: Option<(SocketAddr, String)>,
}

/// A running node. Dropping it stops it.
pub struct NodeProcess {
    child: Running,
    log: PathBuf,
    url: String,
    ended: bool,
}

/// On this host, or on one of its namespaces' hosts.
enum Running {
    Here(Child),
    On(hosts::Process),
}

impl Running {
    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        match self {
            Running::Here(child) => child.try_wait(),
            Running::On(process) => process.try_wait(),
        }
    }

    fn id(&self) -> u32 {
        match self {
            Running::Here(child) => child.id(),
            Running::On(process) => process.id(),
        }
    }

    fn kill_and_wait(&mut self) -> io::Result<ExitStatus> {
        match self {
            Running::Here(child) => child.kill().and_then(|()| child.wait()),
            Running::On(process) => process.kill().and_then(|()| process.wait()),
        }
    }
}

impl NodeOrder {
    /// Where the node will answer.
    pub fn url(&self) -> String {
        format!("http://{}", self.listen())
    }

    /// The same as an address.
    pub fn listen(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    /// Where a node that is not alone shows its metrics.
    pub fn metrics_listen(&self) -> SocketAddr {
        SocketAddr::new(self.address, METRICS_PORT)
    }

    /// Starts the node. It outlives neither this process, should that be killed, nor its guard.
    pub fn start(&self) -> Result<NodeProcess> {
        self.start_by(|command| Ok(Running::Here(command.spawn()?)))
    }

    /// Starts the node on a host of its own.
    pub fn start_on(&self, host: &Host) -> Result<NodeProcess> {
        self.start_by(|command| Ok(Running::On(host.spawn(command)?)))
    }

    fn start_by(&self, spawn: impl FnOnce(&mut Command) -> Result<Running>) -> Result<NodeProcess> {
        let log = File::create(&self.log).with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(&self.warren).arg("node");
        command.arg("--data-dir").arg(&self.data_directory).arg("--run-dir").arg(&self.run_directory);
        command.args(["--listen", &self.listen().to_string()]).arg("--agent").arg(&self.agent);
        command.args(["--pool-size", &self.pool_size.to_string(), "--default-image", crate::image::DEFAULT_IMAGE]);
        command.arg("--destroy-on-exit");
        if let Some(runtime) = &self.runtime {
            command.args(["--runtime", runtime]);
        }
        if let Some(peers) = &self.peers {
            command.args(["--metrics-listen", &self.metrics_listen().to_string()]);
            command.args(["--peer-listen", &peers.listen.to_string()]);
            if let Some((member, token)) = &peers.join {
                command.args(["--join", &member.to_string()]).env("WARREN_JOIN_TOKEN", token);
            }
        }
        // By environment, since arguments are everybody's to read.
        command.env("WARREN_API_KEY", &self.key).env("NO_COLOR", "1");
        // A group of its own: Ctrl-C reaches this process, which then ends the node in order.
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = spawn(&mut command).context("cannot start the node")?;
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

    /// SIGKILL: no last word to anybody.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill_and_wait().context("cannot kill the node")?;
        self.ended = true;
        Ok(())
    }

    /// Its pid on this host.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The end of the node's log, without those who only ask how it is.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_else(|error| format!("(no log: {error})"));
        let telling: Vec<&str> = text.lines().filter(|line| !line.contains(HEALTH_WAS_ASKED)).collect();
        command::tail(&telling.join("\n"), LOG_TAIL_LINES)
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
                self.child.kill_and_wait()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A stand-in for the node: a script with the given body, in a directory of its own.
    fn order(directory: &tempfile::TempDir, body: &str) -> NodeOrder {
        let warren = directory.path().join("warren");
        // Written by another process: a child that a neighbouring test forks meanwhile would hold our writing end,
        // and a file that is open for writing can not be executed.
        let mut write = Command::new("sh");
        write.args(["-c", "printf '%s\\n' '#!/bin/sh' \"$1\" >\"$2\" && chmod 0755 \"$2\"", "sh", body]);
        command::quiet(write.arg(&warren)).unwrap();
        NodeOrder {
            warren,
            agent: PathBuf::from("/agent"),
            data_directory: directory.path().join("data"),
            run_directory: directory.path().join("run"),
            log: directory.path().join("log"),
            address: IpAddr::from([127, 0, 0, 1]),
            // Nobody listens on the discard port, so the stand-in is never healthy.
            port: 9,
            key: "secret".to_owned(),
            pool_size: 3,
            runtime: None,
            peers: None,
        }
    }

    /// Waits until the stand-in has said so in its log.
    fn wait_for(node: &NodeProcess, words: &str) {
        while !node.log_tail().contains(words) {
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    #[test]
    fn a_node_that_ends_early_is_quoted_with_its_flags() {
        let directory = tempfile::tempdir().unwrap();
        let order = order(&directory, "echo \"$@\" >&2; echo \"key $WARREN_API_KEY\"; exit 7");
        let mut node = order.start().unwrap();
        let client = Client::new(&order.url(), &order.key);
        let error = format!("{:#}", node.wait_until_healthy(&client, &|| false).unwrap_err());
        assert!(error.contains("exit status: 7"), "{error}");
        assert!(error.contains("--listen 127.0.0.1:9") && error.contains("--pool-size 3 "), "{error}");
        assert!(error.contains("--destroy-on-exit") && error.contains("key secret"), "{error}");
    }

    #[test]
    fn a_node_that_joins_is_told_where_and_its_token_is_no_argument() {
        let directory = tempfile::tempdir().unwrap();
        let mut order = order(&directory, "echo \"$@\" >&2; echo \"token $WARREN_JOIN_TOKEN\"; exit 7");
        let (listen, member) = ("127.0.0.2:1".parse().unwrap(), "127.0.0.3:2".parse().unwrap());
        order.peers = Some(PeerOrder { listen, join: Some((member, "let-me-in".to_owned())) });
        let mut node = order.start().unwrap();
        let error =
            format!("{:#}", node.wait_until_healthy(&Client::new("http://127.0.0.1:9", ""), &|| false).unwrap_err());
        assert!(error.contains("--peer-listen 127.0.0.2:1 --join 127.0.0.3:2\n"), "{error}");
        assert!(error.contains("token let-me-in"), "{error}");
    }

    #[test]
    fn waiting_ends_when_it_is_interrupted() {
        let directory = tempfile::tempdir().unwrap();
        let order = order(&directory, "trap 'exit 0' TERM; while :; do sleep 0.01; done");
        let mut node = order.start().unwrap();
        let client = Client::new(&order.url(), &order.key);
        let error = node.wait_until_healthy(&client, &|| true).unwrap_err();
        assert_eq!(error.to_string(), "interrupted");
    }

    #[test]
    fn a_node_that_ends_badly_after_sigterm_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let good = order(&directory, "trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done").start().unwrap();
        wait_for(&good, "ready");
        good.stop().unwrap();
        let bad = order(&directory, "trap 'echo no; exit 4' TERM; echo ready; while :; do sleep 0.01; done");
        let bad = bad.start().unwrap();
        wait_for(&bad, "ready");
        let error = bad.stop().unwrap_err().to_string();
        assert!(error.contains("exit status: 4") && error.ends_with("no"), "{error}");
    }

    #[test]
    fn a_dropped_node_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let node = order(&directory, "trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done").start().unwrap();
        wait_for(&node, "ready");
        let process = PathBuf::from(format!("/proc/{}", node.child.id()));
        assert!(process.exists());
        drop(node);
        assert!(!process.exists());
    }
}
