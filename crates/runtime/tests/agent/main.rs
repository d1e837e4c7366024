//! The agent and its client, in real containers.

// To clippy only the functions marked as tests are tests, not what they call.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod exec;
mod files;
mod images;
mod killing;
mod lease;
mod lease_strain;
mod limits;
mod protocol;
mod socket;
mod streams;
mod support;
