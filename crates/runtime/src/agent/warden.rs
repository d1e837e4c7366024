//! Priority for the process of an agent that ends everything with the node's lease.
//!
//! The sandbox's processor quota holds its agent up too: with two hundred busy loops on a tenth of a processor it did not
//! get a turn for seconds. The warden, which user code can not give work to, goes before them.

use std::fs;
use std::io;

use super::address::AgentAddress;

/// Uid of the agent on the host.
const AGENT_HOST_UID: u32 = crate::run_dir::HOST_ID_FIRST + crate::run_dir::AGENT_ID;

/// Processor time that a warden is sure of in each period, and can not exceed: a thousandth of a processor, of which the
/// kernel gives away at most 95 %. A look takes microseconds, a kill some hundreds.
const RUNTIME_NS: u64 = 100_000;

/// See [`RUNTIME_NS`].
const PERIOD_NS: u64 = 100_000_000;

/// Makes the warden of this agent sure of its time, whatever else runs in the sandbox. What it started would not inherit
/// that. A deadline rather than a real-time priority: the kernel holds it to its bounds, and some kernels give cgroups no
/// real time.
pub(super) fn favour(address: &AgentAddress, warden_pid: i32) {
    let favoured = find(address.pid, warden_pid).and_then(|pid| match pid {
        Some(pid) => set_deadline(pid),
        None => Err(io::ErrorKind::NotFound.into()),
    });
    if let Err(error) = favoured {
        // As in a node without CAP_SYS_NICE. The agent watches all the same, but in its turn.
        tracing::warn!(agent = address.pid, %error, "its warden has no priority: busy sandboxes see the lease's end late");
    }
}

/// Which of the agent's children it is. The word for it comes from inside: only a child of PID 1 that bears the agent's
/// own uid is taken.
fn find(agent: i32, warden_pid: i32) -> io::Result<Option<i32>> {
    let children = fs::read_to_string(format!("/proc/{agent}/task/{agent}/children"))?;
    for child in children.split_ascii_whitespace() {
        let Ok(status) = fs::read_to_string(format!("/proc/{child}/status")) else { continue };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let is_agents = field("Uid:").split_whitespace().all(|uid| uid.parse() == Ok(AGENT_HOST_UID));
        let is_it = field("NSpid:").split_whitespace().last().and_then(|pid| pid.parse().ok()) == Some(warden_pid);
        if is_agents && is_it {
            return Ok(child.parse().ok());
        }
    }
    Ok(None)
}

/// `struct sched_attr` of the kernel, in its first form.
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

fn set_deadline(pid: i32) -> io::Result<()> {
    let attributes = SchedAttr {
        size: 48,
        policy: libc::SCHED_DEADLINE.cast_unsigned(),
        flags: libc::SCHED_FLAG_RESET_ON_FORK as u64,
        nice: 0,
        priority: 0,
        runtime_ns: RUNTIME_NS,
        deadline_ns: PERIOD_NS,
        period_ns: PERIOD_NS,
    };
    // SAFETY: the attributes are valid to read and have the size that they say.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, pid, &raw const attributes, 0) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
