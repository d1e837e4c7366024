//! The network between the hosts: a bridge in a namespace of its own, a cable to each host and one to the machine,
//! and rules for what the bridge does not pass on.
//!
//! The rules are the bridge's, so that no host can see, change or lose them, and stand when a host gets its power
//! back. Of the machine's own network nothing changes but one link and its address.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::doorman::Doorman;
use crate::places;

/// The machine itself, as an end of a cut.
pub const OUTSIDE: &str = "outside";
/// Subnets are `10.77.0.0/24` to `10.77.255.0/24`.
const NETWORK: [u8; 2] = [10, 77];
/// The machine's own number in the subnet.
const OUTSIDE_NUMBER: u8 = 254;
const BRIDGE: &str = "bridge0";
/// What a host calls its end of the cable.
const HOST_LINK: &str = "eth0";

/// The bridge, until it is closed.
pub(crate) struct Switch {
    doorman: Mutex<Option<Doorman>>,
    /// The machine's end of its cable.
    link: String,
    subnet: u8,
}

impl Switch {
    /// A bridge on a subnet that nobody uses.
    pub(crate) fn new(machine: &str) -> Result<Switch> {
        let _turn = places::turn()?;
        let subnet = free_subnet()?;
        let doorman = Doorman::start("switch")?;
        // SAFETY: file descriptors stay shared.
        doorman.ask(|| unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("cannot make a network namespace"))?;
        let switch = Switch { doorman: Mutex::new(Some(doorman)), link: places::link(machine), subnet };
        // What can not be made wholly goes with the namespace.
        switch.open()?;
        Ok(switch)
    }

    fn open(&self) -> Result<()> {
        let (link, process) = (&self.link, std::process::id());
        self.ip(&format!(
            "link set dev lo up\n\
             link add name {BRIDGE} type bridge\n\
             link set dev {BRIDGE} up\n\
             link add name {OUTSIDE} type veth peer name {link} netns {process}\n\
             link set dev {OUTSIDE} master {BRIDGE} up\n"
        ))?;
        let address = self.address(OUTSIDE_NUMBER);
        ip(&format!("address add {address}/24 dev {link}\nlink set dev {link} up\n"))
    }

    /// Where the machine itself is reached by the hosts.
    pub(crate) fn outside_address(&self) -> Ipv4Addr {
        self.address(OUTSIDE_NUMBER)
    }

    /// The address of the host of this number, from 1.
    pub(crate) fn address(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(NETWORK[0], NETWORK[1], self.subnet, number)
    }

    /// A cable between the bridge and the network namespace of this process.
    pub(crate) fn plug(&self, host: &str, number: u8, pid: u32) -> Result<()> {
        let subnet = self.subnet;
        // Always the same hardware address: the neighbours remember it longer than a reboot takes.
        self.ip(&format!(
            "link add name {host} type veth peer name {HOST_LINK} address 02:4d:00:00:{subnet:02x}:{number:02x} \
             netns {pid}\n\
             link set dev {host} master {BRIDGE} up\n"
        ))
    }

    /// What a host has to say to `ip` to set up its end.
    pub(crate) fn host_commands(&self, number: u8) -> String {
        let address = self.address(number);
        format!("link set dev lo up\naddress add {address}/24 dev {HOST_LINK}\nlink set dev {HOST_LINK} up\n")
    }

    /// Pulls a host's cable. Both ends are gone at once, nothing that is sent later arrives.
    pub(crate) fn unplug(&self, host: &str) -> Result<()> {
        self.ip(&format!("link delete dev {host}\n"))
    }

    /// From now on the bridge passes nothing from the first to the second of each pair, and all else. Address
    /// resolution is let through: else the second could soon not send to the first either.
    pub(crate) fn set_cuts(&self, cuts: &BTreeSet<(String, String)>) -> Result<()> {
        let mut rules = "table bridge cuts\ndelete table bridge cuts\n".to_owned();
        rules.push_str("table bridge cuts {\nchain forward {\ntype filter hook forward priority 0; policy accept;\n");
        for (from, to) in cuts {
            writeln!(rules, "iifname \"{from}\" oifname \"{to}\" ether type != arp drop")?;
        }
        rules.push_str("}\n}\n");
        self.ask(move || feed(Command::new("nft").args(["-f", "-"]), &rules))
    }

    /// Takes the network away.
    pub(crate) fn close(&self) -> Result<()> {
        // The kernel would do it, but some time after the last who is in the namespace.
        let deleted = self.ip(&format!("link delete dev {OUTSIDE}\n"));
        drop(self.doorman().take());
        deleted.with_context(|| format!("the link {} may be left behind", self.link))
    }

    fn ip(&self, commands: &str) -> Result<()> {
        let commands = commands.to_owned();
        self.ask(move || ip(&commands))
    }

    fn ask(&self, job: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        self.doorman().as_ref().ok_or_else(|| anyhow!("the machine is gone"))?.ask(job)
    }

    fn doorman(&self) -> MutexGuard<'_, Option<Doorman>> {
        self.doorman.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has `ip` carry out these lines in the network namespace of the calling thread.
pub(crate) fn ip(commands: &str) -> Result<()> {
    feed(&mut ip_command(), commands)
}

/// `ip`, waiting for lines.
pub(crate) fn ip_command() -> Command {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]);
    command
}

fn feed(command: &mut Command, input: &str) -> Result<()> {
    let words = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {words}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends early says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{words} failed: {}\nIt was told:\n{input}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn free_subnet() -> Result<u8> {
    let list = |what: &str| -> Result<String> {
        let output = Command::new("ip").args(["-4", "-oneline", what, "show"]).output().context("cannot start ip")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let taken = list("address")? + &list("route")?;
    first_free(&taken).ok_or_else(|| anyhow!("every subnet of {}.{}.0.0/16 is in use", NETWORK[0], NETWORK[1]))
}

fn first_free(taken: &str) -> Option<u8> {
    let words: Vec<&str> = taken.split_whitespace().collect();
    let is_free = |subnet: &u8| {
        let start = format!("{}.{}.{subnet}.", NETWORK[0], NETWORK[1]);
        !words.iter().any(|word| word.starts_with(&start))
    };
    (0..=u8::MAX).find(is_free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_in_use_is_not_taken() {
        assert_eq!(first_free("2: eth0    inet 192.0.2.2/24"), Some(0));
        assert_eq!(first_free("3: a    inet 10.77.0.254/24 x\n10.77.1.0/24 dev b"), Some(2));
        assert_eq!(first_free("3: a    inet 10.77.0.254/24 x\n via 10.77.2.3"), Some(1));
        let all: String = (0..=255).map(|subnet| format!(" 10.77.{subnet}.254")).collect();
        assert_eq!(first_free(&all), None);
    }
}
