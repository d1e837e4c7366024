//! The owner of a sandbox is killed at each row of the crash tables, the client asks through another node. After it,
//! what every host holds is what the placement says.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tests::api::id_of;
use tests::crash_points::{CREATES, DELETES, EXPIRY, FAILURES, STARTS, STOPS, Sandbox};
use tests::{Answer, Api, Cases, Cluster, Options, within_settling};

use crate::{begin, three_hosts};

/// Nodes that own sandboxes.
const OWNERS: [usize; 2] = [0, 1];

/// The node that clients ask. It takes no sandbox, so that every one is another's.
const DOOR: usize = 2;

/// A caller hears of its owner's death at once; this is for one that hears nothing.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn whatever_an_owner_dies_of_the_cluster_comes_back_in_order() {
    let mut cases = Cases::of("crash rows on three nodes");
    let test = "whatever_an_owner_dies_of_the_cluster_comes_back_in_order";
    let front_door = Options { pool: 0, env: &[("WARREN_NODE_SANDBOXES_MAX", "0")], ..Options::default() };
    let options = [Options::default(), Options::default(), front_door];
    let Some(cluster) = three_hosts(test, &options, false) else { return };
    let mut rows = Rows::begin(cluster);
    for (point, warm, expected) in CREATES {
        let slot = if *warm { "warm" } else { "cold" };
        cases.case(&format!("create, {slot} slot, killed at {point}"), || rows.create(point, *warm, *expected));
    }
    for point in FAILURES {
        cases.case(&format!("a create that fails, killed at {point}"), || rows.failing_create(point));
    }
    for (point, answered, expected) in DELETES {
        cases.case(&format!("delete, killed at {point}"), || rows.delete(point, *answered, *expected));
    }
    for point in STOPS {
        cases.case(&format!("stop, killed at {point}"), || rows.stop(point));
    }
    for (point, by_itself) in STARTS {
        cases.case(&format!("start, killed at {point}"), || rows.start(point, *by_itself));
    }
    cases.case(&format!("its time has come, killed at {EXPIRY}"), || rows.expiry());
    cases.case("the neighbours are as they were", || rows.neighbours_are_as_they_were());
    cases.finish();
}

/// Three nodes through all cases, with a neighbour on each owner that is there from the beginning.
struct Rows {
    cluster: Cluster,
    /// By owner: id and first process.
    neighbours: BTreeMap<usize, (String, u32)>,
    number: u32,
}

impl Rows {
    fn begin(mut cluster: Cluster) -> Self {
        begin(&mut cluster);
        let neighbours = OWNERS.map(|owner| {
            let id = cluster.door(owner).create(&json!({ "env": { "NEIGHBOUR": "yes" }, "timeout": null }));
            cluster.door(owner).write(&id, "/tmp/kept", b"from the beginning");
            assert_eq!(cluster.owner_of(&id), owner);
            let first = cluster.node(owner).held().containers[&id].pid;
            (owner, (id, first))
        });
        cluster.settles();
        Self { cluster, neighbours: neighbours.into(), number: 0 }
    }

    /// A label, key and secret that no other case has. Whatever became of the case before, all nodes run.
    fn fresh(&mut self) -> String {
        if self.cluster.running().count() < 3 || !self.cluster.differences().is_empty() {
            self.cluster.revive();
        }
        self.number += 1;
        format!("row-{}", self.number)
    }

    fn door(&self) -> &Api {
        self.cluster.door(DOOR)
    }

    /// Asks the front door, and awaits that one of these nodes dies at this point. Who, and what was answered.
    fn dies_at(
        &mut self,
        point: &str,
        victims: &[usize],
        ask: impl FnOnce(&Api) -> std::io::Result<Answer>,
    ) -> (usize, Option<Answer>) {
        // First: else what is still being tidied, or a slot half made, comes to the point.
        self.cluster.settles();
        for victim in victims {
            self.cluster.node(*victim).dies_at(point);
        }
        let answer = ask(self.door());
        let dead = within_settling(&format!("a death at {point}"), || {
            let dead = victims.iter().find(|victim| self.cluster.node_mut(**victim).has_ended().is_some());
            dead.copied().ok_or_else(|| format!("all live; the answer was {answer:?}"))
        });
        victims.iter().for_each(|victim| self.cluster.node(*victim).lives_on());
        // The other's sandboxes know nothing of it.
        let other = OWNERS[usize::from(dead == OWNERS[0])];
        let (neighbour, _) = &self.neighbours[&other];
        assert_eq!(self.door().variable(neighbour, "NEIGHBOUR"), "yes", "the other owner's sandbox");
        match answer {
            Ok(answer) => (dead, Some(answer)),
            Err(error) => panic!("the front door has not answered: {error}"),
        }
    }

    /// Brings the dead one back and demands that all hosts are in order, within the contract's time.
    fn comes_back(&mut self, dead: usize) {
        let prepared = self.cluster.node(dead).held().prepared();
        self.cluster.restart(dead);
        self.cluster.settles();
        let placed = self.door().ids("");
        let held = self.cluster.node(dead).held();
        for slot in prepared.iter().filter(|slot| !placed.contains(slot)) {
            assert!(!held.containers.contains_key(slot), "slot {slot} was prepared for another and is still there");
        }
        let (neighbour, first) = &self.neighbours[&dead];
        assert_eq!(self.door().variable(neighbour, "NEIGHBOUR"), "yes");
        assert_eq!(self.door().read(neighbour, "/tmp/kept"), b"from the beginning");
        assert_eq!(held.containers[neighbour].pid, *first, "a neighbour was begun anew");
    }

    fn create(&mut self, point: &str, warm: bool, expected: Sandbox) {
        let name = self.fresh();
        let mut body = json!({ "labels": { "case": name }, "env": { "CASE": name } });
        if !warm {
            body["storage"] = json!({ "tmpfs": [{ "path": "/scratch", "size": "1m" }] });
        }
        let (dead, answer) = self.dies_at(point, &OWNERS, |door| keyed(door, &name, &body).send());
        not_acknowledged(point, answer.as_ref());
        self.comes_back(dead);
        let query = format!("?label=case:{name}");
        let found = self.door().ids(&query);
        let right = match expected {
            Sandbox::Absent => found.is_empty(),
            Sandbox::Either => found.len() <= 1,
            Sandbox::Present => found.len() == 1,
        };
        assert!(right, "{expected:?} was expected, these are there: {found:?}");
        // It comes up by itself, not because somebody asks again.
        found.iter().for_each(|id| drop(self.door().becomes(id, "running")));
        let other_door = self.cluster.door(OWNERS[usize::from(dead == OWNERS[0])]);
        let again = other_door.create_keyed(&name, &body).expect(201).json();
        let id = id_of(&again);
        assert_eq!(again["status"], "running", "{again}");
        assert!(found.is_empty() || found == std::slice::from_ref(&id), "{found:?} were there, the retry made {id}");
        assert_eq!(self.door().ids(&query), std::slice::from_ref(&id));
        assert_eq!(self.door().variable(&id, "CASE"), name);
        self.door().destroy(&id);
        self.cluster.settles();
    }

    /// A create that failed for good after its commit keeps its error under its key.
    fn failing_create(&mut self, point: &str) {
        let name = self.fresh();
        // Refused by its own agent, after the commit; of another shape than the warm slots, so its slot is made.
        let body = json!({ "labels": { "case": name }, "user": "nobody-there", "writable_rootfs": false });
        let (dead, answer) = self.dies_at(point, &OWNERS, |door| keyed(door, &name, &body).send());
        not_acknowledged(point, answer.as_ref());
        self.comes_back(dead);
        within_settling("nothing of it is left", || match self.door().ids(&format!("?label=case:{name}")) {
            none if none.is_empty() => Ok(()),
            some => Err(format!("{some:?}")),
        });
        for door in 0..3 {
            self.cluster.door(door).create_keyed(&name, &body).expect_error(422, "unprocessable");
        }
        self.cluster.settles();
    }

    fn delete(&mut self, point: &str, answered: bool, expected: Sandbox) {
        let (id, _, owner) = self.with_a_file();
        let path = format!("/sandboxes/{id}");
        let (dead, answer) = self.dies_at(point, &[owner], |door| door.call("DELETE", &path).patience(PATIENCE).send());
        // A tombstone may be acknowledged, and holds from then on.
        let entombed = answer.as_ref().is_some_and(|answer| answer.status == 202);
        if !answered && !entombed {
            not_acknowledged(point, answer.as_ref());
        }
        if entombed {
            self.door().get(&path).expect_error(404, "not_found");
        }
        self.comes_back(dead);
        let found = self.door().get(&path);
        if found.status == 200 {
            assert!(expected == Sandbox::Either && !entombed, "it is still there: {}", found.text());
            self.door().becomes(&id, "running");
            self.door().destroy(&id);
        }
        for door in 0..3 {
            self.cluster.door(door).get(&path).expect_error(404, "not_found");
        }
        self.door().delete(&path).expect_error(404, "not_found");
        self.cluster.settles();
    }

    fn stop(&mut self, point: &str) {
        let (id, name, owner) = self.with_a_file();
        let path = format!("/sandboxes/{id}/stop");
        let (dead, answer) = self.dies_at(point, &[owner], |door| door.call("POST", &path).patience(PATIENCE).send());
        not_acknowledged(point, answer.as_ref());
        self.comes_back(dead);
        self.door().becomes(&id, "stopped");
        self.door().stop(&id);
        self.door().start(&id);
        self.has_its_file(&id, &name);
    }

    fn start(&mut self, point: &str, by_itself: bool) {
        let (id, name, owner) = self.with_a_file();
        self.door().stop(&id);
        let path = format!("/sandboxes/{id}/start");
        let (dead, answer) = self.dies_at(point, &[owner], |door| door.call("POST", &path).patience(PATIENCE).send());
        not_acknowledged(point, answer.as_ref());
        self.comes_back(dead);
        if by_itself {
            self.door().becomes(&id, "running");
        }
        self.door().start(&id);
        self.door().becomes(&id, "running");
        self.has_its_file(&id, &name);
    }

    fn expiry(&mut self) {
        let name = self.fresh();
        // It is made, and its time comes, while everybody watches for its owner's death.
        let body = json!({ "timeout": 1 });
        let (dead, answer) = self.dies_at(EXPIRY, &OWNERS, |door| keyed(door, &name, &body).send());
        let id = id_of(&answer.expect("it was made before").expect(201).json());
        self.comes_back(dead);
        for door in 0..3 {
            within_settling("it has expired", || {
                let answer = self.cluster.door(door).get(&format!("/sandboxes/{id}"));
                if answer.status == 404 { Ok(()) } else { Err(answer.text()) }
            });
        }
        self.cluster.settles();
    }

    /// A sandbox with a file in it; its owner.
    fn with_a_file(&mut self) -> (String, String, usize) {
        let name = self.fresh();
        let id = self.door().create(&json!({ "env": { "CASE": name } }));
        self.door().write(&id, "/tmp/file", name.as_bytes());
        let owner = self.cluster.owner_of(&id);
        (id, name, owner)
    }

    fn has_its_file(&self, id: &str, name: &str) {
        assert_eq!(self.door().read(id, "/tmp/file"), name.as_bytes());
        assert_eq!(self.door().variable(id, "CASE"), name);
        self.door().destroy(id);
        self.cluster.settles();
    }

    fn neighbours_are_as_they_were(&self) {
        for (owner, (id, first)) in &self.neighbours {
            assert_eq!(self.door().status(id), "running");
            assert_eq!(self.cluster.node(*owner).held().containers[id].pid, *first);
        }
    }
}

fn keyed<'a>(door: &Api, key: &str, body: &Value) -> tests::http::Call<'a> {
    door.call("POST", "/sandboxes").header("Idempotency-Key", key).json(body).patience(PATIENCE)
}

/// Whoever died before it answered has not acknowledged anything, and nobody has for it.
fn not_acknowledged(point: &str, answer: Option<&Answer>) {
    if let Some(answer) = answer {
        assert_eq!(answer.status, 503, "the owner died at {point}, and the answer was {}", answer.text());
    }
}
