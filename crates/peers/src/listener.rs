//! The one place where other nodes come in. Whoever comes in is known by the time that the node hears of it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsStream};
use types::{ErrorCode, HostId};

use crate::call_connection::CallConnection;
use crate::certificate::{CertifiedName, is_plain};
use crate::connections::Connections;
use crate::error::LinkError;
use crate::frames::Connection;
use crate::identity::{Protection, Security, kind_of_alpn};
use crate::join::{self, JoinConnection};
use crate::limits::{
    ADMITTED_MAX, ALIVE_INTERVAL, CALL_CONNECTIONS_PER_PEER_MAX, CALLEE_IDLE_MAX, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX,
    HELLO_BYTES_MAX, JOIN_REQUEST_BYTES_MAX, JOINS_MAX, PROTOCOL_VERSION, SILENCE_MAX,
};
use crate::socket::{Socket, tune};
use crate::stream::StreamLink;
use crate::wire::{self, Hello, HelloReply, Kind, Refused, RefusedReason, Welcome, hello_reply};

/// Time before the next accept when the last one failed, for want of descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds and times of a listener.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// Time that a stranger has to show who it is.
    pub handshake_timeout: Duration,
    /// Handshakes under way; one more costs the oldest its place.
    pub handshakes_max: usize,
    /// Call connections from one peer.
    pub call_connections_per_peer_max: usize,
    /// Joins under way.
    pub joins_max: usize,
    /// How often a stream's receiver says that it lives.
    pub alive_interval: Duration,
    /// Silence after which a stream is given up.
    pub silence_max: Duration,
    /// Time that a call connection may be without a call.
    pub call_idle_max: Duration,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self {
            handshake_timeout: HANDSHAKE_TIMEOUT,
            handshakes_max: HANDSHAKES_MAX,
            call_connections_per_peer_max: CALL_CONNECTIONS_PER_PEER_MAX,
            joins_max: JOINS_MAX,
            alive_interval: ALIVE_INTERVAL,
            silence_max: SILENCE_MAX,
            call_idle_max: CALLEE_IDLE_MAX,
        }
    }
}

/// Why nobody is listened to.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken or not ours.
    #[error("cannot listen on {0}")]
    Bind(SocketAddr, #[source] io::Error),
    /// Plain text is spoken on loopback only.
    #[error("{0} is not loopback, and plain text goes nowhere else")]
    PlaintextOffLoopback(SocketAddr),
}

/// Who came in.
#[derive(Debug)]
pub enum Incoming {
    /// Somebody with a token wants to become a member. The token is not verified yet.
    Join(JoinConnection),
    /// A peer sends messages.
    Stream(StreamLink),
    /// A peer makes calls, one after another.
    Call(CallConnection),
}

/// Counts since the listener began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListenerCounters {
    /// Connections accepted from the network.
    pub accepted: u64,
    /// Those that were welcomed.
    pub admitted: u64,
    /// Those that were not, for whatever reason.
    pub refused: u64,
    /// Handshakes that lost their place to newer ones.
    pub displaced: u64,
}

#[derive(Default, Debug)]
struct Counts {
    accepted: AtomicU64,
    admitted: AtomicU64,
    refused: AtomicU64,
    displaced: AtomicU64,
}

/// Listens for other nodes. Dropping it stops that; what was handed out goes on.
pub struct Listener {
    local: SocketAddr,
    admitted: mpsc::Receiver<Incoming>,
    counts: Arc<Counts>,
    acceptor: JoinHandle<()>,
}

impl Listener {
    /// Listens on `address`. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The address can not be listened on.
    pub async fn bind(address: SocketAddr, security: Security, config: ListenerConfig) -> Result<Self, BindError> {
        if !security.is_encrypted() && !address.ip().is_loopback() {
            return Err(BindError::PlaintextOffLoopback(address));
        }
        let socket = TcpListener::bind(address).await.map_err(|error| BindError::Bind(address, error))?;
        let local = socket.local_addr().map_err(|error| BindError::Bind(address, error))?;
        let (deliver, admitted) = mpsc::channel(ADMITTED_MAX);
        let counts = Arc::new(Counts::default());
        let connections = Connections::new(config.call_connections_per_peer_max, config.joins_max);
        let tls = match &*security.0 {
            Protection::Tls(identity) => Some(TlsAcceptor::from(identity.server_config())),
            Protection::Plaintext { .. } => None,
        };
        let door = Arc::new(Door { security, tls, config, connections, deliver, counts: Arc::clone(&counts) });
        let acceptor = tokio::spawn(door.accept_all(socket));
        Ok(Self { local, admitted, counts, acceptor })
    }

    /// The address that is listened on, with the port that the system chose where none was given.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// The next that was welcomed. May be dropped and called again.
    pub async fn accept(&mut self) -> Incoming {
        self.admitted.recv().await.expect("the acceptor runs for as long as its listener")
    }

    /// Reads the listener's counters, also while somebody else accepts.
    #[must_use]
    pub fn meter(&self) -> ListenerMeter {
        ListenerMeter(Arc::clone(&self.counts))
    }
}

/// Reads the counters of one listener.
#[derive(Clone, Debug)]
pub struct ListenerMeter(Arc<Counts>);

impl ListenerMeter {
    /// Counts since the listener began.
    #[must_use]
    pub fn read(&self) -> ListenerCounters {
        ListenerCounters {
            accepted: self.0.accepted.load(Ordering::Relaxed),
            admitted: self.0.admitted.load(Ordering::Relaxed),
            refused: self.0.refused.load(Ordering::Relaxed),
            displaced: self.0.displaced.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("local", &self.local).finish_non_exhaustive()
    }
}

/// Why a stranger was not let in.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the handshake failed")]
    Handshake(#[source] io::Error),
    #[error("the connection failed before its hello")]
    Hello(#[source] LinkError),
    #[error("refused: {message}")]
    Refused { reason: RefusedReason, message: String },
    #[error("the handshake took too long")]
    TimedOut,
}

fn refused(reason: RefusedReason, message: impl Into<String>) -> Refusal {
    Refusal::Refused { reason, message: message.into() }
}

/// What a certificate says of a connection, before its hello.
struct Shown {
    connection: Connection,
    kind: Option<Kind>,
    host: Option<HostId>,
}

struct Door {
    security: Security,
    tls: Option<TlsAcceptor>,
    config: ListenerConfig,
    connections: Arc<Connections>,
    deliver: mpsc::Sender<Incoming>,
    counts: Arc<Counts>,
}

impl Door {
    async fn accept_all(self: Arc<Self>, socket: TcpListener) {
        let mut handshakes = JoinSet::new();
        let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            tokio::select! {
                accepted = socket.accept() => match accepted {
                    Ok((stream, remote)) => {
                        self.counts.accepted.fetch_add(1, Ordering::Relaxed);
                        if by_age.len() >= self.config.handshakes_max
                            && let Some(oldest) = by_age.pop_front()
                        {
                            self.counts.displaced.fetch_add(1, Ordering::Relaxed);
                            oldest.abort();
                        }
                        by_age.push_back(handshakes.spawn(Arc::clone(&self).admit(stream, remote)));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a peer's connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = handshakes.join_next_with_id() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        Err(error) => {
                            if error.is_panic() {
                                tracing::error!(%error, "a handshake panicked");
                            }
                            error.id()
                        }
                    };
                    by_age.retain(|handshake| handshake.id() != id);
                }
            }
        }
    }

    async fn admit(self: Arc<Self>, stream: TcpStream, remote: SocketAddr) {
        let admitted = timeout(self.config.handshake_timeout, self.handshake(stream, remote)).await;
        match admitted.unwrap_or(Err(Refusal::TimedOut)) {
            Ok(incoming) => {
                self.counts.admitted.fetch_add(1, Ordering::Relaxed);
                // Without a receiver the node is ending.
                drop(self.deliver.send(incoming).await);
            }
            Err(refusal) => {
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
                let cause = std::error::Error::source(&refusal).map(ToString::to_string);
                // Anybody can cause this as often as they like.
                tracing::debug!(%remote, error = %refusal, cause, "not let in");
            }
        }
    }

    async fn handshake(&self, stream: TcpStream, remote: SocketAddr) -> Result<Incoming, Refusal> {
        tune(&stream).map_err(Refusal::Handshake)?;
        let mut shown = self.identify(stream).await?;
        let admitted = match shown.connection.reader.next::<Hello>(HELLO_BYTES_MAX).await {
            Ok(Some(hello)) => self.judge(&shown, hello),
            Ok(None) => return Err(Refusal::Hello(LinkError::CutOff)),
            Err(LinkError::Frame(error)) => Err(refused(RefusedReason::Malformed, error.to_string())),
            Err(error) => return Err(Refusal::Hello(error)),
        };
        match admitted {
            Ok(place) => {
                let welcome = Welcome {
                    protocol_version: PROTOCOL_VERSION,
                    cluster: self.security.cluster().as_str().to_owned(),
                    host: self.security.host().as_str().to_owned(),
                };
                answer(&mut shown.connection, hello_reply::Answer::Welcome(welcome)).await?;
                self.begin(place, shown.connection, remote).await
            }
            Err(Refusal::Refused { reason, message }) => {
                let told = Refused { reason: reason.into(), message: message.clone() };
                answer(&mut shown.connection, hello_reply::Answer::Refused(told)).await?;
                // What it is refused for must not be lost with what it has sent on.
                shown.connection.writer.shutdown().await.map_err(Refusal::Hello)?;
                Err(refused(reason, message))
            }
            Err(other) => Err(other),
        }
    }

    async fn identify(&self, stream: TcpStream) -> Result<Shown, Refusal> {
        let Some(acceptor) = &self.tls else {
            return Ok(Shown { connection: Connection::new(Socket::Plain(stream)), kind: None, host: None });
        };
        let stream = acceptor.accept(stream).await.map_err(Refusal::Handshake)?;
        let (_, session) = stream.get_ref();
        let kind = kind_of_alpn(session.alpn_protocol());
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let name = certificate.and_then(CertifiedName::read).filter(|name| name.cluster == *self.security.cluster());
        let host = name.and_then(|name| name.host);
        let socket = Socket::Tls(Box::new(TlsStream::Server(stream)));
        Ok(Shown { connection: Connection::new(socket), kind, host })
    }

    fn judge(&self, shown: &Shown, hello: Hello) -> Result<Place, Refusal> {
        let kind = hello.kind();
        if hello.protocol_version != PROTOCOL_VERSION {
            let message = format!("protocol version {}, this node speaks {PROTOCOL_VERSION}", hello.protocol_version);
            return Err(refused(RefusedReason::ProtocolVersion, message));
        }
        if kind == Kind::Unspecified || (self.tls.is_some() && shown.kind != Some(kind)) {
            return Err(refused(RefusedReason::Malformed, "not the kind of connection that was negotiated"));
        }
        if hello.cluster != self.security.cluster().as_str() {
            return Err(refused(RefusedReason::OtherCluster, format!("this is cluster {}", self.security.cluster())));
        }
        if !is_plain(&hello.host) {
            return Err(refused(RefusedReason::Malformed, "not an id of a host"));
        }
        let host = HostId::new(hello.host);
        if kind == Kind::Join {
            return Ok(Place::Join(shown.host.clone()));
        }
        // From here on only members.
        if self.tls.is_some() && shown.host.as_ref() != Some(&host) {
            return Err(refused(RefusedReason::Identity, "no certificate of this cluster for this host was shown"));
        }
        if hello.wanted_host != self.security.host().as_str() {
            return Err(refused(RefusedReason::OtherHost, format!("this is host {}", self.security.host())));
        }
        if kind == Kind::Stream {
            return Ok(Place::Stream(host));
        }
        match self.connections.admit_call(&host) {
            Some(place) => Ok(Place::Call(host, place)),
            None => Err(refused(RefusedReason::Busy, "too many call connections of this host")),
        }
    }

    async fn begin(&self, place: Place, mut connection: Connection, remote: SocketAddr) -> Result<Incoming, Refusal> {
        match place {
            Place::Join(certified) => {
                let request = connection.reader.next::<wire::JoinRequest>(JOIN_REQUEST_BYTES_MAX).await;
                let request = request.map_err(Refusal::Hello)?.ok_or(Refusal::Hello(LinkError::CutOff))?;
                // Only now: somebody who says nothing must not keep newcomers out.
                let Some(place) = self.connections.admit_join() else {
                    let busy = (ErrorCode::Unavailable, "too many joins are under way");
                    join::refuse(&mut connection.writer, busy.0, busy.1).await.map_err(Refusal::Hello)?;
                    return Err(refused(RefusedReason::Busy, busy.1));
                };
                let request = JoinConnection::new(request, certified, remote, connection, place);
                request.map(Incoming::Join).ok_or(Refusal::Hello(LinkError::Protocol("a join of another form")))
            }
            Place::Stream(host) => {
                // Only now: a newcomer that was never welcomed takes nobody's place.
                let place = self.connections.admit_stream(&host);
                let (every, silence) = (self.config.alive_interval, self.config.silence_max);
                Ok(Incoming::Stream(StreamLink::new(host, connection, place, every, silence)))
            }
            Place::Call(host, place) => {
                Ok(Incoming::Call(CallConnection::new(host, connection, place, self.config.call_idle_max)))
            }
        }
    }
}

enum Place {
    /// With the host that its certificate names, if it has shown one.
    Join(Option<HostId>),
    Stream(HostId),
    Call(HostId, crate::connections::CallPlace),
}

async fn answer(connection: &mut Connection, answer: hello_reply::Answer) -> Result<(), Refusal> {
    connection.writer.push(&HelloReply { answer: Some(answer) });
    connection.writer.flush().await.map_err(Refusal::Hello)
}
