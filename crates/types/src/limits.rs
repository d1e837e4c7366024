//! Limits of the public contract, each with its unit. Limits of one room stay in that room.

/// Bytes of a JSON body; more is 413.
pub const JSON_BODY_BYTES_MAX: usize = 1 << 20;

/// Seconds a sandbox lives where the create names no time-out.
pub const TIMEOUT_SECONDS_DEFAULT: u64 = 1800;

/// Seconds a sandbox may be asked to live: ten years.
pub const TIMEOUT_SECONDS_MAX: u64 = 10 * 365 * 24 * 3600;

/// Bytes kept of each output stream of an exec where the request names no other number.
pub const EXEC_OUTPUT_BYTES_DEFAULT: u64 = 16 << 20;

/// Bytes of each output stream that a request may ask to keep.
pub const EXEC_OUTPUT_BYTES_MAX: u64 = 64 << 20;

/// Bytes of a path inside a sandbox: the kernel's PATH_MAX less its terminator.
pub const PATH_BYTES_MAX: usize = 4095;

/// Hours an idempotency key is remembered.
pub const IDEMPOTENCY_KEY_HOURS: u64 = 24;

/// Bytes of an idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// Bytes of one tmpfs.
pub const TMPFS_BYTES_MAX: u64 = 4 << 30;

/// Labels on one sandbox.
pub const LABELS_MAX: usize = 64;

/// Bytes of one label's key or value.
pub const LABEL_BYTES_MAX: usize = 256;

/// Smallest memory limit in bytes under which the agent and a small program still start.
pub const MEMORY_BYTES_MIN: u64 = 8 << 20;

/// Smallest limit of processes under which a command can run beside the agent.
pub const PIDS_MIN: u64 = 8;
