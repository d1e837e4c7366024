//! The replicated map: which sandbox exists, who owns it, what it is meant to be.
//!
//! Every node applies the same commands in the same order and so decides the same.

mod command;
mod map;
mod outcome;
mod wire;

pub use command::{COMMANDS_KNOWN, Command, DestroyReason, Failure, Kind, Place, Presence, Wanted};
pub use map::{KeyRecord, Load, Node, Placement, Record, Tombstone};
pub use outcome::{Outcome, Refusal};
pub use wire::{DecodeError, decode, decode_snapshot, encode, encode_snapshot};

#[cfg(test)]
mod tests;

#[cfg(test)]
mod wire_tests;
