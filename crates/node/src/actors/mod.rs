//! The actors of one Warren process. Each is a shell around a core: input in, messages out.

pub mod consensus;
pub mod follower;
mod gauges;
pub mod members;
pub mod pool;
pub mod scheduler;
pub mod supervisor;

/// Messages that the follower holds for clients before further ones are told to come back: each is
/// one waiting HTTP request. Deliveries from consensus are not bounded by it, since they may not be
/// lost; they are bounded by the proposals under way.
pub const FOLLOWER_MAILBOX: usize = 4_096;

/// Creates that wait for the scheduler.
pub const SCHEDULER_MAILBOX: usize = 4_096;

/// Barriers that wait for consensus: each is one waiting HTTP request. Proposals and reports from the
/// disk are not bounded by it.
pub const CONSENSUS_MAILBOX: usize = 4_096;
