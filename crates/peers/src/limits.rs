//! The limits that the nodes of a cluster hold each other to. Those that are a `Duration` or a count are the defaults
//! of the configurations beside them.

use std::time::Duration;

/// Version of what peers speak. It grows with every change that an older peer could misread.
pub const PROTOCOL_VERSION: u32 = 1;

/// Bytes of the first frames of a connection, from whom nothing is known yet.
pub const HELLO_BYTES_MAX: usize = 4 << 10;

/// Bytes of a join request, from whom only a token is known.
pub const JOIN_REQUEST_BYTES_MAX: usize = 16 << 10;

/// Bytes of the answer to a join.
pub const JOIN_REPLY_BYTES_MAX: usize = 1 << 20;

/// Bytes of one message of a stream. A snapshot of the replicated map travels as one.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Bytes of a call's request: a create with its whole body, or an exec with its standard input.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;

/// Bytes of the payload of one chunk.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;

/// Bytes of one frame of a call after its request: a chunk with its envelope, an error with its details, or a batch of
/// directory entries.
pub const CALL_FRAME_BYTES_MAX: usize = 1 << 20;

/// Bytes that a sender gathers before they go out without being asked to.
pub const WRITE_BATCH_BYTES: usize = 256 << 10;

/// Bytes of a host's or cluster's id.
pub const ID_BYTES_MAX: usize = 64;

/// Time from a connect to the other side's welcome. It is shorter than a lease, so that one attempt at a dead address
/// does not cost one.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time that a stranger has to show who it is.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections whose handshake is under way. One more costs the oldest its place: a peer needs milliseconds, whoever
/// has been at it for longer is the one to lose.
pub const HANDSHAKES_MAX: usize = 128;

/// Connections that are admitted and not yet taken by the node.
pub const ADMITTED_MAX: usize = 64;

/// Call connections from one peer.
pub const CALL_CONNECTIONS_PER_PEER_MAX: usize = 512;

/// Joins under way.
pub const JOINS_MAX: usize = 8;

/// Time from a join request to its answer: learner first, then voter.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Time that one answer to a join may take to be written.
pub const JOIN_WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Both sides of a stream say at least this often that they live.
pub const ALIVE_INTERVAL: Duration = Duration::from_millis(500);

/// Time without a byte from the other side of a stream after which it counts as gone. Below a lease of 4 s, so that a
/// link that is half open is redialled within it.
pub const SILENCE_MAX: Duration = Duration::from_secs(2);

/// Messages that wait for one peer.
pub const QUEUE_MESSAGES_MAX: usize = 4_096;

/// Bytes of messages that wait for one peer.
pub const QUEUE_BYTES_MAX: usize = MESSAGE_BYTES_MAX;

/// Time before the first redial.
pub const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// Longest time between two dials.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Calls under way to one peer. One more is refused at once.
pub const CALLS_PER_PEER_MAX: usize = 256;

/// Connections to one peer that are kept while no call uses them.
pub const IDLE_CONNECTIONS_MAX: usize = 32;

/// Time that a connection without a call is kept by the caller; shorter than [`CALLEE_IDLE_MAX`], so that it is rarely
/// the callee that closes.
pub const CALLER_IDLE_MAX: Duration = Duration::from_secs(30);

/// Time that a connection without a call is kept by the callee.
pub const CALLEE_IDLE_MAX: Duration = Duration::from_secs(60);

/// Bytes of a body that are read and dropped after an answer that did not want them, to keep the connection. More than
/// the kernels hold between two nodes: a caller that has sent the whole body before it saw the answer goes on.
pub const DRAIN_BYTES_MAX: usize = 16 << 20;

/// Time that the callee gives a caller to notice an answer that came before the end of its body.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Time that a lone farewell may take to be written.
pub const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Idle time after which the kernel asks the other host whether it is there.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);

/// Time between two such questions.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// Unanswered questions after which a connection counts as broken.
pub const KEEPALIVE_PROBES: u32 = 3;
