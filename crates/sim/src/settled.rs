//! Whether a host is as it is wanted, once the faults have ended.

use std::collections::BTreeSet;

use types::{SandboxId, Status, Timestamp};
use warren_core::lifecycle::LOOK_AGAIN_MS;
use warren_core::placement::{Record, Wanted};
use warren_core::step::AgentState;

use crate::fake_engine::{Container, Life};
use crate::invariants::{Invariant, Violation};
use crate::node::{Node, Phase};
use crate::world::Host;

/// What is not yet as it is wanted on this host; `None` where all is.
pub fn unsettled(host: &Host, now: Timestamp) -> Option<Violation> {
    let violation = |invariant, detail| Some(Violation { invariant, detail });
    let Some(node) = host.node.as_ref().filter(|node| node.phase == Phase::Open) else {
        return violation(Invariant::EveryoneAnswered, "the node is not open".to_owned());
    };
    if let Some(ticket) = node.waiting.keys().next() {
        return violation(Invariant::EveryoneAnswered, format!("request {} waits", ticket.0));
    }
    if let Some((id, tombstone)) = node.map.tombstones().next() {
        return violation(Invariant::TombstonesClear, format!("{id} has a {tombstone:?}"));
    }
    if let Some(id) = node.supervisors.keys().find(|id| node.map.get(id).is_none()) {
        return violation(Invariant::TombstonesClear, format!("{id} has a supervisor and no place"));
    }
    if let Some(job) = host.engine.jobs.values().next() {
        return violation(Invariant::EveryoneAnswered, format!("{} {} is under way", job.slot, job.work));
    }
    if let Some(violation) = leaks(host, node) {
        return Some(violation);
    }
    if let Some(detail) = node.map.newest_first().find_map(|record| untrue(host, node, record)) {
        return violation(Invariant::ShownIsTrue, detail);
    }
    let ended = node.map.newest_first().find(|record| {
        let end = record.place.expires_at.and_then(|end| end.checked_add_ms(LOOK_AGAIN_MS));
        end.is_some_and(|end| end < now)
    });
    if let Some(record) = ended {
        return violation(Invariant::NothingOutlives, format!("{} was to end", record.place.id));
    }
    // Last, since the clock ticks for ever.
    if !node.mail.is_empty() || !host.disk.is_idle() {
        return violation(Invariant::EveryoneAnswered, "messages or writes are under way".to_owned());
    }
    None
}

fn leaks(host: &Host, node: &Node) -> Option<Violation> {
    let pool: BTreeSet<SandboxId> = node.pool.slots().collect();
    let placed: BTreeSet<SandboxId> = node.map.newest_first().map(|record| record.place.id).collect();
    let ours = host.engine.containers.iter().filter(|(_, container)| container.ours);
    let found: BTreeSet<SandboxId> = ours.map(|(slot, _)| *slot).collect();
    let wanted: BTreeSet<SandboxId> = pool.union(&placed).copied().collect();
    let size = node.pool.target().size;
    let dead = pool.iter().find(|slot| !host.engine.containers.get(slot).is_some_and(Container::runs));
    let ledger: Vec<_> = host.engine.ledger.difference(&placed).collect();
    let detail = if found != wanted {
        format!("too many {:?}, too few {:?}", found.difference(&wanted), wanted.difference(&found))
    } else if pool.len() != size {
        format!("the pool has {} slots of {size}", pool.len())
    } else if let Some(slot) = dead {
        format!("{slot} is dead and in the pool")
    } else if !ledger.is_empty() {
        format!("the ledger still has {ledger:?}")
    } else {
        return None;
    };
    Some(Violation { invariant: Invariant::NothingLeaks, detail })
}

fn untrue(host: &Host, node: &Node, record: &Record) -> Option<String> {
    let id = record.place.id;
    let container = host.engine.containers.get(&id)?;
    let Some(seen) = node.view.get(&id) else {
        return Some(format!("{id} is not shown at all"));
    };
    let state = AgentState::Active { generation: record.place.generation, digest: record.place.digest() };
    let up = container.life == Life::Running(state);
    let down = container.life == Life::Exited;
    let good = match (record.wanted, seen.status) {
        (Wanted::Running, Status::Running) => up,
        (Wanted::Running, Status::Stopped) => down && seen.why.is_some(),
        (Wanted::Stopped, Status::Stopped) => down,
        _ => false,
    };
    (!good).then(|| format!("{id} is {:?}, shown {seen:?}, wanted {:?}", container.life, record.wanted))
}
