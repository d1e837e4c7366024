//! What travels between hosts, and what becomes of it on the way: late, twice, out of order, or never.

use bytes::Bytes;
use types::{Generation, HostId, Incarnation, SandboxId, Timestamp};
use warren_core::lifecycle::Observed;
use warren_core::scheduler::Candidate;

use crate::clients::{Op, Reply};

/// Something that one node tells another.
#[derive(Debug, Clone)]
pub enum Packet {
    /// Of the log's own protocol.
    Raft(Bytes),
    /// A heartbeat.
    Beat(HostId, Incarnation, u64),
    /// The leader's acknowledgement of a heartbeat of this life.
    BeatAck(Incarnation, u64),
    /// What an owner sees of a sandbox.
    Seen(SandboxId, Observed),
    /// What a node can take.
    Capacity(Candidate),
    /// Do this on a sandbox that is yours.
    Call(u64, Op, Generation),
    /// What came of a call.
    Answer(u64, Answer),
    /// Let me in; I ask at this time by my own clock.
    Ask(u64, Timestamp),
    /// You are in, under this member id; these are the others.
    Accepted(u64, u64, Vec<(u64, usize)>),
}

/// How a call was answered.
#[derive(Debug, Clone)]
pub enum Answer {
    /// It was done, or failed.
    Reply(Reply),
    /// Nothing was done: this one has it.
    Moved(HostId, Generation),
}

impl Packet {
    /// Each is of its own, and the receiver has to bear it twice. Calls and their answers go over one stream and
    /// arrive once or not at all.
    #[must_use]
    pub fn may_repeat(&self) -> bool {
        matches!(self, Self::Raft(_) | Self::Beat(..) | Self::BeatAck(..) | Self::Seen(..) | Self::Capacity(_))
    }
}

/// Which host's packets reach which.
#[derive(Debug, Default)]
pub struct Network {
    hosts: usize,
    last: u64,
    cuts: Vec<Cut>,
}

#[derive(Debug)]
struct Cut {
    number: u64,
    /// Packets from these hosts do not reach those.
    from: Vec<usize>,
    to: Vec<usize>,
}

impl Network {
    /// A further host.
    pub fn add_host(&mut self) {
        self.hosts += 1;
    }

    /// Packets from `from` do not reach `to` from here on; the number to heal it by.
    pub fn cut(&mut self, from: Vec<usize>, to: Vec<usize>) -> u64 {
        self.last += 1;
        self.cuts.push(Cut { number: self.last, from, to });
        self.last
    }

    /// A cut ends.
    pub fn heal(&mut self, number: u64) {
        self.cuts.retain(|cut| cut.number != number);
    }

    /// Every cut ends.
    pub fn heal_all(&mut self) {
        self.cuts.clear();
    }

    /// Whether packets come through at present.
    #[must_use]
    pub fn carries(&self, from: usize, to: usize) -> bool {
        !self.cuts.iter().any(|cut| cut.from.contains(&from) && cut.to.contains(&to))
    }
}
