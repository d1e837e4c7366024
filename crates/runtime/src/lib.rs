//! One node's hands: Podman's service, the containers it holds, and the agent inside each.
//!
//! Everything here is done, nothing is decided: which sandbox is wanted, how many slots are kept
//! and what a failure means is the caller's business. This crate never knows HTTP towards clients,
//! Raft, placements or generations.

pub mod config;
pub mod engine;

pub mod image;
pub mod slot;

pub mod found;
pub mod labels;
pub mod remove;

pub mod cgroup;
pub mod process;

pub mod doctor;
pub mod seccomp;

pub mod agent;
pub mod lease_file;

mod agent_file;
mod create_body;
mod error;
mod libpod;
mod run_dir;
mod service;
mod watchdog;

pub use cgroup::LimitError;
pub use config::EngineConfig;
pub use doctor::{Finding, FindingState, examine};
pub use engine::{Engine, EngineError, EngineStartError};
pub use found::{FindError, Found, Leftover};
pub use image::{ImageFacts, ResolveError};
pub use lease_file::LeaseFile;
pub use process::Death;
pub use remove::RemoveError;
pub use slot::{KillError, MakeSlotError, Slot, SlotOrder, SlotTimes, StopError};
