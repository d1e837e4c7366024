//! What the map decides, as scripts. After every line the command and the whole map also go through
//! their bytes and must come back the same.

use std::fmt::Write as _;
use std::sync::Arc;

use types::{Generation, Incarnation, Timestamp};

use super::*;
use crate::script::{self, Words, error, host, id, letter};

struct Script {
    map: Placement,
    index: u64,
    time: u64,
}

impl Script {
    fn apply(&mut self, kind: Kind) -> Vec<String> {
        let command = Command { time: Timestamp(self.time), kind };
        assert_eq!(decode(&encode(&command)).unwrap(), command);
        self.index += 1;
        let outcome = self.map.apply(self.index, &command);
        assert_eq!(decode_snapshot(&encode_snapshot(&self.map)).unwrap(), self.map);
        vec![show(&outcome)]
    }

    fn line(&mut self, line: &str) -> Vec<String> {
        let mut words = Words::new(line);
        let verb = words.next();
        let generation = Generation(words.number("gen", 1));
        let out = match verb {
            "at" => {
                self.time = words.next().parse().unwrap();
                Vec::new()
            }
            "up" => {
                let (owner, incarnation) = life(words.next());
                let presence = Presence { member: words.number("member", 0), ..Presence::default() };
                self.apply(Kind::NodeUp { host: owner, incarnation, presence })
            }
            "join" => {
                let (host, address) = (host(words.next()), words.next().to_owned());
                self.apply(Kind::Join { host, peer_address: address, http_address: String::new() })
            }
            "lost" => {
                let (host, incarnation) = life(words.next());
                self.apply(Kind::NodeLost { host, incarnation })
            }
            "nodes" => self
                .map
                .nodes()
                .map(|(host, node)| {
                    let lost = if node.lost { ", lost" } else { "" };
                    format!("{host}/{} member {}{lost}", node.incarnation, node.presence.member)
                })
                .collect(),
            "place" => {
                let id = id(words.next());
                let (owner, incarnation) = life(words.next());
                let place = Place {
                    id,
                    slot: words.opt("slot").map_or(id, script::id),
                    owner,
                    incarnation,
                    generation,
                    spec: Arc::new(script::spec()),
                    sealed_env: script::sealed_env(),
                    expires_at: words.opt("expires").map(|text| Timestamp(text.parse().unwrap())),
                    key: words.opt("key").map(|scope| script::key(scope, words.opt("body").unwrap())),
                };
                self.apply(Kind::Place(Box::new(place)))
            }
            "wanted" => {
                let id = id(words.next());
                let wanted = match words.next() {
                    "running" => Wanted::Running,
                    "stopped" => Wanted::Stopped,
                    other => panic!("wanted {other}"),
                };
                self.apply(Kind::SetWanted { id, generation, wanted })
            }
            "destroy" => self.apply(Kind::Destroy { id: id(words.next()), reason: DestroyReason::Asked }),
            "expire" => {
                let id = id(words.next());
                let expires_at = Timestamp(words.next().parse().unwrap());
                self.apply(Kind::Destroy { id, reason: DestroyReason::Expired { expires_at } })
            }
            "removed" => self.apply(Kind::Removed { id: id(words.next()), generation }),
            "failed" => {
                let id = id(words.next());
                let failure = Failure::from(&error(words.next()));
                self.apply(Kind::CreateFailed { id, generation, failure })
            }
            "skip" => {
                self.index += 1;
                self.map.skip(self.index);
                vec![format!("applied {}", self.map.applied())]
            }
            "ask" => {
                let known = self.map.key(&script::key(words.next(), words.next()));
                vec![known.as_ref().map_or("not known".to_owned(), show)]
            }
            "map" => self.show(),
            other => panic!("no verb {other}"),
        };
        words.end();
        out
    }

    fn show(&self) -> Vec<String> {
        let mut out = vec![format!("applied {}, clock {}", self.map.applied(), self.map.clock().0)];
        for record in self.map.newest_first() {
            let Place { id, slot, owner, incarnation, generation, expires_at, .. } = &record.place;
            let mut line = format!("{} on {owner}/{incarnation} gen {generation}", letter(*id));
            if slot != id {
                write!(line, " in {}", letter(*slot)).unwrap();
            }
            write!(line, ", {:?}, created {} at {}", record.wanted, record.created_index, record.created_at.0).unwrap();
            if let Some(end) = expires_at {
                write!(line, ", expires {}", end.0).unwrap();
            }
            out.push(line);
        }
        for owner in [host("n1"), host("n2")] {
            let Load { sandboxes, memory } = self.map.load(&owner);
            if sandboxes > 0 {
                out.push(format!("{owner} has {sandboxes}, {} MiB", memory >> 20));
            }
        }
        for (id, tombstone) in self.map.tombstones() {
            let Tombstone { owner, slot, generation } = tombstone;
            out.push(format!("tombstone {} of {} on {owner} gen {generation}", letter(*id), letter(*slot)));
        }
        out
    }
}

fn life(text: &str) -> (types::HostId, Incarnation) {
    let (name, incarnation) = text.split_once('/').unwrap();
    (host(name), Incarnation(incarnation.parse().unwrap()))
}

fn show(outcome: &Outcome) -> String {
    match outcome {
        Outcome::NodeUp => "node is up".into(),
        Outcome::NodeStale => "node is stale".into(),
        Outcome::Joined { member } => format!("joined as {member}"),
        Outcome::NodeLost => "node is lost".into(),
        Outcome::Placed { generation } => format!("placed gen {generation}"),
        Outcome::AlreadyPlaced { winner } => format!("already placed as {}", letter(*winner)),
        Outcome::Refused(refusal) => {
            let error = refusal.error();
            let gone =
                if let Refusal::KeyGone { id } = refusal { format!(" ({})", letter(*id)) } else { String::new() };
            format!("refused {}: {}{gone}", error.code.as_str(), error.message)
        }
        Outcome::Wanted(wanted) => format!("wanted {wanted:?}"),
        Outcome::Destroyed => "destroyed".into(),
        Outcome::Kept { expires_at } => match expires_at {
            Some(end) => format!("kept until {}", end.0),
            None => "kept for ever".into(),
        },
        Outcome::Removed => "removed".into(),
        Outcome::Failed => "failed".into(),
        Outcome::Unknown => "unknown".into(),
    }
}

#[track_caller]
fn check(text: &str) {
    let mut script = Script { map: Placement::default(), index: 0, time: 0 };
    script::check(text, |line| script.line(line));
}

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

#[test]
fn a_member_id_is_given_out_once() {
    check(
        "
        up n1/1 member 1
          node is up
        join n2 there:1
          joined as 2
        # A reply that was lost, or a store that was: a new id either way.
        join n2 there:1
          joined as 3
        up n2/1 member 3
          node is up
        join n3 there:2
          joined as 4
        nodes
          n1/1 member 1
          n2/1 member 3
          n3/0 member 4
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
