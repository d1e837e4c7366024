//! Which output of one core becomes which input of another. The node's actors and the simulation
//! deliver the same messages; they differ in how, never in what.

use types::{ErrorCode, HostId, Resources, SandboxId, Timestamp, WarrenError};

use crate::lifecycle::{self, Answer, Change, Observed, Ticket};
use crate::placement::{Command, Kind, Outcome};
use crate::reconcile::Verdict;
use crate::step::{Step, StepKind, StepResult};
use crate::warm_pool;

/// Who has a step carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requester {
    /// The warm pool, for a slot that is nobody's yet.
    Pool,
    /// The sandbox's supervisor.
    Supervisor,
}

/// Everything that leaves a core, with its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// To the warm pool.
    Pool(warm_pool::Input),
    /// To the supervisor of a sandbox; one is begun where there is none.
    Supervisor(SandboxId, lifecycle::Input),
    /// To consensus. A dropped proposal comes back through [`dropped`].
    Propose(Command),
    /// To the engine room: carry out, then come back through [`step_ended`].
    Run {
        /// Who waits for its end.
        requester: Requester,
        /// On which container.
        slot: SandboxId,
        /// What.
        step: Step,
    },
    /// To the engine room: kill and remove, as often as it takes; nobody waits.
    Discard(SandboxId),
    /// To a client that waits.
    Answer(Ticket, Result<Answer, WarrenError>),
    /// To the view that readers see.
    Observe(SandboxId, Observed),
    /// Wake the pool at this time.
    WakePoolAt(Timestamp),
    /// Wake a supervisor at this time, whatever other times it has asked for.
    WakeSupervisorAt(SandboxId, Timestamp),
    /// Drop a supervisor; nothing is left of its sandbox here.
    Retire(SandboxId),
}

/// Where an output of the warm pool goes.
#[must_use]
pub fn from_pool(output: warm_pool::Output) -> Message {
    match output {
        warm_pool::Output::Give { slot, warm, plan } => {
            Message::Supervisor(slot, lifecycle::Input::Create { plan, warm })
        }
        warm_pool::Output::Make { slot, shape, resources } => make(slot, shape, resources),
        warm_pool::Output::Discard(slot) => Message::Discard(slot),
        warm_pool::Output::WakeAt(at) => Message::WakePoolAt(at),
    }
}

fn make(slot: SandboxId, shape: types::spec::SlotShape, resources: Resources) -> Message {
    Message::Run { requester: Requester::Pool, slot, step: Step::Make { shape, resources } }
}

/// Where an output of a sandbox's machine goes.
#[must_use]
pub fn from_lifecycle(now: Timestamp, id: SandboxId, output: lifecycle::Output) -> Message {
    match output {
        lifecycle::Output::Propose(kind) => Message::Propose(Command { time: now, kind }),
        lifecycle::Output::Run(step) => Message::Run { requester: Requester::Supervisor, slot: id, step },
        lifecycle::Output::Answer(ticket, answer) => Message::Answer(ticket, answer),
        lifecycle::Output::Observe(observed) => Message::Observe(id, observed),
        lifecycle::Output::WakeAt(at) => Message::WakeSupervisorAt(id, at),
        lifecycle::Output::Finished => Message::Retire(id),
        #[cfg(feature = "planted-bugs")]
        lifecycle::Output::ReturnToPool => Message::Pool(warm_pool::Input::Adopted(id)),
    }
}

/// Where the end of a step goes.
#[must_use]
pub fn step_ended(requester: Requester, slot: SandboxId, kind: StepKind, result: StepResult) -> Message {
    match (requester, result) {
        (Requester::Supervisor, result) => Message::Supervisor(slot, lifecycle::Input::Step(kind, result)),
        (Requester::Pool, StepResult::Failed(error)) => Message::Pool(warm_pool::Input::MakeFailed(slot, error)),
        (Requester::Pool, _) => Message::Pool(warm_pool::Input::Made(slot)),
    }
}

/// Where an applied command goes on node `me`: to the supervisor of the sandbox that it is about, if
/// that is or was this node's.
///
/// `owner` is who owned the sandbox before or after the command, whichever is known.
#[must_use]
pub fn applied(me: &HostId, owner: Option<&HostId>, command: &Command, outcome: &Outcome) -> Option<Message> {
    let id = command.kind.sandbox()?;
    let change = match &command.kind {
        Kind::NodeUp { .. } | Kind::Join { .. } | Kind::NodeLost { .. } => return None,
        // A placement concerns its proposer even when another one won.
        Kind::Place(place) if place.owner == *me => Change::Place(outcome.clone()),
        Kind::Place(_) => return None,
        _ if owner != Some(me) => return None,
        Kind::SetWanted { .. } => Change::Wanted(outcome.clone()),
        Kind::Destroy { .. } => Change::Destroy(outcome.clone()),
        Kind::CreateFailed { .. } => Change::CreateFailed(outcome.clone()),
        Kind::Removed { .. } => Change::Removed(outcome.clone()),
    };
    Some(Message::Supervisor(id, lifecycle::Input::Applied { change }))
}

/// Where the news of a proposal goes that surely did not enter the log.
#[must_use]
pub fn dropped(command: &Command) -> Option<Message> {
    command.kind.sandbox().map(|id| Message::Supervisor(id, lifecycle::Input::ProposalDropped))
}

/// Where a verdict on something that was found at start goes.
#[must_use]
pub fn from_verdict(verdict: Verdict) -> Message {
    match verdict {
        Verdict::Adopt { id, record, activated } => {
            Message::Supervisor(id, lifecycle::Input::Adopt { record, activated })
        }
        Verdict::Pool(slot) => Message::Pool(warm_pool::Input::Adopted(slot)),
        Verdict::Bury { id, tombstone } => Message::Supervisor(id, lifecycle::Input::Bury { tombstone }),
    }
}

/// Whether an input begins a supervisor where there is none. Any other finds one, or is for a sandbox
/// that is gone: see [`undelivered`].
#[must_use]
pub fn begins(input: &lifecycle::Input) -> bool {
    matches!(input, lifecycle::Input::Create { .. } | lifecycle::Input::Adopt { .. } | lifecycle::Input::Bury { .. })
}

/// What becomes of an input whose supervisor has retired meanwhile: whoever waits is told.
#[must_use]
pub fn undelivered(id: SandboxId, input: &lifecycle::Input) -> Option<Message> {
    let gone = |code, message: &str| Err(WarrenError::new(code, message).with("id", id.as_str()));
    let (ticket, answer) = match input {
        lifecycle::Input::Destroy(ticket) => (ticket, Ok(Answer::Destroyed)),
        lifecycle::Input::Stop(ticket) | lifecycle::Input::Start(ticket) => {
            (ticket, gone(ErrorCode::NotFound, "there is no such sandbox"))
        }
        lifecycle::Input::Join(ticket) => (ticket, gone(ErrorCode::Gone, "what this idempotency key made is gone")),
        _ => return None,
    };
    Some(Message::Answer(*ticket, answer))
}

/// Where somebody waits whose key made `winner` before.
#[must_use]
pub fn join(winner: SandboxId, ticket: Ticket) -> Message {
    Message::Supervisor(winner, lifecycle::Input::Join(ticket))
}

/// Where the news goes that a container's first process ended. Whether the pool or a supervisor has it
/// may change while the news travels, so both are told; who has it not takes no note.
#[must_use]
pub fn died(slot: SandboxId, why: String) -> [Message; 2] {
    let pool = Message::Pool(warm_pool::Input::Died(slot));
    [pool, Message::Supervisor(slot, lifecycle::Input::Died { why })]
}
