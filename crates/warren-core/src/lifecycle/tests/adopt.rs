//! What an earlier life of the node left: every answer that a container can give.

use super::check;

#[test]
fn a_create_that_was_cut_off_is_finished() {
    check(
        "
        adopt fresh
          show creating gen 1
          run prepare gen 1
          wake at 60000
        join 2
        done prepare
          run activate gen 1
        done activate
          show running gen 1
          answer 2: created a
        ",
    );
    // Its slot is gone: another one is made from the spec.
    check(
        "
        adopt fresh
          show creating gen 1
          run prepare gen 1
          wake at 60000
        fail prepare
          run make
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
fn a_create_that_was_cut_off_and_can_not_be_finished_is_recorded_as_failed() {
    check(
        "
        adopt fresh
          show creating gen 1
          run prepare gen 1
          wake at 60000
        join 2
        fail prepare
          run make
        fail make
          run make
        fail make
          propose create-failed gen 1: internal (internal of the test)
        create-failed
          answer 2: internal (internal of the test)
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
fn a_create_that_was_cut_off_does_not_keep_anybody_waiting_for_ever() {
    check(
        "
        adopt fresh
          show creating gen 1
          run prepare gen 1
          wake at 60000
        join 2
        at 60000
          answer 2: interrupted (the sandbox was not up in time; it may still come up)
        ",
    );
}

#[test]
fn a_running_one_is_taken_over_as_it_is() {
    check(
        "
        adopt activated
          show creating gen 1
          run examine
        join 2
        found active
          show running gen 1
          answer 2: created a
        ",
    );
}

#[test]
fn an_agent_that_was_not_handed_its_environment_yet_is_handed_it() {
    check(
        "
        adopt activated
          show creating gen 1
          run examine
        join 2
        found prepared
          run activate gen 1
        done activate
          show running gen 1
          answer 2: created a
        ",
    );
    check(
        "
        adopt activated
          show creating gen 1
          run examine
        found bare
          run prepare gen 1
        done prepare
          run activate gen 1
        done activate
          show running gen 1
        ",
    );
}

#[test]
fn a_container_of_another_placement_is_not_touched() {
    for found in ["prepared-for-another", "active-of-another", "active-of-older"] {
        let mut script = super::Script::new();
        script.line("adopt activated");
        script.line("join 2");
        let why = "its container belongs to another placement";
        assert_eq!(
            script.line(&format!("found {found}")),
            [format!("answer 2: wrong_state ({why})"), format!("show error gen 1 ({why})")],
            "{found}",
        );
    }
    check(
        "
        adopt activated expires 5000
          show creating gen 1
          run examine
        found active-of-another
          show error gen 1 (its container belongs to another placement)
          wake at 5000
        start 2
          answer 2: wrong_state (cannot start a sandbox that is error)
        at 5000
          propose expire 5000
          wake at 65000
        ",
    );
}

#[test]
fn one_that_ended_meanwhile_is_stopped_with_the_reason() {
    check(
        "
        adopt activated
          show creating gen 1
          run examine
        join 2
        found exited
          answer 2: created a
          show stopped gen 1 (host rebooted)
        start 3
          propose wanted running gen 1
        wanted running
          run start
        done start
          run prepare gen 1
        done prepare
          run activate gen 1
        done activate
          answer 3: started
          show running gen 1
        ",
    );
}

#[test]
fn one_that_is_meant_to_be_stopped_is_stopped() {
    check(
        "
        adopt activated wanted stopped
          show creating gen 1
          run examine
        found exited
          show stopped gen 1
        ",
    );
    // Its stop was cut off.
    check(
        "
        adopt activated wanted stopped
          show creating gen 1
          run examine
        found active
          run stop
        done stop
          show stopped gen 1
        ",
    );
}

#[test]
fn one_that_was_removed_behind_our_back_is_in_error() {
    check(
        "
        adopt activated expires 5000
          show creating gen 1
          run examine
        join 2
        found missing
          answer 2: wrong_state (its container was removed behind Warren's back; its files are lost)
          show error gen 1 (its container was removed behind Warren's back; its files are lost)
          wake at 5000
        start 3
          answer 3: wrong_state (cannot start a sandbox that is error)
        join 4
          answer 4: created a
        at 5000
          propose expire 5000
          wake at 65000
        destroyed
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
fn unknown_is_not_gone() {
    check(
        "
        adopt activated
          show creating gen 1
          run examine
        join 2
        fail examine
          show unreachable gen 1 (internal of the test)
          wake at 2000
        stop 3
          answer 3: wrong_state (cannot stop a sandbox that is unreachable)
        at 2000
          run examine
        fail examine
          wake at 4000
        at 4000
          run examine
        found active
          show running gen 1
          answer 2: created a
        ",
    );
}

#[test]
fn what_can_not_be_asked_still_ends_in_its_time() {
    check(
        "
        adopt activated expires 3000
          show creating gen 1
          run examine
        fail examine
          show unreachable gen 1 (internal of the test)
          wake at 2000
        at 2000
          run examine
        fail examine
          wake at 4000
        at 4000
          run examine
        fail examine
          propose expire 3000
          wake at 6000
        # Extended where nobody could tell this node.
        kept expires 7000
        at 6000
          run examine
        fail examine
          wake at 8000
        at 8000
          run examine
        fail examine
          propose expire 7000
          wake at 10000
        destroyed
          run kill
        done kill
          run remove
        ",
    );
}

#[test]
fn one_that_is_being_looked_at_can_be_destroyed() {
    check(
        "
        adopt activated
          show creating gen 1
          run examine
        join 2
        destroy 3
          propose destroy
        destroyed
          answer 2: gone (the sandbox was deleted meanwhile)
        found active
          run kill
        done kill
          answer 3: destroyed
          run remove
        ",
    );
}
