//! Several cores in one thread: the door to more members stays open, and what they promise each other holds under
//! lost messages, slow disks and crashes.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use bytes::Bytes;
use common::{Member, bootstrap};
use consensus::raft_types::{ConfChangeSingle, ConfChangeType, ConfChangeV2};
use consensus::{Config, DropReason, Input, Output, ProposalId, Start};
use std::collections::{BTreeMap, BTreeSet};

struct Cluster {
    members: BTreeMap<u64, Member>,
    cut_off: BTreeSet<u64>,
}

impl Cluster {
    fn of(ids: &[u64]) -> Self {
        let members = ids.iter().map(|&id| (id, Member::new(bootstrap(id, ids)))).collect();
        Self { members, cut_off: BTreeSet::new() }
    }

    fn deliver(&mut self) -> bool {
        let mut mail = Vec::new();
        for member in self.members.values_mut() {
            mail.extend(std::mem::take(&mut member.outbox).into_iter().map(|sent| (member.id, sent)));
        }
        let any = !mail.is_empty();
        for (from, (to, message, snapshot)) in mail {
            let arrives = !self.cut_off.contains(&from) && !self.cut_off.contains(&to);
            if let Some(receiver) = self.members.get_mut(&to).filter(|_| arrives) {
                receiver.give(Input::Step { message });
            }
            if snapshot {
                self.member(from).give(Input::SnapshotSent { peer: to, arrived: arrives });
            }
        }
        any
    }

    fn member(&mut self, id: u64) -> &mut Member {
        self.members.get_mut(&id).unwrap()
    }

    fn settle(&mut self) {
        loop {
            self.members.values_mut().for_each(Member::settle);
            if !self.deliver() {
                return;
            }
        }
    }

    fn tick(&mut self) {
        self.members.values_mut().for_each(|member| member.give(Input::Tick));
        self.settle();
    }

    fn leader(&self) -> Option<u64> {
        let reachable = |member: &&Member| !self.cut_off.contains(&member.id);
        let leaders = self.members.values().filter(reachable).filter(|member| member.core.status().leadership.is_self);
        leaders.max_by_key(|member| member.core.status().leadership.term).map(|member| member.id)
    }

    fn elect(&mut self) -> u64 {
        for _ in 0..200 {
            if let Some(leader) = self.leader() {
                return leader;
            }
            self.tick();
        }
        panic!("nobody was elected");
    }

    /// All histories agree wherever they overlap.
    fn check_agreement(&self) {
        let mut agreed: BTreeMap<u64, &Bytes> = BTreeMap::new();
        for member in self.members.values() {
            for (index, data) in &member.applied {
                let first = agreed.entry(*index).or_insert(data);
                assert_eq!(*first, data, "member {} applied another entry at {index}", member.id);
            }
        }
    }
}

#[test]
fn three_members_elect_one_and_apply_the_same() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    let leader = cluster.elect();
    let follower = if leader == 1 { 2 } else { 1 };
    cluster.member(leader).propose(1, "from the leader");
    cluster.member(follower).propose(2, "by way of a follower");
    cluster.member(follower).give(Input::ReadBarrier { id: 7 });
    cluster.settle();
    cluster.tick();
    cluster.tick();
    for member in cluster.members.values() {
        assert_eq!(member.data(), ["from the leader", "by way of a follower"], "member {}", member.id);
        let own: Vec<_> = member.answered.iter().filter_map(|(_, proposal, _)| *proposal).collect();
        let expected = [(leader, vec![1]), (follower, vec![2])];
        let expected = expected.into_iter().find(|(id, _)| *id == member.id).map_or(vec![], |(_, own)| own);
        assert_eq!(own, expected, "only the proposer takes an answer for its own");
    }
    assert_eq!(cluster.member(follower).reads_ready(), [7]);
}

#[test]
fn a_leader_cut_off_steps_down_and_its_tail_is_replaced() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    let old = cluster.elect();
    cluster.settle();
    cluster.cut_off.insert(old);
    cluster.member(old).propose(1, "lost");
    cluster.member(old).give(Input::ReadBarrier { id: 1 });
    for _ in 0..60 {
        cluster.tick();
    }
    assert!(!cluster.members[&old].leadership.is_self, "a leader without its quorum steps down");
    assert!(matches!(cluster.members[&old].notes[..], [Output::ReadDropped { id: 1, .. }]));
    let new = cluster.elect();
    assert_ne!(new, old);
    cluster.member(new).propose(2, "kept");
    cluster.settle();
    cluster.cut_off.clear();
    for _ in 0..20 {
        cluster.tick();
    }
    for member in cluster.members.values() {
        assert_eq!(member.data(), ["kept"], "member {}", member.id);
    }
    cluster.check_agreement();
}

#[test]
fn what_only_the_leader_can_know_is_never_passed_on() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    let old = cluster.elect();
    cluster.settle();
    let as_leader = |number| {
        let data = Bytes::from_static(b"I lead");
        Input::ProposeAsLeader { proposal: ProposalId(number), data }
    };
    let follower = if old == 1 { 2 } else { 1 };
    cluster.member(follower).give(as_leader(1));
    cluster.settle();
    assert!(matches!(cluster.members[&follower].notes[..], [Output::Dropped { reason: DropReason::NotLeading, .. }]));
    // It stands still while the others choose another leader, and has not heard of that when it goes on.
    cluster.cut_off.insert(old);
    let others: Vec<u64> = cluster.members.keys().copied().filter(|id| *id != old).collect();
    for _ in 0..60 {
        for id in &others {
            cluster.member(*id).give(Input::Tick);
        }
        cluster.settle();
    }
    let new = cluster.elect();
    assert_ne!(new, old);
    assert!(cluster.members[&old].leadership.is_self, "it does not know yet");
    cluster.member(old).give(as_leader(2));
    cluster.cut_off.clear();
    cluster.member(new).propose(3, "kept");
    for _ in 0..20 {
        cluster.tick();
    }
    for member in cluster.members.values() {
        assert_eq!(member.data(), ["kept"], "member {}", member.id);
    }
    let leader = cluster.elect();
    cluster.member(leader).give(as_leader(4));
    cluster.settle();
    cluster.tick();
    assert_eq!(cluster.members[&follower].data(), ["kept", "I lead"]);
}

#[test]
fn a_follower_left_far_behind_catches_up_by_snapshot() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    let leader = cluster.elect();
    let late = if leader == 1 { 2 } else { 1 };
    cluster.settle();
    cluster.cut_off.insert(late);
    for proposal in 0..20 {
        cluster.member(leader).propose(proposal, &format!("p{proposal}"));
    }
    cluster.settle();
    let index = cluster.members[&leader].answered.last().unwrap().0;
    cluster.member(leader).give(Input::Snapshot { index, data: Bytes::from_static(b"all twenty") });
    cluster.member(leader).propose(99, "after");
    cluster.settle();
    cluster.cut_off.clear();
    for _ in 0..40 {
        cluster.tick();
    }
    let late = &cluster.members[&late];
    assert_eq!(late.snapshots_taken_over.last(), Some(&index));
    assert_eq!(late.disk.durable.snapshot.data, "all twenty");
    assert_eq!(late.data(), ["after"]);
}

#[test]
fn a_follower_whose_snapshot_waits_for_the_disk_does_not_campaign() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    let leader = cluster.elect();
    let late = if leader == 1 { 2 } else { 1 };
    cluster.settle();
    cluster.cut_off.insert(late);
    (0..20).for_each(|proposal| cluster.member(leader).propose(proposal, "missed"));
    cluster.settle();
    let index = cluster.members[&leader].answered.last().unwrap().0;
    cluster.member(leader).give(Input::Snapshot { index, data: Bytes::from_static(b"all twenty") });
    cluster.settle();
    cluster.cut_off.clear();
    let installs = |member: &Member| member.disk.waiting.iter().any(|batch| batch.snapshot.is_some());
    while !installs(&cluster.members[&late]) {
        for (id, member) in &mut cluster.members {
            member.give(Input::Tick);
            if *id == late { member.drive() } else { member.settle() }
        }
        cluster.deliver();
        cluster.member(late).drive();
    }
    // Nothing is heard any more, and the disk takes its time: longer than the patience with a leader.
    for _ in 0..100 {
        cluster.member(late).give(Input::Tick);
        cluster.member(late).drive();
    }
    cluster.member(late).give(Input::Campaign);
    cluster.member(late).settle();
    assert_eq!(cluster.members[&late].snapshots_taken_over, [index]);
    for _ in 0..40 {
        cluster.tick();
    }
    cluster.elect();
    cluster.check_agreement();
}

fn add(kind: ConfChangeType, id: u64) -> ConfChangeV2 {
    let mut one = ConfChangeSingle { node_id: id, ..ConfChangeSingle::default() };
    one.set_change_type(kind);
    ConfChangeV2 { changes: vec![one], ..ConfChangeV2::default() }
}

#[test]
fn a_group_of_one_grows_by_a_learner_and_makes_it_a_voter() {
    let mut cluster = Cluster::of(&[1]);
    cluster.settle();
    cluster.member(1).propose(1, "before");
    cluster.settle();
    // The kept snapshot must name the newcomer, or it would be dropped for ever.
    let joiner = Config { log_tail_kept: 2, ..Config::new(2, 1, Start::Join) };
    cluster.members.insert(2, Member::new(joiner));
    let change = add(ConfChangeType::AddLearnerNode, 2);
    cluster.member(1).give(Input::ChangeMembers { proposal: ProposalId(2), change });
    for _ in 0..10 {
        cluster.tick();
        if cluster.member(1).notes.iter().any(|note| matches!(note, Output::SnapshotWanted { peer: 2 })) {
            break;
        }
    }
    let index = cluster.members[&1].core.status().applied;
    cluster.member(1).give(Input::Snapshot { index, data: Bytes::from_static(b"before") });
    for _ in 0..10 {
        cluster.tick();
    }
    assert_eq!(cluster.members[&2].snapshots_taken_over, [index]);

    let change = add(ConfChangeType::AddNode, 2);
    cluster.member(1).give(Input::ChangeMembers { proposal: ProposalId(3), change });
    cluster.settle();
    cluster.member(1).propose(4, "by both");
    for _ in 0..5 {
        cluster.tick();
    }
    assert_eq!(cluster.members[&2].data(), ["by both"]);
    let members: Vec<_> = cluster.members[&1]
        .notes
        .iter()
        .filter_map(|note| match note {
            Output::Members { members, proposal, .. } => Some((members.voters.clone(), proposal.map(|id| id.0))),
            _ => None,
        })
        .collect();
    assert_eq!(members, [(vec![1], Some(2)), (vec![1, 2], Some(3))]);

    // Alone, neither may decide anything any more: also not after a restart from its disk.
    cluster.cut_off.insert(2);
    cluster.member(1).crash();
    for _ in 0..60 {
        cluster.tick();
    }
    assert!(!cluster.members[&1].leadership.is_self, "a voter of two does not lead alone");
}

#[test]
fn a_membership_takes_effect_only_once_its_commit_is_durable() {
    let mut member = Member::new(bootstrap(1, &[1]));
    member.settle();
    let change = add(ConfChangeType::AddNode, 2);
    member.give(Input::ChangeMembers { proposal: ProposalId(1), change });
    member.drive();
    assert!(member.persist_one(), "the entry");
    member.drive();
    assert!(!member.notes.iter().any(|note| matches!(note, Output::Members { .. })), "{:?}", member.notes);
    assert_eq!(member.disk.waiting.len(), 1, "a membership is worth a write of the commit index");
    assert!(member.persist_one());
    assert!(matches!(&member.notes[..], [Output::Members { members, .. }] if members.voters == [1, 2]));
    assert_eq!(member.outbox.len(), 0, "nobody heard of it before");
}

#[test]
fn a_lone_voter_sends_nothing_of_a_term_it_could_lead_twice() {
    let mut cluster = Cluster::of(&[1]);
    cluster.settle();
    let change = add(ConfChangeType::AddLearnerNode, 2);
    cluster.member(1).give(Input::ChangeMembers { proposal: ProposalId(1), change });
    cluster.settle();
    let voter = cluster.member(1);
    let term = voter.core.status().leadership.term;
    voter.crash();
    voter.drive();
    voter.propose(2, "perhaps lost");
    voter.drive();
    assert_eq!(voter.core.status().leadership.term, term + 1);
    assert!(!voter.disk.waiting.is_empty() && voter.outbox.is_empty(), "its vote is not durable");
    voter.settle();
    assert!(!voter.outbox.is_empty());
}

/// A small deterministic generator; the seed is the whole input.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Safety while everything goes wrong, then liveness once it stops.
fn wreck(seed: u64, ids: &[u64]) -> (usize, usize) {
    let mut cluster = Cluster::of(ids);
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut mail: Vec<(u64, u64, Bytes, bool)> = Vec::new();
    let mut acknowledged: BTreeMap<u64, Bytes> = BTreeMap::new();
    // What was acknowledged when a barrier was asked for.
    let mut asked: BTreeMap<u64, u64> = BTreeMap::new();
    let mut passed = 0;
    for step in 0..3_000u64 {
        let id = ids[dice.below(ids.len() as u64) as usize];
        let member = cluster.member(id);
        match dice.below(100) {
            0..8 => member.give(Input::Tick),
            8..28 => member.drive(),
            28..42 => drop(member.persist_one()),
            42..48 => member.propose(step, &format!("{seed}/{step}")),
            48 if dice.below(4) == 0 => member.crash(),
            50..53 => {
                let must_see = acknowledged.last_key_value().map_or(0, |(index, _)| *index);
                asked.insert(step, must_see);
                member.give(Input::ReadBarrier { id: step });
            }
            48..50 => {
                let index = member.core.status().applied;
                member.give(Input::Snapshot { index, data: index.to_string().into() });
            }
            _ if mail.is_empty() => {}
            roll => {
                let (from, to, message, snapshot) = mail.remove(dice.below(mail.len().min(8) as u64) as usize);
                let arrived = roll < 97;
                if arrived {
                    cluster.member(to).give(Input::Step { message });
                }
                if snapshot {
                    cluster.member(from).give(Input::SnapshotSent { peer: to, arrived });
                }
            }
        }
        for member in cluster.members.values_mut() {
            let from = member.id;
            mail.extend(std::mem::take(&mut member.outbox).into_iter().map(|(to, m, s)| (from, to, m, s)));
            let own = member.answered.iter().filter(|(_, proposal, _)| proposal.is_some());
            acknowledged.extend(own.map(|(index, _, data)| (*index, data.clone())));
            for note in member.notes.drain(..) {
                if let Output::ReadReady { id, index } = note {
                    assert!(index >= asked[&id], "seed {seed}: a read at {index} misses what was acknowledged");
                    passed += 1;
                }
            }
        }
        if step % 50 == 0 {
            cluster.check_agreement();
        }
    }
    for member in cluster.members.values_mut() {
        member.crash();
    }
    cluster.elect();
    for _ in 0..60 {
        cluster.tick();
    }
    let leader = cluster.elect();
    cluster.member(leader).propose(u64::MAX, "the end");
    for _ in 0..10 {
        cluster.tick();
    }
    cluster.check_agreement();
    for member in cluster.members.values() {
        assert_eq!(member.data().last(), Some(&"the end"), "member {} of seed {seed}", member.id);
        for (index, data) in &acknowledged {
            let held = member.applied.get(index);
            let in_snapshot = member.snapshots_taken_over.iter().any(|taken| taken >= index);
            assert!(held == Some(data) || (held.is_none() && in_snapshot), "seed {seed} lost {index}");
        }
    }
    (acknowledged.len(), passed)
}

#[test]
fn whatever_goes_wrong_nothing_acknowledged_is_lost_and_all_agree() {
    for (ids, writes_min, reads_min) in [(&[1][..], 3_000, 1_000), (&[1, 2, 3], 500, 200)] {
        let (mut acknowledged, mut passed) = (0, 0);
        for seed in 1..=40 {
            let (more_acknowledged, more_passed) = wreck(seed, ids);
            acknowledged += more_acknowledged;
            passed += more_passed;
        }
        let enough = acknowledged > writes_min && passed > reads_min;
        assert!(enough, "too little happened among {ids:?}: {acknowledged} writes, {passed} reads");
    }
}
