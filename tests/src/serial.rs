//! One node under test at a time on a host: the tests count what the host holds, and its cores are few.

use std::fs::File;

/// Shared by all checkouts on this host.
const LOCK: &str = "/run/warren-node-tests.lock";

/// Of nodes that have hosts of their own: nobody else counts what is on those.
const HOSTS_LOCK: &str = "/run/warren-node-tests-hosts.lock";

/// Waits for its turn; the turn ends when the file is dropped.
///
/// # Panics
/// The lock can not be made: the tests need root.
#[must_use]
pub fn take_turn() -> File {
    locked(LOCK)
}

/// Waits for the turn of a cluster on hosts of its own: alone, or with others that leave the machine's cores idle too.
#[must_use]
pub fn take_turn_on_hosts(alone: bool) -> File {
    let lock = made(HOSTS_LOCK);
    let taken = if alone { lock.lock() } else { lock.lock_shared() };
    taken.unwrap_or_else(|error| panic!("{HOSTS_LOCK}: {error}"));
    lock
}

fn locked(path: &str) -> File {
    let lock = made(path);
    lock.lock().unwrap_or_else(|error| panic!("{path}: {error}"));
    lock
}

fn made(path: &str) -> File {
    File::create(path).unwrap_or_else(|error| panic!("{path}: {error}; the tests need root"))
}
