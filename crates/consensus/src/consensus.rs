//! The core: Raft's ready loop with the disk and the application at arm's length.

use crate::config::{self, BOOTSTRAP_POSITION, Config, ENTRY_BYTES_MAX, PROPOSAL_GROUP_BYTES_MAX, Start, StartError};
use crate::contract::{Committed, DropReason, Input, Output, SnapshotRefusal};
use crate::durable::{LogPosition, Recovered, Snapshot, SnapshotWrite, WriteBatch};
use crate::leadership::Leadership;
use crate::log_view::LogView;
use crate::logger::logger;
use crate::peer_message::{self, send};
use crate::proposal::{Origin, ProposalId};
use crate::reads::Reads;
use bytes::Bytes;
use prost_011::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeV2, ConfState, Entry, EntryType, HardState, Message, MessageType};
use raft::{RawNode, SnapshotStatus, StateRole};
use std::collections::VecDeque;

/// One member of a Raft group. See the crate's `OVERVIEW.md` for the order of things.
pub struct Consensus {
    raw: RawNode<LogView>,
    id: u64,
    origin: Origin,
    log_tail_kept: u64,
    /// The hard state last handed to the disk, and the one last reported durable.
    written: HardState,
    durable: HardState,
    /// Batches handed to the disk and not reported durable, oldest first.
    outstanding: VecDeque<Outstanding>,
    /// Committed, durable, not yet handed out.
    to_apply: VecDeque<Entry>,
    applied: u64,
    /// Memberships since the kept snapshot and the index each holds from.
    memberships: Vec<(u64, ConfState)>,
    /// Waiting for the next drive.
    proposals: Vec<(ProposalId, Bytes)>,
    reads: Reads,
    told: Leadership,
    /// Outputs owed from the start.
    owed: Vec<Output>,
    campaign_when_alone: bool,
    halted: bool,
}

/// What rests on a batch.
struct Outstanding {
    batch: u64,
    /// The last ready that is durable with it; zero if none is.
    ready: u64,
    hard_state: Option<HardState>,
    snapshot: Option<Snapshot>,
    messages: Vec<Message>,
}

/// A look inside, for metrics and for deciding when to make a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Who leads.
    pub leadership: Leadership,
    /// The last index handed out to be applied.
    pub applied: u64,
    /// The last index known to be committed.
    pub committed: u64,
    /// The last index in the log, durable or not.
    pub last_index: u64,
    /// Entries in the log.
    pub log_entries: usize,
    /// The kept snapshot's index.
    pub snapshot_index: u64,
    /// Batches handed to the disk and not reported durable.
    pub batches_outstanding: usize,
    /// Whether it has stopped for good.
    pub halted: bool,
}

impl Consensus {
    /// Takes up where `recovered` ends. An empty one starts as [`Config::start`] says.
    pub fn new(config: Config, recovered: Recovered) -> Result<Self, StartError> {
        if config.id == 0 {
            return Err(StartError::ZeroId);
        }
        recovered.check()?;
        let bootstrap = match &config.start {
            Start::Bootstrap { voters } if recovered.is_empty() => Some(config::first_batch(voters)?),
            Start::Bootstrap { .. } | Start::Join => None,
        };
        let durable = recovered.hard_state.clone();
        let mut log = recovered;
        if let Some(batch) = &bootstrap {
            log.apply(batch);
        }
        let (snapshot, written) = (log.snapshot.clone(), log.hard_state.clone());
        let applied = snapshot.at.index;
        let raw = RawNode::new(&config.raft(applied), LogView::new(log), &logger())
            .map_err(|error| StartError::Raft(error.to_string()))?;
        let mut core = Self {
            raw,
            id: config.id,
            origin: Origin::of(&config),
            log_tail_kept: config.log_tail_kept,
            written,
            durable,
            outstanding: VecDeque::new(),
            to_apply: VecDeque::new(),
            applied,
            memberships: vec![(applied, snapshot.members.clone())],
            proposals: Vec::new(),
            reads: Reads::default(),
            told: Leadership::default(),
            owed: Vec::new(),
            campaign_when_alone: true,
            halted: false,
        };
        if applied > BOOTSTRAP_POSITION.index {
            core.owed.push(Output::ApplySnapshot { index: applied, data: snapshot.data });
        }
        if let Some(batch) = bootstrap {
            let mut owed = std::mem::take(&mut core.owed);
            core.hand_to_disk(batch, 0, None, Vec::new(), &mut owed);
            core.owed = owed;
        }
        Ok(core)
    }

    /// Takes in one input. Execute what comes out in its order.
    pub fn handle(&mut self, input: Input) -> Vec<Output> {
        if self.halted {
            return Vec::new();
        }
        let mut out = std::mem::take(&mut self.owed);
        match input {
            Input::Tick => self.tick(),
            Input::Propose { proposal, data } => self.propose(proposal, data, &mut out),
            Input::ProposeAsLeader { proposal, data } => self.propose_as_leader(proposal, data, &mut out),
            Input::ChangeMembers { proposal, change } => self.change_members(proposal, &change, &mut out),
            Input::Persisted { batch } => self.persisted(batch, &mut out),
            Input::PersistFailed { batch, reason } => {
                self.halted = true;
                out.push(Output::Halt { reason: format!("batch {batch} could not be written: {reason}") });
            }
            Input::ReadBarrier { id } => {
                if !self.reads.add(id) {
                    out.push(Output::ReadDropped { id, reason: DropReason::Overloaded });
                }
            }
            Input::Step { message } => self.step(&message),
            Input::Unreachable { peer } => self.raw.report_unreachable(peer),
            Input::SnapshotSent { peer, arrived } => {
                let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                self.raw.report_snapshot(peer, status);
            }
            Input::Campaign => self.campaign(),
            Input::TransferLeader { to } => self.raw.transfer_leader(to),
            Input::Snapshot { index, data } => self.take_snapshot(index, data, &mut out),
            Input::Drive => self.drive(&mut out),
        }
        out
    }

    /// A look inside.
    pub fn status(&self) -> Status {
        let log = self.raw.store().log();
        Status {
            leadership: self.leadership(),
            applied: self.applied,
            committed: self.raw.raft.raft_log.committed,
            last_index: self.raw.raft.raft_log.last_index(),
            log_entries: log.entries.len(),
            snapshot_index: log.snapshot.at.index,
            batches_outstanding: self.outstanding.len(),
            halted: self.halted,
        }
    }

    /// Who votes and who learns now.
    pub fn members(&self) -> ConfState {
        self.raw.raft.prs().conf().to_conf_state()
    }

    /// How far a member's log is known to agree with this leader's; none where it is no member or this one does not
    /// lead.
    pub fn matched(&self, member: u64) -> Option<u64> {
        let raft = &self.raw.raft;
        (raft.state == StateRole::Leader).then(|| raft.prs().get(member).map(|progress| progress.matched)).flatten()
    }

    fn tick(&mut self) {
        self.reads.tick();
        if self.may_campaign() {
            self.raw.tick();
        }
    }

    fn campaign(&mut self) {
        if self.may_campaign()
            && let Err(error) = self.raw.campaign()
        {
            tracing::debug!(%error, "raft refused to campaign");
        }
    }

    /// A group of one elects itself within the call, which raft only allows once all of the log is durable. While a
    /// snapshot waits for the disk, the entries are gone that raft would look through before it campaigns.
    fn may_campaign(&self) -> bool {
        if self.outstanding.iter().any(|waiting| waiting.snapshot.is_some()) {
            return false;
        }
        let raft = &self.raw.raft;
        raft.state == StateRole::Leader
            || !raft.prs().is_singleton()
            || raft.raft_log.persisted == raft.raft_log.last_index()
    }

    fn propose(&mut self, proposal: ProposalId, data: Bytes, out: &mut Vec<Output>) {
        if data.is_empty() {
            out.push(Output::Dropped { proposal, reason: DropReason::Empty });
        } else if data.len() > ENTRY_BYTES_MAX {
            out.push(Output::Dropped { proposal, reason: DropReason::TooLarge });
        } else {
            self.proposals.push((proposal, data));
        }
    }

    /// Appends all that waits, as few calls as fit: raft sends each call's entries as a message of its own.
    fn append_proposals(&mut self, out: &mut Vec<Output>) {
        let mut waiting = std::mem::take(&mut self.proposals).into_iter().peekable();
        while waiting.peek().is_some() {
            let mut bytes = 0;
            let mut group = Vec::new();
            while let Some(next) = waiting.next_if(|(_, data)| bytes + data.len() <= PROPOSAL_GROUP_BYTES_MAX) {
                bytes += next.1.len();
                group.push(next);
            }
            // One that is larger than a group goes alone.
            group.extend(waiting.next_if(|_| group.is_empty()));
            let refused = self.append(&group).is_err();
            for (proposal, data) in group.into_iter().filter(|_| refused) {
                // A group is refused as a whole, also where a part of it would have fitted.
                if let Err(error) = self.append(&[(proposal, data)]) {
                    out.push(Output::Dropped { proposal, reason: self.why_dropped(&error) });
                }
            }
        }
    }

    /// A follower would pass it on to a leader that knows better.
    fn propose_as_leader(&mut self, proposal: ProposalId, data: Bytes, out: &mut Vec<Output>) {
        if self.raw.raft.state != StateRole::Leader {
            out.push(Output::Dropped { proposal, reason: DropReason::NotLeading });
            return;
        }
        self.append_proposals(out);
        if let Err(error) = self.append(&[(proposal, data)]) {
            out.push(Output::Dropped { proposal, reason: self.why_dropped(&error) });
        }
    }

    fn append(&mut self, group: &[(ProposalId, Bytes)]) -> raft::Result<()> {
        let entries = group.iter().map(|(proposal, data)| {
            let context = self.origin.mark(proposal.0);
            Entry { data: data.to_vec(), context, ..Entry::default() }
        });
        let mut message = Message { from: self.id, entries: entries.collect(), ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        self.raw.raft.step(message)
    }

    fn change_members(&mut self, proposal: ProposalId, change: &ConfChangeV2, out: &mut Vec<Output>) {
        self.append_proposals(out);
        let raft = &self.raw.raft;
        let reason = if raft.state == StateRole::Leader && raft.has_pending_conf() {
            // Raft would append an empty entry in its place, which nobody could tell from a lost proposal.
            Some(DropReason::ChangePending)
        } else {
            let context = self.origin.mark(proposal.0);
            self.raw.propose_conf_change(context, change.clone()).err().map(|error| self.why_dropped(&error))
        };
        if let Some(reason) = reason {
            out.push(Output::Dropped { proposal, reason });
        }
    }

    fn why_dropped(&self, error: &raft::Error) -> DropReason {
        tracing::debug!(%error, "raft dropped a proposal");
        let raft = &self.raw.raft;
        if raft.leader_id == raft::INVALID_ID {
            DropReason::NoLeader
        } else if raft.lead_transferee.is_some() {
            DropReason::Transferring
        } else {
            DropReason::Overloaded
        }
    }

    fn step(&mut self, message: &Bytes) {
        let Some(message) = peer_message::read(message, self.id) else { return };
        if message.msg_type() == MessageType::MsgTimeoutNow && !self.may_campaign() {
            return tracing::debug!("asked to lead while a snapshot waits for the disk");
        }
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(%error, "raft refused a peer's message");
        }
    }

    fn drive(&mut self, out: &mut Vec<Output>) {
        loop {
            self.campaign_if_alone();
            self.append_proposals(out);
            self.ask_for_reads(out);
            if !self.raw.has_ready() {
                break;
            }
            self.work_off_ready(out);
        }
        if let Some(peer) = self.raw.store().take_snapshot_wanted() {
            out.push(Output::SnapshotWanted { peer });
        }
    }

    /// Nobody else could: so a group of one need not wait for its election timeout. Once, and not before the known
    /// part of the log is applied, since raft does not let a member campaign past an unapplied membership.
    fn campaign_if_alone(&mut self) {
        let raft = &self.raw.raft;
        if self.campaign_when_alone && self.applied == raft.raft_log.committed {
            self.campaign_when_alone = false;
            if raft.promotable() && raft.prs().is_singleton() {
                self.campaign();
            }
        }
    }

    fn ask_for_reads(&mut self, out: &mut Vec<Output>) {
        if !self.reads.any_waiting() {
            return;
        }
        let raft = &self.raw.raft;
        if raft.leader_id == raft::INVALID_ID {
            // Before its first election a group of one is only busy replaying.
            if !self.campaign_when_alone || !raft.prs().is_singleton() {
                let dropped = self.reads.fail_waiting().into_iter();
                out.extend(dropped.map(|id| Output::ReadDropped { id, reason: DropReason::NoLeader }));
            }
        } else if raft.state != StateRole::Leader || raft.commit_to_current_term() {
            // A new leader that has not committed in its term can not answer; raft would drop the question silently.
            let asking = self.reads.ask();
            self.raw.read_index(self.origin.mark(asking));
        }
    }

    /// One ready, in the order that Raft demands. Nothing is stepped or proposed between `ready` and `advance`.
    fn work_off_ready(&mut self, out: &mut Vec<Output>) {
        let mut ready = self.raw.ready();
        let number = ready.number();
        self.tell_leadership(out);

        let hard_state = self.raw.raft.hard_state();
        let mut at_once = ready.take_messages();
        let mut held = ready.take_persisted_messages();
        if self.durable.term != hard_state.term || self.durable.vote != hard_state.vote {
            // A leader's messages may go before its disk, but not before its own vote is durable: a lone voter that
            // crashes here would lead the same term twice, with other entries than its learners got.
            held.append(&mut at_once);
        }
        send(at_once, out);

        let snapshot = (!ready.snapshot().is_empty()).then(|| Snapshot::from(ready.snapshot().clone()));
        if snapshot.is_some() {
            self.to_apply.clear();
        }
        self.to_apply.extend(ready.take_committed_entries());
        let entries = ready.take_entries();
        let read_states = ready.take_read_states();

        // A commit index alone need not be written: it is learnt again. Unless a membership rests on it.
        let membership_waits =
            self.to_apply.iter().any(|entry| changes_members(entry) && entry.index > self.written.commit);
        if ready.must_sync() || membership_waits {
            let batch = WriteBatch {
                number: 0,
                snapshot: snapshot.clone().map(SnapshotWrite::Install),
                entries,
                hard_state: (hard_state != self.written).then_some(hard_state),
            };
            let batch = WriteBatch { number: self.raw.store().log().batch + 1, ..batch };
            self.raw.mut_store().apply(&batch);
            self.hand_to_disk(batch, number, snapshot, held, out);
            self.raw.advance_append_async(ready);
        } else {
            self.raw.advance_append_async(ready);
            match self.outstanding.back_mut() {
                // A message may speak of entries that an earlier batch holds.
                Some(last) => {
                    last.ready = number;
                    last.messages.append(&mut held);
                }
                None => {
                    self.raw.on_persist_ready(number);
                    send(held, out);
                }
            }
        }

        for state in read_states {
            if let Some(asking) = self.origin.own(&state.request_ctx) {
                self.reads.confirm(asking, state.index);
            }
        }
        self.apply(out);
    }

    fn hand_to_disk(
        &mut self,
        batch: WriteBatch,
        ready: u64,
        snapshot: Option<Snapshot>,
        messages: Vec<Message>,
        out: &mut Vec<Output>,
    ) {
        if let Some(hard_state) = &batch.hard_state {
            self.written = hard_state.clone();
        }
        let hard_state = batch.hard_state.clone();
        self.outstanding.push_back(Outstanding { batch: batch.number, ready, hard_state, snapshot, messages });
        out.push(Output::Persist(batch));
    }

    fn persisted(&mut self, batch: u64, out: &mut Vec<Output>) {
        assert!(batch <= self.raw.store().log().batch, "the disk reports a batch it was not given");
        while let Some(done) = self.outstanding.pop_front_if(|waiting| waiting.batch <= batch) {
            if let Some(hard_state) = done.hard_state {
                self.durable = hard_state;
            }
            if done.ready != 0 {
                self.raw.on_persist_ready(done.ready);
            }
            if let Some(snapshot) = done.snapshot {
                self.applied = snapshot.at.index;
                self.memberships = vec![(snapshot.at.index, snapshot.members)];
                self.raw.advance_apply_to(self.applied);
                out.push(Output::ApplySnapshot { index: self.applied, data: snapshot.data });
            }
            send(done.messages, out);
        }
        self.apply(out);
    }

    /// Hands out what is committed and durable, up to a membership whose commit is not durable: a member that acted
    /// on it and forgot it would count majorities of a group that is no more.
    fn apply(&mut self, out: &mut Vec<Output>) {
        let durable_commit = self.durable.commit;
        let may_go = |entry: &mut Entry| !changes_members(entry) || entry.index <= durable_commit;
        while let Some(entry) = self.to_apply.pop_front_if(may_go) {
            self.applied = entry.index;
            if changes_members(&entry) {
                self.apply_membership(&entry, out);
            } else if !entry.data.is_empty() {
                let proposal = self.origin.own(&entry.context).map(ProposalId);
                let Entry { index, term, data, .. } = entry;
                out.push(Output::Apply(Committed { index, term, proposal, data: data.into() }));
            }
        }
        if self.applied > self.raw.raft.raft_log.applied {
            self.raw.advance_apply_to(self.applied);
        }
        let passed = self.reads.release(self.applied).into_iter();
        out.extend(passed.map(|(id, index)| Output::ReadReady { id, index }));
    }

    fn apply_membership(&mut self, entry: &Entry, out: &mut Vec<Output>) {
        let Some(change) = decode_change(entry) else {
            return tracing::warn!(index = entry.index, "a committed membership change can not be read; all skip it");
        };
        match self.raw.apply_conf_change(&change) {
            Ok(members) => {
                self.memberships.push((entry.index, members.clone()));
                let proposal = self.origin.own(&entry.context).map(ProposalId);
                out.push(Output::Members { index: entry.index, members, proposal, context: change.context.into() });
            }
            Err(error) => tracing::warn!(index = entry.index, %error, "a committed change is void; all skip it"),
        }
    }

    fn take_snapshot(&mut self, index: u64, data: Bytes, out: &mut Vec<Output>) {
        let log = self.raw.store().log();
        let refusal = if index > self.applied {
            Some(SnapshotRefusal::NotApplied)
        } else if index <= log.snapshot.at.index {
            Some(SnapshotRefusal::NotNewer)
        } else {
            None
        };
        if let Some(reason) = refusal {
            return out.push(Output::SnapshotRefused { index, reason });
        }
        let position =
            |index| LogPosition { index, term: log.term(index).expect("the log has what its snapshot lacks") };
        let base = index.saturating_sub(self.log_tail_kept).max(log.base.index);
        let since = self.memberships.partition_point(|(from, _)| *from <= index).saturating_sub(1);
        let members = self.memberships[since].1.clone();
        let snapshot = Snapshot { at: position(index), members, data };
        let write = SnapshotWrite::Compact { snapshot, base: position(base) };
        // Raft's own commit index may be ahead of the log as written; what is applied never is.
        let hard_state = HardState { commit: self.written.commit.max(self.applied), ..self.written.clone() };
        let batch = WriteBatch {
            number: log.batch + 1,
            snapshot: Some(write),
            entries: Vec::new(),
            hard_state: (hard_state != self.written).then_some(hard_state),
        };
        self.memberships.drain(..since);
        self.raw.mut_store().apply(&batch);
        self.hand_to_disk(batch, 0, None, Vec::new(), out);
    }

    fn leadership(&self) -> Leadership {
        let raft = &self.raw.raft;
        let leader = (raft.leader_id != raft::INVALID_ID).then_some(raft.leader_id);
        Leadership { leader, term: raft.term, is_self: raft.state == StateRole::Leader }
    }

    fn tell_leadership(&mut self, out: &mut Vec<Output>) {
        let now = self.leadership();
        if now != self.told {
            self.told = now;
            out.push(Output::Leadership(now));
        }
    }
}

fn changes_members(entry: &Entry) -> bool {
    entry.entry_type() != EntryType::EntryNormal
}

fn decode_change(entry: &Entry) -> Option<ConfChangeV2> {
    use raft_proto::ConfChangeI as _;
    match entry.entry_type() {
        EntryType::EntryNormal => None,
        EntryType::EntryConfChange => Some(ConfChange::decode(&entry.data[..]).ok()?.into_v2()),
        EntryType::EntryConfChangeV2 => ConfChangeV2::decode(&entry.data[..]).ok(),
    }
}
