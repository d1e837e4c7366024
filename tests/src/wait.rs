//! Waiting for a condition.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The contract's 30 s for a node to be in order again, stretched for slow hosts.
const SETTLING: Duration = Duration::from_secs(75);

/// Waits until the condition holds; it says what is still wrong.
///
/// # Panics
/// It does not hold in time.
#[track_caller]
pub fn within<T>(time: Duration, what: &str, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let until = Instant::now() + time;
    loop {
        match condition() {
            Ok(value) => return value,
            Err(why) if Instant::now() > until => panic!("{what}: not within {} s: {why}", time.as_secs()),
            Err(_) => std::thread::sleep(LOOK_INTERVAL),
        }
    }
}

/// Waits as long as a node may take to be in order again after a crash.
///
/// # Panics
/// It does not hold in time.
#[track_caller]
pub fn within_settling<T>(what: &str, condition: impl FnMut() -> Result<T, String>) -> T {
    within(SETTLING, what, condition)
}
