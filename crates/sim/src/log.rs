//! A node's consensus in the simulation: what is proposed, applied and sent, as the node's actor does it.

use consensus::{Committed, Input, Output, ProposalId, members_change};
use types::{HostId, Incarnation};
use warren_core::lease::HEARTBEAT_MS;
use warren_core::leases::Beat;
use warren_core::lifecycle::Ticket;
use warren_core::membership::{Change, Members, known, plan};
use warren_core::placement::{self, Command, Kind, Outcome};
use warren_core::wiring::{self, Message};

use crate::agenda::Event;
use crate::front::Barrier;
use crate::mail::{Actor, Letter};
use crate::network::Packet;
use crate::node::{Node, Outside, Phase, TICK_US};
use crate::weather::Bug;

/// Ticks between two looks at who should vote and who is late.
const MEMBERSHIP_TICKS: u64 = 5;

/// Microseconds after which a proposal of which nothing was heard is made again.
const PROPOSE_AGAIN_US: u64 = 3_000_000;

/// Ticks between two heartbeats.
const HEARTBEAT_TICKS: u64 = HEARTBEAT_MS * 1_000 / TICK_US;

/// Ticks between two looks for containers that are nobody's.
const STOCK_TICKS: u64 = 100;

/// Microseconds that a life may take to begin.
const BEGINS_US_MAX: u64 = 30_000_000;

/// Why a life ends that could not begin.
pub const NO_MAJORITY: &str = "no majority has let this life begin";

/// A proposal under way.
#[derive(Debug)]
pub struct Pending {
    pub(crate) command: Command,
    pub(crate) since_us: u64,
    pub(crate) tell: Option<Tell>,
}

/// Who is told what a proposal came to.
#[derive(Debug, Clone, Copy)]
pub enum Tell {
    /// The node that begins.
    Up,
    /// Whoever wants a sandbox ended whose node can not be reached.
    Entombed(Ticket),
    /// A newcomer, by the number of its asking.
    Newcomer(usize, u64),
}

impl Node {
    /// The proposal that says that this life has begun.
    pub(crate) fn up(&self, tell: Option<Tell>, out: &Outside<'_>) -> Pending {
        let kind =
            Kind::NodeUp { host: self.me.clone(), incarnation: self.incarnation, presence: self.presence.clone() };
        self.pending(kind, tell, out)
    }

    pub(crate) fn pending(&self, kind: Kind, tell: Option<Tell>, out: &Outside<'_>) -> Pending {
        Pending { command: Command { time: out.wall(), kind }, since_us: out.agenda.now_us(), tell }
    }

    pub(crate) fn drive(&mut self, letters: Vec<Letter>, out: &mut Outside<'_>) {
        for letter in letters {
            match letter {
                Letter::Consensus(input) => self.feed(input, out),
                Letter::Tick => self.ticked(out),
                Letter::Core(Message::Propose(command)) => {
                    let pending = Pending { command, since_us: out.agenda.now_us(), tell: None };
                    self.propose(pending, out);
                }
                Letter::Propose(pending) => self.propose(pending, out),
                Letter::Beat(beat) => self.leases.hear(out.boot_ms(), beat),
                Letter::BeatAck(incarnation, number) => {
                    if incarnation == self.incarnation {
                        self.acknowledged(number, out);
                    }
                }
                Letter::Core(other) => unreachable!("{other:?} does not go to consensus"),
            }
        }
        self.feed(Input::Drive, out);
    }

    pub(crate) fn feed(&mut self, input: Input, out: &mut Outside<'_>) {
        if self.halted.is_none() {
            let outputs = self.consensus.handle(input);
            self.carry_out(outputs, out);
        }
    }

    fn propose(&mut self, pending: Pending, out: &mut Outside<'_>) {
        let what = crate::words::command(&pending.command.kind);
        if self.map.may_propose(&pending.command.kind).is_err() {
            out.note(format_args!("may not propose {what} yet"));
            self.proposal_dropped(pending, out);
            return;
        }
        if out.rng.chance(out.weather.proposal_dropped_ppm) {
            out.note(format_args!("no room to propose {what}"));
            self.proposal_dropped(pending, out);
            return;
        }
        self.last_number += 1;
        let proposal = ProposalId(self.last_number);
        out.note(format_args!("proposes {what}"));
        let data = placement::encode(&pending.command).into();
        let as_leader = pending.command.kind.is_the_leaders();
        self.proposals.insert(proposal, pending);
        let input = match as_leader {
            true => Input::ProposeAsLeader { proposal, data },
            false => Input::Propose { proposal, data },
        };
        self.feed(input, out);
    }

    /// What only a leader can know is known anew, or not at all.
    fn propose_again(&mut self, pending: Pending, out: &mut Outside<'_>) {
        if let Kind::NodeLost { host, .. } = &pending.command.kind {
            self.leases.declared(host);
        } else {
            self.propose(pending, out);
        }
    }

    fn proposal_dropped(&mut self, pending: Pending, out: &mut Outside<'_>) {
        if pending.tell.is_some() || pending.command.kind.sandbox().is_none() {
            self.again.push_back(pending);
        } else {
            let holder = self.map.holder(&pending.command.kind);
            if let Some(message) = wiring::dropped(holder.as_ref(), &pending.command) {
                self.route(message, out);
            }
        }
    }

    fn carry_out(&mut self, outputs: Vec<Output>, out: &mut Outside<'_>) {
        for output in outputs {
            match output {
                Output::Persist(batch) => {
                    let number = batch.number;
                    if out.disk.write(batch) {
                        self.flush_begins(out);
                    }
                    if out.weather.bug == Some(Bug::AnswerBeforeFlush) {
                        let news = Input::Persisted { batch: number };
                        self.tell(Actor::Consensus, Letter::Consensus(news), out);
                    }
                }
                Output::Apply(committed) => self.apply(&committed, out),
                Output::ApplySnapshot { index, data } => self.install(index, &data, out),
                Output::Dropped { proposal, .. } => {
                    if self.changing == Some(proposal) {
                        self.changing = None;
                    }
                    if let Some(pending) = self.proposals.remove(&proposal) {
                        self.proposal_dropped(pending, out);
                    }
                }
                Output::ReadReady { id, .. } => {
                    self.acknowledge(id, out);
                    self.barrier_passed(id, out);
                }
                Output::ReadDropped { id, .. } => {
                    self.leases.not_confirmed(id);
                    self.barrier_dropped(id, out);
                }
                Output::Halt { reason } => {
                    out.note(format_args!("halts: {reason}"));
                    self.halted = Some(reason);
                    return;
                }
                Output::Leadership(leadership) => {
                    out.note(format_args!("term {}, leader {:?}", leadership.term, leadership.leader));
                    self.leases.leadership(out.boot_ms(), leadership.is_self);
                    self.leadership = leadership;
                    self.changing = None;
                    if leadership.leader.is_some() {
                        self.propose_all_again();
                    }
                }
                Output::Members { index, members, .. } => {
                    out.note(format_args!("applies {index}: {:?} vote, {:?} learn", members.voters, members.learners));
                    self.changing = None;
                    // A leader may decide what follows a change before it has applied the change.
                    self.voters = self.voters.split_off(self.voters.len() - 1);
                    self.voters.push(members);
                }
                Output::SnapshotRefused { .. } => {}
                Output::SnapshotWanted { .. } => self.give_snapshot(out),
                Output::Send { to, message, snapshot } => self.send_raft(to, message, snapshot, out),
            }
        }
    }

    fn send_raft(&mut self, to: u64, message: bytes::Bytes, snapshot: bool, out: &mut Outside<'_>) {
        let host = self.members.get(&to).copied().filter(|host| *host != out.host);
        if let Some(host) = host {
            out.send(host, Packet::Raft(message));
        }
        if snapshot {
            self.feed(Input::SnapshotSent { peer: to, arrived: host.is_some() }, out);
        } else if host.is_none() {
            self.feed(Input::Unreachable { peer: to }, out);
        }
    }

    fn apply(&mut self, committed: &Committed, out: &mut Outside<'_>) {
        let index = committed.index;
        let command = placement::decode(&committed.data).expect("this version wrote it");
        let pending = committed.proposal.and_then(|proposal| self.proposals.remove(&proposal));
        if let Some(pending) = &pending {
            out.oracle.came_back(&pending.command, &command);
        }
        out.oracle.applied(self.map.applied(), (index, committed.term), &committed.data, &self.voters);
        let holder = self.map.holder(&command.kind);
        let outcome = self.map.apply(index, &command);
        let what = crate::words::command(&command.kind);
        out.note(format_args!("applies {index}: {what}: {}", crate::words::outcome(&outcome)));
        out.oracle.map_is(&self.map);
        self.follow();
        match (&command.kind, &outcome) {
            (Kind::NodeLost { host, incarnation, .. }, Outcome::NodeLost) => self.node_lost(host, *incarnation, out),
            (Kind::NodeUp { host, incarnation, .. }, Outcome::NodeUp) => {
                self.leases.began(out.boot_ms(), host, *incarnation);
            }
            _ => {}
        }
        if self.phase != Phase::Replaying {
            for message in wiring::applied(&self.me, holder.as_ref(), &command, &outcome) {
                self.route(message, out);
            }
        }
        if let Some(tell) = pending.and_then(|pending| pending.tell) {
            self.told(tell, &outcome, out);
        }
        if self.map.applied() - self.snapshot_index >= out.weather.snapshot_every {
            self.give_snapshot(out);
        }
    }

    fn told(&mut self, tell: Tell, outcome: &Outcome, out: &mut Outside<'_>) {
        match (tell, outcome) {
            (Tell::Up, Outcome::NodeUp) => {
                self.phase = Phase::Listing;
                out.oracle.caught_up(&self.map);
                self.ask_for_list(out);
            }
            (Tell::Up, other) => self.halted = Some(format!("this life could not begin: {other:?}")),
            (Tell::Entombed(ticket), outcome) => self.entombed(ticket, outcome, out),
            (Tell::Newcomer(host, ask), Outcome::Joined { member }) => {
                let members = self.members.iter().map(|(member, host)| (*member, *host)).collect();
                out.send(host, Packet::Accepted(ask, *member, members));
            }
            (Tell::Newcomer(..), _) => {}
        }
    }

    fn install(&mut self, index: u64, data: &[u8], out: &mut Outside<'_>) {
        self.map = placement::decode_snapshot(data).expect("this version wrote it");
        out.oracle.plant_into(&mut self.map);
        if self.map.applied() < index {
            self.map.skip(index);
        }
        self.snapshot_index = index;
        self.voters = vec![self.consensus.members()];
        out.note(format_args!("takes a snapshot of {index} over"));
        out.oracle.map_is(&self.map);
        self.propose_all_again();
        match self.map.incarnation(&self.me) {
            Some(incarnation) if self.map.is_lost(&self.me, incarnation) => self.live_on(incarnation, out),
            _ => {}
        }
        self.follow();
        if self.phase == Phase::Open {
            self.take_up_what_is_owed(out);
        }
    }

    /// Follows the map: who bears which member id.
    fn follow(&mut self) {
        for (host, node) in self.map.nodes() {
            if let Some(at) = self.names.iter().position(|name| name == host) {
                self.members.insert(node.presence.member, at);
            }
        }
    }

    /// At the next tick, all of which nothing was heard: where it went may be lost.
    fn propose_all_again(&mut self) {
        self.again.extend(std::mem::take(&mut self.proposals).into_values());
    }

    fn give_snapshot(&mut self, out: &mut Outside<'_>) {
        let index = self.map.applied();
        let data = placement::encode_snapshot(&self.map).into();
        self.snapshot_index = index;
        self.tell(Actor::Consensus, Letter::Consensus(Input::Snapshot { index, data }), out);
    }

    /// The clock ticks.
    pub fn tick(&mut self, out: &mut Outside<'_>) {
        self.tell(Actor::Consensus, Letter::Tick, out);
        self.ticks += 1;
        self.look_who_waits(out);
        self.gossip(out);
        self.look_after_lost(out);
        if self.ticks.is_multiple_of(STOCK_TICKS) {
            self.take_stock(out);
        }
        if self.phase == Phase::Replaying && out.agenda.now_us() > self.began_us + BEGINS_US_MAX {
            self.halted = Some(NO_MAJORITY.to_owned());
        }
        out.agenda.after(TICK_US, Event::Tick(out.host, self.life));
    }

    fn ticked(&mut self, out: &mut Outside<'_>) {
        self.feed(Input::Tick, out);
        for pending in std::mem::take(&mut self.again) {
            self.propose_again(pending, out);
        }
        let now_us = out.agenda.now_us();
        let silent = |pending: &Pending| now_us >= pending.since_us + PROPOSE_AGAIN_US;
        let silent: Vec<ProposalId> =
            self.proposals.iter().filter(|(_, pending)| silent(pending)).map(|(proposal, _)| *proposal).collect();
        for proposal in silent {
            if let Some(pending) = self.proposals.remove(&proposal) {
                self.propose_again(Pending { since_us: now_us, ..pending }, out);
            }
        }
        if self.ticks.is_multiple_of(MEMBERSHIP_TICKS) {
            self.look_after_members(out);
            self.declare_lost(out);
        }
        if self.ticks.is_multiple_of(HEARTBEAT_TICKS) {
            self.send_heartbeat(out);
        }
        if self.leases.wants_confirmation() {
            let id = self.begin_barrier(Barrier::Leases);
            self.leases.confirm_by(id);
            self.feed(Input::ReadBarrier { id }, out);
        }
    }

    fn send_heartbeat(&mut self, out: &mut Outside<'_>) {
        let number = self.leases.send(out.boot_ms());
        if self.leadership.is_self {
            let beat = Beat { host: self.me.clone(), incarnation: self.incarnation, number };
            self.leases.hear(out.boot_ms(), beat);
        } else if let Some(leader) = self.leader().filter(|leader| *leader != out.host) {
            out.send(leader, Packet::Beat(self.me.clone(), self.incarnation, number));
        }
    }

    /// The node that leads, where one is known.
    pub(crate) fn leader(&self) -> Option<usize> {
        let host = self.map.host_of(self.leadership.leader?)?;
        self.names.iter().position(|name| name == host)
    }

    /// A quorum has confirmed, after these were heard, that this node leads.
    fn acknowledge(&mut self, barrier: u64, out: &mut Outside<'_>) {
        for Beat { host, incarnation, number } in self.leases.confirmed(barrier, &self.map) {
            if host == self.me {
                self.acknowledged(number, out);
            } else if let Some(at) = self.names.iter().position(|name| *name == host) {
                out.send(at, Packet::BeatAck(incarnation, number));
            }
        }
    }

    fn acknowledged(&mut self, number: u64, out: &mut Outside<'_>) {
        self.leases.acknowledged(number);
        out.engine.lease = (self.incarnation, self.leases.holder().until_ms());
    }

    fn declare_lost(&mut self, out: &mut Outside<'_>) {
        for (host, incarnation) in self.leases.lost(out.boot_ms(), &self.map, &self.me) {
            let restarting = self.map.node(&host).is_some_and(|node| node.restarting.is_some());
            let pending = self.pending(Kind::NodeLost { host, incarnation, restarting }, None, out);
            self.propose(pending, out);
        }
    }

    fn node_lost(&mut self, host: &HostId, incarnation: Incarnation, out: &mut Outside<'_>) {
        self.leases.declared(host);
        if *host == self.me {
            self.live_on(incarnation, out);
        }
    }

    /// This node counts as lost in that life.
    fn live_on(&mut self, lost: Incarnation, out: &mut Outside<'_>) {
        if lost != self.incarnation {
            return;
        }
        // It lives, and was not heard: what it proposed in this life is refused from here on.
        self.incarnation = out.incarnation.next();
        *out.incarnation = self.incarnation;
        out.note(format_args!("finds itself lost, and begins life {}", self.incarnation));
        let pending = self.up(None, out);
        self.again.push_back(pending);
    }

    /// The leader brings the membership to what it should be, one change at a time.
    fn look_after_members(&mut self, out: &mut Outside<'_>) {
        if !self.leadership.is_self || self.changing.is_some() {
            return;
        }
        let now = self.consensus.members();
        let members = Members {
            changing: !now.voters_outgoing.is_empty(),
            voters: now.voters.into_iter().collect(),
            learners: now.learners.into_iter().chain(now.learners_next).collect(),
        };
        let boot_ms = out.boot_ms();
        let reached = |host: &HostId, life| self.reaches_host(host, out) && self.leases.hears(boot_ms, host, life);
        let (core, committed) = (&self.consensus, self.consensus.status().committed);
        let known = known(&self.map, &self.me, committed, reached, |id| core.matched(id));
        if let Some(step) = plan(self.presence.member, &members, &known) {
            out.note(format_args!("the membership changes: {step:?}"));
            self.last_number += 1;
            let proposal = ProposalId(self.last_number);
            self.changing = Some(proposal);
            let Change { voters, learners, out: gone } = step.change();
            self.feed(Input::ChangeMembers { proposal, change: members_change(&voters, &learners, &gone) }, out);
        }
    }
}
