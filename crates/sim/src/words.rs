//! The cores' values as short words for the trace.

use warren_core::lifecycle::{Change, Input};
use warren_core::placement::{DestroyReason, Kind, Outcome};
use warren_core::reconcile::Verdict;
use warren_core::step::{Examined, StepResult};
use warren_core::warm_pool;
use warren_core::wiring::Message;

/// A command.
pub fn command(kind: &Kind) -> String {
    match kind {
        Kind::NodeUp { host, incarnation, .. } => format!("up {host}/{incarnation}"),
        Kind::Place(place) => {
            let key = place.key.as_ref().map_or(String::new(), |key| format!(" key {}", key.scope[0]));
            format!("place {}{key}", place.id)
        }
        Kind::Move(moved) => format!("move {} to {} in {}", moved.id, moved.owner, moved.slot),
        Kind::Fail { id, failure, .. } => format!("in error {id}: {}", failure.message),
        Kind::SetWanted { id, wanted, .. } => format!("{wanted:?} wanted of {id}"),
        Kind::Destroy { id, reason: DestroyReason::Asked } => format!("destroy {id}"),
        Kind::Destroy { id, reason: DestroyReason::Expired { .. } } => format!("expire {id}"),
        Kind::Removed { id, .. } => format!("removed {id}"),
        Kind::Join { host, .. } => format!("join {host}"),
        Kind::NodeLost { host, incarnation, .. } => format!("lost {host}/{incarnation}"),
        Kind::NodeRestarting { host, incarnation, for_ms } => format!("{host}/{incarnation} restarts for {for_ms}"),
        Kind::CreateFailed { id, failure, .. } => format!("failed {id}: {}", failure.message),
    }
}

/// What applying a command decided.
pub fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::AlreadyPlaced { winner } => format!("already {winner}"),
        Outcome::Refused(refusal) => format!("refused, {}", refusal.error().code.as_str()),
        other => format!("{other:?}"),
    }
}

/// A verdict.
pub fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Adopt { slot, activated, record } => {
            format!("adopts {slot}, {:?} wanted, activated {activated}", record.wanted)
        }
        Verdict::Pool(slot) => format!("takes {slot} into the pool"),
        Verdict::Bury { slot, duty } => format!("buries {slot}, tombstone {}", duty.is_some()),
    }
}

/// The end of a step.
pub fn result(result: &StepResult) -> String {
    match result {
        StepResult::Done => "done".to_owned(),
        StepResult::Examined(Examined::Answers(state)) => {
            let state = format!("{state:?}");
            format!("found {}", state.split(' ').next().unwrap_or_default().to_lowercase())
        }
        StepResult::Examined(Examined::Exited { .. }) => "found exited".to_owned(),
        StepResult::Examined(Examined::Missing) => "found missing".to_owned(),
        StepResult::Failed(error) => format!("failed: {}", error.message),
    }
}

/// A message between cores.
pub fn message(message: &Message) -> String {
    match message {
        Message::Pool(input) => match input {
            warm_pool::Input::Open => "pool: open".to_owned(),
            warm_pool::Input::Claim(plan) => format!("pool: claim for request {}", plan.ticket.0),
            warm_pool::Input::Adopted(slot) => format!("pool: {slot} adopted"),
            warm_pool::Input::Made(slot) => format!("pool: {slot} made"),
            warm_pool::Input::MakeFailed(slot, error) => format!("pool: {slot} not made: {}", error.message),
            warm_pool::Input::Died(slot) => format!("pool: {slot} died"),
            warm_pool::Input::Wake => "pool: wake".to_owned(),
            warm_pool::Input::Retarget(target) => format!("pool: kept for {}", target.shape.image_id),
        },
        Message::Supervisor(id, input) => format!("{id}: {}", lifecycle(input)),
        Message::Run { slot, step, requester } => format!("{slot} {:?} begins for {requester:?}", step.kind()),
        Message::Discard(slot) => format!("{slot} is discarded"),
        Message::Answer(ticket, Ok(answer)) => format!("request {}: {answer:?}", ticket.0),
        Message::Answer(ticket, Err(error)) => {
            format!("request {}: {}: {}", ticket.0, error.code.as_str(), error.message)
        }
        Message::Propose(command) => format!("proposes {}", self::command(&command.kind)),
        Message::Observe(id, observed) => format!("{id} is {}", observed.status.as_str()),
        Message::WakePoolAt(at) => format!("pool wakes at {}", at.0),
        Message::WakeSupervisorAt(id, at) => format!("{id} wakes at {}", at.0),
        Message::Retire { slot, .. } => format!("{slot} retires"),
    }
}

fn lifecycle(input: &Input) -> String {
    match input {
        Input::Create { plan, warm } => format!("create for request {}, warm {warm}", plan.ticket.0),
        Input::Adopt { activated, .. } => format!("adopt, activated {activated}"),
        Input::Bury { duty } => format!("bury, tombstone {}", duty.is_some()),
        Input::Applied { change } => match change {
            Change::Place(decided) => format!("place is {}", outcome(decided)),
            Change::Wanted(decided) => format!("wish is {}", outcome(decided)),
            Change::Destroy(decided) => format!("destroy is {}", outcome(decided)),
            Change::CreateFailed(decided) => format!("failure is {}", outcome(decided)),
            Change::Outdated => "out of date".to_owned(),
            Change::Removed(decided) => format!("removal is {}", outcome(decided)),
        },
        Input::ProposalDropped => "its proposal was dropped".to_owned(),
        Input::Step(kind, ended) => format!("{kind:?} {}", result(ended)),
        Input::Died { .. } => "died".to_owned(),
        Input::Stop(ticket) => format!("stop for request {}", ticket.0),
        Input::Start(ticket) => format!("start for request {}", ticket.0),
        Input::Destroy(ticket) => format!("destroy for request {}", ticket.0),
        Input::Join(ticket) => format!("joined by request {}", ticket.0),
        Input::Wake => "wake".to_owned(),
    }
}
