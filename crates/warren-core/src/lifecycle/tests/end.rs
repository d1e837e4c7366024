//! From the destroy to the last trace.

use super::{check, check_running};

#[test]
fn whoever_destroys_is_answered_when_every_process_is_dead() {
    check_running(
        "
        destroy 2
          propose destroy
        destroy 3
        destroyed
          run kill
        destroy 4
        done kill
          answer 2: destroyed
          answer 3: destroyed
          answer 4: destroyed
          run remove
        # Dead and out of reach already, whatever is left of it.
        destroy 5
          answer 5: destroyed
        done remove
          propose removed gen 1
        removed
          finished
        ",
    );
}

#[test]
fn a_kill_that_fails_is_repeated_and_nobody_is_told_that_it_is_dead() {
    check_running(
        "
        destroy 2
          propose destroy
        destroyed
          run kill
        fail kill
          wake at 200
        destroy 3
        at 200
          run kill
        fail kill
          wake at 400
        at 400
          run kill
        done kill
          answer 2: destroyed
          answer 3: destroyed
          run remove
        ",
    );
}

#[test]
fn a_removal_that_fails_is_repeated_ever_more_slowly_and_then_reported() {
    check_running(
        "
        destroy 2
          propose destroy
        destroyed
          run kill
        done kill
          answer 2: destroyed
          run remove
        fail remove
          wake at 200
        at 200
          run remove
        fail remove
          wake at 600
        at 600
          run remove
        fail remove
          wake at 1400
        at 1400
          run remove
        done remove
          propose removed gen 1
        dropped
          wake at 1500
        at 1500
          propose removed gen 1
        removed
          finished
        ",
    );
}

#[test]
fn a_dropped_destroy_is_proposed_again() {
    check_running(
        "
        destroy 2
          propose destroy
        dropped
          wake at 100
        at 100
          propose destroy
        destroyed
          run kill
        ",
    );
}

#[test]
fn what_is_gone_already_is_destroyed() {
    check_running(
        "
        destroy 2
          propose destroy
        destroyed as unknown
          answer 2: destroyed
        ",
    );
}

#[test]
fn a_destroy_cuts_off_a_stop_and_a_start() {
    check_running(
        "
        stop 2
          propose wanted stopped gen 1
        destroy 3
          propose destroy
        destroyed
          answer 2: gone (the sandbox was deleted meanwhile)
          run kill
        # Its wish was applied behind the destroy.
        wanted unknown
        done kill
          answer 3: destroyed
          run remove
        ",
    );
    check_running(
        "
        stop 2
          propose wanted stopped gen 1
        wanted stopped
          run stop
        destroy 3
          propose destroy
        destroyed
          answer 2: gone (the sandbox was deleted meanwhile)
        done stop
          run kill
        done kill
          answer 3: destroyed
          run remove
        ",
    );
    check_running(
        "
        died
          show unreachable gen 1 (killed)
          run examine
        found exited
          show stopped gen 1 (host rebooted)
        start 2
          propose wanted running gen 1
        wanted running
          run start
        destroy 3
          propose destroy
        destroyed
          answer 2: gone (the sandbox was deleted meanwhile)
        fail start
          run kill
        done kill
          answer 3: destroyed
          run remove
        ",
    );
}

#[test]
fn what_ends_can_be_neither_stopped_started_nor_joined() {
    check_running(
        "
        destroy 2
          propose destroy
        destroyed
          run kill
        stop 3
          answer 3: not_found (sandbox not found)
        start 4
          answer 4: not_found (sandbox not found)
        join 5
          answer 5: gone (what this idempotency key made is gone)
        done kill
          answer 2: destroyed
          run remove
        join 6
          answer 6: gone (what this idempotency key made is gone)
        ",
    );
}

#[test]
fn remnants_of_an_earlier_life_are_killed_and_removed() {
    // With a tombstone the map is told.
    check(
        "
        bury tombstone 3
          run kill
        done kill
          run remove
        done remove
          propose removed gen 3
        removed
          finished
        ",
    );
    // Without one there is nobody to tell.
    check(
        "
        bury
          run kill
        done kill
          run remove
        done remove
          finished
        ",
    );
}
