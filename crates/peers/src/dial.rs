//! Making a connection: reach the address, prove who we are, demand the same, and be welcomed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, TlsStream};
use types::{ClusterId, HostId};

use crate::error::{ConnectError, LinkError};
use crate::frames::Connection;
use crate::identity::{Protection, Security};
use crate::limits::{HELLO_BYTES_MAX, PROTOCOL_VERSION};
use crate::socket::{Socket, tune};
use crate::verify::{Mismatch, Refusal, refusal};
use crate::wire::{Hello, HelloReply, Kind, RefusedReason, Welcome, hello_reply};

/// Another node of the cluster, as this node reaches it. Clones share the address.
#[derive(Clone)]
pub struct Peer(Arc<Inner>);

struct Inner {
    security: Security,
    host: HostId,
    address: watch::Sender<String>,
    /// For streams and for calls; none in plain text.
    tls: Option<(Arc<ClientConfig>, Arc<ClientConfig>)>,
}

impl Peer {
    /// The node `host` at `address` (`name:port` or `ip:port`), as the node that `security` belongs to sees it.
    #[must_use]
    pub fn new(security: &Security, host: HostId, address: impl Into<String>) -> Self {
        let tls = match &*security.0 {
            Protection::Tls(identity) => {
                let config = |kind| Arc::new(identity.client_config(&host, kind));
                Some((config(Kind::Stream), config(Kind::Call)))
            }
            Protection::Plaintext { .. } => None,
        };
        let address = watch::Sender::new(address.into());
        Self(Arc::new(Inner { security: security.clone(), host, address, tls }))
    }

    /// Which node it is.
    #[must_use]
    pub fn host(&self) -> &HostId {
        &self.0.host
    }

    /// Where it is looked for.
    #[must_use]
    pub fn address(&self) -> String {
        self.0.address.borrow().clone()
    }

    /// It has moved. The next connection goes there; those that stand are left.
    pub fn set_address(&self, address: impl Into<String>) {
        let address = address.into();
        self.0.address.send_if_modified(|known| {
            let moved = *known != address;
            *known = address;
            moved
        });
    }

    pub(crate) fn address_changes(&self) -> watch::Receiver<String> {
        self.0.address.subscribe()
    }

    /// A connection that was welcomed.
    pub(crate) async fn dial(&self, kind: Kind, limit: Duration) -> Result<Connection, ConnectError> {
        let config = match (&self.0.tls, kind) {
            (None, _) => None,
            (Some((stream, _)), Kind::Stream) => Some(Arc::clone(stream)),
            (Some((_, call)), _) => Some(Arc::clone(call)),
        };
        let hello = Hello {
            protocol_version: PROTOCOL_VERSION,
            kind: kind.into(),
            cluster: self.0.security.cluster().as_str().to_owned(),
            host: self.0.security.host().as_str().to_owned(),
            wanted_host: self.0.host.as_str().to_owned(),
        };
        let address = self.address();
        let (connection, welcome) = connect(&address, config, hello, limit).await?;
        if welcome.host != self.0.host.as_str() {
            return Err(ConnectError::OtherHost(HostId::new(welcome.host)));
        }
        Ok(connection)
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("host", self.host()).field("address", &self.address()).finish_non_exhaustive()
    }
}

/// Connects, with TLS where there is a configuration for it, and exchanges the first frames.
pub(crate) async fn connect(
    address: &str,
    tls: Option<Arc<ClientConfig>>,
    hello: Hello,
    limit: Duration,
) -> Result<(Connection, Welcome), ConnectError> {
    let attempt = async {
        let stream = reach(address, tls.is_none()).await?;
        let socket = match tls {
            None => Socket::Plain(stream),
            Some(config) => {
                // The certificate is checked against ids, not against names of the network.
                let nobody = ServerName::from(std::net::Ipv4Addr::LOCALHOST);
                let stream = TlsConnector::from(config).connect(nobody, stream).await.map_err(handshake_error)?;
                Socket::Tls(Box::new(TlsStream::Client(stream)))
            }
        };
        greet(Connection::new(socket), &hello).await
    };
    let timed_out = || ConnectError::TimedOut { address: address.to_owned() };
    timeout(limit, attempt).await.map_err(|_| timed_out())?
}

async fn reach(address: &str, plaintext: bool) -> Result<TcpStream, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable { address: address.to_owned(), source };
    let candidates: Vec<SocketAddr> = lookup_host(address).await.map_err(unreachable)?.collect();
    if plaintext && candidates.iter().any(|candidate| !candidate.ip().is_loopback()) {
        return Err(ConnectError::PlaintextOffLoopback(address.to_owned()));
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name leads to no address");
    for candidate in candidates {
        match TcpStream::connect(candidate).await {
            Ok(stream) => return tune(&stream).map(|()| stream).map_err(unreachable),
            Err(error) => last = error,
        }
    }
    Err(unreachable(last))
}

async fn greet(mut connection: Connection, hello: &Hello) -> Result<(Connection, Welcome), ConnectError> {
    connection.writer.push(hello);
    // An answer may be there although not all of the greeting was taken; it says more than the failed write.
    let sent = connection.writer.flush().await;
    let reply = match connection.reader.next::<HelloReply>(HELLO_BYTES_MAX).await {
        Ok(Some(reply)) => reply,
        Ok(None) => return Err(greeting_error(sent.err().unwrap_or(LinkError::CutOff))),
        Err(error) => return Err(greeting_error(error)),
    };
    match reply.answer {
        Some(hello_reply::Answer::Welcome(welcome)) if welcome.cluster != hello.cluster => {
            Err(ConnectError::OtherCluster(ClusterId::new(welcome.cluster)))
        }
        Some(hello_reply::Answer::Welcome(welcome)) => Ok((connection, welcome)),
        Some(hello_reply::Answer::Refused(refused)) => {
            let reason = RefusedReason::try_from(refused.reason).unwrap_or_default();
            Err(ConnectError::Refused { reason, message: refused.message })
        }
        None => Err(ConnectError::NotANode(LinkError::Protocol("a welcome without an answer"))),
    }
}

fn handshake_error(error: io::Error) -> ConnectError {
    match refusal(&error) {
        Some(Refusal::Mismatch(Mismatch::Cluster(cluster))) => ConnectError::OtherCluster(cluster),
        Some(Refusal::Mismatch(Mismatch::Host(host))) => ConnectError::OtherHost(host),
        Some(Refusal::Mismatch(other)) => ConnectError::NotTrusted(other.to_string()),
        Some(Refusal::Untrusted(why)) => ConnectError::NotTrusted(why),
        None if error.kind() == io::ErrorKind::InvalidData => ConnectError::NotANode(LinkError::Io(error)),
        None => ConnectError::Lost(LinkError::Io(error)),
    }
}

/// In TLS 1.3 a client is done before the server has looked at its certificate: a refusal comes with the first read.
fn greeting_error(error: LinkError) -> ConnectError {
    match error {
        LinkError::Io(error) => handshake_error(error),
        LinkError::Frame(_) | LinkError::Protocol(_) => ConnectError::NotANode(error),
        LinkError::CutOff | LinkError::Silent | LinkError::Superseded | LinkError::Severed => ConnectError::Lost(error),
    }
}
