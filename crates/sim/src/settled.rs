//! Whether all is as it is wanted, once the faults have ended.

use std::collections::BTreeSet;

use types::{SandboxId, Status};
use warren_core::lifecycle::LOOK_AGAIN_MS;
use warren_core::placement::{Placement, Record, Wanted};
use warren_core::step::AgentState;

use crate::agenda::Agenda;
use crate::fake_engine::{Container, Life};
use crate::invariants::{Invariant, Violation};
use crate::node::{Node, Phase};
use crate::world::Host;

/// What is not yet as it is wanted anywhere; `None` where all is.
pub fn unsettled(hosts: &[Host], truth: &Placement, agenda: &Agenda) -> Option<Violation> {
    let violation = |invariant, detail| Some(Violation { invariant, detail });
    if let Some((id, tombstone)) = truth.tombstones().next() {
        return violation(Invariant::TombstonesClear, format!("{id} has a {tombstone:?}"));
    }
    if let Some((id, generation, holder)) = truth.remains().next() {
        return violation(Invariant::TombstonesClear, format!("generation {generation} of {id} is left: {holder:?}"));
    }
    if let Some(violation) = hosts.iter().find_map(|host| unsettled_host(host, truth)) {
        return Some(violation);
    }
    if let Some(violation) = membership(hosts) {
        return Some(violation);
    }
    let ended = truth.newest_first().find(|record| {
        let at = hosts.iter().position(|host| host.name == record.place.owner);
        let end = record.place.expires_at.and_then(|end| end.checked_add_ms(LOOK_AGAIN_MS));
        end.is_some_and(|end| end < agenda.wall(at.unwrap_or_default()))
    });
    if let Some(record) = ended {
        return violation(Invariant::NothingOutlives, format!("{} was to end", record.place.id));
    }
    // Last, since the clock ticks for ever.
    if hosts.iter().any(|host| host.node.as_ref().is_some_and(|node| !node.mail.is_empty()) || !host.disk.is_idle()) {
        return violation(Invariant::EveryoneAnswered, "messages or writes are under way".to_owned());
    }
    None
}

fn membership(hosts: &[Host]) -> Option<Violation> {
    let leader = hosts.iter().filter_map(|host| host.node.as_ref()).find(|node| node.leadership.is_self);
    let detail = match leader {
        None => "nobody leads".to_owned(),
        Some(leader) => {
            let members = leader.consensus.members();
            let all: BTreeSet<u64> = members.voters.iter().chain(&members.learners).copied().collect();
            let borne: BTreeSet<u64> = hosts.iter().filter_map(|host| host.member).collect();
            let voters = if hosts.len() < 3 { 1 } else { 3 };
            if all == borne && members.voters.len() == voters && members.voters_outgoing.is_empty() {
                return None;
            }
            format!("{:?} vote and {:?} learn of {borne:?}", members.voters, members.learners)
        }
    };
    Some(Violation { invariant: Invariant::MembersAreRight, detail })
}

fn unsettled_host(host: &Host, truth: &Placement) -> Option<Violation> {
    let violation =
        |invariant, detail: String| Some(Violation { invariant, detail: format!("{}: {detail}", host.name) });
    let Some(node) = host.node.as_ref().filter(|node| node.phase == Phase::Open) else {
        return violation(Invariant::EveryoneAnswered, "the node is not open".to_owned());
    };
    if let Some(ticket) = node.waiting.keys().next() {
        return violation(Invariant::EveryoneAnswered, format!("request {} waits", ticket.0));
    }
    if node.map != *truth {
        let detail = format!("its map is at entry {} of {}", node.map.applied(), truth.applied());
        return violation(Invariant::EveryoneAnswered, detail);
    }
    if node.map.node(&node.me).is_none_or(|known| known.lost) {
        return violation(Invariant::EveryoneAnswered, "it counts as lost".to_owned());
    }
    if let Some(slot) = node.supervisors.keys().find(|slot| node.map.in_slot(slot).is_none()) {
        return violation(Invariant::TombstonesClear, format!("{slot} has a supervisor and no place"));
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
    None
}

fn leaks(host: &Host, node: &Node) -> Option<Violation> {
    let pool: BTreeSet<SandboxId> = node.pool.slots().collect();
    let mine = node.map.newest_first().filter(|record| record.place.owner == node.me && record.failure.is_none());
    let placed: BTreeSet<SandboxId> = mine.map(|record| record.place.slot).collect();
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
    Some(Violation { invariant: Invariant::NothingLeaks, detail: format!("{}: {detail}", host.name) })
}

fn untrue(host: &Host, node: &Node, record: &Record) -> Option<String> {
    let id = record.place.id;
    if record.failure.is_some() {
        return None;
    }
    let Some(seen) = node.view.get(&id).filter(|seen| seen.generation == record.place.generation) else {
        return Some(format!("{id} is not shown at all"));
    };
    let shown = match (record.wanted, seen.status) {
        (Wanted::Running, Status::Running) | (Wanted::Stopped, Status::Stopped) => true,
        (Wanted::Running, Status::Stopped) => seen.why.is_some(),
        _ => false,
    };
    if record.place.owner != node.me {
        return (!shown).then(|| format!("{id} is shown {seen:?}, wanted {:?}", record.wanted));
    }
    let container = host.engine.containers.get(&record.place.slot)?;
    let state = AgentState::Active { generation: record.place.generation, digest: record.place.digest() };
    let up = container.life == Life::Running(state);
    let down = container.life == Life::Exited;
    let good = shown && if seen.status == Status::Running { up } else { down };
    (!good).then(|| format!("{id} is {:?}, shown {seen:?}, wanted {:?}", container.life, record.wanted))
}
