//! Several hosts on one machine, out of namespaces: each with processes, network, mounts, cgroups and Podman storage
//! of its own, on one switch whose cables can be cut. For trying a cluster, and for tests that kill and cut it.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use std::process::Command;
//!
//! let machine = hosts::Machine::new("w7f3")?;
//! let (n1, n2) = (machine.add_host("n1")?, machine.add_host("n2")?);
//! let mut server = n1.spawn(Command::new("warren").args(["node", "--listen", &format!("{}:7700", n1.address())]))?;
//! machine.cut(&n1, &n2)?;
//! machine.heal()?;
//! server.kill()?;
//! n1.kill_power()?;
//! n1.power_on()?;
//! # Ok(())
//! # }
//! ```
//!
//! What a host shares with the machine: the kernel and its clock, `/tmp`, `/home`, `/etc` but for `/etc/containers`,
//! and read-only the images of the machine's own Podman. A pid that a [`Process`] names is the machine's; inside, it
//! has another one.
//!
//! Everything but directories and cgroups is held by this process alone, so that the kernel takes it away when this
//! process ends, however it ends; [`sweep`] takes away the rest.
//!
//! It never knows what runs on the hosts: no node, no HTTP, no Podman call.

mod cgroups;
mod doorman;
mod host;
mod machine;
mod mounts;
mod places;
mod power;
mod process;
mod sweep;
mod switch;

pub use host::Host;
pub use machine::Machine;
pub use process::Process;
pub use rustix::process::Signal;
pub use sweep::sweep;
pub use switch::OUTSIDE;
