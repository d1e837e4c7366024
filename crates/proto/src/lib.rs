//! Warren's wire messages, compiled from `proto/`, and the frames they travel in.
//!
//! It never knows HTTP, sockets or clocks: bytes in, messages out, and the other way round.

pub mod framing;

pub use packages::warren::agent::v1 as agent;
pub use packages::warren::peer::v1 as peer;
pub use packages::warren::placement::v1 as placement;

pub mod agent_limits;
pub mod lease_layout;

#[allow(missing_docs, clippy::all)]
mod packages {
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}
