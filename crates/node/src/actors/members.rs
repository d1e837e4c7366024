//! The membership between the words of the pure plan and those of the log's protocol.

use consensus::Consensus;
use consensus::raft_types::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};
use types::HostId;
use warren_core::membership::{Member, Members, Step, plan};
use warren_core::placement::Placement;

use super::leases::Leases;
use crate::cluster::Cluster;

/// Entries that a member may be behind and still count as caught up.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// The next change that the leader `me` should make, if any.
pub fn next_step(
    core: &Consensus,
    map: &Placement,
    (cluster, leases): (&Cluster, &Leases),
    me: &HostId,
    member: u64,
) -> Option<Step> {
    let now = core.members();
    let members = Members {
        changing: !now.voters_outgoing.is_empty(),
        voters: now.voters.into_iter().collect(),
        learners: now.learners.into_iter().chain(now.learners_next).collect(),
    };
    let committed = core.status().committed;
    let caught_up = |id| core.matched(id).is_some_and(|matched| matched + CAUGHT_UP_ENTRIES >= committed);
    let known: Vec<Member> = map
        .nodes()
        .map(|(host, node)| Member {
            id: node.presence.member,
            current: true,
            // Both ways: it is reached, and it was heard within the time of a lease.
            alive: host == me
                || (cluster.reaches(host)
                    && leases.hears(host, node.incarnation)
                    && !node.lost
                    && node.restarting.is_none()),
            caught_up: caught_up(node.presence.member),
        })
        .filter(|member| member.id != 0)
        .collect();
    plan(member, &members, &known)
}

/// A step as the log's protocol has it; what belongs together changes together.
pub fn conf_change(step: &Step) -> ConfChangeV2 {
    let single = |kind: ConfChangeType, node_id: u64| {
        let mut change = ConfChangeSingle { node_id, ..ConfChangeSingle::default() };
        change.set_change_type(kind);
        change
    };
    let changes = match step {
        Step::AddLearner(id) => vec![single(ConfChangeType::AddLearnerNode, *id)],
        Step::Promote(ids) => ids.iter().map(|id| single(ConfChangeType::AddNode, *id)).collect(),
        Step::Swap { out, into } => {
            vec![single(ConfChangeType::AddNode, *into), single(ConfChangeType::RemoveNode, *out)]
        }
        Step::Remove(id) => vec![single(ConfChangeType::RemoveNode, *id)],
    };
    let mut change = ConfChangeV2 { changes, ..ConfChangeV2::default() };
    change.set_transition(ConfChangeTransition::Auto);
    change
}
