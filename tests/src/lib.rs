//! A real node under test: the `warren` binary on this host's Podman, asked over HTTP, killed, started again, and
//! compared with what the host then holds; and a cluster of them.
//!
//! It never calls into the node's own code: what a test sees is what a user or the machine would see.

pub mod agent_state;
pub mod api;
pub mod cases;
pub mod cluster;
pub mod crash_points;
pub mod den_sdk;
pub mod engine;
pub mod http;
pub mod identity;
pub mod load;
pub mod machine;
pub mod node;
pub mod remains;
mod running;
pub mod serial;
pub mod strangers;
pub mod wait;
pub mod witness;

pub use api::{Api, Ran};
pub use cases::Cases;
pub use cluster::Cluster;
pub use engine::{BUSYBOX, DEFAULT_IMAGE, NOSHELL};
pub use http::Answer;
pub use load::Load;
pub use machine::Held;
pub use node::{Node, Options};
pub use wait::{within, within_settling};
pub use witness::Witness;
