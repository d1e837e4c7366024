//! What a disk holds, as plain values: the same code keeps the core's own view, a simulated disk and a test's.

use crate::config::BOOTSTRAP_POSITION;
use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState};

/// A place in the log and the term of the entry there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// Counted from one.
    pub index: u64,
    /// The term of the entry at that index.
    pub term: u64,
}

/// The application's state as of an index, with the membership of that moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The last entry that it covers.
    pub at: LogPosition,
    /// The membership in force after that entry.
    pub members: ConfState,
    /// The application's bytes; empty for the state before the first entry.
    pub data: Bytes,
}

/// How a snapshot comes in.
#[derive(Clone, Debug, PartialEq)]
pub enum SnapshotWrite {
    /// It replaces the whole log.
    Install(Snapshot),
    /// It replaces the older one, and entries up to `base` go.
    Compact {
        /// The new snapshot.
        snapshot: Snapshot,
        /// The last entry that goes; at or before the snapshot.
        base: LogPosition,
    },
}

/// What must become durable together: all of it or nothing, in the order snapshot, entries, hard state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WriteBatch {
    /// Grows by one with each batch, over all lives of a store.
    pub number: u64,
    /// A snapshot, if any.
    pub snapshot: Option<SnapshotWrite>,
    /// Replace everything in the log from the first of these on.
    pub entries: Vec<Entry>,
    /// Term, vote and commit index, if changed.
    pub hard_state: Option<HardState>,
}

/// All that a disk holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recovered {
    /// The last batch in it; zero for a store never written to.
    pub batch: u64,
    /// The newest snapshot; at index zero if there is none.
    pub snapshot: Snapshot,
    /// The entry just before the first of `entries`.
    pub base: LogPosition,
    /// The log after `base`, without a gap.
    pub entries: Vec<Entry>,
    /// Term, vote and a commit index (which may lag).
    pub hard_state: HardState,
}

/// A durable state that contradicts itself. Nothing that a crash leaves behind looks like this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistent {
    /// An index is missing or stands twice.
    #[error("entry {found} stands where {expected} should")]
    Gap {
        /// The index that should stand there.
        expected: u64,
        /// The index that does.
        found: u64,
    },
    /// Terms in a log never fall.
    #[error("the term falls at entry {index}")]
    TermFalls {
        /// Where.
        index: u64,
    },
    /// The snapshot ends before the log begins, or after it ends.
    #[error("the snapshot at {snapshot} is outside the log, which has {base} to {last}")]
    SnapshotOutside {
        /// The snapshot's index.
        snapshot: u64,
        /// The index before the log's first.
        base: u64,
        /// The log's last index.
        last: u64,
    },
    /// The snapshot's term is not its entry's.
    #[error("the snapshot at {index} has another term than the entry there")]
    SnapshotTerm {
        /// The snapshot's index.
        index: u64,
    },
    /// The commit index is before the snapshot or after the log.
    #[error("the commit index {commit} is outside {snapshot} to {last}")]
    CommitOutside {
        /// The commit index.
        commit: u64,
        /// The snapshot's index.
        snapshot: u64,
        /// The log's last index.
        last: u64,
    },
    /// The log has an entry of a term this member never was in.
    #[error("the log ends in term {log} but the hard state is in term {hard_state}")]
    TermBehind {
        /// The last entry's term.
        log: u64,
        /// The hard state's term.
        hard_state: u64,
    },
}

impl Snapshot {
    /// What a new group begins with.
    pub(crate) fn bootstrap(voters: &[u64]) -> Self {
        let members = ConfState { voters: voters.to_vec(), ..ConfState::default() };
        Self { at: BOOTSTRAP_POSITION, members, data: Bytes::new() }
    }
}

impl SnapshotWrite {
    /// The snapshot itself.
    pub fn snapshot(&self) -> &Snapshot {
        match self {
            Self::Install(snapshot) | Self::Compact { snapshot, .. } => snapshot,
        }
    }
}

impl Recovered {
    /// Whether nothing was ever written.
    pub fn is_empty(&self) -> bool {
        self.batch == 0
    }

    /// The index of the last entry, whether it is in the log or only in the snapshot.
    pub fn last_index(&self) -> u64 {
        self.base.index + self.entries.len() as u64
    }

    /// The term of the entry at `index`, if that is still known.
    pub fn term(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index == self.snapshot.at.index {
            return Some(self.snapshot.at.term);
        }
        let offset = index.checked_sub(self.base.index + 1)?;
        Some(self.entries.get(usize::try_from(offset).ok()?)?.term)
    }

    /// Takes in one batch, as a disk does that makes it durable.
    ///
    /// # Panics
    ///
    /// If the batch does not follow the last one, or leaves a gap in the log: both are faults of the writer.
    pub fn apply(&mut self, batch: &WriteBatch) {
        assert_eq!(batch.number, self.batch + 1, "batches are written in order, each once");
        self.batch = batch.number;
        match &batch.snapshot {
            None => {}
            Some(SnapshotWrite::Install(snapshot)) => {
                self.entries.clear();
                self.base = snapshot.at;
                self.snapshot = snapshot.clone();
            }
            Some(SnapshotWrite::Compact { snapshot, base }) => {
                assert!(base.index >= self.base.index && base.index <= self.last_index(), "the base moves forward");
                self.entries.drain(..offset(self.base, base.index + 1));
                self.base = *base;
                self.snapshot = snapshot.clone();
            }
        }
        if let Some(first) = batch.entries.first() {
            assert!(first.index > self.base.index && first.index <= self.last_index() + 1, "the log has no gap");
            self.entries.truncate(offset(self.base, first.index));
            self.entries.extend_from_slice(&batch.entries);
        }
        if let Some(hard_state) = &batch.hard_state {
            self.hard_state = hard_state.clone();
        }
    }

    /// Whether this is a state that some order of batches leads to, as far as can be seen.
    pub fn check(&self) -> Result<(), Inconsistent> {
        let mut before = self.base;
        for entry in &self.entries {
            if entry.index != before.index + 1 {
                return Err(Inconsistent::Gap { expected: before.index + 1, found: entry.index });
            }
            if entry.term < before.term {
                return Err(Inconsistent::TermFalls { index: entry.index });
            }
            before = LogPosition { index: entry.index, term: entry.term };
        }
        let (snapshot, last) = (self.snapshot.at, before.index);
        if snapshot.index < self.base.index || snapshot.index > last {
            return Err(Inconsistent::SnapshotOutside { snapshot: snapshot.index, base: self.base.index, last });
        }
        let logged = if snapshot.index == self.base.index {
            self.base.term
        } else {
            self.entries[offset(self.base, snapshot.index)].term
        };
        if logged != snapshot.term {
            return Err(Inconsistent::SnapshotTerm { index: snapshot.index });
        }
        let commit = self.hard_state.commit;
        if commit < snapshot.index || commit > last {
            return Err(Inconsistent::CommitOutside { commit, snapshot: snapshot.index, last });
        }
        if before.term > self.hard_state.term {
            return Err(Inconsistent::TermBehind { log: before.term, hard_state: self.hard_state.term });
        }
        Ok(())
    }
}

/// Where in the entries after `base` an index stands.
fn offset(base: LogPosition, index: u64) -> usize {
    usize::try_from(index - base.index - 1).expect("a log in memory has no more entries than memory has bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![index as u8], ..Entry::default() }
    }

    fn hard_state(term: u64, commit: u64) -> HardState {
        HardState { term, vote: 1, commit }
    }

    fn snapshot(index: u64, term: u64) -> Snapshot {
        Snapshot { at: LogPosition { index, term }, ..Snapshot::bootstrap(&[1]) }
    }

    fn started() -> Recovered {
        let mut disk = Recovered::default();
        disk.apply(&WriteBatch {
            number: 1,
            snapshot: Some(SnapshotWrite::Install(Snapshot::bootstrap(&[1]))),
            entries: (2..=6).map(|index| entry(index, 2)).collect(),
            hard_state: Some(hard_state(2, 3)),
        });
        disk
    }

    #[test]
    fn entries_replace_the_conflicting_tail() {
        let mut disk = started();
        disk.apply(&WriteBatch { number: 2, entries: vec![entry(5, 3)], ..WriteBatch::default() });
        assert_eq!(disk.last_index(), 5);
        assert_eq!(disk.term(4), Some(2));
        assert_eq!(disk.term(5), Some(3));
        assert_eq!(disk.term(6), None);
    }

    #[test]
    fn a_compaction_keeps_the_tail_behind_the_snapshot() {
        let mut disk = started();
        let write = SnapshotWrite::Compact { snapshot: snapshot(5, 2), base: LogPosition { index: 3, term: 2 } };
        disk.apply(&WriteBatch {
            number: 2,
            snapshot: Some(write),
            hard_state: Some(hard_state(2, 5)),
            ..WriteBatch::default()
        });
        assert_eq!(disk.entries.iter().map(|e| e.index).collect::<Vec<_>>(), [4, 5, 6]);
        assert_eq!((disk.term(3), disk.term(2)), (Some(2), None));
        assert_eq!(disk.check(), Ok(()));
    }

    #[test]
    fn contradictions_are_named() {
        type Spoil = fn(&mut Recovered);
        let cases: [(Spoil, Result<(), Inconsistent>); 8] = [
            (|_| (), Ok(())),
            (|d| drop(d.entries.remove(1)), Err(Inconsistent::Gap { expected: 3, found: 4 })),
            (|d| d.entries[2].term = 1, Err(Inconsistent::TermFalls { index: 4 })),
            (|d| d.snapshot.at.index = 7, Err(Inconsistent::SnapshotOutside { snapshot: 7, base: 1, last: 6 })),
            (|d| d.snapshot.at.term = 9, Err(Inconsistent::SnapshotTerm { index: 1 })),
            (|d| d.hard_state.commit = 7, Err(Inconsistent::CommitOutside { commit: 7, snapshot: 1, last: 6 })),
            (|d| d.hard_state.commit = 0, Err(Inconsistent::CommitOutside { commit: 0, snapshot: 1, last: 6 })),
            (|d| d.hard_state.term = 1, Err(Inconsistent::TermBehind { log: 2, hard_state: 1 })),
        ];
        for (spoil, expected) in cases {
            let mut disk = started();
            spoil(&mut disk);
            assert_eq!(disk.check(), expected);
        }
    }
}
