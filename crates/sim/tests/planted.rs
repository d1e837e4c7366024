//! Proof that the net catches fish: each planted bug is found, and by the invariant that it breaks.

use std::collections::BTreeMap;

use sim::Bug;
use sim::invariants::Invariant;

/// A planted bug is found within so many seeds.
const SEEDS: u64 = 300;

/// How often each invariant was the first to catch this bug, until it was caught `enough` times by `expected`.
fn caught(bug: Bug, expected: Invariant) -> BTreeMap<&'static str, u64> {
    let mut by = BTreeMap::new();
    for seed in 0..SEEDS {
        if let Some(violation) = sim::run(seed, Some(bug), false).violation {
            *by.entry(violation.invariant.id()).or_insert(0) += 1;
            if violation.invariant == expected {
                return by;
            }
        }
    }
    panic!("{bug:?} was not caught by {} within {SEEDS} seeds, but by {by:?}", expected.id());
}

#[test]
fn an_answer_before_the_flush_is_caught_as_not_durable() {
    let by = caught(Bug::AnswerBeforeFlush, Invariant::AckIsDurable);
    // An environment may be handed over, or a forgotten entry be written anew, before anybody is answered.
    assert!(by.keys().all(|id| ["D1", "D3", "S4"].contains(id)), "{by:?}");
}

#[test]
fn a_slot_that_is_handed_out_twice_is_caught() {
    let by = caught(Bug::HandsOutTwice, Invariant::SlotOnce);
    assert!(by.keys().all(|id| *id == "S1"), "{by:?}");
}

#[test]
fn a_prepared_slot_that_is_used_again_is_caught() {
    let by = caught(Bug::ReusesPrepared, Invariant::PoolIsPristine);
    assert!(by.keys().all(|id| *id == "S3"), "{by:?}");
}
