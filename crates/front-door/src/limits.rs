//! Limits of this room, each with its unit. A request's head is bounded by actix-http itself: 128 KiB
//! and 96 header lines, beyond which it answers 431 or 400 without a body.

use std::time::Duration;

/// Time in which a client must have sent a request's head.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Time a connection may stay open with nothing asked.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Time a closing connection is given to take its last answer, and to end its unread upload.
pub(crate) const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time in which a JSON body must be there as a whole.
pub(crate) const JSON_BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Time between two pieces of an upload.
pub(crate) const UPLOAD_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Seconds that open requests are given when the server stops.
pub(crate) const SHUTDOWN_SECONDS: u64 = 5;

/// Connections that one worker thread holds open; more wait in the backlog. Each costs a file
/// descriptor here and one towards the sandbox, out of a hard limit that may be as low as 20000.
pub(crate) const CONNECTIONS_PER_WORKER_MAX: usize = 4096;

/// Threads for blocking work per worker: nothing here blocks.
pub(crate) const BLOCKING_THREADS_PER_WORKER: usize = 1;

/// Bytes of a request id that is taken from the client.
pub(crate) const REQUEST_ID_BYTES_MAX: usize = 128;

/// Entries of a page.
pub(crate) const PAGE_MAX: u64 = 10_000;

/// Bytes of a cursor.
pub(crate) const CURSOR_BYTES_MAX: usize = 512;

/// Bytes of an image reference.
pub(crate) const IMAGE_BYTES_MAX: usize = 512;

/// Bytes of the name of a template, user, node, runtime or sandbox.
pub(crate) const NAME_BYTES_MAX: usize = 128;

/// Thousand-millionths of a processor: 4096 processors.
pub(crate) const CPU_MAX: u64 = 4096 * 1_000_000_000;

/// Bytes of memory or disk: 1 PiB, far below where a signed 64-bit number ends.
pub(crate) const BYTES_MAX: u64 = 1 << 50;

/// Processes: the kernel's own limit of ids.
pub(crate) const PIDS_MAX: u64 = 4_194_304;

/// Mounts of one kind in one sandbox.
pub(crate) const MOUNTS_MAX: usize = 16;

/// Ports of one sandbox.
pub(crate) const PORTS_MAX: usize = 64;

/// Seconds an exec may be given: ten years, so that milliseconds can not overflow.
pub(crate) const EXEC_TIMEOUT_SECONDS_MAX: u64 = types::limits::TIMEOUT_SECONDS_MAX;

/// Bytes held in memory of an uploaded `file` part that comes before its `path`.
pub(crate) const UPLOAD_HELD_BYTES_MAX: usize = 8 << 20;

/// Characters of a client's own text that an error message repeats.
pub(crate) const QUOTED_CHARS_MAX: usize = 64;
