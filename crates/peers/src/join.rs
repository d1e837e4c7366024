//! How a newcomer becomes a member: it shows a token to any node, over a connection that it trusts because of the
//! authority's fingerprint in that token, and is given all that a member has. Who was a member before shows its
//! certificate instead.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::time::timeout;
use types::{ClusterId, ErrorCode, HostId, Timestamp};

use crate::authority::PUBLIC_KEY_BYTES;
use crate::certificate::is_plain;
use crate::connections::JoinPlace;
use crate::dial::connect;
use crate::error::{ConnectError, JoinError, LinkError, Unknown};
use crate::frames::{Connection, FrameWriter};
use crate::identity::{Protection, Security, join_client_config};
use crate::limits::{CONNECT_TIMEOUT, JOIN_REPLY_BYTES_MAX, JOIN_TIMEOUT, JOIN_WRITE_TIMEOUT, PROTOCOL_VERSION};
use crate::token::JoinToken;
use crate::wire::{self, Hello, JoinReply, Kind, join_reply};

/// What a build can speak.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Versions {
    /// Of the build, for people.
    pub build: String,
    /// Oldest peer protocol.
    pub protocol_min: u32,
    /// Newest peer protocol.
    pub protocol_max: u32,
    /// Newest replicated command.
    pub commands: u32,
}

/// What a newcomer says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    /// Its host.
    pub host: HostId,
    /// Where its peers find it.
    pub peer_address: String,
    /// Where its front door is.
    pub http_address: String,
    /// The key that its certificate is to be made for.
    pub public_key: [u8; PUBLIC_KEY_BYTES],
    /// What it can speak.
    pub versions: Versions,
}

/// A member, as a newcomer is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its host.
    pub host: HostId,
    /// Its id in the replicated log.
    pub member: u64,
    /// Where its peers find it.
    pub peer_address: String,
    /// Where its front door is.
    pub http_address: String,
}

/// What a member has, secrets included.
#[derive(Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The cluster.
    pub cluster: ClusterId,
    /// The newcomer's id in the replicated log.
    pub member: u64,
    /// The authority's certificate.
    pub ca_certificate: Bytes,
    /// The authority's key: every member can let others in.
    pub ca_key: Bytes,
    /// The newcomer's certificate.
    pub certificate: Bytes,
    /// The key that environments are sealed under.
    pub secrets_key: Bytes,
    /// The keys of clients.
    pub api_keys: Vec<String>,
    /// The other members.
    pub peers: Vec<Member>,
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepted")
            .field("cluster", &self.cluster)
            .field("member", &self.member)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

/// Somebody who wants to become a member. Nothing it says is proven but what [`JoinConnection::is_certified`] says;
/// its token is to be verified.
pub struct JoinConnection {
    token: String,
    certified: bool,
    request: JoinRequest,
    asked_at: Timestamp,
    remote: SocketAddr,
    connection: Connection,
    _place: JoinPlace,
}

impl JoinConnection {
    pub(crate) fn new(
        request: wire::JoinRequest,
        certified: Option<HostId>,
        remote: SocketAddr,
        connection: Connection,
        place: JoinPlace,
    ) -> Option<Self> {
        let versions = request.versions.unwrap_or_default();
        if !is_plain(&request.host) {
            return None;
        }
        let certified = certified.is_some_and(|host| host.as_str() == request.host);
        let asked_at = Timestamp(request.asked_ms);
        let token = request.token;
        let request = JoinRequest {
            host: HostId::new(request.host),
            peer_address: request.peer_address,
            http_address: request.http_address,
            public_key: request.public_key.as_ref().try_into().ok()?,
            versions: Versions {
                build: versions.build,
                protocol_min: versions.protocol_min,
                protocol_max: versions.protocol_max,
                commands: versions.commands,
            },
        };
        Some(Self { token, certified, request, asked_at, remote, connection, _place: place })
    }

    /// What the newcomer says of itself.
    #[must_use]
    pub fn request(&self) -> &JoinRequest {
        &self.request
    }

    /// When it asked, by its own clock; 0 where it does not say.
    #[must_use]
    pub fn asked_at(&self) -> Timestamp {
        self.asked_at
    }

    /// Whether it has shown this cluster's certificate for the very host that it asks for: it has been let in before,
    /// and needs no token to come back.
    #[must_use]
    pub fn is_certified(&self) -> bool {
        self.certified
    }

    /// The token that it shows.
    ///
    /// # Errors
    /// It is none.
    pub fn token(&self) -> Result<JoinToken, crate::token::TokenError> {
        self.token.parse()
    }

    /// Where it comes from.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Lets it in. If this fails, it will ask again.
    ///
    /// # Errors
    /// It is gone.
    pub async fn accept(mut self, accepted: Accepted) -> Result<(), LinkError> {
        let peers = accepted.peers.into_iter().map(|peer| wire::Member {
            host: peer.host.as_str().to_owned(),
            member: peer.member,
            peer_address: peer.peer_address,
            http_address: peer.http_address,
        });
        let accepted = wire::JoinAccepted {
            cluster: accepted.cluster.as_str().to_owned(),
            member: accepted.member,
            ca_certificate: accepted.ca_certificate,
            ca_key: accepted.ca_key,
            certificate: accepted.certificate,
            secrets_key: accepted.secrets_key,
            api_keys: accepted.api_keys,
            peers: peers.collect(),
        };
        reply(&mut self.connection.writer, join_reply::Answer::Accepted(accepted)).await
    }

    /// Sends it away.
    ///
    /// # Errors
    /// It is gone.
    pub async fn refuse(mut self, code: ErrorCode, message: impl Into<String>) -> Result<(), LinkError> {
        refuse(&mut self.connection.writer, code, message).await
    }
}

/// Sends a newcomer away.
pub(crate) async fn refuse(
    writer: &mut FrameWriter,
    code: ErrorCode,
    message: impl Into<String>,
) -> Result<(), LinkError> {
    let (code, message) = (code.as_str().to_owned(), message.into());
    let error = wire::Error { code, message, details_json: String::new() };
    reply(writer, join_reply::Answer::Refused(error)).await
}

async fn reply(writer: &mut FrameWriter, answer: join_reply::Answer) -> Result<(), LinkError> {
    writer.push(&JoinReply { answer: Some(answer) });
    let written = async {
        writer.flush().await?;
        writer.shutdown().await
    };
    timeout(JOIN_WRITE_TIMEOUT, written).await.map_err(|_| LinkError::Silent)?
}

impl fmt::Debug for JoinConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinConnection")
            .field("request", &self.request)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

/// A newcomer's way in.
pub struct JoinClient;

impl JoinClient {
    /// Asks the node at `address` (`name:port`) to be let in. What answers must be of the token's cluster.
    ///
    /// # Errors
    /// Not let in, or not known whether.
    pub async fn join(address: &str, token: &JoinToken, request: JoinRequest) -> Result<Accepted, JoinError> {
        let config = Some(Arc::new(join_client_config(token)));
        ask(address, token.cluster(), token.to_string(), request, config).await
    }

    /// Asks the member `host` at `address` to be let in once more, without a token: the certificate says who we are.
    /// What answers must be that member.
    ///
    /// # Errors
    /// Not let in, or not known whether.
    pub async fn rejoin(
        security: &Security,
        host: &HostId,
        address: &str,
        request: JoinRequest,
    ) -> Result<Accepted, JoinError> {
        let config = match &*security.0 {
            Protection::Tls(identity) => Some(Arc::new(identity.client_config(host, Kind::Join))),
            Protection::Plaintext { .. } => None,
        };
        ask(address, security.cluster(), String::new(), request, config).await
    }

    /// The same in plain text, which goes to loopback only.
    ///
    /// # Errors
    /// Not let in, or not known whether.
    pub async fn join_plaintext_on_loopback(
        address: &str,
        token: &JoinToken,
        request: JoinRequest,
    ) -> Result<Accepted, JoinError> {
        ask(address, token.cluster(), token.to_string(), request, None).await
    }
}

async fn ask(
    address: &str,
    cluster: &ClusterId,
    token: String,
    request: JoinRequest,
    config: Option<Arc<rustls::ClientConfig>>,
) -> Result<Accepted, JoinError> {
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        kind: Kind::Join.into(),
        cluster: cluster.as_str().to_owned(),
        host: request.host.as_str().to_owned(),
        wanted_host: String::new(),
    };
    let (mut connection, _) = connect(address, config, hello, CONNECT_TIMEOUT).await.map_err(JoinError::Connect)?;
    let asked_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    connection.writer.push(&wire::JoinRequest {
        asked_ms: u64::try_from(asked_at.as_millis()).unwrap_or(0),
        token,
        host: request.host.as_str().to_owned(),
        peer_address: request.peer_address,
        http_address: request.http_address,
        public_key: Bytes::copy_from_slice(&request.public_key),
        versions: Some(wire::Versions {
            build: request.versions.build,
            protocol_min: request.versions.protocol_min,
            protocol_max: request.versions.protocol_max,
            commands: request.versions.commands,
        }),
    });
    let not_sent = |error| JoinError::Connect(ConnectError::Lost(error));
    let answer = async {
        connection.writer.flush().await.map_err(not_sent)?;
        let reply = connection.reader.next::<JoinReply>(JOIN_REPLY_BYTES_MAX).await;
        let lost = |error| JoinError::Unknown(Unknown::Lost(error));
        reply.map_err(lost)?.ok_or_else(|| lost(LinkError::CutOff))
    };
    let reply = timeout(JOIN_TIMEOUT, answer).await.map_err(|_| JoinError::Unknown(Unknown::TimedOut))??;
    match reply.answer {
        Some(join_reply::Answer::Accepted(accepted)) => read_accepted(accepted, cluster),
        Some(join_reply::Answer::Refused(error)) => {
            Err(JoinError::Refused { code: error.code, message: error.message })
        }
        None => Err(JoinError::Answer("neither yes nor no")),
    }
}

fn read_accepted(accepted: wire::JoinAccepted, cluster: &ClusterId) -> Result<Accepted, JoinError> {
    if accepted.cluster != cluster.as_str() {
        return Err(JoinError::Answer("it is of another cluster"));
    }
    if accepted.member == 0 {
        return Err(JoinError::Answer("it names no member id"));
    }
    let peers = accepted.peers.into_iter().map(|peer| Member {
        host: HostId::new(peer.host),
        member: peer.member,
        peer_address: peer.peer_address,
        http_address: peer.http_address,
    });
    Ok(Accepted {
        cluster: cluster.clone(),
        member: accepted.member,
        ca_certificate: accepted.ca_certificate,
        ca_key: accepted.ca_key,
        certificate: accepted.certificate,
        secrets_key: accepted.secrets_key,
        api_keys: accepted.api_keys,
        peers: peers.collect(),
    })
}
