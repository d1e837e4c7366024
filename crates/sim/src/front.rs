//! A node's front door in the simulation: what a request becomes, on which node, and how it is answered.

use std::sync::Arc;

use types::{
    ErrorCode, Generation, HostId, NetworkMode, OnNodeLoss, Resources, SandboxId, SandboxSpec, Status, WarrenError,
};
use warren_core::lifecycle::{self, Answer, CreatePlan, Ticket};
use warren_core::placement::{DestroyReason, Kind, Outcome, Record};
use warren_core::scheduler::{self, Ask, AskedImage, Candidate, Warm};
use warren_core::slot_digest::SlotDigest;
use warren_core::warm_pool;
use warren_core::wiring::{self, Message};

use crate::agenda::Event;
use crate::clients::{Create, Op, Reply};
use crate::log::Tell;
use crate::mail::{Actor, Letter};
use crate::network::{self, Packet};
use crate::node::{Node, Outside, Phase};

/// Sandboxes that one node takes.
pub const SANDBOXES_MAX: u64 = 16;

/// What a sandbox may use.
pub const RESOURCES: Resources = Resources { cpu: 1_000_000_000, memory: 64 << 20, disk: 0, pids: 64 };

/// Microseconds that a create waits for a leader.
const LED_US_MAX: u64 = 5_000_000;

/// Microseconds that a create waits for another node to bring up what its key made.
const AWAITED_US_MAX: u64 = 65_000_000;

/// Where the numbers of calls that a node serves begin: apart from the clients'.
const CALL_TICKETS: u64 = 1 << 40;

/// Somebody who waits for an answer.
#[derive(Debug, Clone)]
pub struct Waiter {
    pub(crate) op: Op,
    pub(crate) from: From,
}

/// Who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// A client of this front door.
    Client,
    /// Another node, by the number of its call.
    Peer(usize, u64),
    /// The leader's own care for this sandbox.
    Repair(SandboxId),
}

/// What waits for a read barrier.
#[derive(Debug, Clone, Copy)]
pub enum Barrier {
    /// A read.
    Read(Ticket),
    /// A call for a sandbox that the map does not have.
    Locate(Ticket),
    /// A sandbox that is to be taken over.
    TakeOver(Ticket),
    /// The heartbeats that were heard before it.
    Leases,
}

/// A call to another node.
#[derive(Debug, Clone)]
pub struct Call {
    pub(crate) ticket: Ticket,
    /// It was sent elsewhere before.
    pub(crate) again: bool,
}

/// A create that waits until there is a leader.
#[derive(Debug)]
pub struct Unled {
    pub(crate) ticket: Ticket,
    pub(crate) elsewhere: bool,
    pub(crate) until_us: u64,
}

/// The spec of a sandbox of this image.
#[must_use]
pub fn spec(image: &str, image_id: &str, on_node_loss: OnNodeLoss) -> SandboxSpec {
    SandboxSpec {
        template: None,
        image: image.to_owned(),
        image_id: image_id.to_owned(),
        resources: RESOURCES,
        network_mode: NetworkMode::None,
        workdir: None,
        user: None,
        command: Vec::new(),
        writable_rootfs: true,
        tmpfs: Vec::new(),
        labels: std::collections::BTreeMap::new(),
        name: None,
        on_node_loss,
    }
}

pub(crate) fn failed(code: ErrorCode, why: &str) -> Reply {
    Reply::Done(Err(WarrenError::new(code, why)))
}

fn not_found() -> Reply {
    failed(ErrorCode::NotFound, "there is no such sandbox")
}

impl Node {
    /// Takes a client's request.
    pub fn request(&mut self, ticket: Ticket, op: Op, out: &mut Outside<'_>) {
        self.waiting.insert(ticket, Waiter { op: op.clone(), from: From::Client });
        if self.phase != Phase::Open {
            self.reply(ticket, failed(ErrorCode::Unavailable, "the node is starting"), out);
            return;
        }
        match op {
            Op::TakeOver(..) => unreachable!("no client asks for it"),
            Op::Create(_) => self.make(ticket, true, out),
            Op::Get(_) | Op::List => self.ask_barrier(Barrier::Read(ticket), out),
            Op::Exec(id) | Op::Destroy(id) | Op::Stop(id) | Op::Start(id) => {
                if self.map.get(&id).is_some() {
                    self.on_owner(ticket, id, out);
                } else {
                    self.ask_barrier(Barrier::Locate(ticket), out);
                }
            }
        }
    }

    /// A number for what no client of this node waits for.
    pub(crate) fn own_ticket(&mut self, out: &Outside<'_>) -> Ticket {
        self.last_call += 1;
        Ticket(CALL_TICKETS * (out.host as u64 + 1) + (self.life << 24) + self.last_call)
    }

    /// Another node asks for something to be done here.
    pub(crate) fn called(&mut self, from: usize, call: u64, op: Op, seen: Generation, out: &mut Outside<'_>) {
        let ticket = self.own_ticket(out);
        self.waiting.insert(ticket, Waiter { op: op.clone(), from: From::Peer(from, call) });
        if self.phase != Phase::Open {
            self.reply(ticket, failed(ErrorCode::Unavailable, "the node is starting"), out);
            return;
        }
        if let Op::TakeOver(..) = op {
            self.ask_barrier(Barrier::TakeOver(ticket), out);
            return;
        }
        let Some(id) = op.target() else {
            self.make(ticket, false, out);
            return;
        };
        let Some(place) = self.map.get(&id).map(|record| &record.place) else {
            self.reply(ticket, not_found(), out);
            return;
        };
        let (owner, generation) = (place.owner.clone(), place.generation);
        if seen > generation {
            self.reply(ticket, failed(ErrorCode::Unavailable, "the sandbox's node has not heard yet"), out);
        } else if (owner == self.me || self.in_error(&id)) && seen == generation {
            self.here(ticket, id, out);
        } else {
            self.waiting.remove(&ticket);
            out.send(from, Packet::Answer(call, network::Answer::Moved(owner, generation)));
        }
    }

    /// Does it on the owner.
    fn on_owner(&mut self, ticket: Ticket, id: SandboxId, out: &mut Outside<'_>) {
        let Some(place) = self.map.get(&id).map(|record| &record.place) else {
            self.reply(ticket, not_found(), out);
            return;
        };
        let (owner, generation) = (place.owner.clone(), place.generation);
        if owner == self.me || self.in_error(&id) {
            self.here(ticket, id, out);
        } else {
            self.there(ticket, &owner, generation, false, out);
        }
    }

    pub(crate) fn there(
        &mut self,
        ticket: Ticket,
        owner: &HostId,
        seen: Generation,
        again: bool,
        out: &mut Outside<'_>,
    ) {
        let Some(op) = self.waiting.get(&ticket).map(|waiter| waiter.op.clone()) else {
            return;
        };
        if self.reaches_host(owner, out)
            && let Some(to) = self.names.iter().position(|name| name == owner)
        {
            self.last_call += 1;
            let call = self.last_call;
            self.calls.insert(call, Call { ticket, again });
            out.send(to, Packet::Call(call, op, seen));
            let patience_us = out.rng.between(1_000_000, 70_000_000);
            out.agenda.after(patience_us, Event::CallLost(out.host, self.life, call));
        } else if let Op::Destroy(id) = op {
            self.entomb(ticket, id, out);
        } else {
            self.reply(ticket, failed(ErrorCode::Unavailable, "the sandbox's node can not be reached"), out);
        }
    }

    /// Takes a sandbox out of the map whose node can not be reached, or which is in error.
    fn entomb(&mut self, ticket: Ticket, id: SandboxId, out: &mut Outside<'_>) {
        let kind = Kind::Destroy { id, reason: DestroyReason::Asked };
        let pending = self.pending(kind, Some(Tell::Entombed(ticket)), out);
        self.tell(Actor::Consensus, Letter::Propose(pending), out);
    }

    fn in_error(&self, id: &SandboxId) -> bool {
        self.map.get(id).is_some_and(|record| record.failure.is_some())
    }

    /// A sandbox is out of the map whose node could not be reached, or was so already.
    pub(crate) fn entombed(&mut self, ticket: Ticket, outcome: &Outcome, out: &mut Outside<'_>) {
        // A client that was given up has its connection closed: nobody is told.
        if self.waiting.contains_key(&ticket) {
            let reply = if *outcome == Outcome::Destroyed { Reply::Destroying } else { not_found() };
            self.reply(ticket, reply, out);
        }
    }

    /// Another node has answered a call.
    pub(crate) fn call_answered(&mut self, call: u64, answer: network::Answer, out: &mut Outside<'_>) {
        let Some(Call { ticket, again }) = self.calls.remove(&call) else {
            return;
        };
        let create = self.waiting.get(&ticket).is_some_and(|waiter| matches!(waiter.op, Op::Create(_)));
        match answer {
            // It surely did not happen there.
            network::Answer::Reply(Reply::Done(Err(error))) if create && error.code == ErrorCode::Unavailable => {
                self.make(ticket, false, out);
            }
            network::Answer::Reply(reply) => self.reply(ticket, reply, out),
            network::Answer::Moved(..) if again => {
                self.reply(ticket, failed(ErrorCode::Unavailable, "the sandbox is moving between nodes"), out);
            }
            network::Answer::Moved(owner, generation) if owner != self.me => {
                self.there(ticket, &owner, generation, true, out);
            }
            network::Answer::Moved(..) => {
                let id = self.waiting.get(&ticket).and_then(|waiter| waiter.op.target());
                if let Some(id) = id {
                    self.here(ticket, id, out);
                }
            }
        }
    }

    /// The connection of a call is lost: whether it was done is not known.
    pub fn call_lost(&mut self, call: u64, out: &mut Outside<'_>) {
        if let Some(Call { ticket, .. }) = self.calls.remove(&call) {
            self.reply(ticket, failed(ErrorCode::Interrupted, "the sandbox's node was lost meanwhile"), out);
        }
    }

    /// Does it on a sandbox of this node.
    fn here(&mut self, ticket: Ticket, id: SandboxId, out: &mut Outside<'_>) {
        let Some(record) = self.map.get(&id).cloned() else {
            self.reply(ticket, not_found(), out);
            return;
        };
        let slot = record.place.slot;
        if record.failure.is_some() {
            match self.waiting.get(&ticket).map(|waiter| &waiter.op) {
                Some(Op::Destroy(_)) => self.entomb(ticket, id, out),
                _ => self.reply(ticket, failed(ErrorCode::WrongState, "the sandbox is in error"), out),
            }
            return;
        }
        let input = match self.waiting.get(&ticket).map(|waiter| &waiter.op) {
            Some(Op::Exec(_)) => {
                let ran = self.exec(&record, out);
                self.reply(ticket, Reply::Ran(ran), out);
                return;
            }
            Some(Op::Destroy(_)) => lifecycle::Input::Destroy(ticket),
            Some(Op::Stop(_)) => lifecycle::Input::Stop(ticket),
            Some(Op::Start(_)) => lifecycle::Input::Start(ticket),
            _ => return,
        };
        if matches!(input, lifecycle::Input::Stop(_) | lifecycle::Input::Start(_)) {
            if record.is_leased() && !self.leases.holder().lives(out.agenda.boot_ms(out.host)) {
                self.reply(ticket, failed(ErrorCode::Unavailable, "this node is cut off"), out);
                return;
            }
            out.oracle.watch(out.host).begins(slot);
        }
        self.route(Message::Supervisor(slot, input), out);
    }

    fn exec(&mut self, record: &Record, out: &mut Outside<'_>) -> bool {
        let place = &record.place;
        let seen = self.view.get(&place.id).filter(|seen| seen.status == Status::Running);
        let Some(generation) = seen.map(|seen| seen.generation) else {
            return false;
        };
        let boot_ms = out.boot_ms();
        let ran = out.engine.exec(place.slot, generation, boot_ms);
        if ran {
            out.oracle.ran(out.host, place, generation, out.engine, boot_ms);
        }
        ran
    }

    /// Makes a sandbox, here or on the node that has most room for it.
    fn make(&mut self, ticket: Ticket, elsewhere: bool, out: &mut Outside<'_>) {
        let Some(Op::Create(create)) = self.waiting.get(&ticket).map(|waiter| waiter.op.clone()) else {
            return;
        };
        match create.key.as_ref().and_then(|key| self.map.key(key)) {
            Some(Outcome::AlreadyPlaced { winner }) => self.join(ticket, winner, out),
            Some(Outcome::Refused(refusal)) => self.reply(ticket, Reply::Done(Err(refusal.error())), out),
            _ if self.map.owner_refused(&self.me, self.incarnation).is_some() => {
                self.reply(ticket, failed(ErrorCode::Unavailable, "the node begins another life"), out);
            }
            _ if self.leader().is_none() => {
                let until_us = out.agenda.now_us() + LED_US_MAX;
                self.unled.push(Unled { ticket, elsewhere, until_us });
            }
            _ => self.schedule(ticket, create, elsewhere, out),
        }
    }

    /// This node, as a scheduler looks at it.
    pub(crate) fn candidate(&self, out: &Outside<'_>) -> Candidate {
        let shape = SlotDigest::of(&self.pool.target().shape);
        Candidate {
            here: true,
            promised: self.map.load(&self.me),
            sandboxes_max: SANDBOXES_MAX,
            memory_max: SANDBOXES_MAX * RESOURCES.memory,
            warm: vec![Warm { shape, ready: self.pool.ready() as u64 }],
            closed: (self.phase != Phase::Open).then(|| "the node is starting".to_owned()),
            images: crate::repair::images(out.image_version),
            ..Candidate::unknown(self.me.clone(), "")
        }
    }

    fn schedule(&mut self, ticket: Ticket, create: Create, elsewhere: bool, out: &mut Outside<'_>) {
        let mut candidates = vec![self.candidate(out)];
        if elsewhere {
            candidates.extend(self.others(out));
        }
        let image_id = crate::clients::image_id(create.image, out.image_version);
        let spec = spec(create.image, &image_id, create.on_node_loss);
        let (need, shape, image) = (spec.resources, spec.slot_shape(), AskedImage::Here);
        let ask = Ask { need, shape, image, tried: Vec::new() };
        match scheduler::choose(&candidates, &ask).map(|choice| choice.node) {
            Err(_) => self.reply(ticket, failed(ErrorCode::NoCapacity, "no node has room"), out),
            Ok(owner) if owner != self.me => self.there(ticket, &owner, Generation(0), false, out),
            Ok(owner) => {
                let now = out.wall();
                let env: Vec<u8> = (0..8).map(|_| (out.rng.bits() & 0xff) as u8).collect();
                let plan = CreatePlan {
                    ticket,
                    owner,
                    incarnation: self.incarnation,
                    spec: Arc::new(spec),
                    sealed_env: env.into(),
                    expires_at: create.lifetime_ms.and_then(|ms| now.checked_add_ms(ms)),
                    key: create.key,
                    again: None,
                };
                self.route(Message::Pool(warm_pool::Input::Claim(Box::new(plan))), out);
            }
        }
    }

    /// A key has made this sandbox before: the request waits for it, on whichever node it is.
    fn join(&mut self, ticket: Ticket, winner: SandboxId, out: &mut Outside<'_>) {
        match self.map.get(&winner).map(|record| &record.place) {
            Some(place) if place.owner != self.me => {
                self.awaited.insert(ticket, (winner, out.agenda.now_us() + AWAITED_US_MAX));
            }
            Some(place) => {
                let message = wiring::join(place.slot, ticket);
                self.route(message, out);
            }
            None => self.route(wiring::join(winner, ticket), out),
        }
    }

    /// Looks after creates that wait for a leader, or for another node.
    pub(crate) fn look_who_waits(&mut self, out: &mut Outside<'_>) {
        let now_us = out.agenda.now_us();
        let led = self.leader().is_some();
        for Unled { ticket, elsewhere, until_us } in std::mem::take(&mut self.unled) {
            if led {
                self.make(ticket, elsewhere, out);
            } else if now_us >= until_us {
                self.reply(ticket, failed(ErrorCode::NoQuorum, "the cluster has no leader"), out);
            } else {
                self.unled.push(Unled { ticket, elsewhere, until_us });
            }
        }
        let decided: Vec<(Ticket, Reply)> = self
            .awaited
            .iter()
            .filter_map(|(ticket, (winner, until_us))| {
                let reply = match self.map.get(winner).map(|record| self.shown(record, out)) {
                    None => failed(ErrorCode::Gone, "the sandbox was deleted meanwhile"),
                    Some(Status::Creating) if now_us < *until_us => return None,
                    Some(Status::Creating) => failed(ErrorCode::Interrupted, "the sandbox was not up in time"),
                    // Nobody can say more of it at present.
                    Some(status @ (Status::Unreachable | Status::Error)) => Reply::Shown(Some(status)),
                    Some(_) => Reply::Done(Ok(Answer::Created(*winner))),
                };
                Some((*ticket, reply))
            })
            .collect();
        for (ticket, reply) in decided {
            self.awaited.remove(&ticket);
            self.reply(ticket, reply, out);
        }
    }

    /// What a placed sandbox is seen to be.
    pub(crate) fn shown(&self, record: &Record, out: &Outside<'_>) -> Status {
        let place = &record.place;
        let seen = self.view.get(&place.id).filter(|seen| seen.generation == place.generation);
        let lost = self.map.node(&place.owner).is_some_and(|node| node.lost);
        let away = place.owner != self.me && !self.reaches_host(&place.owner, out);
        match seen {
            _ if record.failure.is_some() => Status::Error,
            _ if lost || away => Status::Unreachable,
            Some(seen) => seen.status,
            None => Status::Creating,
        }
    }

    pub(crate) fn begin_barrier(&mut self, barrier: Barrier) -> u64 {
        self.last_barrier += 1;
        self.barriers.insert(self.last_barrier, barrier);
        self.last_barrier
    }

    pub(crate) fn ask_barrier(&mut self, barrier: Barrier, out: &mut Outside<'_>) {
        let id = self.begin_barrier(barrier);
        self.tell(Actor::Consensus, Letter::Consensus(consensus::Input::ReadBarrier { id }), out);
    }

    /// A read barrier is passed.
    pub(crate) fn barrier_passed(&mut self, barrier: u64, out: &mut Outside<'_>) {
        match self.barriers.remove(&barrier) {
            Some(Barrier::Read(ticket)) => self.read(ticket, out),
            Some(Barrier::Locate(ticket)) => {
                if let Some(id) = self.waiting.get(&ticket).and_then(|waiter| waiter.op.target()) {
                    self.on_owner(ticket, id, out);
                }
            }
            Some(Barrier::TakeOver(ticket)) => {
                if let Some(Op::TakeOver(id, generation)) = self.waiting.get(&ticket).map(|waiter| &waiter.op) {
                    let (id, generation) = (*id, *generation);
                    self.take_over(ticket, id, generation, out);
                }
            }
            Some(Barrier::Leases) | None => {}
        }
    }

    fn read(&mut self, ticket: Ticket, out: &mut Outside<'_>) {
        let reply = match self.waiting.get(&ticket).map(|waiter| &waiter.op) {
            Some(Op::Get(id)) => {
                let record = self.map.get(id);
                let status = record.map(|record| self.shown(record, out));
                let owned = record.is_some_and(|record| record.place.owner == self.me);
                if let Some(record) = record.filter(|_| owned && status == Some(Status::Running)) {
                    out.oracle.shown_running(out.host, record.place.slot);
                }
                Reply::Shown(status)
            }
            Some(_) => Reply::Listed(self.map.newest_first().map(|record| record.place.id).collect()),
            None => return,
        };
        self.reply(ticket, reply, out);
    }

    /// A read barrier will not be passed.
    pub(crate) fn barrier_dropped(&mut self, barrier: u64, out: &mut Outside<'_>) {
        if let Some(Barrier::Read(ticket) | Barrier::Locate(ticket) | Barrier::TakeOver(ticket)) =
            self.barriers.remove(&barrier)
        {
            self.reply(ticket, failed(ErrorCode::NoQuorum, "there is no leader"), out);
        }
    }

    /// A core has an answer.
    pub(crate) fn answer(&mut self, ticket: Ticket, answer: Result<Answer, WarrenError>, out: &mut Outside<'_>) {
        if let Some(Waiter { op: Op::Stop(id) | Op::Start(id), .. }) = self.waiting.get(&ticket) {
            let slot = self.map.get(id).map_or(*id, |record| record.place.slot);
            out.oracle.watch(out.host).ends(slot);
        }
        match answer {
            Ok(Answer::Winner(winner)) => self.join(ticket, winner, out),
            other => self.reply(ticket, Reply::Done(other), out),
        }
    }

    pub(crate) fn reply(&mut self, ticket: Ticket, reply: Reply, out: &mut Outside<'_>) {
        match self.waiting.remove(&ticket) {
            Some(Waiter { op, from: From::Client }) => out.replies.push((ticket, op, reply)),
            Some(Waiter { op, from: From::Peer(host, call) }) => {
                out.note(format_args!("answers {op} to {host}: {reply}"));
                out.send(host, Packet::Answer(call, network::Answer::Reply(reply)));
            }
            Some(Waiter { from: From::Repair(id), .. }) => {
                self.repaired(id, matches!(reply, Reply::Done(Ok(_))), out);
            }
            None => out.oracle.broken(
                crate::invariants::Invariant::AnsweredOnce,
                format!("request {} is answered again: {reply}", ticket.0),
            ),
        }
    }
}
