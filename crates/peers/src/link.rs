//! The sending end of a stream: one task for each peer, which dials, writes and dials again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use types::HostId;

use crate::dial::Peer;
use crate::error::{ConnectError, LinkError};
use crate::frames::{Connection, FrameReader, FrameWriter};
use crate::limits::{
    ALIVE_INTERVAL, BACKOFF_MAX, BACKOFF_MIN, CONNECT_TIMEOUT, HELLO_BYTES_MAX, QUEUE_BYTES_MAX, QUEUE_MESSAGES_MAX,
    SILENCE_MAX, WRITE_BATCH_BYTES,
};
use crate::queue::Queue;
use crate::wire::{Alive, Kind, Message, PeerMessage};

/// Bounds and times of a link.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// Messages that wait for the peer.
    pub messages_max: usize,
    /// Bytes that wait for the peer.
    pub bytes_max: usize,
    /// Time from a dial to the welcome.
    pub connect_timeout: Duration,
    /// Time before the first redial; it doubles with each.
    pub backoff_min: Duration,
    /// Longest time before a redial.
    pub backoff_max: Duration,
    /// How often the link says that it lives while it has nothing else to say.
    pub alive_interval: Duration,
    /// Silence of the peer after which the connection is given up.
    pub silence_max: Duration,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            messages_max: QUEUE_MESSAGES_MAX,
            bytes_max: QUEUE_BYTES_MAX,
            connect_timeout: CONNECT_TIMEOUT,
            backoff_min: BACKOFF_MIN,
            backoff_max: BACKOFF_MAX,
            alive_interval: ALIVE_INTERVAL,
            silence_max: SILENCE_MAX,
        }
    }
}

/// Why a message was not taken. It is dropped and counted; the sender never waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// As much as may be waits for this peer already.
    #[error("too much waits for this peer")]
    Full,
    /// The peer is not connected.
    #[error("the peer is not connected")]
    Down,
    /// No peer takes a message of this size.
    #[error("a message of {0} bytes is too large")]
    TooLarge(usize),
}

/// Whether a peer is connected.
#[derive(Debug, Clone)]
pub enum LinkState {
    /// Not tried to the end yet.
    Connecting,
    /// Connected. The number grows with each connection: whoever sends changes only sends the whole again.
    Up(u64),
    /// The last attempt failed.
    Unreachable(Arc<ConnectError>),
    /// The connection ended; none: in good order.
    Lost(Option<Arc<LinkError>>),
}

impl LinkState {
    /// Whether messages are taken.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up(_))
    }
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Up(_) => f.write_str("up"),
            Self::Unreachable(error) => error.fmt(f),
            Self::Lost(Some(error)) => error.fmt(f),
            Self::Lost(None) => f.write_str("the peer ended the stream"),
        }
    }
}

/// What went over a link, and what did not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Messages handed to the kernel.
    pub sent: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// Writes that they left in.
    pub writes: u64,
    /// Messages refused for the bounds.
    pub dropped_full: u64,
    /// Messages refused because the peer was not connected.
    pub dropped_down: u64,
    /// Messages refused for their size.
    pub dropped_too_large: u64,
    /// Messages that waited when the connection ended.
    pub dropped_lost: u64,
    /// Connections made.
    pub connections: u64,
    /// Messages that wait now.
    pub waiting: usize,
    /// Bytes of them.
    pub waiting_bytes: usize,
}

/// Sends messages to one peer. Dropping it ends the connection.
pub struct Link {
    peer: Peer,
    queue: Arc<Queue>,
    state: watch::Receiver<LinkState>,
    redial: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Link {
    /// Begins to dial. Must be called inside a tokio runtime.
    #[must_use]
    pub fn spawn(peer: Peer, config: LinkConfig) -> Self {
        let queue = Arc::new(Queue::new(config.messages_max, config.bytes_max));
        let (publish, state) = watch::channel(LinkState::Connecting);
        let redial = Arc::new(Notify::new());
        let worker = Worker {
            peer: peer.clone(),
            queue: Arc::clone(&queue),
            state: publish,
            redial: Arc::clone(&redial),
            config,
        };
        let task = tokio::spawn(worker.run());
        Self { peer, queue, state, redial, task }
    }

    /// Whom it leads to.
    #[must_use]
    pub fn host(&self) -> &HostId {
        self.peer.host()
    }

    /// Hands a message over without waiting.
    ///
    /// # Errors
    /// It is dropped, and why.
    pub fn try_send(&self, message: Message) -> Result<(), SendError> {
        self.queue.push(message)
    }

    /// Whether the peer is connected, and to be told of changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
    }

    /// Counts since the link began.
    #[must_use]
    pub fn counters(&self) -> LinkCounters {
        self.queue.counters()
    }

    /// Ends the wait before the next dial: the peer has just been heard of.
    pub fn redial_now(&self) {
        self.redial.notify_one();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("peer", &self.peer).finish_non_exhaustive()
    }
}

struct Worker {
    peer: Peer,
    queue: Arc<Queue>,
    state: watch::Sender<LinkState>,
    redial: Arc<Notify>,
    config: LinkConfig,
}

impl Worker {
    async fn run(self) {
        let mut backoff = self.config.backoff_min;
        let mut moved = self.peer.address_changes();
        let mut connections = 0;
        loop {
            moved.mark_unchanged();
            match self.peer.dial(Kind::Stream, self.config.connect_timeout).await {
                Ok(connection) => {
                    connections += 1;
                    let since = Instant::now();
                    self.queue.open();
                    tracing::info!(peer = %self.peer.host(), "peer connected");
                    self.state.send_replace(LinkState::Up(connections));
                    let ended = self.serve(connection).await;
                    self.queue.close();
                    match &ended {
                        Ok(()) => tracing::info!(peer = %self.peer.host(), "peer ended the stream"),
                        Err(error) => tracing::warn!(peer = %self.peer.host(), %error, "peer lost"),
                    }
                    self.state.send_replace(LinkState::Lost(ended.err().map(Arc::new)));
                    // A peer that takes the connection and drops it at once is dialled ever more rarely too.
                    if since.elapsed() >= self.config.backoff_max {
                        backoff = self.config.backoff_min;
                    }
                }
                Err(error) => {
                    // Once for each time that it goes away, not for each attempt.
                    if !matches!(*self.state.borrow(), LinkState::Unreachable(_)) {
                        let cause = std::error::Error::source(&error).map(ToString::to_string);
                        tracing::warn!(peer = %self.peer.host(), %error, cause, "peer can not be reached");
                    }
                    self.state.send_replace(LinkState::Unreachable(Arc::new(error)));
                }
            }
            tokio::select! {
                () = sleep(backoff) => {}
                () = self.redial.notified() => {}
                // The peer's sender of addresses lives as long as this worker's clone of it.
                _ = moved.changed() => backoff = self.config.backoff_min,
            }
            backoff = (backoff * 2).min(self.config.backoff_max);
        }
    }

    async fn serve(&self, connection: Connection) -> Result<(), LinkError> {
        let Connection { reader, writer, .. } = connection;
        tokio::select! {
            ended = self.listen(reader) => ended,
            error = self.write(writer) => Err(error),
        }
    }

    /// The peer says nothing but that it lives.
    async fn listen(&self, mut reader: FrameReader) -> Result<(), LinkError> {
        loop {
            let frame = reader.next_before_silence::<PeerMessage>(HELLO_BYTES_MAX, self.config.silence_max).await?;
            if frame.is_none() {
                return Ok(());
            }
        }
    }

    async fn write(&self, mut writer: FrameWriter) -> LinkError {
        let alive = PeerMessage { message: Some(Message::Alive(Alive {})) };
        debug_assert!(alive.encoded_len() < HELLO_BYTES_MAX);
        loop {
            if timeout(self.config.alive_interval, self.queue.ready()).await.is_err() {
                writer.push(&alive);
            }
            // All that waits goes out in one write: whatever came while the last one was under way is company enough.
            let batch = self.queue.take(&mut writer, WRITE_BATCH_BYTES);
            if let Err(error) = writer.flush().await {
                return error;
            }
            self.queue.sent(batch);
        }
    }
}
