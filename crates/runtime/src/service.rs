//! A Podman service of our own: started, watched, started again when it dies.
//!
//! It runs on a thread of its own, because the kernel ties "signal me when my parent dies" to the
//! thread that forked, not to the process.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::process::{Pid, PidfdFlags, Resource, Signal};

use crate::config::EngineConfig;

/// Wait before the service is started again: doubled with each death, from the first to the second.
const RESTART_AFTER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A service that lived this long died for a new reason: the wait starts small again.
const LIVED_LONG: Duration = Duration::from_secs(10);

/// How long it may take to end when it is told to.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Its log starts anew with the engine once it is larger than this.
const LOG_BYTES_MAX: u64 = 4 << 20;

/// Open files that a sandbox's process may have where the host's hard limit allows it.
const NOFILE_WANTED: u64 = 65_536;

/// Processes of one user by rlimit. The cgroup's limit is the one that counts; a hard `nproc` near
/// the host's own maximum is refused with EPERM.
const NPROC_WANTED: u64 = 30_000;

/// The limits that containers are given, within what this process may give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HardLimits {
    pub(crate) nofile: u64,
    pub(crate) nproc: u64,
}

impl HardLimits {
    pub(crate) fn of_this_process() -> Self {
        let within = |resource, wanted: u64| {
            rustix::process::getrlimit(resource).maximum.map_or(wanted, |hard: u64| hard.min(wanted))
        };
        Self { nofile: within(Resource::Nofile, NOFILE_WANTED), nproc: within(Resource::Nproc, NPROC_WANTED) }
    }
}

/// The service's process and the thread that keeps it.
pub(crate) struct Service {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stopping: bool,
    process: Option<OwnedFd>,
    pid: Option<u32>,
    /// Why it does not run; `None` while it does.
    down: Option<String>,
    deaths: u32,
    /// The thread has nothing more to keep.
    ended: bool,
}

impl State {
    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process
            && let Err(error) = rustix::process::pidfd_send_signal(process, signal)
        {
            tracing::debug!(%error, "the podman service was gone before it was told to go");
        }
    }
}

/// All that it takes to start the service once more.
struct Recipe {
    directory: PathBuf,
    conf: PathBuf,
    log: PathBuf,
    arguments: Vec<String>,
}

impl Service {
    /// Writes the configuration and starts the thread that starts the service.
    pub(crate) fn start(config: &EngineConfig, runtime: &str, limits: HardLimits) -> io::Result<Self> {
        let directory = config.run_dir.join("engine");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let conf = directory.join("containers.conf");
        fs::write(&conf, containers_conf(config, runtime, limits))?;
        let recipe = Recipe { conf, log: Self::log_path(config), arguments: arguments(config, runtime), directory };
        if fs::metadata(&recipe.log).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
            fs::remove_file(&recipe.log)?;
        }
        let shared = Arc::new(Shared { state: Mutex::new(State::default()), changed: Condvar::new() });
        let thread = std::thread::Builder::new().name("podman-service".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || keep(&shared, &recipe)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What the service says goes here.
    pub(crate) fn log_path(config: &EngineConfig) -> PathBuf {
        config.state_dir.join("podman-service.log")
    }

    /// Why the service does not run; `None` while it does.
    pub(crate) fn down(&self) -> Option<String> {
        self.shared.state.lock().down.clone()
    }

    /// The service's process, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.shared.state.lock().pid
    }

    /// How often it died.
    pub(crate) fn deaths(&self) -> u32 {
        self.shared.state.lock().deaths
    }

    /// Kills the service if it is still this process.
    pub(crate) fn kill(&self, pid: u32) -> bool {
        let state = self.shared.state.lock();
        let same = state.pid == Some(pid);
        if same {
            state.signal(Signal::KILL);
        }
        same
    }

    /// Ends the service and waits until it is gone. Containers run on.
    pub(crate) fn stop(&mut self) {
        {
            let mut state = self.shared.state.lock();
            state.stopping = true;
            state.signal(Signal::TERM);
            self.shared.changed.notify_all();
            let until = Instant::now() + STOP_WITHIN;
            while !state.ended && !self.shared.changed.wait_until(&mut state, until).timed_out() {}
            if !state.ended {
                tracing::warn!("the podman service does not end on SIGTERM, killing it");
                state.signal(Signal::KILL);
            }
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that keeps the podman service panicked");
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
    }
}

fn keep(shared: &Shared, recipe: &Recipe) {
    keep_until_stopped(shared, recipe);
    shared.state.lock().ended = true;
    shared.changed.notify_all();
}

fn keep_until_stopped(shared: &Shared, recipe: &Recipe) {
    let mut wait = RESTART_AFTER.0;
    let mut number = 0_u32;
    loop {
        number += 1;
        let started = Instant::now();
        let end = match spawn(recipe, number) {
            Ok(child) => watch(shared, child),
            Err(error) => format!("podman system service can not be started: {error}"),
        };
        let mut state = shared.state.lock();
        state.process = None;
        state.pid = None;
        if state.stopping {
            return;
        }
        if started.elapsed() >= LIVED_LONG {
            wait = RESTART_AFTER.0;
        }
        state.deaths += 1;
        tracing::warn!(reason = %end, restart_in_ms = wait.as_millis(), log = %recipe.log.display(),
            "the podman service ended, starting it again");
        state.down = Some(end);
        let until = Instant::now() + wait;
        while !state.stopping && !shared.changed.wait_until(&mut state, until).timed_out() {}
        if state.stopping {
            return;
        }
        wait = (wait * 2).min(RESTART_AFTER.1);
    }
}

/// Waits for the end of the child and says what it was.
fn watch(shared: &Shared, mut child: Child) -> String {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let process = pid.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
    {
        let mut state = shared.state.lock();
        // A stop that came between fork and here had nobody to signal.
        if state.stopping
            && let Err(error) = child.kill()
        {
            tracing::debug!(%error, "podman service was gone before it was told to go");
        }
        state.process = process;
        state.pid = Some(child.id());
        state.down = None;
    }
    match child.wait() {
        Ok(status) => format!("podman system service ended: {status}"),
        Err(error) => format!("podman system service can not be waited for: {error}"),
    }
}

fn spawn(recipe: &Recipe, number: u32) -> io::Result<Child> {
    // Every start has a socket of its own behind a link of a fixed name. A service that ends
    // removes its socket's path, and would otherwise remove that of the one that follows it.
    let socket = recipe.directory.join(format!("podman-{}-{number}.sock", std::process::id()));
    remove_old_sockets(&recipe.directory)?;
    let link = recipe.directory.join("podman.sock");
    symlink(&socket, &link)?;

    let log = fs::OpenOptions::new().create(true).append(true).open(&recipe.log)?;
    let mut command = Command::new("podman");
    command
        // conmon inherits it, and leaves a file `oom` where it is when a sandbox ran out of memory.
        .current_dir(&recipe.directory)
        .args(&recipe.arguments)
        .arg(format!("unix://{}", socket.display()))
        .env("CONTAINERS_CONF", &recipe.conf)
        .env_remove("CONTAINERS_CONF_OVERRIDE")
        .env_remove("CONTAINER_HOST")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("LISTEN_FDS")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A group of its own: an interrupt typed at our terminal is for us to handle first.
        .process_group(0);
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec only two plain system calls are made, no memory is allocated
    // and no lock is taken.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
            // Had the parent died before the call above, nobody would ever signal.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()));
            }
            Ok(())
        });
    }
    command.spawn()
}

fn remove_old_sockets(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("podman") && name.ends_with(".sock") {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

fn arguments(config: &EngineConfig, runtime: &str) -> Vec<String> {
    let mut arguments =
        vec!["--log-level=warn".to_owned(), format!("--runtime={runtime}"), "--cgroup-manager=cgroupfs".to_owned()];
    if let Some(root) = &config.storage_root {
        arguments.push(format!("--root={}", root.display()));
    }
    if let Some(runroot) = &config.storage_runroot {
        arguments.push(format!("--runroot={}", runroot.display()));
        // Two stores that share this directory would share locks and exit files.
        arguments.push(format!("--tmpdir={}", runroot.join("libpod").display()));
    }
    arguments.extend(["system", "service", "--time=0"].map(str::to_owned));
    arguments
}

/// `num_locks` is left alone: an existing lock store of another size makes Podman refuse to start.
fn containers_conf(config: &EngineConfig, runtime: &str, limits: HardLimits) -> String {
    let HardLimits { nofile, nproc } = limits;
    // Locks in shared memory are one set for the whole host, and a store that starts for the first
    // time frees them all, those of other stores too. One with a directory of its own keeps its own.
    let lock_type = if config.storage_runroot.is_some() { "file" } else { "shm" };
    format!(
        "# Written at every start by Warren for its own Podman service.\n\
         [containers]\n\
         # One keyring per container is charged to the mapped user, who may have 200.\n\
         keyring = false\n\
         # Both, since Podman fills in the one that is missing with what the host may not allow.\n\
         default_ulimits = [\"nofile={nofile}:{nofile}\", \"nproc={nproc}:{nproc}\"]\n\
         log_driver = \"k8s-file\"\n\
         log_size_max = 1048576\n\
         \n\
         [engine]\n\
         cgroup_manager = \"cgroupfs\"\n\
         events_logger = \"file\"\n\
         lock_type = \"{lock_type}\"\n\
         runtime = \"{runtime}\"\n"
    )
}
