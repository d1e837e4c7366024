//! What becomes of everything an earlier life of this node left behind. Computed once, after this
//! life's `NodeUp` is applied: before that the map may be older than what it is held against.

use std::collections::BTreeSet;

use types::spec::SlotShape;
use types::{Generation, HostId, SandboxId};

use crate::placement::{Placement, Record};
use crate::step::AgentState;

/// One container of ours that was found on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub slot: SandboxId,
    /// What its agent says; `None` where it has ended or does not answer.
    pub agent: Option<AgentState>,
    /// What it was created as; `None` where its labels do not say.
    pub shape: Option<SlotShape>,
}

/// What is to be done with one sandbox, slot or remnant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is a sandbox of this node: go on with it.
    Adopt {
        /// Which.
        id: SandboxId,
        /// What the map says.
        record: Box<Record>,
        /// It was activated before.
        activated: bool,
    },
    /// It is a pristine slot that the pool can use.
    Pool(SandboxId),
    /// It was destroyed, or was prepared and never placed: kill and remove it.
    Bury {
        /// Which.
        id: SandboxId,
        /// Its generation, where the map still has its tombstone.
        tombstone: Option<Generation>,
    },
}

/// Says what becomes of each thing that was found, and of each placement that nothing was found for.
///
/// `activated` are the sandboxes that this node's disk says were handed their environment;
/// `pool` is the shape that the warm pool is kept for.
#[must_use]
pub fn reconcile(
    map: &Placement,
    me: &HostId,
    found: &[Found],
    activated: &BTreeSet<SandboxId>,
    pool: Option<&SlotShape>,
) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for record in map.newest_first().filter(|record| record.place.owner == *me) {
        let id = record.place.id;
        verdicts.push(Verdict::Adopt { id, record: Box::new(record.clone()), activated: activated.contains(&id) });
    }
    let mut buried = BTreeSet::new();
    for (id, tombstone) in map.tombstones().filter(|(_, tombstone)| tombstone.owner == *me) {
        buried.insert(*id);
        verdicts.push(Verdict::Bury { id: *id, tombstone: Some(tombstone.generation) });
    }
    for container in found {
        let id = container.slot;
        let placed_here = map.get(&id).is_some_and(|record| record.place.owner == *me);
        if placed_here || buried.contains(&id) {
            continue;
        }
        // Only an agent that says so itself is pristine: everything else may have run user code or
        // have been prepared for somebody whose create was cut off.
        let pristine = container.agent == Some(AgentState::Bare) && !activated.contains(&id);
        if pristine && pool.is_some() && container.shape.as_ref() == pool {
            verdicts.push(Verdict::Pool(id));
        } else {
            verdicts.push(Verdict::Bury { id, tombstone: None });
        }
    }
    verdicts
}

/// Containers of ours that are nobody's, for the second look in a row: those to bury now, and those to
/// be looked at again. An engine that was cut off may finish a create after the stock was taken; one
/// look alone could meet a container just before its news arrives.
#[must_use]
pub fn strays(
    map: &Placement,
    found: &BTreeSet<SandboxId>,
    known: &BTreeSet<SandboxId>,
    seen_before: &BTreeSet<SandboxId>,
) -> (Vec<SandboxId>, BTreeSet<SandboxId>) {
    let now: BTreeSet<_> = found.difference(known).copied().filter(|id| map.get(id).is_none()).collect();
    let bury = now.intersection(seen_before).copied().collect();
    (bury, now)
}

#[cfg(test)]
mod tests;
