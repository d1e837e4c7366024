//! Deterministic simulation: the production cores and consensus on one thread, in virtual time, against a fake engine
//! with its agents and a fake disk, all of which fail, hang and crash as a seed says. A seed is a run: the same seed
//! gives the same trace to the last line.
//!
//! It never decides anything itself. Its shell around the cores carries messages as the node's does; what it holds
//! against them is in [`invariants`]. It never knows real time, threads, files or the network.

pub mod invariants;
pub mod weather;
pub mod world;

pub mod fake_disk;
pub mod fake_engine;

mod clients;
mod front;
mod misfortune;
mod node;

mod oracle;
mod settled;

mod agenda;
mod mail;
pub mod rng;
pub mod trace;
mod words;

pub use weather::Bug;
pub use world::{Report, World};

/// Runs one seed.
#[must_use]
pub fn run(seed: u64, bug: Option<Bug>, keep_trace: bool) -> Report {
    World::new(seed, bug, keep_trace).run(seed)
}
