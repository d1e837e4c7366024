//! A running command: its events, and the way to it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use proto::agent::agent_frame::Frame;
use proto::agent::{Cancel, CloseStdin, Data, HostFrame, Resize, Signal, Stream, host_frame};
use proto::agent_limits::{CHUNK_BYTES_MAX, STDIN_WINDOW_BYTES};
use proto::framing::{FrameBuffer, encode};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::connection::{Connection, frame_name, next_frame, within};
use super::control::Farewell;
use super::error::AgentError;
use super::exec::{ExecEvent, OutputStream, TerminalSize};

/// How long a cancel may take to get into the socket after its stream was dropped.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes read from the socket in one go.
const READ_BYTES: usize = 64 << 10;

/// What both halves share.
#[derive(Debug)]
struct Shared {
    stream: UnixStream,
    outgoing: Mutex<Outgoing>,
    /// Input was consumed, or the command has ended.
    progress: Notify,
    ended: AtomicBool,
}

/// Frames on their way to the agent. A frame is put in whole, so that a caller who gives up leaves no torn one.
#[derive(Debug, Default)]
struct Outgoing {
    bytes: BytesMut,
    stdin_sent: u64,
    stdin_consumed: u64,
}

/// A running command. Dropped before its end, it is cancelled: everything that it started is killed.
#[derive(Debug)]
pub struct ExecStream {
    input: ExecInput,
    output: ExecOutput,
}

/// The way to a command. While `send_stdin` waits, the output half must be read: it hears of what was consumed.
#[derive(Clone, Debug)]
pub struct ExecInput {
    shared: Arc<Shared>,
}

/// The events of a command. Dropped before the command's end, it cancels it.
#[derive(Debug)]
pub struct ExecOutput {
    shared: Arc<Shared>,
    frames: FrameBuffer,
    events: VecDeque<ExecEvent>,
    stdout_offset: u64,
    stderr_offset: u64,
    cancel_on_drop: bool,
    farewell: Farewell,
}

impl ExecStream {
    pub(super) fn new(connection: Connection, farewell: Farewell) -> Self {
        let (stream, frames) = connection.into_parts();
        let shared = Arc::new(Shared {
            stream,
            outgoing: Mutex::default(),
            progress: Notify::new(),
            ended: AtomicBool::new(false),
        });
        let output = ExecOutput {
            shared: Arc::clone(&shared),
            frames,
            events: VecDeque::new(),
            stdout_offset: 0,
            stderr_offset: 0,
            cancel_on_drop: true,
            farewell,
        };
        Self { input: ExecInput { shared }, output }
    }

    /// Waits for the first word about the command and keeps it for `next`.
    pub(super) async fn await_start(&mut self, timeout: Duration) -> Result<(), AgentError> {
        match within(timeout, self.output.next()).await? {
            Some(event) => {
                self.output.events.push_front(event);
                Ok(())
            }
            None => Err(AgentError::Interrupted),
        }
    }

    /// The next event; None after `Exited`. May be dropped and called again.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>, AgentError> {
        self.output.next().await
    }

    /// The way to the command, to be used while `next` is awaited.
    pub fn input(&self) -> ExecInput {
        self.input.clone()
    }

    /// Both halves, for two tasks.
    pub fn split(self) -> (ExecInput, ExecOutput) {
        (self.input, self.output)
    }

    /// Lets go of the command without cancelling it: it runs on, unheard.
    pub fn leave_running(self) {
        self.output.leave_running();
    }
}

impl ExecInput {
    /// Sends standard input, as fast as the command takes it. What a command that has ended does not read is dropped.
    pub async fn send_stdin(&self, mut data: Bytes) -> Result<(), AgentError> {
        while !data.is_empty() {
            let progress = self.shared.progress.notified();
            if self.shared.ended.load(Ordering::Acquire) {
                return Ok(());
            }
            let sent = {
                let mut outgoing = self.shared.outgoing.lock();
                let room = STDIN_WINDOW_BYTES - (outgoing.stdin_sent - outgoing.stdin_consumed);
                let room = usize::try_from(room).unwrap_or(usize::MAX);
                let length = data.len().min(room).min(CHUNK_BYTES_MAX);
                if length > 0 {
                    outgoing.stdin_sent += length as u64;
                    outgoing.push(host_frame::Frame::Data(Data { data: data.split_to(length) }));
                }
                length > 0
            };
            if sent {
                self.shared.flush().await?;
            } else {
                progress.await;
            }
        }
        Ok(())
    }

    /// Ends standard input, after what was sent of it.
    pub async fn close_stdin(&self) -> Result<(), AgentError> {
        self.control(host_frame::Frame::CloseStdin(CloseStdin {})).await
    }

    /// Sends a signal to the command's process group; 9 to all that it started.
    pub async fn signal(&self, number: i32) -> Result<(), AgentError> {
        self.control(host_frame::Frame::Signal(Signal { number })).await
    }

    /// Changes the size of the terminal.
    pub async fn resize(&self, size: TerminalSize) -> Result<(), AgentError> {
        let resize = Resize { cols: size.cols.into(), rows: size.rows.into() };
        self.control(host_frame::Frame::Resize(resize)).await
    }

    /// Kills all that the command started; `Exited` follows.
    pub async fn cancel(&self) -> Result<(), AgentError> {
        self.control(host_frame::Frame::Cancel(Cancel {})).await
    }

    async fn control(&self, frame: host_frame::Frame) -> Result<(), AgentError> {
        self.shared.outgoing.lock().push(frame);
        self.shared.flush().await
    }
}

impl ExecOutput {
    /// The next event; None after `Exited`. May be dropped and called again.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>, AgentError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if self.shared.ended.load(Ordering::Acquire) {
                return Ok(None);
            }
            match next_frame(&mut self.frames) {
                Ok(Some(frame)) => {
                    if let Some(event) = self.take(frame).inspect_err(|_| self.shared.end())? {
                        return Ok(Some(event));
                    }
                }
                Ok(None) => self.read().await.inspect_err(|_| self.shared.end())?,
                Err(error) => {
                    // What the agent says no with is its last word. After rubbish nothing can be read, but it may be told
                    // to stop.
                    if !matches!(error, AgentError::Protocol(_)) {
                        self.shared.end();
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Lets go of the command without cancelling it: it runs on, unheard.
    pub fn leave_running(mut self) {
        self.cancel_on_drop = false;
    }

    fn take(&mut self, frame: Frame) -> Result<Option<ExecEvent>, AgentError> {
        match frame {
            Frame::Started(started) => Ok(Some(ExecEvent::Started { pid: started.pid })),
            Frame::Output(output) => {
                let (stream, offset) = match output.stream() {
                    Stream::Stdout => (OutputStream::Stdout, &mut self.stdout_offset),
                    Stream::Stderr => (OutputStream::Stderr, &mut self.stderr_offset),
                    Stream::Unspecified => return Err(AgentError::Protocol("an unknown stream".into())),
                };
                if output.offset != *offset {
                    return Err(AgentError::Protocol(format!("output at {}, not {offset}", output.offset)));
                }
                *offset += output.data.len() as u64;
                Ok(Some(ExecEvent::Output { stream, offset: output.offset, data: output.data }))
            }
            Frame::StdinConsumed(consumed) => {
                let mut outgoing = self.shared.outgoing.lock();
                if consumed.total < outgoing.stdin_consumed || consumed.total > outgoing.stdin_sent {
                    return Err(AgentError::Protocol(format!("{} bytes of input consumed", consumed.total)));
                }
                outgoing.stdin_consumed = consumed.total;
                drop(outgoing);
                self.shared.progress.notify_waiters();
                Ok(None)
            }
            Frame::Exited(exited) => {
                let exit = exited.try_into()?;
                self.shared.end();
                Ok(Some(ExecEvent::Exited(exit)))
            }
            other => Err(AgentError::unexpected(frame_name(&other))),
        }
    }

    async fn read(&mut self) -> Result<(), AgentError> {
        self.shared.stream.readable().await.map_err(|_| AgentError::Interrupted)?;
        let buffer = self.frames.bytes_mut();
        buffer.reserve(READ_BYTES);
        match self.shared.stream.try_read_buf(buffer) {
            Ok(0) => Err(AgentError::Interrupted),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(_) => Err(AgentError::Interrupted),
        }
    }
}

impl Drop for ExecOutput {
    fn drop(&mut self) {
        let shared = &self.shared;
        if !self.cancel_on_drop || self.farewell.said() || shared.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        shared.progress.notify_waiters();
        shared.outgoing.lock().push(host_frame::Frame::Cancel(Cancel {}));
        // The agent always reads, so the first try does it, unless the sandbox is frozen.
        if !matches!(shared.try_flush(), Ok(false)) {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let shared = Arc::clone(shared);
            runtime.spawn(async move {
                if !matches!(within(CANCEL_TIMEOUT, shared.flush()).await, Ok(())) {
                    tracing::warn!("a dropped command could not be cancelled");
                }
            });
        }
    }
}

impl Outgoing {
    fn push(&mut self, frame: host_frame::Frame) {
        encode(&HostFrame { frame: Some(frame) }, &mut self.bytes);
    }
}

impl Shared {
    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.progress.notify_waiters();
    }

    /// Writes what the socket takes. True if nothing is left.
    fn try_flush(&self) -> io::Result<bool> {
        let mut outgoing = self.outgoing.lock();
        while !outgoing.bytes.is_empty() {
            match self.stream.try_write(&outgoing.bytes) {
                Ok(length) => outgoing.bytes.advance(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Writes everything. A command that has ended no longer listens, which is no error.
    async fn flush(&self) -> Result<(), AgentError> {
        loop {
            let flushed = match self.try_flush() {
                Ok(true) => return Ok(()),
                Ok(false) => self.stream.writable().await,
                Err(error) => Err(error),
            };
            if flushed.is_err() {
                // How it ended is for the output half to say; its last frames are still to be read.
                self.outgoing.lock().bytes.clear();
                return Ok(());
            }
        }
    }
}
