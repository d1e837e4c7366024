//! What it costs to commit a placement, and nothing else: the node's own consensus and log in one thread, without the
//! ways between threads, on the same disk, with an entry of the same size.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use consensus::{Config, Consensus, CounterReadings, Counters, Input, Output, ProposalId, Start, Store};
use types::{HostId, Incarnation};
use warren_core::placement;

use crate::placing::place;

/// Ticks within which a group of one elects itself.
const ELECTION_TICKS_MAX: usize = 100;

/// Whom the placements name; as long as a real host's id.
const OWNER: &str = "0123456789abcdef";

/// A group of one.
pub struct Commits {
    core: Consensus,
    store: Store,
    counters: Arc<Counters>,
    next: u64,
}

impl Commits {
    /// Opens a new log in this directory and leads it.
    pub fn open(directory: &Path) -> Result<Self> {
        let (store, recovered) = Store::open(directory)?;
        let core = Consensus::new(Config::new(1, 1, Start::Bootstrap { voters: vec![1] }), recovered)?;
        let counters = store.counters();
        let mut commits = Self { core, store, counters, next: 1 };
        for _ in 0..ELECTION_TICKS_MAX {
            commits.feed(Input::Tick, None)?;
            if commits.core.status().leadership.is_self {
                return Ok(commits);
            }
        }
        bail!("a group of one has no leader");
    }

    /// Commits one placement; the time until it would be applied.
    pub fn commit(&mut self) -> Result<Duration> {
        let number = self.next;
        self.next += 1;
        let data = Bytes::from(placement::encode(&an_entry(number)));
        let started = Instant::now();
        let applied = self.feed(Input::Propose { proposal: ProposalId(number), data }, Some(ProposalId(number)))?;
        let applied = applied.context("a proposal was not applied")?;
        Ok(applied - started)
    }

    /// Bytes of one entry.
    pub fn entry_bytes() -> usize {
        placement::encode(&an_entry(1)).len()
    }

    /// What the log has done so far.
    pub fn counters(&self) -> CounterReadings {
        self.counters.read()
    }

    /// Carries out everything that follows from an input, and says when the wanted entry was applied.
    fn feed(&mut self, input: Input, wanted: Option<ProposalId>) -> Result<Option<Instant>> {
        let mut applied = None;
        let mut inputs = vec![input];
        while !inputs.is_empty() {
            let mut outputs = Vec::new();
            for input in inputs.drain(..).chain([Input::Drive]) {
                outputs.extend(self.core.handle(input));
            }
            for output in outputs {
                match output {
                    Output::Persist(batch) => {
                        let number = batch.number;
                        self.store.write(&[batch])?;
                        inputs.push(Input::Persisted { batch: number });
                    }
                    Output::Apply(entry) if entry.proposal.is_some() && entry.proposal == wanted => {
                        applied = Some(Instant::now());
                    }
                    Output::Dropped { reason, .. } => bail!("a proposal was dropped: {reason}"),
                    Output::Halt { reason } => bail!("consensus stopped: {reason}"),
                    _ => {}
                }
            }
        }
        Ok(applied)
    }
}

fn an_entry(number: u64) -> placement::Command {
    place(number, HostId::new(OWNER), Incarnation(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_one_sync_of_the_log() {
        let directory = std::env::temp_dir().join(format!("warren-bench-commit-{}", std::process::id()));
        let mut commits = Commits::open(&directory).unwrap();
        let before = commits.counters();
        for _ in 0..10 {
            assert!(commits.commit().unwrap() > Duration::ZERO);
        }
        let syncs = commits.counters().log_syncs - before.log_syncs;
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(syncs, 10);
    }
}
