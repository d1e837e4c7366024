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
mod gossip;
mod log;
mod misfortune;
mod network;
mod node;

mod oracle;
mod repair;
mod settled;
mod watch;

mod agenda;
mod mail;
pub mod rng;
pub mod trace;
mod words;

pub use weather::Bug;
pub use world::{Report, World};

/// Nodes of a seed's cluster, unless somebody wants another number: one, three or five.
#[must_use]
pub fn nodes_of(seed: u64) -> usize {
    [3, 1, 5, 3][(seed % 4) as usize]
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64, bug: Option<Bug>, keep_trace: bool) -> Report {
    run_with(nodes_of(seed), seed, bug, keep_trace)
}

/// Runs one seed with so many nodes.
#[must_use]
pub fn run_with(nodes: usize, seed: u64, bug: Option<Bug>, keep_trace: bool) -> Report {
    World::new(nodes, seed, bug, keep_trace).run(seed)
}
