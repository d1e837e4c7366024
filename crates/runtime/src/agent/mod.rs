//! The host's side of the agent's protocol: one unix-socket connection per operation.
//!
//! Whatever comes from a sandbox is hostile: who answers is checked before a byte is sent, frames and counts are
//! bounded, and every wait for the agent itself has a limit. Nothing here goes through the container engine.

pub mod address;
pub mod control;
pub mod error;
pub mod exec;
pub mod exec_run;
pub mod files;

mod connection;
mod exec_stream;
mod warden;

pub use address::AgentAddress;
pub use control::{Activation, AgentClient, AgentStage, AgentStatus, Farewell, Identity, LeaseStatus};
pub use error::{AgentError, RefusalCode};
pub use exec::{ExecEvent, ExecRequest, Exit, ExitStatus, OutputStream, TerminalSize};
pub use exec_run::RunOutcome;
pub use exec_stream::{ExecInput, ExecOutput, ExecStream};
pub use files::{Entry, EntryKind, FileReader, ReadRange, WriteError, WriteOptions};
