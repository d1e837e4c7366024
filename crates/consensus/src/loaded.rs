//! A store's records as they are read back: put together, or found damaged.

use crate::durable::{LogPosition, Recovered, Snapshot};
use crate::record::{Key, Reader, open as open_record};
use crate::snapshot_files::{SnapshotFile, SnapshotFiles};
use crate::store::OpenError;
use prost_011::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState};

/// The layout this code reads and writes.
pub(crate) const FORMAT: u64 = 1;

/// The bounds of the log, written with every batch, so that a missing record is seen.
#[derive(Clone, Copy, Default)]
pub(crate) struct Head {
    pub(crate) batch: u64,
    pub(crate) base: LogPosition,
    pub(crate) last_index: u64,
}

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
                if found != FORMAT {
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

    pub(crate) fn assemble(self, snapshots: &SnapshotFiles) -> Result<(Head, Recovered), OpenError> {
        let damaged = |what: &str| OpenError::Damaged(what.to_owned());
        let blank = self.is_blank();
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
