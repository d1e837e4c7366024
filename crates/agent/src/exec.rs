//! Running a command: plan it, start it, watch it to its end.

mod kill;
mod oom;
mod plan;
mod pty;
mod spawn;
mod supervisor;

use std::os::fd::{AsRawFd, OwnedFd};

use proto::agent::Exec;

use crate::caps;
use crate::conn::Conn;
use crate::lease::Lease;
use crate::refusal::Refusal;
use crate::state::Defaults;
use crate::sys;

/// What PID 1 looks up once, so that no command has to.
pub struct Prepared {
    /// Open on the counter of processes that the kernel killed for memory.
    pub oom_counter: Option<OwnedFd>,
    /// The bounding set that a command starts from.
    bounding: u64,
}

impl Prepared {
    /// Looks.
    pub fn look() -> Self {
        Self { oom_counter: oom::open_counter(), bounding: caps::bounding() }
    }
}

/// Runs in an operation process of its own and ends with it.
pub fn run(mut conn: Conn, request: Exec, defaults: &Defaults, prepared: &Prepared, lease: Option<Lease>) -> ! {
    let oom = oom::OomWatch::begin(prepared.oom_counter.as_ref().map(AsRawFd::as_raw_fd));
    let started = plan::Plan::new(request, defaults).and_then(|plan| {
        spawn::start(&plan, prepared.bounding).map(|command| (plan, command)).map_err(refusal_of_start)
    });
    match started {
        Err(refusal) => {
            // The host may be gone; the process ends either way.
            let _ = conn.send_refusal(refusal);
            sys::exit(0)
        }
        Ok((plan, command)) => supervisor::Supervisor::new(conn, plan, command, oom, lease).run(),
    }
}

fn refusal_of_start(error: std::io::Error) -> Refusal {
    Refusal::os("the command could not be started", &error)
}
