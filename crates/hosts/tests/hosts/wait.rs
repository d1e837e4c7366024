//! Waiting for what has to become true.

use std::fmt::Display;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Nothing that is waited for takes so long, also on a slow machine.
const WITHIN: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Tries until it succeeds.
#[track_caller]
pub fn until<T, E: Display>(what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + WITHIN;
    loop {
        match look() {
            Ok(value) => return value,
            Err(error) if Instant::now() > deadline => panic!("not within {} s: {what}: {error}", WITHIN.as_secs()),
            Err(_) => std::thread::sleep(LOOK_INTERVAL),
        }
    }
}

/// A name that no other machine has now.
pub fn fresh_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("t{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
