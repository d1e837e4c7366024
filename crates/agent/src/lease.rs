//! The node's lease: how long it holds, and the end of everything that runs once it does not.
//!
//! Whoever holds the lease's end in view needs nothing of the node: it may be dead, stopped, hung or cut off.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proto::agent::{Done, HelloReply};
use proto::lease_layout::{EXPIRES_OFFSET, FILE_BYTES, MAGIC};

use crate::refusal::Refusal;
use crate::sys;
use crate::warden::{self, FAREWELL};

/// Between two looks at a lease that holds: its end is awaited exactly, but the node may give it up before.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);

/// From when PID 1 sees the lease's end until it does not rely upon the warden any more, which may have been stopped by
/// the sandbox's root.
const WARDEN_TRUST: Duration = Duration::from_millis(500);

/// Between two looks whether something is left.
const KILL_EVERY: Duration = Duration::from_millis(10);

/// The lease's file, mapped when the agent began: what user code does to its name later changes nothing. Children of
/// the agent see it too.
#[derive(Clone, Copy)]
pub struct Lease {
    /// When it runs out, in milliseconds of CLOCK_BOOTTIME.
    expires: Option<&'static AtomicU64>,
}

impl Lease {
    /// Maps the file. Where it is not what it should be the lease has run out, for good.
    pub fn open(path: &Path) -> Self {
        Self { expires: map(path) }
    }

    /// How long it still holds; zero if it does not.
    pub fn left(self) -> Duration {
        let expires = self.expires.map_or(0, |expires| expires.load(Ordering::Acquire));
        Duration::from_millis(expires).saturating_sub(sys::boottime())
    }

    /// How long ago it ran out. Zero also where the node gave it up, since it does not say when.
    pub fn overdue(self) -> Duration {
        match self.expires.map_or(0, |expires| expires.load(Ordering::Acquire)) {
            0 => Duration::ZERO,
            expires => sys::boottime().saturating_sub(Duration::from_millis(expires)),
        }
    }
}

fn map(path: &Path) -> Option<&'static AtomicU64> {
    let file = File::open(path).ok()?;
    // The host's bind is read-only; a file that user code made where the bind is missing is not.
    if !sys::is_on_read_only_mount(file.as_raw_fd()).ok()? || file.metadata().ok()?.len() != FILE_BYTES as u64 {
        return None;
    }
    // A node that shortened it would have the kernel end the agent, and with it the sandbox: the safe side.
    let bytes = sys::map_shared(file.as_raw_fd(), FILE_BYTES).ok()?;
    // SAFETY: the mapping is never taken off and has this many bytes; the magic is not written while it is mapped. The
    // number is aligned, a page's start being so, and is used by everybody as one atomic of 8 bytes.
    unsafe {
        let magic = std::slice::from_raw_parts(bytes, MAGIC.len());
        (magic == MAGIC).then(|| AtomicU64::from_ptr(bytes.add(EXPIRES_OFFSET).cast()))
    }
}

/// Whether nothing is in the sandbox but its first process and this one.
fn is_alone_with(warden: libc::pid_t) -> bool {
    let Ok(entries) = std::fs::read_dir("/proc") else { return false };
    entries.flatten().all(|entry| {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<libc::pid_t>().ok());
        pid.is_none_or(|pid| pid == 1 || pid == warden)
    })
}

/// PID 1's watch over the lease of an active sandbox. Unarmed it costs nothing.
pub struct Watch {
    lease: Lease,
    armed: bool,
    past: Option<Past>,
    /// Who watches besides, while the lease holds.
    warden: Option<libc::pid_t>,
    /// None is started before.
    warden_after: Duration,
    next_look: Duration,
    lapses: u64,
    last_lapse_ms: u64,
}

/// The lease has run out.
struct Past {
    /// By the monotonic clock: when to look next for what is left.
    kill_at: Duration,
    /// Until then the killing is the warden's. PID 1's own would take the warden too, and with it what the host gave it.
    warden_until: Duration,
    /// Nothing was left, and nothing was started since.
    all_dead: bool,
}

impl Watch {
    /// A watch that is not armed.
    pub fn new(lease: Lease) -> Self {
        Self {
            lease,
            armed: false,
            past: None,
            warden: None,
            warden_after: Duration::ZERO,
            next_look: Duration::ZERO,
            lapses: 0,
            last_lapse_ms: 0,
        }
    }

    /// User code may run from here on, under the lease alone. That it has run out already is no lapse: nothing ran.
    pub fn arm(&mut self) {
        if !self.armed {
            self.armed = true;
            if self.lease.left().is_zero() {
                self.past = Some(Past { kill_at: Duration::ZERO, warden_until: Duration::ZERO, all_dead: true });
            }
            self.look();
        }
    }

    /// The lease, where commands run under it.
    pub fn lease(&self) -> Option<Lease> {
        self.armed.then_some(self.lease)
    }

    /// A child has ended. The warden does when PID 1 kills all others, or if it was killed by the sandbox's root.
    pub fn on_end(&mut self, pid: libc::pid_t) {
        if self.warden == Some(pid) {
            self.warden = None;
        }
    }

    /// When to look next, by the monotonic clock.
    pub fn next_look(&self) -> Option<Duration> {
        self.armed.then_some(self.next_look)
    }

    /// Refuses what needs a live lease.
    pub fn check(&mut self) -> Result<(), Refusal> {
        if self.armed {
            self.look();
        }
        if self.past.is_some() { Err(Refusal::lease_expired()) } else { Ok(()) }
    }

    /// Looks at the lease, and kills what must not run any more.
    pub fn look(&mut self) {
        if !self.armed {
            return;
        }
        let (left, now) = (self.lease.left(), sys::monotonic());
        if left.is_zero() && self.past.is_none() {
            let farewell = FAREWELL.saturating_sub(self.lease.overdue());
            let warden_until = now.saturating_add(WARDEN_TRUST);
            self.past = Some(Past { kill_at: now.saturating_add(farewell), warden_until, all_dead: false });
            self.lapses += 1;
            self.last_lapse_ms = u64::try_from(sys::boottime().as_millis()).unwrap_or(u64::MAX);
        }
        let Some(past) = &mut self.past else {
            if self.warden.is_none() && self.warden_after <= now {
                // At the limit of processes none can be started, and one may be killed at once: tried again later.
                self.warden = warden::start(self.lease).ok();
                self.warden_after = now.saturating_add(LOOK_EVERY);
            }
            self.next_look = now.saturating_add(left.min(LOOK_EVERY));
            return;
        };
        // A lease that is back ends the farewell: who calls now need not wait for it.
        if !past.all_dead && (past.kill_at <= now || !left.is_zero()) {
            past.all_dead = match self.warden {
                // A lease that is back keeps the warden from killing.
                Some(warden) if now < past.warden_until && left.is_zero() => is_alone_with(warden),
                // One call takes them all: no fork can come out of it alive.
                _ => !sys::kill_all_others(),
            };
            past.kill_at = now.saturating_add(KILL_EVERY);
        }
        self.next_look = if past.all_dead { now.saturating_add(LOOK_EVERY) } else { past.kill_at };
        // It is back, and the node was not declared lost: else it would not have it again.
        if past.all_dead && !left.is_zero() {
            self.past = None;
            self.next_look = now.saturating_add(left.min(LOOK_EVERY));
        }
    }

    /// Puts into a Hello what there is to say.
    pub fn report(&self, reply: HelloReply) -> HelloReply {
        HelloReply {
            lease_expired: self.past.is_some(),
            lease_lapses: self.lapses,
            last_lapse_boottime_ms: self.last_lapse_ms,
            warden_pid: self.warden.unwrap_or(0),
            ..reply
        }
    }

    /// The same into the answer to Activate.
    pub fn report_done(&self, done: Done) -> Done {
        Done { warden_pid: self.warden.unwrap_or(0), ..done }
    }
}
