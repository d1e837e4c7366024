//! The membership between the pure plan and the log's protocol.

use consensus::Consensus;
use consensus::raft_types::ConfChangeV2;
use types::HostId;
use warren_core::leases::Leases;
use warren_core::membership::{Change, Members, Step, known, plan};
use warren_core::placement::Placement;

use crate::cluster::Cluster;
use crate::hub::boottime_ms;

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
    let reached = |host: &HostId, life| cluster.reaches(host) && leases.hears(boottime_ms(), host, life);
    let known = known(map, me, core.status().committed, reached, |id| core.matched(id));
    plan(member, &members, &known)
}

/// A step as the log's protocol has it.
pub fn conf_change(step: &Step) -> ConfChangeV2 {
    let Change { voters, learners, out } = step.change();
    consensus::members_change(&voters, &learners, &out)
}
