//! Answers the calls of other nodes about the sandboxes that this node owns.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use front_door::{ByteRange, Deleted, Download, Operations, UploadStream};
use futures_util::{FutureExt, StreamExt, stream};
use peers::error::LinkError;
use peers::wire::{self, CallRequest, ChunkStream, Operation, Reply};
use peers::{CallConnection, ReplySender, RequestBody, Responder, words};
use tokio::sync::mpsc;
use tracing::Instrument as _;
use types::{CreateRequest, ErrorCode, Generation, HostId, SandboxId, Status, WarrenError};

use crate::doorway::Doorway;
use crate::remote::Fault;
use crate::take_over::TakesOver;

/// Parts of an upload that wait for the operation to take them; the connection holds the caller up beyond that.
const UPLOAD_PARTS_MAX: usize = 1;

/// Where a sandbox is, as this node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placed {
    /// On this node, since this generation.
    Here(Generation),
    /// On another.
    Elsewhere {
        /// Which.
        owner: HostId,
        /// Since when.
        generation: Generation,
    },
    /// There is none.
    Nowhere,
}

/// Answers the calls of one connection, one after another, until it ends. A caller that goes away ends its operation
/// where it last awaited.
///
/// The future lives on one thread, because operations do: it goes to `spawn_local`, inside a `LocalSet` or on an actix
/// arbiter. Dropping it cuts the call that is under way, whose fate is then unknown to the caller.
pub async fn answer<O: Operations + TakesOver>(
    mut connection: CallConnection,
    operations: Arc<O>,
    doorway: Arc<Doorway>,
    placed: impl Fn(&SandboxId) -> Placed,
) {
    loop {
        let (request, responder) = match connection.next_request().await {
            Ok(Some(call)) => call,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, peer = %connection.peer(), "a connection of calls ended");
                return;
            }
        };
        let span = tracing::info_span!("call", request_id = %request.request_id, peer = %connection.peer());
        let answered = async {
            let answered = match doorway.enter() {
                Some(_until_answered) => answer_one(request, responder, &*operations, &placed).await,
                None => refuse(responder).await,
            };
            if let Err(error) = answered {
                tracing::debug!(%error, "a call was not answered to its end");
            }
        };
        answered.instrument(span).await;
    }
}

/// Surely nothing of it was done.
async fn refuse(responder: Responder) -> Result<(), LinkError> {
    let (_, mut replies) = responder.split();
    replies.send(fault_to_wire(refusal(ErrorCode::Unavailable, "the sandbox's node is ending"))).await
}

async fn answer_one<O: Operations + TakesOver>(
    request: CallRequest,
    responder: Responder,
    operations: &O,
    placed: &impl Fn(&SandboxId) -> Placed,
) -> Result<(), LinkError> {
    let (mut body, mut replies) = responder.split();
    let task = match admit(request, placed, || operations.health().node) {
        Ok(task) => task,
        Err(fault) => return replies.send(fault_to_wire(fault)).await,
    };
    let (parts, upload) = match task {
        Task::Write(..) => {
            let (parts, coming) = mpsc::channel(UPLOAD_PARTS_MAX);
            (Some(parts), upload(coming))
        }
        _ => (None, stream::empty().boxed_local()),
    };
    let caller_gone = async {
        if let Some(parts) = parts {
            feed(&mut body, parts).await;
        }
        body.cancelled().await;
    };
    tokio::select! {
        biased;
        answered = perform(task, operations, upload, &mut replies) => answered,
        () = caller_gone => Err(LinkError::CutOff),
    }
}

/// A request that is to be done here.
#[derive(Debug, PartialEq)]
enum Task {
    Create(Box<CreateRequest>),
    Write(SandboxId, String),
    TakeOver(SandboxId, Generation),
    Other(SandboxId, Operation),
}

/// Whether a request is to be done here, or what to say instead.
fn admit(
    request: CallRequest,
    placed: impl Fn(&SandboxId) -> Placed,
    me: impl FnOnce() -> HostId,
) -> Result<Task, Fault> {
    if request.hop != 0 {
        return Err(refusal(ErrorCode::BadRequest, "the request has been passed on already"));
    }
    let operation =
        request.operation.ok_or_else(|| refusal(ErrorCode::NotImplemented, "the operation is not known here"))?;
    if request.body != matches!(operation, Operation::WriteFile(_)) {
        return Err(refusal(ErrorCode::BadRequest, "a body goes with the writing of a file and with nothing else"));
    }
    if let Operation::Create(create) = operation {
        // The reader's own words could repeat secrets.
        return serde_json::from_slice(&create.plan)
            .map(|create| Task::Create(Box::new(create)))
            .map_err(|_| refusal(ErrorCode::NotImplemented, "this node's version can not read the create"));
    }
    let id: SandboxId =
        request.sandbox.parse().map_err(|_| refusal(ErrorCode::BadRequest, "not an id of a sandbox"))?;
    let seen = Generation(request.generation);
    if let Operation::TakeOver(_) = operation {
        // It is placed elsewhere: that is why it is asked for.
        return Ok(Task::TakeOver(id, seen));
    }
    let (owner, generation) = match placed(&id) {
        Placed::Nowhere => return Err(refusal(ErrorCode::NotFound, "sandbox not found")),
        Placed::Here(generation) => (None, generation),
        Placed::Elsewhere { owner, generation } => (Some(owner), generation),
    };
    if seen > generation {
        // The caller knows better; sending it to where the sandbox once was would mislead it.
        let message = "the sandbox's node has not heard yet that the sandbox is there";
        return Err(refusal(ErrorCode::Unavailable, message));
    }
    match owner {
        None if seen == generation || seen == Generation(0) => Ok(match operation {
            Operation::WriteFile(write) => Task::Write(id, write.path),
            other => Task::Other(id, other),
        }),
        owner => {
            let owner = owner.unwrap_or_else(me);
            Err(Fault::Moved { owner, generation })
        }
    }
}

async fn perform<O: Operations + TakesOver>(
    task: Task,
    operations: &O,
    upload: UploadStream,
    replies: &mut ReplySender,
) -> Result<(), LinkError> {
    let last = match task {
        Task::Create(create) => {
            operations.create(*create).await.map(|sandbox| Reply::Sandbox(words::sandbox_to_wire(sandbox)))
        }
        Task::TakeOver(id, generation) => operations.take_over(id, generation).await.map(done),
        Task::Write(id, path) => operations.write_file(id, &path, upload).await.map(done),
        Task::Other(id, operation) => match operation {
            Operation::Destroy(_) => operations.delete(id).await.map(|deleted| match deleted {
                Deleted::Done => done(()),
                Deleted::Destroying => status(Status::Unreachable),
            }),
            Operation::Stop(_) => operations.stop(id).await.map(status),
            Operation::Start(_) => operations.start(id).await.map(status),
            Operation::Exec(exec) => match operations.exec(id, words::exec_from_wire(exec)).await {
                Ok(outcome) => return words::send_exec_outcome(replies, outcome).await,
                Err(error) => Err(error),
            },
            Operation::ReadFile(read) => {
                let range = read.range.map(|wire::ByteRange { offset, length }| ByteRange { offset, length });
                match operations.read_file(id, &read.path, range).await {
                    Ok(download) => send_download(download, replies).await?,
                    Err(error) => Err(error),
                }
            }
            Operation::ListFiles(list) => match operations.list_files(id, &list.path).await {
                Ok(entries) => {
                    replies.entries(entries.into_iter().map(words::entry_to_wire)).await?;
                    Ok(end())
                }
                Err(error) => Err(error),
            },
            Operation::StatFile(stat) => match operations.stat_file(id, &stat.path).await {
                Ok(entry) => {
                    replies.feed(Reply::Entry(words::entry_to_wire(entry))).await?;
                    Ok(end())
                }
                Err(error) => Err(error),
            },
            Operation::Mkdir(mkdir) => operations.mkdir(id, &mkdir.path).await.map(done),
            Operation::RemoveFile(remove) => operations.remove_file(id, &remove.path).await.map(done),
            Operation::Create(_) | Operation::WriteFile(_) | Operation::WaitCreated(_) | Operation::TakeOver(_) => {
                Err(WarrenError::new(ErrorCode::NotImplemented, "the operation is not answered here"))
            }
        },
    };
    replies.send(last.unwrap_or_else(|error| fault_to_wire(error.into()))).await
}

/// Sends the entry and then the body as fast as the caller takes it. The inner result is the last frame.
async fn send_download(
    Download { entry, mut body }: Download,
    replies: &mut ReplySender,
) -> Result<Result<Reply, WarrenError>, LinkError> {
    // What is there already leaves together, with the end of the file where that is there too: each part alone would
    // wake the other side once more.
    replies.feed(Reply::Entry(words::entry_to_wire(entry))).await?;
    loop {
        let part = match body.next().now_or_never() {
            Some(part) => part,
            None => {
                replies.flush().await?;
                body.next().await
            }
        };
        match part {
            Some(Ok(part)) => replies.feed_chunk(ChunkStream::Body, part).await?,
            Some(Err(error)) => return Ok(Err(error)),
            None => return Ok(Ok(end())),
        }
    }
}

/// A part of an upload on its way from the connection to the operation.
enum Part {
    Bytes(Bytes),
    /// The body is whole. Its absence is an error, so that half a body is never taken for a file.
    End,
}

fn upload(parts: mpsc::Receiver<Part>) -> UploadStream {
    Box::pin(stream::unfold(Some(parts), |parts| async {
        let mut parts = parts?;
        match parts.recv().await {
            Some(Part::Bytes(bytes)) => Some((Ok(bytes), Some(parts))),
            Some(Part::End) => None,
            None => Some((Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the caller is gone")), None)),
        }
    }))
}

/// Brings the body to the operation until it is whole, not wanted any more, or broken.
async fn feed(body: &mut RequestBody, parts: mpsc::Sender<Part>) {
    loop {
        let part = match body.next().await {
            Ok(Some(bytes)) => Part::Bytes(bytes),
            Ok(None) => Part::End,
            Err(_) => return,
        };
        let ends = matches!(part, Part::End);
        if parts.send(part).await.is_err() || ends {
            return;
        }
    }
}

fn refusal(code: ErrorCode, message: &str) -> Fault {
    Fault::Failed(WarrenError::new(code, message))
}

fn fault_to_wire(fault: Fault) -> Reply {
    match fault {
        Fault::Failed(error) => Reply::Error(words::error_to_wire(&error)),
        Fault::Moved { owner, generation } => {
            Reply::Moved(wire::Moved { owner: owner.as_str().to_owned(), generation: generation.0 })
        }
    }
}

fn done((): ()) -> Reply {
    Reply::Done(wire::Done {})
}

fn end() -> Reply {
    Reply::End(wire::End {})
}

fn status(status: Status) -> Reply {
    Reply::Status(wire::StatusReply { status: words::status_to_wire(status).into() })
}

#[cfg(test)]
mod tests;
