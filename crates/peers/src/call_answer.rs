//! The callee's side of one call: the rest of the request, and the answer. The connection goes back to where it came
//! from when both are dropped, and goes on if both were finished.

use std::fmt;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::oneshot;

use crate::call_connection::{ReturnedReader, ReturnedWriter};
use crate::error::LinkError;
use crate::frames::{FrameReader, FrameWriter};
use crate::limits::{CALL_FRAME_BYTES_MAX, CHUNK_BYTES_MAX, WRITE_BATCH_BYTES};
use crate::wire::{CallFrame, Chunk, ChunkStream, FileEntries, FileEntry, Reply, ReplyFrame, call_frame};

/// Bytes of entries that are gathered into one frame; one entry is at most two paths more.
const ENTRIES_FRAME_BYTES: usize = 64 << 10;

/// One call, to be answered. Dropped without an answer, the caller does not know what became of it.
#[derive(Debug)]
pub struct Responder {
    /// What follows the request, and whether the caller is still there.
    pub body: RequestBody,
    /// The answer.
    pub replies: ReplySender,
}

impl Responder {
    /// Answers with one frame that ends the call.
    ///
    /// # Errors
    /// The caller is gone.
    pub async fn answer(mut self, reply: Reply) -> Result<(), LinkError> {
        self.replies.send(reply).await
    }

    /// Both sides apart, so that one can be read while the other is written.
    #[must_use]
    pub fn split(self) -> (RequestBody, ReplySender) {
        (self.body, self.replies)
    }
}

/// The body of a request, and the caller's presence.
pub struct RequestBody {
    reader: Option<FrameReader>,
    finished: bool,
    back: Option<oneshot::Sender<ReturnedReader>>,
}

impl RequestBody {
    pub(crate) fn new(reader: FrameReader, finished: bool, back: oneshot::Sender<ReturnedReader>) -> Self {
        Self { reader: Some(reader), finished, back: Some(back) }
    }

    /// The next part of the body; none once it is whole. While nobody asks, the caller is held up. May be dropped and
    /// called again.
    ///
    /// # Errors
    /// The caller is gone: the rest will never come.
    pub async fn next(&mut self) -> Result<Option<Bytes>, LinkError> {
        if self.finished {
            return Ok(None);
        }
        let reader = self.reader.as_mut().ok_or(LinkError::CutOff)?;
        let frame = reader.next::<CallFrame>(CALL_FRAME_BYTES_MAX).await;
        let error = match frame {
            Ok(Some(CallFrame { frame: Some(call_frame::Frame::Chunk(chunk)) })) => return Ok(Some(chunk.data)),
            Ok(Some(CallFrame { frame: Some(call_frame::Frame::Finish(_)) })) => {
                self.finished = true;
                return Ok(None);
            }
            Ok(Some(_)) => LinkError::Protocol("a request before the end of another"),
            Ok(None) => LinkError::CutOff,
            Err(error) => error,
        };
        self.reader = None;
        Err(error)
    }

    /// Waits until the caller is gone. It is not noticed while parts of the body wait to be read; those are to be read
    /// first. May be dropped and called again.
    pub async fn cancelled(&mut self) {
        let Some(reader) = self.reader.as_mut() else { return };
        // What comes after the body's end is the next request: the answer may have arrived a moment ago.
        if matches!(reader.has_message(CALL_FRAME_BYTES_MAX).await, Ok(true)) {
            return std::future::pending().await;
        }
        self.reader = None;
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let (Some(reader), Some(back)) = (self.reader.take(), self.back.take()) {
            // The connection may be gone first.
            drop(back.send(ReturnedReader { reader, finished: self.finished }));
        }
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").field("finished", &self.finished).finish_non_exhaustive()
    }
}

/// The answer to a call. Each write waits until the caller has taken enough of what came before.
pub struct ReplySender {
    writer: Option<FrameWriter>,
    finished: bool,
    back: Option<oneshot::Sender<ReturnedWriter>>,
}

impl ReplySender {
    pub(crate) fn new(writer: FrameWriter, back: oneshot::Sender<ReturnedWriter>) -> Self {
        Self { writer: Some(writer), finished: false, back: Some(back) }
    }

    /// Sends a frame. Those that end a call (all but `Chunk`, `Entry` and `Entries`) are the last.
    ///
    /// # Errors
    /// The caller is gone, or the frame is larger than a caller takes.
    pub async fn send(&mut self, reply: Reply) -> Result<(), LinkError> {
        self.feed(reply).await?;
        self.flush().await
    }

    /// The same, but what was sent may wait for company: it leaves with the next `send` or when it has become much.
    ///
    /// # Errors
    /// As for [`ReplySender::send`].
    pub async fn feed(&mut self, reply: Reply) -> Result<(), LinkError> {
        assert!(!self.finished, "an answer went on after its end");
        let last = ends_call(&reply);
        let frame = ReplyFrame { frame: Some(reply) };
        if frame.encoded_len() > CALL_FRAME_BYTES_MAX {
            return Err(LinkError::Protocol("a reply that is too large for a frame"));
        }
        let writer = self.writer.as_mut().ok_or(LinkError::CutOff)?;
        writer.push(&frame);
        let full = writer.waiting() >= WRITE_BATCH_BYTES;
        self.finished = last;
        if last || full { self.flush().await } else { Ok(()) }
    }

    /// Sends bytes, in as many chunks as they need.
    ///
    /// # Errors
    /// The caller is gone.
    pub async fn chunk(&mut self, stream: ChunkStream, data: Bytes) -> Result<(), LinkError> {
        self.feed_chunk(stream, data).await?;
        self.flush().await
    }

    /// The same, but the last of it may wait for company, as with [`ReplySender::feed`].
    ///
    /// # Errors
    /// The caller is gone.
    pub async fn feed_chunk(&mut self, stream: ChunkStream, mut data: Bytes) -> Result<(), LinkError> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(CHUNK_BYTES_MAX));
            self.feed(Reply::Chunk(Chunk { data: piece, stream: stream.into() })).await?;
        }
        Ok(())
    }

    /// Sends entries of a directory, in as many frames as they need.
    ///
    /// # Errors
    /// The caller is gone.
    pub async fn entries(&mut self, entries: impl IntoIterator<Item = FileEntry>) -> Result<(), LinkError> {
        let mut batch = FileEntries::default();
        let mut bytes = 0;
        for entry in entries {
            bytes += entry.encoded_len();
            batch.entries.push(entry);
            if bytes >= ENTRIES_FRAME_BYTES {
                self.feed(Reply::Entries(std::mem::take(&mut batch))).await?;
                bytes = 0;
            }
        }
        if !batch.entries.is_empty() {
            self.feed(Reply::Entries(batch)).await?;
        }
        Ok(())
    }

    /// Lets go out what waits.
    ///
    /// # Errors
    /// The caller is gone.
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        let writer = self.writer.as_mut().ok_or(LinkError::CutOff)?;
        let flushed = writer.flush().await;
        if flushed.is_err() {
            self.writer = None;
        }
        flushed
    }
}

impl Drop for ReplySender {
    fn drop(&mut self) {
        if let (Some(writer), Some(back)) = (self.writer.take(), self.back.take()) {
            // An answer whose end was not written out does not count as whole.
            let finished = self.finished && writer.waiting() == 0;
            drop(back.send(ReturnedWriter { writer, finished }));
        }
    }
}

impl fmt::Debug for ReplySender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplySender").field("finished", &self.finished).finish_non_exhaustive()
    }
}

/// Whether nothing comes after this frame.
pub(crate) fn ends_call(reply: &Reply) -> bool {
    !matches!(reply, Reply::Chunk(_) | Reply::Entry(_) | Reply::Entries(_))
}
