//! A Docker engine of our own: no service of the host's, none of its rules, and gone when it is stopped.
//!
//! It lives in mount and process namespaces of its own. So its mounts go with its last process, every process goes
//! with the engine, and an engine that the host runs is neither seen nor disturbed.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

use crate::command;

/// Images are kept here from run to run, as a cache; nothing else stays.
const DIRECTORY: &str = "/var/cache/warren-compose";
/// All its containers are below this cgroup, in each hierarchy.
pub const CGROUP: &str = "warren-compose";
/// From its start to its first answer.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// From SIGTERM to its end. It stops its containers meanwhile.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Lines of its log that are shown.
const LOG_TAIL_LINES: usize = 12;

/// Runs in the new namespaces. The host's resolver may be configured in what is covered.
const START: &str = r#"
set -eu
resolver=$(readlink -f /etc/resolv.conf)
cp "$resolver" "$1/resolv.conf"
mount -t tmpfs -o mode=755 warren-compose /run
if [ ! -e "$resolver" ]; then
    mkdir -p "$(dirname "$resolver")"
    cp "$1/resolv.conf" "$resolver"
fi
shift
exec dockerd "$@"
"#;

/// A running engine. Dropping it kills it with all that it runs.
pub struct Engine {
    directory: PathBuf,
    /// `unshare`, whose only child is the engine. The kernel kills that child with it.
    child: Child,
    ended: bool,
    // No other takes the directory meanwhile.
    _lock: File,
}

/// An engine, or why none can run here.
pub enum Started {
    Runs(Engine),
    CannotRun(String),
}

impl Engine {
    /// Starts it and waits until it answers.
    pub fn start() -> Result<Started> {
        let directory = PathBuf::from(DIRECTORY);
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).context("cannot make a place for Docker")?;
        let lock = File::create(directory.join("lock")).context("cannot make the lock of Docker's place")?;
        if lock.try_lock().is_err() {
            println!("waiting for another run on this host to end");
            lock.lock().context("cannot lock Docker's place")?;
        }
        // Left by a run that was killed: its processes died with it.
        remove_cgroups()?;
        fs::create_dir_all(directory.join("client")).context("cannot make a place for Docker's client")?;
        fs::write(directory.join("daemon.json"), "{}").context("cannot configure Docker")?;
        let child = command_to_start(&directory)?.spawn().context("cannot start unshare")?;
        let mut engine = Engine { directory, child, ended: false, _lock: lock };
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if engine.docker().args(["version", "--format", "{{.Server.Version}}"]).output()?.status.success() {
                return Ok(Started::Runs(engine));
            }
            if let Some(status) = engine.child.try_wait()? {
                engine.ended = true;
                let words = engine.log_tail();
                return Ok(Started::CannotRun(format!("the Docker engine ended ({status}): {words}")));
            }
            if Instant::now() > deadline {
                let waited = START_TIMEOUT.as_secs();
                let words = engine.log_tail();
                return Ok(Started::CannotRun(format!("the Docker engine does not answer after {waited} s: {words}")));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// The client of this engine.
    pub fn docker(&self) -> Command {
        self.client("docker")
    }

    /// A program that finds this engine and no other by its environment.
    pub fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["DOCKER_", "COMPOSE_", "WARREN_"].iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        command.env("DOCKER_CONFIG", self.directory.join("client"));
        command
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(log_path(&self.directory)).unwrap_or_default();
        command::tail(&text, LOG_TAIL_LINES)
    }

    /// SIGTERM, and its end awaited.
    pub fn stop(mut self) -> Result<()> {
        let status = self.terminate()?;
        remove_cgroups()?;
        if !status.success() {
            bail!("the Docker engine ended with {status}:\n{}", self.log_tail());
        }
        Ok(())
    }

    fn terminate(&mut self) -> Result<ExitStatus> {
        let parent = self.child.id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        // Unshare reaps it, and ends with it, so it is there as long as its number.
        let engine = children.split_whitespace().next().and_then(|pid| Pid::from_raw(pid.parse().ok()?));
        rustix::process::kill_process(engine.context("the Docker engine has no pid")?, Signal::TERM)?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                self.ended = true;
                return Ok(status);
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        bail!("the Docker engine runs on {} s after SIGTERM:\n{}", STOP_TIMEOUT.as_secs(), self.log_tail())
    }

    fn socket(&self) -> PathBuf {
        socket(&self.directory)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("error: cannot kill the Docker engine: {error}");
        }
        if let Err(error) = remove_cgroups() {
            eprintln!("error: {error:#}");
        }
    }
}

fn command_to_start(directory: &Path) -> Result<Command> {
    let log = File::create(log_path(directory)).context("cannot write Docker's log")?;
    // Whoever is killed, the engine with its containers goes too: setpriv speaks for this process, kill-child for
    // unshare, and the kernel for the namespace.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--propagation", "private", "--pid", "--fork"]);
    command.args(["--mount-proc", "--kill-child", "sh", "-c", START, "dockerd"]).arg(directory);
    command.arg("--data-root").arg(directory.join("data")).arg("--config-file").arg(directory.join("daemon.json"));
    command.args(["--exec-root", "/run/docker", "--pidfile", "/run/docker.pid"]);
    command.arg(format!("--host=unix://{}", socket(directory).display()));
    command.args(["--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", &format!("/{CGROUP}")]);
    // Nothing of the host's network is changed but for the project's bridge: containers reach each other on it, and
    // the host reaches them, without a rule; they need not reach the world.
    command.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]);
    command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(command)
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("docker.sock")
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("dockerd.log")
}

/// Docker leaves the parent of its containers' cgroups.
fn remove_cgroups() -> Result<()> {
    for cgroup in crate::leftovers::cgroups()? {
        if cgroup.file_name().is_some_and(|name| name == CGROUP) {
            remove_cgroup(&cgroup).with_context(|| format!("cannot remove {}", cgroup.display()))?;
        }
    }
    Ok(())
}

fn remove_cgroup(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match fs::remove_dir(cgroup) {
            // The kernel is still taking leave of its last process.
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(LOOK_INTERVAL);
            }
            outcome => return outcome,
        }
    }
}
