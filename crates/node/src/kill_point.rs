//! Names the steps at which tests kill the node, so that every row of the crash tables is tried on
//! the real thing. Release builds have none of it.

use std::sync::atomic::{AtomicBool, Ordering};

/// The variable that names a point, or a point and a count: `create.placed` or `create.placed:3`.
#[cfg(debug_assertions)]
const VARIABLE: &str = "WARREN_KILL_AT";

/// The variable that names a file with the same in it. The file may come while the node runs, and goes when the node
/// dies of it, so that the next life is not killed too.
#[cfg(debug_assertions)]
const FILE_VARIABLE: &str = "WARREN_KILL_FILE";

/// Ends this process as `kill -9` does if the environment names this point.
#[cfg(debug_assertions)]
pub fn reached(point: &str) {
    if asked_for(point) {
        tracing::warn!(point, "killed here, as the environment asks");
        let killed = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        unreachable!("still here after {killed:?}");
    }
}

#[cfg(debug_assertions)]
fn asked_for(point: &str) -> bool {
    use std::path::PathBuf;
    use std::sync::{Mutex, OnceLock, PoisonError};

    static WANTED: OnceLock<Mutex<Wanted>> = OnceLock::new();
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| Mutex::new(Wanted::parse(&std::env::var(VARIABLE).unwrap_or_default())));
    let mut wanted = wanted.lock().unwrap_or_else(PoisonError::into_inner);
    let file = FILE.get_or_init(|| std::env::var_os(FILE_VARIABLE).map(PathBuf::from));
    if let Some(file) = file {
        // A file that is not there says nothing, unless it was there and has named the point.
        let text = std::fs::read_to_string(file).ok();
        if text.is_some() || wanted.by_file {
            let text = text.unwrap_or_default();
            if text != wanted.text {
                *wanted = Wanted { by_file: true, ..Wanted::parse(&text) };
            }
        }
    }
    if wanted.point != point || wanted.left == 0 {
        return false;
    }
    wanted.left -= 1;
    if wanted.left == 0
        && wanted.by_file
        && let Some(file) = file
        && let Err(error) = std::fs::remove_file(file)
    {
        tracing::error!(%error, "the file that names a kill point stays");
    }
    wanted.left == 0
}

/// A point, and how often it is still to be reached until it kills.
#[cfg(debug_assertions)]
struct Wanted {
    text: String,
    point: String,
    left: u32,
    by_file: bool,
}

#[cfg(debug_assertions)]
impl Wanted {
    fn parse(text: &str) -> Self {
        let (point, count) = text.trim().split_once(':').unwrap_or((text.trim(), "1"));
        Self { text: text.to_owned(), point: point.to_owned(), left: count.parse().unwrap_or_default(), by_file: false }
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
        Change::Outdated => "move.outdated",
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
