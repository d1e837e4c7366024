//! What one sandbox does, as scripts: a line is an input, what is indented came of it.
//!
//! The sandbox is `a` on node `n1` in its life 7. The machine itself asserts that no step is begun
//! while another one is under way.

mod adopt;
mod create;
mod end;
mod moves;
mod run;

use std::sync::Arc;

use types::{Generation, Incarnation, SandboxId, Status, Timestamp};

use super::*;
use crate::placement::{DestroyReason, Failure, Move, Place, Refusal, Wanted};
use crate::script::{self, Words, error, host, id, letter};
use crate::step::{AgentState, Examined};

/// The machine under test and the time it is told.
pub(super) struct Script {
    pub(super) machine: Lifecycle,
    pub(super) time: u64,
}

impl Script {
    pub(super) fn new() -> Self {
        Self { machine: Lifecycle::new(id("a")), time: 0 }
    }

    pub(super) fn line(&mut self, line: &str) -> Vec<String> {
        let input = self.input(line);
        self.machine.handle(Timestamp(self.time), input).iter().map(show).collect()
    }

    fn input(&mut self, line: &str) -> Input {
        let mut words = Words::new(line);
        let verb = words.next();
        let generation = Generation(words.number("gen", 1));
        let input = match verb {
            // Time passes and the machine is called, as it may be at any time.
            "at" => {
                self.time = words.next().parse().unwrap();
                Input::Wake
            }
            "create" => {
                let warm = words.next() == "warm";
                Input::Create { plan: Box::new(plan(expires(&mut words))), warm }
            }
            // The sandbox is another one than the slot: every script is about sandbox a.
            "again" => {
                let warm = words.next() == "warm";
                let again = Some(Again { id: id("a"), generation });
                Input::Create { plan: Box::new(CreatePlan { again, ..plan(None) }), warm }
            }
            "adopt" => {
                let activated = words.next() == "activated";
                let wanted = if words.opt("wanted") == Some("stopped") { Wanted::Stopped } else { Wanted::Running };
                let mut place = place();
                place.expires_at = expires(&mut words);
                let record = Record { place, wanted, created_at: Timestamp(0), created_index: 1, failure: None };
                Input::Adopt { record: Box::new(record), activated }
            }
            "bury" => {
                let generation = words.opt("tombstone").map(|text| Generation(text.parse().unwrap()));
                Input::Bury { duty: generation.map(|generation| Duty { sandbox: id("a"), generation }) }
            }
            "outdated" => applied(Change::Outdated),
            "placed" => applied(Change::Place(Outcome::Placed { generation })),
            "already" => applied(Change::Place(Outcome::AlreadyPlaced { winner: id(words.next()) })),
            "refused" => applied(Change::Place(Outcome::Refused(match words.next() {
                "stale" => Refusal::StaleIncarnation,
                "taken" => Refusal::IdTaken,
                "superseded" => Refusal::Superseded,
                "mismatch" => Refusal::KeyMismatch,
                "gone" => Refusal::KeyGone { id: id(words.next()) },
                "failed" => Refusal::KeyFailed(Failure::from(&error(words.next()))),
                other => panic!("refused {other}"),
            }))),
            "wanted" => applied(Change::Wanted(match words.next() {
                "running" => Outcome::Wanted(Wanted::Running),
                "stopped" => Outcome::Wanted(Wanted::Stopped),
                "unknown" => Outcome::Unknown,
                other => panic!("wanted {other}"),
            })),
            "destroyed" => applied(Change::Destroy(match words.opt("as") {
                None => Outcome::Destroyed,
                Some("unknown") => Outcome::Unknown,
                Some(other) => panic!("destroyed as {other}"),
            })),
            "kept" => applied(Change::Destroy(Outcome::Kept { expires_at: expires(&mut words) })),
            "create-failed" => applied(Change::CreateFailed(Outcome::Failed)),
            "removed" => applied(Change::Removed(Outcome::Removed)),
            "dropped" => Input::ProposalDropped,
            "done" => Input::Step(kind(words.next()), StepResult::Done),
            "fail" => {
                Input::Step(kind(words.next()), StepResult::Failed(error(words.opt("code").unwrap_or("internal"))))
            }
            "found" => Input::Step(StepKind::Examine, StepResult::Examined(examined(words.next()))),
            "died" => Input::Died { why: words.opt("why").unwrap_or("killed").to_owned() },
            "stop" => Input::Stop(ticket(&mut words)),
            "start" => Input::Start(ticket(&mut words)),
            "destroy" => Input::Destroy(ticket(&mut words)),
            "join" => Input::Join(ticket(&mut words)),
            other => panic!("no verb {other}"),
        };
        words.end();
        input
    }
}

/// Runs a script on a machine whose slot has a name of its own.
#[track_caller]
pub(super) fn check_in_slot(slot: &str, text: &str) {
    let mut script = Script { machine: Lifecycle::new(id(slot)), time: 0 };
    script::check(text, |line| script.line(line));
}

#[track_caller]
pub(super) fn check(text: &str) {
    let mut script = Script::new();
    script::check(text, |line| script.line(line));
}

fn applied(change: Change) -> Input {
    Input::Applied { change }
}

fn ticket(words: &mut Words<'_>) -> Ticket {
    Ticket(words.next().parse().unwrap())
}

fn expires(words: &mut Words<'_>) -> Option<Timestamp> {
    words.opt("expires").map(|text| Timestamp(text.parse().unwrap()))
}

fn kind(name: &str) -> StepKind {
    let kinds = [
        StepKind::Make,
        StepKind::Prepare,
        StepKind::Activate,
        StepKind::Stop,
        StepKind::Start,
        StepKind::Kill,
        StepKind::Remove,
        StepKind::Examine,
    ];
    kinds.into_iter().find(|kind| format!("{kind:?}").to_lowercase() == name).unwrap()
}

pub(super) fn plan(expires_at: Option<Timestamp>) -> CreatePlan {
    let Place { owner, incarnation, spec, sealed_env, key, .. } = place();
    CreatePlan { ticket: Ticket(1), owner, incarnation, spec, sealed_env, expires_at, key, again: None }
}

/// The placement that every script is about.
fn place() -> Place {
    Place {
        id: id("a"),
        slot: id("a"),
        owner: host("n1"),
        incarnation: Incarnation(7),
        generation: Generation(1),
        spec: Arc::new(script::spec()),
        sealed_env: script::sealed_env(),
        expires_at: None,
        key: Some(script::key("k", "b")),
    }
}

fn examined(what: &str) -> Examined {
    let (generation, digest) = (Generation(1), place().digest());
    Examined::Answers(match what {
        "bare" => AgentState::Bare,
        "prepared" => AgentState::Prepared { generation, digest },
        "prepared-for-another" => AgentState::Prepared { generation, digest: [0; 32] },
        "active" => AgentState::Active { generation, digest },
        "active-of-another" => AgentState::Active { generation, digest: [0; 32] },
        "active-of-older" => AgentState::Active { generation: Generation(0), digest },
        "exited" => return Examined::Exited { why: "host rebooted".into() },
        "missing" => return Examined::Missing,
        other => panic!("found {other}"),
    })
}

pub(super) fn show(output: &Output) -> String {
    match output {
        Output::Propose(kind) => format!("propose {}", show_kind(kind)),
        Output::Run(step) => format!("run {}", show_step(step)),
        Output::Answer(ticket, Ok(answer)) => {
            let answer = match answer {
                Answer::Created(id) => format!("created {}", letter(*id)),
                Answer::Winner(id) => format!("winner {}", letter(*id)),
                other => format!("{other:?}").to_lowercase(),
            };
            format!("answer {}: {answer}", ticket.0)
        }
        Output::Answer(ticket, Err(error)) => {
            format!("answer {}: {} ({})", ticket.0, error.code.as_str(), error.message)
        }
        Output::Observe(_, Observed { status, why, generation }) => {
            let why = why.as_ref().map_or(String::new(), |why| format!(" ({why})"));
            format!("show {} gen {generation}{why}", status.as_str())
        }
        Output::WakeAt(at) => format!("wake at {}", at.0),
        Output::Finished(_) => "finished".into(),
        #[cfg(feature = "planted-bugs")]
        Output::ReturnToPool => "return to pool".into(),
    }
}

fn show_kind(kind: &Kind) -> String {
    let shown = |id: &SandboxId| assert_eq!(*id, self::id("a"), "a proposal about somebody else");
    if let Some(id) = kind.sandbox() {
        shown(&id);
    }
    match kind {
        Kind::NodeUp { .. } | Kind::Join { .. } | Kind::NodeLost { .. } | Kind::NodeRestarting { .. } => {
            panic!("no business of a sandbox")
        }
        Kind::Place(place) => {
            assert_eq!(place.slot, place.id, "a new sandbox takes its slot's name");
            format!("place on {}/{} gen {}", place.owner, place.incarnation, place.generation)
        }
        Kind::Move(Move { slot, owner, incarnation, generation, .. }) => {
            format!("move to {owner}/{incarnation} in {} gen {generation}", letter(*slot))
        }
        Kind::Fail { generation, failure, .. } => format!("in-error gen {generation}: {}", failure.message),
        Kind::SetWanted { generation, wanted, .. } => format!("wanted {wanted:?} gen {generation}").to_lowercase(),
        Kind::Destroy { reason: DestroyReason::Asked, .. } => "destroy".into(),
        Kind::Destroy { reason: DestroyReason::Expired { expires_at }, .. } => format!("expire {}", expires_at.0),
        Kind::Removed { generation, .. } => format!("removed gen {generation}"),
        Kind::CreateFailed { generation, failure, .. } => {
            format!("create-failed gen {generation}: {} ({})", failure.code.as_str(), failure.message)
        }
    }
}

fn show_step(step: &Step) -> String {
    match step {
        Step::Prepare(charge) | Step::Activate { charge, .. } => {
            assert_eq!(charge.digest, place().digest());
            format!("{:?} gen {}", step.kind(), charge.generation).to_lowercase()
        }
        other => format!("{:?}", other.kind()).to_lowercase(),
    }
}

/// Everything up to an answered create, for scripts that begin later.
pub(super) const RUNNING: [&str; 4] = ["create warm", "done prepare", "placed", "done activate"];

/// Runs a script on a sandbox that runs already and was shown as running.
#[track_caller]
pub(super) fn check_running(text: &str) {
    let mut script = Script::new();
    let mut outputs = Vec::new();
    for line in RUNNING {
        outputs = script.line(line);
    }
    assert_eq!(outputs, ["show running gen 1", "answer 1: created a"]);
    assert_eq!(script.machine.shown.as_ref().map(|shown| shown.status), Some(Status::Running));
    script::check(text, |line| script.line(line));
}
