//! A disk that keeps what was flushed, and of the rest what chance leaves.

use std::collections::VecDeque;

use consensus::{Recovered, WriteBatch};

use crate::rng::Rng;

/// The disk of one host under its log.
#[derive(Debug, Default)]
pub struct FakeDisk {
    durable: Recovered,
    /// Under flush.
    flushing: Vec<WriteBatch>,
    /// Written, waiting for the next flush.
    written: VecDeque<WriteBatch>,
}

impl FakeDisk {
    /// Takes a batch; true if a flush begins with it.
    pub fn write(&mut self, batch: WriteBatch) -> bool {
        self.written.push_back(batch);
        self.begin_flush()
    }

    /// Begins to flush what waits, all of it at once, unless a flush is under way or nothing waits.
    pub fn begin_flush(&mut self) -> bool {
        if !self.flushing.is_empty() || self.written.is_empty() {
            return false;
        }
        self.flushing.extend(self.written.drain(..));
        true
    }

    /// The flush under way ends; what it made durable.
    pub fn flushed(&mut self) -> Vec<WriteBatch> {
        let batches = std::mem::take(&mut self.flushing);
        batches.iter().for_each(|batch| self.durable.apply(batch));
        batches
    }

    /// The number of the batch that a failing flush is told about.
    #[must_use]
    pub fn first_flushing(&self) -> u64 {
        self.flushing.first().map_or(0, |batch| batch.number)
    }

    /// The process dies, or a flush fails: some of the batches that were not reported may be durable all the same, in
    /// their order. Returns those.
    pub fn crash(&mut self, rng: &mut Rng) -> Vec<WriteBatch> {
        let mut batches = std::mem::take(&mut self.flushing);
        batches.extend(self.written.drain(..));
        let kept = rng.below(batches.len() as u64 + 1) as usize;
        batches.truncate(kept);
        batches.iter().for_each(|batch| self.durable.apply(batch));
        batches
    }

    /// The entry is durable here, or a snapshot that covers it.
    #[must_use]
    pub fn holds(&self, index: u64, term: u64) -> bool {
        self.durable.snapshot.at.index >= index || self.durable.term(index) == Some(term)
    }

    /// Nothing waits to be flushed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.flushing.is_empty() && self.written.is_empty()
    }

    /// What a new life finds.
    #[must_use]
    pub fn recover(&self) -> Recovered {
        self.durable.clone()
    }
}
