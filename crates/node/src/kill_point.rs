//! Names the steps at which tests kill the node, so that every row of the crash tables is tried on
//! the real thing. Release builds have none of it.

use std::sync::atomic::{AtomicBool, Ordering};

/// The variable that names a point, or a point and a count: `create.placed` or `create.placed:3`.
#[cfg(debug_assertions)]
const VARIABLE: &str = "WARREN_KILL_AT";

/// Ends this process as `kill -9` does if the environment names this point.
#[cfg(debug_assertions)]
pub fn reached(point: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::AtomicU32;

    static WANTED: OnceLock<Option<(String, AtomicU32)>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| {
        let value = std::env::var(VARIABLE).ok()?;
        let (name, count) = match value.split_once(':') {
            Some((name, count)) => (name.to_owned(), count.parse().ok()?),
            None => (value, 1),
        };
        Some((name, AtomicU32::new(count)))
    });
    if let Some((name, left)) = wanted
        && name == point
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        tracing::warn!(point, "killed here, as the environment asks");
        let killed = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        unreachable!("still here after {killed:?}");
    }
}

/// Release builds have no kill points.
#[cfg(not(debug_assertions))]
pub fn reached(_point: &str) {}

/// The kill point after a supervisor's step.
pub fn stepped(kind: warren_core::step::StepKind) {
    use warren_core::step::StepKind;
    reached(match kind {
        StepKind::Make => "create.made",
        StepKind::Prepare => "create.prepared",
        StepKind::Activate => "create.activated",
        StepKind::Stop => "stop.stopped",
        StepKind::Start => "start.started",
        StepKind::Kill => "destroy.killed",
        StepKind::Remove => "destroy.removed",
        StepKind::Examine => "adopt.examined",
    });
}

/// Set once this life takes new sandboxes.
static OPEN: AtomicBool = AtomicBool::new(false);

/// The node takes new sandboxes from here on.
pub fn opened() {
    OPEN.store(true, Ordering::Relaxed);
}

/// The kill point after a command is applied and before anybody acts on it. What an earlier life
/// applied is applied again at each start, and does not count.
pub fn applied(change: &warren_core::lifecycle::Change) {
    use warren_core::lifecycle::Change;
    if !OPEN.load(Ordering::Relaxed) {
        return;
    }
    reached(match change {
        Change::Place(_) => "create.placed",
        Change::Wanted(_) => "wanted.committed",
        Change::Destroy(_) => "destroy.committed",
        Change::CreateFailed(_) => "create.failure_committed",
        Change::Removed(_) => "destroy.reported",
    });
}

/// The kill point just before an answer leaves.
pub fn answered(answer: &Result<warren_core::lifecycle::Answer, types::WarrenError>) {
    use warren_core::lifecycle::Answer;
    reached(match answer {
        Ok(Answer::Created(_)) => "create.answered",
        Ok(Answer::Winner(_)) => "create.winner_answered",
        Ok(Answer::Stopped) => "stop.answered",
        Ok(Answer::Started) => "start.answered",
        Ok(Answer::Destroyed) => "destroy.answered",
        Err(_) => "error.answered",
    });
}
