//! What becomes of a sandbox whose owner is lost: it is placed again, or it is in error. Either way its
//! generation grows, and what carried the older one is left to its owner to remove.

use types::{Generation, HostId, Incarnation, OnNodeLoss, SandboxId};

use super::command::{Failure, Move, Wanted};
use super::map::{Holder, Placement, Record};
use super::outcome::{Outcome, Refusal};
use super::planted::Planted;

impl Record {
    /// It may be placed again once its owner is lost: it needs a live lease for every call.
    #[must_use]
    pub fn is_leased(&self) -> bool {
        self.place.is_leased()
    }
}

impl super::Place {
    /// It may be placed again once its owner is lost: it needs a live lease for every call.
    #[must_use]
    pub fn is_leased(&self) -> bool {
        matches!(self.spec.on_node_loss, OnNodeLoss::Restart | OnNodeLoss::Restore)
    }
}

impl Placement {
    /// Whether the owner of a sandbox counts as lost.
    #[must_use]
    pub fn owner_is_lost(&self, record: &Record) -> bool {
        self.node(&record.place.owner).is_some_and(|node| node.lost)
    }

    /// Whether this life of a node counts as lost: it wins no lease any more.
    #[must_use]
    pub fn is_lost(&self, host: &HostId, incarnation: Incarnation) -> bool {
        self.node(host).is_some_and(|node| node.lost && node.incarnation == incarnation)
    }

    pub(super) fn moved(&mut self, moved: &Move) -> Outcome {
        let Some(record) = self.sandboxes.get(&moved.id) else {
            return Outcome::Refused(Refusal::Superseded);
        };
        let place = &record.place;
        if place.generation == moved.generation && place.owner == moved.owner && place.slot == moved.slot {
            // The same proposal made twice, since its first fate was unknown.
            return Outcome::Placed { generation: place.generation };
        }
        let may = place.generation.next() == moved.generation
            && record.failure.is_none()
            && record.wanted == Wanted::Running
            && record.is_leased()
            && self.owner_is_lost(record);
        if !may && !self.has_planted(Planted::AnyGeneration) {
            return Outcome::Refused(Refusal::Superseded);
        }
        if let Some(refusal) = self.owner_refused(&moved.owner, moved.incarnation) {
            return Outcome::Refused(refusal);
        }
        if let Some(mut record) = self.leave_remains(&moved.id) {
            record.place.owner = moved.owner.clone();
            record.place.slot = moved.slot;
            record.place.incarnation = moved.incarnation;
            record.place.generation = moved.generation;
            self.insert(record);
        }
        Outcome::Placed { generation: moved.generation }
    }

    pub(super) fn fail(
        &mut self,
        id: &SandboxId,
        generation: Generation,
        failure: &Failure,
        only_if_lost: bool,
    ) -> Outcome {
        let may = self.sandboxes.get(id).is_some_and(|record| {
            record.place.generation == generation
                && record.failure.is_none()
                && (!only_if_lost || self.owner_is_lost(record))
        });
        if !may {
            return Outcome::Unknown;
        }
        if let Some(mut record) = self.leave_remains(id) {
            record.place.generation = generation.next();
            record.failure = Some(failure.clone());
            self.insert(record);
        }
        Outcome::InError
    }

    /// Takes a sandbox out and leaves what carries its present generation to its owner.
    fn leave_remains(&mut self, id: &SandboxId) -> Option<Record> {
        let record = self.take_out(id)?;
        let place = &record.place;
        let holder = Holder { owner: place.owner.clone(), slot: place.slot };
        self.remains.insert((*id, place.generation), holder);
        Some(record)
    }
}
