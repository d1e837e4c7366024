//! What the consensus actor is told.

use std::sync::Arc;

use actix::Message;
use bytes::Bytes;
use tokio::sync::oneshot;
use types::{HostId, Incarnation, WarrenError};
use warren_core::leases::Beat;
use warren_core::placement::{Command, Outcome, Presence};

use crate::cluster::Cluster;
use crate::known_peers::KnownPeers;
use crate::life::Life;

/// What this actor knows of this node as one of several.
pub struct Others {
    /// The other nodes.
    pub cluster: Arc<Cluster>,
    /// The present life of this one.
    pub life: Arc<Life>,
    /// What the map is told of this one.
    pub presence: Presence,
    /// Whom this node asks should its log be lost.
    pub known_peers: KnownPeers,
}

/// A node's heartbeat.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Heard(pub Beat);

/// The leader's acknowledgement of a heartbeat of this node.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Acked {
    /// Of which life.
    pub incarnation: Incarnation,
    /// Which.
    pub number: u64,
}

/// A message of the log's own protocol, from a peer.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FromPeer(pub HostId, pub Bytes);

/// Replicate this.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Propose(pub Command);

/// Replicate this as soon as there is a leader, and say what it came to.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ProposeAndTell {
    /// What.
    pub command: Command,
    /// Gets the outcome.
    pub tell: oneshot::Sender<Outcome>,
}

/// This life ends in order, and the next one is to begin within so many milliseconds.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AnnounceRestart {
    /// For how long it is not to be missed.
    pub for_ms: u64,
    /// Gets the outcome.
    pub tell: oneshot::Sender<Outcome>,
}

/// Say when everything acknowledged anywhere before now is in the published map.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Barrier(pub Passed);

/// Who waits for a barrier.
pub(super) type Passed = oneshot::Sender<Result<(), WarrenError>>;

/// The log writer's report.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Persisted(pub Result<u64, String>);

/// Work off what came in: it stands at the end of the mailbox, so everything before it shares one
/// ready, one write and one flush.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Drive;
