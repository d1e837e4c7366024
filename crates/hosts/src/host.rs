//! One host.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow, bail};

use crate::cgroups::Cgroups;
use crate::mounts;
use crate::power::Power;
use crate::process::Process;
use crate::switch::{Switch, ip_command};

/// A host of a [`Machine`](crate::Machine). A handle: clones are the same host, which goes with its machine.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    name: String,
    number: u8,
    directory: PathBuf,
    cgroups: Cgroups,
    switch: Arc<Switch>,
    power: Mutex<Option<Power>>,
}

impl Host {
    /// A host with its disk, which is on.
    pub(crate) fn new(name: &str, number: u8, machine: &Path, cgroup: &str, switch: &Arc<Switch>) -> Result<Host> {
        let directory = machine.join(name);
        mounts::make_disk(&directory)?;
        let host = Host(Arc::new(Inner {
            name: name.to_owned(),
            number,
            directory,
            cgroups: Cgroups::named(cgroup)?,
            switch: Arc::clone(switch),
            power: Mutex::default(),
        }));
        host.power_on()?;
        Ok(host)
    }

    /// Its name, also its host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its address, for the other hosts and for the machine.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.0.switch.address(self.0.number)
    }

    /// A directory of its own that outlives its power, under the same path inside and outside. Podman's storage is
    /// in it, as `containers`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// Starts a program on it. It begins in the working directory and with the environment that a child of ours
    /// would have.
    ///
    /// # Errors
    /// The host's power is off, or the program can not be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Process> {
        let power = self.power();
        let power = power.as_ref().ok_or_else(|| self.off())?;
        power.spawn(command).with_context(|| format!("on host {}", self.0.name))
    }

    /// Runs a program on it to its end. It has no input, and its output is collected.
    ///
    /// # Errors
    /// As [`Host::spawn`]. A program that fails is not an error.
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(self.spawn(command)?.wait_with_output()?)
    }

    /// Runs a program on it to its end.
    ///
    /// # Errors
    /// As [`Host::spawn`]. A program that fails is not an error.
    pub fn status(&self, command: &mut Command) -> Result<ExitStatus> {
        Ok(self.spawn(command)?.wait()?)
    }

    /// Runs a program on it that has to succeed, and returns what it prints, trimmed.
    ///
    /// # Errors
    /// As [`Host::spawn`], or it fails; then its own words are in the error.
    pub fn says(&self, command: &mut Command) -> Result<String> {
        let output = self.output(command)?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            bail!("{command:?} on host {} ended with {}: {}", self.0.name, output.status, words.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Does something in a thread that is on the host: its network, its files, its cgroups. Only its processes are not
    /// seen from there as from within: the thread has no `/proc/self`, and what it forks is not the host's. Sockets
    /// and files that it opens stay what they are when they are taken out.
    ///
    /// # Errors
    /// The host's power is off.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let namespaces = self.power().as_ref().ok_or_else(|| self.off())?.namespaces();
        let entered = std::thread::scope(|scope| scope.spawn(move || namespaces.enter().map(|()| work())).join());
        entered.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// All its processes, by their pids on the machine, those in containers included. Its first one, which only holds
    /// it, is not among them.
    #[must_use]
    pub fn processes(&self) -> BTreeSet<u32> {
        let mut pids = self.0.cgroups.pids();
        if let Some(power) = self.power().as_ref() {
            pids.remove(&power.first_pid());
        }
        pids
    }

    /// Whether its power is on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.power().is_some()
    }

    /// Cuts its power: the cable is dead, so that nobody hears of it, and every process is killed at once, those in
    /// containers and frozen ones included. Memory, run directories and mounts are gone, the disk stays. What was
    /// written without a sync stays too, other than on a real host.
    ///
    /// # Errors
    /// A process does not die. A host that is off already stays off.
    pub fn kill_power(&self) -> Result<()> {
        let mut place = self.power();
        let Some(power) = place.take() else { return Ok(()) };
        let unplugged = self.0.switch.unplug(&self.0.name);
        power.cut().with_context(|| format!("cannot cut the power of host {}", self.0.name))?;
        unplugged
    }

    /// Turns it on again, with its disk and address and no process. Cuts hold as before.
    ///
    /// # Errors
    /// The namespaces can not be made. A host that is on stays on.
    pub fn power_on(&self) -> Result<()> {
        let mut place = self.power();
        if place.is_some() {
            return Ok(());
        }
        let inner = &*self.0;
        let start = || {
            let power = Power::on(&inner.name, &inner.directory, &inner.cgroups)?;
            inner.switch.plug(&inner.name, inner.number, power.first_pid())?;
            let mut command = ip_command();
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut ip = power.spawn(&mut command)?;
            if let Some(mut input) = ip.stdin.take() {
                // One that ends early says why.
                let _ = std::io::Write::write_all(&mut input, inner.switch.host_commands(inner.number).as_bytes());
            }
            let output = ip.wait_with_output()?;
            if !output.status.success() {
                bail!("ip failed: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
            Ok(power)
        };
        match start() {
            Ok(power) => *place = Some(power),
            Err(error) => {
                // It goes by itself, but maybe not before the next try.
                let _ = inner.switch.unplug(&inner.name);
                return Err(error).with_context(|| format!("cannot turn on host {}", inner.name));
            }
        }
        Ok(())
    }

    fn power(&self) -> MutexGuard<'_, Option<Power>> {
        self.0.power.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn off(&self) -> anyhow::Error {
        anyhow!("the power of host {} is off", self.0.name)
    }
}

impl AsRef<str> for Host {
    fn as_ref(&self) -> &str {
        self.name()
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} ({})", self.name(), self.address())
    }
}
