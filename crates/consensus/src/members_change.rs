//! A change of the membership in the words of the log's protocol.

use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};

/// Whoever is named changes together: these vote from then on, these learn, these are out.
#[must_use]
pub fn members_change(voters: &[u64], learners: &[u64], out: &[u64]) -> ConfChangeV2 {
    let single = |kind: ConfChangeType| {
        move |id: &u64| {
            let mut change = ConfChangeSingle { node_id: *id, ..ConfChangeSingle::default() };
            change.set_change_type(kind);
            change
        }
    };
    let voting = voters.iter().map(single(ConfChangeType::AddNode));
    let learning = learners.iter().map(single(ConfChangeType::AddLearnerNode));
    let leaving = out.iter().map(single(ConfChangeType::RemoveNode));
    let mut change =
        ConfChangeV2 { changes: voting.chain(learning).chain(leaving).collect(), ..ConfChangeV2::default() };
    change.set_transition(ConfChangeTransition::Auto);
    change
}
