//! The links between the nodes of one cluster: who may speak, how bytes travel, and what happens when they do not.
//!
//! A stream carries messages one way, from a bounded queue, and never makes its sender wait. A call carries one
//! request to the node that owns a sandbox and its answer back, both with back-pressure. A join lets a newcomer in.
//! All three come in through one listener, under mutual TLS with the cluster's own authority.
//!
//! This crate never knows what a message means: no log, no placements, no HTTP, no actors. It keeps no global state,
//! so several nodes fit into one process.

pub mod limits;

pub mod authority;
mod certificate;
pub mod identity;
pub mod token;
mod verify;

mod dial;
pub mod error;
mod frames;
mod socket;

mod connections;
pub mod listener;

pub mod link;
mod queue;
pub mod stream;

mod call_answer;
mod call_connection;
mod call_stream;
pub mod caller;
pub mod join;

pub mod words;

pub use authority::{Authority, AuthorityError, Fingerprint, NodeKey};
pub use call_answer::{ReplySender, RequestBody, Responder};
pub use call_connection::CallConnection;
pub use call_stream::{CallStream, Sent};
pub use caller::{Caller, CallerConfig, CallerCounters};
pub use dial::Peer;
pub use error::{CallError, ConnectError, JoinError, LinkError, NotDone, Unknown};
pub use identity::{IdentityError, NodeTls, Security};
pub use join::{Accepted, JoinClient, JoinConnection, JoinRequest, Member, Versions};
pub use link::{Link, LinkConfig, LinkCounters, LinkState, SendError};
pub use listener::{BindError, Incoming, Listener, ListenerConfig, ListenerCounters, ListenerMeter};
pub use stream::StreamLink;
pub use token::{JoinToken, TokenError};

/// The messages of a stream and the frames of a call, as they travel.
pub mod wire {
    pub use proto::peer::call_request::Operation;
    pub use proto::peer::peer_message::Message;
    pub use proto::peer::reply_frame::Frame as Reply;
    pub use proto::peer::*;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goes_between_threads<T: Send>() {}

    #[test]
    fn everything_goes_between_threads() {
        goes_between_threads::<Listener>();
        goes_between_threads::<Incoming>();
        goes_between_threads::<Link>();
        goes_between_threads::<Caller>();
        goes_between_threads::<CallStream>();
        goes_between_threads::<Responder>();
        goes_between_threads::<Security>();
        goes_between_threads::<Authority>();
    }
}
