//! Who votes and who learns, as a function of who is there. One change at a time; the leader makes
//! the next one when the last is applied.

use std::collections::BTreeSet;

use types::{HostId, Incarnation};

use crate::placement::Placement;

/// Voters of a full cluster. Two are never right: either one's loss would stop both.
pub const VOTERS_MAX: usize = 3;

/// One member as the leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its Raft id.
    pub id: u64,
    /// The map has this id for a node that is there; an id of an earlier store is not current.
    pub current: bool,
    /// Its node is heard and not declared lost.
    pub alive: bool,
    /// It has nearly everything that is committed.
    pub caught_up: bool,
}

/// The present membership.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// Who votes.
    pub voters: BTreeSet<u64>,
    /// Who learns.
    pub learners: BTreeSet<u64>,
    /// A change is under way.
    pub changing: bool,
}

/// The next change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A node that joined begins to learn.
    AddLearner(u64),
    /// These become voters in one step.
    Promote(BTreeSet<u64>),
    /// A voter whose store is lost makes place for another in one step.
    Swap {
        /// Who goes.
        out: u64,
        /// Who comes; none where nobody is there yet and the group stays able to decide.
        into: u64,
    },
    /// An id that nobody bears any more.
    Remove(u64),
}

/// Whom a [`Step`] makes what, all in one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// They vote.
    pub voters: Vec<u64>,
    /// They learn.
    pub learners: Vec<u64>,
    /// They are out.
    pub out: Vec<u64>,
}

impl Step {
    /// Whom it makes what.
    #[must_use]
    pub fn change(&self) -> Change {
        let none = Change::default();
        match self {
            Self::AddLearner(id) => Change { learners: vec![*id], ..none },
            Self::Promote(ids) => Change { voters: ids.iter().copied().collect(), ..none },
            Self::Swap { out, into } => Change { voters: vec![*into], out: vec![*out], ..none },
            Self::Remove(id) => Change { out: vec![*id], ..none },
        }
    }
}

/// Entries that a member may be behind and still count as caught up.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// The map's nodes as members, seen by the leader `me`.
///
/// `reached` says whether a node is reached and was heard, in that life, within the time of a lease; `matched` how far
/// a member's log surely is, of which `committed` is needed.
#[must_use]
pub fn known(
    map: &Placement,
    me: &HostId,
    committed: u64,
    reached: impl Fn(&HostId, Incarnation) -> bool,
    matched: impl Fn(u64) -> Option<u64>,
) -> Vec<Member> {
    map.nodes()
        .filter(|(_, node)| node.presence.member != 0)
        .map(|(host, node)| Member {
            id: node.presence.member,
            current: true,
            alive: host == me || (!node.lost && node.restarting.is_none() && reached(host, node.incarnation)),
            caught_up: matched(node.presence.member).is_some_and(|index| index + CAUGHT_UP_ENTRIES >= committed),
        })
        .collect()
}

/// The next change on the way to 1 or 3 voters and everybody else a learner; none where it is so.
///
/// `me` leads and is never taken out.
#[must_use]
pub fn plan(me: u64, members: &Members, known: &[Member]) -> Option<Step> {
    if members.changing {
        return None;
    }
    let missing = known.iter().find(|member| {
        member.current && !members.voters.contains(&member.id) && !members.learners.contains(&member.id)
    });
    if let Some(member) = missing {
        return Some(Step::AddLearner(member.id));
    }
    let current = |id: &u64| known.iter().any(|member| member.id == *id && member.current);
    let ready: Vec<u64> = known
        .iter()
        .filter(|member| member.current && member.alive && member.caught_up && members.learners.contains(&member.id))
        .map(|member| member.id)
        .collect();
    let gone = members.voters.iter().find(|id| **id != me && !current(id));
    if let (Some(out), Some(into)) = (gone, ready.first()) {
        return Some(Step::Swap { out: *out, into: *into });
    }
    if gone.is_none() && members.voters.len() < VOTERS_MAX {
        let wanted = VOTERS_MAX - members.voters.len();
        if ready.len() >= wanted {
            return Some(Step::Promote(ready.into_iter().take(wanted).collect()));
        }
    }
    members.learners.iter().find(|id| !current(id)).map(|id| Step::Remove(*id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(voters: &[u64], learners: &[u64]) -> Members {
        Members {
            voters: voters.iter().copied().collect(),
            learners: learners.iter().copied().collect(),
            changing: false,
        }
    }

    fn there(id: u64) -> Member {
        Member { id, current: true, alive: true, caught_up: true }
    }

    #[test]
    fn one_then_three_and_never_two() {
        let table = [
            (members(&[1], &[]), vec![there(1)], None),
            (members(&[1], &[]), vec![there(1), there(2)], Some(Step::AddLearner(2))),
            // Two nodes: the second learns and does not vote.
            (members(&[1], &[2]), vec![there(1), there(2)], None),
            (members(&[1], &[2]), vec![there(1), there(2), there(3)], Some(Step::AddLearner(3))),
            (members(&[1], &[2, 3]), vec![there(1), there(2), Member { caught_up: false, ..there(3) }], None),
            (members(&[1], &[2, 3]), vec![there(1), there(2), there(3)], Some(Step::Promote(BTreeSet::from([2, 3])))),
            (members(&[1, 2, 3], &[]), vec![there(1), there(2), there(3)], None),
            (members(&[1, 2, 3], &[]), vec![there(1), there(2), there(3), there(4)], Some(Step::AddLearner(4))),
            (members(&[1, 2, 3], &[4]), vec![there(1), there(2), there(3), there(4)], None),
            // The node of voter 2 came back with a new store and a new id.
            (
                members(&[1, 2, 3], &[4]),
                vec![there(1), Member { current: false, ..there(2) }, there(3), there(4)],
                Some(Step::Swap { out: 2, into: 4 }),
            ),
            // A lost voter that nobody can replace stays: removing it would leave two.
            (members(&[1, 2, 3], &[]), vec![there(1), Member { current: false, ..there(2) }, there(3)], None),
            (members(&[1], &[2]), vec![there(1), Member { current: false, ..there(2) }], Some(Step::Remove(2))),
        ];
        for (members, known, expected) in table {
            assert_eq!(plan(1, &members, &known), expected, "{members:?} {known:?}");
        }
        let changing = Members { changing: true, ..members(&[1], &[]) };
        assert_eq!(plan(1, &changing, &[there(1), there(2)]), None);
    }
}
