//! Warren's decisions: pure cores that turn an input and a time into outputs.
//!
//! Every core is `handle(now, Input) -> Vec<Output>` over closed enums; the node's actors and the
//! simulation run these very values. This crate never knows tokio, actix, sled, clocks, randomness,
//! the environment or the order of a hash map.

pub mod fresh;
pub mod images;
pub mod lease;
pub mod leases;
pub mod lifecycle;
pub mod membership;
pub mod placement;
pub mod reconcile;
pub mod repair;
pub mod scheduler;
pub mod slot_digest;
pub mod step;
pub mod warm_pool;
pub mod wiring;

pub use fresh::FreshIds;

#[cfg(test)]
mod script;
