//! Where other nodes come in: messages of the log, calls for sandboxes of this node, newcomers.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::Addr;
use anyhow::Context as _;
use bytes::Bytes;
use peers::wire::Message;
use peers::{Accepted, Authority, Incoming, JoinConnection, Listener, ListenerConfig, Member, StreamLink};
use tokio::sync::oneshot;
use types::{ErrorCode, Incarnation, WarrenError};
use warren_core::leases::Beat;
use warren_core::placement::{Command, Kind, Outcome};

use crate::actors::consensus::{Acked, ConsensusActor, FromPeer, Heard, ProposeAndTell};
use crate::answer_calls::answer;
use crate::config::NodeConfig;
use crate::doorway::Doorway;
use crate::gossip;
use crate::hub::now;
use crate::identity::Identity;
use crate::operations::NodeOperations;
use crate::view::View;

/// How long a newcomer waits for its member id.
const JOIN_WITHIN: Duration = Duration::from_secs(20);

/// Listens for other nodes for as long as it is kept.
pub struct PeersDoor;

/// What every visitor may need.
struct Inside {
    consensus: Addr<ConsensusActor>,
    view: Arc<View>,
    authority: Authority,
    secrets_key: Bytes,
    api_keys: Vec<String>,
}

impl PeersDoor {
    /// Opens the door where the configuration names an address. What comes back closes it for calls.
    ///
    /// # Errors
    /// The address can not be listened on.
    pub async fn open(
        config: &NodeConfig,
        identity: &Identity,
        consensus: &Addr<ConsensusActor>,
        view: &Arc<View>,
        operations: Arc<OnceLock<Arc<NodeOperations>>>,
    ) -> anyhow::Result<Arc<Doorway>> {
        let doorway = Arc::<Doorway>::default();
        let Some(address) = config.peer_listen else {
            return Ok(doorway);
        };
        let shared = Arc::clone(&doorway);
        let mut listener = Listener::bind(address, identity.security.clone(), ListenerConfig::default())
            .await
            .with_context(|| format!("peer_listen: cannot bind {address}"))?;
        let inside = Arc::new(Inside {
            consensus: consensus.clone(),
            view: Arc::clone(view),
            authority: Authority::from_bytes(&identity.authority.to_bytes())?,
            secrets_key: Bytes::copy_from_slice(identity.secrets_key.as_bytes()),
            api_keys: config.api_keys.clone(),
        });
        actix::spawn(async move {
            loop {
                let inside = Arc::clone(&inside);
                match listener.accept().await {
                    Incoming::Stream(stream) => {
                        actix::spawn(inside.listen_to(stream));
                    }
                    Incoming::Join(newcomer) => {
                        actix::spawn(inside.let_in(newcomer));
                    }
                    Incoming::Call(call) => match operations.get() {
                        Some(here) => {
                            let placing = Arc::clone(here);
                            let doorway = Arc::clone(&shared);
                            actix::spawn(answer(call, Arc::clone(here), doorway, move |id| placing.placed(id)));
                        }
                        // The caller finds its connection closed, and that nothing was done.
                        None => tracing::debug!(peer = %call.peer(), "a call came before this node was up"),
                    },
                }
            }
        });
        Ok(doorway)
    }
}

impl Inside {
    async fn listen_to(self: Arc<Self>, mut stream: StreamLink) {
        let peer = stream.peer().clone();
        loop {
            match stream.recv().await {
                Ok(Some(Message::Raft(message))) => self.consensus.do_send(FromPeer(peer.clone(), message)),
                Ok(Some(Message::Heartbeat(beat))) => {
                    let (incarnation, number) = (Incarnation(beat.incarnation), beat.sequence);
                    self.consensus.do_send(Heard(Beat { host: peer.clone(), incarnation, number }));
                }
                Ok(Some(Message::HeartbeatAck(ack))) => {
                    self.consensus.do_send(Acked { incarnation: Incarnation(ack.incarnation), number: ack.sequence });
                }
                Ok(Some(Message::Observed(batch))) => gossip::hear_observed(&self.view, &peer, &batch),
                Ok(Some(Message::Capacity(capacity))) => gossip::hear_capacity(&self.view, &peer, capacity),
                Ok(Some(Message::Images(images))) => gossip::hear_images(&self.view, &peer, images),
                Ok(Some(other)) => tracing::debug!(%peer, ?other, "a message of a later version"),
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%peer, %error, "the stream of a peer ended");
                    return;
                }
            }
        }
    }

    async fn let_in(self: Arc<Self>, newcomer: JoinConnection) {
        let host = newcomer.request().host.clone();
        let answered = match self.accept(&newcomer).await {
            Ok(accepted) => {
                tracing::info!(%host, member = accepted.member, "a node joins");
                newcomer.accept(accepted).await
            }
            Err(error) => {
                tracing::warn!(%host, remote = %newcomer.remote(), %error, "a node was not let in");
                newcomer.refuse(error.code, error.message).await
            }
        };
        if let Err(error) = answered {
            tracing::warn!(%host, %error, "the newcomer did not hear the answer");
        }
    }

    async fn accept(&self, newcomer: &JoinConnection) -> Result<Accepted, WarrenError> {
        let refused = |why: String| WarrenError::new(ErrorCode::Forbidden, why);
        // Whoever was let in before and has lost its log shows its certificate instead.
        if !newcomer.is_certified() {
            let verified =
                newcomer.token().and_then(|token| token.verify(&self.secrets_key, self.authority.cluster(), now()));
            verified.map_err(|error| refused(error.to_string()))?;
        }
        let request = newcomer.request();
        let (knows, spoken) = (request.versions.commands, self.view.placement().commands_known_by_all());
        if knows < spoken {
            let why =
                format!("its version knows commands up to {knows}, this cluster speaks up to {spoken}: upgrade it");
            return Err(refused(why));
        }
        let certificate =
            self.authority.sign_node(&request.host, &request.public_key).map_err(|error| refused(error.to_string()))?;
        let kind = Kind::Join {
            host: request.host.clone(),
            peer_address: request.peer_address.clone(),
            http_address: request.http_address.clone(),
            commands: request.versions.commands,
            asked_at: newcomer.asked_at(),
        };
        let (tell, told) = oneshot::channel();
        self.consensus.do_send(ProposeAndTell { command: Command { time: now(), kind }, tell });
        let outcome = tokio::time::timeout(JOIN_WITHIN, told).await;
        let Ok(Ok(Outcome::Joined { member })) = outcome else {
            return Err(WarrenError::new(ErrorCode::NoQuorum, "the cluster could not record the newcomer"));
        };
        let placement = Arc::clone(&self.view.placement());
        let peers = placement
            .nodes()
            .filter(|(host, _)| **host != request.host)
            .map(|(host, node)| Member {
                host: host.clone(),
                member: node.presence.member,
                peer_address: node.presence.peer_address.clone(),
                http_address: node.presence.http_address.clone(),
            })
            .collect();
        Ok(Accepted {
            cluster: self.authority.cluster().clone(),
            member,
            ca_certificate: Bytes::copy_from_slice(self.authority.certificate()),
            ca_key: Bytes::from(self.authority.key().to_vec()),
            certificate: certificate.into(),
            secrets_key: self.secrets_key.clone(),
            api_keys: self.api_keys.clone(),
            peers,
        })
    }
}
