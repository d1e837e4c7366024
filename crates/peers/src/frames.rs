//! Frames on a connection. Reading and writing can both be dropped at any await and gone on with later.

use std::io;
use std::task::{Context, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use prost::Message;
use proto::framing::{FrameBuffer, LENGTH_BYTES, encode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::time::{Instant, timeout_at};

use crate::error::LinkError;
use crate::socket::Socket;

/// Bytes that a read has room for at least.
const READ_BYTES_MIN: usize = 16 << 10;

/// Bytes that are made room for ahead of their arrival. A length alone reserves no more than this.
const READ_BYTES_MAX: usize = 320 << 10;

/// Room that a buffer keeps for later.
const KEPT_BYTES_MAX: usize = 512 << 10;

/// Both directions of one connection.
pub(crate) struct Connection {
    pub(crate) reader: FrameReader,
    pub(crate) writer: FrameWriter,
    /// The thread whose runtime watches the socket: any other one is woken by way of it.
    pub(crate) made_on: ThreadId,
}

impl Connection {
    pub(crate) fn new(socket: Socket) -> Self {
        let (read, write) = tokio::io::split(socket);
        Self {
            reader: FrameReader::new(read),
            writer: FrameWriter { half: write, out: BytesMut::new(), swollen: false },
            made_on: thread::current().id(),
        }
    }
}

pub(crate) struct FrameReader {
    half: ReadHalf<Socket>,
    buffer: FrameBuffer,
    last_heard: Instant,
}

impl FrameReader {
    fn new(half: ReadHalf<Socket>) -> Self {
        Self { half, buffer: FrameBuffer::new(), last_heard: Instant::now() }
    }

    /// The next message, or none where the other side ended between two of them.
    pub(crate) async fn next<M: Message + Default>(&mut self, max: usize) -> Result<Option<M>, LinkError> {
        loop {
            if let Some(message) = self.buffered(max)? {
                return Ok(Some(message));
            }
            if self.fill().await? == 0 {
                return self.at_end();
            }
        }
    }

    /// The same, where the other side must not be silent for longer than `silence_max`.
    pub(crate) async fn next_before_silence<M: Message + Default>(
        &mut self,
        max: usize,
        silence_max: Duration,
    ) -> Result<Option<M>, LinkError> {
        loop {
            if let Some(message) = self.buffered(max)? {
                return Ok(Some(message));
            }
            let silent_at = self.last_heard + silence_max;
            match timeout_at(silent_at, self.fill()).await {
                Err(_) => return Err(LinkError::Silent),
                Ok(Ok(0)) => return self.at_end(),
                Ok(read) => read?,
            };
        }
    }

    /// Waits until the next message can be told without waiting (true), or the other side has ended (false).
    pub(crate) async fn has_message(&mut self, max: usize) -> Result<bool, LinkError> {
        loop {
            // One that is too large is told at once, and never kept.
            let whole = self.announced();
            if whole.is_some_and(|whole| whole > LENGTH_BYTES + max || self.buffered_bytes() >= whole) {
                return Ok(true);
            }
            if self.fill().await? == 0 {
                return Ok(false);
            }
        }
    }

    /// When the last bytes came.
    pub(crate) fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// Whether the connection is open and nothing has come in that nobody asked for.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut byte = [0; 1];
        let mut room = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        self.buffer.is_empty() && std::pin::Pin::new(&mut self.half).poll_read(&mut context, &mut room).is_pending()
    }

    fn buffered<M: Message + Default>(&mut self, max: usize) -> Result<Option<M>, LinkError> {
        let large = self.announced().is_some_and(|whole| whole > KEPT_BYTES_MAX);
        let message = self.buffer.next_message(max).map_err(LinkError::Frame)?;
        if message.is_some() && large {
            // A buffer that was cut from keeps the whole of its room alive.
            let rest = BytesMut::from(&self.buffer.bytes_mut()[..]);
            *self.buffer.bytes_mut() = rest;
        }
        Ok(message)
    }

    fn at_end<M>(&self) -> Result<Option<M>, LinkError> {
        if self.buffer.is_empty() { Ok(None) } else { Err(LinkError::CutOff) }
    }

    fn announced(&mut self) -> Option<usize> {
        let length = self.buffer.bytes_mut().first_chunk::<LENGTH_BYTES>()?;
        Some(LENGTH_BYTES + u32::from_be_bytes(*length) as usize)
    }

    fn buffered_bytes(&mut self) -> usize {
        self.buffer.bytes_mut().len()
    }

    /// Reads what there is; 0 at the end.
    async fn fill(&mut self) -> Result<usize, LinkError> {
        let whole = self.announced().unwrap_or(0);
        let bytes = self.buffer.bytes_mut();
        let missing = whole.saturating_sub(bytes.len());
        bytes.reserve(missing.clamp(READ_BYTES_MIN, READ_BYTES_MAX));
        let read = match self.half.read_buf(bytes).await {
            Ok(read) => read,
            // Every end that means something is said in a frame, so one without a farewell of TLS is no worse.
            Err(error) if is_end(&error) => 0,
            Err(error) => return Err(LinkError::Io(error)),
        };
        if read > 0 {
            self.last_heard = Instant::now();
        }
        Ok(read)
    }
}

pub(crate) struct FrameWriter {
    half: WriteHalf<Socket>,
    out: BytesMut,
    /// The buffer has grown beyond what is kept.
    swollen: bool,
}

impl FrameWriter {
    /// Adds a message to what goes out with the next flush.
    pub(crate) fn push(&mut self, message: &impl Message) {
        encode(message, &mut self.out);
    }

    /// Adds frames that are ready.
    pub(crate) fn push_frames(&mut self, frames: &[u8]) {
        self.out.extend_from_slice(frames);
    }

    /// Bytes that wait for a flush.
    pub(crate) fn waiting(&self) -> usize {
        self.out.len()
    }

    /// Writes out all that waits. An error means that not all of it left.
    pub(crate) async fn flush(&mut self) -> Result<(), LinkError> {
        self.swollen |= self.out.len() > KEPT_BYTES_MAX;
        while self.out.has_remaining() {
            if self.half.write_buf(&mut self.out).await.map_err(broken)? == 0 {
                return Err(LinkError::CutOff);
            }
        }
        if std::mem::take(&mut self.swollen) {
            self.out = BytesMut::new();
        }
        self.half.flush().await.map_err(broken)
    }

    /// Says that nothing more will come.
    pub(crate) async fn shutdown(&mut self) -> Result<(), LinkError> {
        self.half.shutdown().await.map_err(broken)
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}

fn broken(error: io::Error) -> LinkError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => LinkError::CutOff,
        _ => LinkError::Io(error),
    }
}
