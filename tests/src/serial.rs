//! One node under test at a time on a host: the tests count what the host holds, and its cores are few.

use std::fs::File;

/// Shared by all checkouts on this host.
const LOCK: &str = "/run/warren-node-tests.lock";

/// Waits for its turn; the turn ends when the file is dropped.
///
/// # Panics
/// The lock can not be made: the tests need root.
#[must_use]
pub fn take_turn() -> File {
    let lock = File::create(LOCK).unwrap_or_else(|error| panic!("{LOCK}: {error}; the tests need root"));
    lock.lock().unwrap_or_else(|error| panic!("{LOCK}: {error}"));
    lock
}
