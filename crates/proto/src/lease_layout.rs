//! The file in which a node's lease reaches the agents. Both map it; both are of one host, so the number is in the
//! host's byte order.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..8 | [`MAGIC`], which names the version of this layout |
//! | 8..16 | milliseconds of CLOCK_BOOTTIME at which the lease runs out; 0: there is none |
//! | 16..32 | the boot of the host whose clock that is |

/// Begins the file, and names the version of its layout. A reader that finds another takes the lease for expired.
pub const MAGIC: [u8; 8] = *b"WRNLEAS1";

/// Where the time is: aligned, so that one store writes it.
pub const EXPIRES_OFFSET: usize = 8;

/// Where the boot's id is.
pub const BOOT_ID_OFFSET: usize = 16;

/// Bytes of a boot's id.
pub const BOOT_ID_BYTES: usize = 16;

/// Bytes of the file.
pub const FILE_BYTES: usize = BOOT_ID_OFFSET + BOOT_ID_BYTES;

/// Where the file is in every sandbox.
pub const PATH_INSIDE: &str = "/run/warren-lease";
