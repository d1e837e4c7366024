//! A node's process, here or on a host of its own.

use std::io;
use std::process::{Child, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};

/// A process that was started and not awaited yet.
pub(crate) enum Running {
    /// On this host.
    Here(Child),
    /// On one of its namespaces' hosts.
    On(hosts::Process),
}

impl Running {
    /// Its pid on the machine.
    pub(crate) fn id(&self) -> u32 {
        match self {
            Running::Here(child) => child.id(),
            Running::On(process) => process.id(),
        }
    }

    /// How it ended, if it has.
    pub(crate) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        match self {
            Running::Here(child) => child.try_wait(),
            Running::On(process) => process.try_wait(),
        }
    }

    /// Kills it and awaits its end.
    pub(crate) fn kill(&mut self) -> io::Result<ExitStatus> {
        match self {
            Running::Here(child) => child.kill().and_then(|()| child.wait()),
            Running::On(process) => process.kill().and_then(|()| process.wait()),
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match self {
            Running::Here(child) => {
                // Not reaped yet, so its pid is its own.
                let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
                Ok(kill_process(pid, signal)?)
            }
            Running::On(process) => process.signal(signal),
        }
    }
}
