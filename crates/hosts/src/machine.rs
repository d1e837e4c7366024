//! A machine of several hosts.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};

use crate::host::Host;
use crate::places::{self, Place};
use crate::sweep;
use crate::switch::{OUTSIDE, Switch};

/// Numbers above are the machine's own in the subnet.
const HOSTS_MAX: usize = 250;

/// Several hosts and the network between them. Dropping it takes all of it away; killing this process leaves
/// directories and empty cgroups, which [`sweep`](crate::sweep) takes.
pub struct Machine {
    name: String,
    place: Place,
    switch: Arc<Switch>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hosts: Vec<Host>,
    /// From the first to the second nothing passes.
    cuts: BTreeSet<(String, String)>,
}

impl Machine {
    /// A machine without hosts: a switch, and a link `wh-<name>` to reach it. What one of the same name had
    /// left behind is taken away first, but for kept disks.
    ///
    /// # Errors
    /// We are not root, the name is not 1 to 12 small letters and digits, it is in use, or the kernel refuses.
    pub fn new(name: &str) -> Result<Machine> {
        places::check_name(name)?;
        if !rustix::process::geteuid().is_root() {
            bail!("only root can make hosts");
        }
        let place = Place::take(name)?;
        let begun = sweep::kernel_things(name).and_then(|_| Switch::new(name));
        let switch = match begun.context("cannot make the switch") {
            Ok(switch) => switch,
            Err(error) => {
                if !place.is_kept() {
                    place.remove()?;
                }
                return Err(error);
            }
        };
        Ok(Machine { name: name.to_owned(), place, switch: Arc::new(switch), state: Mutex::default() })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where processes outside the hosts are reached from within.
    #[must_use]
    pub fn outside_address(&self) -> Ipv4Addr {
        self.switch.outside_address()
    }

    /// Adds a host, which is on. Addresses are given in order.
    ///
    /// # Errors
    /// The name is not a name or in use, or the kernel refuses.
    pub fn add_host(&self, name: &str) -> Result<Host> {
        places::check_name(name)?;
        let mut state = self.state();
        if name == OUTSIDE || state.hosts.iter().any(|host| host.name() == name) {
            bail!("there is a {name} already");
        }
        let number = state.hosts.len() + 1;
        if number > HOSTS_MAX {
            bail!("more than {HOSTS_MAX} hosts do not fit in a subnet");
        }
        let number = u8::try_from(number)?;
        let cgroup = places::cgroup(&self.name, name);
        let host = Host::new(name, number, self.place.path(), &cgroup, &self.switch)?;
        state.hosts.push(host.clone());
        Ok(host)
    }

    /// All hosts, in the order of their making.
    #[must_use]
    pub fn hosts(&self) -> Vec<Host> {
        self.state().hosts.clone()
    }

    /// Nothing passes between the two any more; one may be [`OUTSIDE`]. Connections stay open and hear nothing.
    ///
    /// # Errors
    /// One is not there, or the kernel refuses.
    pub fn cut(&self, one: impl AsRef<str>, other: impl AsRef<str>) -> Result<()> {
        let (one, other) = (one.as_ref(), other.as_ref());
        self.add_cuts(&[(one, other), (other, one)])
    }

    /// Nothing passes from the first to the second any more, but from the second to the first.
    ///
    /// # Errors
    /// As [`Machine::cut`].
    pub fn cut_one_way(&self, from: impl AsRef<str>, to: impl AsRef<str>) -> Result<()> {
        self.add_cuts(&[(from.as_ref(), to.as_ref())])
    }

    /// Nothing passes between one host and the others any more; from outside it can still be reached.
    ///
    /// # Errors
    /// As [`Machine::cut`].
    pub fn isolate(&self, host: impl AsRef<str>) -> Result<()> {
        let host = host.as_ref();
        let hosts = self.hosts();
        let others = hosts.iter().map(Host::name).filter(|other| *other != host);
        let cuts: Vec<(&str, &str)> = others.flat_map(|other| [(host, other), (other, host)]).collect();
        self.add_cuts(&cuts)
    }

    /// Everything passes again between the two.
    ///
    /// # Errors
    /// As [`Machine::cut`].
    pub fn mend(&self, one: impl AsRef<str>, other: impl AsRef<str>) -> Result<()> {
        let (one, other) = (one.as_ref(), other.as_ref());
        let mut state = self.state();
        let is_between = |from: &str, to: &str| (from == one && to == other) || (from == other && to == one);
        let cuts = state.cuts.iter().filter(|(from, to)| !is_between(from, to)).cloned().collect();
        self.set_cuts(&mut state, cuts)
    }

    /// Everything passes again.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn heal(&self) -> Result<()> {
        self.set_cuts(&mut self.state(), BTreeSet::new())
    }

    /// The hosts' disks stay when this is dropped, and are there again for the next machine of this name.
    ///
    /// # Errors
    /// It can not be noted.
    pub fn keep_disks(&self) -> Result<()> {
        self.place.keep()
    }

    fn add_cuts(&self, added: &[(&str, &str)]) -> Result<()> {
        let mut state = self.state();
        let mut cuts = state.cuts.clone();
        for (from, to) in added {
            for end in [from, to] {
                if *end != OUTSIDE && !state.hosts.iter().any(|host| host.name() == *end) {
                    bail!("there is no host {end}");
                }
            }
            cuts.insert(((*from).to_owned(), (*to).to_owned()));
        }
        self.set_cuts(&mut state, cuts)
    }

    fn set_cuts(&self, state: &mut State, cuts: BTreeSet<(String, String)>) -> Result<()> {
        self.switch.set_cuts(&cuts)?;
        state.cuts = cuts;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let mut outcomes: Vec<Result<()>> = self.hosts().iter().map(Host::kill_power).collect();
        outcomes.push(self.switch.close());
        if !self.place.is_kept() {
            outcomes.push(self.place.remove());
        }
        for error in outcomes.into_iter().filter_map(Result::err) {
            eprintln!("error: {error:#}");
        }
    }
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} with {:?}", self.name, self.hosts())
    }
}
