//! A process of the agent's own that ends the sandbox's processes with the lease, however busy they are.
//!
//! PID 1 shares the sandbox's processor quota: two hundred busy loops on a tenth of a processor kept it waiting for
//! seconds. The host gives the warden a small share of a processor for itself instead, which no quota holds up. So it does nothing that user
//! code could make more of: it looks at the lease, sleeps, and kills. PID 1 watches the lease all the same.

use std::io;
use std::time::Duration;

use crate::caps;
use crate::lease::{LOOK_EVERY, Lease};
use crate::sys::{self, Forked};

/// From the lease's end until it kills, in which the supervisors, which see the end themselves, tell their hosts. It comes
/// out of the time between a lease's end and the moment its node counts as lost, 2 s.
pub const FAREWELL: Duration = Duration::from_millis(100);

/// Between two kills at first; then ever longer, since the dead stay in view until a starved PID 1 has reaped them.
const KILL_AGAIN: Duration = Duration::from_millis(10);

/// Starts it, from PID 1.
pub fn start(lease: Lease) -> io::Result<libc::pid_t> {
    if !sys::is_first() {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    match sys::fork()? {
        Forked::Parent(pid) => Ok(pid),
        Forked::Child => watch(lease),
    }
}

fn watch(lease: Lease) -> ! {
    sys::close_from(0);
    // Only for who looks at a list of processes.
    let _ = sys::prctl(libc::PR_SET_NAME, c"warren-lease".as_ptr() as libc::c_ulong);
    if caps::set(caps::SUPERVISOR).is_err() {
        sys::exit(1);
    }
    loop {
        let left = lease.left();
        if !left.is_zero() {
            sleep(left.min(LOOK_EVERY));
            continue;
        }
        sleep(FAREWELL.saturating_sub(lease.overdue()));
        let mut pause = KILL_AGAIN;
        while lease.left().is_zero() && sys::kill_all_others() {
            sleep(pause);
            pause = (pause * 2).min(LOOK_EVERY);
        }
        // Until the lease is back nothing is started any more, so there is nothing to kill again.
        while lease.left().is_zero() {
            sleep(LOOK_EVERY);
        }
    }
}

fn sleep(time: Duration) {
    // It fails where there is no memory for a moment; the next look is then earlier.
    let _ = sys::poll(&mut [], Some(time));
}
