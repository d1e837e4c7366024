//! The callee's end of a connection that carries one call after another.

use std::fmt;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};
use types::{ErrorCode, HostId};

use crate::call_answer::{ReplySender, RequestBody, Responder};
use crate::connections::CallPlace;
use crate::error::LinkError;
use crate::frames::{Connection, FrameReader, FrameWriter};
use crate::limits::{CALL_FRAME_BYTES_MAX, DRAIN_BYTES_MAX, DRAIN_TIMEOUT, GOODBYE_TIMEOUT, REQUEST_BYTES_MAX};
use crate::wire::{CallFrame, CallRequest, Error, Goodbye, Reply, ReplyFrame, call_frame};

/// What a request is read with: a frame's envelope beside the request itself.
const REQUEST_FRAME_BYTES_MAX: usize = REQUEST_BYTES_MAX + 64;

/// A peer that makes calls on this node, one at a time.
pub struct CallConnection {
    peer: HostId,
    reader: Half<ReturnedReader>,
    writer: Half<ReturnedWriter>,
    idle_max: Duration,
    idle_since: Instant,
    _place: CallPlace,
}

/// The reading half as a call gives it back.
pub(crate) struct ReturnedReader {
    pub(crate) reader: FrameReader,
    /// The request's body has been read to its end.
    pub(crate) finished: bool,
}

/// The writing half as a call gives it back.
pub(crate) struct ReturnedWriter {
    pub(crate) writer: FrameWriter,
    /// The answer has been written to its end.
    pub(crate) finished: bool,
}

/// Half of the connection: here, with the call that is under way, or gone for good.
enum Half<T> {
    Here(T),
    Away(oneshot::Receiver<T>),
    Gone,
}

impl<T> Half<T> {
    async fn here(&mut self) -> Option<&mut T> {
        if let Self::Away(back) = self {
            *self = back.await.map_or(Self::Gone, Self::Here);
        }
        match self {
            Self::Here(half) => Some(half),
            Self::Away(_) | Self::Gone => None,
        }
    }

    fn is_here(&self) -> bool {
        matches!(self, Self::Here(_))
    }

    fn take(&mut self) -> Option<T> {
        match std::mem::replace(self, Self::Gone) {
            Self::Here(half) => Some(half),
            Self::Away(_) | Self::Gone => None,
        }
    }
}

impl CallConnection {
    pub(crate) fn new(peer: HostId, connection: Connection, place: CallPlace, idle_max: Duration) -> Self {
        Self {
            peer,
            reader: Half::Here(ReturnedReader { reader: connection.reader, finished: true }),
            writer: Half::Here(ReturnedWriter { writer: connection.writer, finished: true }),
            idle_max,
            idle_since: Instant::now(),
            _place: place,
        }
    }

    /// Who calls, as its certificate says.
    #[must_use]
    pub fn peer(&self) -> &HostId {
        &self.peer
    }

    /// The next call, once the one before it is answered; none where there will be no more. A request that was passed
    /// on already, or whose operation this build does not know, is answered here. May be dropped and called again.
    ///
    /// # Errors
    /// The connection is dead. Drop it.
    pub async fn next_request(&mut self) -> Result<Option<(CallRequest, Responder)>, LinkError> {
        loop {
            // Until both halves are back a call is under way.
            let after_call = !self.writer.is_here();
            let Some(writer) = self.writer.here().await else { return Ok(None) };
            if !writer.finished {
                return Ok(None);
            }
            let Some(reader) = self.reader.here().await else { return Ok(None) };
            if !reader.finished {
                if !matches!(timeout(DRAIN_TIMEOUT, drain(&mut reader.reader)).await, Ok(Ok(true))) {
                    // The caller has sent all of it by now, for all we know, and may take the connection for its next.
                    self.say_goodbye().await;
                    return Ok(None);
                }
                reader.finished = true;
            }
            if after_call {
                self.idle_since = Instant::now();
            }
            let idle_until = self.idle_since.max(reader.reader.last_heard()) + self.idle_max;
            let frame = match timeout_at(idle_until, reader.reader.next::<CallFrame>(REQUEST_FRAME_BYTES_MAX)).await {
                Ok(frame) => frame?,
                Err(_) => {
                    self.say_goodbye().await;
                    return Ok(None);
                }
            };
            let request = match frame {
                None => return Ok(None),
                Some(CallFrame { frame: Some(call_frame::Frame::Request(request)) }) => request,
                Some(_) => return Err(LinkError::Protocol("a body without its request")),
            };
            let Some(responder) = self.lend(request.body) else { return Ok(None) };
            match unanswerable(&request) {
                None => return Ok(Some((request, responder))),
                Some(error) => responder.answer(Reply::Error(error)).await?,
            }
        }
    }

    /// Ends the connection between two calls, so that the caller knows that nothing it may just be sending is looked
    /// at.
    pub async fn close(mut self) {
        self.say_goodbye().await;
    }

    async fn say_goodbye(&mut self) {
        if let Half::Here(ReturnedWriter { writer, finished: true }) = &mut self.writer {
            writer.push(&ReplyFrame { frame: Some(Reply::Goodbye(Goodbye {})) });
            // Best effort: a caller that misses it takes the call's fate for unknown.
            let _ = timeout(GOODBYE_TIMEOUT, async {
                writer.flush().await?;
                writer.shutdown().await
            })
            .await;
        }
        self.reader = Half::Gone;
        self.writer = Half::Gone;
    }

    fn lend(&mut self, body: bool) -> Option<Responder> {
        let (reader, writer) = (self.reader.take()?.reader, self.writer.take()?.writer);
        let (reader_back, reader_away) = oneshot::channel();
        let (writer_back, writer_away) = oneshot::channel();
        self.reader = Half::Away(reader_away);
        self.writer = Half::Away(writer_away);
        Some(Responder {
            body: RequestBody::new(reader, !body, reader_back),
            replies: ReplySender::new(writer, writer_back),
        })
    }
}

impl fmt::Debug for CallConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallConnection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

fn unanswerable(request: &CallRequest) -> Option<Error> {
    let error = |code: ErrorCode, message: &str| {
        Some(Error { code: code.as_str().to_owned(), message: message.to_owned(), details_json: String::new() })
    };
    if request.hop > 0 {
        return error(ErrorCode::Internal, "the request has been passed on already");
    }
    if request.operation.is_none() {
        return error(ErrorCode::NotImplemented, "this node's version does not know the operation");
    }
    None
}

/// Reads what is left of a body that the answer did not wait for. True: to its end, so that the connection can go on.
async fn drain(reader: &mut FrameReader) -> Result<bool, LinkError> {
    let mut dropped = 0;
    while dropped < DRAIN_BYTES_MAX {
        match reader.next::<CallFrame>(CALL_FRAME_BYTES_MAX).await? {
            Some(CallFrame { frame: Some(call_frame::Frame::Chunk(chunk)) }) => dropped += chunk.data.len(),
            Some(CallFrame { frame: Some(call_frame::Frame::Finish(_)) }) => return Ok(true),
            Some(_) | None => return Ok(false),
        }
    }
    Ok(false)
}
