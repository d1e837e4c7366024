//! What is known from outside of the cores, and what it is held against. The oracle sees what the disks hold, what was
//! committed, answered and done to containers; it never asks a core what it thinks.

use std::collections::{BTreeMap, BTreeSet};

use consensus::raft_types::ConfState;
use types::limits::IDEMPOTENCY_KEY_HOURS;
use types::{ErrorCode, Generation, HostId, SandboxId, Timestamp};
use warren_core::lifecycle::{Answer, Ticket};
use warren_core::placement::{self, DestroyReason, Kind, Outcome, Place, Placement, Planted, Wanted};

use crate::clients::{Create, Op, Reply};
use crate::fake_engine::{Container, FakeEngine};
use crate::invariants::{Invariant, Violation};
use crate::watch::Watch;
use crate::weather::Bug;

/// Everything that is held against the cores.
#[derive(Debug, Default)]
pub struct Oracle {
    violation: Option<Violation>,
    /// The map after everything that is committed, as far as any node has applied it.
    pub truth: Placement,
    watches: Vec<Watch>,
    /// The planted bug, where it is in the map.
    bug: Option<Bug>,
    /// What was committed and whose durability on the disks is to be looked at.
    pub(crate) fresh: Vec<Fresh>,
    /// Every slot that a placement named, with the generation and the index from which on.
    slots: BTreeMap<SandboxId, (Generation, u64)>,
    /// Who has had which generation of a sandbox.
    owners: BTreeMap<(SandboxId, Generation), (HostId, SandboxId)>,
    generations: BTreeMap<SandboxId, Generation>,
    /// Every sandbox that was ever placed.
    placed: BTreeSet<SandboxId>,
    keys: BTreeMap<[u8; 32], (SandboxId, [u8; 32], Timestamp)>,
    /// What was acknowledged so far, by its order.
    clock: u64,
    /// Creates that were acknowledged and that nothing has ended, and since when.
    created: BTreeMap<SandboxId, u64>,
    destroy_asked: BTreeSet<SandboxId>,
    destroyed: BTreeMap<SandboxId, u64>,
    /// Sandboxes of which somebody was told that nothing runs any more.
    dead: BTreeSet<SandboxId>,
    /// When requests were made.
    asked: BTreeMap<Ticket, u64>,
    /// Applied entries by index, as a checksum.
    log: BTreeMap<u64, u64>,
    /// Keys whose create failed for good, with the index of that and the code.
    failed: BTreeMap<[u8; 32], (u64, ErrorCode)>,
    /// Requests that a known failure must answer.
    owed: BTreeMap<Ticket, ErrorCode>,
}

/// An entry that was applied for the first time anywhere.
#[derive(Debug)]
pub struct Fresh {
    pub(crate) index: u64,
    pub(crate) term: u64,
    /// Who may have decided it.
    pub(crate) members: Vec<ConfState>,
}

impl Oracle {
    /// An oracle for a run with this planted bug.
    #[must_use]
    pub fn new(bug: Option<Bug>) -> Self {
        let mut oracle = Self { bug, ..Self::default() };
        let mut truth = Placement::default();
        oracle.plant_into(&mut truth);
        oracle.truth = truth;
        oracle
    }

    /// Plants the run's bug into a map.
    pub fn plant_into(&self, map: &mut Placement) {
        map.planted = match self.bug {
            Some(Bug::KeyTwice) => Some(Planted::KeyTwice),
            Some(Bug::OldLife) => Some(Planted::OldLife),
            Some(Bug::ForgetsEnded) => Some(Planted::ForgetsEnded),
            Some(Bug::AnyGeneration) => Some(Planted::AnyGeneration),
            _ => None,
        };
    }

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

    /// What is known of one host.
    pub fn watch(&mut self, host: usize) -> &mut Watch {
        while self.watches.len() <= host {
            self.watches.push(Watch::default());
        }
        &mut self.watches[host]
    }

    /// A placement has named this slot.
    pub(crate) fn was_placed(&self, slot: SandboxId) -> bool {
        self.slots.contains_key(&slot)
    }

    pub(crate) fn is_placed_by(&self, slot: SandboxId, generation: Generation, applied: u64) -> bool {
        self.slots.get(&slot).is_some_and(|(known, index)| *known == generation && *index <= applied)
    }

    /// A node applied an entry; `before` is what it had applied until then, `members` who votes as it knows.
    pub fn applied(&mut self, before: u64, (index, term): (u64, u64), data: &[u8], members: &[ConfState]) {
        self.check(index > before, Invariant::LogIsStable, || format!("entry {index} was applied after {before}"));
        let sum = data
            .iter()
            .fold(0xcbf2_9ce4_8422_2325u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
        let known = *self.log.entry(index).or_insert(sum);
        self.check(known == sum, Invariant::LogIsStable, || format!("entry {index} is another one than before"));
        if index > self.truth.applied() {
            self.fresh.push(Fresh { index, term, members: members.to_vec() });
            let command = placement::decode(data).expect("a node has read it");
            self.committed(index, &command);
        }
    }

    fn committed(&mut self, index: u64, command: &placement::Command) {
        let before = command.kind.sandbox().and_then(|id| self.truth.get(&id).cloned());
        let outcome = self.truth.apply(index, command);
        let now = self.truth.clock();
        match (&command.kind, &outcome) {
            (Kind::Place(place), Outcome::Placed { generation }) if before.is_none() => {
                let ended = self.placed.contains(&place.id);
                self.check(!ended, Invariant::EndedStaysEnded, || format!("{} is placed again", place.id));
                self.placed.insert(place.id);
                self.owns(index, place.id, *generation, &place.owner, place.slot);
                let life = self.truth.incarnation(&place.owner);
                self.check(life == Some(place.incarnation), Invariant::OwnLifeOnly, || {
                    format!("{} is placed by life {}, the map knows {life:?}", place.id, place.incarnation)
                });
                if let Some(key) = &place.key {
                    self.key_made(key.scope, key.digest, place.id, now);
                }
            }
            (Kind::Move(moved), Outcome::Placed { generation }) => {
                self.owns(index, moved.id, *generation, &moved.owner, moved.slot);
            }
            (Kind::Fail { id, generation, .. }, Outcome::InError) => {
                self.generations.insert(*id, generation.next());
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
                let acknowledged = self.created.remove(id).is_some();
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

    /// From here on a sandbox is this owner's.
    fn owns(&mut self, index: u64, id: SandboxId, generation: Generation, owner: &HostId, slot: SandboxId) {
        let known = self.generations.get(&id).copied().unwrap_or_default();
        self.check(generation >= known, Invariant::GenerationsGrow, || {
            format!("{id} falls from generation {known} to {generation}")
        });
        self.generations.insert(id, generation);
        let owners = self.owners.entry((id, generation)).or_insert_with(|| (owner.clone(), slot)).clone();
        self.check(owners == (owner.clone(), slot), Invariant::OneOwner, || {
            format!("generation {generation} of {id} is {owner}'s and {}'s", owners.0)
        });
        self.slots.entry(slot).or_insert((generation, index));
    }

    fn key_made(&mut self, scope: [u8; 32], digest: [u8; 32], id: SandboxId, now: Timestamp) {
        if let Some((first, _, at)) = self.keys.get(&scope).copied() {
            let fresh = now.ms_since(at) >= IDEMPOTENCY_KEY_HOURS * 3_600_000;
            self.check(fresh, Invariant::KeyOnce, || format!("one key made {first} and {id}"));
        }
        self.keys.insert(scope, (id, digest, now));
    }

    /// A node's map after it applied something.
    pub fn map_is(&mut self, map: &Placement) {
        if map.applied() == self.truth.applied() {
            let same = *map == self.truth;
            self.check(same, Invariant::ReplayAgrees, || format!("the maps differ at entry {}", map.applied()));
        }
    }

    /// A life has applied everything that was there when it began.
    pub fn caught_up(&mut self, map: &Placement) {
        let known = |id: &SandboxId| self.slots.get(id).is_some_and(|(_, index)| *index <= map.applied());
        let missed = |id: &&SandboxId| known(id) && map.get(id).is_none() && self.truth.get(id).is_some();
        let lost = self.created.keys().find(missed).copied();
        if let Some(id) = lost {
            self.broken(Invariant::CreateSurvives, format!("{id} is not in the map after a restart"));
        }
    }

    /// A process was started in a container.
    pub fn process_began(&mut self, host: usize, slot: SandboxId) {
        self.watch(host).process_began(slot);
        let dead = self.dead.contains(&slot);
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
        self.asked.insert(ticket, self.clock);
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

    /// A committed entry is taken for a proposal of this life.
    pub fn came_back(&mut self, proposed: &placement::Command, committed: &placement::Command) {
        self.check(proposed == committed, Invariant::OwnProposals, || {
            format!("{committed:?} came back for {proposed:?}")
        });
    }

    /// A command ran in a container.
    pub fn ran(&mut self, host: usize, place: &Place, generation: Generation, engine: &FakeEngine, boot_ms: u64) {
        let slot = place.slot;
        let container = engine.containers.get(&slot);
        let active = container.is_some_and(|container| container.env.is_some() && container.runs());
        self.check(active, Invariant::ExecInOwn, || format!("a command ran in {slot} on host {host}"));
        let newest = self.generations.get(&place.id).copied().unwrap_or_default();
        self.check(newest <= generation, Invariant::NothingPastTheLease, || {
            format!("a command ran in generation {generation} of {}, which has {newest}", place.id)
        });
        let leased = container.and_then(|container| container.charge).is_some_and(|charge| charge.leased);
        self.check(!leased || boot_ms < engine.lease.1, Invariant::NothingPastTheLease, || {
            format!("a command ran in {slot} without a lease")
        });
    }

    /// An answer leaves its core, on the node that has the sandbox.
    pub fn answer_leaves(&mut self, host: usize, op: &Op, answer: Answer, engine: &FakeEngine) {
        let target = op.target();
        let record = target.and_then(|id| self.truth.get(&id));
        let slot = record.map(|record| record.place.slot).or(target);
        let container = slot.and_then(|slot| engine.containers.get(&slot));
        let wanted = record.map(|record| record.wanted);
        match answer {
            Answer::Stopped => {
                let runs = container.is_some_and(Container::runs);
                self.is_wanted(target, wanted, Wanted::Stopped);
                self.check(!runs, Invariant::StoppedIsStopped, || format!("{target:?} runs"));
            }
            Answer::Started => {
                let there = container.is_some_and(|container| container.env.is_some()) || record.is_none();
                self.is_wanted(target, wanted, Wanted::Running);
                self.check(there, Invariant::CreatedIsThere, || format!("{target:?} has no container"));
            }
            Answer::Destroyed => {
                let runs = container.is_some_and(Container::runs);
                self.check(!runs, Invariant::DestroyedIsDead, || format!("{target:?} runs"));
            }
            Answer::Created(id) => {
                // It may be another node's by now, which this one has not heard.
                let here = HostId::new(format!("host-{}", host + 1));
                let Some(record) = self.truth.get(&id).filter(|record| record.place.owner == here) else {
                    return;
                };
                let slot = record.place.slot;
                // Where the node died while it handed the environment over, and the container with it, nobody can know
                // any more whether the agent had taken it: the ledger says that it may have.
                let there = engine.containers.get(&slot).is_some_and(|container| {
                    container.env.is_some() || (!container.runs() && engine.ledger.contains(&slot))
                });
                self.check(there, Invariant::CreatedIsThere, || format!("{id} has no container on host {host}"));
            }
            Answer::Winner(_) => {}
        }
    }

    fn is_wanted(&mut self, id: Option<SandboxId>, known: Option<Wanted>, wanted: Wanted) {
        self.check(known.is_none_or(|known| known == wanted), Invariant::AckIsDurable, || {
            format!("{id:?} is not {wanted:?} in the map")
        });
    }

    /// A client is answered.
    pub fn answered(&mut self, ticket: Ticket, op: &Op, reply: &Reply) {
        let asked = self.asked.remove(&ticket).unwrap_or_default();
        if let Some(owed) = self.owed.remove(&ticket) {
            let kept = matches!(reply, Reply::Done(Err(error))
                if error.code == owed || error.code == ErrorCode::Unavailable);
            self.check(kept, Invariant::KeyKeepsFailure, || {
                format!("{op} was answered {reply}, not {}", owed.as_str())
            });
        }
        let target = op.target();
        match reply {
            Reply::Done(Ok(Answer::Created(id))) => self.created(op, *id),
            Reply::Done(Ok(Answer::Destroyed)) | Reply::Destroying => {
                if let Some(id) = target {
                    let gone = self.truth.get(&id).is_none();
                    self.check(gone, Invariant::AckIsDurable, || format!("the end of {id} is not committed"));
                    self.clock += 1;
                    self.destroyed.entry(id).or_insert(self.clock);
                    if *reply != Reply::Destroying {
                        self.dead.insert(id);
                    }
                }
            }
            Reply::Done(Ok(Answer::Winner(id))) => {
                self.broken(Invariant::AnsweredOnce, format!("a client was sent to {id} instead of an answer"));
            }
            Reply::Shown(Some(_)) => self.shown(asked, target),
            Reply::Shown(None) => self.denied(asked, target),
            Reply::Listed(ids) => {
                ids.iter().for_each(|id| self.shown(asked, Some(*id)));
                let missed = self.created.keys().filter(|id| !ids.contains(id)).copied().collect::<Vec<_>>();
                missed.into_iter().for_each(|id| self.denied(asked, Some(id)));
            }
            Reply::Done(Err(error)) if error.code == ErrorCode::NotFound => self.denied(asked, target),
            // Held to account when they left their core: until they arrive somebody else's wish may have come after.
            Reply::Done(Ok(Answer::Stopped | Answer::Started) | Err(_)) | Reply::Ran(_) => {}
        }
    }

    fn created(&mut self, op: &Op, id: SandboxId) {
        let placed = self.placed.contains(&id);
        self.check(placed, Invariant::AckIsDurable, || format!("the create of {id} is not committed"));
        if let Op::Create(create) = op
            && let Some(key) = &create.key
        {
            let known = self.keys.get(&key.scope).copied();
            let body = known.is_some_and(|(_, digest, _)| digest == key.digest);
            self.check(!placed || body, Invariant::KeyBindsBody, || format!("another body was answered with {id}"));
            let own = known.is_some_and(|(first, ..)| first == id);
            self.check(!placed || own, Invariant::KeyOnce, || format!("a key was answered with {id}"));
        }
        if self.truth.get(&id).is_some() {
            self.clock += 1;
            self.created.entry(id).or_insert(self.clock);
        }
    }

    /// A sandbox is shown by a read that was asked for then.
    fn shown(&mut self, asked: u64, id: Option<SandboxId>) {
        let Some(id) = id else {
            return;
        };
        let placed = self.placed.contains(&id);
        self.check(placed, Invariant::AckIsDurable, || format!("{id} is shown and not committed"));
        let gone = self.destroyed.get(&id).is_some_and(|at| *at <= asked);
        self.check(!gone, Invariant::DestroyedIsGone, || format!("{id} is shown after its end was answered"));
    }

    /// A sandbox is not there for somebody who asked then.
    fn denied(&mut self, asked: u64, id: Option<SandboxId>) {
        let missed = id.filter(|id| self.created.get(id).is_some_and(|at| *at <= asked) && !self.may_be_over(*id));
        if let Some(id) = missed {
            self.broken(Invariant::ReadsSeeAcks, format!("{id} is not shown"));
        }
    }

    /// Somebody has asked for its end: whether it is still there is nobody's promise.
    fn may_be_over(&self, id: SandboxId) -> bool {
        self.destroy_asked.contains(&id) || self.truth.get(&id).is_none()
    }
}
