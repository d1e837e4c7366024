//! What happened, as a hash over every line and, if asked for, as lines to read.

use std::fmt::{self, Write as _};

/// The trace of one run.
#[derive(Debug)]
pub struct Trace {
    hash: Fnv,
    lines: u64,
    kept: Option<Vec<String>>,
}

/// FNV-1a with 64 bits: enough to tell two traces apart, and needs nothing kept.
#[derive(Debug)]
struct Fnv(u64);

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}

impl Trace {
    /// A trace that keeps its lines or only their hash.
    #[must_use]
    pub fn new(keep: bool) -> Self {
        Self { hash: Fnv(0xcbf2_9ce4_8422_2325), lines: 0, kept: keep.then(Vec::new) }
    }

    /// Takes down one line.
    pub fn note(&mut self, now_us: u64, line: fmt::Arguments<'_>) {
        self.lines += 1;
        // Neither a hash nor a string refuses what is written to it.
        let _ = writeln!(self.hash, "{now_us} {line}");
        if let Some(kept) = &mut self.kept {
            let (seconds, rest) = (now_us / 1_000_000, now_us % 1_000_000);
            kept.push(format!("{seconds:>5}.{rest:06}  {line}"));
        }
    }

    /// The hash over all lines so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash.0
    }

    /// Number of lines so far.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The lines themselves; none unless they were kept.
    #[must_use]
    pub fn into_lines(self) -> Vec<String> {
        self.kept.unwrap_or_default()
    }
}
