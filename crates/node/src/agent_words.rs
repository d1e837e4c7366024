//! Between the agent client's words and those of the contract.

use std::io;
use std::time::Duration;

use runtime::agent::files::{Entry, EntryKind, WriteError};
use runtime::agent::{AgentError, ExecRequest as AgentExec, ExitStatus, RefusalCode, RunOutcome};
use types::{ErrorCode, ExecOutcome, ExecRequest, FileEntry, FileKind, Timestamp, WarrenError};

/// A command as the agent's client takes it.
pub fn exec_request(exec_id: String, request: ExecRequest) -> AgentExec {
    AgentExec {
        exec_id,
        argv: request.cmd.into_iter().map(String::into_bytes).collect(),
        env: request.env.into_iter().map(|(name, value)| (name.into_bytes(), value.into_bytes())).collect(),
        workdir: request.workdir,
        user: request.user,
        deadline: request.timeout_ms.map(Duration::from_millis),
        ..AgentExec::default()
    }
}

/// How a command went, as the contract says it.
pub fn exec_outcome(outcome: RunOutcome) -> ExecOutcome {
    let exit = outcome.exit;
    ExecOutcome {
        exit_code: exit.status.shell_code(),
        signal: match exit.status {
            ExitStatus::Signal(signal) => Some(signal),
            ExitStatus::Code(_) => None,
        },
        oom: exit.oom,
        timed_out: exit.timed_out,
        truncated: outcome.stdout_truncated || outcome.stderr_truncated,
        stdout: outcome.stdout,
        stderr: outcome.stderr,
        duration_us: u64::try_from(exit.duration.as_micros()).unwrap_or(u64::MAX),
    }
}

/// Why a command could not be run, or is not known to have run.
pub fn exec_error(error: &AgentError) -> WarrenError {
    match error {
        AgentError::Refused { code: RefusalCode::NotFound, message, field } => {
            // Only a command's directory or user can be missing; its program's absence is exit code 127.
            WarrenError::field(field.as_deref().unwrap_or("workdir"), message)
        }
        other => agent_error(other, "cmd"),
    }
}

/// Why a file operation failed.
pub fn file_error(error: &AgentError) -> WarrenError {
    agent_error(error, "path")
}

/// Why a file could not be written.
pub fn write_error(error: &WriteError<io::Error>) -> WarrenError {
    match error {
        WriteError::Agent(error) => file_error(error),
        // The client's own connection: what was at the path is still there.
        WriteError::Source(error) => WarrenError::new(ErrorCode::BadRequest, format!("the body was cut off: {error}")),
    }
}

/// An entry as the contract says it.
pub fn file_entry(entry: &Entry) -> FileEntry {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    FileEntry {
        name: text(&entry.name),
        path: text(&entry.path),
        size: entry.size,
        mode: entry.mode,
        modified: Timestamp(u64::try_from(entry.mtime_ns / 1_000_000).unwrap_or(0)),
        kind: match entry.kind {
            EntryKind::File => FileKind::File,
            EntryKind::Directory => FileKind::Directory,
            EntryKind::Symlink => FileKind::Symlink,
            EntryKind::Other => FileKind::Other,
        },
        symlink_target: entry.symlink_target.as_deref().map(text),
        uid: entry.uid,
        gid: entry.gid,
    }
}

fn agent_error(error: &AgentError, field_of_request: &str) -> WarrenError {
    match error {
        AgentError::Refused { code, message, field } => {
            refusal(*code, message, field.as_deref().unwrap_or(field_of_request))
        }
        AgentError::OtherGeneration { .. } => {
            WarrenError::new(ErrorCode::WrongState, "the sandbox's agent serves another generation of it")
        }
        AgentError::LeaseLapsed => {
            WarrenError::new(ErrorCode::Interrupted, "the node's lease ran out: what ran in the sandbox was ended")
        }
        AgentError::Unreachable(_) | AgentError::NotOurs(_) => {
            tracing::warn!(%error, "an agent can not be reached");
            WarrenError::new(ErrorCode::Unavailable, "the sandbox's agent can not be reached")
        }
        AgentError::Interrupted => {
            WarrenError::new(ErrorCode::Interrupted, "the sandbox ended while this was under way")
        }
        AgentError::TimedOut => WarrenError::new(ErrorCode::Interrupted, "the sandbox's agent did not answer in time"),
        other => {
            tracing::error!(error = %other, "an agent call failed");
            WarrenError::new(ErrorCode::Internal, "the sandbox's agent broke the protocol")
        }
    }
}

fn refusal(code: RefusalCode, message: &str, field: &str) -> WarrenError {
    let code = match code {
        RefusalCode::Invalid => return WarrenError::field(field, message),
        RefusalCode::NotADirectory => return WarrenError::field(field, "not a directory"),
        RefusalCode::IsADirectory => return WarrenError::field(field, "is a directory"),
        RefusalCode::NotFound => return WarrenError::new(ErrorCode::FileNotFound, "file not found"),
        RefusalCode::StaleGeneration | RefusalCode::NotActive | RefusalCode::Conflict => ErrorCode::WrongState,
        RefusalCode::LeaseExpired => return WarrenError::new(ErrorCode::Unavailable, "the node's lease has run out"),
        RefusalCode::Forbidden | RefusalCode::Permission => ErrorCode::Forbidden,
        RefusalCode::ResourceLimit => ErrorCode::ResourceLimit,
        RefusalCode::NoSpace => ErrorCode::NoSpace,
        RefusalCode::Exists => ErrorCode::Exists,
        RefusalCode::TooLarge => ErrorCode::TooLarge,
        RefusalCode::Unsupported => ErrorCode::NotImplemented,
        RefusalCode::Internal => ErrorCode::Internal,
    };
    WarrenError::new(code, message)
}
