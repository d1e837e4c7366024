//! What goes into the core and what comes out.

use crate::durable::WriteBatch;
use crate::leadership::Leadership;
use crate::proposal::ProposalId;
use bytes::Bytes;
use raft::eraftpb::{ConfChangeV2, ConfState};

/// What happened. Everything but [`Input::Drive`] is only taken note of, so a shell feeds in all that waits and then
/// drives once: one ready, one write, one flush for all of it.
#[derive(Clone, Debug)]
pub enum Input {
    /// One tick of the clock went by.
    Tick,
    /// Append `data` to the log.
    Propose {
        /// Comes back in [`Committed`] or [`Output::Dropped`]. Neither means that the outcome is unknown.
        proposal: ProposalId,
        /// At most [`crate::ENTRY_BYTES_MAX`] bytes, not empty.
        data: Bytes,
    },
    /// Append `data` to the log in the term in which this member leads, or not at all: it is never passed on to another
    /// leader. For what only the one who leads can know.
    ProposeAsLeader {
        /// Comes back as with [`Input::Propose`].
        proposal: ProposalId,
        /// As with [`Input::Propose`].
        data: Bytes,
    },
    /// Change the membership; one change at a time.
    ChangeMembers {
        /// Comes back in [`Output::Members`] or [`Output::Dropped`].
        proposal: ProposalId,
        /// The change.
        change: ConfChangeV2,
    },
    /// This batch and all before it are durable.
    Persisted {
        /// The batch's number.
        batch: u64,
    },
    /// This batch could not be written. The member stops: what the disk holds now is unknown.
    PersistFailed {
        /// The batch's number.
        batch: u64,
        /// For the log.
        reason: String,
    },
    /// Answer with [`Output::ReadReady`] once everything acknowledged anywhere before this moment is applied here.
    ReadBarrier {
        /// Chosen by the asker.
        id: u64,
    },
    /// A peer's message, as its [`Output::Send`] gave it.
    Step {
        /// The encoded message.
        message: Bytes,
    },
    /// A message to this peer was lost.
    Unreachable {
        /// The peer's member id.
        peer: u64,
    },
    /// What became of a message with [`Output::Send::snapshot`] set. Owed for each of them.
    SnapshotSent {
        /// The peer's member id.
        peer: u64,
        /// Whether it arrived.
        arrived: bool,
    },
    /// Call an election now.
    Campaign,
    /// Hand leadership to this peer.
    TransferLeader {
        /// The peer's member id.
        to: u64,
    },
    /// The application's state as of an applied index. Entries at or below it are no longer needed.
    Snapshot {
        /// An index the application has applied.
        index: u64,
        /// The state. Empty means the state before the first entry.
        data: Bytes,
    },
    /// Work off what was taken note of.
    Drive,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Make this durable, after all batches before it, and answer with its number.
    Persist(WriteBatch),
    /// Send this to a peer. May be lost.
    Send {
        /// The peer's member id.
        to: u64,
        /// The encoded message.
        message: Bytes,
        /// It carries a snapshot: answer with [`Input::SnapshotSent`].
        snapshot: bool,
    },
    /// Apply this entry to the application's state. Committed, durable here, each index once and in order.
    Apply(Committed),
    /// Replace the application's state.
    ApplySnapshot {
        /// The state is as of this index.
        index: u64,
        /// What some member gave to [`Input::Snapshot`]; empty for the state before the first entry.
        data: Bytes,
    },
    /// The membership that holds from this index on.
    Members {
        /// The index of the change.
        index: u64,
        /// Who votes and who learns.
        members: ConfState,
        /// Set if it was proposed by this life of this node.
        proposal: Option<ProposalId>,
        /// What the proposer put into the change.
        context: Bytes,
    },
    /// A read barrier is passed.
    ReadReady {
        /// As asked.
        id: u64,
        /// The index that had to be applied.
        index: u64,
    },
    /// A read barrier will not be answered.
    ReadDropped {
        /// As asked.
        id: u64,
        /// Why not.
        reason: DropReason,
    },
    /// A proposal was surely not appended.
    Dropped {
        /// As proposed.
        proposal: ProposalId,
        /// Why not.
        reason: DropReason,
    },
    /// Who leads has changed, or the term.
    Leadership(Leadership),
    /// A follower needs a snapshot newer than the kept one, or one that names it: give one with [`Input::Snapshot`].
    SnapshotWanted {
        /// The follower's member id.
        peer: u64,
    },
    /// A given snapshot was of no use.
    SnapshotRefused {
        /// As given.
        index: u64,
        /// Why.
        reason: SnapshotRefusal,
    },
    /// This member has stopped for good; it answers nothing any more.
    Halt {
        /// For the log.
        reason: String,
    },
}

/// A committed entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// Its place in the log.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
    /// Set if it was proposed by this life of this node.
    pub proposal: Option<ProposalId>,
    /// As proposed.
    pub data: Bytes,
}

/// Why something was surely not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DropReason {
    /// No leader is known.
    #[error("no leader is known")]
    NoLeader,
    /// This member does not lead.
    #[error("this member does not lead")]
    NotLeading,
    /// Leadership is being handed over.
    #[error("leadership is being handed over")]
    Transferring,
    /// Too much is in flight already.
    #[error("too much is in flight")]
    Overloaded,
    /// Larger than [`crate::ENTRY_BYTES_MAX`].
    #[error("the proposal is too large")]
    TooLarge,
    /// Nothing was proposed.
    #[error("the proposal is empty")]
    Empty,
    /// Another membership change is not yet applied.
    #[error("another membership change is under way")]
    ChangePending,
}

/// Why a given snapshot was of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotRefusal {
    /// The index was not handed out by [`Output::Apply`] yet.
    #[error("the index is not applied yet")]
    NotApplied,
    /// The kept one is as new.
    #[error("the kept snapshot is as new")]
    NotNewer,
}
