//! Which output of one core becomes which input of another. The node's actors and the simulation
//! deliver the same messages; they differ in how, never in what.

use std::collections::BTreeMap;

use types::{ErrorCode, HostId, Resources, SandboxId, Timestamp, WarrenError};

use crate::lifecycle::{self, Answer, Change, Duty, Observed, Ticket};
use crate::placement::{Command, Holder, Kind, Outcome, Placement};
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
    /// To the supervisor of a sandbox, which bears its slot's name; one is begun where there is none.
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
    /// Drop the supervisor of a slot; nothing is left of its sandbox here.
    Retire {
        /// The slot.
        slot: SandboxId,
        /// The sandbox that it was.
        sandbox: SandboxId,
    },
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
pub fn from_lifecycle(now: Timestamp, slot: SandboxId, output: lifecycle::Output) -> Message {
    match output {
        lifecycle::Output::Propose(kind) => Message::Propose(Command { time: now, kind }),
        lifecycle::Output::Run(step) => Message::Run { requester: Requester::Supervisor, slot, step },
        lifecycle::Output::Answer(ticket, answer) => Message::Answer(ticket, answer),
        lifecycle::Output::Observe(sandbox, observed) => Message::Observe(sandbox, observed),
        lifecycle::Output::WakeAt(at) => Message::WakeSupervisorAt(slot, at),
        lifecycle::Output::Finished(sandbox) => Message::Retire { slot, sandbox },
        #[cfg(feature = "planted-bugs")]
        lifecycle::Output::ReturnToPool => Message::Pool(warm_pool::Input::Adopted(slot)),
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

/// Where an applied command goes on node `me`: to the supervisors whose containers it is about.
///
/// `before` is whose container it was about before it was applied ([`Placement::holder`]).
#[must_use]
pub fn applied(me: &HostId, before: Option<&Holder>, command: &Command, outcome: &Outcome) -> Vec<Message> {
    let mine = before.filter(|holder| holder.owner == *me).map(|holder| holder.slot);
    let message = |slot, change| Message::Supervisor(slot, lifecycle::Input::Applied { change });
    let outcome = || outcome.clone();
    match &command.kind {
        Kind::NodeUp { .. } | Kind::Join { .. } | Kind::NodeLost { .. } | Kind::NodeRestarting { .. } => Vec::new(),
        // A placement concerns its proposer even when another one won.
        Kind::Place(_) => mine.map(|slot| message(slot, Change::Place(outcome()))).into_iter().collect(),
        Kind::Move(moved) => {
            let outdated = mine
                .filter(|slot| matches!(outcome(), Outcome::Placed { .. }) && *slot != moved.slot)
                .map(|slot| message(slot, Change::Outdated));
            let proposer = (moved.owner == *me).then(|| message(moved.slot, Change::Place(outcome())));
            outdated.into_iter().chain(proposer).collect()
        }
        Kind::Fail { .. } => mine
            .filter(|_| outcome() == Outcome::InError)
            .map(|slot| message(slot, Change::Outdated))
            .into_iter()
            .collect(),
        Kind::SetWanted { .. } => mine.map(|slot| message(slot, Change::Wanted(outcome()))).into_iter().collect(),
        Kind::Destroy { .. } => mine.map(|slot| message(slot, Change::Destroy(outcome()))).into_iter().collect(),
        Kind::CreateFailed { .. } => {
            mine.map(|slot| message(slot, Change::CreateFailed(outcome()))).into_iter().collect()
        }
        Kind::Removed { .. } => mine.map(|slot| message(slot, Change::Removed(outcome()))).into_iter().collect(),
    }
}

/// Where the news of a proposal goes that surely did not enter the log.
///
/// `holder` is whose container it was about ([`Placement::holder`]).
#[must_use]
pub fn dropped(holder: Option<&Holder>, command: &Command) -> Option<Message> {
    let slot = match &command.kind {
        Kind::Move(moved) => moved.slot,
        _ => holder?.slot,
    };
    Some(Message::Supervisor(slot, lifecycle::Input::ProposalDropped))
}

/// What a node owes to a map that it was given as a whole, or that it looks through again: what it supervises and
/// the map has let go of, and what the map waits for and nobody here works on.
///
/// `supervised` are the slots that have a supervisor here. One that waits to hear that the map has taken its report,
/// and heard it swallowed by a snapshot, is told.
#[must_use]
pub fn owed(map: &Placement, me: &HostId, supervised: impl IntoIterator<Item = SandboxId>) -> Vec<Message> {
    let tombstones = map
        .tombstones()
        .filter(|(_, tombstone)| tombstone.owner == *me)
        .map(|(id, tombstone)| (tombstone.slot, Duty { sandbox: *id, generation: tombstone.generation }));
    let remains = map
        .remains()
        .filter(|(.., holder)| holder.owner == *me)
        .map(|(sandbox, generation, holder)| (holder.slot, Duty { sandbox, generation }));
    let waited_for: BTreeMap<SandboxId, Duty> = tombstones.chain(remains).collect();
    let change = || Change::Removed(Outcome::Unknown);
    let let_go = supervised
        .into_iter()
        .filter(|slot| !waited_for.contains_key(slot) && map.in_slot(slot).is_none())
        .map(|slot| Message::Supervisor(slot, lifecycle::Input::Applied { change: change() }));
    let let_go: Vec<Message> = let_go.collect();
    waited_for
        .into_iter()
        .map(|(slot, duty)| Message::Supervisor(slot, lifecycle::Input::Bury { duty: Some(duty) }))
        .chain(let_go)
        .collect()
}

/// Where a verdict on something that was found at start goes.
#[must_use]
pub fn from_verdict(verdict: Verdict) -> Message {
    match verdict {
        Verdict::Adopt { slot, record, activated } => {
            Message::Supervisor(slot, lifecycle::Input::Adopt { record, activated })
        }
        Verdict::Pool(slot) => Message::Pool(warm_pool::Input::Adopted(slot)),
        Verdict::Bury { slot, duty } => Message::Supervisor(slot, lifecycle::Input::Bury { duty }),
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

/// Where somebody waits whose key made the sandbox in this slot before.
#[must_use]
pub fn join(slot: SandboxId, ticket: Ticket) -> Message {
    Message::Supervisor(slot, lifecycle::Input::Join(ticket))
}

/// Where the news goes that a container's first process ended. Whether the pool or a supervisor has it
/// may change while the news travels, so both are told; who has it not takes no note.
#[must_use]
pub fn died(slot: SandboxId, why: String) -> [Message; 2] {
    let pool = Message::Pool(warm_pool::Input::Died(slot));
    [pool, Message::Supervisor(slot, lifecycle::Input::Died { why })]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{host, id};

    #[test]
    fn whoever_waits_for_what_a_snapshot_has_swallowed_is_told() {
        // Nothing is left of `a` in the map, and its supervisor has reported that nothing is left of it here.
        let told = owed(&Placement::default(), &host("n1"), [id("a")]);
        let change = Change::Removed(Outcome::Unknown);
        assert_eq!(told, [Message::Supervisor(id("a"), lifecycle::Input::Applied { change })]);
    }
}
