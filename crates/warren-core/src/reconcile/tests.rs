//! The table of what a node finds at its start: one row, one verdict.

use std::sync::Arc;

use types::{Generation, Incarnation, OnNodeLoss, Timestamp};

use super::*;
use crate::placement::{Command, DestroyReason, Failure, Kind, Move, Outcome, Place, Presence};
use crate::script::{self, Words, host, id, letter};

/// A map of two nodes, what stands on the disk and what is found, all spelt in lines.
#[derive(Default)]
struct Script {
    map: Placement,
    found: Vec<Found>,
    activated: BTreeSet<SandboxId>,
    no_pool: bool,
}

impl Script {
    fn apply(&mut self, kind: Kind) {
        let outcome = self.map.apply(self.map.applied() + 1, &Command { time: Timestamp(0), kind });
        assert!(
            matches!(
                outcome,
                Outcome::NodeUp | Outcome::NodeLost | Outcome::Placed { .. } | Outcome::InError | Outcome::Destroyed
            ),
            "{outcome:?}"
        );
    }

    fn line(&mut self, line: &str) -> Vec<String> {
        let mut words = Words::new(line);
        match words.next() {
            "placed" => {
                let id = id(words.next());
                let owner = host(words.next());
                if self.map.incarnation(&owner).is_none() {
                    self.apply(Kind::NodeUp {
                        host: owner.clone(),
                        incarnation: Incarnation(1),
                        presence: Presence::default(),
                    });
                }
                let mut spec = script::spec();
                spec.on_node_loss = OnNodeLoss::Restart;
                self.apply(Kind::Place(Box::new(Place {
                    id,
                    slot: id,
                    owner,
                    incarnation: Incarnation(1),
                    generation: Generation(words.number("gen", 1)),
                    spec: Arc::new(spec),
                    sealed_env: script::sealed_env(),
                    expires_at: None,
                    key: None,
                })));
            }
            // Its owner is lost; the new one, which is up, has it in this slot.
            "moved" => {
                let (id, owner, slot) = (id(words.next()), host(words.next()), id(words.next()));
                let Place { owner: old, generation, .. } = self.map.get(&id).unwrap().place.clone();
                let (presence, generation) = (Presence::default(), generation.next());
                // A later life each time, so that who was lost is back.
                let incarnation = Incarnation(generation.0);
                let of_old = self.map.incarnation(&old).unwrap();
                self.apply(Kind::NodeUp { host: owner.clone(), incarnation, presence });
                self.apply(Kind::NodeLost { host: old, incarnation: of_old, restarting: false });
                self.apply(Kind::Move(Move { id, slot, owner, incarnation, generation }));
            }
            "failed" => {
                let id = id(words.next());
                let generation = self.map.get(&id).unwrap().place.generation;
                let failure = Failure::from(&script::error("internal"));
                self.apply(Kind::Fail { id, generation, failure, only_if_lost: false });
            }
            "destroyed" => self.apply(Kind::Destroy { id: id(words.next()), reason: DestroyReason::Asked }),
            "activated" => {
                self.activated.insert(id(words.next()));
            }
            "found" => {
                let slot = id(words.next());
                let (generation, digest) = (Generation(1), [1; 32]);
                let agent = match words.next() {
                    "bare" => Some(AgentState::Bare),
                    "prepared" => Some(AgentState::Prepared { generation, digest }),
                    "active" => Some(AgentState::Active { generation, digest }),
                    "silent" => None,
                    other => panic!("found {other}"),
                };
                let mut shape = script::spec().slot_shape();
                let shape = match words.opt("image") {
                    Some("unlabelled") => None,
                    Some(image_id) => {
                        shape.image_id = image_id.into();
                        Some(shape)
                    }
                    None => Some(shape),
                };
                self.found.push(Found { slot, agent, shape });
            }
            "no-pool" => self.no_pool = true,
            "start" => {
                let shape = script::spec().slot_shape();
                let pool = (!self.no_pool).then_some(&shape);
                let verdicts = reconcile(&self.map, &host("n1"), &self.found, &self.activated, pool);
                words.end();
                return verdicts.iter().map(show).collect();
            }
            other => panic!("no verb {other}"),
        }
        words.end();
        Vec::new()
    }
}

fn show(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Adopt { slot, record, activated } => {
            assert_eq!(record.place.slot, *slot);
            format!("adopt {}{}", letter(*slot), if *activated { ", activated" } else { ", to be finished" })
        }
        Verdict::Pool(slot) => format!("pool {}", letter(*slot)),
        Verdict::Bury { slot, duty: Some(Duty { generation, .. }) } => {
            format!("bury {}, report gen {generation}", letter(*slot))
        }
        Verdict::Bury { slot, duty: None } => format!("bury {}", letter(*slot)),
    }
}

#[track_caller]
fn check(text: &str) {
    let mut script = Script::default();
    script::check(text, |line| script.line(line));
}

#[test]
fn nothing_found_and_nothing_placed() {
    check(
        "
        start
        ",
    );
}

#[test]
fn what_is_placed_here_is_adopted_whatever_was_found() {
    check(
        "
        placed a n1
        placed b n1
        placed c n1
        placed d n1
        activated a
        activated c
        found a active
        found b prepared
        found c silent
        # d: no container at all.
        start
          adopt d, to be finished
          adopt c, activated
          adopt b, to be finished
          adopt a, activated
        ",
    );
}

#[test]
fn what_is_placed_elsewhere_is_not_adopted_and_what_is_left_of_it_here_goes() {
    check(
        "
        placed a n2
        placed b n2
        found b active
        start
          bury b
        ",
    );
}

#[test]
fn what_was_destroyed_is_buried_and_reported_once() {
    check(
        "
        placed a n1 gen 4
        placed b n1
        placed c n2
        destroyed a
        destroyed b
        destroyed c
        activated a
        found a active
        # b: removed before the crash, and not yet reported. c is another node's duty.
        start
          bury a, report gen 4
          bury b, report gen 1
        ",
    );
}

#[test]
fn only_a_slot_that_says_itself_that_it_is_pristine_goes_to_the_pool() {
    check(
        "
        found a bare
        found b prepared
        found c active
        found d silent
        # Bare by its own words, but this node's disk knows better.
        found e bare
        activated e
        start
          pool a
          bury b
          bury c
          bury d
          bury e
        ",
    );
}

#[test]
fn a_slot_of_another_shape_is_not_for_the_pool() {
    check(
        "
        found a bare image i1
        found b bare image i2
        found c bare image unlabelled
        start
          pool a
          bury b
          bury c
        ",
    );
    check(
        "
        no-pool
        found a bare
        start
          bury a
        ",
    );
}

#[test]
fn a_stray_is_buried_at_the_second_look_in_a_row() {
    let ids = |names: &str| names.bytes().map(|name| SandboxId::from_entropy([name; 20])).collect::<BTreeSet<_>>();
    let map = Placement::default();
    // Found, known, seen before; to be buried, to be looked at again.
    for (found, known, before, bury, again) in [
        ("ab", "a", "", "", "b"),
        ("ab", "a", "b", "b", "b"),
        ("ab", "ab", "b", "", ""),
        ("a", "a", "b", "", ""),
        ("abc", "", "ac", "ac", "abc"),
    ] {
        let (buried, seen) = strays(&map, &ids(found), &ids(known), &ids(before));
        assert_eq!(buried.into_iter().collect::<BTreeSet<_>>(), ids(bury), "{found} {known} {before}");
        assert_eq!(seen, ids(again), "{found} {known} {before}");
    }
}

#[test]
fn what_is_placed_elsewhere_by_now_is_buried_whatever_its_agent_says() {
    check(
        "
        placed a n1
        activated a
        found a active
        moved a n2 s
        start
          bury a, report gen 1
        ",
    );
}

#[test]
fn what_came_here_is_known_by_its_slot() {
    check(
        "
        placed a n2
        moved a n1 s
        activated s
        found s active
        start
          adopt s, activated
        ",
    );
    check(
        "
        placed a n2
        moved a n1 s
        found s prepared
        start
          adopt s, to be finished
        ",
    );
}

#[test]
fn what_came_back_has_both_its_container_and_its_remains_here() {
    check(
        "
        placed a n1
        moved a n2 s
        moved a n1 c
        activated a
        activated c
        found a active
        found c active
        start
          adopt c, activated
          bury a, report gen 1
        ",
    );
}

#[test]
fn what_is_in_error_is_not_gone_on_with() {
    check(
        "
        placed a n1
        activated a
        failed a
        found a active
        start
          bury a, report gen 1
        ",
    );
}
