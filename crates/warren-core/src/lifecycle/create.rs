//! The machine while a sandbox is being created: the slot is brought up and the placement is
//! committed side by side; only when both are done does the agent get the environment.

use types::{ErrorCode, Generation, Status, Timestamp, WarrenError};

use super::machine::{Lifecycle, Stage};
use super::{Answer, CREATE_MS_MAX, CreatePlan, MAKES_MAX, Output, PROPOSE_AGAIN_MS, Ticket};
use crate::placement::{Failure, Kind, Move, Outcome, Place};
use crate::step::{Step, StepKind, StepResult};

/// A create under way.
#[derive(Debug)]
pub(super) struct Creating {
    pub(super) place: Place,
    pub(super) tickets: Vec<Ticket>,
    /// The map says that it is ours.
    placed: bool,
    /// The last proposal surely did not enter the log.
    dropped: bool,
    /// The agent knows which sandbox it is going to be.
    prepared: bool,
    /// Times the slot was made for this create.
    makes: u32,
    /// It is placed again: that is proposed only once the slot is prepared, so that a slot which fails
    /// has moved nothing.
    again: bool,
    /// It has been prepared, and so proposed where it is placed again.
    prepared_once: bool,
    /// The slot failed for good.
    failed: Option<WarrenError>,
    deadline: Timestamp,
}

impl Creating {
    /// Why the slot failed for good.
    pub(super) fn failure(&self) -> Option<WarrenError> {
        self.failed.clone()
    }

    fn proposal(&self) -> Output {
        Output::Propose(if self.again {
            let Place { id, slot, owner, incarnation, generation, .. } = self.place.clone();
            Kind::Move(Move { id, slot, owner, incarnation, generation })
        } else {
            Kind::Place(Box::new(self.place.clone()))
        })
    }
}

impl Lifecycle {
    pub(super) fn begin_create(&mut self, now: Timestamp, plan: CreatePlan, warm: bool, out: &mut Vec<Output>) {
        self.id = plan.again.map_or(self.slot, |again| again.id);
        let place = Place {
            id: self.id,
            slot: self.slot,
            owner: plan.owner,
            incarnation: plan.incarnation,
            generation: plan.again.map_or(Generation(1), |again| again.generation),
            spec: plan.spec,
            sealed_env: plan.sealed_env,
            expires_at: plan.expires_at,
            key: plan.key,
        };
        let mut creating = self.creating(now, place, vec![plan.ticket], false);
        creating.again = plan.again.is_some();
        if !creating.again {
            out.push(creating.proposal());
        }
        self.bring_up(creating, warm, out);
        self.wake_by(now, CREATE_MS_MAX, out);
    }

    /// The placement was committed in an earlier life and nothing of the user's has run.
    pub(super) fn finish_create(&mut self, now: Timestamp, place: Place, out: &mut Vec<Output>) {
        self.observe(Status::Creating, None, place.generation, out);
        let creating = self.creating(now, place, Vec::new(), true);
        self.bring_up(creating, true, out);
        self.wake_by(now, CREATE_MS_MAX, out);
    }

    fn creating(&self, now: Timestamp, place: Place, tickets: Vec<Ticket>, placed: bool) -> Creating {
        Creating {
            place,
            tickets,
            placed,
            dropped: false,
            prepared: false,
            makes: 0,
            again: false,
            prepared_once: false,
            failed: None,
            deadline: now.checked_add_ms(CREATE_MS_MAX).unwrap_or(now),
        }
    }

    fn bring_up(&mut self, mut creating: Creating, warm: bool, out: &mut Vec<Output>) {
        let step = if warm {
            Step::Prepare(Self::charge(&creating.place))
        } else {
            creating.makes = 1;
            Self::make(&creating.place)
        };
        self.stage = Stage::Creating(Box::new(creating));
        self.run(step, out);
    }

    fn make(place: &Place) -> Step {
        Step::Make { shape: place.spec.slot_shape(), resources: place.spec.resources }
    }

    pub(super) fn create_step_ended(
        &mut self,
        now: Timestamp,
        kind: StepKind,
        result: StepResult,
        out: &mut Vec<Output>,
    ) {
        let Stage::Creating(creating) = &mut self.stage else {
            return;
        };
        let next = match (kind, result) {
            (_, StepResult::Failed(error)) => {
                creating.prepared = false;
                // Asking for something impossible is not made possible by asking twice.
                let hopeless =
                    matches!(error.code, ErrorCode::Unprocessable | ErrorCode::Forbidden | ErrorCode::NotImplemented);
                if creating.makes < MAKES_MAX && !hopeless {
                    creating.makes += 1;
                    Some(Self::make(&creating.place))
                } else {
                    creating.failed = Some(error.clone());
                    if creating.placed {
                        self.propose_failure(out);
                    } else if creating.again && !creating.prepared_once {
                        self.give_up(Err(error), out);
                    }
                    None
                }
            }
            (StepKind::Make, _) => Some(Step::Prepare(Self::charge(&creating.place))),
            (StepKind::Prepare, _) => {
                creating.prepared = true;
                if creating.again && !std::mem::replace(&mut creating.prepared_once, true) {
                    out.push(creating.proposal());
                }
                creating.placed.then(|| Self::activate(&creating.place))
            }
            _ => {
                let tickets = std::mem::take(&mut creating.tickets);
                let place = creating.place.clone();
                self.set_up(now, place, tickets, out);
                None
            }
        };
        if let Some(step) = next {
            self.run(step, out);
        }
    }

    pub(super) fn placed(&mut self, outcome: Outcome, out: &mut Vec<Output>) {
        let Stage::Creating(creating) = &mut self.stage else {
            return;
        };
        if creating.placed {
            // The same proposal, applied a second time.
            return;
        }
        match outcome {
            Outcome::Placed { generation } => {
                creating.placed = true;
                creating.place.generation = generation;
                let prepared = creating.prepared;
                let failed = creating.failed.is_some();
                let step = Self::activate(&creating.place);
                self.observe(Status::Creating, None, generation, out);
                if failed {
                    self.propose_failure(out);
                } else if prepared && self.running.is_none() {
                    self.run(step, out);
                }
            }
            Outcome::AlreadyPlaced { winner } => self.give_up(Ok(Answer::Winner(winner)), out),
            Outcome::Refused(refusal) => self.give_up(Err(refusal.error()), out),
            other => {
                let error = WarrenError::new(ErrorCode::Internal, format!("a placement was answered with {other:?}"));
                self.give_up(Err(error), out);
            }
        }
    }

    /// A slot that was prepared and not placed is destroyed, never used for anybody else.
    fn give_up(&mut self, answer: Result<Answer, WarrenError>, out: &mut Vec<Output>) {
        let Stage::Creating(creating) = std::mem::replace(&mut self.stage, Stage::Idle) else {
            return;
        };
        self.answer_all(creating.tickets, answer, out);
        #[cfg(feature = "planted-bugs")]
        if self.bug_reuses_prepared && creating.prepared && self.running.is_none() {
            out.push(Output::ReturnToPool);
            out.push(Output::Finished(self.id));
            return;
        }
        self.bury(creating.place.generation, false, out);
    }

    fn propose_failure(&self, out: &mut Vec<Output>) {
        let Stage::Creating(creating) = &self.stage else {
            return;
        };
        if let Some(error) = &creating.failed {
            let failure = Failure::from(error);
            let (id, generation) = (self.id, creating.place.generation);
            out.push(Output::Propose(if creating.again {
                Kind::Fail { id, generation, failure, only_if_lost: false }
            } else {
                Kind::CreateFailed { id, generation, failure }
            }));
        }
    }

    pub(super) fn create_proposal_dropped(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        if let Stage::Creating(creating) = &mut self.stage {
            creating.dropped = true;
        }
        self.wake_by(now, PROPOSE_AGAIN_MS, out);
    }

    pub(super) fn wake_create(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        let Stage::Creating(creating) = &mut self.stage else {
            return;
        };
        let late = now >= creating.deadline;
        let dropped = std::mem::take(&mut creating.dropped);
        if !creating.placed && dropped {
            if late {
                // No proposal of it is in any log: it surely did not happen.
                let error = WarrenError::new(ErrorCode::NoQuorum, "the cluster has no leader to record this sandbox");
                self.give_up(Err(error), out);
            } else {
                out.push(creating.proposal());
            }
            return;
        }
        if late && !creating.tickets.is_empty() {
            // It may still come up; whoever repeats the key or reads the list will find it.
            let tickets = std::mem::take(&mut creating.tickets);
            let error =
                WarrenError::new(ErrorCode::Interrupted, "the sandbox was not up in time; it may still come up");
            self.answer_all(tickets, Err(error), out);
        }
        if dropped {
            self.propose_failure(out);
        }
    }
}
