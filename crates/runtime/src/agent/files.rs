//! Files of a sandbox, inside its own mount namespace and with the rights of its user.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use proto::agent::agent_frame::Frame;
use proto::agent::request::Operation;
use proto::agent::{self as wire, Data, Finish, List, Mkdir, ReadFile, Remove, Stat, WriteFile, host_frame};
use proto::agent_limits::{CHUNK_BYTES_MAX, PATH_BYTES_MAX};
use thiserror::Error;

use super::connection::{Connection, REPLY_TIMEOUT, frame_name};
use super::control::AgentClient;
use super::error::{AgentError, RefusalCode};

/// How long the agent may be silent in the middle of a file or a list.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the removal of a tree may take.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(600);

/// Entries of one directory that are taken; a larger one is refused.
pub const LIST_ENTRIES_MAX: usize = 100_000;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, socket or pipe.
    Other,
}

/// A file, directory or link of a sandbox. Names are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Last component.
    pub name: Vec<u8>,
    /// Absolute path inside the sandbox.
    pub path: Vec<u8>,
    /// Bytes.
    pub size: u64,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// Last change of the content, in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// What it is.
    pub kind: EntryKind,
    /// Where a link points.
    pub symlink_target: Option<Vec<u8>>,
    /// Owner inside the sandbox.
    pub uid: u32,
    /// Group inside the sandbox.
    pub gid: u32,
}

/// A part of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadRange {
    /// First byte.
    pub offset: u64,
    /// Bytes; to the end if none.
    pub length: Option<u64>,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Permission bits; those of the file that is replaced, or 0644, if none.
    pub mode: Option<u32>,
    /// Bytes to come, if known: a file that surely does not fit is refused early.
    pub size_hint: Option<u64>,
}

/// Why a write failed: the sandbox's side, or the source of the bytes.
#[derive(Debug, Error)]
pub enum WriteError<E> {
    /// The agent, or the way to it.
    #[error(transparent)]
    Agent(AgentError),
    /// The source. What was at the path is still there.
    #[error("the source of the bytes failed")]
    Source(E),
}

/// The bytes of a file that is being read. Dropped, the read ends.
#[derive(Debug)]
pub struct FileReader {
    connection: Connection,
    left: u64,
    total: u64,
    ended: bool,
}

impl FileReader {
    /// The next bytes; None at the end. A read that was cut off is an error, never an end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, AgentError> {
        if self.ended {
            return Ok(None);
        }
        match self.connection.receive_within(CHUNK_TIMEOUT).await? {
            Frame::Data(Data { data }) if data.len() as u64 <= self.left => {
                self.left -= data.len() as u64;
                self.total += data.len() as u64;
                Ok(Some(data))
            }
            Frame::Data(_) => Err(AgentError::Protocol("more bytes than were asked for".into())),
            Frame::End(end) if end.total == self.total => {
                self.ended = true;
                Ok(None)
            }
            other => Err(AgentError::unexpected(frame_name(&other))),
        }
    }

    /// As a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, AgentError>> + Send {
        stream::try_unfold(self, |mut reader| async move { Ok(reader.next().await?.map(|bytes| (bytes, reader))) })
    }
}

impl AgentClient {
    /// Opens a file: what it is, and its bytes.
    pub async fn read_file(
        &self,
        generation: u64,
        path: &[u8],
        range: ReadRange,
    ) -> Result<(Entry, FileReader), AgentError> {
        let length = range.length.unwrap_or(0);
        let request = ReadFile { path: path.to_vec(), offset: range.offset, length };
        let mut connection = Connection::open(&self.address, generation, Operation::ReadFile(request)).await?;
        let entry = entry_reply(&mut connection, REPLY_TIMEOUT).await?;
        // On the wire a length of 0 is "to the end".
        let left = if length == 0 { u64::MAX } else { length };
        let ended = range.length == Some(0);
        Ok((entry, FileReader { connection, left, total: 0, ended }))
    }

    /// Writes a file in one step for whoever looks: it is in its place whole, or what was there stays. Parents are
    /// made. It is not on the disk (fsync) when this returns.
    pub async fn write_file<S, E>(
        &self,
        generation: u64,
        path: &[u8],
        options: WriteOptions,
        source: S,
    ) -> Result<Entry, WriteError<E>>
    where
        S: Stream<Item = Result<Bytes, E>>,
    {
        let request = WriteFile {
            path: path.to_vec(),
            mode: options.mode.unwrap_or(0),
            size_hint: options.size_hint.unwrap_or(0),
        };
        let operation = Operation::WriteFile(request);
        let mut connection = Connection::open(&self.address, generation, operation).await.map_err(WriteError::Agent)?;
        let mut source = std::pin::pin!(source);
        loop {
            // A refusal may come before the source has anything to say.
            let chunk = tokio::select! {
                biased;
                frame = connection.receive() => return Err(WriteError::Agent(out_of_turn(frame))),
                chunk = source.next() => chunk,
            };
            let Some(chunk) = chunk else { break };
            // Without Finish the agent throws away what it has.
            let mut chunk = chunk.map_err(WriteError::Source)?;
            while !chunk.is_empty() {
                let data = chunk.split_to(chunk.len().min(CHUNK_BYTES_MAX));
                send(&mut connection, host_frame::Frame::Data(Data { data })).await?;
            }
        }
        send(&mut connection, host_frame::Frame::Finish(Finish {})).await?;
        entry_reply(&mut connection, CHUNK_TIMEOUT).await.map_err(WriteError::Agent)
    }

    /// The entries of a directory, in no order.
    pub async fn list(&self, generation: u64, path: &[u8]) -> Result<Vec<Entry>, AgentError> {
        let operation = Operation::List(List { path: path.to_vec() });
        let mut connection = Connection::open(&self.address, generation, operation).await?;
        let mut entries = Vec::new();
        loop {
            match connection.receive_within(CHUNK_TIMEOUT).await? {
                Frame::Entries(batch) => {
                    if entries.len() + batch.entries.len() > LIST_ENTRIES_MAX {
                        return Err(AgentError::Refused {
                            code: RefusalCode::TooLarge,
                            message: format!("the directory has more than {LIST_ENTRIES_MAX} entries"),
                            field: Some("path".into()),
                        });
                    }
                    for entry in batch.entries {
                        entries.push(entry.try_into()?);
                    }
                }
                Frame::End(end) if end.total == entries.len() as u64 => return Ok(entries),
                other => return Err(AgentError::unexpected(frame_name(&other))),
            }
        }
    }

    /// What is at a path; `follow` looks at what a link points at.
    pub async fn stat(&self, generation: u64, path: &[u8], follow: bool) -> Result<Entry, AgentError> {
        let operation = Operation::Stat(Stat { path: path.to_vec(), follow });
        let mut connection = Connection::open(&self.address, generation, operation).await?;
        entry_reply(&mut connection, REPLY_TIMEOUT).await
    }

    /// Makes a directory and those above it. One that is there already is a success.
    pub async fn mkdir(&self, generation: u64, path: &[u8], mode: Option<u32>) -> Result<(), AgentError> {
        let operation = Operation::Mkdir(Mkdir { path: path.to_vec(), mode: mode.unwrap_or(0) });
        self.simple(generation, operation, REPLY_TIMEOUT).await.map(drop)
    }

    /// Removes a file, a link (never what it points at) or a tree. What is not there is a success.
    pub async fn remove(&self, generation: u64, path: &[u8]) -> Result<(), AgentError> {
        self.simple(generation, Operation::Remove(Remove { path: path.to_vec() }), REMOVE_TIMEOUT).await.map(drop)
    }
}

/// Sends a frame of a write; where that fails the agent has said why, or is gone.
async fn send<E>(connection: &mut Connection, frame: host_frame::Frame) -> Result<(), WriteError<E>> {
    let sent = tokio::time::timeout(CHUNK_TIMEOUT, connection.send(frame)).await;
    match sent.unwrap_or(Err(io::ErrorKind::TimedOut.into())) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(WriteError::Agent(AgentError::TimedOut)),
        Err(_) => Err(WriteError::Agent(out_of_turn(connection.receive_within(REPLY_TIMEOUT).await))),
    }
}

/// The agent speaks in a write only to refuse, until it was finished.
fn out_of_turn(frame: Result<Frame, AgentError>) -> AgentError {
    match frame {
        Ok(frame) => AgentError::unexpected(frame_name(&frame)),
        Err(error) => error,
    }
}

async fn entry_reply(connection: &mut Connection, timeout: Duration) -> Result<Entry, AgentError> {
    match connection.receive_within(timeout).await? {
        Frame::Entry(entry) => entry.try_into(),
        other => Err(AgentError::unexpected(frame_name(&other))),
    }
}

impl TryFrom<wire::Entry> for Entry {
    type Error = AgentError;

    fn try_from(entry: wire::Entry) -> Result<Self, AgentError> {
        let kind = match entry.kind() {
            wire::EntryKind::File => EntryKind::File,
            wire::EntryKind::Directory => EntryKind::Directory,
            wire::EntryKind::Symlink => EntryKind::Symlink,
            wire::EntryKind::Other => EntryKind::Other,
            wire::EntryKind::Unspecified => return Err(AgentError::Protocol("an unknown kind of entry".into())),
        };
        let path_max = 2 * PATH_BYTES_MAX;
        if entry.name.len() > PATH_BYTES_MAX || entry.path.len() > path_max || entry.symlink_target.len() > path_max {
            return Err(AgentError::Protocol("a name that is too long".into()));
        }
        let is_link = kind == EntryKind::Symlink;
        Ok(Self {
            name: entry.name,
            path: entry.path,
            size: entry.size,
            mode: entry.mode & 0o7777,
            mtime_ns: entry.mtime_ns,
            kind,
            symlink_target: is_link.then_some(entry.symlink_target),
            uid: entry.uid,
            gid: entry.gid,
        })
    }
}
