//! What a command is asked to be, and what is heard of it.

use std::time::Duration;

use bytes::Bytes;
use proto::agent::request::Operation;
use proto::agent::{Exec, Exited, exited};

use super::connection::Connection;
use super::control::{AgentClient, env_vars};
use super::error::AgentError;
use super::exec_stream::ExecStream;

/// How long it may take from the request until the command runs or is refused.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Highest signal number of the kernel.
const SIGNAL_MAX: i32 = 64;

/// A command to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// Our name for it.
    pub exec_id: String,
    /// Program and arguments; no shell is involved.
    pub argv: Vec<Vec<u8>>,
    /// Laid over the sandbox's environment.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where it starts; the sandbox's default if none.
    pub workdir: Option<String>,
    /// `name`, `name:group`, `uid` or `uid:gid`; the sandbox's default user if none.
    pub user: Option<String>,
    /// After it everything that it started is killed. Less than a millisecond counts as one.
    pub deadline: Option<Duration>,
    /// Whether standard input will be sent; `/dev/null` otherwise.
    pub stdin: bool,
    /// Bytes to send of standard output; the rest is counted and dropped.
    pub stdout_limit: Option<u64>,
    /// Bytes to send of standard error; the rest is counted and dropped.
    pub stderr_limit: Option<u64>,
    /// What it leaves running lives on.
    pub detach: bool,
    /// A terminal of this size as all three streams.
    pub terminal: Option<TerminalSize>,
}

/// Size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// A stream of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output; everything of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What is heard of a command, in order. `Exited` is the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecEvent {
    /// The program runs.
    Started {
        /// Pid inside the sandbox.
        pid: i32,
    },
    /// It wrote.
    Output {
        /// To which stream.
        stream: OutputStream,
        /// Of the first byte, in its stream.
        offset: u64,
        /// What.
        data: Bytes,
    },
    /// It ended.
    Exited(Exit),
}

/// How a command ended, as waitpid said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Code or signal.
    pub status: ExitStatus,
    /// It died when the kernel killed for memory. The kernel's counter is the sandbox's: commands that die of signal 9
    /// at the same moment can not be told apart.
    pub oom: bool,
    /// Its deadline passed; everything that it started is dead.
    pub timed_out: bool,
    /// It was cancelled; everything that it started is dead.
    pub cancelled: bool,
    /// Bytes that it wrote, sent or not.
    pub stdout_total: u64,
    /// Bytes that it wrote, sent or not.
    pub stderr_total: u64,
    /// From its start to its end.
    pub duration: Duration,
}

/// Code or signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

impl ExitStatus {
    /// As a shell says it: the code, or 128 and the signal's number.
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

impl TryFrom<Exited> for Exit {
    type Error = AgentError;

    fn try_from(exited: Exited) -> Result<Self, AgentError> {
        let status = match exited.status {
            Some(exited::Status::ExitCode(code)) if (0..=255).contains(&code) => ExitStatus::Code(code),
            Some(exited::Status::Signal(signal)) if (1..=SIGNAL_MAX).contains(&signal) => ExitStatus::Signal(signal),
            other => return Err(AgentError::Protocol(format!("no exit status: {other:?}"))),
        };
        Ok(Self {
            status,
            oom: exited.oom,
            timed_out: exited.timed_out,
            cancelled: exited.cancelled,
            stdout_total: exited.stdout_total,
            stderr_total: exited.stderr_total,
            duration: Duration::from_micros(exited.duration_us),
        })
    }
}

impl AgentClient {
    /// Starts a command. An `Ok` means that the agent took it: it runs, or it could not be run and its exit code says
    /// so (126, 127), as a shell would.
    pub async fn exec(&self, generation: u64, request: ExecRequest) -> Result<ExecStream, AgentError> {
        let terminal = request.terminal;
        let exec = Exec {
            exec_id: request.exec_id,
            argv: request.argv,
            env: env_vars(request.env),
            workdir: request.workdir.unwrap_or_default(),
            user: request.user.unwrap_or_default(),
            deadline_ms: request
                .deadline
                .map_or(0, |deadline| u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX).max(1)),
            stdin: request.stdin,
            stdout_limit: limit(request.stdout_limit),
            stderr_limit: limit(request.stderr_limit),
            detach: request.detach,
            tty: terminal.is_some(),
            cols: terminal.map_or(0, |size| size.cols.into()),
            rows: terminal.map_or(0, |size| size.rows.into()),
        };
        let connection = Connection::open(&self.address, generation, Operation::Exec(exec)).await?;
        let mut stream = ExecStream::new(connection, self.farewell.clone());
        stream.await_start(START_TIMEOUT).await?;
        Ok(stream)
    }
}

/// On the wire 0 is no limit; a limit of nothing is nearly that of one byte.
fn limit(limit: Option<u64>) -> u64 {
    limit.map_or(0, |limit| limit.max(1))
}
