//! The limits that host and agent hold each other to, and the version of what they speak.

/// Version of the agent's protocol, reported by Hello. It grows with every change an older peer could misread.
/// 2 brought leases.
pub const PROTOCOL_VERSION: u32 = 2;

/// Versions on either side of its own that a node speaks with an agent: an agent is as old as its sandbox.
pub const PROTOCOL_DISTANCE_MAX: u32 = 1;

/// Largest first frame of a connection: an Exec with a full argv and environment, or an Activate.
pub const REQUEST_FRAME_BYTES_MAX: usize = 4 << 20;

/// Largest payload of one Data or Output frame.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;

/// Largest frame after the first one: a chunk with its envelope, or a batch of directory entries.
pub const STREAM_FRAME_BYTES_MAX: usize = CHUNK_BYTES_MAX + (16 << 10);

/// Standard input underway, sent but not taken by the command's pipe. It bounds the agent's memory and keeps
/// the socket free for Signal and Cancel.
pub const STDIN_WINDOW_BYTES: u64 = 256 << 10;

/// Bytes of entries gathered into one Entries frame before it is sent; one entry is at most two paths more.
pub const ENTRIES_FRAME_BYTES: usize = 64 << 10;

/// Longest path, as the kernel has it.
pub const PATH_BYTES_MAX: usize = 4096;
