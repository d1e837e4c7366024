//! One line per step, with its time.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Runs a step that prints nothing itself: its title first, its time when it is done.
pub fn step<T>(title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    print!("  {title} ... ");
    flush();
    let started = Instant::now();
    let outcome = work();
    match &outcome {
        Ok(_) => println!("{}", human(started.elapsed())),
        Err(_) => println!("failed after {}", human(started.elapsed())),
    }
    outcome
}

/// A time as a person reads it: milliseconds below ten seconds.
pub fn human(time: Duration) -> String {
    if time < Duration::from_millis(100) {
        format!("{:.1} ms", time.as_secs_f64() * 1e3)
    } else if time < Duration::from_secs(10) {
        format!("{:.0} ms", time.as_secs_f64() * 1e3)
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

/// Shows what was printed without a line end. A closed standard output is not this tool's problem.
pub fn flush() {
    let _ = std::io::stdout().flush();
}
