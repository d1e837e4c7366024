//! What idempotency keys make, and for how long.

use super::*;

#[test]
fn a_key_makes_one_sandbox() {
    check(
        "
        up n1/1
          node is up
        up n2/1
          node is up
        ask k b
          not known
        place a n1/1 key k body b
          placed gen 1
        ask k b
          already placed as a
        place c n2/1 key k body b
          already placed as a
        place c n2/1 key k body x
          refused idempotency_mismatch: this idempotency key was used with another request body
        ask k x
          refused idempotency_mismatch: this idempotency key was used with another request body
        # Another key is another request.
        place d n2/1 key l body b
          placed gen 1
        map
          applied 6, clock 0
          d on n2/1 gen 1, Running, created 6 at 0
          a on n1/1 gen 1, Running, created 3 at 0
          n1 has 1, 256 MiB
          n2 has 1, 256 MiB
        ",
    );
}

#[test]
fn a_key_remembers_what_became_of_its_sandbox() {
    check(
        "
        up n1/1
          node is up
        place a n1/1 key k body b
          placed gen 1
        destroy a
          destroyed
        ask k b
          refused gone: what this idempotency key made is gone (a)
        place c n1/1 key k body b
          refused gone: what this idempotency key made is gone (a)
        place c n1/1 key k body x
          refused idempotency_mismatch: this idempotency key was used with another request body
        removed a
          removed
        place c n1/1 key k body b
          refused gone: what this idempotency key made is gone (a)

        place d n1/1 key l body b
          placed gen 1
        failed d unprocessable
          failed
        ask l b
          refused unprocessable: unprocessable of the test
        place e n1/1 key l body b
          refused unprocessable: unprocessable of the test
        place e n1/1 key l body x
          refused idempotency_mismatch: this idempotency key was used with another request body
        # No key, nothing kept: it only ends.
        place f n1/1
          placed gen 1
        failed f internal
          failed
        map
          applied 13, clock 0
          tombstone d of d on n1 gen 1
          tombstone f of f on n1 gen 1
        ",
    );
}

#[test]
fn a_refused_placement_leaves_its_key_free() {
    check(
        "
        up n1/2
          node is up
        place a n1/1 key k body b
          refused unavailable: the node restarted while it was creating this sandbox
        ask k b
          not known
        place c n1/2 key k body x
          placed gen 1
        ask k x
          already placed as c
        ",
    );
}

#[test]
fn a_key_is_forgotten_a_day_of_log_time_after_its_use() {
    check(
        "
        at 1000
        up n1/1
          node is up
        place a n1/1 key k body b
          placed gen 1
        at 5000
        place c n1/1 key l body b
          placed gen 1
        # A day is 86,400,000 ms. One short of it:
        at 86400999
        wanted a running
          wanted Running
        ask k b
          already placed as a
        at 86401000
        wanted a running
          wanted Running
        ask k b
          not known
        ask l b
          already placed as c
        # Free for another sandbox, while the first one lives on.
        place d n1/1 key k body x
          placed gen 1
        ask k x
          already placed as d
        # The end of a sandbox whose key is forgotten touches nobody else's.
        failed a internal
          failed
        ask k x
          already placed as d
        map
          applied 7, clock 86401000
          d on n1/1 gen 1, Running, created 6 at 86401000
          c on n1/1 gen 1, Running, created 3 at 5000
          n1 has 2, 512 MiB
          tombstone a of a on n1 gen 1
        ",
    );
}
