//! How keys and values look on disk. Every value carries a version and a checksum over its key and itself, so that a
//! damaged record, or one that stands under another's key, is seen.

/// The version each value begins with.
const RECORD_VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 4;
/// Longer entries take several records. A leaf of the database holds at most some twenty values, and one that grows
/// past a quarter of a segment goes to a file of its own which the database never syncs: see `store.rs`.
pub(crate) const CHUNK_BYTES: usize = 16 << 10;

/// What is stored under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// The version of the whole layout.
    Format,
    /// Term, vote, commit.
    HardState,
    /// The last batch and the bounds of the log.
    Head,
    /// Which snapshot file is the one.
    Snapshot,
    /// A part of an entry.
    Entry { index: u64, chunk: u16 },
}

impl Key {
    pub(crate) fn encode(self) -> Vec<u8> {
        match self {
            Self::Format => b"f".to_vec(),
            Self::HardState => b"h".to_vec(),
            Self::Head => b"i".to_vec(),
            Self::Snapshot => b"s".to_vec(),
            Self::Entry { index, chunk } => [b"e", &index.to_be_bytes()[..], &chunk.to_be_bytes()].concat(),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        Some(match bytes {
            b"f" => Self::Format,
            b"h" => Self::HardState,
            b"i" => Self::Head,
            b"s" => Self::Snapshot,
            [b'e', rest @ ..] => {
                let (index, chunk) = rest.split_first_chunk::<8>()?;
                Self::Entry { index: u64::from_be_bytes(*index), chunk: u16::from_be_bytes(chunk.try_into().ok()?) }
            }
            _ => return None,
        })
    }
}

/// Wraps a payload for storage under `key`.
pub(crate) fn seal(key: &[u8], payload: &[&[u8]]) -> Vec<u8> {
    let mut value = vec![RECORD_VERSION, 0, 0, 0, 0];
    payload.iter().for_each(|part| value.extend_from_slice(part));
    let sum = checksum(key, RECORD_VERSION, &value[HEADER_BYTES..]);
    value[1..HEADER_BYTES].copy_from_slice(&sum.to_be_bytes());
    value
}

/// The payload stored under `key`, or what is wrong with it.
pub(crate) fn open<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], &'static str> {
    let (&version, rest) = value.split_first().ok_or("is empty")?;
    let (sum, payload) = rest.split_first_chunk::<4>().ok_or("is cut short")?;
    if u32::from_be_bytes(*sum) != checksum(key, version, payload) {
        return Err("fails its checksum");
    }
    if version != RECORD_VERSION {
        return Err("has an unknown version");
    }
    Ok(payload)
}

fn checksum(key: &[u8], version: u8, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(&[version]);
    hasher.update(payload);
    hasher.finalize()
}

/// Reads fixed numbers off the front of a payload.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl Reader<'_> {
    pub(crate) fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_and_entries_sort_by_index_then_chunk() {
        let keys = [
            Key::Entry { index: 1, chunk: 0 },
            Key::Entry { index: 1, chunk: 300 },
            Key::Entry { index: 256, chunk: 0 },
            Key::Format,
            Key::HardState,
            Key::Head,
            Key::Snapshot,
        ];
        let encoded: Vec<_> = keys.iter().map(|key| key.encode()).collect();
        assert!(encoded.is_sorted());
        assert_eq!(encoded.iter().map(|key| Key::decode(key)).collect::<Vec<_>>(), keys.map(Some));
        for bad in [&b""[..], b"x", b"ff", b"e", b"e12345678", b"e12345678123"] {
            assert_eq!(Key::decode(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn any_flipped_bit_in_key_or_value_is_seen() {
        let (key, value) = (Key::Head.encode(), seal(&Key::Head.encode(), &[b"pay", b"load"]));
        assert_eq!(open(&key, &value), Ok(&b"payload"[..]));
        assert_eq!(open(&Key::HardState.encode(), &value), Err("fails its checksum"));
        for bit in 0..value.len() * 8 {
            let mut spoilt = value.clone();
            spoilt[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&key, &spoilt), Err("fails its checksum"), "bit {bit}");
        }
        assert_eq!(open(&key, &value[..3]), Err("is cut short"));
        assert_eq!(open(&key, b""), Err("is empty"));
    }

    #[test]
    fn a_later_version_is_refused() {
        let key = Key::Head.encode();
        let mut value = seal(&key, &[b"x"]);
        value[0] = RECORD_VERSION + 1;
        let sum = checksum(&key, RECORD_VERSION + 1, b"x").to_be_bytes();
        value[1..5].copy_from_slice(&sum);
        assert_eq!(open(&key, &value), Err("has an unknown version"));
    }
}
