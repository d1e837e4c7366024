//! Frames: a 32-bit big-endian length, then one prost message.

use prost::Message;
use prost::bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

/// Bytes of the length before each message.
pub const LENGTH_BYTES: usize = 4;

/// Why bytes are not a frame. The stream can not be read on after either.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// The length announces more than the receiver takes.
    #[error("a frame of {length} bytes, at most {max} are taken")]
    TooLong {
        /// What the length says.
        length: usize,
        /// What is allowed here.
        max: usize,
    },
    /// The bytes are not the message that belongs here.
    #[error("a frame that is not its message: {0}")]
    Malformed(String),
}

/// Appends `message` as one frame.
pub fn encode(message: &impl Message, out: &mut BytesMut) {
    let length = message.encoded_len();
    out.reserve(LENGTH_BYTES + length);
    out.put_u32(u32::try_from(length).expect("a frame is bounded far below 4 GiB by its sender"));
    message.encode(out).expect("room was reserved");
}

/// Gathers bytes and gives back whole frames, bounded by what the caller takes next.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: BytesMut,
}

impl FrameBuffer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what was read.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The buffer itself, for readers that fill it in place.
    pub fn bytes_mut(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// Whether nothing is left over.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next whole frame, if it is there. `max` bounds its length before any of it is kept.
    pub fn next_frame(&mut self, max: usize) -> Result<Option<Bytes>, FrameError> {
        let Some(length) = self.bytes.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > max {
            return Err(FrameError::TooLong { length, max });
        }
        if self.bytes.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.bytes.advance(LENGTH_BYTES);
        Ok(Some(self.bytes.split_to(length).freeze()))
    }

    /// The next whole message, if it is there.
    pub fn next_message<M: Message + Default>(&mut self, max: usize) -> Result<Option<M>, FrameError> {
        match self.next_frame(max)? {
            None => Ok(None),
            Some(frame) => M::decode(frame).map(Some).map_err(|error| FrameError::Malformed(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent;

    fn data(bytes: &'static [u8]) -> agent::Data {
        agent::Data { data: Bytes::from_static(bytes) }
    }

    #[test]
    fn frames_survive_any_cut() {
        let mut wire = BytesMut::new();
        encode(&data(b"one"), &mut wire);
        encode(&data(b""), &mut wire);
        encode(&data(b"three"), &mut wire);
        for step in 1..wire.len() {
            let mut buffer = FrameBuffer::new();
            let mut seen = Vec::new();
            for piece in wire.chunks(step) {
                buffer.extend(piece);
                while let Some(message) = buffer.next_message::<agent::Data>(64).unwrap() {
                    seen.push(message.data);
                }
            }
            assert_eq!(seen, [&b"one"[..], b"", b"three"], "cut every {step} bytes");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_bytes_come() {
        let mut buffer = FrameBuffer::new();
        buffer.extend(&65u32.to_be_bytes());
        assert_eq!(buffer.next_frame(64), Err(FrameError::TooLong { length: 65, max: 64 }));
    }

    #[test]
    fn garbage_is_malformed() {
        let mut buffer = FrameBuffer::new();
        buffer.extend(&[0, 0, 0, 2, 0xff, 0xff]);
        assert!(matches!(buffer.next_message::<agent::HostFrame>(64), Err(FrameError::Malformed(_))));
    }
}
