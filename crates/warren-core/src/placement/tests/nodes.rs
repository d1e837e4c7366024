//! Lives of nodes, and what an earlier one can no longer do.

use super::*;

#[test]
fn one_life_from_placement_to_the_last_trace() {
    check(
        "
        at 100
        up n1/1
          node is up
        place a n1/1 expires 5000
          placed gen 1
        at 200
        place b n1/1 slot c
          placed gen 1
        map
          applied 3, clock 200
          b on n1/1 gen 1 in c, Running, created 3 at 200
          a on n1/1 gen 1, Running, created 2 at 100, expires 5000
          n1 has 2, 512 MiB
        wanted a stopped
          wanted Stopped
        wanted a stopped
          wanted Stopped
        wanted a running
          wanted Running
        destroy a
          destroyed
        map
          applied 7, clock 200
          b on n1/1 gen 1 in c, Running, created 3 at 200
          n1 has 1, 256 MiB
          tombstone a of a on n1 gen 1

        # Out of the map is out of reach: nothing changes it any more.
        wanted a stopped
          unknown
        destroy a
          unknown
        failed a internal
          unknown
        removed a
          removed
        map
          applied 11, clock 200
          b on n1/1 gen 1 in c, Running, created 3 at 200
          n1 has 1, 256 MiB

        # Said once more, since the first answer was lost.
        removed a
          unknown
        ",
    );
}

#[test]
fn a_placement_of_an_earlier_life_is_refused() {
    check(
        "
        place a n1/1
          refused unavailable: the node restarted while it was creating this sandbox
        up n1/2
          node is up
        place a n1/1
          refused unavailable: the node restarted while it was creating this sandbox
        place a n1/3
          refused unavailable: the node restarted while it was creating this sandbox
        place a n1/2
          placed gen 1
        # The same announcement made twice, since its first fate was unknown.
        up n1/2
          node is up
        up n1/1
          node is stale
        up n1/3
          node is up
        place b n1/2
          refused unavailable: the node restarted while it was creating this sandbox
        # What was placed stays placed: the new life adopts it.
        map
          applied 9, clock 0
          a on n1/2 gen 1, Running, created 5 at 0
          n1 has 1, 256 MiB
        ",
    );
}

#[test]
fn a_member_id_is_given_out_once() {
    check(
        "
        up n1/1 member 1
          node is up
        at 1000
        join n2 there:1
          joined as 2
        # The same proposal made twice, since its first fate was unknown.
        join n2 there:1
          joined as 2
        # A reply that was lost, or a store that was: a new id either way.
        at 2000
        join n2 there:1
          joined as 3
        # A late copy of what was given up takes nothing away.
        at 1000
        join n2 there:1
          node is stale
        up n2/1 member 3
          node is up
        at 2000
        join n2 there:1
          joined as 3
        # A clock that was far ahead keeps nobody out.
        at 700000
        join n2 there:1
          joined as 4
        at 1000
        join n2 there:1
          joined as 5
        up n2/2 member 5
          node is up
        # Its own clock tells one asking from another, whoever proposed it and when.
        join n3 there:2 asked 500
          joined as 6
        at 1200
        join n3 there:2 asked 500
          joined as 6
        join n3 there:2 asked 499
          node is stale
        nodes
          n1/1 member 1
          n2/2 member 5
          n3/0 member 6
        ",
    );
}

#[test]
fn a_lost_node_is_given_nothing_until_its_next_life() {
    check(
        "
        up n1/1
          node is up
        lost n1/1
          node is lost
        place a n1/1
          refused unavailable: the node was lost while it was creating this sandbox
        # The same announcement made twice does not end it.
        up n1/1
          node is up
        place a n1/1
          refused unavailable: the node was lost while it was creating this sandbox
        up n1/2
          node is up
        place a n1/2
          placed gen 1
        # News of an earlier life.
        lost n1/1
          node is stale
        nodes
          n1/2 member 0
        ",
    );
}

#[test]
fn a_late_copy_of_a_placement_brings_nothing_back() {
    check(
        "
        at 1000
        up n1/1
          node is up
        place a n1/1
          placed gen 1
        destroy a
          destroyed
        removed a
          removed
        place a n1/1
          refused unavailable: the sandbox's id is taken
        at 600999
        place a n1/1
          refused unavailable: the sandbox's id is taken
        ",
    );
}

#[test]
fn an_announced_restart_is_no_death_and_takes_nothing_new() {
    check(
        "
        up n1/1
          node is up
        place a n1/1
          placed gen 1
        restarts n1/1 for 60000
          node restarts
        place b n1/1
          refused unavailable: the node is restarting and takes no new sandboxes
        # Whoever proposed this had not seen the announcement.
        lost n1/1
          node is stale
        nodes
          n1/1 member 0, restarting for 60000
        # The store was lost meanwhile: it still is the node that restarts.
        join n1 there:1
          joined as 1
        nodes
          n1/1 member 1, restarting for 60000
        up n1/2 member 1
          node is up
        restarts n1/1 for 60000
          node is stale
        place b n1/2
          placed gen 1
        nodes
          n1/2 member 1
        # It does not come back.
        restarts n1/2 for 60000
          node restarts
        lost n1/2 restarting 1
          node is lost
        restarts n1/2 for 60000
          node is stale
        nodes
          n1/2 member 1, lost
        ",
    );
}

#[test]
fn nothing_is_proposed_that_a_member_would_stop_at() {
    check(
        "
        # A node alone of a version that did not say yet what it knows.
        up n1/1
          node is up
        propose lost
          all know 2, may
        propose restarting
          all know 2, node n1 knows commands up to 0, this one is number 3: it has to be upgraded first
        up n1/2 member 1 knows 3
          node is up
        propose restarting
          all know 3, may
        # A newcomer applies what is in the log before it is up.
        join n2 there:1
          joined as 2
        propose restarting
          all know 2, node n2 knows commands up to 0, this one is number 3: it has to be upgraded first
        at 1
        join n2 there:1 knows 3
          joined as 3
        propose restarting
          all know 3, may
        up n3/1 member 4 knows 2
          node is up
        propose up
          all know 2, may
        propose restarting
          all know 2, node n3 knows commands up to 2, this one is number 3: it has to be upgraded first
        # It must not hold up its own repair.
        lost n3/1
          node is lost
        propose restarting
          all know 3, may
        ",
    );
}
