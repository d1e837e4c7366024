//! The HTTP server that every node runs: it checks a request against the public contract, hands a
//! checked value to [`Operations`], and puts the answer into the contract's words.
//!
//! This crate never knows who answers: no actor, no Raft, no engine. It makes no decision about a
//! sandbox; whatever it refuses, it refuses because of the request's form alone.
//!
//! Order of checks, on every route: key (401), form of the id (404), content type (415), size
//! (413), body and query (400), and only then the sandbox itself.

pub mod operations;
pub mod routes;
pub mod server;

mod body;
mod create_body;
mod exec_body;
mod fields;
mod gate;
mod idempotency;
mod keys;
mod limits;
mod mounts;
mod node_view;
mod query;
mod ranges;
mod refusal;
mod request_id;
mod values;
mod views;

mod handle_exec;
mod handle_files;
mod handle_nodes;
mod handle_sandboxes;
mod handle_system;
mod handle_upload;

pub use operations::{
    ByteRange, ByteStream, Consistency, Deleted, Download, ListFilter, Operations, SandboxPage, UploadStream,
};
pub use routes::{BodyKind, Endpoint, ROUTES, Route, Verb};
pub use server::{FrontDoor, FrontDoorConfig, Limits, VersionFacts, serve};
