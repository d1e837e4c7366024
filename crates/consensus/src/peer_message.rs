//! Messages between members, as bytes.

use crate::contract::Output;
use bytes::Bytes;
use prost_011::Message as _;
use prost_011::encoding::decode_varint;
use raft::eraftpb::{EntryType, Message, MessageType};

/// A peer's message, unless raft had better not see it.
pub(crate) fn read(message: &Bytes, id: u64) -> Option<Message> {
    match Message::decode(message.clone()) {
        Ok(message) if is_sound(&message, id) => return Some(message),
        Ok(message) => tracing::warn!(from = message.from, to = message.to, "a peer's message is not sound"),
        Err(error) => tracing::warn!(%error, "a peer's message can not be read"),
    }
    None
}

/// The member that a message says it is from, without reading the rest; none where it can not be read.
pub fn sender(message: &[u8]) -> Option<u64> {
    const FROM: u64 = 3;
    let mut rest = message;
    loop {
        // Fields come in the order of their numbers, and those up to this one are plain numbers.
        let key = decode_varint(&mut rest).ok()?;
        let value = if key & 7 == 0 { decode_varint(&mut rest).ok()? } else { return None };
        if key >> 3 == FROM {
            return Some(value);
        }
    }
}

pub(crate) fn send(messages: Vec<Message>, out: &mut Vec<Output>) {
    out.extend(messages.into_iter().map(|message| Output::Send {
        to: message.to,
        snapshot: message.msg_type() == MessageType::MsgSnapshot,
        message: message.encode_to_vec().into(),
    }));
}

/// Raft panics on some of these rather than refusing them, and takes others at their word. A peer of another version
/// must do us no harm.
fn is_sound(message: &Message, id: u64) -> bool {
    let known = MessageType::from_i32(message.msg_type).is_some()
        && message.entries.iter().all(|entry| EntryType::from_i32(entry.entry_type).is_some());
    let entries_fit = match message.msg_type() {
        // Entries that do not follow their message's index would be acknowledged under numbers they do not have.
        MessageType::MsgAppend => message
            .entries
            .iter()
            .zip(message.index.saturating_add(1)..)
            .all(|(entry, expected)| entry.index == expected),
        MessageType::MsgPropose => !message.entries.is_empty(),
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => message.entries.len() == 1,
        _ => true,
    };
    known && entries_fit && message.to == id && message.from != raft::INVALID_ID
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::Entry;

    #[test]
    fn the_sender_is_read_off_the_front() {
        for (to, from) in [(1, 2), (300, u64::MAX), (0, 7)] {
            let entries = vec![Entry { index: 9, ..Entry::default() }];
            let mut message = Message { to, from, term: 5, entries, ..Message::default() };
            message.set_msg_type(MessageType::MsgAppend);
            assert_eq!(sender(&message.encode_to_vec()), Some(from));
        }
        for broken in [&b""[..], b"\xff", b"\x08", b"\x08\x01\x12\x01x"] {
            assert_eq!(sender(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn only_sound_messages_are_read() {
        let entry = |index| Entry { index, term: 1, ..Entry::default() };
        let odd = Entry { entry_type: 99, ..entry(6) };
        let message = |kind: MessageType, entries: &[Entry]| {
            let mut message = Message { to: 1, from: 2, index: 5, entries: entries.to_vec(), ..Message::default() };
            message.set_msg_type(kind);
            message
        };
        let cases = [
            (message(MessageType::MsgAppend, &[]), true),
            (message(MessageType::MsgAppend, &[entry(6), entry(7)]), true),
            (message(MessageType::MsgAppend, &[entry(5)]), false),
            (message(MessageType::MsgAppend, &[entry(6), entry(8)]), false),
            (message(MessageType::MsgAppend, &[odd]), false),
            (message(MessageType::MsgPropose, &[]), false),
            (message(MessageType::MsgPropose, &[entry(0)]), true),
            (message(MessageType::MsgReadIndex, &[]), false),
            (message(MessageType::MsgReadIndex, &[entry(0)]), true),
            (Message { msg_type: 99, ..message(MessageType::MsgAppend, &[]) }, false),
            (Message { to: 3, ..message(MessageType::MsgAppend, &[]) }, false),
            (Message { from: 0, ..message(MessageType::MsgAppend, &[]) }, false),
        ];
        for (message, sound) in cases {
            let read = read(&message.encode_to_vec().into(), 1);
            assert_eq!(read.is_some(), sound, "{message:?}");
        }
        assert_eq!(read(&Bytes::from_static(b"\xff\xff"), 1), None);
    }
}
