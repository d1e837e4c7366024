//! Running a command: plan it, start it, watch it to its end.

mod kill;
mod oom;
mod plan;
mod pty;
mod spawn;
mod supervisor;

use std::os::fd::RawFd;

use proto::agent::Exec;

use crate::conn::Conn;
use crate::refusal::Refusal;
use crate::state::Defaults;
use crate::sys;

pub use oom::open_counter as open_oom_counter;

/// Runs in an operation process of its own and ends with it.
pub fn run(mut conn: Conn, request: Exec, defaults: &Defaults, oom_counter: Option<RawFd>) -> ! {
    let oom = oom::OomWatch::begin(oom_counter);
    let started = plan::Plan::new(request, defaults)
        .and_then(|plan| spawn::start(&plan).map(|command| (plan, command)).map_err(refusal_of_start));
    match started {
        Err(refusal) => {
            // The host may be gone; the process ends either way.
            let _ = conn.send_refusal(refusal);
            sys::exit(0)
        }
        Ok((plan, command)) => supervisor::Supervisor::new(conn, plan, command, oom).run(),
    }
}

fn refusal_of_start(error: std::io::Error) -> Refusal {
    Refusal::os("the command could not be started", &error)
}
