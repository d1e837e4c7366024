//! The machine after a sandbox is up: stop, start, death, end.

use std::collections::BTreeSet;

use types::{ErrorCode, Generation, SandboxId, Status, Timestamp, WarrenError};

use super::create::Creating;
use super::{
    Answer, Change, Duty, EXAMINE_AGAIN_MS, Input, Observed, Output, REMOVE_AGAIN_MS_MAX, REMOVE_AGAIN_MS_MIN, Ticket,
};
use crate::placement::{DestroyReason, Kind, Outcome, Place, Record, Wanted};
use crate::step::{AgentState, Charge, Examined, Step, StepKind, StepResult};

const OUTDATED: &str = "the sandbox is another node's by now, or in error";

fn outdated() -> WarrenError {
    WarrenError::new(ErrorCode::Interrupted, OUTDATED)
}

/// One sandbox on its owner.
#[derive(Debug)]
pub struct Lifecycle {
    /// Its container.
    pub(super) slot: SandboxId,
    /// The sandbox; another name than `slot` only where it was placed again.
    pub(super) id: SandboxId,
    pub(super) stage: Stage,
    /// The step under way; the next one waits for its result.
    pub(super) running: Option<StepKind>,
    pub(super) waiting_destroy: Vec<Ticket>,
    pub(super) shown: Option<Observed>,
    /// The sandbox is another owner's, or in error: what is here is only its remains.
    outdated: bool,
    /// Its first process ended while a step was under way, before or after what that step did.
    died: bool,
    /// Calls that were asked for and have not come yet.
    pub(super) wakes_due: BTreeSet<Timestamp>,
    #[cfg(feature = "planted-bugs")]
    /// Planted: a slot that was prepared and not placed goes back to the pool.
    pub bug_reuses_prepared: bool,
}

/// Where a sandbox is in its life.
#[derive(Debug)]
pub(super) enum Stage {
    /// Not begun, or nothing left.
    Idle,
    /// Between claim and first answer.
    Creating(Box<Creating>),
    /// Found at start; being looked at.
    Examining { place: Place, wanted: Wanted, joined: Vec<Ticket> },
    /// Its agent answers.
    Up(Place),
    /// No process; why it has none, where nobody asked for it.
    Down(Place, Option<String>),
    /// On its way to `Down` (its wish committed first).
    Stopping { place: Place, tickets: Vec<Ticket>, committed: bool },
    /// On its way to `Up`.
    Starting { place: Place, tickets: Vec<Ticket>, joined: Vec<Ticket>, committed: bool },
    /// Out of the map; its processes are being killed.
    Killing { generation: Generation, report: bool },
    /// Dead; its remains are being removed.
    Removing { generation: Generation, report: bool, failures: u32 },
    /// Removed; the map is being told.
    Reporting { generation: Generation },
}

impl Lifecycle {
    /// A machine for what is in this container, to which nothing has happened yet.
    #[must_use]
    pub fn new(slot: SandboxId) -> Self {
        Self {
            slot,
            id: slot,
            stage: Stage::Idle,
            running: None,
            waiting_destroy: Vec::new(),
            shown: None,
            outdated: false,
            died: false,
            wakes_due: BTreeSet::new(),
            #[cfg(feature = "planted-bugs")]
            bug_reuses_prepared: false,
        }
    }

    /// Takes in what happened and says what is to be done.
    pub fn handle(&mut self, now: Timestamp, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Create { plan, warm } => self.begin_create(now, *plan, warm, &mut out),
            Input::Adopt { record, activated } => self.adopt(now, *record, activated, &mut out),
            Input::Bury { duty } => self.take_up_burial(duty, &mut out),
            Input::Applied { change } => self.applied(now, change, &mut out),
            Input::ProposalDropped => self.create_proposal_dropped(now, &mut out),
            Input::Step(kind, result) => self.step_ended(now, kind, result, &mut out),
            Input::Died { why } => self.died(why, &mut out),
            Input::Stop(ticket) => self.stop(ticket, &mut out),
            Input::Start(ticket) => self.start(ticket, &mut out),
            Input::Destroy(ticket) => self.destroy(ticket, &mut out),
            Input::Join(ticket) => self.join(ticket, &mut out),
            Input::Wake => self.wake(now, &mut out),
        }
        out
    }

    pub(super) fn run(&mut self, step: Step, out: &mut Vec<Output>) {
        assert!(self.running.is_none(), "{} has {:?} under way", self.id, self.running);
        if matches!(step, Step::Make { .. } | Step::Start { .. }) {
            self.died = false;
        }
        self.running = Some(step.kind());
        out.push(Output::Run(step));
    }

    pub(super) fn observe(
        &mut self,
        status: Status,
        why: Option<String>,
        generation: Generation,
        out: &mut Vec<Output>,
    ) {
        let observed = Observed { status, why, generation };
        if self.shown.as_ref() != Some(&observed) {
            self.shown = Some(observed.clone());
            out.push(Output::Observe(self.id, observed));
        }
    }

    pub(super) fn charge(place: &Place) -> Charge {
        Charge {
            generation: place.generation,
            digest: place.digest(),
            resources: place.spec.resources,
            leased: place.is_leased(),
        }
    }

    pub(super) fn activate(place: &Place) -> Step {
        Step::Activate {
            charge: Self::charge(place),
            spec: Box::new((*place.spec).clone()),
            sealed_env: place.sealed_env.to_vec(),
        }
    }

    /// It is up for all that its last step knows; `joined` are answered when it surely is.
    pub(super) fn set_up(&mut self, now: Timestamp, place: Place, joined: Vec<Ticket>, out: &mut Vec<Output>) {
        if std::mem::take(&mut self.died) {
            // The news of its death came before the news that it was up; which happened first?
            self.stage = Stage::Examining { place, wanted: Wanted::Running, joined };
            self.run(Step::Examine, out);
            return;
        }
        self.observe(Status::Running, None, place.generation, out);
        self.stage = Stage::Up(place);
        self.look_again(now, out);
        self.answer_all(joined, Ok(Answer::Created(self.id)), out);
    }

    fn set_down(&mut self, now: Timestamp, place: Place, why: Option<String>, out: &mut Vec<Output>) {
        self.observe(Status::Stopped, why.clone(), place.generation, out);
        self.stage = Stage::Down(place, why);
        self.look_again(now, out);
    }

    fn adopt(&mut self, now: Timestamp, record: Record, activated: bool, out: &mut Vec<Output>) {
        let Record { place, wanted, .. } = record;
        self.id = place.id;
        if !activated {
            // Its create was cut off before any code of the user's could run: finish it from the spec.
            self.finish_create(now, place, out);
            return;
        }
        self.observe(Status::Creating, None, place.generation, out);
        self.stage = Stage::Examining { place, wanted, joined: Vec::new() };
        self.run(Step::Examine, out);
    }

    fn examined(&mut self, now: Timestamp, result: StepResult, out: &mut Vec<Output>) {
        let Stage::Examining { place, wanted, joined } = std::mem::replace(&mut self.stage, Stage::Idle) else {
            return;
        };
        let digest = place.digest();
        match result {
            StepResult::Examined(Examined::Answers(state)) => {
                let known = match state {
                    AgentState::Bare => true,
                    AgentState::Prepared { generation, digest: theirs }
                    | AgentState::Active { generation, digest: theirs } => {
                        generation == place.generation && theirs == digest
                    }
                };
                if !known {
                    let why = "its container belongs to another placement".to_owned();
                    self.answer_all(joined, Err(WarrenError::new(ErrorCode::WrongState, why.clone())), out);
                    self.observe(Status::Error, Some(why.clone()), place.generation, out);
                    self.stage = Stage::Down(place, Some(why));
                    self.look_again(now, out);
                } else if wanted == Wanted::Stopped {
                    self.answer_all(joined, Ok(Answer::Created(self.id)), out);
                    self.stage = Stage::Stopping { place, tickets: Vec::new(), committed: true };
                    self.run(Step::Stop, out);
                } else if matches!(state, AgentState::Active { .. }) {
                    self.set_up(now, place, joined, out);
                } else {
                    let step = match state {
                        AgentState::Bare => Step::Prepare(Self::charge(&place)),
                        AgentState::Prepared { .. } | AgentState::Active { .. } => Self::activate(&place),
                    };
                    self.stage = Stage::Starting { place, tickets: Vec::new(), joined, committed: true };
                    self.run(step, out);
                }
            }
            StepResult::Examined(Examined::Exited { why }) => {
                self.answer_all(joined, Ok(Answer::Created(self.id)), out);
                let why = (wanted == Wanted::Running).then_some(why);
                self.set_down(now, place, why, out);
            }
            StepResult::Examined(Examined::Missing) => {
                let why = "its container was removed behind Warren's back; its files are lost".to_owned();
                self.answer_all(joined, Err(WarrenError::new(ErrorCode::WrongState, why.clone())), out);
                self.observe(Status::Error, Some(why.clone()), place.generation, out);
                self.stage = Stage::Down(place, Some(why));
                self.look_again(now, out);
            }
            StepResult::Done | StepResult::Failed(_) => {
                // Unknown is not gone: look again, and show that it can not be asked meanwhile.
                let why = match result {
                    StepResult::Failed(error) => error.message,
                    _ => "its container can not be asked".to_owned(),
                };
                self.observe(Status::Unreachable, Some(why), place.generation, out);
                if let Some(expires_at) = place.expires_at.filter(|end| *end <= now) {
                    // What can not be asked still ends in its time.
                    let reason = DestroyReason::Expired { expires_at };
                    out.push(Output::Propose(Kind::Destroy { id: self.id, reason }));
                }
                self.stage = Stage::Examining { place, wanted, joined };
                self.wake_by(now, EXAMINE_AGAIN_MS, out);
            }
        }
    }

    fn applied(&mut self, now: Timestamp, change: Change, out: &mut Vec<Output>) {
        match change {
            Change::Place(outcome) => self.placed(outcome, out),
            Change::Wanted(outcome) => self.wanted(&outcome, out),
            Change::Destroy(Outcome::Destroyed) | Change::CreateFailed(Outcome::Failed) => {
                self.buried(ErrorCode::Gone, "the sandbox was deleted meanwhile", out);
            }
            Change::Outdated => {
                self.outdated = true;
                // What dies here is not the sandbox.
                let tickets = std::mem::take(&mut self.waiting_destroy);
                self.answer_all(tickets, Err(outdated()), out);
                self.buried(outdated().code, OUTDATED, out);
            }
            Change::Destroy(Outcome::Kept { expires_at }) => self.kept(now, expires_at, out),
            Change::Destroy(_) => {
                // It was not there: whoever waits has what they wanted.
                if !matches!(self.stage, Stage::Killing { .. }) {
                    self.answer_destroyed(out);
                }
            }
            Change::Removed(_) => {
                if matches!(self.stage, Stage::Reporting { .. }) {
                    self.stage = Stage::Idle;
                    out.push(Output::Finished(self.id));
                }
            }
            Change::CreateFailed(_) => {}
        }
    }

    /// The map has let go of it: kill, then remove, then report.
    fn buried(&mut self, code: ErrorCode, why: &str, out: &mut Vec<Output>) {
        let gone = || WarrenError::new(code, why);
        let generation = match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Creating(creating) => {
                let error = creating.failure().unwrap_or_else(gone);
                self.answer_all(creating.tickets, Err(error), out);
                creating.place.generation
            }
            Stage::Examining { place, joined, .. } => {
                self.answer_all(joined, Err(gone()), out);
                place.generation
            }
            Stage::Stopping { place, tickets, .. } => {
                self.answer_all(tickets, Err(gone()), out);
                place.generation
            }
            Stage::Starting { place, tickets, joined, .. } => {
                self.answer_all(tickets, Err(gone()), out);
                self.answer_all(joined, Err(gone()), out);
                place.generation
            }
            Stage::Up(place) | Stage::Down(place, _) => place.generation,
            Stage::Killing { generation, .. } => {
                self.stage = Stage::Killing { generation, report: true };
                return;
            }
            Stage::Removing { generation, failures, .. } => {
                self.stage = Stage::Removing { generation, report: true, failures };
                return;
            }
            already @ (Stage::Reporting { .. } | Stage::Idle) => {
                self.stage = already;
                return;
            }
        };
        self.bury(generation, true, out);
    }

    /// An earlier life left it, or the map says so of what is under way here already.
    fn take_up_burial(&mut self, duty: Option<Duty>, out: &mut Vec<Output>) {
        match (&self.stage, duty) {
            (Stage::Idle, duty) => {
                self.id = duty.map_or(self.slot, |duty| duty.sandbox);
                let generation = duty.map(|duty| duty.generation);
                self.bury(generation.unwrap_or_default(), generation.is_some(), out);
            }
            (_, Some(_)) => self.buried(outdated().code, OUTDATED, out),
            // Whatever it is, it is known here.
            (_, None) => {}
        }
    }

    /// Kills and removes; `report` says whether the map has a tombstone to clear afterwards.
    pub(super) fn bury(&mut self, generation: Generation, report: bool, out: &mut Vec<Output>) {
        self.stage = Stage::Killing { generation, report };
        if self.running.is_none() {
            self.run(Step::Kill, out);
        }
    }

    fn kept(&mut self, now: Timestamp, expires_at: Option<Timestamp>, out: &mut Vec<Output>) {
        if let Stage::Up(place) | Stage::Down(place, _) | Stage::Examining { place, .. } = &mut self.stage {
            place.expires_at = expires_at;
        }
        self.look_again(now, out);
    }

    fn wanted(&mut self, outcome: &Outcome, out: &mut Vec<Output>) {
        // An earlier wish that was proposed twice may come late: only the one that is waited for counts.
        match &mut self.stage {
            Stage::Stopping { committed, .. } if *outcome == Outcome::Wanted(Wanted::Stopped) && !*committed => {
                *committed = true;
                self.run(Step::Stop, out);
            }
            Stage::Starting { place, committed, .. } if *outcome == Outcome::Wanted(Wanted::Running) && !*committed => {
                *committed = true;
                let resources = place.spec.resources;
                self.run(Step::Start { resources }, out);
            }
            // Unknown means that it is out of the map, and its destroy was applied before this.
            _ => {}
        }
    }

    fn step_ended(&mut self, now: Timestamp, kind: StepKind, result: StepResult, out: &mut Vec<Output>) {
        assert_eq!(self.running, Some(kind), "{} got the end of a step that it did not begin", self.id);
        self.running = None;
        match &self.stage {
            Stage::Creating(_) => self.create_step_ended(now, kind, result, out),
            Stage::Examining { .. } => self.examined(now, result, out),
            Stage::Stopping { .. } => self.stop_ended(now, result, out),
            Stage::Starting { .. } => self.start_ended(now, kind, result, out),
            Stage::Killing { generation, report } => {
                let (generation, report) = (*generation, *report);
                if kind != StepKind::Kill {
                    // The step that was under way when it was destroyed; now kill.
                    self.run(Step::Kill, out);
                } else if matches!(result, StepResult::Failed(_)) {
                    // Still alive for all we know: nobody is told that it is dead.
                    self.wake_by(now, REMOVE_AGAIN_MS_MIN, out);
                } else {
                    self.answer_destroyed(out);
                    self.stage = Stage::Removing { generation, report, failures: 0 };
                    self.run(Step::Remove, out);
                }
            }
            Stage::Removing { generation, report, failures } => {
                let (generation, report, failures) = (*generation, *report, *failures);
                if matches!(result, StepResult::Failed(_)) {
                    let wait = REMOVE_AGAIN_MS_MIN.saturating_mul(1 << failures.min(16)).min(REMOVE_AGAIN_MS_MAX);
                    self.stage = Stage::Removing { generation, report, failures: failures.saturating_add(1) };
                    self.wake_by(now, wait, out);
                } else if report {
                    self.stage = Stage::Reporting { generation };
                    out.push(Output::Propose(Kind::Removed { id: self.id, generation }));
                } else {
                    self.stage = Stage::Idle;
                    out.push(Output::Finished(self.id));
                }
            }
            Stage::Idle | Stage::Up(_) | Stage::Down(..) | Stage::Reporting { .. } => {
                unreachable!("no step is begun in {:?}", self.stage)
            }
        }
    }

    fn stop(&mut self, ticket: Ticket, out: &mut Vec<Output>) {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Up(place) => self.propose_stop(place, ticket, out),
            Stage::Stopping { place, mut tickets, committed } => {
                tickets.push(ticket);
                self.stage = Stage::Stopping { place, tickets, committed };
            }
            Stage::Down(place, None) => {
                self.stage = Stage::Down(place, None);
                out.push(Output::Answer(ticket, Ok(Answer::Stopped)));
            }
            // It ended by itself: the map still wants it running, and a wish that is answered is in the map.
            Stage::Down(place, Some(_)) if self.shown.as_ref().is_some_and(|shown| shown.status == Status::Stopped) => {
                self.propose_stop(place, ticket, out);
            }
            other => {
                self.stage = other;
                self.refuse(ticket, "stop", out);
            }
        }
    }

    fn propose_stop(&mut self, place: Place, ticket: Ticket, out: &mut Vec<Output>) {
        let (id, generation) = (self.id, place.generation);
        out.push(Output::Propose(Kind::SetWanted { id, generation, wanted: Wanted::Stopped }));
        self.stage = Stage::Stopping { place, tickets: vec![ticket], committed: false };
    }

    fn start(&mut self, ticket: Ticket, out: &mut Vec<Output>) {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Down(place, _) if self.shown.as_ref().is_none_or(|shown| shown.status == Status::Stopped) => {
                let (id, generation) = (self.id, place.generation);
                out.push(Output::Propose(Kind::SetWanted { id, generation, wanted: Wanted::Running }));
                self.stage = Stage::Starting { place, tickets: vec![ticket], joined: Vec::new(), committed: false };
            }
            Stage::Starting { place, mut tickets, joined, committed } => {
                tickets.push(ticket);
                self.stage = Stage::Starting { place, tickets, joined, committed };
            }
            Stage::Up(place) => {
                self.stage = Stage::Up(place);
                out.push(Output::Answer(ticket, Ok(Answer::Started)));
            }
            other => {
                self.stage = other;
                self.refuse(ticket, "start", out);
            }
        }
    }

    fn stop_ended(&mut self, now: Timestamp, result: StepResult, out: &mut Vec<Output>) {
        let Stage::Stopping { place, tickets, .. } = std::mem::replace(&mut self.stage, Stage::Idle) else {
            return;
        };
        if let StepResult::Failed(error) = result {
            // Whether it still runs is unknown: look.
            self.observe(Status::Unreachable, Some(error.message.clone()), place.generation, out);
            self.answer_all(tickets, Err(error), out);
            self.stage = Stage::Examining { place, wanted: Wanted::Stopped, joined: Vec::new() };
            self.wake_by(now, EXAMINE_AGAIN_MS, out);
        } else {
            self.answer_all(tickets, Ok(Answer::Stopped), out);
            self.set_down(now, place, None, out);
        }
    }

    fn start_ended(&mut self, now: Timestamp, kind: StepKind, result: StepResult, out: &mut Vec<Output>) {
        let Stage::Starting { place, tickets, joined, committed } = std::mem::replace(&mut self.stage, Stage::Idle)
        else {
            return;
        };
        match result {
            StepResult::Failed(error) => {
                // Whether it runs by now is unknown: look.
                self.observe(Status::Unreachable, Some(error.message.clone()), place.generation, out);
                self.answer_all(tickets, Err(error), out);
                self.answer_all(joined, Ok(Answer::Created(self.id)), out);
                self.stage = Stage::Examining { place, wanted: Wanted::Running, joined: Vec::new() };
                self.wake_by(now, EXAMINE_AGAIN_MS, out);
            }
            // Its agent is a new process, which knows nothing of the sandbox yet.
            _ if kind == StepKind::Start => {
                let step = Step::Prepare(Self::charge(&place));
                self.stage = Stage::Starting { place, tickets, joined, committed };
                self.run(step, out);
            }
            _ if kind == StepKind::Prepare => {
                let step = Self::activate(&place);
                self.stage = Stage::Starting { place, tickets, joined, committed };
                self.run(step, out);
            }
            _ => {
                self.answer_all(tickets, Ok(Answer::Started), out);
                self.set_up(now, place, joined, out);
            }
        }
    }

    fn died(&mut self, why: String, out: &mut Vec<Output>) {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            // News travels: this may be of a process that a start has replaced since.
            Stage::Up(place) => {
                self.observe(Status::Unreachable, Some(why), place.generation, out);
                self.stage = Stage::Examining { place, wanted: Wanted::Running, joined: Vec::new() };
                self.run(Step::Examine, out);
            }
            // While a step is under way its result tells, unless it succeeded just before the death.
            other => {
                self.died = true;
                self.stage = other;
            }
        }
    }

    fn destroy(&mut self, ticket: Ticket, out: &mut Vec<Output>) {
        match self.stage {
            _ if self.outdated => out.push(Output::Answer(ticket, Err(outdated()))),
            Stage::Removing { .. } | Stage::Reporting { .. } | Stage::Idle => {
                out.push(Output::Answer(ticket, Ok(Answer::Destroyed)));
            }
            Stage::Killing { .. } => self.waiting_destroy.push(ticket),
            _ => {
                self.waiting_destroy.push(ticket);
                if self.waiting_destroy.len() == 1 {
                    out.push(Output::Propose(Kind::Destroy { id: self.id, reason: DestroyReason::Asked }));
                }
            }
        }
    }

    fn join(&mut self, ticket: Ticket, out: &mut Vec<Output>) {
        match &mut self.stage {
            Stage::Creating(creating) => creating.tickets.push(ticket),
            Stage::Examining { joined, .. } | Stage::Starting { joined, .. } => joined.push(ticket),
            Stage::Up(_) | Stage::Down(..) | Stage::Stopping { .. } => {
                out.push(Output::Answer(ticket, Ok(Answer::Created(self.id))));
            }
            Stage::Idle | Stage::Killing { .. } | Stage::Removing { .. } | Stage::Reporting { .. } => {
                let error = WarrenError::new(ErrorCode::Gone, "what this idempotency key made is gone")
                    .with("id", self.id.as_str());
                out.push(Output::Answer(ticket, Err(error)));
            }
        }
    }

    fn answer_destroyed(&mut self, out: &mut Vec<Output>) {
        let tickets = std::mem::take(&mut self.waiting_destroy);
        self.answer_all(tickets, Ok(Answer::Destroyed), out);
    }

    pub(super) fn answer_all(&self, tickets: Vec<Ticket>, answer: Result<Answer, WarrenError>, out: &mut Vec<Output>) {
        out.extend(tickets.into_iter().map(|ticket| Output::Answer(ticket, answer.clone())));
    }

    fn refuse(&self, ticket: Ticket, verb: &str, out: &mut Vec<Output>) {
        if matches!(self.stage, Stage::Idle | Stage::Killing { .. } | Stage::Removing { .. } | Stage::Reporting { .. })
        {
            let error = WarrenError::new(ErrorCode::NotFound, "sandbox not found");
            out.push(Output::Answer(ticket, Err(error)));
            return;
        }
        let status = self.shown.as_ref().map_or("creating", |shown| shown.status.as_str());
        let error = WarrenError::new(ErrorCode::WrongState, format!("cannot {verb} a sandbox that is {status}"))
            .with("status", status);
        out.push(Output::Answer(ticket, Err(error)));
    }
}
