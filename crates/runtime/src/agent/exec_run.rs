//! A command from beginning to end, with its output gathered.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::connection::within;
use super::control::AgentClient;
use super::error::AgentError;
use super::exec::{ExecEvent, ExecRequest, Exit, OutputStream};
use super::exec_stream::ExecOutput;

/// How long after a command's deadline the agent may take to say that everything is dead. A fork bomb at the
/// sandbox's limit takes seconds.
const KILL_GRACE: Duration = Duration::from_secs(30);

/// How a command went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOutcome {
    /// How it ended.
    pub exit: Exit,
    /// The beginning of standard output.
    pub stdout: Vec<u8>,
    /// The beginning of standard error.
    pub stderr: Vec<u8>,
    /// It wrote more to standard output.
    pub stdout_truncated: bool,
    /// It wrote more to standard error.
    pub stderr_truncated: bool,
}

impl AgentClient {
    /// Runs a command, feeds it `stdin`, and keeps at most `output_limit` bytes of each stream. A deadline that passed
    /// is an outcome (`timed_out`); `TimedOut` means that the agent did not even say that.
    pub async fn run(
        &self,
        generation: u64,
        mut request: ExecRequest,
        stdin: Option<Bytes>,
        output_limit: u64,
    ) -> Result<RunOutcome, AgentError> {
        request.stdin = stdin.is_some();
        request.stdout_limit = Some(output_limit);
        request.stderr_limit = Some(output_limit);
        let give_up_at = request.deadline.and_then(|deadline| Instant::now().checked_add(deadline + KILL_GRACE));
        let (input, mut output) = self.exec(generation, request).await?.split();
        let feed = async {
            if let Some(stdin) = stdin {
                input.send_stdin(stdin).await?;
                input.close_stdin().await?;
            }
            // Only the end of the output ends the run.
            std::future::pending::<Result<RunOutcome, AgentError>>().await
        };
        let work = async {
            tokio::select! {
                outcome = gather(&mut output, output_limit) => outcome,
                outcome = feed => outcome,
            }
        };
        match give_up_at {
            Some(at) => within(at.saturating_duration_since(Instant::now()), work).await,
            None => work.await,
        }
    }
}

async fn gather(output: &mut ExecOutput, limit: u64) -> Result<RunOutcome, AgentError> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(event) = output.next().await? {
        match event {
            ExecEvent::Started { .. } => {}
            ExecEvent::Output { stream, data, .. } => {
                let kept = match stream {
                    OutputStream::Stdout => &mut stdout,
                    OutputStream::Stderr => &mut stderr,
                };
                let room = limit - kept.len();
                kept.extend_from_slice(&data[..data.len().min(room)]);
            }
            ExecEvent::Exited(exit) => {
                return Ok(RunOutcome {
                    stdout_truncated: exit.stdout_total > stdout.len() as u64,
                    stderr_truncated: exit.stderr_total > stderr.len() as u64,
                    exit,
                    stdout,
                    stderr,
                });
            }
        }
    }
    Err(AgentError::Interrupted)
}
