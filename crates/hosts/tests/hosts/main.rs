//! Hosts as their users see them, on the real kernel. Needs root.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod containers;
mod disks;
mod network;
mod node;
mod power;
mod sweep;
mod traces;
mod wait;
