//! Podman, the agents and the node's own ledger on one host: what containers do, and what a step on one comes to.
//!
//! A step is a row of acts, each at a time of its own. It may fail before, between or after them, at once or by its
//! time-out. What it never does is to act after its end was reported: the engine room owes that to the cores.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use types::spec::SlotShape;
use types::{ErrorCode, Generation, Incarnation, SandboxId, WarrenError};
use warren_core::reconcile::Found;
use warren_core::step::{AgentState, Charge, Examined, Step, StepResult, step_error};
use warren_core::wiring::Requester;

use crate::rng::Rng;
use crate::weather::Weather;

/// Microseconds after which a hanging step is given up.
const STEP_US_MAX: u64 = 30_000_000;

/// Microseconds that the news of a step's end takes at most: meanwhile the container lives on, or dies.
pub const ANSWER_US_MAX: u64 = 5_000;

/// An image that can never be made.
pub const IMPOSSIBLE_IMAGE: &str = "impossible";

/// Whether a container has processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// Made, never started.
    Created,
    /// Its agent answers.
    Running(AgentState),
    /// Its processes have ended.
    Exited,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// It carries our cluster's label.
    pub ours: bool,
    /// What it was created as.
    pub shape: SlotShape,
    /// Whether it has processes.
    pub life: Life,
    /// The sandbox that it was prepared for.
    pub charge: Option<Charge>,
    /// The environment that it was handed.
    pub env: Option<Vec<u8>>,
    /// Commands that ran in it.
    pub execs: u64,
}

impl Container {
    /// It has a process.
    #[must_use]
    pub fn runs(&self) -> bool {
        matches!(self.life, Life::Running(_))
    }
}

/// One thing done to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Remove what stands there.
    Clear,
    /// Take it off the ledger of activated sandboxes.
    Forget,
    /// Make a container.
    Create,
    /// Start it, and its agent.
    Boot,
    /// Tell the agent its charge.
    Prepare,
    /// Put it on the ledger of activated sandboxes.
    Note,
    /// Hand over the environment.
    Activate,
    /// End its processes.
    End,
    /// Look at it.
    Look,
}

/// Who waits for the end of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// A core.
    Step(Requester, Step),
    /// Nobody; it is tried until it succeeds.
    Discard,
}

/// A step under way.
#[derive(Debug, Clone)]
pub struct Job {
    /// On which container.
    pub slot: SandboxId,
    /// What.
    pub work: Work,
    acts: VecDeque<Act>,
    /// Acts until it fails; `None` for not at all.
    fails_in: Option<usize>,
    hangs: bool,
    result: StepResult,
}

impl Job {
    fn failure(&self, why: &str) -> WarrenError {
        match &self.work {
            Work::Step(_, step) => step_error(step.kind(), why),
            Work::Discard => WarrenError::new(ErrorCode::Internal, why),
        }
    }

    /// The act that comes next.
    #[must_use]
    pub fn next_act(&self) -> Option<Act> {
        self.acts.front().copied()
    }
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Step(_, step) => write!(f, "{:?}", step.kind()),
            Self::Discard => f.write_str("Discard"),
        }
    }
}

/// What a job's next event came to.
#[derive(Debug)]
pub enum Progress {
    /// It goes on after so many microseconds.
    Again(u64),
    /// It has ended.
    Ended(Box<Job>, StepResult),
}

/// Podman, the agents and the ledger on one host. It outlives the node's process.
#[derive(Debug, Default)]
pub struct FakeEngine {
    /// Every container of the host, ours or not.
    pub containers: BTreeMap<SandboxId, Container>,
    /// Sandboxes that were activated, as this host's disk says.
    pub ledger: BTreeSet<SandboxId>,
    /// The node's lease as its agents read it: of which life, and until when.
    pub lease: (Incarnation, u64),
    /// Steps under way.
    pub jobs: BTreeMap<u64, Job>,
    /// This image can not be made at present.
    pub broken_image: Option<String>,
    last_job: u64,
    /// Planted: its agents look at no lease.
    pub ignores_lease: bool,
}

impl FakeEngine {
    /// Begins a step; its number and the time until its first event.
    pub fn begin(&mut self, slot: SandboxId, work: Work, weather: &Weather, rng: &mut Rng) -> (u64, u64) {
        let acts = acts(&work);
        let fails_in = rng.chance(weather.step_fails_ppm).then(|| rng.index(acts.len() + 1));
        let hangs = rng.chance(weather.step_hangs_ppm) && fails_in.is_some();
        let delay = acts.first().map_or(0, |act| duration(*act, rng));
        self.last_job += 1;
        let job = Job { slot, work, acts: acts.iter().copied().collect(), fails_in, hangs, result: StepResult::Done };
        self.jobs.insert(self.last_job, job);
        (self.last_job, delay)
    }

    /// The next event of a step; `None` where a crash has taken it.
    pub fn advance(&mut self, number: u64, rng: &mut Rng) -> Option<Progress> {
        let mut job = self.jobs.remove(&number)?;
        if job.fails_in == Some(0) {
            if std::mem::take(&mut job.hangs) {
                self.jobs.insert(number, job);
                return Some(Progress::Again(STEP_US_MAX));
            }
            let result = StepResult::Failed(job.failure("the engine failed"));
            return Some(Progress::Ended(Box::new(job), result));
        }
        let Some(act) = job.acts.pop_front() else {
            let result = job.result.clone();
            return Some(Progress::Ended(Box::new(job), result));
        };
        if let Err(error) = self.act(&mut job, act) {
            return Some(Progress::Ended(Box::new(job), StepResult::Failed(error)));
        }
        job.fails_in = job.fails_in.map(|left| left - 1);
        let delay = match job.acts.front() {
            Some(act) => duration(*act, rng),
            None => rng.between(1, ANSWER_US_MAX),
        };
        self.jobs.insert(number, job);
        Some(Progress::Again(delay))
    }

    /// The node's process dies: the engine finishes the act that it had begun, or does not.
    pub fn crash(&mut self, rng: &mut Rng) -> Vec<(SandboxId, Act)> {
        let mut finished = Vec::new();
        for (_, mut job) in std::mem::take(&mut self.jobs) {
            let finishes = rng.chance(500_000) && job.fails_in != Some(0);
            if finishes && let Some(act) = job.acts.pop_front() {
                // Its error, if any, has nobody left to go to.
                let _ = self.act(&mut job, act);
                finished.push((job.slot, act));
            }
        }
        finished
    }

    fn act(&mut self, job: &mut Job, act: Act) -> Result<(), WarrenError> {
        let step = match &job.work {
            Work::Step(_, step) => Some(step.clone()),
            Work::Discard => None,
        };
        match (act, step) {
            (Act::Clear, _) => {
                self.containers.remove(&job.slot);
            }
            (Act::Forget, _) => {
                self.ledger.remove(&job.slot);
            }
            (Act::Note, _) => {
                self.ledger.insert(job.slot);
            }
            (Act::Create, Some(Step::Make { shape, .. })) => {
                if shape.image == IMPOSSIBLE_IMAGE {
                    return Err(WarrenError::new(ErrorCode::Unprocessable, "there is no such image"));
                }
                if self.broken_image.as_ref() == Some(&shape.image) {
                    return Err(job.failure("the image can not be unpacked"));
                }
                let container = Container { ours: true, shape, life: Life::Created, charge: None, env: None, execs: 0 };
                self.containers.insert(job.slot, container);
            }
            (Act::Boot, _) => match self.containers.get_mut(&job.slot) {
                Some(container) if container.runs() => {}
                Some(container) => container.life = Life::Running(AgentState::Bare),
                None => return Err(job.failure("there is no such container")),
            },
            (Act::Prepare, Some(Step::Prepare(charge))) => self.prepare(job, charge)?,
            (Act::Activate, Some(Step::Activate { charge, sealed_env, .. })) => {
                // A container that was stopped comes back with a bare agent.
                self.prepare(job, charge)?;
                if let Some(container) = self.containers.get_mut(&job.slot) {
                    let Charge { generation, digest, .. } = charge;
                    container.life = Life::Running(AgentState::Active { generation, digest });
                    container.env = Some(sealed_env);
                }
            }
            (Act::End, step) => match self.containers.get_mut(&job.slot) {
                Some(container) => container.life = Life::Exited,
                None if step == Some(Step::Stop) => return Err(job.failure("there is no such container")),
                None => {}
            },
            (Act::Look, _) => {
                job.result = StepResult::Examined(match self.containers.get(&job.slot).map(|found| &found.life) {
                    Some(Life::Running(state)) => Examined::Answers(*state),
                    Some(Life::Created | Life::Exited) => Examined::Exited { why: "its first process ended".into() },
                    None => Examined::Missing,
                });
            }
            (Act::Create | Act::Prepare | Act::Activate, step) => unreachable!("{act:?} is no part of {step:?}"),
        }
        Ok(())
    }

    fn prepare(&mut self, job: &Job, charge: Charge) -> Result<(), WarrenError> {
        let failure = |why: &str| Err(job.failure(why));
        let Charge { generation, digest, .. } = charge;
        match self.containers.get(&job.slot).map(|container| &container.life) {
            None => failure("there is no such container"),
            Some(Life::Created | Life::Exited) => failure("its agent does not answer"),
            Some(Life::Running(
                AgentState::Prepared { generation: known, digest: theirs }
                | AgentState::Active { generation: known, digest: theirs },
            )) => {
                if (*known, *theirs) == (generation, digest) {
                    Ok(())
                } else {
                    failure("its agent is another sandbox's")
                }
            }
            Some(Life::Running(AgentState::Bare)) => {
                if let Some(container) = self.containers.get_mut(&job.slot) {
                    container.life = Life::Running(AgentState::Prepared { generation, digest });
                    container.charge = Some(charge);
                }
                Ok(())
            }
        }
    }

    /// What a new life finds of ours.
    #[must_use]
    pub fn list(&self) -> Vec<Found> {
        let ours = self.containers.iter().filter(|(_, container)| container.ours);
        ours.map(|(slot, container)| Found {
            slot: *slot,
            agent: match container.life {
                Life::Running(state) => Some(state),
                Life::Created | Life::Exited => None,
            },
            shape: Some(container.shape.clone()),
        })
        .collect()
    }

    /// One of our containers that run.
    pub fn any_running(&self, rng: &mut Rng) -> Option<SandboxId> {
        let alive: Vec<_> =
            self.containers.iter().filter(|(_, found)| found.ours && found.runs()).map(|(slot, _)| *slot).collect();
        rng.pick(&alive).copied()
    }

    /// A container dies by itself; false where it has no process.
    pub fn death(&mut self, slot: SandboxId) -> bool {
        match self.containers.get_mut(&slot) {
            Some(container) if container.runs() => {
                container.life = Life::Exited;
                true
            }
            _ => false,
        }
    }

    /// Runs a command; false where its agent can not, is of another generation, or needs a lease that has run out.
    pub fn exec(&mut self, slot: SandboxId, asked: Generation, boot_ms: u64) -> bool {
        let lease_ms = self.lease.1;
        match self.containers.get_mut(&slot) {
            Some(Container { life: Life::Running(AgentState::Active { generation, .. }), charge, execs, .. })
                if *generation == asked
                    && (boot_ms < lease_ms || self.ignores_lease || charge.is_none_or(|charge| !charge.leased)) =>
            {
                *execs += 1;
                true
            }
            _ => false,
        }
    }

    /// Slots in the making for the pool.
    #[must_use]
    pub fn pool_makes(&self) -> usize {
        self.jobs.values().filter(|job| matches!(job.work, Work::Step(Requester::Pool, Step::Make { .. }))).count()
    }
}

fn acts(work: &Work) -> &'static [Act] {
    match work {
        // It is off the ledger before its container goes, so that a crash between them leaves a create to finish
        // rather than a sandbox whose container is missing.
        Work::Step(_, Step::Make { .. }) => &[Act::Forget, Act::Clear, Act::Create, Act::Boot],
        Work::Step(_, Step::Prepare(_)) => &[Act::Prepare],
        Work::Step(_, Step::Activate { .. }) => &[Act::Note, Act::Activate],
        Work::Step(_, Step::Stop | Step::Kill) => &[Act::End],
        Work::Step(_, Step::Start { .. }) => &[Act::Boot],
        Work::Step(_, Step::Remove) => &[Act::Clear, Act::Forget],
        Work::Step(_, Step::Examine) => &[Act::Look],
        Work::Discard => &[Act::End, Act::Clear, Act::Forget],
    }
}

fn duration(act: Act, rng: &mut Rng) -> u64 {
    let (low, high) = match act {
        Act::Clear => (50_000, 150_000),
        Act::Create => (10_000, 60_000),
        Act::Boot => (50_000, 120_000),
        Act::Prepare => (200, 3_000),
        Act::Forget | Act::Note => (20, 500),
        Act::Activate => (300, 3_000),
        Act::End => (5_000, 500_000),
        Act::Look => (300, 5_000),
    };
    rng.between(low, high)
}
