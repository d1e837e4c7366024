//! What is known from outside of one host: its slots, its pool, and what its supervisors were told.

use std::collections::{BTreeMap, BTreeSet};

use types::{HostId, SandboxId, Timestamp};
use warren_core::step::Step;
use warren_core::warm_pool::{FAILURES_MAX, MAKING_MAX, RETRY_MS_MIN};

use crate::fake_engine::{FakeEngine, Work};
use crate::invariants::Invariant;
use crate::oracle::Oracle;

/// A point in time, by both clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moment {
    /// The wall clock, which may be set.
    pub wall: Timestamp,
    /// Microseconds since the start of the run.
    pub us: u64,
}

/// What is known of one host.
#[derive(Debug, Default)]
pub struct Watch {
    given: BTreeSet<SandboxId>,
    /// Slots of whose death the pool was told.
    told_dead: BTreeSet<SandboxId>,
    pool: PoolTries,
    /// Slots of whose death their supervisor was told, until they are started again.
    told_ended: BTreeSet<SandboxId>,
    /// Slots for which something is under way: a step, or a wish that is not yet answered.
    busy: BTreeMap<SandboxId, u64>,
}

#[derive(Debug, Default)]
struct PoolTries {
    failures: u32,
    /// Failures since the last claim.
    since_claim: u32,
    failed_at: Moment,
    image_id: String,
    making: BTreeSet<SandboxId>,
}

impl Watch {
    /// A new life begins: its pool knows nothing of the one before, and may hand out a slot whose create was cut off
    /// before anything was told to its agent.
    pub fn new_life(&mut self) {
        self.pool = PoolTries::default();
        self.given.clear();
        self.told_ended.clear();
        self.busy.clear();
    }

    /// Somebody wants a slot.
    pub fn pool_claimed(&mut self) {
        self.pool.since_claim = 0;
    }

    /// The pool is told of a death.
    pub fn pool_told_dead(&mut self, slot: SandboxId) {
        self.told_dead.insert(slot);
    }

    /// Something begins for a sandbox.
    pub fn begins(&mut self, slot: SandboxId) {
        *self.busy.entry(slot).or_default() += 1;
    }

    /// Something has ended for a sandbox, and its supervisor knows.
    pub fn ends(&mut self, slot: SandboxId) {
        if let Some(count) = self.busy.get_mut(&slot) {
            *count = count.saturating_sub(1);
        }
    }

    /// A supervisor is told that its sandbox has died.
    pub fn told_ended(&mut self, slot: SandboxId, engine: &FakeEngine) {
        if engine.containers.get(&slot).is_some_and(|container| !container.runs()) {
            self.told_ended.insert(slot);
        }
    }

    /// A process was started in a container.
    pub fn process_began(&mut self, slot: SandboxId) {
        self.told_ended.remove(&slot);
    }
}

impl Oracle {
    /// A slot was handed to a create.
    pub fn given(&mut self, host: usize, slot: SandboxId) {
        let placed = self.was_placed(slot);
        let first = self.watch(host).given.insert(slot) && !placed;
        self.check(first, Invariant::SlotOnce, || format!("{slot} was handed out again"));
    }

    /// The pool holds these slots.
    pub fn pool_holds(&mut self, host: usize, slots: impl Iterator<Item = SandboxId>, engine: &FakeEngine) {
        for slot in slots {
            let container = engine.containers.get(&slot);
            let used = container.is_some_and(|found| found.charge.is_some() || found.env.is_some());
            let given = self.was_placed(slot) || self.watch(host).given.contains(&slot);
            let dead = self.watch(host).told_dead.contains(&slot);
            self.check(!used, Invariant::PoolIsPristine, || format!("{slot} was prepared and is in the pool"));
            self.check(!given, Invariant::SlotOnce, || format!("{slot} was handed out and is in the pool"));
            self.check(!dead, Invariant::DeadLeavesPool, || format!("{slot} is dead and in the pool"));
        }
    }

    /// A step begins on a container.
    pub fn step_begins(
        &mut self,
        host: usize,
        me: &HostId,
        slot: SandboxId,
        work: &Work,
        applied: u64,
        engine: &FakeEngine,
    ) {
        let busy = engine.jobs.values().any(|job| job.slot == slot);
        self.check(!busy, Invariant::OneStepAtATime, || format!("{slot} has a step under way"));
        let container = engine.containers.get(&slot);
        let ours = container.is_none_or(|container| container.ours);
        self.check(ours, Invariant::ForeignUntouched, || format!("{slot} is foreign"));
        let (charge, env) = match work {
            Work::Step(_, Step::Prepare(charge)) => (charge, None),
            Work::Step(_, Step::Activate { charge, sealed_env, .. }) => (charge, Some(sealed_env)),
            Work::Step(_, Step::Kill | Step::Remove) | Work::Discard => {
                let held = self.truth.in_slot(&slot).is_some_and(|record| record.place.owner == *me);
                self.check(!held, Invariant::KeepsWhatIsPlaced, || {
                    format!("{slot} is ended on host {host} while the map has it there")
                });
                return;
            }
            Work::Step(..) => return,
        };
        let known = container.and_then(|container| container.charge);
        let same = known.is_none_or(|known| (known.generation, known.digest) == (charge.generation, charge.digest));
        self.check(same, Invariant::OneTenant, || format!("{slot} is prepared for a second sandbox"));
        if let Some(sealed_env) = env {
            let known = container.and_then(|container| container.env.as_ref());
            let same = known.is_none_or(|env| env == sealed_env);
            self.check(same, Invariant::OneTenant, || format!("{slot} is handed a second environment"));
            let placed = self.is_placed_by(slot, charge.generation, applied);
            self.check(placed, Invariant::EnvAfterPlaced, || format!("{slot} is handed its environment too early"));
        }
    }

    /// The engine makes so many slots for the pool.
    pub fn pool_makes(&mut self, making: usize) {
        self.check(making <= MAKING_MAX, Invariant::MakingBounded, || format!("{making} slots in the making"));
    }

    /// The pool wants a slot made.
    pub fn pool_tries(&mut self, host: usize, now: Moment, slot: SandboxId, image_id: &str) {
        let pool = &mut self.watch(host).pool;
        if pool.image_id != image_id {
            *pool = PoolTries { image_id: image_id.to_owned(), ..PoolTries::default() };
        }
        pool.making.insert(slot);
        let failed_at = pool.failed_at;
        // A wall clock that was set makes the wait longer or shorter.
        let waited_ms = now.wall.ms_since(failed_at.wall).max((now.us - failed_at.us) / 1_000);
        let waited = pool.failures == 0 || waited_ms >= RETRY_MS_MIN;
        self.check(waited, Invariant::TriesBounded, || format!("tried again after {waited_ms} ms"));
    }

    /// The pool hears what became of a slot in the making.
    pub fn pool_tried(&mut self, host: usize, now: Moment, slot: SandboxId, made: bool) {
        let pool = &mut self.watch(host).pool;
        if !pool.making.remove(&slot) {
            // Of an image that the template has left.
            return;
        }
        if made {
            pool.failures = 0;
            return;
        }
        pool.failures += 1;
        pool.since_claim += 1;
        pool.failed_at = now;
        let (failures, since_claim) = (pool.failures, pool.since_claim);
        self.check(failures <= FAILURES_MAX || since_claim <= 1, Invariant::TriesBounded, || {
            format!("{failures} failures in a row, {since_claim} of them since the last claim")
        });
    }

    /// A read is about to show that what is in this slot runs, on the node that has it.
    pub fn shown_running(&mut self, host: usize, slot: SandboxId) {
        let watch = self.watch(host);
        let told = watch.told_ended.contains(&slot) && watch.busy.get(&slot).is_none_or(|count| *count == 0);
        self.check(!told, Invariant::DeadIsNotShown, || format!("{slot} is shown as running"));
    }
}
