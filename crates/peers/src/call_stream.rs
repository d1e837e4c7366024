//! The caller's side of one call: the body that goes, the answer that comes.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};

use crate::call_answer::ends_call;
use crate::caller::Pool;
use crate::error::{CallError, LinkError, NotDone, Unknown};
use crate::frames::Connection;
use crate::limits::{CALL_FRAME_BYTES_MAX, CHUNK_BYTES_MAX};
use crate::wire::{CallFrame, Chunk, ChunkStream, Finish, Reply, ReplyFrame, call_frame};

/// What became of a part of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way.
    Whole,
    /// The other side has answered before the body's end and wants no more of it: ask for the answer.
    Answered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    /// There is none, or it is whole.
    Finished,
    Open,
}

/// A call under way. Dropped before its end, the connection is closed and the other side stops.
///
/// Without a budget the call lasts as long as both hosts do. A host that is gone is noticed within seconds while an
/// answer is awaited; while a body is being sent to it only the kernel's own patience ends the call. Whoever knows that
/// the owner is lost says so with [`Caller::sever`](crate::Caller::sever).
pub struct CallStream {
    pool: Arc<Pool>,
    /// None between an attempt that surely came to nothing and the next, and after the end.
    connection: Option<Connection>,
    /// The request, for as long as it may be sent once more.
    replay: Option<Bytes>,
    body: Body,
    answered: bool,
    ended: bool,
    limits: Limits,
    _place: OwnedSemaphorePermit,
}

/// What ends a call from this side.
#[derive(Clone)]
pub(crate) struct Limits {
    pub(crate) deadline: Option<Instant>,
    pub(crate) severed: watch::Receiver<u64>,
}

impl Limits {
    async fn hold<T>(&mut self, step: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        let severed = self.severed.changed();
        let step = async {
            tokio::select! {
                biased;
                done = step => done,
                // The pool is there for as long as its calls are.
                _ = severed => Err(lost(LinkError::Severed)),
            }
        };
        match self.deadline {
            None => step.await,
            Some(deadline) => timeout_at(deadline, step).await.unwrap_or(Err(CallError::Unknown(Unknown::TimedOut))),
        }
    }
}

impl CallStream {
    pub(crate) fn new(
        pool: Arc<Pool>,
        place: OwnedSemaphorePermit,
        connection: Connection,
        replay: Option<Bytes>,
        body: bool,
        limits: Limits,
    ) -> Self {
        let body = if body { Body::Open } else { Body::Finished };
        Self { pool, connection: Some(connection), replay, body, answered: false, ended: false, limits, _place: place }
    }

    /// Sends a part of the body, however large, and waits until there is room for more. It must not be dropped half
    /// way: drop the call instead. No operation begins its answer before its body is whole, so an answer ends the body.
    ///
    /// # Errors
    /// The call has failed; it is not known how much of it was done.
    pub async fn send(&mut self, mut data: Bytes) -> Result<Sent, CallError> {
        assert!(self.body == Body::Open, "a body went on after its end, or where the request announced none");
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(CHUNK_BYTES_MAX));
            let chunk = Chunk { data: piece, stream: ChunkStream::Body.into() };
            if self.write(call_frame::Frame::Chunk(chunk)).await? == Sent::Answered {
                return Ok(Sent::Answered);
            }
        }
        Ok(Sent::Whole)
    }

    /// Says that the body is whole.
    ///
    /// # Errors
    /// As for [`CallStream::send`].
    pub async fn finish(&mut self) -> Result<Sent, CallError> {
        assert!(self.body == Body::Open, "a body ended twice, or where the request announced none");
        let sent = self.write(call_frame::Frame::Finish(Finish {})).await?;
        if sent == Sent::Whole {
            self.body = Body::Finished;
        }
        Ok(sent)
    }

    /// The next frame of the answer; none after its end. May be dropped and called again.
    ///
    /// # Errors
    /// The call has failed, with or without effect.
    pub async fn next(&mut self) -> Result<Option<Reply>, CallError> {
        if self.ended {
            return Ok(None);
        }
        let next = match self.limits.clone().hold(self.receive()).await {
            // The request was about to be sent once more.
            Err(CallError::Unknown(cause)) if self.connection.is_none() => Err(CallError::NotDone(match cause {
                Unknown::TimedOut => NotDone::TimedOut,
                Unknown::Lost(_) => NotDone::Closed,
            })),
            next => next,
        };
        match &next {
            Ok(reply) if !ends_call(reply) => self.answered = true,
            Ok(_) => self.end_well(),
            Err(_) => self.end_badly(),
        }
        next.map(Some)
    }

    async fn receive(&mut self) -> Result<Reply, CallError> {
        loop {
            let connection = match self.connection.take() {
                Some(connection) => self.connection.insert(connection),
                None => {
                    // The deadline holds around all of this.
                    let request = self.replay.clone().ok_or(CallError::NotDone(NotDone::Closed))?;
                    let connection = self.pool.send_fresh(&request, None).await.map_err(CallError::NotDone)?;
                    self.replay = None;
                    self.connection.insert(connection)
                }
            };
            let frame = connection.reader.next::<ReplyFrame>(CALL_FRAME_BYTES_MAX).await.map_err(lost)?;
            let frame = frame.ok_or_else(|| lost(LinkError::CutOff))?;
            match frame.frame {
                Some(Reply::Goodbye(_)) if self.answered => {
                    return Err(lost(LinkError::Protocol("a farewell within an answer")));
                }
                Some(Reply::Goodbye(_)) => {
                    // The other side closed a connection that it thought unused, and has not looked at the request.
                    self.pool.count_stale();
                    self.connection = None;
                }
                Some(reply) => return Ok(reply),
                None => return Err(lost(LinkError::Protocol("a reply of another version"))),
            }
        }
    }

    async fn write(&mut self, frame: call_frame::Frame) -> Result<Sent, CallError> {
        // What has left can not be sent again.
        self.replay = None;
        let Some(connection) = self.connection.as_mut() else {
            return Err(CallError::NotDone(NotDone::Closed));
        };
        let written = self.limits.hold(async { write(connection, frame).await.map_err(lost) }).await;
        if written.is_err() {
            self.end_badly();
        }
        written
    }

    fn end_well(&mut self) {
        self.ended = true;
        if let Some(connection) = self.connection.take()
            && self.body == Body::Finished
        {
            self.pool.keep(connection);
        }
    }

    fn end_badly(&mut self) {
        self.ended = true;
        self.connection = None;
        self.replay = None;
    }
}

impl fmt::Debug for CallStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallStream").field("body", &self.body).field("ended", &self.ended).finish_non_exhaustive()
    }
}

fn lost(error: LinkError) -> CallError {
    CallError::Unknown(Unknown::Lost(error))
}

/// Writes a frame, unless an answer is there first.
async fn write(connection: &mut Connection, frame: call_frame::Frame) -> Result<Sent, LinkError> {
    let Connection { reader, writer, .. } = connection;
    writer.push(&CallFrame { frame: Some(frame) });
    let failed = tokio::select! {
        biased;
        answer = reader.has_message(CALL_FRAME_BYTES_MAX) => match answer {
            Ok(true) => return Ok(Sent::Answered),
            Ok(false) => LinkError::CutOff,
            Err(error) => error,
        },
        flushed = writer.flush() => match flushed {
            Ok(()) => return Ok(Sent::Whole),
            Err(error) => error,
        },
    };
    // The other side may have answered and closed before it had read everything.
    match reader.has_message(CALL_FRAME_BYTES_MAX).await {
        Ok(true) => Ok(Sent::Answered),
        Ok(false) | Err(_) => Err(failed),
    }
}
