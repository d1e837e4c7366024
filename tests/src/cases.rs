//! A table of cases: each is named in the output, all are run, and one that fails fails the test at its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Named cases of one test.
pub struct Cases {
    test: &'static str,
    failed: Vec<String>,
}

impl Cases {
    /// An empty table.
    #[must_use]
    pub fn of(test: &'static str) -> Self {
        Self { test, failed: Vec::new() }
    }

    /// Runs one case and says whether it held.
    pub fn case(&mut self, name: &str, check: impl FnOnce()) -> bool {
        let started = Instant::now();
        let held = catch_unwind(AssertUnwindSafe(check)).is_ok();
        let outcome = if held { "ok" } else { "FAILED" };
        println!("case {}: {name} ... {outcome} ({:.2} s)", self.test, started.elapsed().as_secs_f64());
        if !held {
            self.failed.push(name.to_owned());
        }
        held
    }

    /// Ends the test.
    ///
    /// # Panics
    /// A case failed.
    pub fn finish(self) {
        assert!(self.failed.is_empty(), "{}: {} failed: {}", self.test, self.failed.len(), self.failed.join("; "));
    }
}
