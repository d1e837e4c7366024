//! The change from the agent's rights to the user's, for file operations.

use std::io;

use crate::caps;
use crate::users::User;

/// Takes the user's file-system ids and groups, and gives every capability up. For good: nothing gives them back.
pub fn take(user: &User) -> io::Result<()> {
    // SAFETY: plain integers, and a slice that is valid for its length. Raw calls, as for a command.
    unsafe {
        if libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr()) == -1 {
            return Err(io::Error::last_os_error());
        }
        set_and_verify(libc::SYS_setfsgid, user.gid)?;
        set_and_verify(libc::SYS_setfsuid, user.uid)?;
        // Modes are given in full.
        libc::umask(0);
    }
    caps::set(if user.uid == 0 { caps::ROOT_FILES } else { caps::NONE })
}

/// # Safety
/// `call` must be setfsuid or setfsgid. They have no error: they give what was before, so a second call tells.
unsafe fn set_and_verify(call: libc::c_long, id: u32) -> io::Result<()> {
    // SAFETY: the calls take an integer.
    let now = unsafe {
        libc::syscall(call, id);
        libc::syscall(call, u32::MAX)
    };
    if now == libc::c_long::from(id) { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}
