//! Capability sets, set by the raw system call: no allocation, usable between fork and exec.

use std::io;

use crate::sys::{check, prctl};

const CHOWN: u32 = 0;
const DAC_OVERRIDE: u32 = 1;
const FOWNER: u32 = 3;
const FSETID: u32 = 4;
const KILL: u32 = 5;
const SETGID: u32 = 6;
const SETUID: u32 = 7;
const SETFCAP: u32 = 31;

/// No capability at all: the sandbox's user.
pub const NONE: u64 = 0;

/// What root of the sandbox has: enough for package managers, chown and su, and nothing that reaches the agent.
pub const ROOT: u64 =
    1 << CHOWN | 1 << DAC_OVERRIDE | 1 << FOWNER | 1 << FSETID | 1 << SETGID | 1 << SETUID | 1 << SETFCAP;

/// What file operations have where the sandbox's default user is root.
pub const ROOT_FILES: u64 = 1 << CHOWN | 1 << DAC_OVERRIDE | 1 << FOWNER | 1 << FSETID;

/// What a supervisor keeps once its command runs.
pub const SUPERVISOR: u64 = 1 << KILL;

/// Highest capability number looked at; the kernel says EINVAL to those it does not know.
const LAST_TRIED: u32 = 63;

const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The bounding set of this process. It can only shrink, so whoever looked once knows for all its children.
pub fn bounding() -> u64 {
    let is_in = |capability: u32| {
        // SAFETY: PR_CAPBSET_READ takes an integer and gives 0 or 1, or EINVAL beyond the last capability.
        unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(capability), 0, 0, 0) == 1 }
    };
    (0..=LAST_TRIED).filter(|capability| is_in(*capability)).fold(0, |set, capability| set | 1 << capability)
}

/// Takes everything outside `keep` out of the bounding set, which holds `bounding`, and empties the ambient set. Needs
/// SETPCAP.
pub fn drop_bounding_and_ambient(bounding: u64, keep: u64) -> io::Result<()> {
    // Each drop copies the process's credentials, also of what is not in the set: only what is in it is dropped.
    for capability in (0..=LAST_TRIED).filter(|capability| (bounding & !keep) >> capability & 1 == 1) {
        prctl(libc::PR_CAPBSET_DROP, capability.into())?;
    }
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong)
}

/// Makes `target` the effective and permitted set; the inheritable set is emptied.
pub fn set(target: u64) -> io::Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let part = |half: u32| {
        let bits = (target >> (32 * half)) as u32;
        Data { effective: bits, permitted: bits, inheritable: 0 }
    };
    let data = [part(0), part(1)];
    // SAFETY: header and data have the layout that version 3 of the call asks for.
    check(unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) } as libc::c_int).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounding_set_is_the_kernels() {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let set = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim();
        assert_eq!(bounding(), u64::from_str_radix(set, 16).unwrap());
    }
}
