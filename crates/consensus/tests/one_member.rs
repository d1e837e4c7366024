//! The core alone, on a disk that is slow, crashes and fails.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use bytes::Bytes;
use common::{FakeDisk, Member, bootstrap};
use consensus::{
    Config, Consensus, DropReason, ENTRY_BYTES_MAX, Inconsistent, Input, Output, ProposalId, Recovered,
    SnapshotRefusal, Start, StartError,
};

fn leader() -> Member {
    let mut member = Member::new(bootstrap(1, &[1]));
    member.settle();
    assert!(member.leadership.is_self, "a group of one leads at once, without a tick");
    member
}

#[test]
fn nothing_is_applied_before_its_batch_is_persisted() {
    let mut member = leader();
    member.propose(1, "a");
    member.drive();
    member.drive();
    assert_eq!(member.data(), [""; 0]);
    assert_eq!(member.disk.waiting.len(), 1);
    assert!(member.persist_one());
    member.drive();
    assert_eq!(member.answered.iter().map(|(_, id, _)| *id).collect::<Vec<_>>(), [Some(1)]);
    assert_eq!(member.disk.waiting.len(), 0, "a commit index alone costs no write");
}

#[test]
fn all_that_waited_shares_one_batch() {
    let mut member = leader();
    let before = member.disk.durable.batch;
    for proposal in 0..100 {
        member.propose(proposal, &format!("p{proposal}"));
    }
    member.settle();
    assert_eq!(member.disk.durable.batch, before + 1);
    assert_eq!(member.data(), (0..100).map(|n| format!("p{n}")).collect::<Vec<_>>());
}

#[test]
fn batches_may_be_reported_persisted_together() {
    let mut member = leader();
    for (proposal, data) in [(1, "a"), (2, "b"), (3, "c")] {
        member.propose(proposal, data);
        member.drive();
    }
    assert_eq!(member.disk.waiting.len(), 3);
    for batch in std::mem::take(&mut member.disk.waiting) {
        member.disk.durable.apply(&batch);
    }
    let batch = member.disk.durable.batch;
    member.give(Input::Persisted { batch });
    member.drive();
    assert_eq!(member.data(), ["a", "b", "c"]);
}

#[test]
fn a_crash_keeps_what_was_applied_and_loses_at_most_the_rest() {
    // How many of the batches of three proposals are durable at the crash, and what the next life applies.
    for (persisted, expected) in [(0, vec![]), (1, vec!["a"]), (2, vec!["a", "b"]), (3, vec!["a", "b", "c"])] {
        let mut member = leader();
        for (proposal, data) in [(1, "a"), (2, "b"), (3, "c")] {
            member.propose(proposal, data);
            member.drive();
        }
        for _ in 0..persisted {
            assert!(member.persist_one());
        }
        member.crash();
        member.settle();
        assert!(member.leadership.is_self);
        assert_eq!(member.data(), expected, "{persisted} batches persisted");
        let own = member.answered.iter().filter(|(_, proposal, _)| proposal.is_some()).count();
        assert_eq!(own, 0, "an earlier life's entry answers nobody in this one");
    }
}

#[test]
fn a_crash_at_every_point_of_the_start_leaves_a_store_that_starts() {
    for persisted in 0..4 {
        let mut member = Member::new(bootstrap(1, &[1]));
        member.drive();
        for _ in 0..persisted {
            member.persist_one();
            member.drive();
        }
        member.crash();
        member.settle();
        member.propose(1, "works");
        member.settle();
        assert_eq!(member.data(), ["works"], "{persisted} batches persisted");
        assert_eq!(member.disk.durable.snapshot.members.voters, [1]);
    }
}

#[test]
fn proposals_that_can_not_be_appended_are_surely_dropped() {
    let lost = || Member::new(bootstrap(1, &[1, 2, 3]));
    let cases = [
        (leader(), Bytes::new(), DropReason::Empty),
        (lost(), Bytes::from_static(b"x"), DropReason::NoLeader),
        (leader(), Bytes::from(vec![0; ENTRY_BYTES_MAX + 1]), DropReason::TooLarge),
    ];
    for (mut member, data, reason) in cases {
        member.give(Input::Propose { proposal: ProposalId(9), data });
        member.settle();
        assert_eq!(member.notes, [Output::Dropped { proposal: ProposalId(9), reason }]);
        assert_eq!(member.data(), [""; 0]);
    }
}

#[test]
fn a_stuck_disk_bounds_what_is_in_flight() {
    let mut member = leader();
    let data = Bytes::from(vec![7; ENTRY_BYTES_MAX]);
    let mut accepted = 0;
    while member.notes.is_empty() {
        member.give(Input::Propose { proposal: ProposalId(accepted), data: data.clone() });
        member.drive();
        accepted += 1;
        assert!(accepted < 1_000, "nothing bounds it");
    }
    let refused = Output::Dropped { proposal: ProposalId(accepted - 1), reason: DropReason::Overloaded };
    assert_eq!(member.notes, [refused]);
    member.settle();
    assert_eq!(member.answered.len() as u64, accepted - 1, "what was accepted is applied once the disk moves");
}

#[test]
fn read_barriers_wait_for_what_is_being_applied() {
    let mut member = leader();
    member.propose(1, "a");
    member.give(Input::ReadBarrier { id: 1 });
    member.give(Input::ReadBarrier { id: 2 });
    member.drive();
    // Nothing of the proposal is acknowledged yet, so the barrier need not see it.
    assert_eq!(member.reads_ready(), [1, 2]);
    member.settle();
    member.give(Input::ReadBarrier { id: 3 });
    member.settle();
    let applied = member.core.status().applied;
    assert_eq!(member.notes.last(), Some(&Output::ReadReady { id: 3, index: applied }));
}

#[test]
fn a_read_barrier_right_after_a_restart_sees_what_the_earlier_life_acknowledged() {
    let mut member = leader();
    member.propose(1, "a");
    member.settle();
    assert_eq!(member.data(), ["a"]);
    member.crash();
    member.give(Input::ReadBarrier { id: 1 });
    member.drive();
    assert_eq!(member.reads_ready(), [0; 0], "the new term's first entry is not durable, so nothing is certain");
    member.settle();
    assert_eq!(member.reads_ready(), [1]);
    assert_eq!(member.data(), ["a"]);
}

#[test]
fn without_a_leader_a_read_barrier_is_dropped() {
    let mut member = Member::new(bootstrap(1, &[1, 2, 3]));
    member.give(Input::ReadBarrier { id: 5 });
    member.settle();
    assert_eq!(member.notes, [Output::ReadDropped { id: 5, reason: DropReason::NoLeader }]);
}

#[test]
fn a_snapshot_compacts_the_log_and_the_next_life_starts_from_it() {
    let mut member = leader();
    for proposal in 0..10 {
        member.propose(proposal, &format!("p{proposal}"));
    }
    member.settle();
    let index = member.answered[6].0;
    member.give(Input::Snapshot { index, data: Bytes::from_static(b"state up to p6") });
    member.settle();
    let durable = &member.disk.durable;
    assert_eq!(durable.snapshot.at.index, index);
    assert_eq!(durable.base.index, index - member.config.log_tail_kept);

    member.crash();
    member.settle();
    assert_eq!(member.snapshots_taken_over, [index]);
    assert_eq!(member.data(), ["p7", "p8", "p9"]);
    member.propose(1, "after");
    member.settle();
    assert_eq!(member.data().last(), Some(&"after"));
}

#[test]
fn a_snapshot_that_was_not_persisted_is_as_if_it_had_not_been_made() {
    let mut member = leader();
    member.propose(1, "a");
    member.settle();
    let index = member.answered[0].0;
    member.give(Input::Snapshot { index, data: Bytes::from_static(b"state") });
    member.crash();
    member.settle();
    assert_eq!(member.snapshots_taken_over, [0; 0]);
    assert_eq!(member.data(), ["a"]);
}

#[test]
fn useless_snapshots_are_refused() {
    let mut member = leader();
    member.propose(1, "a");
    member.settle();
    let index = member.answered[0].0;
    let refused = |index, reason| Output::SnapshotRefused { index, reason };
    member.give(Input::Snapshot { index: index + 1, data: Bytes::new() });
    member.give(Input::Snapshot { index, data: Bytes::new() });
    member.give(Input::Snapshot { index, data: Bytes::new() });
    let expected = [refused(index + 1, SnapshotRefusal::NotApplied), refused(index, SnapshotRefusal::NotNewer)];
    assert_eq!(member.notes, expected);
}

#[test]
fn a_failed_write_stops_the_member_for_good() {
    let mut member = leader();
    member.propose(1, "a");
    member.drive();
    let batch = member.disk.waiting[0].number;
    member.give(Input::PersistFailed { batch, reason: "no space".to_owned() });
    assert!(matches!(&member.notes[..], [Output::Halt { reason }] if reason.contains("no space")));
    member.notes.clear();
    member.persist_one();
    member.propose(2, "b");
    member.settle();
    assert_eq!((member.notes.len(), member.data().len()), (0, 0));
    assert!(member.core.status().halted);
}

#[test]
fn what_can_not_start_says_why() {
    let mut gap = leader().disk.durable;
    gap.entries[0].index += 1;
    let start = |voters: &[u64]| Start::Bootstrap { voters: voters.to_vec() };
    let refused = |config, recovered| Consensus::new(config, recovered).err().unwrap();
    let fresh = Recovered::default;
    assert!(matches!(refused(Config::new(0, 1, start(&[1])), fresh()), StartError::ZeroId));
    for voters in [&[][..], &[1, 1], &[0, 1]] {
        assert!(matches!(refused(Config::new(1, 1, start(voters)), fresh()), StartError::Voters(_)), "{voters:?}");
    }
    let error = refused(Config::new(1, 1, Start::Join), gap);
    assert!(matches!(error, StartError::Recovered(Inconsistent::Gap { expected: 2, found: 3 })), "{error:?}");
}

#[test]
fn the_same_inputs_give_the_same_outputs() {
    let run = || {
        let mut core = Consensus::new(bootstrap(1, &[1]), FakeDisk::default().durable).unwrap();
        let mut trace = Vec::new();
        for step in 0..200u64 {
            let input = match step % 5 {
                0 => Input::Tick,
                1 | 2 => Input::Propose { proposal: ProposalId(step), data: vec![step as u8; 10].into() },
                3 => Input::Drive,
                _ => {
                    let given = trace.iter().filter(|output| matches!(output, Output::Persist(_))).count();
                    Input::Persisted { batch: given as u64 }
                }
            };
            trace.extend(core.handle(input));
        }
        trace
    };
    let first = run();
    assert!(first.iter().any(|output| matches!(output, Output::Apply(_))));
    assert_eq!(first, run());
}
