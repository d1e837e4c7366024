//! The words of Warren: ids, generations, resources, specs, states, error codes and limits.
//!
//! Plain values that every other crate speaks in. This crate never knows I/O, a clock, randomness
//! or a wire format.

pub mod create;
pub mod error;
pub mod exec;
pub mod file;
pub mod id;
pub mod limits;
pub mod node;
pub mod sandbox;
pub mod spec;
pub mod time;

pub use create::{CreateRequest, IdempotencyKey, Lifetime};
pub use error::{ErrorCode, WarrenError};
pub use exec::{ExecOutcome, ExecRequest};
pub use file::{FileEntry, FileKind};
pub use id::{ClusterId, ExecId, Generation, HostId, Incarnation, SandboxId};
pub use sandbox::{Sandbox, Status};
pub use spec::{NetworkMode, OnNodeLoss, Resources, SandboxSpec};
pub use time::Timestamp;
