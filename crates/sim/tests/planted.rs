//! Proof that the net catches fish: each planted bug is found, and by the invariant that it breaks.

use std::collections::BTreeMap;
use std::process::Command;

use sim::Bug;
use sim::invariants::Invariant;

/// A planted bug is found within so many seeds: those of the gate.
const SEEDS: u64 = 300;

/// How often each invariant was the first to catch this bug, until it was caught by `expected`.
fn caught(bug: Bug, expected: Invariant) -> BTreeMap<&'static str, u64> {
    let mut by = BTreeMap::new();
    for seed in 0..SEEDS {
        if let Some(violation) = sim::run(seed, Some(bug), false).violation {
            *by.entry(violation.invariant.id()).or_insert(0) += 1;
            if violation.invariant == expected {
                println!("{bug:?}: {} at seed {seed}", expected.id());
                return by;
            }
        }
    }
    panic!("{bug:?} was not caught by {} within {SEEDS} seeds, but by {by:?}", expected.id());
}

/// It is caught by this invariant and, until then, by none but `also`.
fn is_caught(bug: Bug, expected: Invariant, also: &[&str]) {
    let by = caught(bug, expected);
    assert!(by.keys().all(|id| *id == expected.id() || also.contains(id)), "{bug:?}: {by:?}");
}

#[test]
fn an_answer_before_the_flush_is_caught_as_not_durable() {
    is_caught(Bug::AnswerBeforeFlush, Invariant::AckIsDurable, &[]);
}

#[test]
fn a_slot_that_is_handed_out_twice_is_caught() {
    is_caught(Bug::HandsOutTwice, Invariant::SlotOnce, &[]);
}

#[test]
fn a_prepared_slot_that_is_used_again_is_caught() {
    is_caught(Bug::ReusesPrepared, Invariant::PoolIsPristine, &[]);
}

#[test]
fn a_lease_that_outlasts_its_nodes_loss_is_caught_on_either_side() {
    is_caught(Bug::LeaseTooLong, Invariant::LeaseBeforeLost, &[]);
    is_caught(Bug::LostTooSoon, Invariant::LeaseBeforeLost, &[]);
}

#[test]
fn a_command_past_the_lease_is_caught() {
    is_caught(Bug::LeaseIgnored, Invariant::NothingPastTheLease, &[]);
}

#[test]
fn a_key_that_makes_two_is_caught() {
    is_caught(Bug::KeyTwice, Invariant::KeyOnce, &[]);
}

#[test]
fn a_placement_of_an_earlier_life_is_caught() {
    is_caught(Bug::OldLife, Invariant::OwnLifeOnly, &[]);
}

#[test]
fn a_late_copy_that_brings_back_what_has_ended_is_caught() {
    is_caught(Bug::ForgetsEnded, Invariant::EndedStaysEnded, &[]);
}

#[test]
fn an_older_generation_that_is_accepted_is_caught() {
    is_caught(Bug::AnyGeneration, Invariant::OneOwner, &["F2"]);
}

#[test]
fn removal_by_a_stale_view_is_caught() {
    // Stock that is taken twice in one life breaks more than one promise.
    let by = caught(Bug::StaleStock, Invariant::KeepsWhatIsPlaced);
    assert!(by.contains_key(Invariant::KeepsWhatIsPlaced.id()), "{by:?}");
}

#[test]
fn no_planted_bug_is_compiled_into_what_is_shipped() {
    let tree = |package: &str| {
        let args = ["tree", "--offline", "-p", package, "-e", "features,normal,build", "--prefix", "none"];
        let asked = Command::new(env!("CARGO")).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
        String::from_utf8(asked.stdout).unwrap()
    };
    assert!(tree("sim").contains("planted-bugs"), "the question finds what is there");
    assert!(!tree("cli").contains("planted-bugs"));
    assert!(!tree("agent").contains("planted-bugs"));
}
