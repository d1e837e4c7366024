//! Counts the results of `cargo test` while its output goes by.
//!
//! A test that can not run on a host prints `SKIPPED <name>: <reason>` and returns. Cargo calls that passed; here it
//! counts as skipped, and its reason is repeated at the end.

/// The sums over all test binaries, and why some were skipped.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
    pub reasons: Vec<String>,
    place: Place,
    /// Whether the test whose output goes by has said that it was skipped.
    skip_noted: bool,
    /// Tests of this binary that said so; its result line, which comes later, counts them as passed.
    skipped_here: u64,
}

/// Where in the output of one test binary we are.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
enum Place {
    #[default]
    Outside,
    /// What successful tests printed, shown because of `--show-output`.
    OfSuccesses,
    OfFailures,
}

impl Tally {
    /// Takes in one line and says whether a person wants to see it: of successful tests only what they skipped.
    pub fn line(&mut self, line: &str) -> bool {
        if let Some(counts) = line.trim_start().strip_prefix("test result: ") {
            self.place = Place::Outside;
            self.result(counts);
            return true;
        }
        match line.trim_end() {
            "successes:" => {
                self.place = Place::OfSuccesses;
                return false;
            }
            "failures:" => {
                self.place = Place::OfFailures;
                return true;
            }
            _ => {}
        }
        if let Some(reason) = line.trim().strip_prefix("test ").and_then(|rest| rest.split_once(" ... ignored")) {
            let (name, reason) = (reason.0, reason.1.trim_start_matches(", "));
            self.reasons.push(format!("{name}: {}", if reason.is_empty() { "ignored" } else { reason }));
            return true;
        }
        if self.place != Place::OfSuccesses {
            return true;
        }
        if line.starts_with("---- ") {
            self.skip_noted = false;
        } else if let Some((_, reason)) = line.split_once("SKIPPED ") {
            self.reasons.push(reason.trim().to_owned());
            if !self.skip_noted {
                self.skip_noted = true;
                self.skipped_here += 1;
            }
            return true;
        }
        false
    }

    /// `ok. 3 passed; 0 failed; 1 ignored; ...`
    fn result(&mut self, counts: &str) {
        let count = |word: &str| {
            counts
                .split([';', '.'])
                .filter_map(|part| part.trim().strip_suffix(word))
                .find_map(|number| number.trim().parse::<u64>().ok())
                .unwrap_or(0)
        };
        let said_skipped = std::mem::take(&mut self.skipped_here);
        self.passed += count("passed").saturating_sub(said_skipped);
        self.failed += count("failed");
        self.skipped += count("ignored") + said_skipped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two binaries as cargo shows them: one that skips twice in one test and ignores one, one that fails.
    const OUTPUT: &str = "\
running 4 tests
test a::works ... ok
test a::needs_kvm ... ok
test a::slow ... ignored, takes an hour
test a::chatty ... ok

successes:

---- a::needs_kvm stdout ----
SKIPPED needs_kvm: /dev/kvm does not open
SKIPPED needs_kvm: nor is qemu here

---- a::chatty stdout ----
failures:are mentioned
hello

successes:
    a::chatty
    a::needs_kvm
    a::works

test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s

running 2 tests
test b::fails ... FAILED
test b::fine ... ok

successes:

successes:
    b::fine

failures:

---- b::fails stdout ----
SKIPPED is only a word here
panicked at 'no'

failures:
    b::fails

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s
";

    #[test]
    fn sums_over_binaries_with_skipped_tests_taken_from_the_passed() {
        let mut tally = Tally::default();
        let shown: Vec<&str> = OUTPUT.lines().filter(|line| tally.line(line)).collect();
        assert_eq!((tally.passed, tally.failed, tally.skipped), (3, 1, 2));
        assert_eq!(
            tally.reasons,
            ["a::slow: takes an hour", "needs_kvm: /dev/kvm does not open", "needs_kvm: nor is qemu here"]
        );
        assert!(!shown.contains(&"hello"), "output of successful tests is not shown");
        assert!(shown.contains(&"panicked at 'no'"), "output of failed tests is shown");
        assert!(shown.contains(&"SKIPPED needs_kvm: /dev/kvm does not open"));
    }

    #[test]
    fn a_result_line_of_no_tests_counts_nothing() {
        let mut tally = Tally::default();
        assert!(
            tally.line("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0s")
        );
        assert_eq!((tally.passed, tally.failed, tally.skipped), (0, 0, 0));
    }
}
