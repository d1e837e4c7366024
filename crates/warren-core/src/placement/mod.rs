//! The replicated map: which sandbox exists, who owns it, what it is meant to be.
//!
//! Every node applies the same commands in the same order and so decides the same.

mod command;
mod map;
mod moves;
mod nodes;
mod outcome;
mod planted;
mod wire;

pub use command::{
    COMMANDS_KNOWN, COMMANDS_UNGATED, Command, DestroyReason, Failure, Kind, Move, Place, Presence, Wanted,
};
pub use map::{Holder, KeyRecord, Load, Node, Placement, Record, Tombstone};
pub use nodes::Lagging;
pub use outcome::{Outcome, Refusal};
#[cfg(feature = "planted-bugs")]
pub use planted::Planted;
pub use wire::{DecodeError, decode, decode_snapshot, encode, encode_snapshot};

#[cfg(test)]
mod tests;

#[cfg(test)]
mod wire_tests;
