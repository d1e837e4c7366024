//! How one member is set up, and the limits it runs under.

use crate::durable::{Inconsistent, LogPosition, Snapshot, SnapshotWrite, WriteBatch};
use raft::ReadOnlyOption;
use raft::eraftpb::HardState;

/// Ticks without word from a leader before a follower may call an election, and a leader's lease on its quorum.
pub const ELECTION_TICKS: usize = 10;
/// Ticks between a leader's heartbeats.
pub const HEARTBEAT_TICKS: usize = 2;
/// The largest proposal. Larger things are stored elsewhere and named in the log.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Entries of one append message: enough to amortise a round trip, little enough not to delay a heartbeat.
pub const MESSAGE_BYTES_MAX: u64 = 256 << 10;
/// Proposals that are appended, or forwarded to the leader, together.
pub const PROPOSAL_GROUP_BYTES_MAX: usize = 256 << 10;
/// Append messages on their way to one follower.
pub const MESSAGES_IN_FLIGHT_MAX: usize = 256;
/// Proposals that are appended but not committed. Beyond it new ones are dropped, so a leader cut off from its
/// followers (or with a stuck disk) does not fill its memory.
pub const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
/// Committed entries handed out by one ready, so that a long replay comes in portions.
pub const COMMITTED_BYTES_PER_READY_MAX: u64 = 4 << 20;
/// Entries that stay in the log behind a snapshot, so that a follower a little behind needs no snapshot.
pub const LOG_TAIL_KEPT: u64 = 1_024;
/// Where the log of a new group begins. It is past zero so that a member with an empty log is always sent the
/// snapshot that carries the first membership.
pub const BOOTSTRAP_POSITION: LogPosition = LogPosition { index: 1, term: 1 };

/// What a member with an empty store does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Begins a new group with these voters.
    Bootstrap {
        /// The first voters' member ids.
        voters: Vec<u64>,
    },
    /// Waits to be told of a group by its leader.
    Join,
}

/// How one member is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// This member's id: never zero, never used again after its store was lost.
    pub id: u64,
    /// Grows with each life of the node. Entries of an earlier life are not taken for this life's proposals.
    pub incarnation: u64,
    /// Used only if the store is empty.
    pub start: Start,
    /// Added to [`ELECTION_TICKS`]. Give each member another value: the window has a width of one, so that a run can
    /// be repeated, and members with the same value would campaign together.
    pub election_stagger_ticks: usize,
    /// Entries kept behind a snapshot; [`LOG_TAIL_KEPT`] unless a test wants otherwise.
    pub log_tail_kept: u64,
}

impl Config {
    /// A member with the usual limits.
    pub fn new(id: u64, incarnation: u64, start: Start) -> Self {
        Self { id, incarnation, start, election_stagger_ticks: 0, log_tail_kept: LOG_TAIL_KEPT }
    }

    pub(crate) fn raft(&self, applied: u64) -> raft::Config {
        let election_ticks = ELECTION_TICKS + self.election_stagger_ticks;
        raft::Config {
            id: self.id,
            applied,
            election_tick: ELECTION_TICKS,
            min_election_tick: election_ticks,
            max_election_tick: election_ticks + 1,
            heartbeat_tick: HEARTBEAT_TICKS,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: MESSAGES_IN_FLIGHT_MAX,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: COMMITTED_BYTES_PER_READY_MAX,
            // Without pre-vote a healed follower deposes the leader.
            pre_vote: true,
            check_quorum: true,
            // Never true: raft 0.7 then adds entries to a waiting empty message without looking at its index, and the
            // receiver acknowledges entries it does not have. Proposals are grouped before they are appended instead.
            batch_append: false,
            read_only_option: ReadOnlyOption::Safe,
            ..raft::Config::default()
        }
    }
}

/// A member that can not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Zero means "nobody" in Raft.
    #[error("the member id must not be zero")]
    ZeroId,
    /// A new group needs its first voters, and each of them once.
    #[error("the first voters {0:?} are empty, repeated or hold a zero")]
    Voters(Vec<u64>),
    /// What the store gave back contradicts itself.
    #[error("the recovered log contradicts itself")]
    Recovered(#[from] Inconsistent),
    /// Raft refused its settings.
    #[error("raft refused its settings: {0}")]
    Raft(String),
}

/// What a new group's member writes before anything else.
pub(crate) fn first_batch(voters: &[u64]) -> Result<WriteBatch, StartError> {
    let mut sorted = voters.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() != voters.len() || sorted.first().is_none_or(|lowest| *lowest == 0) {
        return Err(StartError::Voters(voters.to_vec()));
    }
    let LogPosition { index, term } = BOOTSTRAP_POSITION;
    Ok(WriteBatch {
        number: 1,
        snapshot: Some(SnapshotWrite::Install(Snapshot::bootstrap(&sorted))),
        entries: Vec::new(),
        hard_state: Some(HardState { term, vote: raft::INVALID_ID, commit: index }),
    })
}
