//! What a host has while its power is on: namespaces, a first process, and the ways in.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags, move_into_link_name_space, move_into_thread_name_spaces,
    unshare_unsafe,
};

use crate::cgroups::{Cgroups, Entrance};
use crate::doorman::Doorman;
use crate::mounts;
use crate::process::{Process, Ward};

/// From the cut to the end of the last process; the kernel has to end them all and their mounts with them.
const DARK_WITHIN: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// The first process: it waits for its input to end, which it does when we end.
const FIRST_PROCESS: &str = "cat";

/// A host that runs. Dropping it cuts the power.
pub(crate) struct Power {
    cgroups: Cgroups,
    entrance: Arc<Entrance>,
    doorman: Doorman,
    namespaces: Arc<Namespaces>,
    first: Child,
    wards: Mutex<Vec<Ward>>,
    on: bool,
}

/// The way into a host's namespaces.
pub(crate) struct Namespaces {
    /// The host's first process, which is in all of them.
    first: OwnedFd,
    /// The machine's namespace of processes, to come back to.
    machine: OwnedFd,
}

impl Namespaces {
    /// Brings the calling thread in, for the rest of its life. What it forks is not among the host's processes.
    pub(crate) fn enter(&self) -> Result<()> {
        // SAFETY: file descriptors stay shared; root and working directory become this thread's own.
        unsafe { unshare_unsafe(UnshareFlags::FS) }.context("cannot part from the other threads")?;
        let kinds = ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::NETWORK
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::CONTROL_GROUP;
        move_into_thread_name_spaces(self.first.as_fd(), kinds).context("cannot enter a host")
    }

    /// Forks on the host. Only meanwhile do children begin there: a thread could not be started then.
    fn fork<T>(&self, fork: impl FnOnce() -> T) -> Result<T> {
        move_into_thread_name_spaces(self.first.as_fd(), ThreadNameSpaceType::PROCESS_ID)
            .context("cannot enter a host's namespace of processes")?;
        let forked = fork();
        self.leave_processes()?;
        Ok(forked)
    }

    fn leave_processes(&self) -> Result<()> {
        move_into_link_name_space(self.machine.as_fd(), Some(LinkNameSpaceType::ProcessID))
            .context("cannot leave a host's namespace of processes")
    }
}

impl Power {
    /// Turns it on. `directory` is the host's disk.
    pub(crate) fn on(host: &str, directory: &Path, cgroups: &Cgroups) -> Result<Power> {
        let entrance = match cgroups.make() {
            Ok(entrance) => Arc::new(entrance),
            Err(error) => {
                // What could be made of it.
                cgroups.remove()?;
                return Err(error);
            }
        };
        let booted = Doorman::start(host).and_then(|doorman| {
            let (name, directory) = (host.to_owned(), directory.to_owned());
            let (cgroups, entrance) = (cgroups.clone(), Arc::clone(&entrance));
            let (first, namespaces) = doorman.ask(move || boot(&name, &directory, &cgroups, &entrance))?;
            Ok((doorman, first, namespaces))
        });
        let (doorman, first, namespaces) = match booted {
            Ok(booted) => booted,
            Err(error) => {
                cgroups.remove()?;
                return Err(error);
            }
        };
        let (cgroups, namespaces) = (cgroups.clone(), Arc::new(namespaces));
        Ok(Power { cgroups, entrance, doorman, namespaces, first, wards: Mutex::default(), on: true })
    }

    /// The pid of the first process.
    pub(crate) fn first_pid(&self) -> u32 {
        self.first.id()
    }

    pub(crate) fn namespaces(&self) -> Arc<Namespaces> {
        Arc::clone(&self.namespaces)
    }

    /// Starts a process on the host.
    pub(crate) fn spawn(&self, command: &mut Command) -> Result<Process> {
        let words = format!("{command:?}");
        // To the doorman and back.
        let mut own = std::mem::replace(command, Command::new(FIRST_PROCESS));
        let (entrance, namespaces) = (Arc::clone(&self.entrance), self.namespaces());
        let (own, spawned) = self.doorman.ask(move || {
            // The hook stays with the command, which may be started elsewhere afterwards.
            let here = Arc::new(AtomicBool::new(true));
            let asked = Arc::clone(&here);
            let hook = move || if asked.load(Ordering::Relaxed) { entrance.enter() } else { Ok(()) };
            // SAFETY: between fork and exec only writes to open files happen, nothing is allocated or locked.
            unsafe { own.pre_exec(hook) };
            let spawned = namespaces.fork(|| own.spawn())?;
            here.store(false, Ordering::Relaxed);
            Ok((own, spawned))
        })?;
        *command = own;
        let child = spawned.with_context(|| format!("cannot start {words}"))?;
        let (process, ward) = Process::new(child)?;
        let mut wards = self.wards.lock().unwrap_or_else(PoisonError::into_inner);
        wards.retain(Ward::runs);
        wards.push(ward);
        Ok(process)
    }

    /// Ends every process, and with them their mounts and namespaces.
    pub(crate) fn cut(mut self) -> Result<()> {
        self.darken()
    }

    fn darken(&mut self) -> Result<()> {
        self.on = false;
        // With the first process of a namespace the kernel kills all others, and it ends after them.
        self.first.kill().context("cannot kill a host's first process")?;
        let deadline = Instant::now() + DARK_WITHIN;
        loop {
            // Frozen ones would not die. They are dying already when they thaw.
            self.cgroups.thaw()?;
            // Those we started are ours to reap, and are waited for.
            self.wards.lock().unwrap_or_else(PoisonError::into_inner).retain(Ward::runs);
            if self.first.try_wait()?.is_some() {
                break;
            }
            if Instant::now() > deadline {
                bail!("processes {:?} do not die", self.cgroups.pids());
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        self.cgroups.remove()
    }
}

impl Drop for Power {
    fn drop(&mut self) {
        if self.on
            && let Err(error) = self.darken()
        {
            eprintln!("error: a host's power is not wholly off: {error:#}");
        }
    }
}

/// On the doorman's thread: makes the namespaces, and the first process in them.
fn boot(host: &str, directory: &Path, cgroups: &Cgroups, entrance: &Arc<Entrance>) -> Result<(Child, Namespaces)> {
    let made = UnshareFlags::FS
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWIPC
        // Only of children to come.
        | UnshareFlags::NEWPID;
    let machine = File::open("/proc/self/ns/pid").context("cannot open our namespace of processes")?.into();
    // SAFETY: file descriptors stay shared.
    unsafe { unshare_unsafe(made) }.context("cannot make namespaces")?;
    rustix::system::sethostname(host.as_bytes()).context("cannot set the host's name")?;
    mounts::furnish(directory)?;
    let mut first = start_first_process(entrance)?;
    let entered = enter_after(&first, cgroups, machine);
    if entered.is_err() {
        first.kill().and_then(|()| first.wait()).context("cannot end a host's first process")?;
    }
    Ok((first, entered?))
}

/// The rest needs a process to be there, since cgroups are seen from one.
fn enter_after(first: &Child, cgroups: &Cgroups, machine: OwnedFd) -> Result<Namespaces> {
    let pid = i32::try_from(first.id()).ok().and_then(Pid::from_raw).context("a child without a pid")?;
    let first = pidfd_open(pid, PidfdFlags::empty()).context("cannot open a host's first process")?;
    move_into_thread_name_spaces(first.as_fd(), ThreadNameSpaceType::CONTROL_GROUP)
        .context("cannot enter a host's cgroups")?;
    cgroups.mount()?;
    let namespaces = Namespaces { first, machine };
    namespaces.leave_processes()?;
    Ok(namespaces)
}

fn start_first_process(entrance: &Arc<Entrance>) -> Result<Child> {
    let mut command = Command::new(FIRST_PROCESS);
    // Its input is a pipe from us. It ends when we end, whatever thread of ours did this.
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    let entrance = Arc::clone(entrance);
    let hook = move || {
        // What is seen as the root of the cgroups is where we are when the namespace is made.
        entrance.enter_roots()?;
        // SAFETY: nothing of it concerns file descriptors.
        unsafe { unshare_unsafe(UnshareFlags::NEWCGROUP) }?;
        entrance.enter()?;
        // Of the processes that the caller is among, hence not from the thread that stands outside.
        mounts::mount_proc()?;
        // SAFETY: a plain system call. Who ignores its children's ends has orphans reaped by the kernel; that is
        // kept over an exec.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        Ok(())
    };
    // SAFETY: between fork and exec only plain system calls are made, nothing is allocated or locked.
    unsafe { command.pre_exec(hook) };
    command.spawn().context("cannot start a host's first process")
}
