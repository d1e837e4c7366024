//! Reads the body of an exec and words its outcome: the hottest path there is, so texts are moved
//! and the answer is written once.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Number, Value};
use types::limits::{EXEC_OUTPUT_BYTES_DEFAULT, EXEC_OUTPUT_BYTES_MAX};
use types::{ErrorCode, ExecOutcome, ExecRequest, WarrenError};

use crate::fields::Fields;
use crate::limits::{EXEC_TIMEOUT_SECONDS_MAX, NAME_BYTES_MAX};
use crate::values;

/// How output is put into JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As text; what is not UTF-8 becomes replacement characters.
    Text,
    /// Exact bytes.
    Base64,
}

/// A checked exec.
pub(crate) fn read(body: Value) -> Result<(ExecRequest, Encoding), WarrenError> {
    let mut fields = Fields::of_body(body)?;
    let cmd = values::argv_field(&mut fields, "cmd")?;
    if cmd.is_empty() {
        return Err(WarrenError::new(ErrorCode::BadRequest, "cmd is required").with("field", "cmd"));
    }
    let request = ExecRequest {
        cmd,
        env: values::env_field(&mut fields, "env")?,
        workdir: values::path_field(&mut fields, "workdir")?,
        user: values::name_field(&mut fields, "user", NAME_BYTES_MAX)?,
        stdin: fields.text("stdin")?.map(String::into_bytes),
        timeout_ms: match fields.number("timeout")? {
            None => None,
            Some(number) => timeout_ms(&fields, &number)?,
        },
        max_output: match fields.unsigned("max_output", EXEC_OUTPUT_BYTES_MAX)? {
            None | Some(0) => EXEC_OUTPUT_BYTES_DEFAULT,
            Some(bytes) => bytes,
        },
    };
    let encoding = match fields.filled_text("encoding")?.as_deref() {
        None | Some("utf-8" | "utf8") => Encoding::Text,
        Some("base64") => Encoding::Base64,
        Some(_) => return Err(fields.wrong("encoding", "must be utf-8 or base64")),
    };
    Ok((request, encoding))
}

/// Seconds, also parts of one; 0 is none. Rounded up, so that a short deadline is never no deadline.
fn timeout_ms(fields: &Fields, number: &Number) -> Result<Option<u64>, WarrenError> {
    let seconds = number.as_f64().unwrap_or(f64::INFINITY);
    if seconds < 0.0 {
        return Err(fields.wrong("timeout", "must not be negative"));
    }
    if seconds > EXEC_TIMEOUT_SECONDS_MAX as f64 {
        return Err(fields.wrong("timeout", format_args!("must be at most {EXEC_TIMEOUT_SECONDS_MAX}")));
    }
    match (seconds * 1000.0).ceil() as u64 {
        0 => Ok(None),
        ms => Ok(Some(ms)),
    }
}

#[derive(Serialize)]
struct ExecAnswer<'a> {
    exit_code: i32,
    stdout: Cow<'a, str>,
    stderr: Cow<'a, str>,
    duration_ms: u64,
    truncated: bool,
    oom: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<Cow<'static, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
}

/// The body of an exec that ended by itself.
pub(crate) fn answer(outcome: &ExecOutcome, encoding: Encoding) -> Vec<u8> {
    let answer = ExecAnswer {
        exit_code: outcome.exit_code,
        stdout: shown(&outcome.stdout, encoding),
        stderr: shown(&outcome.stderr, encoding),
        duration_ms: outcome.duration_us.div_ceil(1000),
        truncated: outcome.truncated,
        oom: outcome.oom,
        signal: outcome.signal.map(signal_name),
        encoding: (encoding == Encoding::Base64).then_some("base64"),
    };
    let mut body = Vec::with_capacity(answer.stdout.len() + answer.stderr.len() + ANSWER_BYTES_EXTRA);
    serde_json::to_writer(&mut body, &answer).expect("texts and numbers always serialise");
    body
}

/// Room for the fields around the output and for a few escapes.
const ANSWER_BYTES_EXTRA: usize = 256;

/// The error of an exec whose deadline passed, with the output so far.
pub(crate) fn timed_out(outcome: &ExecOutcome, encoding: Encoding) -> WarrenError {
    let error = WarrenError::new(ErrorCode::TimedOut, "timed out")
        .with("timed_out", true)
        .with("stdout", shown(&outcome.stdout, encoding).into_owned())
        .with("stderr", shown(&outcome.stderr, encoding).into_owned())
        .with("truncated", outcome.truncated);
    match encoding {
        Encoding::Text => error,
        Encoding::Base64 => error.with("encoding", "base64"),
    }
}

fn shown(output: &[u8], encoding: Encoding) -> Cow<'_, str> {
    match encoding {
        Encoding::Text => String::from_utf8_lossy(output),
        Encoding::Base64 => STANDARD.encode(output).into(),
    }
}

/// Names of the signals 1 to 31, as Linux numbers them on x86-64 and arm64.
const SIGNAL_NAMES: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// The first signal that programs may use in real time, as the C library counts them.
const SIGRTMIN: i32 = 34;

fn signal_name(number: i32) -> Cow<'static, str> {
    let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
    match index.and_then(|index| SIGNAL_NAMES.get(index)) {
        Some(name) => Cow::Borrowed(name),
        None if number >= SIGRTMIN => format!("SIGRTMIN+{}", number - SIGRTMIN).into(),
        None => format!("SIG{number}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::signal_name;

    #[test]
    fn signals_are_named() {
        for (number, name) in [(1, "SIGHUP"), (9, "SIGKILL"), (15, "SIGTERM"), (31, "SIGSYS"), (34, "SIGRTMIN+0")] {
            assert_eq!(signal_name(number), name);
        }
    }
}
