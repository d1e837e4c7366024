//! Where an agent is, and a connection to it and to nobody else.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, OFlags};
use tokio::net::UnixStream;

use super::error::AgentError;

/// Name of the socket in its directory.
const SOCKET_NAME: &str = "sock";

/// Where a sandbox's agent listens, and which process it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentAddress {
    /// The directory on the host that the sandbox sees as `/run/warren`.
    pub socket_dir: PathBuf,
    /// The host's pid of the container's first process.
    pub pid: i32,
}

impl AgentAddress {
    /// Connects, and makes sure that the agent answers. The sandbox's root can put anything in the socket's place,
    /// a link to the engine's own socket for one: no link is followed, and the listener must be the agent.
    pub(super) async fn connect(&self) -> Result<UnixStream, AgentError> {
        let socket = self.open_socket()?;
        // This names the very inode that was looked at, whatever its path means by now.
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        let stream = UnixStream::connect(path).await.map_err(AgentError::Unreachable)?;
        let peer = stream.peer_cred().map_err(AgentError::Unreachable)?;
        match peer.pid() {
            Some(pid) if pid == self.pid => Ok(stream),
            other => Err(AgentError::NotOurs(format!("process {other:?} listens, the agent is {}", self.pid))),
        }
    }

    fn open_socket(&self) -> Result<OwnedFd, AgentError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&self.socket_dir, flags | OFlags::DIRECTORY, Mode::empty())
            .map_err(|error| absent_or_not_ours(error, "the socket's directory"))?;
        let socket = rustix::fs::openat(&directory, SOCKET_NAME, flags, Mode::empty())
            .map_err(|error| absent_or_not_ours(error, "the socket"))?;
        let stat = rustix::fs::fstat(&socket).map_err(|error| AgentError::Unreachable(error.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Socket => Ok(socket),
            other => Err(AgentError::NotOurs(format!("the socket is a {other:?}"))),
        }
    }
}

fn absent_or_not_ours(error: rustix::io::Errno, what: &str) -> AgentError {
    use rustix::io::Errno;
    match error {
        Errno::LOOP | Errno::NOTDIR => AgentError::NotOurs(format!("{what} is not what it should be: {error}")),
        other => AgentError::Unreachable(io::Error::from(other)),
    }
}
