//! Operations on the sandboxes of another node, carried there by calls and back.
//!
//! Dropping a future or a download closes the call's connection, and the owner stops.

use std::time::Duration;

use front_door::{ByteRange, ByteStream, Deleted, Download, UploadStream};
use futures_util::{StreamExt, stream};
use peers::wire::{self, CallRequest, ChunkStream, Operation, Reply};
use peers::{CallError, CallStream, Caller, Sent, words};
use runtime::agent::files::LIST_ENTRIES_MAX;
use tokio::time::timeout;
use types::{
    CreateRequest, ErrorCode, ExecOutcome, ExecRequest, FileEntry, Generation, HostId, Sandbox, SandboxId, Status,
    WarrenError,
};

/// Time for a create: more than the owner gives itself, so that its own answer comes first.
pub const CREATE_TIME_MAX: Duration = Duration::from_secs(90);

/// Time for a start, which brings a container up as a create does.
pub const START_TIME_MAX: Duration = Duration::from_secs(90);

/// Time for a stop or a delete, until every process is dead.
pub const END_TIME_MAX: Duration = Duration::from_secs(60);

/// Time for a look at files or a change of one that carries no body; the tree to be removed may be large.
pub const FILE_TIME_MAX: Duration = Duration::from_secs(60);

/// Time that the owner may leave a body where it is: the next part of a download, room for the next part of an upload,
/// or the word that the file is written. A transfer as a whole takes as long as it takes.
pub const STALL_MAX: Duration = Duration::from_secs(60);

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The operation failed, or its call did: `Unavailable` where surely nothing of it was done, `Interrupted` where
    /// that is not known.
    #[error("{0}")]
    Failed(#[from] WarrenError),
    /// Nothing was done: the sandbox is placed elsewhere, or in another generation than the caller saw.
    #[error("the sandbox is with {owner} in generation {generation}")]
    Moved {
        /// Who has it, as the node that was asked knows.
        owner: HostId,
        /// Since when.
        generation: Generation,
    },
}

/// The operations of one other node. Each takes the sandbox and the generation that the caller saw of it (0: none).
#[derive(Debug, Clone)]
pub struct Remote {
    caller: Caller,
}

impl Remote {
    /// Nothing is dialled before the first operation.
    pub fn new(caller: Caller) -> Self {
        Self { caller }
    }

    /// Makes a sandbox there.
    pub async fn create(&self, request: &CreateRequest) -> Result<Sandbox, Fault> {
        let plan = serde_json::to_vec(request).map_err(|_| {
            // What failed is not named: it may be secret.
            WarrenError::new(ErrorCode::Internal, "the create can not be passed on")
        })?;
        let request = CallRequest {
            operation: Some(Operation::Create(wire::Create { plan: plan.into() })),
            budget_ms: milliseconds(CREATE_TIME_MAX),
            ..CallRequest::default()
        };
        match self.ask(request).await? {
            Reply::Sandbox(sandbox) => Ok(words::sandbox_from_wire(sandbox).map_err(|error| self.strange(&error))?),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Has a lost node's sandbox begun again there.
    pub async fn take_over(&self, id: SandboxId, generation: Generation) -> Result<(), Fault> {
        let operation = Operation::TakeOver(wire::TakeOver {});
        self.done(self.ask(within(CREATE_TIME_MAX, words::request(&id, generation, operation))).await?)
    }

    /// Ends a sandbox.
    pub async fn delete(&self, id: SandboxId, generation: Generation) -> Result<Deleted, Fault> {
        let operation = Operation::Destroy(wire::Destroy {});
        match self.ask(within(END_TIME_MAX, words::request(&id, generation, operation))).await? {
            Reply::Done(_) => Ok(Deleted::Done),
            Reply::Status(reply) if reply.status() == wire::Status::Unreachable => Ok(Deleted::Destroying),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Stops a sandbox.
    pub async fn stop(&self, id: SandboxId, generation: Generation) -> Result<Status, Fault> {
        let operation = Operation::Stop(wire::Stop {});
        self.status(within(END_TIME_MAX, words::request(&id, generation, operation))).await
    }

    /// Starts a stopped sandbox.
    pub async fn start(&self, id: SandboxId, generation: Generation) -> Result<Status, Fault> {
        let operation = Operation::Start(wire::Start {});
        self.status(within(START_TIME_MAX, words::request(&id, generation, operation))).await
    }

    /// Runs a command to its end, however long it takes.
    pub async fn exec(
        &self,
        id: SandboxId,
        generation: Generation,
        request: ExecRequest,
    ) -> Result<ExecOutcome, Fault> {
        let output_max = request.max_output;
        let operation = Operation::Exec(words::exec_to_wire(request));
        let mut call = self.begin(words::request(&id, generation, operation)).await?;
        match words::receive_exec_outcome(&mut call, output_max).await.map_err(|error| self.failed(&error))? {
            Ok(outcome) => Ok(outcome),
            Err(reply) => Err(self.fault(reply)),
        }
    }

    /// Opens a file for reading. The body ends with an error where the owner is lost or fails before its end.
    pub async fn read_file(
        &self,
        id: SandboxId,
        generation: Generation,
        path: &str,
        range: Option<ByteRange>,
    ) -> Result<Download, Fault> {
        let range = range.map(|ByteRange { offset, length }| wire::ByteRange { offset, length });
        let operation = Operation::ReadFile(wire::ReadFile { path: path.to_owned(), range });
        let mut call = self.begin(words::request(&id, generation, operation)).await?;
        match self.reply(&mut call).await? {
            Reply::Entry(entry) => Ok(Download { entry: self.entry(entry)?, body: self.clone().download(call) }),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Writes a whole file. After `Moved` the body is used up in part, so that only the client can begin again.
    pub async fn write_file(
        &self,
        id: SandboxId,
        generation: Generation,
        path: &str,
        mut body: UploadStream,
    ) -> Result<(), Fault> {
        let operation = Operation::WriteFile(wire::WriteFile { path: path.to_owned() });
        let mut call = self.begin(words::request(&id, generation, operation)).await?;
        loop {
            let part = tokio::select! {
                biased;
                // The owner has no use for the rest, or is gone: the client is not waited for.
                answer = call.next() => return self.done(self.expected(answer)?),
                part = body.next() => part,
            };
            let sent = match part {
                Some(Ok(part)) => self.unless_stalled(call.send(part)).await?,
                // What the owner has of it never takes the file's name.
                Some(Err(error)) => {
                    let message = format!("the body was cut off: {error}");
                    return Err(WarrenError::new(ErrorCode::BadRequest, message).into());
                }
                None => {
                    self.unless_stalled(call.finish()).await?;
                    Sent::Answered
                }
            };
            if sent == Sent::Answered {
                return self.done(self.reply(&mut call).await?);
            }
        }
    }

    /// Shows what lies in a directory.
    pub async fn list_files(&self, id: SandboxId, generation: Generation, path: &str) -> Result<Vec<FileEntry>, Fault> {
        let operation = Operation::ListFiles(wire::ListFiles { path: path.to_owned() });
        self.entries(within(FILE_TIME_MAX, words::request(&id, generation, operation))).await
    }

    /// Shows one entry.
    pub async fn stat_file(&self, id: SandboxId, generation: Generation, path: &str) -> Result<FileEntry, Fault> {
        let operation = Operation::StatFile(wire::StatFile { path: path.to_owned() });
        let mut entries = self.entries(within(FILE_TIME_MAX, words::request(&id, generation, operation))).await?;
        match (entries.pop(), entries.is_empty()) {
            (Some(entry), true) => Ok(entry),
            _ => Err(self.strange(&words::Malformed("not one entry")).into()),
        }
    }

    /// Makes a directory with its parents.
    pub async fn mkdir(&self, id: SandboxId, generation: Generation, path: &str) -> Result<(), Fault> {
        let operation = Operation::Mkdir(wire::Mkdir { path: path.to_owned() });
        self.done(self.ask(within(FILE_TIME_MAX, words::request(&id, generation, operation))).await?)
    }

    /// Removes a file or a whole tree.
    pub async fn remove_file(&self, id: SandboxId, generation: Generation, path: &str) -> Result<(), Fault> {
        let operation = Operation::RemoveFile(wire::RemoveFile { path: path.to_owned() });
        self.done(self.ask(within(FILE_TIME_MAX, words::request(&id, generation, operation))).await?)
    }

    async fn begin(&self, request: CallRequest) -> Result<CallStream, Fault> {
        self.caller.call(request).await.map_err(|error| self.failed(&error).into())
    }

    /// The one reply to a request within its own time.
    async fn ask(&self, request: CallRequest) -> Result<Reply, Fault> {
        let mut call = self.begin(request).await?;
        self.expected(call.next().await)
    }

    async fn status(&self, request: CallRequest) -> Result<Status, Fault> {
        match self.ask(request).await? {
            Reply::Status(reply) => Ok(words::status_from_wire(reply.status).map_err(|error| self.strange(&error))?),
            other => Err(self.unexpected(&other)),
        }
    }

    async fn entries(&self, request: CallRequest) -> Result<Vec<FileEntry>, Fault> {
        let mut call = self.begin(request).await?;
        let mut entries = Vec::new();
        loop {
            match self.expected(call.next().await)? {
                Reply::Entry(entry) => entries.push(self.entry(entry)?),
                Reply::Entries(more) => {
                    for entry in more.entries {
                        entries.push(self.entry(entry)?);
                    }
                }
                Reply::End(_) => return Ok(entries),
                other => return Err(self.unexpected(&other)),
            }
            if entries.len() > LIST_ENTRIES_MAX {
                return Err(self.strange(&words::Malformed("more entries than a list may hold")).into());
            }
        }
    }

    fn done(&self, reply: Reply) -> Result<(), Fault> {
        match reply {
            Reply::Done(_) => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    fn download(self, call: CallStream) -> ByteStream {
        Box::pin(stream::try_unfold((self, call), |(remote, mut call)| async move {
            match remote.reply(&mut call).await {
                Ok(Reply::Chunk(chunk)) if chunk.stream() == ChunkStream::Body => {
                    Ok(Some((chunk.data, (remote, call))))
                }
                Ok(Reply::End(_)) => Ok(None),
                Ok(other) => Err(remote.strange(&words::Malformed(name(&other)))),
                Err(Fault::Failed(error)) => Err(error),
                Err(Fault::Moved { .. }) => Err(remote.strange(&words::Malformed("a move within a body"))),
            }
        }))
    }

    /// The next reply of a call that has no time of its own.
    async fn reply(&self, call: &mut CallStream) -> Result<Reply, Fault> {
        let next = self.unless_stalled(call.next()).await?;
        self.expected(Ok(next))
    }

    async fn unless_stalled<T>(&self, step: impl Future<Output = Result<T, CallError>>) -> Result<T, Fault> {
        match timeout(STALL_MAX, step).await {
            Ok(done) => done.map_err(|error| self.failed(&error).into()),
            Err(_) => {
                let message = "the sandbox's node stood still while this was under way";
                Err(WarrenError::new(ErrorCode::Interrupted, message).into())
            }
        }
    }

    /// A reply that is no fault.
    fn expected(&self, answer: Result<Option<Reply>, CallError>) -> Result<Reply, Fault> {
        match answer.map_err(|error| self.failed(&error))? {
            Some(reply @ (Reply::Error(_) | Reply::Moved(_))) => Err(self.fault(reply)),
            Some(reply) => Ok(reply),
            None => Err(self.strange(&words::Malformed("an answer after its end")).into()),
        }
    }

    fn fault(&self, reply: Reply) -> Fault {
        match reply {
            Reply::Error(error) => words::error_from_wire(&error).into(),
            Reply::Moved(moved) => {
                Fault::Moved { owner: HostId::new(moved.owner), generation: Generation(moved.generation) }
            }
            other => self.unexpected(&other),
        }
    }

    fn entry(&self, entry: wire::FileEntry) -> Result<FileEntry, Fault> {
        words::entry_from_wire(entry).map_err(|error| self.strange(&error).into())
    }

    /// The client is told in words of ours; the cause stays in the log.
    fn failed(&self, error: &CallError) -> WarrenError {
        let cause = std::error::Error::source(error);
        tracing::warn!(host = %self.caller.host(), cause = cause.map(tracing::field::display), "{error}");
        words::call_error(error)
    }

    fn unexpected(&self, reply: &Reply) -> Fault {
        self.strange(&words::Malformed(name(reply))).into()
    }

    /// It answered, but not in a way that says what was done.
    fn strange(&self, error: &words::Malformed) -> WarrenError {
        tracing::error!(host = %self.caller.host(), %error, "a node's answer is not understood");
        WarrenError::new(ErrorCode::Interrupted, "the sandbox's node gave an answer that is not understood")
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn within(time: Duration, request: CallRequest) -> CallRequest {
    CallRequest { budget_ms: milliseconds(time), ..request }
}

/// What came in the place of what was expected. Its contents are a client's and stay out of the log.
fn name(reply: &Reply) -> &'static str {
    match reply {
        Reply::Chunk(_) => "bytes in the place of an answer",
        Reply::Entry(_) | Reply::Entries(_) => "entries in the place of an answer",
        Reply::Done(_) => "a word that it is done in the place of an answer",
        Reply::End(_) => "an end in the place of an answer",
        Reply::Status(_) => "a state in the place of an answer",
        Reply::Sandbox(_) => "a sandbox in the place of an answer",
        Reply::ExecOutcome(_) => "a command's end in the place of an answer",
        Reply::Error(_) | Reply::Moved(_) | Reply::Goodbye(_) => "an answer out of its place",
    }
}

#[cfg(test)]
mod tests;
