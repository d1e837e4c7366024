//! The placement of a node without its engine: identity, peer links, consensus and the published map, as in any node.
//! No sandbox is ever made of it. Measurements of what it costs to replicate a placement, and nothing else, stand on it.

use std::sync::{Arc, OnceLock};

use actix::{Actor, Addr, Context, Handler};
use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};
use types::{HostId, Incarnation, SandboxId, WarrenError};
use warren_core::placement::{self, Outcome, Place};

use crate::actors::consensus::{Barrier, ConsensusActor, ProposeAndTell};
use crate::actors::follower::Deliver;
use crate::cluster::Cluster;
use crate::config::NodeConfig;
use crate::identity::Identity;
use crate::lease::Lease;
use crate::life::Life;
use crate::own_log;
use crate::peers_door::PeersDoor;
use crate::start::{ExitReason, Exits, begin_life, start_consensus};
use crate::view::View;

/// A member of a cluster that only places. For any thread.
pub struct PlacementAlone {
    consensus: Addr<ConsensusActor>,
    view: Arc<View>,
    incarnation: Incarnation,
    /// Holds the lock of the data directory.
    _identity: Identity,
}

/// Where a node's own follower would be: nothing is to be done for a sandbox that is only placed.
struct Nobody;

impl Actor for Nobody {
    type Context = Context<Self>;
}

impl Handler<Deliver> for Nobody {
    type Result = ();

    fn handle(&mut self, _: Deliver, _: &mut Self::Context) {}
}

impl PlacementAlone {
    /// Bootstraps or joins as the configuration says, and returns once its life has begun. Must be called inside an
    /// actix system. What ends it comes by the channel.
    ///
    /// # Errors
    /// It can not be started.
    pub async fn start(config: &NodeConfig) -> anyhow::Result<(Self, mpsc::UnboundedReceiver<ExitReason>)> {
        let mut identity = Identity::open(config).await?;
        let log = own_log::open(config, &mut identity).await?;
        let cluster = Arc::new(Cluster::new(identity.host.clone(), identity.security.clone(), &identity.told_of));
        let view = Arc::new(View::new(identity.host.clone(), String::new(), Arc::clone(&cluster)));
        let (sender, ended) = mpsc::unbounded_channel();
        let life = Arc::new(Life::new(&config.data_dir, identity.incarnation, Lease::new(None)));
        let follower = Nobody.start().recipient();
        let consensus = start_consensus(config, (&identity, log), &view, &cluster, &life, follower, &Exits(sender))?;
        PeersDoor::open(config, &identity, &consensus, &view, Arc::new(OnceLock::new())).await?;
        begin_life(config, &consensus, &identity).await?;
        let incarnation = identity.incarnation;
        Ok((Self { consensus, view, incarnation, _identity: identity }, ended))
    }

    /// The node and its life: only what names both can be placed here.
    #[must_use]
    pub fn owner(&self) -> (HostId, Incarnation) {
        (self.view.me().clone(), self.incarnation)
    }

    /// Whether this node leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.view.leader().is_some_and(|leader| leader == *self.view.me())
    }

    /// Replicates an encoded command and waits until it is applied here.
    ///
    /// # Errors
    /// It is no command, or the node is ending.
    pub async fn commit(&self, command: &[u8]) -> anyhow::Result<Outcome> {
        let command = placement::decode(command)?;
        let (tell, told) = oneshot::channel();
        self.consensus.do_send(ProposeAndTell { command, tell });
        told.await.context("the node is ending")
    }

    /// What is placed under this id, with everything in it that was acknowledged anywhere before the call.
    ///
    /// # Errors
    /// No majority confirms who leads, or the node is ending.
    pub async fn read(&self, id: &SandboxId) -> anyhow::Result<Option<Place>> {
        let (passed, barrier) = oneshot::channel::<Result<(), WarrenError>>();
        self.consensus.do_send(Barrier(passed));
        barrier.await.context("the node is ending")?.map_err(anyhow::Error::new)?;
        Ok(self.view.placement().get(id).map(|record| record.place.clone()))
    }
}

#[cfg(test)]
mod tests {
    use types::Timestamp;
    use warren_core::placement::{COMMANDS_KNOWN, Command, Kind, Presence, Refusal, encode};

    use super::*;

    #[test]
    fn nothing_is_proposed_that_a_member_would_stop_at() {
        let dir = tempfile::tempdir().unwrap();
        let config = NodeConfig { data_dir: dir.path().to_owned(), ..NodeConfig::default() };
        actix::System::new().block_on(async {
            let (node, _ended) = PlacementAlone::start(&config).await.unwrap();
            let (me, incarnation) = node.owner();
            let commit = async |kind| node.commit(&encode(&Command { time: Timestamp(1), kind })).await.unwrap();
            let other = HostId::new("n2");
            let up = |incarnation, commands| Kind::NodeUp {
                host: HostId::new("n2"),
                incarnation: Incarnation(incarnation),
                presence: Presence { member: 2, commands, ..Presence::default() },
            };
            let restarting = || Kind::NodeRestarting { host: me.clone(), incarnation, for_ms: 1 };
            assert_eq!(commit(up(1, 2)).await, Outcome::NodeUp);
            let lags = Outcome::Refused(Refusal::MemberLags { host: other });
            assert_eq!(commit(restarting()).await, lags, "and it is not in the log");
            assert_eq!(commit(up(2, COMMANDS_KNOWN)).await, Outcome::NodeUp, "the other one was upgraded");
            assert_eq!(commit(restarting()).await, Outcome::NodeRestarting);
        });
    }

    #[test]
    fn a_node_stops_when_another_process_lives_its_life() {
        let dir = tempfile::tempdir().unwrap();
        let config = NodeConfig { data_dir: dir.path().to_owned(), ..NodeConfig::default() };
        actix::System::new().block_on(async {
            let (node, mut ended) = PlacementAlone::start(&config).await.unwrap();
            let (host, incarnation) = node.owner();
            // What a copy of its directory would say elsewhere.
            let kind = Kind::NodeUp { host, incarnation: incarnation.next(), presence: Presence::default() };
            assert!(node.commit(&encode(&Command { time: Timestamp(1), kind })).await.is_err());
            match ended.recv().await {
                Some(ExitReason::ConsensusStopped(why)) => {
                    assert!(why.contains("its data directory was copied"), "{why}")
                }
                other => panic!("{other:?}"),
            }
        });
    }
}
