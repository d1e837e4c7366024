//! What becomes of everything an earlier life of this node left behind. Computed once, after this
//! life's `NodeUp` is applied: before that the map may be older than what it is held against.

use std::collections::BTreeSet;

use types::spec::SlotShape;
use types::{HostId, SandboxId};

use crate::lifecycle::Duty;
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
        /// Its container.
        slot: SandboxId,
        /// What the map says.
        record: Box<Record>,
        /// It was activated before.
        activated: bool,
    },
    /// It is a pristine slot that the pool can use.
    Pool(SandboxId),
    /// It was destroyed, or was prepared and never placed: kill and remove it.
    Bury {
        /// Its container.
        slot: SandboxId,
        /// What the map waits for; none where it knows nothing of it.
        duty: Option<Duty>,
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
    let mut spoken_for = BTreeSet::new();
    for record in map.newest_first().filter(|record| record.place.owner == *me && record.failure.is_none()) {
        let slot = record.place.slot;
        spoken_for.insert(slot);
        verdicts.push(Verdict::Adopt { slot, record: Box::new(record.clone()), activated: activated.contains(&slot) });
    }
    for (id, tombstone) in map.tombstones().filter(|(_, tombstone)| tombstone.owner == *me) {
        spoken_for.insert(tombstone.slot);
        let duty = Duty { sandbox: *id, generation: tombstone.generation };
        verdicts.push(Verdict::Bury { slot: tombstone.slot, duty: Some(duty) });
    }
    for (sandbox, generation, holder) in map.remains().filter(|(.., holder)| holder.owner == *me) {
        spoken_for.insert(holder.slot);
        verdicts.push(Verdict::Bury { slot: holder.slot, duty: Some(Duty { sandbox, generation }) });
    }
    for container in found {
        let id = container.slot;
        if spoken_for.contains(&id) {
            continue;
        }
        // Only an agent that says so itself is pristine: everything else may have run user code or
        // have been prepared for somebody whose create was cut off.
        let pristine = container.agent == Some(AgentState::Bare) && !activated.contains(&id);
        if pristine && pool.is_some() && container.shape.as_ref() == pool {
            verdicts.push(Verdict::Pool(id));
        } else {
            verdicts.push(Verdict::Bury { slot: id, duty: None });
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
    let now: BTreeSet<_> = found.difference(known).copied().filter(|slot| map.in_slot(slot).is_none()).collect();
    let bury = now.intersection(seen_before).copied().collect();
    (bury, now)
}

#[cfg(test)]
mod tests;
