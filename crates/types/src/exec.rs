//! One command in a sandbox, asked for and ended.

use std::collections::BTreeMap;

/// A command to run; no shell is involved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecRequest {
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// Environment on top of the sandbox's.
    pub env: BTreeMap<String, String>,
    /// Working directory; `None` for the sandbox's.
    pub workdir: Option<String>,
    /// User; `None` for the sandbox's.
    pub user: Option<String>,
    /// Standard input; `None` for an empty one.
    pub stdin: Option<Vec<u8>>,
    /// Milliseconds until everything it started is killed; `None` for no end.
    pub timeout_ms: Option<u64>,
    /// Bytes kept of each stream.
    pub max_output: u64,
}

/// How a command ended, as the kernel told it; never invented.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecOutcome {
    /// What `waitpid` said, or 128 + the signal's number.
    pub exit_code: i32,
    /// The signal that ended it, for example 9.
    pub signal: Option<i32>,
    /// The kernel killed a process of it for memory.
    pub oom: bool,
    /// The deadline passed; everything it started is dead.
    pub timed_out: bool,
    /// Standard output, cut at `max_output`.
    pub stdout: Vec<u8>,
    /// Standard error, cut at `max_output`.
    pub stderr: Vec<u8>,
    /// Some of the output was cut.
    pub truncated: bool,
    /// From the start of its process to its end, in microseconds.
    pub duration_us: u64,
}
