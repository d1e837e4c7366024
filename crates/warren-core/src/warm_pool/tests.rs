//! What the pool does, as scripts. Slots are named a, b, c in the order in which ids are drawn.
//!
//! Beside the lines: no slot is ever given twice, and no more are made at once than allowed.

use std::collections::BTreeSet;
use std::sync::Arc;

use types::{Generation, Incarnation, Timestamp};

use super::*;
use crate::lifecycle::{Again, Ticket};
use crate::script::{self, Words, error, host, letter};

struct Script {
    pool: WarmPool,
    time: u64,
    drawn: u8,
    tickets: u64,
    given: BTreeSet<SandboxId>,
    making: BTreeSet<SandboxId>,
}

impl Script {
    fn new(size: usize) -> Self {
        Self {
            pool: WarmPool::new(target("i1", size)),
            time: 0,
            drawn: 0,
            tickets: 0,
            given: BTreeSet::new(),
            making: BTreeSet::new(),
        }
    }

    fn line(&mut self, line: &str) -> Vec<String> {
        let mut words = Words::new(line);
        let verb = words.next();
        let input = match verb {
            "open" => Input::Open,
            "claim" => {
                let mut spec = script::spec();
                spec.image_id = words.opt("image").unwrap_or("i1").into();
                spec.writable_rootfs = words.opt("rootfs") != Some("read-only");
                let again = words.opt("again").map(|id| Again { id: script::id(id), generation: Generation(2) });
                self.tickets += 1;
                Input::Claim(Box::new(CreatePlan {
                    ticket: Ticket(self.tickets),
                    owner: host("n1"),
                    incarnation: Incarnation(1),
                    spec: Arc::new(spec),
                    sealed_env: script::sealed_env(),
                    expires_at: None,
                    key: None,
                    again,
                }))
            }
            "adopted" => Input::Adopted(script::id(words.next())),
            "made" => Input::Made(self.ended(words.next())),
            "failed" => Input::MakeFailed(self.ended(words.next()), error("internal")),
            "died" => Input::Died(script::id(words.next())),
            "at" => {
                self.time = words.next().parse().unwrap();
                Input::Wake
            }
            "target" => {
                let image = words.next();
                Input::Retarget(target(image, words.next().parse().unwrap()))
            }
            "pool" => {
                words.end();
                return self.show();
            }
            other => panic!("no verb {other}"),
        };
        words.end();
        let drawn = &mut self.drawn;
        let mut fresh = || {
            *drawn += 1;
            script::id(char::from(b'a' - 1 + *drawn).encode_utf8(&mut [0; 4]))
        };
        let outputs = self.pool.handle(Timestamp(self.time), &mut fresh, input);
        outputs.into_iter().map(|output| self.output(output)).collect()
    }

    fn ended(&mut self, slot: &str) -> SandboxId {
        let slot = script::id(slot);
        assert!(self.making.remove(&slot), "the script ends a step that was not begun");
        slot
    }

    fn output(&mut self, output: Output) -> String {
        match output {
            Output::Give { slot, warm, plan } => {
                assert!(self.given.insert(slot), "{slot} is given twice");
                let how = if warm { "warm" } else { "cold" };
                format!("give {} {how} to {}", letter(slot), plan.ticket.0)
            }
            Output::Make { slot, shape, .. } => {
                self.making.insert(slot);
                assert!(self.making.len() <= MAKING_MAX, "{} slots under way", self.making.len());
                format!("make {} of {}", letter(slot), shape.image_id)
            }
            Output::Discard(slot) => {
                assert!(!self.given.contains(&slot), "{slot} is somebody's");
                format!("discard {}", letter(slot))
            }
            Output::WakeAt(at) => format!("wake at {}", at.0),
        }
    }

    fn show(&self) -> Vec<String> {
        let ready: String = self.pool.slots().map(letter).collect();
        let (hits, misses) = self.pool.hits_and_misses();
        let error = self.pool.last_error().map_or("no error", |error| error.message.as_str());
        vec![format!("ready [{ready}], {hits} warm, {misses} cold, {error}")]
    }
}

fn target(image_id: &str, size: usize) -> Target {
    let mut spec = script::spec();
    spec.image_id = image_id.into();
    Target { shape: spec.slot_shape(), resources: spec.resources, size }
}

#[track_caller]
fn check(size: usize, text: &str) {
    let mut script = Script::new(size);
    script::check(text, |line| script.line(line));
}

#[test]
fn a_slot_is_given_once_and_the_oldest_first() {
    check(
        2,
        "
        open
          make a of i1
          make b of i1
        made b
        made a
        pool
          ready [ba], 0 warm, 0 cold, no error
        claim
          give b warm to 1
          wake at 20
        claim
          give a warm to 2
        # Empty: made cold, by the sandbox itself.
        claim
          give c cold to 3
        pool
          ready [], 2 warm, 1 cold, no error
        at 20
          make d of i1
          make e of i1
        made d
        made e
        pool
          ready [de], 2 warm, 1 cold, no error
        ",
    );
}

#[test]
fn nothing_is_made_before_the_pool_is_open_but_claims_are_served() {
    check(
        2,
        "
        claim
          give a cold to 1
        at 1000
        adopted x
        claim
          give x warm to 2
        pool
          ready [], 1 warm, 1 cold, no error
        open
          make b of i1
          make c of i1
        ",
    );
}

#[test]
fn refill_is_bounded() {
    check(
        5,
        "
        open
          make a of i1
          make b of i1
        claim
          give c cold to 1
        claim
          give d cold to 2
        at 60000
        made a
          make e of i1
        made b
          make f of i1
        made e
          make g of i1
        made f
        pool
          ready [abef], 0 warm, 2 cold, no error
        # The last one is under way: no more than the size.
        made g
        pool
          ready [abefg], 0 warm, 2 cold, no error
        ",
    );
}

#[test]
fn a_pool_of_none_serves_cold() {
    check(
        0,
        "
        open
        claim
          give a cold to 1
        adopted x
          discard x
        pool
          ready [], 0 warm, 1 cold, no error
        ",
    );
}

#[test]
fn a_failing_template_backs_off_stops_and_is_tried_again_when_somebody_asks() {
    check(
        3,
        "
        open
          make a of i1
          make b of i1
        failed a
          discard a
          wake at 1000
        # The other one was under way already.
        failed b
          discard b
          wake at 2000
        # Called before its time, as after the wall clock was set back: it asks again.
        at 999
          wake at 2000
        at 1999
          wake at 2000
        at 2000
          make c of i1
        failed c
          discard c
          wake at 6000
        at 6000
          make d of i1
        failed d
          discard d
          wake at 14000
        at 14000
          make e of i1
        failed e
          discard e
          wake at 30000
        at 30000
          make f of i1
        failed f
          discard f
          wake at 62000
        at 62000
          make g of i1
        failed g
          discard g
          wake at 122000
        pool
          ready [], 0 warm, 0 cold, internal of the test
        at 122000
          make h of i1
        failed h
          discard h
          wake at 182000
        # Eight in a row: it gives up.
        at 182000
        at 9999999
        # Somebody wants it: one more try, one at a time.
        claim
          give i cold to 1
          make j of i1
        failed j
          discard j
          wake at 10059999
        at 99999999
        claim
          give k cold to 2
          make l of i1
        made l
          make m of i1
          make n of i1
        # It works again: two at a time.
        pool
          ready [l], 0 warm, 2 cold, no error
        ",
    );
}

#[test]
fn a_claim_does_not_shorten_the_wait_of_a_failing_template() {
    check(
        1,
        "
        open
          make a of i1
        failed a
          discard a
          wake at 1000
        claim
          give b cold to 1
        at 500
          wake at 1000
        at 1000
          make c of i1
        ",
    );
}

#[test]
fn a_wait_that_is_over_stays_over_when_the_clock_is_set_back() {
    check(
        2,
        "
        open
          make a of i1
          make b of i1
        target i2 2
        failed a
          discard a
          make c of i2
        failed c
          discard c
          wake at 1000
        # One slot of the old image is still under way, and a failing template is tried one at a time.
        at 1000
        # The clock is set back.
        at 400
        failed b
          discard b
          make d of i2
        ",
    );
}

#[test]
fn another_image_discards_what_stands_ready() {
    check(
        2,
        "
        open
          make a of i1
          make b of i1
        made a
        made b
        target i2 2
          discard a
          discard b
          make c of i2
          make d of i2
        made c
        made d
        pool
          ready [cd], 0 warm, 0 cold, no error
        # Another size only: what is too much goes, the youngest first.
        target i2 1
          discard d
        pool
          ready [c], 0 warm, 0 cold, no error
        target i2 3
          make e of i2
          make f of i2
        ",
    );
}

#[test]
fn slots_under_way_for_another_image_count_until_they_end() {
    check(
        2,
        "
        open
          make a of i1
          make b of i1
        target i2 2
        target i3 2
        # Made in vain, and what a failed one left goes as well.
        made a
          discard a
          make c of i3
        failed b
          discard b
          make d of i3
        pool
          ready [], 0 warm, 0 cold, no error
        made c
        made d
        pool
          ready [cd], 0 warm, 0 cold, no error
        ",
    );
}

#[test]
fn a_claim_that_names_a_newer_image_turns_the_pool_to_it() {
    check(
        1,
        "
        open
          make a of i1
        made a
        claim image i2
          discard a
          give b cold to 1
          make c of i2
        made c
        claim image i2
          give c warm to 2
          wake at 20
        at 20
          make d of i2
        pool
          ready [], 1 warm, 1 cold, no error
        ",
    );
}

#[test]
fn one_that_begins_again_with_the_image_of_another_node_leaves_the_slots_alone() {
    check(
        1,
        "
        open
          make a of i1
        made a
        claim image i2 again z
          give b cold to 1
        claim again z
          give a warm to 2
          wake at 20
        pool
          ready [], 1 warm, 1 cold, no error
        ",
    );
}

#[test]
fn a_claim_of_another_shape_is_cold_and_leaves_the_slots_alone() {
    check(
        1,
        "
        open
          make a of i1
        made a
        claim rootfs read-only
          give b cold to 1
        pool
          ready [a], 0 warm, 1 cold, no error
        claim
          give a warm to 2
          wake at 20
        at 20
          make c of i1
        ",
    );
}

#[test]
fn a_refill_leaves_the_processor_to_the_claim_first_but_waits_once_only() {
    check(
        3,
        "
        open
          make a of i1
          make b of i1
        made a
          make c of i1
        made b
        # One is under way already: nothing is won by waiting.
        claim
          give a warm to 1
          make d of i1
        made c
        made d
        at 100
        claim
          give b warm to 2
          wake at 120
        # A later claim does not put it off again.
        at 119
          make e of i1
        claim
          give c warm to 3
          make f of i1
        made e
        made f
        # Neither does a clock that was set back.
        claim
          give d warm to 4
          wake at 139
        at 5
          make g of i1
        ",
    );
}

#[test]
fn a_slot_that_died_is_discarded_and_replaced() {
    check(
        1,
        "
        open
          make a of i1
        # Under way: the news of its death came before the news that it was made.
        died a
        made a
          discard a
          wake at 1000
        at 1000
          make b of i1
        made b
        died b
          discard b
          make c of i1
        died b
        made c
        claim
          give c warm to 1
          wake at 1020
        # Given: its supervisor is told.
        died c
        ",
    );
}

#[test]
fn a_slot_that_died_before_it_was_adopted_is_discarded() {
    check(
        2,
        "
        # Of a sandbox, for all that the pool knows.
        died x
        died y
        adopted y
          discard y
        adopted z
        open
          make a of i1
        ",
    );
}

#[test]
fn adopted_slots_beyond_the_size_are_discarded() {
    check(
        2,
        "
        adopted x
        adopted y
        adopted z
          discard z
        pool
          ready [xy], 0 warm, 0 cold, no error
        open
        claim
          give x warm to 1
          wake at 20
        at 20
          make a of i1
        ",
    );
}
