//! One member over a fake disk that keeps batches unpersisted until it is told, with the rules of what may rest on
//! what checked at every output.
#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses its own part, and a test may panic")]

use bytes::Bytes;
use consensus::{Config, Consensus, Input, Leadership, Output, ProposalId, Recovered, Start, WriteBatch};
use prost_011::Message as _;
use raft::eraftpb::{Message, MessageType};
use std::collections::{BTreeMap, VecDeque};

/// A disk: what is durable, and what a crash loses.
#[derive(Clone, Debug, Default)]
pub struct FakeDisk {
    pub durable: Recovered,
    pub waiting: VecDeque<WriteBatch>,
}

pub struct Member {
    pub id: u64,
    pub core: Consensus,
    pub disk: FakeDisk,
    /// Every index applied in any life, with its data: the state machine's history.
    pub applied: BTreeMap<u64, Bytes>,
    /// Applied in this life, in order, with the proposal it answered.
    pub answered: Vec<(u64, Option<u64>, Bytes)>,
    pub outbox: Vec<(u64, Bytes, bool)>,
    pub leadership: Leadership,
    /// Everything else that came out.
    pub notes: Vec<Output>,
    pub snapshots_taken_over: Vec<u64>,
    pub config: Config,
    applied_index: u64,
}

pub fn bootstrap(id: u64, voters: &[u64]) -> Config {
    let start = Start::Bootstrap { voters: voters.to_vec() };
    let stagger = usize::try_from(id).unwrap() * 3;
    Config { election_stagger_ticks: stagger, log_tail_kept: 2, ..Config::new(id, 1, start) }
}

impl Member {
    pub fn new(config: Config) -> Self {
        Self::on(config, FakeDisk::default())
    }

    pub fn on(config: Config, disk: FakeDisk) -> Self {
        let core = Consensus::new(config.clone(), disk.durable.clone()).unwrap();
        let id = config.id;
        Self {
            id,
            core,
            disk,
            applied: BTreeMap::new(),
            answered: Vec::new(),
            outbox: Vec::new(),
            leadership: Leadership::default(),
            notes: Vec::new(),
            snapshots_taken_over: Vec::new(),
            config,
            applied_index: 0,
        }
    }

    /// Loses memory and whatever the disk had not made durable; the next life has another incarnation.
    pub fn crash(&mut self) {
        let config = Config { incarnation: self.config.incarnation + 1, ..self.config.clone() };
        let disk = FakeDisk { durable: self.disk.durable.clone(), waiting: VecDeque::new() };
        let history = std::mem::take(&mut self.applied);
        *self = Self::on(config, disk);
        self.applied = history;
    }

    pub fn give(&mut self, input: Input) {
        for output in self.core.handle(input) {
            self.execute(output);
        }
    }

    pub fn propose(&mut self, proposal: u64, data: &str) {
        let data = Bytes::copy_from_slice(data.as_bytes());
        self.give(Input::Propose { proposal: ProposalId(proposal), data });
    }

    pub fn drive(&mut self) {
        self.give(Input::Drive);
    }

    /// Makes one waiting batch durable and says so.
    pub fn persist_one(&mut self) -> bool {
        let Some(batch) = self.disk.waiting.pop_front() else { return false };
        self.disk.durable.apply(&batch);
        self.disk.durable.check().unwrap();
        self.give(Input::Persisted { batch: batch.number });
        true
    }

    /// Drives and persists until nothing is left to do.
    pub fn settle(&mut self) {
        self.drive();
        while self.persist_one() {
            self.drive();
        }
    }

    pub fn ticks(&mut self, count: usize) {
        for _ in 0..count {
            self.give(Input::Tick);
            self.settle();
        }
    }

    pub fn data(&self) -> Vec<&str> {
        self.answered.iter().map(|(_, _, data)| std::str::from_utf8(data).unwrap()).collect()
    }

    pub fn reads_ready(&self) -> Vec<u64> {
        let ready = |note: &Output| match note {
            Output::ReadReady { id, .. } => Some(*id),
            _ => None,
        };
        self.notes.iter().filter_map(ready).collect()
    }

    fn execute(&mut self, output: Output) {
        match output {
            Output::Persist(batch) => self.disk.waiting.push_back(batch),
            Output::Apply(committed) => {
                assert!(committed.index > self.applied_index, "member {} applies an index twice", self.id);
                let durable = &self.disk.durable;
                let held = durable.entries.iter().find(|entry| entry.index == committed.index);
                let held = held.unwrap_or_else(|| panic!("applied {} before it was durable", committed.index));
                assert_eq!((held.term, &held.data[..]), (committed.term, &committed.data[..]));
                let before = self.applied.insert(committed.index, committed.data.clone());
                assert!(before.is_none_or(|data| data == committed.data), "another entry at {}", committed.index);
                self.applied_index = committed.index;
                self.answered.push((committed.index, committed.proposal.map(|id| id.0), committed.data));
            }
            Output::ApplySnapshot { index, data } => {
                assert_eq!(self.disk.durable.snapshot.at.index, index, "a snapshot is durable before it is applied");
                assert_eq!(self.disk.durable.snapshot.data, data);
                self.applied_index = index;
                self.snapshots_taken_over.push(index);
            }
            Output::Send { to, message, snapshot } => {
                self.check_promise(&Message::decode(message.clone()).unwrap());
                self.outbox.push((to, message, snapshot));
            }
            Output::Leadership(leadership) => self.leadership = leadership,
            Output::ReadReady { index, .. } => {
                assert!(self.core.status().applied >= index, "a barrier passed before its index was applied");
                self.notes.push(output);
            }
            other => self.notes.push(other),
        }
    }

    /// A message that promises something must rest on the disk. One of an older term promises nothing any more: the
    /// disk says that this member is past that term.
    fn check_promise(&self, message: &Message) {
        let disk = &self.disk.durable;
        let rests_on = match message.msg_type() {
            MessageType::MsgAppendResponse if !message.reject => disk.last_index() >= message.index,
            MessageType::MsgRequestVoteResponse if !message.reject => disk.hard_state.vote == message.to,
            MessageType::MsgRequestVote | MessageType::MsgAppend | MessageType::MsgHeartbeat => {
                disk.hard_state.vote == self.id
            }
            _ => return,
        };
        let term = disk.hard_state.term;
        let kept = message.term < term || (message.term == term && rests_on);
        assert!(kept, "member {} may forget what it promised: {message:?} {:?}", self.id, disk.hard_state);
    }
}
