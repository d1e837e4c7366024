//! Consensus on a thread of its own: takes in proposals and barriers, has batches written, applies
//! what is committed, publishes the map and sends on what concerns this node.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{ActorContext, AsyncContext, Context, Recipient};
use bytes::Bytes;
use consensus::{Committed, Consensus, DropReason, Input, Leadership, LogWriter, Output, ProposalId};
use tokio::sync::oneshot;
use types::{ErrorCode, HostId, Incarnation, WarrenError};
use warren_core::lease::HEARTBEAT_MS;
use warren_core::leases::Leases;
use warren_core::placement::{self, COMMANDS_KNOWN, Command, DecodeError, Kind, Lagging, Outcome, Placement};
use warren_core::wiring;

mod handlers;
mod messages;
mod standing;

pub use messages::{Acked, AnnounceRestart, Barrier, FromPeer, Heard, Others, Persisted, Propose, ProposeAndTell};
use messages::{Drive, Passed};

use super::follower::Deliver;
use super::gauges::Gauges;
use crate::hub::boottime_ms;
use crate::kill_point;
use crate::start::{ExitReason, Exits};
use crate::view::View;

/// Length of one Raft tick; an election takes ten of them.
pub const TICK: Duration = Duration::from_millis(100);

/// Applied entries after which the map is kept as a snapshot and the log behind it goes.
const SNAPSHOT_EVERY_ENTRIES: u64 = 20_000;

/// Ticks between two looks at who should vote.
const MEMBERSHIP_TICKS: u64 = 5;

/// Time after which a proposal of which nothing was heard is made again: a leader that was lost may
/// have taken it along. Every command can be applied twice.
const PROPOSE_AGAIN_AFTER: Duration = Duration::from_secs(3);

/// Ticks between two heartbeats.
const HEARTBEAT_TICKS: u64 = HEARTBEAT_MS / (TICK.as_millis() as u64);

/// The actor.
pub struct ConsensusActor {
    core: Consensus,
    writer: LogWriter,
    map: Placement,
    snapshot_index: u64,
    me: HostId,
    view: Arc<View>,
    others: Others,
    follower: Recipient<Deliver>,
    exits: Exits,
    ticks: u64,
    leases: Leases,
    /// When the restart of this life was announced, and for how long.
    announced: Option<(u64, u64)>,
    /// A change of the membership is under way.
    changing: Option<ProposalId>,
    next_proposal: u64,
    proposals: BTreeMap<ProposalId, Pending>,
    again: VecDeque<Pending>,
    next_barrier: u64,
    barriers: BTreeMap<u64, Passed>,
    driving: bool,
    leadership: Leadership,
    gauges: Gauges,
}

struct Pending {
    command: Command,
    since: Instant,
    tell: Option<oneshot::Sender<Outcome>>,
}

/// What is sent on once the map is published.
#[derive(Default)]
struct Afterwards {
    deliver: Vec<wiring::Message>,
    told: Vec<(oneshot::Sender<Outcome>, Outcome)>,
    passed: Vec<(Passed, Result<(), WarrenError>)>,
}

impl ConsensusActor {
    /// An actor around a core that was just made.
    pub fn new(
        core: Consensus,
        writer: LogWriter,
        view: Arc<View>,
        others: Others,
        follower: Recipient<Deliver>,
        exits: Exits,
    ) -> Self {
        Self {
            core,
            writer,
            others,
            ticks: 0,
            leases: Leases::default(),
            announced: None,
            changing: None,
            map: Placement::default(),
            snapshot_index: 0,
            me: view.me().clone(),
            gauges: Gauges::new(Arc::clone(&view)),
            view,
            follower,
            exits,
            next_proposal: 0,
            proposals: BTreeMap::new(),
            again: VecDeque::new(),
            next_barrier: 0,
            barriers: BTreeMap::new(),
            driving: false,
            leadership: Leadership::default(),
        }
    }

    fn feed(&mut self, input: Input, ctx: &mut Context<Self>) {
        let outputs = self.core.handle(input);
        self.carry_out(outputs, ctx);
        if !self.driving {
            self.driving = true;
            ctx.notify(Drive);
        }
    }

    fn propose(&mut self, pending: Pending, ctx: &mut Context<Self>) {
        if let Err(lagging) = self.map.may_propose(&pending.command.kind) {
            self.refuse(pending, &lagging);
            return;
        }
        let proposal = ProposalId(self.next_proposal);
        self.next_proposal += 1;
        let data = Bytes::from(placement::encode(&pending.command));
        let as_leader = pending.command.kind.is_the_leaders();
        self.proposals.insert(proposal, pending);
        self.feed(
            if as_leader { Input::ProposeAsLeader { proposal, data } } else { Input::Propose { proposal, data } },
            ctx,
        );
    }

    /// A member would stop at this command: it is surely not proposed, and whoever waits is told why.
    fn refuse(&self, pending: Pending, lagging: &Lagging) {
        tracing::warn!(why = %lagging, "a command is not proposed");
        let mut after = Afterwards::default();
        match pending.tell {
            Some(tell) => after.told.push((tell, Outcome::Refused(lagging.clone().into()))),
            None => {
                let holder = self.map.holder(&pending.command.kind);
                after.deliver.extend(wiring::dropped(holder.as_ref(), &pending.command));
            }
        }
        self.send_on(after);
    }

    /// What only a leader can know is known anew, or not at all.
    fn propose_again(&mut self, pending: Pending, ctx: &mut Context<Self>) {
        if let Kind::NodeLost { host, .. } = &pending.command.kind {
            self.leases.declared(host);
        } else {
            self.propose(pending, ctx);
        }
    }

    fn carry_out(&mut self, outputs: Vec<Output>, ctx: &mut Context<Self>) {
        let mut after = Afterwards::default();
        let applied_before = self.map.applied();
        for output in outputs {
            let done = match output {
                Output::Persist(batch) => {
                    self.gauges.handed_over(batch.number);
                    self.writer.write(batch).map_err(|error| error.to_string())
                }
                Output::Apply(committed) => self.apply(&committed, &mut after),
                Output::ApplySnapshot { index, data } => self.install(index, &data),
                Output::ReadReady { id, .. } => {
                    self.acknowledge(id);
                    after.passed.extend(self.barriers.remove(&id).map(|barrier| (barrier, Ok(()))));
                    Ok(())
                }
                Output::ReadDropped { id, reason } => {
                    self.leases.not_confirmed(id);
                    let code =
                        if reason == DropReason::NoLeader { ErrorCode::NoQuorum } else { ErrorCode::Unavailable };
                    let error = WarrenError::new(code, format!("cannot read reliably: {reason}"));
                    after.passed.extend(self.barriers.remove(&id).map(|barrier| (barrier, Err(error))));
                    Ok(())
                }
                Output::Dropped { proposal, reason } => {
                    self.dropped(proposal, &reason.to_string(), &mut after);
                    Ok(())
                }
                Output::Leadership(leadership) => {
                    tracing::info!(term = leadership.term, leads = leadership.is_self, "leadership");
                    self.leases.leadership(boottime_ms(), leadership.is_self);
                    self.leadership = leadership;
                    self.changing = None;
                    if leadership.leader.is_some() {
                        self.propose_all_again();
                    }
                    self.view.set_leader(leadership.leader);
                    self.send_heartbeat();
                    Ok(())
                }
                Output::SnapshotWanted { .. } => {
                    self.give_snapshot(ctx);
                    Ok(())
                }
                Output::SnapshotRefused { index, reason } => {
                    tracing::warn!(index, %reason, "a snapshot was of no use");
                    Ok(())
                }
                Output::Members { index, members, .. } => {
                    tracing::info!(index, voters = ?members.voters, learners = ?members.learners, "membership");
                    self.gauges.publish(&self.core, self.leadership, self.leases.holder().until_ms());
                    self.changing = None;
                    Ok(())
                }
                Output::Send { to, message, snapshot } => {
                    self.send(to, message, snapshot, ctx);
                    Ok(())
                }
                Output::Halt { reason } => Err(reason),
            };
            if let Err(reason) = done {
                tracing::error!(%reason, "consensus stops");
                self.exits.end(ExitReason::ConsensusStopped(reason));
                ctx.stop();
                return;
            }
        }
        if self.map.applied() != applied_before {
            self.view.publish(self.map.clone());
            self.others.cluster.follow(&self.map);
        }
        self.send_on(after);
        if self.map.applied() - self.snapshot_index >= SNAPSHOT_EVERY_ENTRIES {
            self.give_snapshot(ctx);
        }
    }

    fn send_on(&self, after: Afterwards) {
        for message in after.deliver {
            // May not be lost, so it does not ask whether there is room.
            self.follower.do_send(Deliver(message));
        }
        for (tell, outcome) in after.told {
            if tell.send(outcome).is_err() {
                tracing::debug!("nobody waits for this outcome any more");
            }
        }
        for (barrier, result) in after.passed {
            if barrier.send(result).is_err() {
                tracing::debug!("nobody waits for this barrier any more");
            }
        }
    }

    fn apply(&mut self, committed: &Committed, after: &mut Afterwards) -> Result<(), String> {
        let pending = committed.proposal.and_then(|proposal| self.proposals.remove(&proposal));
        if let Some(pending) = &pending {
            self.gauges.applied(pending.since);
        }
        if committed.data.is_empty() {
            self.map.skip(committed.index);
            return Ok(());
        }
        let command = placement::decode(&committed.data)
            .map_err(|error| not_for_this_version(&format!("entry {} of the log", committed.index), &error))?;
        let holder = self.map.holder(&command.kind);
        let outcome = self.map.apply(committed.index, &command);
        tracing::debug!(index = committed.index, ?outcome, sandbox = ?command.kind.sandbox(), "applied");
        if let (Kind::NodeLost { host, incarnation, .. }, Outcome::NodeLost) = (&command.kind, &outcome) {
            if self.leadership.is_self {
                kill_point::reached("node.lost");
            }
            self.node_lost(host, *incarnation)?;
        }
        if let (Kind::NodeUp { host, incarnation, .. }, Outcome::NodeUp) = (&command.kind, &outcome) {
            if *host == self.me && *incarnation > self.others.life.now() {
                return Err(two_of_one(host, *incarnation));
            }
            self.leases.began(boottime_ms(), host, *incarnation);
            if *host == self.me {
                // Its sandboxes wait for the lease.
                self.send_heartbeat();
            }
        }
        if matches!(command.kind, Kind::NodeUp { .. } | Kind::Join { .. }) {
            self.others.known_peers.follow(&self.me, &self.map);
        }
        if let (Kind::NodeRestarting { host, incarnation, .. }, Outcome::NodeRestarting) = (&command.kind, &outcome) {
            self.leases.restarting(boottime_ms(), host, *incarnation);
            if *host == self.me
                && *incarnation == self.others.life.now()
                && let Some((sent_ms, for_ms)) = self.announced
            {
                self.leases.restarts(sent_ms, for_ms);
                self.others.life.lease.extend(self.leases.holder().until_ms());
            }
        }
        after.deliver.extend(wiring::applied(&self.me, holder.as_ref(), &command, &outcome));
        if let Some(tell) = pending.and_then(|pending| pending.tell) {
            after.told.push((tell, outcome));
        }
        Ok(())
    }

    fn install(&mut self, index: u64, data: &[u8]) -> Result<(), String> {
        self.map = placement::decode_snapshot(data)
            .map_err(|error| not_for_this_version("the snapshot of the log", &error))?;
        if self.map.applied() < index {
            self.map.skip(index);
        }
        self.snapshot_index = index;
        // What this node had proposed may be in it, and then is never heard of by itself.
        self.propose_all_again();
        match self.map.incarnation(&self.me) {
            Some(incarnation) if incarnation > self.others.life.now() => return Err(two_of_one(&self.me, incarnation)),
            // The snapshot has swallowed the entry that says so.
            Some(incarnation) if self.map.is_lost(&self.me, incarnation) => self.live_on(incarnation)?,
            _ => {}
        }
        self.others.known_peers.follow(&self.me, &self.map);
        self.view.publish(self.map.clone());
        self.others.cluster.follow(&self.map);
        Ok(())
    }

    /// At the next tick, all of which nothing was heard: where it went may be lost. Whatever was in the log
    /// already comes to the same outcome once more.
    fn propose_all_again(&mut self) {
        self.again.extend(std::mem::take(&mut self.proposals).into_values());
    }

    fn dropped(&mut self, proposal: ProposalId, reason: &str, after: &mut Afterwards) {
        if self.changing == Some(proposal) {
            self.changing = None;
        }
        let Some(pending) = self.proposals.remove(&proposal) else {
            return;
        };
        tracing::debug!(reason, sandbox = ?pending.command.kind.sandbox(), "proposal dropped");
        if pending.tell.is_some() || pending.command.kind.sandbox().is_none() {
            self.again.push_back(pending);
        } else {
            let holder = self.map.holder(&pending.command.kind);
            after.deliver.extend(wiring::dropped(holder.as_ref(), &pending.command));
        }
    }

    fn give_snapshot(&mut self, ctx: &mut Context<Self>) {
        let index = self.map.applied();
        let data = Bytes::from(placement::encode_snapshot(&self.map));
        self.snapshot_index = index;
        self.feed(Input::Snapshot { index, data }, ctx);
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        self.feed(Input::Tick, ctx);
        for pending in std::mem::take(&mut self.again) {
            self.propose_again(pending, ctx);
        }
        let silent: Vec<ProposalId> = self
            .proposals
            .iter()
            .filter(|(_, pending)| pending.since.elapsed() >= PROPOSE_AGAIN_AFTER)
            .map(|(proposal, _)| *proposal)
            .collect();
        for proposal in silent {
            if let Some(pending) = self.proposals.remove(&proposal) {
                self.propose_again(Pending { since: Instant::now(), ..pending }, ctx);
            }
        }
        self.ticks += 1;
        if self.ticks.is_multiple_of(MEMBERSHIP_TICKS) {
            self.look_after_members(ctx);
            self.declare_lost(ctx);
        }
        if self.ticks.is_multiple_of(HEARTBEAT_TICKS) {
            self.send_heartbeat();
        }
        if self.leases.wants_confirmation() {
            let id = self.next_barrier;
            self.next_barrier += 1;
            self.leases.confirm_by(id);
            self.feed(Input::ReadBarrier { id }, ctx);
        }
        self.gauges.publish(&self.core, self.leadership, self.leases.holder().until_ms());
    }

    fn send(&mut self, to: u64, message: Bytes, snapshot: bool, ctx: &mut Context<Self>) {
        let sent = self.others.cluster.send_raft(to, message);
        if snapshot {
            // Whether it arrives is not told; a member that still lacks it is sent another.
            self.feed(Input::SnapshotSent { peer: to, arrived: sent }, ctx);
        } else if !sent {
            self.feed(Input::Unreachable { peer: to }, ctx);
        }
    }
}

/// Two processes with one identity would both act for the same sandboxes: the one that learns of the other stops.
fn two_of_one(host: &HostId, incarnation: Incarnation) -> String {
    format!(
        "another process has begun life {incarnation} of this node {host}: its data directory was copied, or an older \
         copy of it was put back; only the newest one may run"
    )
}

/// Whoever skipped what it does not know would have another map than the others: so the node stops.
fn not_for_this_version(what: &str, error: &DecodeError) -> String {
    format!(
        "{what} holds what this version of Warren (commands up to {COMMANDS_KNOWN}) does not know: {error}; start this \
         node in the version that the other nodes run"
    )
}
