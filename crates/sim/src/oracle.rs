//! What is known from outside of the cores, and what it is held against. The oracle sees what became durable, what
//! was answered and what was done to containers; it never asks a core what it thinks.

use std::collections::{BTreeMap, BTreeSet};

use consensus::WriteBatch;
use consensus::raft_types::EntryType;
use types::limits::IDEMPOTENCY_KEY_HOURS;
use types::{ErrorCode, Generation, SandboxId, Status, Timestamp};
use warren_core::lifecycle::{Answer, Ticket};
use warren_core::placement::{self, DestroyReason, Kind, Outcome, Placement, Wanted};
use warren_core::step::Step;
use warren_core::warm_pool::{FAILURES_MAX, MAKING_MAX, RETRY_MS_MIN};

use crate::clients::{Create, Op, Reply};
use crate::fake_engine::FakeEngine;
use crate::invariants::{Invariant, Violation};

/// Everything that is held against the cores.
#[derive(Debug, Default)]
pub struct Oracle {
    violation: Option<Violation>,
    /// The map after everything that is durable.
    pub durable: Placement,
    durable_index: u64,
    placed: BTreeMap<SandboxId, Placed>,
    keys: BTreeMap<[u8; 32], (SandboxId, [u8; 32], Timestamp)>,
    /// Creates that were acknowledged and that nothing has ended.
    created: BTreeSet<SandboxId>,
    destroy_asked: BTreeSet<SandboxId>,
    destroyed: BTreeSet<SandboxId>,
    given: BTreeSet<SandboxId>,
    /// Slots of whose death the pool was told.
    told_dead: BTreeSet<SandboxId>,
    /// Applied entries by index, as a checksum.
    log: BTreeMap<u64, u64>,
    pool: PoolTries,
    /// Keys whose create failed for good, with the index of that and the code.
    failed: BTreeMap<[u8; 32], (u64, ErrorCode)>,
    /// Requests that a known failure must answer.
    owed: BTreeMap<Ticket, ErrorCode>,
    /// Sandboxes of whose death their supervisor was told, until they are started again.
    told_ended: BTreeSet<SandboxId>,
    /// Sandboxes for which something is under way: a step, or a wish that is not yet answered.
    busy: BTreeMap<SandboxId, u64>,
}

/// A point in time, by both clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moment {
    /// The wall clock, which may be set.
    pub wall: Timestamp,
    /// Microseconds since the start of the run.
    pub us: u64,
}

#[derive(Debug)]
struct Placed {
    index: u64,
    generation: Generation,
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

impl Oracle {
    /// The first violation, if there is one.
    #[must_use]
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Takes down a violation. The first one counts: what follows may follow from it.
    pub fn broken(&mut self, invariant: Invariant, detail: String) {
        self.violation.get_or_insert(Violation { invariant, detail });
    }

    /// Takes down a violation unless `holds`.
    pub fn check(&mut self, holds: bool, invariant: Invariant, detail: impl FnOnce() -> String) {
        if !holds {
            self.broken(invariant, detail());
        }
    }

    /// A batch became durable. One member alone commits what is durable.
    pub fn made_durable(&mut self, batch: &WriteBatch) {
        for entry in batch.entries.iter().filter(|entry| entry.entry_type() == EntryType::EntryNormal) {
            if entry.data.is_empty() {
                continue;
            }
            let (index, last) = (entry.index, self.durable_index);
            if index <= last {
                self.broken(Invariant::LogIsStable, format!("entry {index} was made durable after {last}"));
                return;
            }
            self.durable_index = index;
            match placement::decode(&entry.data) {
                Ok(command) => self.durable_command(index, &command),
                Err(error) => self.broken(Invariant::LogIsStable, format!("entry {index} can not be read: {error}")),
            }
        }
    }

    fn durable_command(&mut self, index: u64, command: &placement::Command) {
        let before = command.kind.sandbox().and_then(|id| self.durable.get(&id).cloned());
        let outcome = self.durable.apply(index, command);
        let now = self.durable.clock();
        match (&command.kind, &outcome) {
            (Kind::Place(place), Outcome::Placed { generation }) if before.is_none() => {
                self.placed.insert(place.id, Placed { index, generation: *generation });
                if let Some(key) = &place.key {
                    self.key_made(key.scope, key.digest, place.id, now);
                }
            }
            (Kind::Destroy { id, reason }, Outcome::Destroyed) => {
                let due = before.and_then(|record| record.place.expires_at).is_some_and(|end| end <= now);
                let fair = match reason {
                    DestroyReason::Asked => self.destroy_asked.contains(id),
                    DestroyReason::Expired { .. } => due,
                };
                self.check(fair, Invariant::CreateSurvives, || format!("{id} was ended: {reason:?} at {now}"));
                self.created.remove(id);
            }
            (Kind::CreateFailed { id, failure, .. }, Outcome::Failed) => {
                let acknowledged = self.created.remove(id);
                self.check(!acknowledged, Invariant::CreateSurvives, || {
                    format!("{id} was acknowledged and then failed: {}", failure.message)
                });
                if let Some(key) = before.and_then(|record| record.place.key) {
                    self.failed.insert(key.scope, (index, failure.code));
                }
            }
            _ => {}
        }
    }

    fn key_made(&mut self, scope: [u8; 32], digest: [u8; 32], id: SandboxId, now: Timestamp) {
        if let Some((first, _, at)) = self.keys.get(&scope).copied() {
            let fresh = now.ms_since(at) >= IDEMPOTENCY_KEY_HOURS * 3_600_000;
            self.check(fresh, Invariant::KeyOnce, || format!("one key made {first} and {id}"));
        }
        self.keys.insert(scope, (id, digest, now));
    }

    /// A node applied an entry; `before` is what it had applied until then.
    pub fn applied(&mut self, before: u64, index: u64, data: &[u8]) {
        self.check(index > before, Invariant::LogIsStable, || format!("entry {index} was applied after {before}"));
        let sum = data
            .iter()
            .fold(0xcbf2_9ce4_8422_2325u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
        let known = *self.log.entry(index).or_insert(sum);
        self.check(known == sum, Invariant::LogIsStable, || format!("entry {index} is another one than before"));
    }

    /// A node's map after it applied something.
    pub fn map_is(&mut self, map: &Placement) {
        if map.applied() == self.durable.applied() {
            let same = *map == self.durable;
            self.check(same, Invariant::ReplayAgrees, || format!("the maps differ at entry {}", map.applied()));
        }
    }

    /// A life has replayed everything that was durable.
    pub fn caught_up(&mut self, map: &Placement) {
        let lost = self.created.iter().find(|id| map.get(id).is_none()).copied();
        if let Some(id) = lost {
            self.broken(Invariant::CreateSurvives, format!("{id} is not in the map after a restart"));
        }
    }

    /// A slot was handed to a create.
    pub fn given(&mut self, slot: SandboxId) {
        let first = self.given.insert(slot) && !self.placed.contains_key(&slot);
        self.check(first, Invariant::SlotOnce, || format!("{slot} was handed out again"));
    }

    /// The pool holds these slots.
    pub fn pool_holds(&mut self, slots: impl Iterator<Item = SandboxId>, engine: &FakeEngine) {
        for slot in slots {
            let container = engine.containers.get(&slot);
            let used = container.is_some_and(|found| found.charge.is_some() || found.env.is_some());
            let given = self.given.contains(&slot) || self.placed.contains_key(&slot);
            self.check(!used, Invariant::PoolIsPristine, || format!("{slot} was prepared and is in the pool"));
            self.check(!given, Invariant::SlotOnce, || format!("{slot} was handed out and is in the pool"));
            let dead = self.told_dead.contains(&slot);
            self.check(!dead, Invariant::DeadLeavesPool, || format!("{slot} is dead and in the pool"));
        }
    }

    /// A step begins on a container.
    pub fn step_begins(&mut self, slot: SandboxId, step: Option<&Step>, applied: u64, engine: &FakeEngine) {
        let busy = engine.jobs.values().any(|job| job.slot == slot);
        self.check(!busy, Invariant::OneStepAtATime, || format!("{slot} has a step under way"));
        let container = engine.containers.get(&slot);
        let ours = container.is_none_or(|container| container.ours);
        self.check(ours, Invariant::ForeignUntouched, || format!("{slot} is foreign"));
        let charge = match step {
            Some(Step::Prepare(charge) | Step::Activate { charge, .. }) => charge,
            _ => return,
        };
        let known = container.and_then(|container| container.charge);
        let same = known.is_none_or(|known| (known.generation, known.digest) == (charge.generation, charge.digest));
        self.check(same, Invariant::OneTenant, || format!("{slot} is prepared for a second sandbox"));
        if let Some(Step::Activate { sealed_env, .. }) = step {
            let env = container.and_then(|container| container.env.as_ref());
            let same = env.is_none_or(|env| env == sealed_env);
            self.check(same, Invariant::OneTenant, || format!("{slot} is handed a second environment"));
            let placed = self
                .placed
                .get(&slot)
                .is_some_and(|placed| placed.generation == charge.generation && placed.index <= applied);
            self.check(placed, Invariant::EnvAfterPlaced, || format!("{slot} is handed its environment too early"));
        }
    }

    /// The engine makes so many slots for the pool.
    pub fn pool_makes(&mut self, making: usize) {
        self.check(making <= MAKING_MAX, Invariant::MakingBounded, || format!("{making} slots in the making"));
    }

    /// The pool wants a slot made.
    pub fn pool_tries(&mut self, now: Moment, slot: SandboxId, image_id: &str) {
        if self.pool.image_id != image_id {
            self.pool = PoolTries { image_id: image_id.to_owned(), ..PoolTries::default() };
        }
        self.pool.making.insert(slot);
        let failed_at = self.pool.failed_at;
        // A wall clock that was set makes the wait longer or shorter.
        let waited_ms = now.wall.ms_since(failed_at.wall).max((now.us - failed_at.us) / 1_000);
        let waited = self.pool.failures == 0 || waited_ms >= RETRY_MS_MIN;
        self.check(waited, Invariant::TriesBounded, || format!("tried again after {waited_ms} ms"));
    }

    /// The pool hears what became of a slot in the making.
    pub fn pool_tried(&mut self, now: Moment, slot: SandboxId, made: bool) {
        if !self.pool.making.remove(&slot) {
            // Of an image that the template has left.
            return;
        }
        if made {
            self.pool.failures = 0;
            return;
        }
        self.pool.failures += 1;
        self.pool.since_claim += 1;
        self.pool.failed_at = now;
        let (failures, since_claim) = (self.pool.failures, self.pool.since_claim);
        self.check(failures <= FAILURES_MAX || since_claim <= 1, Invariant::TriesBounded, || {
            format!("{failures} failures in a row, {since_claim} of them since the last claim")
        });
    }

    /// Somebody wants a slot.
    pub fn pool_claimed(&mut self) {
        self.pool.since_claim = 0;
    }

    /// The pool is told of a death.
    pub fn pool_told_dead(&mut self, slot: SandboxId) {
        self.told_dead.insert(slot);
    }

    /// A new life begins: its pool knows nothing of the one before, and may hand out a slot whose create was cut off
    /// before anything was told to its agent.
    pub fn new_life(&mut self) {
        self.pool = PoolTries::default();
        self.given.clear();
        self.owed.clear();
        self.told_ended.clear();
        self.busy.clear();
    }

    /// A process was started in a container.
    pub fn process_began(&mut self, slot: SandboxId) {
        self.told_ended.remove(&slot);
        let dead = self.destroyed.contains(&slot);
        self.check(!dead, Invariant::DestroyedIsDead, || format!("{slot} was started after its end was answered"));
    }

    /// A client sends a request.
    pub fn asked(&mut self, op: &Op) {
        if let Op::Destroy(id) = op {
            self.destroy_asked.insert(*id);
        }
    }

    /// A request reaches a node that has applied so much.
    pub fn requested(&mut self, ticket: Ticket, op: &Op, applied: u64) {
        if let Op::Stop(id) | Op::Start(id) = op {
            self.begins(*id);
        }
        let Op::Create(Create { key: Some(key), .. }) = op else {
            return;
        };
        let same_body = self.keys.get(&key.scope).is_some_and(|(_, digest, _)| *digest == key.digest);
        if let Some((index, code)) = self.failed.get(&key.scope)
            && *index <= applied
            && same_body
        {
            self.owed.insert(ticket, *code);
        }
    }

    /// Something begins for a sandbox.
    pub fn begins(&mut self, id: SandboxId) {
        *self.busy.entry(id).or_default() += 1;
    }

    /// Something has ended for a sandbox, and its supervisor knows.
    pub fn ends(&mut self, id: SandboxId) {
        if let Some(count) = self.busy.get_mut(&id) {
            *count = count.saturating_sub(1);
        }
    }

    /// A supervisor is told that its sandbox has died.
    pub fn told_ended(&mut self, id: SandboxId, engine: &FakeEngine) {
        if engine.containers.get(&id).is_some_and(|container| !container.runs()) {
            self.told_ended.insert(id);
        }
    }

    /// A committed entry is taken for a proposal of this life.
    pub fn came_back(&mut self, proposed: Option<&placement::Command>, committed: &placement::Command) {
        self.check(proposed == Some(committed), Invariant::OwnProposals, || {
            format!("{committed:?} came back for {proposed:?}")
        });
    }

    /// An answer leaves its core.
    pub fn answer_leaves(&mut self, op: &Op, answer: Answer, engine: &FakeEngine) {
        let target = op.target();
        let container = target.and_then(|id| engine.containers.get(&id));
        match answer {
            Answer::Stopped => {
                self.wanted_is_durable(target, Wanted::Stopped);
                let runs = container.is_some_and(crate::fake_engine::Container::runs);
                self.check(!runs, Invariant::StoppedIsStopped, || format!("{target:?} runs"));
            }
            Answer::Started => {
                self.wanted_is_durable(target, Wanted::Running);
                let there = container.is_some_and(|container| container.env.is_some());
                self.check(there, Invariant::CreatedIsThere, || format!("{target:?} has no container"));
            }
            Answer::Created(_) | Answer::Winner(_) | Answer::Destroyed => {}
        }
    }

    /// A request is answered.
    pub fn answered(&mut self, ticket: Ticket, op: &Op, reply: &Reply, engine: &FakeEngine) {
        if let Op::Stop(id) | Op::Start(id) = op {
            self.ends(*id);
        }
        if let Some(owed) = self.owed.remove(&ticket) {
            let kept = matches!(reply, Reply::Done(Err(error))
                if error.code == owed || error.code == ErrorCode::Unavailable);
            self.check(kept, Invariant::KeyKeepsFailure, || {
                format!("{op} was answered {reply}, not {}", owed.as_str())
            });
        }
        let target = op.target();
        let container = target.and_then(|id| engine.containers.get(&id));
        let runs = container.is_some_and(crate::fake_engine::Container::runs);
        match reply {
            Reply::Done(Ok(Answer::Created(id))) => self.created(op, *id, engine),
            Reply::Done(Ok(Answer::Destroyed)) => {
                if let Some(id) = target {
                    let durable = self.durable.get(&id).is_none();
                    self.check(durable, Invariant::AckIsDurable, || format!("the end of {id} is not durable"));
                    self.check(!runs, Invariant::DestroyedIsDead, || format!("{id} runs"));
                    self.destroyed.insert(id);
                }
            }
            Reply::Done(Ok(Answer::Winner(id))) => {
                self.broken(Invariant::AnsweredOnce, format!("a client was sent to {id} instead of an answer"));
            }
            Reply::Shown(Some(status)) => {
                self.shown(target);
                let told = *status == Status::Running
                    && target.is_some_and(|id| {
                        self.told_ended.contains(&id) && self.busy.get(&id).is_none_or(|count| *count == 0)
                    });
                self.check(!told, Invariant::DeadIsNotShown, || format!("{target:?} is shown as running"));
            }
            Reply::Shown(None) => {
                let missed = target.is_some_and(|id| self.created.contains(&id) && !self.may_be_over(id));
                self.check(!missed, Invariant::ReadsSeeAcks, || format!("{target:?} is not shown"));
            }
            Reply::Listed(ids) => {
                ids.iter().for_each(|id| self.shown(Some(*id)));
                let missed = self.created.iter().find(|id| !ids.contains(id) && !self.may_be_over(**id)).copied();
                if let Some(id) = missed {
                    self.broken(Invariant::ReadsSeeAcks, format!("{id} is not listed"));
                }
            }
            Reply::Ran(ran) => {
                let active = container.is_some_and(|container| container.env.is_some() && runs);
                self.check(!*ran || active, Invariant::ExecInOwn, || format!("a command ran in {target:?}"));
            }
            // Held to account when it left its core: until it arrives somebody else's wish may have come after it.
            Reply::Done(Ok(Answer::Stopped | Answer::Started) | Err(_)) => {}
        }
    }

    fn created(&mut self, op: &Op, id: SandboxId, engine: &FakeEngine) {
        let durable = self.placed.contains_key(&id);
        self.check(durable, Invariant::AckIsDurable, || format!("the create of {id} is not durable"));
        if let Op::Create(create) = op
            && let Some(key) = &create.key
        {
            let known = self.keys.get(&key.scope).copied();
            let body = known.is_some_and(|(_, digest, _)| digest == key.digest);
            self.check(!durable || body, Invariant::KeyBindsBody, || format!("another body was answered with {id}"));
            let own = known.is_some_and(|(first, ..)| first == id);
            self.check(!durable || own, Invariant::KeyOnce, || format!("a key was answered with {id}"));
        }
        if self.durable.get(&id).is_some() {
            // Where the node died while it handed the environment over, and the container with it, nobody can know any
            // more whether the agent had taken it: the ledger says that it may have.
            let there = engine
                .containers
                .get(&id)
                .is_some_and(|container| container.env.is_some() || (!container.runs() && engine.ledger.contains(&id)));
            self.check(there, Invariant::CreatedIsThere, || format!("{id} has no container of its own"));
            self.created.insert(id);
        }
    }

    fn wanted_is_durable(&mut self, id: Option<SandboxId>, wanted: Wanted) {
        let known = id.and_then(|id| self.durable.get(&id)).map(|record| record.wanted);
        self.check(known.is_none_or(|known| known == wanted), Invariant::AckIsDurable, || {
            format!("{id:?} is not {wanted:?} in the map")
        });
    }

    fn shown(&mut self, id: Option<SandboxId>) {
        let Some(id) = id else {
            return;
        };
        let durable = self.placed.contains_key(&id);
        self.check(durable, Invariant::AckIsDurable, || format!("{id} is shown and not durable"));
        let gone = self.destroyed.contains(&id);
        self.check(!gone, Invariant::DestroyedIsGone, || format!("{id} is shown after its end was answered"));
    }

    /// Somebody has asked for its end: whether it is still there is nobody's promise.
    fn may_be_over(&self, id: SandboxId) -> bool {
        self.destroy_asked.contains(&id) || self.durable.get(&id).is_none()
    }
}
