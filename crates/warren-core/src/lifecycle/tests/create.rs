//! From the claim of a slot to the answer.

use super::{Script, check, show};
use crate::lifecycle::{Change, Input, Output};
use crate::placement::Outcome;
use crate::script;
use types::{Generation, Timestamp};

#[test]
fn warm_and_prepared_before_it_is_placed() {
    check(
        "
        create warm
          propose place on n1/7 gen 1
          run prepare gen 1
          wake at 60000
        done prepare
        placed
          show creating gen 1
          run activate gen 1
        done activate
          show running gen 1
          answer 1: created a
        ",
    );
}

#[test]
fn warm_and_placed_before_it_is_prepared() {
    check(
        "
        create warm
          propose place on n1/7 gen 1
          run prepare gen 1
          wake at 60000
        placed
          show creating gen 1
        done prepare
          run activate gen 1
        done activate
          show running gen 1
          answer 1: created a
        ",
    );
}

#[test]
fn cold_takes_the_same_steps_after_the_slot_is_made() {
    check(
        "
        create cold
          propose place on n1/7 gen 1
          run make
          wake at 60000
        done make
          run prepare gen 1
        placed
          show creating gen 1
        done prepare
          run activate gen 1
        done activate
          show running gen 1
          answer 1: created a
        ",
    );
    check(
        "
        create cold
          propose place on n1/7 gen 1
          run make
          wake at 60000
        placed
          show creating gen 1
        done make
          run prepare gen 1
        done prepare
          run activate gen 1
        done activate
          show running gen 1
          answer 1: created a
        ",
    );
}

#[test]
fn the_environment_leaves_only_after_the_placement_is_applied() {
    // Whatever the order of what happens, Activate alone carries it, and never before Placed.
    let mut script = Script::new();
    let mut outputs = script.line("create cold");
    for line in ["done make", "done prepare", "at 100", "at 200", "dropped", "at 300"] {
        outputs.extend(script.line(line));
    }
    assert!(!outputs.iter().any(|line| line.starts_with("run activate")), "{outputs:?}");
    let change = Change::Place(Outcome::Placed { generation: Generation(1) });
    let outputs = script.machine.handle(Timestamp(300), Input::Applied { change });
    let Some(Output::Run(crate::step::Step::Activate { sealed_env, .. })) = outputs.last() else {
        panic!("{:?}", outputs.iter().map(show).collect::<Vec<_>>());
    };
    assert_eq!(sealed_env[..], *script::sealed_env());
}

#[test]
fn a_warm_slot_that_died_in_our_hands_is_made_again() {
    check(
        "
        create warm
          propose place on n1/7 gen 1
          run prepare gen 1
          wake at 60000
        fail prepare
          run make
        placed
          show creating gen 1
        done make
          run prepare gen 1
        done prepare
          run activate gen 1
        done activate
          show running gen 1
          answer 1: created a
        ",
    );
    // Dead between prepare and activate.
    check(
        "
        create warm
          propose place on n1/7 gen 1
          run prepare gen 1
          wake at 60000
        done prepare
        died
        placed
          show creating gen 1
          run activate gen 1
        fail activate
          run make
        done make
          run prepare gen 1
        done prepare
          run activate gen 1
        done activate
          show running gen 1
          answer 1: created a
        ",
    );
}

#[test]
fn a_slot_that_can_not_be_made_fails_the_create_after_its_commit() {
    check(
        "
        create cold
          propose place on n1/7 gen 1
          run make
          wake at 60000
        placed
          show creating gen 1
        fail make
          run make
        fail make
          propose create-failed gen 1: internal (internal of the test)
        create-failed
          answer 1: internal (internal of the test)
          run kill
        done kill
          run remove
        done remove
          propose removed gen 1
        removed
          finished
        ",
    );
}

#[test]
fn a_slot_that_failed_before_the_commit_waits_for_what_the_log_says() {
    check(
        "
        create cold
          propose place on n1/7 gen 1
          run make
          wake at 60000
        fail make
          run make
        fail make
        placed
          show creating gen 1
          propose create-failed gen 1: internal (internal of the test)
        create-failed
          answer 1: internal (internal of the test)
          run kill
        done kill
          run remove
        ",
    );
    // Another one won: its failure is nobody's business.
    check(
        "
        create cold
          propose place on n1/7 gen 1
          run make
          wake at 60000
        fail make
          run make
        fail make
        already b
          answer 1: winner b
          run kill
        done kill
          run remove
        done remove
          finished
        ",
    );
}

#[test]
fn what_is_impossible_is_not_tried_twice() {
    check(
        "
        create cold
          propose place on n1/7 gen 1
          run make
          wake at 60000
        placed
          show creating gen 1
        fail make code unprocessable
          propose create-failed gen 1: unprocessable (unprocessable of the test)
        ",
    );
    check(
        "
        create cold
          propose place on n1/7 gen 1
          run make
          wake at 60000
        placed
          show creating gen 1
        fail make code not_implemented
          propose create-failed gen 1: not_implemented (not_implemented of the test)
        ",
    );
    // A warm slot that can not take the limits is not worth a second one either.
    check(
        "
        create warm
          propose place on n1/7 gen 1
          run prepare gen 1
          wake at 60000
        placed
          show creating gen 1
        fail prepare code unprocessable
          propose create-failed gen 1: unprocessable (unprocessable of the test)
        ",
    );
}

#[test]
fn a_loser_destroys_its_slot_and_names_the_winner() {
    check(
        "
        create warm
          propose place on n1/7 gen 1
          run prepare gen 1
          wake at 60000
        done prepare
        already b
          answer 1: winner b
          run kill
        done kill
          run remove
        done remove
          finished
        ",
    );
    // Its step under way ends first.
    check(
        "
        create cold
          propose place on n1/7 gen 1
          run make
          wake at 60000
        already b
          answer 1: winner b
        done make
          run kill
        done kill
          run remove
        done remove
          finished
        ",
    );
}

#[test]
fn a_refused_placement_destroys_its_slot() {
    for (refusal, answer) in [
        ("stale", "unavailable (the node restarted while it was creating this sandbox)"),
        ("taken", "unavailable (the sandbox's id is taken)"),
        ("mismatch", "idempotency_mismatch (this idempotency key was used with another request body)"),
        ("gone b", "gone (what this idempotency key made is gone)"),
        ("failed unprocessable", "unprocessable (unprocessable of the test)"),
    ] {
        let mut script = Script::new();
        script.line("create warm");
        script.line("done prepare");
        let outputs = script.line(&format!("refused {refusal}"));
        assert_eq!(outputs, [format!("answer 1: {answer}"), "run kill".into()]);
        assert_eq!(script.line("done kill"), ["run remove"]);
        // The map knows nothing of it: there is nothing to report.
        assert_eq!(script.line("done remove"), ["finished"]);
    }
}

#[test]
fn a_dropped_proposal_is_made_again() {
    check(
        "
        create warm
          propose place on n1/7 gen 1
          run prepare gen 1
          wake at 60000
        dropped
          wake at 100
        done prepare
        at 100
          propose place on n1/7 gen 1
        dropped
          wake at 200
        at 200
          propose place on n1/7 gen 1
        placed
          show creating gen 1
          run activate gen 1
        done activate
          show running gen 1
          answer 1: created a
        ",
    );
}

#[test]
fn without_a_leader_until_the_deadline_it_surely_did_not_happen() {
    check(
        "
        create warm
          propose place on n1/7 gen 1
          run prepare gen 1
          wake at 60000
        done prepare
        dropped
          wake at 100
        at 100
          propose place on n1/7 gen 1
        dropped
          wake at 200
        at 60000
          answer 1: no_quorum (the cluster has no leader to record this sandbox)
          run kill
        done kill
          run remove
        done remove
          finished
        ",
    );
}

#[test]
fn an_unknown_fate_at_the_deadline_is_called_unknown() {
    check(
        "
        create warm
          propose place on n1/7 gen 1
          run prepare gen 1
          wake at 60000
        done prepare
        at 60000
          answer 1: interrupted (the sandbox was not up in time; it may still come up)
        # Nobody waits any more, but it comes up for whoever asks with the key.
        placed
          show creating gen 1
          run activate gen 1
        join 2
        done activate
          show running gen 1
          answer 2: created a
        ",
    );
    check(
        "
        create cold
          propose place on n1/7 gen 1
          run make
          wake at 60000
        placed
          show creating gen 1
        at 60000
          answer 1: interrupted (the sandbox was not up in time; it may still come up)
        done make
          run prepare gen 1
        done prepare
          run activate gen 1
        done activate
          show running gen 1
        ",
    );
}

#[test]
fn a_proposal_applied_twice_counts_once() {
    check(
        "
        create warm
          propose place on n1/7 gen 1
          run prepare gen 1
          wake at 60000
        dropped
          wake at 100
        at 100
          propose place on n1/7 gen 1
        placed
          show creating gen 1
        placed
        done prepare
          run activate gen 1
        placed
        done activate
          show running gen 1
          answer 1: created a
        placed
        ",
    );
}

#[test]
fn a_failure_whose_record_was_dropped_is_recorded_again() {
    check(
        "
        create cold
          propose place on n1/7 gen 1
          run make
          wake at 60000
        placed
          show creating gen 1
        fail make
          run make
        fail make
          propose create-failed gen 1: internal (internal of the test)
        dropped
          wake at 100
        at 100
          propose create-failed gen 1: internal (internal of the test)
        create-failed
          answer 1: internal (internal of the test)
          run kill
        ",
    );
}

#[test]
fn whoever_joins_is_answered_with_the_first_one() {
    check(
        "
        create warm
          propose place on n1/7 gen 1
          run prepare gen 1
          wake at 60000
        join 2
        placed
          show creating gen 1
        done prepare
          run activate gen 1
        done activate
          show running gen 1
          answer 1: created a
          answer 2: created a
        join 3
          answer 3: created a
        ",
    );
}

#[test]
fn destroyed_while_it_is_being_created() {
    check(
        "
        create cold
          propose place on n1/7 gen 1
          run make
          wake at 60000
        placed
          show creating gen 1
        destroy 2
          propose destroy
        destroyed
          answer 1: gone (the sandbox was deleted meanwhile)
        # What is under way ends first, and its end begins nothing but the kill.
        done make
          run kill
        done kill
          answer 2: destroyed
          run remove
        done remove
          propose removed gen 1
        removed
          finished
        ",
    );
    check(
        "
        create warm
          propose place on n1/7 gen 1
          run prepare gen 1
          wake at 60000
        placed
          show creating gen 1
        done prepare
          run activate gen 1
        destroy 2
          propose destroy
        done activate
          show running gen 1
          answer 1: created a
        destroyed
          run kill
        done kill
          answer 2: destroyed
          run remove
        ",
    );
}

#[test]
fn what_is_being_created_can_be_neither_stopped_nor_started() {
    check(
        "
        create warm
          propose place on n1/7 gen 1
          run prepare gen 1
          wake at 60000
        stop 2
          answer 2: wrong_state (cannot stop a sandbox that is creating)
        start 3
          answer 3: wrong_state (cannot start a sandbox that is creating)
        placed
          show creating gen 1
        stop 4
          answer 4: wrong_state (cannot stop a sandbox that is creating)
        ",
    );
}
