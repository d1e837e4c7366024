//! What becomes of sandboxes whose owner is lost.

use super::*;

const TWO_NODES: &str = "
        up n1/1
          node is up
        up n2/1
          node is up
";

#[track_caller]
fn check_on_two(text: &str) {
    check(&format!("{TWO_NODES}{text}"));
}

#[test]
fn a_sandbox_is_placed_again_in_the_next_generation() {
    check_on_two(
        "
        place a n1/1 loss restart
          placed gen 1
        # Its owner lives: nobody else gets it.
        move a n2/1 slot b gen 2
          refused unavailable: the sandbox is placed elsewhere by now, or its node is back
        lost n1/1
          node is lost
        move a n2/1 slot b gen 3
          refused unavailable: the sandbox is placed elsewhere by now, or its node is back
        move a n2/1 slot b gen 2
          placed gen 2
        # The same proposal made twice, and a later one of the same generation.
        move a n2/1 slot b gen 2
          placed gen 2
        move a n2/1 slot c gen 2
          refused unavailable: the sandbox is placed elsewhere by now, or its node is back
        map
          applied 9, clock 0
          a on n2/1 gen 2 in b, Running, created 3 at 0
          n2 has 1, 256 MiB
          remains of a in a on n1 gen 1

        # What speaks for the older generation is heard no more.
        wanted a stopped
          unknown
        failed a internal
          unknown
        wanted a stopped gen 2
          wanted Stopped
        removed a gen 2
          unknown
        removed a gen 1
          removed
        removed a gen 1
          unknown
        destroy a
          destroyed
        map
          applied 16, clock 0
          tombstone a of b on n2 gen 2
        removed a gen 2
          removed
        ",
    );
}

#[test]
fn it_moves_on_and_back_and_each_owner_answers_for_its_own_remains() {
    check_on_two(
        "
        place a n1/1 loss restart
          placed gen 1
        lost n1/1
          node is lost
        move a n2/1 slot b gen 2
          placed gen 2
        up n1/2
          node is up
        lost n2/1
          node is lost
        move a n1/2 slot c gen 3
          placed gen 3
        destroy a
          destroyed
        map
          applied 9, clock 0
          remains of a in a on n1 gen 1
          remains of a in b on n2 gen 2
          tombstone a of c on n1 gen 3
        removed a gen 3
          removed
        removed a gen 1
          removed
        map
          applied 11, clock 0
          remains of a in b on n2 gen 2
        ",
    );
}

#[test]
fn who_may_not_take_it() {
    let superseded = "refused unavailable: the sandbox is placed elsewhere by now, or its node is back";
    let cases = [
        // It waits for its node.
        ("wait", "lost n1/1", "move a n2/1 slot b gen 2", superseded),
        ("fail", "lost n1/1", "move a n2/1 slot b gen 2", superseded),
        // Its node began another life: what it has is its own again.
        ("restart", "up n1/2", "move a n2/1 slot b gen 2", superseded),
        ("restart", "lost n1/1", "move b n2/1 slot b gen 2", superseded),
        // The new owner speaks from another life, or is lost itself, or never was.
        (
            "restart",
            "lost n1/1",
            "move a n2/2 slot b gen 2",
            "refused unavailable: the node restarted while it was creating this sandbox",
        ),
        (
            "restart",
            "lost n1/1",
            "move a n1/1 slot b gen 2",
            "refused unavailable: the node was lost while it was creating this sandbox",
        ),
    ];
    for (policy, event, attempt, expected) in cases {
        let mut script = Script { map: Placement::default(), index: 0, time: 0 };
        let policy = if policy == "wait" { String::new() } else { format!(" loss {policy}") };
        for line in ["up n1/1", "up n2/1", &format!("place a n1/1{policy}"), event] {
            script.line(line);
        }
        assert_eq!(script.line(attempt), [expected], "{policy}, {event}, {attempt}");
    }
}

#[test]
fn a_stopped_one_is_not_placed_again_since_its_files_are_all_it_has() {
    check_on_two(
        "
        place a n1/1 loss restart
          placed gen 1
        wanted a stopped
          wanted Stopped
        lost n1/1
          node is lost
        move a n2/1 slot b gen 2
          refused unavailable: the sandbox is placed elsewhere by now, or its node is back
        ",
    );
}

#[test]
fn one_in_error_keeps_its_place_in_lists_and_burdens_nobody() {
    check_on_two(
        "
        place a n1/1 loss fail expires 5000
          placed gen 1
        in-error a unavailable only-if-lost 1
          unknown
        lost n1/1
          node is lost
        in-error a unavailable only-if-lost 1
          in error
        in-error a unavailable only-if-lost 1
          unknown
        map
          applied 7, clock 0
          a on n1/1 gen 2, Running, created 3 at 0, expires 5000, in error: unavailable
          remains of a in a on n1 gen 1

        # It is out of everybody's hands but its users'.
        wanted a stopped gen 2
          unknown
        failed a internal gen 2
          unknown
        move a n2/1 slot b gen 3
          refused unavailable: the sandbox is placed elsewhere by now, or its node is back
        expire a 5000
          destroyed
        map
          applied 11, clock 0
          remains of a in a on n1 gen 1
        # A late copy of its placement does not bring it back.
        up n1/2
          node is up
        place a n1/2
          refused unavailable: the sandbox's id is taken
        removed a gen 1
          removed
        map
          applied 14, clock 0
        ",
    );
}

#[test]
fn an_owner_can_say_so_of_its_own() {
    check_on_two(
        "
        place a n1/1 loss restart
          placed gen 1
        lost n1/1
          node is lost
        move a n2/1 slot b gen 2
          placed gen 2
        in-error a internal gen 2
          in error
        map
          applied 6, clock 0
          a on n2/1 gen 3 in b, Running, created 3 at 0, in error: internal
          remains of a in a on n1 gen 1
          remains of a in b on n2 gen 2
        ",
    );
}
