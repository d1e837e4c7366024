//! A connection that carries one operation whose frames alternate simply: everything but exec.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use proto::agent::{AgentFrame, HostFrame, Request, agent_frame, host_frame, request};
use proto::agent_limits::{REQUEST_FRAME_BYTES_MAX, STREAM_FRAME_BYTES_MAX};
use proto::framing::{FrameBuffer, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::address::AgentAddress;
use super::error::{AgentError, RefusalCode};

/// How long the agent may take for something that needs no user code: it answers in microseconds, unless it is
/// frozen, or starved by what runs beside it.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(15);

/// Room for one read: what an agent has to say, a small file included, comes in one or two.
const READ_BYTES: usize = 8 << 10;

/// A connected operation.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    input: FrameBuffer,
}

impl Connection {
    /// Connects and sends the request.
    pub async fn open(
        address: &AgentAddress,
        generation: u64,
        operation: request::Operation,
    ) -> Result<Self, AgentError> {
        let request = Request { generation, operation: Some(operation) };
        let mut bytes = BytesMut::new();
        encode(&HostFrame { frame: Some(host_frame::Frame::Request(request)) }, &mut bytes);
        if bytes.len() > REQUEST_FRAME_BYTES_MAX {
            return Err(AgentError::Refused {
                code: RefusalCode::TooLarge,
                message: format!("the request is larger than {REQUEST_FRAME_BYTES_MAX} bytes"),
                field: None,
            });
        }
        let connecting = async {
            let mut stream = address.connect().await?;
            // A request that is not whole has no effect.
            stream.write_all(&bytes).await.map_err(AgentError::Unreachable)?;
            Ok(stream)
        };
        let stream = within(REPLY_TIMEOUT, connecting).await.map_err(|error| match error {
            AgentError::TimedOut => AgentError::Unreachable(io::ErrorKind::TimedOut.into()),
            other => other,
        })?;
        Ok(Self { stream, input: FrameBuffer::new() })
    }

    /// The parts, for a stream that does its own waiting.
    pub fn into_parts(self) -> (UnixStream, FrameBuffer) {
        (self.stream, self.input)
    }

    /// Sends a frame. An error means that the agent is gone or has said why: `receive` tells.
    pub async fn send(&mut self, frame: host_frame::Frame) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        encode(&HostFrame { frame: Some(frame) }, &mut bytes);
        self.stream.write_all(&bytes).await
    }

    /// The next frame. Refusals come as errors; so does the end of the connection. May be dropped and called again.
    pub async fn receive(&mut self) -> Result<agent_frame::Frame, AgentError> {
        loop {
            if let Some(frame) = next_frame(&mut self.input)? {
                return Ok(frame);
            }
            self.input.bytes_mut().reserve(READ_BYTES);
            match self.stream.read_buf(self.input.bytes_mut()).await {
                Ok(0) | Err(_) => return Err(AgentError::Interrupted),
                Ok(_) => {}
            }
        }
    }

    /// The next frame, within the time.
    pub async fn receive_within(&mut self, timeout: Duration) -> Result<agent_frame::Frame, AgentError> {
        within(timeout, self.receive()).await
    }
}

/// Takes a whole frame out of what was read.
pub(super) fn next_frame(input: &mut FrameBuffer) -> Result<Option<agent_frame::Frame>, AgentError> {
    match input.next_message::<AgentFrame>(STREAM_FRAME_BYTES_MAX) {
        Ok(None) => Ok(None),
        Ok(Some(AgentFrame { frame: Some(agent_frame::Frame::Error(error)) })) => Err(AgentError::refused(error)),
        Ok(Some(AgentFrame { frame: Some(frame) })) => Ok(Some(frame)),
        Ok(Some(AgentFrame { frame: None })) => Err(AgentError::Protocol("a frame of an unknown kind".into())),
        Err(error) => Err(AgentError::Protocol(error.to_string())),
    }
}

/// Bounds a wait for the agent.
pub(super) async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, AgentError>>,
) -> Result<T, AgentError> {
    tokio::time::timeout(timeout, work).await.unwrap_or(Err(AgentError::TimedOut))
}

/// What a frame is called in an error.
pub(super) fn frame_name(frame: &agent_frame::Frame) -> &'static str {
    use agent_frame::Frame;
    match frame {
        Frame::Error(_) => "Error",
        Frame::Hello(_) => "Hello",
        Frame::Done(_) => "Done",
        Frame::Started(_) => "Started",
        Frame::Output(_) => "Output",
        Frame::StdinConsumed(_) => "StdinConsumed",
        Frame::Exited(_) => "Exited",
        Frame::Entry(_) => "Entry",
        Frame::Data(_) => "Data",
        Frame::End(_) => "End",
        Frame::Entries(_) => "Entries",
    }
}
