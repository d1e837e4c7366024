//! One Warren process: the actors that carry the pure cores, and what they need of the machine.
//!
//! The shells here are thin: they deliver messages, run what a core asked for and bring the result
//! back. Decisions stand in `warren-core`.

pub mod config;
#[doc(hidden)]
pub mod placement_alone;

mod actors;
mod agent_words;
mod answer_calls;
mod answers;
mod cluster;
mod doorway;
mod engine_room;
mod find_image;
mod gossip;
mod hub;
mod identity;
mod insight;
mod instruments;
mod kill_point;
mod known_peers;
mod lease;
mod ledger;
mod life;
mod may_serve;
mod metrics;
mod nodes;
mod offers;
mod operations;
mod own_log;
mod peers_door;
mod remote;
mod repair;
mod routing;
mod seal;
mod start;
mod take_over;
mod view;

pub use config::NodeConfig;
pub use identity::join_token;
pub use start::{ExitReason, run};
