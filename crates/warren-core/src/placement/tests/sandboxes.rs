//! Placements from first to last.

use super::*;

#[test]
fn the_same_proposal_made_twice_is_one_placement() {
    check(
        "
        up n1/1
          node is up
        up n2/1
          node is up
        place a n1/1 key k body b
          placed gen 1
        place a n1/1 key k body b
          placed gen 1
        # An answer for the second proposal never depends on what else has changed meanwhile.
        up n1/2
          node is up
        place a n1/1 key k body b
          placed gen 1
        # The same id on another owner or in another slot is another proposal.
        place a n2/1
          refused unavailable: the sandbox's id is taken
        place a n1/2 slot b
          refused unavailable: the sandbox's id is taken
        map
          applied 8, clock 0
          a on n1/1 gen 1, Running, created 3 at 0
          n1 has 1, 256 MiB
        ",
    );
}

#[test]
fn an_id_whose_remains_are_not_removed_is_not_placed_again() {
    check(
        "
        up n1/1
          node is up
        place a n1/1
          placed gen 1
        destroy a
          destroyed
        place a n1/1
          refused unavailable: the sandbox's id is taken
        removed a
          removed
        # And for a while after: a copy of its placement may still be on its way.
        place a n1/1 gen 2
          refused unavailable: the sandbox's id is taken
        at 600000
        place a n1/1 gen 2
          placed gen 2
        map
          applied 7, clock 600000
          a on n1/1 gen 2, Running, created 7 at 600000
          n1 has 1, 256 MiB
        ",
    );
}

#[test]
fn the_clock_never_falls() {
    check(
        "
        at 1000
        up n1/1
          node is up
        at 400
        place a n1/1
          placed gen 1
        map
          applied 2, clock 1000
          a on n1/1 gen 1, Running, created 2 at 1000
          n1 has 1, 256 MiB
        at 1001
        wanted a running
          wanted Running
        skip
          applied 4
        map
          applied 4, clock 1001
          a on n1/1 gen 1, Running, created 2 at 1000
          n1 has 1, 256 MiB
        ",
    );
}

#[test]
fn an_expiry_acts_on_the_end_that_it_saw() {
    check(
        "
        up n1/1
          node is up
        place a n1/1 expires 5000
          placed gen 1
        place b n1/1
          placed gen 1
        # Somebody saw an end that was moved since.
        expire a 4999
          kept until 5000
        expire b 5000
          kept for ever
        expire a 5000
          destroyed
        expire a 5000
          unknown
        # An end that was brought forward is past as well.
        place c n1/1 expires 3000
          placed gen 1
        expire c 5000
          destroyed
        map
          applied 9, clock 0
          b on n1/1 gen 1, Running, created 3 at 0
          n1 has 1, 256 MiB
          tombstone a of a on n1 gen 1
          tombstone c of c on n1 gen 1
        ",
    );
}

#[test]
fn only_the_generation_at_hand_is_changed() {
    check(
        "
        up n1/1
          node is up
        place a n1/1 gen 3
          placed gen 3
        wanted a stopped gen 2
          unknown
        wanted a stopped gen 4
          unknown
        failed a internal gen 2
          unknown
        map
          applied 5, clock 0
          a on n1/1 gen 3, Running, created 2 at 0
          n1 has 1, 256 MiB
        destroy a
          destroyed
        removed a gen 2
          unknown
        map
          applied 7, clock 0
          tombstone a of a on n1 gen 3
        removed a gen 4
          removed
        map
          applied 8, clock 0
        # Nothing there at all.
        wanted z stopped
          unknown
        destroy z
          unknown
        expire z 1
          unknown
        failed z internal
          unknown
        removed z
          unknown
        ",
    );
}

#[test]
fn lists_are_newest_first_by_commit() {
    check(
        "
        up n1/1
          node is up
        place z n1/1
          placed gen 1
        place a n1/1
          placed gen 1
        place m n1/1
          placed gen 1
        destroy a
          destroyed
        map
          applied 5, clock 0
          m on n1/1 gen 1, Running, created 4 at 0
          z on n1/1 gen 1, Running, created 2 at 0
          n1 has 2, 512 MiB
          tombstone a of a on n1 gen 1
        ",
    );
}

#[test]
#[should_panic(expected = "entry 3 applied after 3")]
fn an_entry_applied_twice_is_a_bug_of_ours() {
    let mut map = Placement::default();
    map.skip(3);
    map.apply(3, &Command { time: Timestamp(0), kind: Kind::Removed { id: id("a"), generation: Generation(1) } });
}
