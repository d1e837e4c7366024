//! A store's records as they are read back: put together, or found damaged.

use crate::durable::{LogPosition, Recovered, Snapshot};
use crate::record::{Key, Reader, open as open_record};
use crate::snapshot_files::{SnapshotFile, SnapshotFiles};
use crate::store::OpenError;
use prost_011::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState};

/// The layout this code writes.
pub(crate) const FORMAT: u64 = 2;

/// The oldest layout this code reads. In it no entry carried a head.
pub(crate) const FORMAT_OLDEST: u64 = 1;

/// Stands where the number of an entry's chunks would: the entry came alone, is whole, and carries head and hard state.
const CARRIES: u16 = 0;

/// The bounds of the log, written with every batch, so that a missing record is seen.
#[derive(Clone, Copy, Default)]
pub(crate) struct Head {
    pub(crate) batch: u64,
    pub(crate) base: LogPosition,
    pub(crate) last_index: u64,
}

/// Bytes of an encoded head.
const HEAD_BYTES: usize = 4 * 8;

impl Head {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let numbers = [self.batch, self.base.index, self.base.term, self.last_index];
        numbers.map(u64::to_be_bytes).as_flattened().to_vec()
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        let batch = reader.number()?;
        let base = LogPosition { index: reader.number()?, term: reader.number()? };
        Some(Self { batch, base, last_index: reader.number()? })
    }
}

/// Records as they were read, in the order of their keys.
#[derive(Default)]
pub(crate) struct Loaded {
    format: Option<u64>,
    head: Option<Head>,
    hard_state: HardState,
    snapshot: Option<(Snapshot, SnapshotFile)>,
    /// The newest head and hard state that an entry carries.
    carried: Option<(Head, HardState)>,
    entries: Vec<Entry>,
    /// An entry of which more chunks must follow.
    partial: Option<Partial>,
}

struct Partial {
    index: u64,
    total: u16,
    next: u16,
    bytes: Vec<u8>,
}

impl Loaded {
    pub(crate) fn is_blank(&self) -> bool {
        self.format.is_none() && self.head.is_none() && self.entries.is_empty() && self.snapshot.is_none()
    }

    pub(crate) fn take(&mut self, raw_key: &[u8], value: &[u8]) -> Result<(), OpenError> {
        let damaged = |what: &str| OpenError::Damaged(format!("the record under {raw_key:02x?} {what}"));
        let key = Key::decode(raw_key).ok_or_else(|| damaged("has a key nobody writes"))?;
        let payload = open_record(raw_key, value).map_err(damaged)?;
        let unreadable = || damaged("can not be decoded");
        match key {
            Key::Format => {
                let found = Reader(payload).number().ok_or_else(unreadable)?;
                if !(FORMAT_OLDEST..=FORMAT).contains(&found) {
                    return Err(OpenError::UnknownFormat { found });
                }
                self.format = Some(found);
            }
            Key::Head => self.head = Some(Head::decode(payload).ok_or_else(unreadable)?),
            Key::HardState => self.hard_state = HardState::decode(payload).map_err(|_| unreadable())?,
            Key::Snapshot => self.snapshot = Some(decode_snapshot(payload).ok_or_else(unreadable)?),
            Key::Entry { index, chunk } => {
                let (total, part) = payload.split_first_chunk::<2>().ok_or_else(unreadable)?;
                let total = u16::from_be_bytes(*total);
                if total == CARRIES {
                    let fits = chunk == 0 && self.partial.is_none();
                    return fits.then(|| self.take_carrier(index, part)).flatten().ok_or_else(unreadable);
                }
                self.take_chunk(index, chunk, total, part).ok_or_else(|| damaged("does not fit its neighbours"))?;
            }
        }
        Ok(())
    }

    fn take_chunk(&mut self, index: u64, chunk: u16, total: u16, part: &[u8]) -> Option<()> {
        let mut partial = self.partial.take().unwrap_or(Partial { index, total, next: 0, bytes: Vec::new() });
        if (partial.index, partial.total, partial.next) != (index, total, chunk) || chunk >= total {
            return None;
        }
        partial.bytes.extend_from_slice(part);
        partial.next += 1;
        if partial.next < total {
            self.partial = Some(partial);
        } else {
            let entry = Entry::decode(&partial.bytes[..]).ok()?;
            if entry.index != index {
                return None;
            }
            self.entries.push(entry);
        }
        Some(())
    }

    fn take_carrier(&mut self, index: u64, payload: &[u8]) -> Option<()> {
        let (head, rest) = payload.split_at_checked(HEAD_BYTES)?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (hard_state, entry) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        let (head, hard_state) = (Head::decode(head)?, HardState::decode(hard_state).ok()?);
        let entry = Entry::decode(entry).ok().filter(|entry| entry.index == index)?;
        if self.carried.as_ref().is_none_or(|(newest, _)| newest.batch < head.batch) {
            self.carried = Some((head, hard_state));
        }
        self.entries.push(entry);
        Some(())
    }

    /// The format as it was found; none in a store that was never acknowledged to exist.
    pub(crate) fn format(&self) -> Option<u64> {
        self.format
    }

    pub(crate) fn assemble(mut self, snapshots: &SnapshotFiles) -> Result<(Head, Recovered), OpenError> {
        let damaged = |what: &str| OpenError::Damaged(what.to_owned());
        let blank = self.is_blank();
        if let Some((head, hard_state)) = self.carried.take()
            && self.head.is_none_or(|written| written.batch < head.batch)
        {
            (self.head, self.hard_state) = (Some(head), hard_state);
        }
        if !blank && (self.format.is_none() || self.head.is_none()) {
            return Err(damaged("the format or head record is missing"));
        }
        let head = self.head.unwrap_or_default();
        if self.partial.is_some() {
            return Err(damaged("the last entry is incomplete"));
        }
        let snapshot = match self.snapshot {
            None => Snapshot::default(),
            Some((snapshot, file)) => {
                let data = snapshots.read(file)?.ok_or_else(|| damaged("the snapshot's file is missing or spoilt"))?;
                snapshots.keep_only(file)?;
                Snapshot { data, ..snapshot }
            }
        };
        let recovered = Recovered {
            batch: head.batch,
            snapshot,
            base: head.base,
            entries: self.entries,
            hard_state: self.hard_state,
        };
        if recovered.last_index() != head.last_index {
            return Err(damaged("the log is shorter or longer than its head says"));
        }
        Ok((head, recovered))
    }
}

/// An entry that comes alone, with what else its write has to say: one record, where several would need a batch of the
/// database, which costs it a second write, wait and change of threads.
pub(crate) fn encode_carrier(head: &Head, hard_state: &HardState, entry: &[u8]) -> Vec<u8> {
    let hard_state = hard_state.encode_to_vec();
    let length = u16::try_from(hard_state.len()).expect("three numbers are short");
    [&CARRIES.to_be_bytes()[..], &head.encode(), &length.to_be_bytes(), &hard_state, entry].concat()
}

pub(crate) fn encode_snapshot(snapshot: &Snapshot, file: SnapshotFile) -> Vec<u8> {
    let numbers = [snapshot.at.index, snapshot.at.term, file.batch, file.bytes, file.checksum.into()];
    let mut payload = numbers.map(u64::to_be_bytes).as_flattened().to_vec();
    payload.extend(snapshot.members.encode_to_vec());
    payload
}

fn decode_snapshot(payload: &[u8]) -> Option<(Snapshot, SnapshotFile)> {
    let mut reader = Reader(payload);
    let at = LogPosition { index: reader.number()?, term: reader.number()? };
    let (batch, bytes, checksum) = (reader.number()?, reader.number()?, reader.number()?);
    let file = SnapshotFile { batch, bytes, checksum: checksum.try_into().ok()? };
    let members = ConfState::decode(reader.0).ok()?;
    Some((Snapshot { at, members, data: bytes::Bytes::new() }, file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::seal;

    fn found(format: u64) -> Result<Option<u64>, OpenError> {
        let (key, mut loaded) = (Key::Format.encode(), Loaded::default());
        loaded.take(&key, &seal(&key, &[&format.to_be_bytes()]))?;
        Ok(loaded.format())
    }

    #[test]
    fn every_format_from_the_oldest_on_is_read_and_no_other() {
        for format in FORMAT_OLDEST..=FORMAT {
            assert_eq!(found(format).expect("it is known"), Some(format));
        }
        for format in [FORMAT_OLDEST - 1, FORMAT + 1] {
            assert!(matches!(found(format), Err(OpenError::UnknownFormat { found }) if found == format));
        }
    }
}
