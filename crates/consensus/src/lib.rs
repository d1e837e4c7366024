//! Agreement: one replicated log, made of the `raft` crate's `RawNode` as a pure core and a log store on disk.
//!
//! The core is [`Consensus`]: `handle(Input) -> Vec<Output>`, without I/O, threads, clock or randomness. It never
//! learns what an entry means, who a peer is beyond a number, or how bytes travel. The disk is reached by
//! [`Output::Persist`] alone and answers with [`Input::Persisted`]. [`Store`] is that disk for real, the only place
//! that knows the database underneath; [`LogWriter`] is the thread that owns it.
//!
//! What is durable when, and what a crash leaves behind: `OVERVIEW.md` beside this crate.

mod config;
mod consensus;
mod contract;
mod durable;
mod leadership;
mod log_view;
mod logger;
mod members_change;
mod peer_message;
mod proposal;
mod reads;

mod loaded;
mod record;
mod snapshot_files;
mod store;
mod watermark;
mod writer;

pub use config::{
    BOOTSTRAP_POSITION, COMMITTED_BYTES_PER_READY_MAX, Config, ELECTION_TICKS, ENTRY_BYTES_MAX, HEARTBEAT_TICKS,
    LOG_TAIL_KEPT, MESSAGE_BYTES_MAX, MESSAGES_IN_FLIGHT_MAX, PROPOSAL_GROUP_BYTES_MAX, Start, StartError,
    UNCOMMITTED_BYTES_MAX,
};
pub use consensus::{Consensus, Status};
pub use contract::{Committed, DropReason, Input, Output, SnapshotRefusal};
pub use durable::{Inconsistent, LogPosition, Recovered, Snapshot, SnapshotWrite, WriteBatch};
pub use leadership::Leadership;
pub use members_change::members_change;
pub use peer_message::sender;
pub use proposal::ProposalId;
pub use reads::{READ_RETRY_TICKS, READS_WAITING_MAX};
pub use store::{CounterReadings, Counters, OpenError, Store, WriteError};
pub use writer::{LogWriter, WRITE_QUEUE_BATCHES_MAX, WriterGone};

/// The parts of Raft's own vocabulary that stand in [`WriteBatch`] and [`Output`].
pub mod raft_types {
    pub use raft::eraftpb::{
        ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, HardState,
    };
}
