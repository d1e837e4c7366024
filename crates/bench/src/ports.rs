//! Ports for the processes of a run.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};

/// Below the ports that the kernel gives to outgoing connections: else one of those could take the port of a process
/// that is down for a moment.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// An address that nobody listens on, and that was not given before.
pub fn free() -> Result<SocketAddr> {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    // Each run begins elsewhere.
    let from = u16::try_from(std::process::id() % u32::from(count)).unwrap_or_default();
    for _ in PORTS {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed) % count;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORTS.start + (from + given) % count));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port is free")
}
