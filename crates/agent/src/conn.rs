//! The connection of one operation process, read and written blocking.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use prost::bytes::BytesMut;
use proto::agent::agent_frame::Frame;
use proto::agent::{AgentFrame, HostFrame, host_frame};
use proto::agent_limits::STREAM_FRAME_BYTES_MAX;
use proto::framing::{FrameBuffer, encode};

use crate::refusal::Refusal;
use crate::sys;

/// Bytes asked for in one read of a socket.
pub const READ_BYTES: usize = 64 << 10;

/// A connection and what was read of it so far.
pub struct Conn {
    fd: OwnedFd,
    input: FrameBuffer,
    buffer: Vec<u8>,
}

impl Conn {
    /// Takes over a connection whose first frame was read; `input` holds what came after it. `buffer` is PID 1's, of
    /// [`READ_BYTES`]: one of its own would be new pages for each operation.
    pub fn new(fd: OwnedFd, input: FrameBuffer, buffer: Vec<u8>) -> Self {
        Self { fd, input, buffer }
    }

    /// The descriptor.
    pub fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// The parts, for a loop that does its own waiting.
    pub fn into_parts(self) -> (OwnedFd, FrameBuffer, Vec<u8>) {
        (self.fd, self.input, self.buffer)
    }

    /// The next frame; None at the end of the connection, also in the middle of a frame.
    pub fn receive(&mut self) -> io::Result<Option<host_frame::Frame>> {
        loop {
            match self.input.next_message::<HostFrame>(STREAM_FRAME_BYTES_MAX) {
                Ok(Some(message)) => return Ok(message.frame),
                Ok(None) => {}
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
            match sys::read(self.fd.as_raw_fd(), &mut self.buffer) {
                Ok(0) => return Ok(None),
                Ok(n) => self.input.extend(&self.buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends why the operation fails.
    pub fn send_refusal(&mut self, refusal: Refusal) -> io::Result<()> {
        refusal.into_frame().frame.map_or(Ok(()), |frame| self.send(frame))
    }

    /// Sends one frame, waiting as long as the host takes.
    pub fn send(&mut self, frame: Frame) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        encode(&AgentFrame { frame: Some(frame) }, &mut bytes);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match sys::send(self.raw(), rest) {
                Ok(n) => rest = &rest[n..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
