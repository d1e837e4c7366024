//! From the actor's mailbox into its core.

use std::time::Instant;

use actix::{Actor, AsyncContext, Context, Handler};
use consensus::Input;
use warren_core::placement::{Command, DestroyReason, Kind};

use super::messages::Drive;
use super::{
    Acked, AnnounceRestart, Barrier, ConsensusActor, FromPeer, Heard, Pending, Persisted, Propose, ProposeAndTell, TICK,
};
use crate::actors::CONSENSUS_MAILBOX;
use crate::hub::{boottime_ms, now};
use crate::kill_point;

impl Actor for ConsensusActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(CONSENSUS_MAILBOX);
        ctx.run_interval(TICK, Self::tick);
        self.feed(Input::Tick, ctx);
    }
}

impl Handler<Propose> for ConsensusActor {
    type Result = ();

    fn handle(&mut self, Propose(command): Propose, ctx: &mut Self::Context) {
        if matches!(command.kind, Kind::Destroy { reason: DestroyReason::Expired { .. }, .. }) {
            kill_point::reached("expire.due");
        }
        let point = match command.kind {
            Kind::Place(_) => Some("create.proposed"),
            Kind::Move(_) => Some("move.proposed"),
            Kind::Destroy { .. } => Some("destroy.proposed"),
            _ => None,
        };
        self.propose(Pending { command, since: Instant::now(), tell: None }, ctx);
        if let Some(point) = point {
            kill_point::reached(point);
        }
    }
}

impl Handler<ProposeAndTell> for ConsensusActor {
    type Result = ();

    fn handle(&mut self, ProposeAndTell { command, tell }: ProposeAndTell, ctx: &mut Self::Context) {
        self.propose(Pending { command, since: Instant::now(), tell: Some(tell) }, ctx);
    }
}

impl Handler<AnnounceRestart> for ConsensusActor {
    type Result = ();

    fn handle(&mut self, AnnounceRestart { for_ms, tell }: AnnounceRestart, ctx: &mut Self::Context) {
        self.announced = Some((boottime_ms(), for_ms));
        let kind = Kind::NodeRestarting { host: self.me.clone(), incarnation: self.others.life.now(), for_ms };
        let command = Command { time: now(), kind };
        self.propose(Pending { command, since: Instant::now(), tell: Some(tell) }, ctx);
    }
}

impl Handler<Barrier> for ConsensusActor {
    type Result = ();

    fn handle(&mut self, Barrier(done): Barrier, ctx: &mut Self::Context) {
        let id = self.next_barrier;
        self.next_barrier += 1;
        self.barriers.insert(id, done);
        self.feed(Input::ReadBarrier { id }, ctx);
    }
}

impl Handler<Heard> for ConsensusActor {
    type Result = ();

    fn handle(&mut self, Heard(beat): Heard, _: &mut Self::Context) {
        self.leases.hear(boottime_ms(), beat);
    }
}

impl Handler<Acked> for ConsensusActor {
    type Result = ();

    fn handle(&mut self, Acked { incarnation, number }: Acked, _: &mut Self::Context) {
        if incarnation == self.others.life.now() {
            self.leases.acknowledged(number);
            self.others.life.lease.extend(self.leases.holder().until_ms());
        }
    }
}

impl Handler<FromPeer> for ConsensusActor {
    type Result = ();

    fn handle(&mut self, FromPeer(host, message): FromPeer, ctx: &mut Self::Context) {
        if let Some(member) = consensus::sender(&message) {
            self.others.cluster.speaks_as(&host, member);
        }
        self.feed(Input::Step { message }, ctx);
    }
}

impl Handler<Persisted> for ConsensusActor {
    type Result = ();

    fn handle(&mut self, Persisted(result): Persisted, ctx: &mut Self::Context) {
        match result {
            Ok(batch) => {
                self.gauges.durable(batch);
                self.feed(Input::Persisted { batch }, ctx);
            }
            Err(reason) => self.feed(Input::PersistFailed { batch: 0, reason }, ctx),
        }
    }
}

impl Handler<Drive> for ConsensusActor {
    type Result = ();

    fn handle(&mut self, _: Drive, ctx: &mut Self::Context) {
        self.driving = false;
        let outputs = self.core.handle(Input::Drive);
        self.carry_out(outputs, ctx);
    }
}
