//! What can go wrong between two nodes, told apart where a caller does something different about it.

use std::io;

use proto::framing::FrameError;
use types::{ClusterId, HostId};

use crate::wire::RefusedReason;

/// Why a connection was not made. Nothing of what it was made for has happened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address has no form or name that leads anywhere, or nobody listens there.
    #[error("{address} can not be reached")]
    Unreachable {
        /// What was dialled.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The connection and its welcome took too long.
    #[error("{address} does not answer")]
    TimedOut {
        /// What was dialled.
        address: String,
    },
    /// It is not a node that answers, or one that is encrypted where we are not, or the other way round.
    #[error("what answers does not speak as a node does")]
    NotANode(#[source] LinkError),
    /// The connection broke before the node's welcome.
    #[error("the connection ended before the node's welcome")]
    Lost(#[source] LinkError),
    /// It is signed by another authority.
    #[error("the certificate is not to be trusted: {0}")]
    NotTrusted(String),
    /// It belongs to another cluster.
    #[error("the node is of cluster {0}")]
    OtherCluster(ClusterId),
    /// Another host answers at this address.
    #[error("the node is host {0}")]
    OtherHost(HostId),
    /// The node does not want us.
    #[error("the node refuses: {message}")]
    Refused {
        /// What for.
        reason: RefusedReason,
        /// In words.
        message: String,
    },
    /// Plain text is spoken on loopback only.
    #[error("{0} is not loopback, and plain text goes nowhere else")]
    PlaintextOffLoopback(String),
}

/// How a connection that was made came to its end.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The network, or the encryption on it.
    #[error("the connection broke")]
    Io(#[source] io::Error),
    /// The other side ended it in the middle of something.
    #[error("the connection was cut off")]
    CutOff,
    /// The other side has said nothing for too long.
    #[error("the other side is silent")]
    Silent,
    /// The other side does not keep to the protocol.
    #[error("the other side breaks the protocol")]
    Frame(#[source] FrameError),
    /// The other side sends what has no place here.
    #[error("the other side breaks the protocol: {0}")]
    Protocol(&'static str),
    /// This node itself has given the other side up.
    #[error("the other side was given up")]
    Severed,
    /// The same peer has made a newer stream.
    #[error("a newer stream of the same peer took its place")]
    Superseded,
}

/// Why a call was not made, or how it ended without an answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Surely nothing of it was done.
    #[error("the call was not made")]
    NotDone(#[source] NotDone),
    /// It may have been done, in part or as a whole.
    #[error("it is not known whether the call was done")]
    Unknown(#[source] Unknown),
}

impl CallError {
    /// Whether it is certain that nothing was done, so that any call may be made again.
    #[must_use]
    pub fn surely_not_done(&self) -> bool {
        matches!(self, Self::NotDone(_))
    }
}

/// Why surely nothing of a call was done.
#[derive(Debug, thiserror::Error)]
pub enum NotDone {
    /// There is no connection.
    #[error("the owner can not be reached")]
    Connect(#[source] ConnectError),
    /// As many calls as may be are under way to this peer.
    #[error("too many calls are under way to this node")]
    Busy,
    /// The request is larger than a peer takes.
    #[error("a request of {0} bytes is too large")]
    TooLarge(usize),
    /// The request has been passed on already.
    #[error("the request has been passed on already")]
    TooManyHops,
    /// The request did not leave as a whole, so it was not read.
    #[error("the request could not be sent")]
    NotSent(#[source] LinkError),
    /// The other side closed the connection for want of use while the request was on its way.
    #[error("the connection was closed while the request was on its way")]
    Closed,
    /// There was no time left when it came to send it.
    #[error("the call's time was over before it was sent")]
    TimedOut,
}

/// Why it is not known what became of a call.
#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    /// The connection ended before the answer did.
    #[error("the connection ended before the answer did")]
    Lost(#[source] LinkError),
    /// The call's time was over.
    #[error("the call's time was over")]
    TimedOut,
}

/// Why a newcomer was not let in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// There is no connection. Nothing has happened.
    #[error("the node can not be reached")]
    Connect(#[source] ConnectError),
    /// The node says no, with one of the codes that clients know.
    #[error("the node does not let us in: {message} ({code})")]
    Refused {
        /// What for.
        code: String,
        /// In words.
        message: String,
    },
    /// It may have been let in; asking again is safe.
    #[error("it is not known whether the node let us in")]
    Unknown(#[source] Unknown),
    /// The answer lacks what it must hold.
    #[error("the node's answer is incomplete: {0}")]
    Answer(&'static str),
}
