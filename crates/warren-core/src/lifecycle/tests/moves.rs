//! A sandbox that is placed again: on its new owner, and on the old one.

use super::*;

#[test]
fn it_is_asked_for_only_once_its_slot_is_prepared() {
    check_in_slot(
        "s",
        "
        again warm gen 2
          run prepare gen 2
          wake at 60000
        done prepare
          propose move to n1/7 in s gen 2
        placed gen 2
          show creating gen 2
          run activate gen 2
        done activate
          show running gen 2
          answer 1: created a
        # From here on it is like any other.
        destroy 2
          propose destroy
        destroyed
          run kill
        done kill
          answer 2: destroyed
          run remove
        done remove
          propose removed gen 2
        removed
          finished
        ",
    );
}

#[test]
fn a_slot_that_fails_has_moved_nothing() {
    check_in_slot(
        "s",
        "
        again cold gen 2
          run make
          wake at 60000
        fail make
          run make
        fail make
          answer 1: internal (internal of the test)
          run kill
        done kill
          run remove
        done remove
          finished
        ",
    );
}

#[test]
fn who_comes_second_buries_his_slot() {
    check_in_slot(
        "s",
        "
        again warm gen 2
          run prepare gen 2
          wake at 60000
        done prepare
          propose move to n1/7 in s gen 2
        refused superseded
          answer 1: unavailable (the sandbox is placed elsewhere by now, or its node is back)
          run kill
        done kill
          run remove
        done remove
          finished
        ",
    );
}

#[test]
fn a_move_that_did_not_enter_the_log_is_proposed_again() {
    check_in_slot(
        "s",
        "
        again warm gen 2
          run prepare gen 2
          wake at 60000
        done prepare
          propose move to n1/7 in s gen 2
        dropped
          wake at 100
        at 100
          propose move to n1/7 in s gen 2
        placed gen 2
          show creating gen 2
          run activate gen 2
        ",
    );
}

#[test]
fn one_that_can_not_be_activated_is_in_error_and_not_gone() {
    check_in_slot(
        "s",
        "
        again warm gen 2
          run prepare gen 2
          wake at 60000
        done prepare
          propose move to n1/7 in s gen 2
        placed gen 2
          show creating gen 2
          run activate gen 2
        fail activate code unprocessable
          propose in-error gen 2: unprocessable of the test
        outdated
          answer 1: unprocessable (unprocessable of the test)
          run kill
        done kill
          run remove
        done remove
          propose removed gen 2
        ",
    );
}

#[test]
fn the_old_owner_kills_removes_and_reports() {
    check_running(
        "
        destroy 2
          propose destroy
        outdated
          answer 2: interrupted (the sandbox is another node's by now, or in error)
          run kill
        destroy 3
          answer 3: interrupted (the sandbox is another node's by now, or in error)
        # Said once more, by the map as a whole.
        bury tombstone 1
        done kill
          run remove
        done remove
          propose removed gen 1
        bury tombstone 1
        removed
          finished
        ",
    );
}

#[test]
fn the_old_owner_learns_it_in_the_middle_of_a_start() {
    check_running(
        "
        stop 2
          propose wanted stopped gen 1
        wanted stopped
          run stop
        done stop
          answer 2: stopped
          show stopped gen 1
        start 3
          propose wanted running gen 1
        wanted running
          run start
        outdated
          answer 3: interrupted (the sandbox is another node's by now, or in error)
        done start
          run kill
        ",
    );
}

#[test]
fn remains_of_an_earlier_life_are_reported_under_their_own_generation() {
    check_in_slot(
        "s",
        "
        bury tombstone 4
          run kill
        done kill
          run remove
        done remove
          propose removed gen 4
        removed
          finished
        ",
    );
}

#[test]
fn a_burial_that_nobody_waited_for_is_reported_once_somebody_does() {
    check_in_slot(
        "s",
        "
        again warm gen 2
          run prepare gen 2
          wake at 60000
        done prepare
          propose move to n1/7 in s gen 2
        refused superseded
          answer 1: unavailable (the sandbox is placed elsewhere by now, or its node is back)
          run kill
        bury tombstone 2
        done kill
          run remove
        done remove
          propose removed gen 2
        ",
    );
}
