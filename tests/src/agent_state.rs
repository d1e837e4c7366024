//! Asks a slot's agent who it is, over its own socket, as the node would.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use proto::agent::{AgentFrame, Hello, HostFrame, Request, SandboxState, agent_frame, host_frame, request};
use proto::agent_limits::STREAM_FRAME_BYTES_MAX;
use proto::framing::{FrameBuffer, encode};

/// An agent answers in microseconds.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// What an agent says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum AgentState {
    /// A pristine slot.
    Bare,
    /// Prepared for a sandbox; no user code may run.
    Prepared,
    /// User code may run.
    Active,
}

/// Asks the agent whose socket is in this directory.
///
/// # Errors
/// It does not answer, or with something else.
pub fn ask(socket_dir: &Path) -> io::Result<AgentState> {
    let mut stream = UnixStream::connect(socket_dir.join("sock"))?;
    stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
    let request = Request { generation: 0, operation: Some(request::Operation::Hello(Hello {})) };
    let mut bytes = BytesMut::new();
    encode(&HostFrame { frame: Some(host_frame::Frame::Request(request)) }, &mut bytes);
    stream.write_all(&bytes)?;
    let mut input = FrameBuffer::new();
    let mut piece = [0; 4096];
    loop {
        let frame = input.next_message::<AgentFrame>(STREAM_FRAME_BYTES_MAX).map_err(io::Error::other)?;
        if let Some(frame) = frame {
            let Some(agent_frame::Frame::Hello(hello)) = frame.frame else {
                return Err(io::Error::other(format!("not a greeting: {frame:?}")));
            };
            return match hello.state() {
                SandboxState::Bare => Ok(AgentState::Bare),
                SandboxState::Reserved => Ok(AgentState::Prepared),
                SandboxState::Active => Ok(AgentState::Active),
                SandboxState::Unspecified => Err(io::Error::other("a greeting without a state")),
            };
        }
        let length = stream.read(&mut piece)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        input.extend(&piece[..length]);
    }
}
