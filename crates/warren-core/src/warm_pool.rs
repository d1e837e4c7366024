//! The warm pool of one template: slots made ahead, handed out once, refilled off the hot path.

use std::collections::{BTreeSet, VecDeque};

use types::spec::SlotShape;
use types::{ErrorCode, Resources, SandboxId, Timestamp, WarrenError};

use crate::FreshIds;
use crate::lifecycle::CreatePlan;

/// Slots that are made at once. More would only queue on the engine's locks, before cold creates.
pub const MAKING_MAX: usize = 2;

/// Milliseconds that a refill waits after the claim that makes it needed, where none is under way: an engine at work
/// takes the processor from the claim and from the sandbox's first command.
pub const REFILL_PAUSE_MS: u64 = 20;

/// Milliseconds until the first try after a failure; each further failure doubles them.
pub const RETRY_MS_MIN: u64 = 1_000;

/// Milliseconds between tries of a template that keeps failing.
pub const RETRY_MS_MAX: u64 = 60_000;

/// Failures in a row after which the pool makes nothing until somebody asks for a sandbox.
pub const FAILURES_MAX: u32 = 8;

/// What the pool is kept for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// What every slot has in common.
    pub shape: SlotShape,
    /// Limits a slot is born with.
    pub resources: Resources,
    /// Slots that stand ready.
    pub size: usize,
}

/// What happens to a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The node has taken stock of what it found; from here on slots are made.
    Open,
    /// A sandbox wants a slot.
    Claim(Box<CreatePlan>),
    /// A pristine slot of an earlier life.
    Adopted(SandboxId),
    /// A slot's agent answers.
    Made(SandboxId),
    /// A slot could not be made. Whatever it left is removed.
    MakeFailed(SandboxId, WarrenError),
    /// A slot's first process ended.
    Died(SandboxId),
    /// Its time to look again.
    Wake,
    /// The template changed, or names an image anew.
    Retarget(Target),
}

/// What a pool wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The plan goes on with this slot; a cold one is not made yet.
    Give {
        /// The slot, and so the sandbox.
        slot: SandboxId,
        /// Its agent answers.
        warm: bool,
        /// What was asked for.
        plan: Box<CreatePlan>,
    },
    /// Make this slot.
    Make {
        /// Its name.
        slot: SandboxId,
        /// What is fixed at its creation.
        shape: SlotShape,
        /// Its limits.
        resources: Resources,
    },
    /// Kill and remove this slot.
    Discard(SandboxId),
    /// Call again at this time.
    WakeAt(Timestamp),
}

/// The warm pool of one template.
#[derive(Debug)]
pub struct WarmPool {
    target: Target,
    open: bool,
    /// Slots whose agent answers, oldest first.
    ready: VecDeque<SandboxId>,
    making: BTreeSet<SandboxId>,
    /// Slots under way for a target that has changed since: made in vain, but they keep the engine busy.
    outdated: BTreeSet<SandboxId>,
    /// Slots under way that have died already, and until the pool is open all that have died.
    dead: BTreeSet<SandboxId>,
    failures: u32,
    retry_at: Option<Timestamp>,
    /// No refill begins before.
    pause_until: Option<Timestamp>,
    last_error: Option<WarrenError>,
    hits: u64,
    misses: u64,
    #[cfg(feature = "planted-bugs")]
    /// Planted: a claim leaves its slot in the pool.
    pub bug_hands_out_twice: bool,
}

impl WarmPool {
    /// A pool that makes nothing until it is opened.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            open: false,
            ready: VecDeque::new(),
            making: BTreeSet::new(),
            outdated: BTreeSet::new(),
            dead: BTreeSet::new(),
            failures: 0,
            retry_at: None,
            pause_until: None,
            last_error: None,
            hits: 0,
            misses: 0,
            #[cfg(feature = "planted-bugs")]
            bug_hands_out_twice: false,
        }
    }

    /// What it is kept for.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Slots that stand ready.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// The slots that stand ready.
    pub fn slots(&self) -> impl Iterator<Item = SandboxId> {
        self.ready.iter().copied()
    }

    /// Claims served warm and cold since the start.
    #[must_use]
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }

    /// Why the last slot could not be made; `None` after one was.
    #[must_use]
    pub fn last_error(&self) -> Option<&WarrenError> {
        self.last_error.as_ref()
    }

    /// Takes in what happened and says what is to be done.
    pub fn handle(&mut self, now: Timestamp, fresh: &mut dyn FreshIds, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Open => {
                self.open = true;
                self.dead.clear();
            }
            Input::Claim(plan) => self.claim(now, fresh, plan, &mut out),
            Input::Adopted(slot) if self.dead.remove(&slot) => out.push(Output::Discard(slot)),
            Input::Adopted(slot) => self.take_in(slot, &mut out),
            Input::Made(slot) => {
                let dead = self.dead.remove(&slot);
                if !self.making.contains(&slot) {
                    self.outdated.remove(&slot);
                    out.push(Output::Discard(slot));
                } else if dead {
                    let error = WarrenError::new(ErrorCode::Internal, "the slot died as soon as it was made");
                    self.make_failed(now, slot, error, &mut out);
                } else {
                    self.making.remove(&slot);
                    self.failures = 0;
                    self.retry_at = None;
                    self.last_error = None;
                    self.take_in(slot, &mut out);
                }
            }
            Input::MakeFailed(slot, error) => {
                self.dead.remove(&slot);
                self.make_failed(now, slot, error, &mut out);
            }
            Input::Died(slot) => {
                if let Some(at) = self.ready.iter().position(|ready| *ready == slot) {
                    self.ready.remove(at);
                    out.push(Output::Discard(slot));
                } else if !self.open || self.making.contains(&slot) || self.outdated.contains(&slot) {
                    // The news that it was made, or adopted, is still on its way.
                    self.dead.insert(slot);
                }
            }
            Input::Wake => self.wake(now, &mut out),
            Input::Retarget(target) => self.retarget(target, &mut out),
        }
        self.refill(now, fresh, &mut out);
        out
    }

    fn make_failed(&mut self, now: Timestamp, slot: SandboxId, error: WarrenError, out: &mut Vec<Output>) {
        out.push(Output::Discard(slot));
        if self.making.remove(&slot) {
            self.failures = self.failures.saturating_add(1);
            let wait = RETRY_MS_MIN.saturating_mul(1 << (self.failures - 1).min(20)).min(RETRY_MS_MAX);
            self.retry_at = now.checked_add_ms(wait);
            self.last_error = Some(error);
            out.extend(self.retry_at.map(Output::WakeAt));
        } else {
            // Its failure says nothing about the present target.
            self.outdated.remove(&slot);
        }
    }

    /// Where the wall clock was set back, the call comes before its time and another one is needed. What
    /// has come is over: a clock that is set back later must not bring the wait back.
    fn wake(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        // So short a wait needs no second call.
        self.pause_until = None;
        self.retry_at = match self.retry_at {
            Some(at) if now < at => now.checked_add_ms(RETRY_MS_MAX).map(|latest| at.min(latest)),
            _ => None,
        };
        out.extend(self.retry_at.map(Output::WakeAt));
    }

    fn claim(&mut self, now: Timestamp, fresh: &mut dyn FreshIds, plan: Box<CreatePlan>, out: &mut Vec<Output>) {
        let wanted = plan.spec.slot_shape();
        // One that begins again keeps the image that it had elsewhere, or had before: that says nothing of this node.
        let resolved_here = plan.again.is_none();
        if resolved_here && wanted.image == self.target.shape.image && wanted.image_id != self.target.shape.image_id {
            // The reference names another image by now: what stands ready is of the old one.
            let mut target = self.target.clone();
            target.shape.image_id.clone_from(&wanted.image_id);
            self.retarget(target, out);
        }
        // Somebody wants this template: worth one more try, even if it kept failing.
        if self.failures >= FAILURES_MAX {
            self.failures = FAILURES_MAX - 1;
        }
        let slot = if wanted == self.target.shape { self.pop_ready() } else { None };
        match slot {
            Some(slot) => {
                self.hits += 1;
                out.push(Output::Give { slot, warm: true, plan });
                if self.open && self.pause_until.is_none() && self.making.is_empty() && self.outdated.is_empty() {
                    self.pause_until = now.checked_add_ms(REFILL_PAUSE_MS);
                    out.extend(self.pause_until.map(Output::WakeAt));
                }
            }
            None => {
                self.misses += 1;
                out.push(Output::Give { slot: fresh.sandbox_id(), warm: false, plan });
            }
        }
    }

    fn pop_ready(&mut self) -> Option<SandboxId> {
        #[cfg(feature = "planted-bugs")]
        if self.bug_hands_out_twice {
            return self.ready.front().copied();
        }
        self.ready.pop_front()
    }

    fn take_in(&mut self, slot: SandboxId, out: &mut Vec<Output>) {
        if self.ready.len() < self.target.size {
            self.ready.push_back(slot);
        } else {
            out.push(Output::Discard(slot));
        }
    }

    fn retarget(&mut self, target: Target, out: &mut Vec<Output>) {
        if target.shape != self.target.shape {
            out.extend(self.ready.drain(..).map(Output::Discard));
            // Those under way are discarded when they are made.
            self.outdated.append(&mut self.making);
            self.failures = 0;
            self.retry_at = None;
        }
        self.target = target;
        while self.ready.len() > self.target.size {
            out.extend(self.ready.pop_back().map(Output::Discard));
        }
    }

    fn refill(&mut self, now: Timestamp, fresh: &mut dyn FreshIds, out: &mut Vec<Output>) {
        if !self.open || self.failures >= FAILURES_MAX || self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        if self.pause_until.is_some_and(|at| now < at) {
            return;
        }
        self.pause_until = None;
        // A template that failed last is tried one slot at a time.
        let making_max = if self.failures > 0 { 1 } else { MAKING_MAX };
        while self.making.len() + self.outdated.len() < making_max
            && self.ready.len() + self.making.len() < self.target.size
        {
            let slot = fresh.sandbox_id();
            self.making.insert(slot);
            let shape = self.target.shape.clone();
            out.push(Output::Make { slot, shape, resources: self.target.resources });
        }
    }
}

#[cfg(test)]
mod tests;
