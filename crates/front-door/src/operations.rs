//! What the front door asks of whoever stands behind it.

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use types::node::{NodeHealth, NodeInfo};
use types::{CreateRequest, ExecOutcome, ExecRequest, FileEntry, Sandbox, SandboxId, Status, WarrenError};

/// Bytes on their way to a client. It may live on one thread only.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, WarrenError>>>>;

/// Bytes on their way from a client. An error means that the rest will never come: what was written
/// so far must not take the file's name. It may live on one thread only.
pub type UploadStream = Pin<Box<dyn Stream<Item = Result<Bytes, io::Error>>>>;

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// It shows whatever any node has acknowledged before.
    #[default]
    Barrier,
    /// It shows what this node knows, also without a majority.
    Stale,
}

/// Which sandboxes a list shows: those that match everything that is given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListFilter {
    /// Only those in this state.
    pub status: Option<Status>,
    /// Only those that carry all of these labels.
    pub labels: Vec<(String, String)>,
    /// Only those on this node.
    pub node: Option<String>,
    /// At most this many; `None` for all.
    pub limit: Option<usize>,
    /// Where the page before this one ended, as it was given out in [`SandboxPage::next`].
    pub cursor: Option<String>,
}

/// A part of a list, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SandboxPage {
    /// The sandboxes of this page.
    pub items: Vec<Sandbox>,
    /// Cursor of the next page, where there is one.
    pub next: Option<String>,
}

/// How a delete ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// Every process of it is dead and nothing of it can be reached.
    Done,
    /// It is gone for its users, and its unreachable node will kill it when it returns.
    Destroying,
}

/// A part of a file, from `offset` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte; may lie past the end, then the body is empty.
    pub offset: u64,
    /// At most this many bytes; `None` for all that follow.
    pub length: Option<u64>,
}

/// A file that was opened for reading.
pub struct Download {
    /// The opened file itself (links followed), with its size at the time it was opened.
    pub entry: FileEntry,
    /// Its bytes, or those of the range that was asked for, until the end is met.
    pub body: ByteStream,
}

/// Everything the front door can ask for. It is called on the server's own threads, each of which
/// runs many calls at once on one thread; a call must not block.
///
/// A client that closes its connection ends the call where it last awaited: the future is dropped.
/// A call that changes something must stay sound then: what it started is either finished without
/// it or undone. Of an exec, dropping the future must kill the command.
///
/// Paths are absolute, free of null bytes and at most `PATH_BYTES_MAX` long. The request's id is in
/// the current tracing span.
#[allow(async_fn_in_trait)]
pub trait Operations: Send + Sync + 'static {
    /// How this node is. It must answer also when nothing else does.
    fn health(&self) -> NodeHealth;

    /// Shows the cluster's members, in the order in which they became members.
    async fn nodes(&self, consistency: Consistency) -> Result<Vec<NodeInfo>, WarrenError>;

    /// Shows one member. Any text may come as its id.
    async fn node(&self, id: &str, consistency: Consistency) -> Result<NodeInfo, WarrenError>;

    /// Makes a sandbox, or finds the one that was made under the same idempotency key.
    async fn create(&self, request: CreateRequest) -> Result<Sandbox, WarrenError>;

    /// Shows one sandbox.
    async fn get(&self, id: SandboxId, consistency: Consistency) -> Result<Sandbox, WarrenError>;

    /// Shows sandboxes, newest first.
    async fn list(&self, filter: ListFilter, consistency: Consistency) -> Result<SandboxPage, WarrenError>;

    /// Ends a sandbox.
    async fn delete(&self, id: SandboxId) -> Result<Deleted, WarrenError>;

    /// Stops a sandbox, keeping its files; a stopped one is left as it is.
    async fn stop(&self, id: SandboxId) -> Result<Status, WarrenError>;

    /// Starts a stopped sandbox; a running one is left as it is.
    async fn start(&self, id: SandboxId) -> Result<Status, WarrenError>;

    /// Runs a command to its end. A deadline that passed is an outcome (`timed_out`), not an error.
    async fn exec(&self, id: SandboxId, request: ExecRequest) -> Result<ExecOutcome, WarrenError>;

    /// Opens a file for reading.
    async fn read_file(&self, id: SandboxId, path: &str, range: Option<ByteRange>) -> Result<Download, WarrenError>;

    /// Writes a whole file with its parents, atomically by rename.
    async fn write_file(&self, id: SandboxId, path: &str, body: UploadStream) -> Result<(), WarrenError>;

    /// Shows what lies in a directory.
    async fn list_files(&self, id: SandboxId, path: &str) -> Result<Vec<FileEntry>, WarrenError>;

    /// Shows one entry.
    async fn stat_file(&self, id: SandboxId, path: &str) -> Result<FileEntry, WarrenError>;

    /// Makes a directory with its parents; one that is there is success.
    async fn mkdir(&self, id: SandboxId, path: &str) -> Result<(), WarrenError>;

    /// Removes a file or a whole tree; one that is not there is success.
    async fn remove_file(&self, id: SandboxId, path: &str) -> Result<(), WarrenError>;
}
