//! The log as Raft reads it: in memory, ahead of the disk by the batches that are not yet persisted.

use crate::durable::{Recovered, Snapshot, WriteBatch};
use raft::eraftpb::{self, ConfState, Entry, SnapshotMetadata};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::Cell;

pub(crate) struct LogView {
    log: Recovered,
    /// The follower that asked for a snapshot we do not have. Raft asks through a shared reference.
    snapshot_wanted: Cell<Option<u64>>,
}

impl LogView {
    pub(crate) fn new(log: Recovered) -> Self {
        Self { log, snapshot_wanted: Cell::new(None) }
    }

    pub(crate) fn log(&self) -> &Recovered {
        &self.log
    }

    pub(crate) fn apply(&mut self, batch: &WriteBatch) {
        self.log.apply(batch);
    }

    pub(crate) fn take_snapshot_wanted(&self) -> Option<u64> {
        self.snapshot_wanted.take()
    }
}

impl Storage for LogView {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.log.hard_state.clone(), self.log.snapshot.members.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let first = self.log.base.index + 1;
        if low < first {
            return Err(Error::Store(StorageError::Compacted));
        }
        let (from, to) = (to_offset(low - first), to_offset(high - first));
        let wanted = self.log.entries.get(from..to).ok_or(Error::Store(StorageError::Unavailable))?;
        let fitting = fitting(wanted, max_size.into().unwrap_or(u64::MAX));
        Ok(wanted[..fitting].to_vec())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let missing = if index < self.log.base.index { StorageError::Compacted } else { StorageError::Unavailable };
        self.log.term(index).ok_or(Error::Store(missing))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.log.base.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.log.last_index())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<eraftpb::Snapshot> {
        let kept = &self.log.snapshot;
        // A receiver drops a snapshot that does not name it, and would be sent the same one for ever.
        if kept.at.index == 0 || kept.at.index < request_index || !names(&kept.members, to) {
            self.snapshot_wanted.set(Some(to));
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        Ok(kept.into())
    }
}

/// How many of `entries` fit into `max_bytes`; never none, or nothing would ever be sent.
fn fitting(entries: &[Entry], max_bytes: u64) -> usize {
    let mut bytes = 0u64;
    let count = entries.iter().take_while(|entry| {
        // The fixed fields take a little too; an estimate will do, as Raft's own does.
        bytes += (entry.data.len() + entry.context.len() + 12) as u64;
        bytes <= max_bytes
    });
    count.count().max(1).min(entries.len())
}

fn to_offset(distance: u64) -> usize {
    usize::try_from(distance).unwrap_or(usize::MAX)
}

fn names(members: &ConfState, id: u64) -> bool {
    members.voters.contains(&id) || members.learners.contains(&id) || members.voters_outgoing.contains(&id)
}

impl From<&Snapshot> for eraftpb::Snapshot {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            data: snapshot.data.to_vec(),
            metadata: Some(SnapshotMetadata {
                conf_state: Some(snapshot.members.clone()),
                index: snapshot.at.index,
                term: snapshot.at.term,
            }),
        }
    }
}

impl From<eraftpb::Snapshot> for Snapshot {
    fn from(snapshot: eraftpb::Snapshot) -> Self {
        let metadata = snapshot.metadata.unwrap_or_default();
        Self {
            at: crate::durable::LogPosition { index: metadata.index, term: metadata.term },
            members: metadata.conf_state.unwrap_or_default(),
            data: snapshot.data.into(),
        }
    }
}
