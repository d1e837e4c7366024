//! A sandbox that runs: stop, start, death and its time.

use std::collections::BTreeSet;

use types::Timestamp;

use super::{RUNNING, Script, check, check_running, show};
use crate::lifecycle::{Input, Output};

#[test]
fn stop_and_start_and_again() {
    check_running(
        "
        stop 2
          propose wanted stopped gen 1
        wanted stopped
          run stop
        done stop
          answer 2: stopped
          show stopped gen 1
        stop 3
          answer 3: stopped
        start 4
          propose wanted running gen 1
        wanted running
          run start
        done start
          run prepare gen 1
        done prepare
          run activate gen 1
        done activate
          answer 4: started
          show running gen 1
        start 5
          answer 5: started
        ",
    );
}

#[test]
fn the_second_stop_and_the_second_start_join_the_first() {
    check_running(
        "
        stop 2
          propose wanted stopped gen 1
        stop 3
        start 4
          answer 4: wrong_state (cannot start a sandbox that is running)
        wanted stopped
          run stop
        stop 5
        done stop
          answer 2: stopped
          answer 3: stopped
          answer 5: stopped
          show stopped gen 1
        start 6
          propose wanted running gen 1
        start 7
        stop 8
          answer 8: wrong_state (cannot stop a sandbox that is stopped)
        wanted running
          run start
        done start
          run prepare gen 1
        done prepare
          run activate gen 1
        start 9
        done activate
          answer 6: started
          answer 7: started
          answer 9: started
          show running gen 1
        ",
    );
}

#[test]
fn a_dropped_wish_is_proposed_again() {
    check_running(
        "
        stop 2
          propose wanted stopped gen 1
        dropped
          wake at 100
        at 1000
          propose wanted stopped gen 1
        wanted stopped
          run stop
        done stop
          answer 2: stopped
          show stopped gen 1
        start 3
          propose wanted running gen 1
        dropped
          wake at 1100
        at 2000
          propose wanted running gen 1
        wanted running
          run start
        ",
    );
}

#[test]
fn a_wish_that_was_proposed_twice_is_not_taken_for_the_next_one() {
    check_running(
        "
        stop 2
          propose wanted stopped gen 1
        dropped
          wake at 100
        at 1000
          propose wanted stopped gen 1
        wanted stopped
          run stop
        done stop
          answer 2: stopped
          show stopped gen 1
        start 3
          propose wanted running gen 1
        # The second proposal of the stop.
        wanted stopped
        wanted running
          run start
        ",
    );
}

#[test]
fn a_stop_that_failed_leaves_it_unknown_until_it_is_looked_at() {
    check_running(
        "
        stop 2
          propose wanted stopped gen 1
        wanted stopped
          run stop
        fail stop
          show unreachable gen 1 (internal of the test)
          answer 2: internal (internal of the test)
          wake at 2000
        stop 3
          answer 3: wrong_state (cannot stop a sandbox that is unreachable)
        at 2000
          run examine
        found active
          run stop
        done stop
          show stopped gen 1
        ",
    );
}

#[test]
fn a_start_that_failed_is_looked_into() {
    // It did not start.
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
        fail start
          show unreachable gen 1 (internal of the test)
          answer 3: internal (internal of the test)
          wake at 2000
        start 4
          answer 4: wrong_state (cannot start a sandbox that is unreachable)
        at 2000
          run examine
        found exited
          show stopped gen 1 (host rebooted)
        start 5
          propose wanted running gen 1
        ",
    );
    // It did, and its agent was not told who it is.
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
        done start
          run prepare gen 1
        fail prepare
          show unreachable gen 1 (internal of the test)
          answer 3: internal (internal of the test)
          wake at 2000
        at 2000
          run examine
        found bare
          run prepare gen 1
        done prepare
          run activate gen 1
        fail activate
          wake at 4000
        at 4000
          run examine
        found prepared
          run activate gen 1
        done activate
          show running gen 1
        ",
    );
}

#[test]
fn a_death_is_a_stop_with_a_reason() {
    check_running(
        "
        died why SIGKILL
          show unreachable gen 1 (SIGKILL)
          run examine
        # Until that is looked into it can not be called.
        stop 9
          answer 9: wrong_state (cannot stop a sandbox that is unreachable)
        found exited
          show stopped gen 1 (host rebooted)
        died why again
        start 2
          propose wanted running gen 1
        wanted running
          run start
        done start
          run prepare gen 1
        done prepare
          run activate gen 1
        done activate
          answer 2: started
          show running gen 1
        ",
    );
    // The wish to have it stopped is recorded all the same, else its next life would start it.
    check_running(
        "
        died
          show unreachable gen 1 (killed)
          run examine
        found exited
          show stopped gen 1 (host rebooted)
        stop 2
          propose wanted stopped gen 1
        wanted stopped
          run stop
        done stop
          answer 2: stopped
          show stopped gen 1
        stop 3
          answer 3: stopped
        ",
    );
}

#[test]
fn a_death_that_is_heard_of_before_the_success_is_looked_into() {
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
        died
        done activate
          run examine
        join 2
        found exited
          answer 1: created a
          answer 2: created a
          show stopped gen 1 (host rebooted)
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
        done start
          run prepare gen 1
        done prepare
          run activate gen 1
        died
        done activate
          answer 2: started
          run examine
        # The news was of the container before this one.
        found active
          show running gen 1
        died
          show unreachable gen 1 (killed)
          run examine
        found active
          show running gen 1
        ",
    );
}

#[test]
fn whoever_joins_a_start_is_answered_when_it_is_up() {
    check_running(
        "
        died
          show unreachable gen 1 (killed)
          run examine
        found exited
          show stopped gen 1 (host rebooted)
        start 2
          propose wanted running gen 1
        join 3
        wanted running
          run start
        done start
          run prepare gen 1
        done prepare
          run activate gen 1
        done activate
          answer 2: started
          show running gen 1
          answer 3: created a
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
        join 3
        wanted running
          run start
        fail start
          show unreachable gen 1 (internal of the test)
          answer 2: internal (internal of the test)
          answer 3: created a
          wake at 2000
        ",
    );
}

#[test]
fn a_death_on_its_way_down_is_a_stop() {
    check_running(
        "
        stop 2
          propose wanted stopped gen 1
        died
        wanted stopped
          run stop
        done stop
          answer 2: stopped
          show stopped gen 1
        ",
    );
}

#[test]
fn it_ends_in_its_time() {
    check(
        "
        create warm expires 130000
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
        # Looked at at least once a minute, in case the clock was set.
        at 60000
          wake at 120000
        at 120000
          wake at 130000
        at 129999
          wake at 130000
        at 130000
          propose expire 130000
          wake at 190000
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
fn a_stopped_one_ends_in_its_time_as_well() {
    check(
        "
        create warm expires 5000
          propose place on n1/7 gen 1
          run prepare gen 1
          wake at 60000
        placed
          show creating gen 1
        done prepare
          run activate gen 1
        done activate
          show running gen 1
          wake at 5000
          answer 1: created a
        stop 2
          propose wanted stopped gen 1
        wanted stopped
          run stop
        done stop
          answer 2: stopped
          show stopped gen 1
        at 5000
          propose expire 5000
        ",
    );
}

#[test]
fn what_was_extended_meanwhile_is_kept() {
    check(
        "
        create warm expires 5000
          propose place on n1/7 gen 1
          run prepare gen 1
          wake at 60000
        placed
          show creating gen 1
        done prepare
          run activate gen 1
        done activate
          show running gen 1
          wake at 5000
          answer 1: created a
        at 5000
          propose expire 5000
        kept expires 9000
          wake at 9000
        at 9000
          propose expire 9000
        kept
        at 99000
        ",
    );
}

#[test]
fn calls_do_not_multiply_while_there_is_no_leader() {
    let mut script = Script::new();
    let mut due = BTreeSet::new();
    let mut proposals = 0;
    let mut feed = |script: &mut Script, time: u64, input: Input, due: &mut BTreeSet<(u64, u32)>| {
        script.time = time;
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for output in script.machine.handle(Timestamp(time), input) {
                match output {
                    Output::WakeAt(at) => {
                        let nth = due.iter().filter(|(time, _)| *time == at.0).count() as u32;
                        due.insert((at.0, nth));
                    }
                    Output::Propose(_) => {
                        proposals += 1;
                        inputs.push(Input::ProposalDropped);
                    }
                    other => panic!("{}", show(&other)),
                }
            }
        }
    };
    for (nth, line) in RUNNING.iter().enumerate() {
        let line = if nth == 0 { "create warm expires 1000" } else { line };
        for output in script.line(line) {
            if let Some(at) = output.strip_prefix("wake at ") {
                due.insert((at.parse().unwrap(), 0));
            }
        }
    }
    let mut now = 0;
    while now < 600_000 {
        let (at, _) = due.pop_first().expect("nobody would call it any more");
        now = at;
        feed(&mut script, now, Input::Wake, &mut due);
        assert!(due.len() <= 3, "{} calls wait at once", due.len());
    }
    assert!(proposals > 5_000, "{proposals} proposals in ten minutes: it gave up");
}

#[test]
fn a_clock_that_was_set_back_loses_no_call() {
    check(
        "
        create warm expires 2000000
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
        at 1060000
          wake at 1120000
        # An hour back.
        at 2000
          wake at 62000
        at 62000
          wake at 122000
        ",
    );
}
