//! A node among the others: its heartbeats, whom it counts as lost while it leads, who votes.

use std::time::Instant;

use actix::Context;
use consensus::{Input, ProposalId};
use peers::wire::{Heartbeat, HeartbeatAck, Message as PeerMessage};
use types::{HostId, Incarnation};
use warren_core::leases::Beat;
use warren_core::placement::{Command, Kind};

use super::{ConsensusActor, Others, Pending};
use crate::actors::members;
use crate::hub::{boottime_ms, now};

impl ConsensusActor {
    pub(super) fn send_heartbeat(&mut self) {
        let (number, incarnation) = (self.leases.send(boottime_ms()), self.others.life.now());
        if self.leadership.is_self {
            self.leases.hear(boottime_ms(), Beat { host: self.me.clone(), incarnation, number });
        } else if let Some(leader) = self.view.leader() {
            let host = self.me.to_string();
            let sent_boottime_ms = boottime_ms();
            let beat = Heartbeat { host, incarnation: incarnation.0, sequence: number, sent_boottime_ms };
            self.others.cluster.send(&leader, PeerMessage::Heartbeat(beat));
        }
    }

    /// A quorum has confirmed, after these were heard, that this node leads.
    pub(super) fn acknowledge(&mut self, barrier: u64) {
        for Beat { host, incarnation, number } in self.leases.confirmed(barrier, &self.map) {
            if host == self.me {
                self.leases.acknowledged(number);
                self.others.life.lease.extend(self.leases.holder().until_ms());
            } else {
                let ack = HeartbeatAck { sequence: number, incarnation: incarnation.0 };
                self.others.cluster.send(&host, PeerMessage::HeartbeatAck(ack));
            }
        }
    }

    pub(super) fn declare_lost(&mut self, ctx: &mut Context<Self>) {
        for (host, incarnation) in self.leases.lost(boottime_ms(), &self.map, &self.me) {
            tracing::warn!(node = %host, "not heard for too long, declaring it lost");
            let restarting = self.map.node(&host).is_some_and(|node| node.restarting.is_some());
            let command = Command { time: now(), kind: Kind::NodeLost { host, incarnation, restarting } };
            self.propose(Pending { command, since: Instant::now(), tell: None }, ctx);
        }
    }

    pub(super) fn node_lost(&mut self, host: &HostId, incarnation: Incarnation) -> Result<(), String> {
        self.leases.declared(host);
        tracing::warn!(node = %host, %incarnation, "a node is lost");
        if *host == self.me { self.live_on(incarnation) } else { Ok(()) }
    }

    /// This node counts as lost in that life. If that is its present one, it was not heard although it lives: what it
    /// proposed in it is refused from here on.
    pub(super) fn live_on(&mut self, lost: Incarnation) -> Result<(), String> {
        if lost != self.others.life.now() {
            return Ok(());
        }
        let incarnation =
            self.others.life.begin_next().map_err(|error| format!("the next life can not be recorded: {error}"))?;
        let kind = Kind::NodeUp { host: self.me.clone(), incarnation, presence: self.others.presence.clone() };
        let command = Command { time: now(), kind };
        self.again.push_back(Pending { command, since: Instant::now(), tell: None });
        Ok(())
    }

    /// The leader brings the membership to what it should be, one change at a time.
    pub(super) fn look_after_members(&mut self, ctx: &mut Context<Self>) {
        if !self.leadership.is_self || self.changing.is_some() {
            return;
        }
        let Others { cluster, presence, .. } = &self.others;
        if let Some(step) =
            members::next_step(&self.core, &self.map, (cluster, &self.leases), &self.me, presence.member)
        {
            tracing::info!(?step, "the membership changes");
            let proposal = ProposalId(self.next_proposal);
            self.next_proposal += 1;
            self.changing = Some(proposal);
            self.feed(Input::ChangeMembers { proposal, change: members::conf_change(&step) }, ctx);
        }
    }
}
