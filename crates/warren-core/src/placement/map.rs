//! The map itself and how a command changes it.

use imbl::OrdMap;
use types::limits::IDEMPOTENCY_KEY_HOURS;
use types::{Generation, HostId, IdempotencyKey, Incarnation, Resources, SandboxId, Timestamp};

use super::command::{Command, DestroyReason, Failure, Kind, Place, Presence, Wanted};
use super::outcome::{Outcome, Refusal};
use super::planted::Planted;

/// One placed sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The placement as it was proposed.
    pub place: Place,
    /// What it is meant to be.
    pub wanted: Wanted,
    /// Log-carried time of its first placement.
    pub created_at: Timestamp,
    /// Index of its first placement: the order of lists.
    pub created_index: u64,
    /// Why it is in error for good.
    pub failure: Option<Failure>,
}

/// What one idempotency key made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Digest of the body it came with.
    pub digest: [u8; 32],
    /// What it made.
    pub sandbox: SandboxId,
    /// Log-carried time of its use; it is forgotten a day after.
    pub used_at: Timestamp,
    /// Why it failed for good.
    pub failure: Option<Failure>,
}

/// A sandbox that was destroyed and whose owner has not reported yet that nothing is left of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    /// Who has to remove it.
    pub owner: HostId,
    /// The container that carried it.
    pub slot: SandboxId,
    /// Up to which generation.
    pub generation: Generation,
}

/// Who has a sandbox's container, or what is left of it, and under which name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The node.
    pub owner: HostId,
    /// The container.
    pub slot: SandboxId,
}

/// One node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its present life; 0 for a node that joined and was never up.
    pub incarnation: Incarnation,
    /// Where it is found.
    pub presence: Presence,
    /// It was not heard for too long in this life.
    pub lost: bool,
    /// It has ended in order and asked not to be missed for so many milliseconds.
    pub restarting: Option<u64>,
    /// When it asked for its member id, by its own clock.
    pub joined_at: Option<Timestamp>,
}

/// Milliseconds of log-carried time for which an id is remembered after nothing was left of it. A copy
/// of its placement that was still on its way by then has long been given up.
pub const RETIRED_MS: u64 = 600_000;

/// What the sandboxes of one owner are promised, kept up to date so that a create need not add it up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Sandboxes.
    pub sandboxes: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Thousand-millionths of a processor.
    pub cpu: u64,
}

impl Load {
    /// One sandbox of this size more.
    pub fn add(&mut self, size: &Resources) {
        self.sandboxes = self.sandboxes.saturating_add(1);
        self.memory = self.memory.saturating_add(size.memory);
        self.cpu = self.cpu.saturating_add(size.cpu);
    }

    /// One sandbox of this size less.
    pub fn take(&mut self, size: &Resources) {
        self.sandboxes = self.sandboxes.saturating_sub(1);
        self.memory = self.memory.saturating_sub(size.memory);
        self.cpu = self.cpu.saturating_sub(size.cpu);
    }
}

/// The replicated map. Cheap to clone: a published copy shares its structure with the next one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// Planted by the simulation.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<Planted>,
    pub(super) applied: u64,
    pub(super) clock: Timestamp,
    pub(super) nodes: OrdMap<HostId, Node>,
    /// The largest member id that was ever given out.
    pub(super) last_member: u64,
    pub(super) sandboxes: OrdMap<SandboxId, Record>,
    /// Sandboxes by the index of their first placement, oldest first.
    pub(super) order: OrdMap<u64, SandboxId>,
    pub(super) keys: OrdMap<[u8; 32], KeyRecord>,
    /// Keys by their time of use, oldest first, so that forgetting costs only what is forgotten.
    pub(super) keys_by_use: OrdMap<(Timestamp, [u8; 32]), ()>,
    pub(super) tombstones: OrdMap<SandboxId, Tombstone>,
    /// What sandboxes that live on, or are in error, left on an earlier owner, by their older generation.
    pub(super) remains: OrdMap<(SandboxId, Generation), Holder>,
    /// The sandboxes of containers that bear another name; follows from `sandboxes`.
    pub(super) slots: OrdMap<SandboxId, SandboxId>,
    /// Sandboxes of which nothing is left, for as long as a late copy of their placement may come.
    pub(super) retired: OrdMap<SandboxId, Timestamp>,
    /// The same by the time of their end, oldest first.
    pub(super) retired_by_time: OrdMap<(Timestamp, SandboxId), ()>,
    /// Follows from `sandboxes`.
    pub(super) loads: OrdMap<HostId, Load>,
}

impl Placement {
    /// Index of the last applied entry.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Log-carried time: the largest that any command brought.
    #[must_use]
    pub fn clock(&self) -> Timestamp {
        self.clock
    }

    /// The incarnation of a node, where it was ever up.
    #[must_use]
    pub fn incarnation(&self, host: &HostId) -> Option<Incarnation> {
        self.nodes.get(host).map(|node| node.incarnation)
    }

    /// All nodes, by host.
    pub fn nodes(&self) -> impl Iterator<Item = (&HostId, &Node)> {
        self.nodes.iter()
    }

    /// One node.
    #[must_use]
    pub fn node(&self, host: &HostId) -> Option<&Node> {
        self.nodes.get(host)
    }

    /// The node that bears this member id now.
    #[must_use]
    pub fn host_of(&self, member: u64) -> Option<&HostId> {
        self.nodes.iter().find(|(_, node)| node.presence.member == member).map(|(host, _)| host)
    }

    /// One sandbox.
    #[must_use]
    pub fn get(&self, id: &SandboxId) -> Option<&Record> {
        self.sandboxes.get(id)
    }

    /// Who owns a sandbox, or has to remove it.
    #[must_use]
    pub fn owner(&self, id: &SandboxId) -> Option<&HostId> {
        let placed = self.sandboxes.get(id).map(|record| &record.place.owner);
        placed.or_else(|| self.tombstones.get(id).map(|tombstone| &tombstone.owner))
    }

    /// Whose container a command about a sandbox is about.
    #[must_use]
    pub fn holder(&self, kind: &Kind) -> Option<Holder> {
        let of_place = |place: &Place| Holder { owner: place.owner.clone(), slot: place.slot };
        match kind {
            Kind::Place(place) => return Some(of_place(place)),
            Kind::Removed { id, generation } => {
                if let Some(holder) = self.remains.get(&(*id, *generation)) {
                    return Some(holder.clone());
                }
            }
            _ => {}
        }
        let id = kind.sandbox()?;
        match self.sandboxes.get(&id) {
            Some(record) => Some(of_place(&record.place)),
            None => {
                let tombstone = self.tombstones.get(&id)?;
                Some(Holder { owner: tombstone.owner.clone(), slot: tombstone.slot })
            }
        }
    }

    /// The sandbox that a container is, where it is one.
    #[must_use]
    pub fn in_slot(&self, slot: &SandboxId) -> Option<&Record> {
        let id = self.slots.get(slot).unwrap_or(slot);
        self.sandboxes.get(id).filter(|record| record.place.slot == *slot && record.failure.is_none())
    }

    /// What sandboxes that are placed anew, or in error, left on earlier owners.
    pub fn remains(&self) -> impl Iterator<Item = (SandboxId, Generation, &Holder)> {
        self.remains.iter().map(|((id, generation), holder)| (*id, *generation, holder))
    }

    /// Whether some node has not yet reported that nothing is left there of a sandbox, or of an older generation of it.
    #[must_use]
    pub fn owes(&self, id: &SandboxId) -> bool {
        self.is_tombstoned(id)
            || self.remains.range((*id, Generation(0))..=(*id, Generation(u64::MAX))).next().is_some()
    }

    /// What the sandboxes of one owner are promised.
    #[must_use]
    pub fn load(&self, owner: &HostId) -> Load {
        self.loads.get(owner).copied().unwrap_or_default()
    }

    /// All sandboxes, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Record> {
        self.order.iter().rev().filter_map(|(_, id)| self.sandboxes.get(id))
    }

    /// Number of sandboxes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sandboxes.len()
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty()
    }

    /// Sandboxes that were destroyed and are not yet removed.
    pub fn tombstones(&self) -> impl Iterator<Item = (&SandboxId, &Tombstone)> {
        self.tombstones.iter()
    }

    /// Whether a sandbox was destroyed and its owner has not yet removed it.
    #[must_use]
    pub fn is_tombstoned(&self, id: &SandboxId) -> bool {
        self.tombstones.contains_key(id)
    }

    /// What a key has made so far: the answer that a repeated request gets without a commit.
    #[must_use]
    pub fn key(&self, key: &IdempotencyKey) -> Option<Outcome> {
        let known = self.keys.get(&key.scope)?;
        Some(if known.digest != key.digest {
            Outcome::Refused(Refusal::KeyMismatch)
        } else if let Some(failure) = &known.failure {
            Outcome::Refused(Refusal::KeyFailed(failure.clone()))
        } else if self.sandboxes.contains_key(&known.sandbox) {
            Outcome::AlreadyPlaced { winner: known.sandbox }
        } else {
            Outcome::Refused(Refusal::KeyGone { id: known.sandbox })
        })
    }

    /// Applies one committed command.
    pub fn apply(&mut self, index: u64, command: &Command) -> Outcome {
        assert!(index > self.applied, "entry {index} applied after {}", self.applied);
        self.applied = index;
        self.clock = self.clock.max(command.time);
        self.forget_old_keys();
        self.forget_retired();
        match &command.kind {
            Kind::NodeUp { host, incarnation, presence } => self.node_up(host, *incarnation, presence),
            Kind::Join { host, peer_address, http_address, commands, asked_at } => {
                let asked_at = if asked_at.0 > 0 { *asked_at } else { command.time };
                self.join(asked_at, host, peer_address, http_address, *commands)
            }
            Kind::NodeLost { host, incarnation, restarting } => self.node_lost(host, *incarnation, *restarting),
            Kind::NodeRestarting { host, incarnation, for_ms } => self.node_restarting(host, *incarnation, *for_ms),
            Kind::Place(place) => self.place(index, place),
            Kind::Move(moved) => self.moved(moved),
            Kind::Fail { id, generation, failure, only_if_lost } => self.fail(id, *generation, failure, *only_if_lost),
            Kind::SetWanted { id, generation, wanted } => self.set_wanted(id, *generation, *wanted),
            Kind::Destroy { id, reason } => self.destroy(id, *reason),
            Kind::Removed { id, generation } => self.removed(id, *generation),
            Kind::CreateFailed { id, generation, failure } => self.create_failed(id, *generation, failure),
        }
    }

    /// Moves past an entry that carries no command, such as a new leader's first.
    pub fn skip(&mut self, index: u64) {
        assert!(index > self.applied, "entry {index} applied after {}", self.applied);
        self.applied = index;
    }

    fn node_up(&mut self, host: &HostId, incarnation: Incarnation, presence: &Presence) -> Outcome {
        match self.nodes.get(host) {
            Some(known) if known.incarnation > incarnation => return Outcome::NodeStale,
            // The same proposal made twice: what happened since stands.
            Some(known) if known.incarnation == incarnation => return Outcome::NodeUp,
            _ => {}
        }
        self.last_member = self.last_member.max(presence.member);
        let joined_at = self.nodes.get(host).and_then(|known| known.joined_at);
        let node = Node { incarnation, presence: presence.clone(), lost: false, restarting: None, joined_at };
        self.nodes.insert(host.clone(), node);
        Outcome::NodeUp
    }

    /// The same join may be proposed twice, and that of an asking which was given up may come late: a node that bears
    /// the id it was told must not be given another one behind its back.
    fn join(&mut self, asked_at: Timestamp, host: &HostId, peer: &str, http: &str, commands: u32) -> Outcome {
        let known = self.nodes.get(host);
        match known.and_then(|node| Some((node.joined_at?, node.presence.member))) {
            Some((at, member)) if at == asked_at => return Outcome::Joined { member },
            Some((at, _)) if at > asked_at && at.ms_since(asked_at) < RETIRED_MS => return Outcome::NodeStale,
            _ => {}
        }
        let member = self.last_member + 1;
        let presence = Presence {
            member,
            peer_address: peer.to_owned(),
            http_address: http.to_owned(),
            // What a node says last counts: it may come back in another version.
            commands: if commands > 0 { commands } else { known.map_or(0, |node| node.presence.commands) },
        };
        let incarnation = known.map_or(Incarnation(0), |node| node.incarnation);
        let (lost, restarting) = known.map_or((false, None), |node| (node.lost, node.restarting));
        self.last_member = member;
        self.nodes.insert(host.clone(), Node { incarnation, presence, lost, restarting, joined_at: Some(asked_at) });
        Outcome::Joined { member }
    }

    fn place(&mut self, index: u64, place: &Place) -> Outcome {
        if let Some(known) = self.sandboxes.get(&place.id) {
            // The same proposal made twice, since its first fate was unknown.
            return if known.place.owner == place.owner
                && known.place.slot == place.slot
                && known.place.generation == place.generation
            {
                Outcome::Placed { generation: known.place.generation }
            } else {
                Outcome::Refused(Refusal::IdTaken)
            };
        }
        if let Some(decided) = place.key.as_ref().and_then(|key| self.key(key))
            && !self.has_planted(Planted::KeyTwice)
        {
            return decided;
        }
        let ended = self.tombstones.contains_key(&place.id) || self.retired.contains_key(&place.id);
        if ended && !self.has_planted(Planted::ForgetsEnded) {
            return Outcome::Refused(Refusal::IdTaken);
        }
        if let Some(refusal) = self.owner_refused(&place.owner, place.incarnation)
            && !self.has_planted(Planted::OldLife)
        {
            return Outcome::Refused(refusal);
        }
        if let Some(key) = &place.key {
            let record = KeyRecord { digest: key.digest, sandbox: place.id, used_at: self.clock, failure: None };
            self.keys_by_use.insert((record.used_at, key.scope), ());
            self.keys.insert(key.scope, record);
        }
        self.insert(Record {
            place: place.clone(),
            wanted: Wanted::Running,
            created_at: self.clock,
            created_index: index,
            failure: None,
        });
        Outcome::Placed { generation: place.generation }
    }

    /// Why a node can not become an owner in this life. A node asks before it proposes: what is refused because the map
    /// does not know the life yet might be taken when the very proposal is made once more.
    #[must_use]
    pub fn owner_refused(&self, owner: &HostId, incarnation: Incarnation) -> Option<Refusal> {
        match self.nodes.get(owner) {
            Some(node) if node.incarnation == incarnation && node.lost => Some(Refusal::OwnerLost),
            Some(node) if node.incarnation == incarnation => node.restarting.map(|_| Refusal::OwnerRestarting),
            _ => Some(Refusal::StaleIncarnation),
        }
    }

    fn set_wanted(&mut self, id: &SandboxId, generation: Generation, wanted: Wanted) -> Outcome {
        match self.sandboxes.get_mut(id) {
            Some(record) if record.place.generation == generation && record.failure.is_none() => {
                record.wanted = wanted;
                Outcome::Wanted(wanted)
            }
            _ => Outcome::Unknown,
        }
    }

    fn destroy(&mut self, id: &SandboxId, reason: DestroyReason) -> Outcome {
        let Some(record) = self.sandboxes.get(id) else {
            return Outcome::Unknown;
        };
        if let DestroyReason::Expired { expires_at } = reason
            && record.place.expires_at.is_none_or(|end| end > expires_at)
        {
            return Outcome::Kept { expires_at: record.place.expires_at };
        }
        self.bury(id);
        Outcome::Destroyed
    }

    fn removed(&mut self, id: &SandboxId, generation: Generation) -> Outcome {
        if self.remains.remove(&(*id, generation)).is_some() {
            return Outcome::Removed;
        }
        match self.tombstones.get(id) {
            Some(tombstone) if tombstone.generation <= generation => {
                self.tombstones.remove(id);
                self.retire(id);
                Outcome::Removed
            }
            _ => Outcome::Unknown,
        }
    }

    fn retire(&mut self, id: &SandboxId) {
        self.retired.insert(*id, self.clock);
        self.retired_by_time.insert((self.clock, *id), ());
    }

    fn create_failed(&mut self, id: &SandboxId, generation: Generation, failure: &Failure) -> Outcome {
        match self.sandboxes.get(id) {
            Some(record) if record.place.generation == generation && record.failure.is_none() => {
                if let Some(scope) = record.place.key.as_ref().map(|key| key.scope)
                    && let Some(key) = self.keys.get_mut(&scope)
                    // The key may have been forgotten since and be another sandbox's by now.
                    && key.sandbox == *id
                {
                    key.failure = Some(failure.clone());
                }
                self.bury(id);
                Outcome::Failed
            }
            _ => Outcome::Unknown,
        }
    }

    /// Puts a sandbox into the map and everything that follows from it.
    pub(super) fn insert(&mut self, record: Record) {
        let place = &record.place;
        if record.failure.is_none() {
            self.loads.entry(place.owner.clone()).or_default().add(&place.spec.resources);
            if place.slot != place.id {
                self.slots.insert(place.slot, place.id);
            }
        }
        self.order.insert(record.created_index, place.id);
        self.sandboxes.insert(place.id, record);
    }

    /// Takes a sandbox out of the map and everything that follows from it.
    pub(super) fn take_out(&mut self, id: &SandboxId) -> Option<Record> {
        let record = self.sandboxes.remove(id)?;
        self.order.remove(&record.created_index);
        let place = &record.place;
        if record.failure.is_none() {
            self.slots.remove(&place.slot);
            if let Some(load) = self.loads.get_mut(&place.owner) {
                load.take(&place.spec.resources);
                if load.sandboxes == 0 {
                    self.loads.remove(&place.owner);
                }
            }
        }
        Some(record)
    }

    /// Takes a sandbox out of the map and leaves its owner the duty to remove what it left.
    fn bury(&mut self, id: &SandboxId) {
        let Some(record) = self.take_out(id) else {
            return;
        };
        if record.failure.is_some() {
            // Whatever it left is among the remains.
            self.retire(id);
            return;
        }
        let Place { owner, slot, generation, .. } = record.place;
        self.tombstones.insert(*id, Tombstone { owner, slot, generation });
    }

    fn forget_old_keys(&mut self) {
        const KEY_LIFE_MS: u64 = IDEMPOTENCY_KEY_HOURS * 3600 * 1000;
        while let Some(((used_at, scope), ())) = self.keys_by_use.get_min().cloned() {
            if self.clock.ms_since(used_at) < KEY_LIFE_MS {
                break;
            }
            self.keys_by_use.remove(&(used_at, scope));
            self.keys.remove(&scope);
        }
    }

    fn forget_retired(&mut self) {
        while let Some(((at, id), ())) = self.retired_by_time.get_min().cloned() {
            if self.clock.ms_since(at) < RETIRED_MS {
                break;
            }
            self.retired_by_time.remove(&(at, id));
            self.retired.remove(&id);
        }
    }
}
