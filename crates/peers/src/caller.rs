//! Calls to one peer, over connections that are kept for the next call.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use prost::Message as _;
use proto::framing::encode;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use types::HostId;

use crate::call_stream::{CallStream, Limits};
use crate::dial::Peer;
use crate::error::{CallError, NotDone};
use crate::frames::Connection;
use crate::limits::{CALLER_IDLE_MAX, CALLS_PER_PEER_MAX, CONNECT_TIMEOUT, IDLE_CONNECTIONS_MAX, REQUEST_BYTES_MAX};
use crate::wire::{CallFrame, CallRequest, Kind, call_frame};

/// Bounds and times of the calls to one peer.
#[derive(Debug, Clone)]
pub struct CallerConfig {
    /// Calls under way; one more is refused at once.
    pub calls_max: usize,
    /// Connections kept without a call.
    pub idle_connections_max: usize,
    /// Time that they are kept.
    pub idle_max: Duration,
    /// Time from a dial to the welcome.
    pub connect_timeout: Duration,
}

impl Default for CallerConfig {
    fn default() -> Self {
        Self {
            calls_max: CALLS_PER_PEER_MAX,
            idle_connections_max: IDLE_CONNECTIONS_MAX,
            idle_max: CALLER_IDLE_MAX,
            connect_timeout: CONNECT_TIMEOUT,
        }
    }
}

/// Counts since a caller began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallerCounters {
    /// Calls whose request was sent.
    pub calls: u64,
    /// Connections made.
    pub dials: u64,
    /// Calls that went over a connection of an earlier one.
    pub reused: u64,
    /// Kept connections that turned out to be closed.
    pub stale: u64,
    /// Calls refused because too many were under way.
    pub refused_busy: u64,
    /// Connections kept now.
    pub idle: usize,
    /// Calls under way now.
    pub under_way: usize,
}

/// Makes calls to one peer. Clones share the connections.
#[derive(Clone)]
pub struct Caller {
    pool: Arc<Pool>,
}

pub(crate) struct Pool {
    peer: Peer,
    config: CallerConfig,
    idle: Mutex<Vec<Idle>>,
    places: Arc<Semaphore>,
    severed: watch::Sender<u64>,
    calls: AtomicU64,
    dials: AtomicU64,
    reused: AtomicU64,
    stale: AtomicU64,
    refused_busy: AtomicU64,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Caller {
    /// Nothing is dialled before the first call.
    #[must_use]
    pub fn new(peer: Peer, config: CallerConfig) -> Self {
        let places = Arc::new(Semaphore::new(config.calls_max));
        let pool = Pool {
            peer,
            config,
            idle: Mutex::default(),
            places,
            severed: watch::Sender::new(0),
            calls: AtomicU64::default(),
            dials: AtomicU64::default(),
            reused: AtomicU64::default(),
            stale: AtomicU64::default(),
            refused_busy: AtomicU64::default(),
        };
        Self { pool: Arc::new(pool) }
    }

    /// Whom it calls.
    #[must_use]
    pub fn host(&self) -> &HostId {
        self.pool.peer.host()
    }

    /// Sends a request. Its answer, and its body if it has one, are the stream's matter; dropping the stream before the
    /// answer's end tells the other side to stop.
    ///
    /// # Errors
    /// It was not sent; surely nothing of it was done.
    pub async fn call(&self, request: CallRequest) -> Result<CallStream, CallError> {
        self.pool.begin(request).await.map_err(CallError::NotDone)
    }

    /// Closes the connections that are kept. Calls under way go on.
    pub fn forget_idle(&self) {
        self.pool.idle.lock().clear();
    }

    /// Gives the other side up: calls under way end at once, with an unknown outcome, and no connection is kept. Later
    /// calls dial again. For a peer that is known to be lost, when the network says nothing.
    pub fn sever(&self) {
        self.forget_idle();
        self.pool.severed.send_modify(|times| *times += 1);
    }

    /// Counts since the caller began.
    #[must_use]
    pub fn counters(&self) -> CallerCounters {
        let pool = &self.pool;
        CallerCounters {
            calls: pool.calls.load(Ordering::Relaxed),
            dials: pool.dials.load(Ordering::Relaxed),
            reused: pool.reused.load(Ordering::Relaxed),
            stale: pool.stale.load(Ordering::Relaxed),
            refused_busy: pool.refused_busy.load(Ordering::Relaxed),
            idle: pool.idle.lock().len(),
            under_way: pool.config.calls_max - pool.places.available_permits(),
        }
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("peer", &self.pool.peer).finish_non_exhaustive()
    }
}

impl Pool {
    async fn begin(self: &Arc<Self>, request: CallRequest) -> Result<CallStream, NotDone> {
        if request.hop > 0 {
            return Err(NotDone::TooManyHops);
        }
        let bytes = request.encoded_len();
        if bytes > REQUEST_BYTES_MAX {
            return Err(NotDone::TooLarge(bytes));
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.refused_busy.fetch_add(1, Ordering::Relaxed);
            return Err(NotDone::Busy);
        };
        let deadline = match request.budget_ms {
            0 => None,
            // A budget beyond the clock's range is none.
            budget => Instant::now().checked_add(Duration::from_millis(budget)),
        };
        let severed = self.severed.subscribe();
        let body = request.body;
        let mut frame = BytesMut::new();
        encode(&CallFrame { frame: Some(call_frame::Frame::Request(request)) }, &mut frame);
        let frame = frame.freeze();
        let (connection, fresh) = self.send(&frame, deadline).await?;
        self.calls.fetch_add(1, Ordering::Relaxed);
        let replay = (!fresh).then_some(frame);
        Ok(CallStream::new(Arc::clone(self), place, connection, replay, body, Limits { deadline, severed }))
    }

    /// Sends a request over a kept connection if there is a sound one, else over a fresh one (true).
    async fn send(&self, frame: &Bytes, deadline: Option<Instant>) -> Result<(Connection, bool), NotDone> {
        if let Some(mut connection) = self.take_idle() {
            connection.writer.push_frames(frame);
            match until(deadline, connection.writer.flush()).await? {
                Ok(()) => {
                    self.reused.fetch_add(1, Ordering::Relaxed);
                    return Ok((connection, false));
                }
                // Not all of the request left, so none of it was looked at: the same again over a fresh connection.
                Err(_) => drop(self.stale.fetch_add(1, Ordering::Relaxed)),
            }
        }
        Ok((self.send_fresh(frame, deadline).await?, true))
    }

    /// Sends a request over a fresh connection.
    pub(crate) async fn send_fresh(&self, frame: &Bytes, deadline: Option<Instant>) -> Result<Connection, NotDone> {
        let dial = self.peer.dial(Kind::Call, self.config.connect_timeout);
        let mut connection = until(deadline, dial).await?.map_err(NotDone::Connect)?;
        self.dials.fetch_add(1, Ordering::Relaxed);
        connection.writer.push_frames(frame);
        until(deadline, connection.writer.flush()).await?.map_err(NotDone::NotSent)?;
        Ok(connection)
    }

    /// The connection that was used last, if the other side has not closed it. One that was made on this thread: on
    /// another's, each answer would wake that thread first. Only where many are kept already, any.
    fn take_idle(&self) -> Option<Connection> {
        let here = thread::current().id();
        let mut idle = self.idle.lock();
        self.drop_expired(&mut idle);
        loop {
            let own = idle.iter().rposition(|kept| kept.connection.made_on == here);
            let many = idle.len() * 2 >= self.config.idle_connections_max;
            let at = own.or_else(|| idle.len().checked_sub(1).filter(|_| many))?;
            let mut connection = idle.remove(at).connection;
            if connection.reader.is_quiet() {
                return Some(connection);
            }
            self.stale.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Keeps a connection whose call is over.
    pub(crate) fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock();
        self.drop_expired(&mut idle);
        if idle.len() < self.config.idle_connections_max {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }

    pub(crate) fn count_stale(&self) {
        self.stale.fetch_add(1, Ordering::Relaxed);
    }

    fn drop_expired(&self, idle: &mut Vec<Idle>) {
        idle.retain(|kept| kept.since.elapsed() < self.config.idle_max);
    }
}

async fn until<F: Future>(deadline: Option<Instant>, step: F) -> Result<F::Output, NotDone> {
    match deadline {
        None => Ok(step.await),
        Some(deadline) => timeout_at(deadline, step).await.map_err(|_| NotDone::TimedOut),
    }
}
