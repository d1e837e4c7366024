//! What three nodes keep when one of them, the one that leads, or the majority of them ends.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use serde_json::json;
use tests::machine::lives;
use tests::{Answer, Api, Cases, Cluster, within_settling};

/// Keyed creates while the leader dies.
const KEYS: usize = 100;

/// Clients that make them.
const CLIENTS: usize = 4;

/// Keys that have their sandbox when the leader is killed.
const KEYS_BEFORE_THE_END: usize = 30;

/// Writes a line every moment, for as long as it lives.
const GROWS: &str = "while :; do echo x >> /tmp/grows; sleep 0.05; done";

#[test]
fn a_cluster_outlives_its_nodes() {
    let mut cases = Cases::of("cluster failures");
    let mut cluster = Cluster::start(3);
    cases.case("the owner is killed, and is back in time", || owner_killed(&mut cluster));
    cases.case("the owner is killed, counts as lost, and is back", || owner_lost(&mut cluster));
    cases.case("the owner stands still, counts as lost, and goes on", || owner_frozen(&mut cluster));
    cases.case("the leader stands still, and reads nothing stale when it goes on", || leader_frozen(&mut cluster));
    cases.case("a node ends by SIGTERM and is started again", || stopped_and_started(&mut cluster));
    cases.case("the majority is lost, and is back", || majority_lost(&mut cluster));
    cases.case("the leader is killed under keyed creates", || leader_killed_under_load(&mut cluster));
    cases.finish();
}

fn owner_killed(cluster: &mut Cluster) {
    cluster.revive();
    // Not the leader: that is another case.
    let owner = cluster.others(cluster.leader())[0];
    let kept = cluster.node(owner).api().create(&json!({ "env": { "KEPT": "yes" } }));
    cluster.settles();
    let deleted = cluster.node(owner).api().create(&json!({}));
    assert_eq!((cluster.owner_of(&kept), cluster.owner_of(&deleted)), (owner, owner), "where a slot was warm");
    let doors = cluster.others(owner);
    let door = cluster.node(doors[0]).api().clone();
    let other = cluster.node(doors[1]).api().clone();
    let running = starts_growing(&door, &kept);
    grows(&door, &kept);
    let before = cluster.node(owner).held();
    let host = cluster.host(owner);

    cluster.kill9(owner);
    let cut = running.join().expect("a client");
    assert!(cut.as_ref().is_ok_and(|answer| answer.status == 503), "an exec whose owner was killed: {cut:?}");
    for door in [&door, &other] {
        within_settling("unreachable", || shows(door, &kept, "unreachable"));
        let refused = door.exec_with(&kept, &json!({ "cmd": ["true"] })).expect_error(503, "unavailable");
        assert_eq!(refused["details"]["node"], json!(host), "{refused}");
        let refused = door.file("GET", &kept, "", "/tmp/grows").send().expect("an answer");
        assert_eq!(refused.expect_error(503, "unavailable")["details"]["node"], json!(host));
    }
    let destroying = door.delete(&format!("/sandboxes/{deleted}")).expect(202).json();
    assert_eq!(destroying, json!({ "status": "destroying" }));
    for door in [&door, &other] {
        door.get(&format!("/sandboxes/{deleted}")).expect_error(404, "not_found");
        door.delete(&format!("/sandboxes/{deleted}")).expect_error(404, "not_found");
    }
    let made: Vec<String> = [&door, &other, &door].map(|door| door.create(&json!({}))).into();
    for id in &made {
        assert_ne!(cluster.owner_of(id), owner);
        assert_eq!(door.output(id, &["echo", "elsewhere"]), "elsewhere");
    }
    assert!(lives(before.containers[&kept].pid) && lives(before.containers[&deleted].pid), "nobody was there to kill");

    cluster.restart(owner);
    for door in [&door, &other] {
        within_settling("reachable", || shows(door, &kept, "running"));
    }
    assert_eq!(cluster.node(owner).held().containers[&kept].pid, before.containers[&kept].pid, "another process");
    grows(&door, &kept);
    assert_eq!(other.variable(&kept, "KEPT"), "yes");
    cluster.settles();
    assert!(!lives(before.containers[&deleted].pid), "what was deleted lives");
    empty(cluster);
}

fn owner_lost(cluster: &mut Cluster) {
    cluster.revive();
    let owner = cluster.others(cluster.leader())[0];
    let id = cluster.node(owner).api().create(&json!({}));
    assert_eq!(cluster.owner_of(&id), owner);
    cluster.settles();
    let first = cluster.node(owner).held().containers[&id].pid;
    let others = cluster.others(owner);
    cluster.kill9(owner);
    cluster.loses(owner, others[0]);
    for other in &others {
        let shown = cluster.node(*other).api().sandbox(&id);
        assert_eq!((&shown["status"], &shown["generation"]), (&json!("unreachable"), &json!(1)), "{shown}");
    }
    assert!(lives(first), "a sandbox that is to wait was ended");
    cluster.restart(owner);
    within_settling("reachable", || shows(cluster.node(others[1]).api(), &id, "running"));
    assert_eq!(cluster.node(owner).held().containers[&id].pid, first);
    cluster.settles();
    let after = cluster.node(owner).api().create(&json!({}));
    assert_eq!(cluster.owner_of(&after), owner, "a node that is back takes sandboxes");
    empty(cluster);
}

fn owner_frozen(cluster: &mut Cluster) {
    cluster.revive();
    let owner = cluster.others(cluster.leader())[0];
    let kept = cluster.node(owner).api().create(&json!({}));
    cluster.settles();
    let deleted = cluster.node(owner).api().create(&json!({}));
    assert_eq!((cluster.owner_of(&kept), cluster.owner_of(&deleted)), (owner, owner));
    cluster.settles();
    let before = cluster.node(owner).held();
    let doors: Vec<&Api> = cluster.others(owner).into_iter().map(|door| cluster.node(door).api()).collect();
    cluster.freeze(owner);
    cluster.loses(owner, cluster.others(owner)[0]);
    for door in &doors {
        within_settling("unreachable", || shows(door, &kept, "unreachable"));
        door.exec_with(&kept, &json!({ "cmd": ["true"] })).expect_error(503, "unavailable");
    }
    doors[0].delete(&format!("/sandboxes/{deleted}")).expect(202);
    doors[1].get(&format!("/sandboxes/{deleted}")).expect_error(404, "not_found");
    let made = doors[1].create(&json!({}));
    cluster.thaw(owner);
    for door in &doors {
        within_settling("reachable", || shows(door, &kept, "running"));
    }
    let own = cluster.node(owner).api();
    own.get(&format!("/sandboxes/{deleted}")).expect_error(404, "not_found");
    assert_eq!(own.output(&made, &["echo", "on"]), "on");
    cluster.settles();
    assert_eq!(cluster.node(owner).held().containers[&kept].pid, before.containers[&kept].pid);
    assert!(!lives(before.containers[&deleted].pid), "what was deleted lives");
    let after = own.create(&json!({}));
    assert_eq!(cluster.owner_of(&after), owner, "a node that goes on takes sandboxes");
    empty(cluster);
}

fn leader_frozen(cluster: &mut Cluster) {
    cluster.revive();
    let frozen = cluster.leader();
    let others = cluster.others(frozen);
    let gone = cluster.node(others[0]).api().create(&json!({}));
    assert_eq!(cluster.owner_of(&gone), others[0]);
    cluster.freeze(frozen);
    within_settling("another leader", || {
        let health = cluster.node(others[0]).api().get("/health").json();
        match health["leader"].as_str() {
            Some(leader) if leader != cluster.host(frozen) => Ok(()),
            _ => Err(health.to_string()),
        }
    });
    let made = cluster.node(others[1]).api().create(&json!({}));
    cluster.node(others[1]).api().destroy(&gone);
    cluster.thaw(frozen);
    let door = cluster.node(frozen).api();
    // It may say that it can not read yet, but nothing that is not so.
    let seen = |id: &str| {
        within_settling("an answer", || {
            let answer = door.get(&format!("/sandboxes/{id}"));
            if answer.status == 503 { Err(answer.text()) } else { Ok(answer.status) }
        })
    };
    assert_eq!((seen(&gone), seen(&made)), (404, 200), "the former leader has read what was so before");
    assert_ne!(cluster.leader(), frozen);
    empty(cluster);
}

fn stopped_and_started(cluster: &mut Cluster) {
    cluster.revive();
    let owner = cluster.leader();
    let id = cluster.node(owner).api().create(&json!({}));
    let stopped = cluster.node(owner).api().create(&json!({}));
    cluster.node(owner).api().stop(&stopped);
    cluster.settles();
    let pids = |cluster: &Cluster| -> BTreeMap<String, u32> {
        cluster.node(owner).held().containers.into_iter().map(|(id, container)| (id, container.pid)).collect()
    };
    let before = pids(cluster);
    let door = cluster.node(cluster.others(owner)[0]).api().clone();
    door.write(&id, "/tmp/kept", b"kept");
    assert!(cluster.sigterm(owner).success());
    assert_eq!(pids(cluster), before, "they ended with their node");
    within_settling("unreachable", || shows(&door, &id, "unreachable"));
    assert_ne!(cluster.leader(), owner);
    cluster.restart(owner);
    for other in 0..3 {
        let door = cluster.node(other).api();
        within_settling("reachable", || shows(door, &id, "running"));
        within_settling("reachable", || shows(door, &stopped, "stopped"));
        assert_eq!(door.read(&id, "/tmp/kept"), b"kept");
    }
    cluster.settles();
    assert_eq!(pids(cluster), before, "sandboxes or slots were not adopted");
    door.start(&stopped);
    assert_eq!(door.output(&stopped, &["echo", "on"]), "on");
    empty(cluster);
}

fn majority_lost(cluster: &mut Cluster) {
    cluster.revive();
    let left = cluster.others(cluster.leader())[0];
    let id = cluster.node(left).api().create(&json!({}));
    assert_eq!(cluster.owner_of(&id), left);
    let lost = cluster.others(left);
    let away = cluster.node(lost[0]).api().create(&json!({}));
    assert_eq!(cluster.owner_of(&away), lost[0]);
    cluster.settles();
    let door = cluster.node(left).api().clone();
    for node in &lost {
        cluster.kill9(*node);
    }
    within_settling("no quorum", || {
        let health = door.call_without_key("GET", "/health").send().expect("an answer").expect(200).json();
        if health["quorum"] == json!(false) { Ok(()) } else { Err(health.to_string()) }
    });
    door.get(&format!("/sandboxes/{id}")).expect_error(503, "no_quorum");
    door.get("/sandboxes").expect_error(503, "no_quorum");
    let stale = door.get(&format!("/sandboxes/{id}?stale=true")).expect(200).json();
    assert_eq!(stale["status"], "running");
    assert_eq!(door.list("?stale=true").len(), 2);
    assert_eq!(door.get(&format!("/sandboxes/{away}?stale=true")).expect(200).json()["status"], "unreachable");
    assert_eq!(door.output(&id, &["echo", "on"]), "on");
    door.write(&id, "/tmp/file", b"on");
    assert_eq!(door.read(&id, "/tmp/file"), b"on");
    let refused = door.post("/sandboxes", &json!({}));
    assert_eq!(refused.status, 503, "{}", refused.text());
    println!("  (a create without a majority: {})", refused.text());
    cluster.restart_together(&lost);
    within_settling("reachable", || shows(&door, &away, "running"));
    let mut ids = door.ids("");
    ids.sort();
    let mut expected = vec![id, away];
    expected.sort();
    assert_eq!(ids, expected);
    cluster.settles();
    for other in 0..3 {
        for id in &ids {
            assert_eq!(cluster.node(other).api().output(id, &["echo", "on"]), "on");
        }
    }
    empty(cluster);
}

fn leader_killed_under_load(cluster: &mut Cluster) {
    cluster.revive();
    let leader = cluster.leader();
    let doors: Vec<Api> = (0..3).map(|node| cluster.node(node).api().clone()).collect();
    let load = Load::default();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (load, doors) = (&load, &doors);
            scope.spawn(move || load.create_all(client, doors));
        }
        within_settling("the creates are under way", || {
            let made = load.made.lock().expect("no client has panicked").len();
            if made >= KEYS_BEFORE_THE_END { Ok(()) } else { Err(format!("{made} made")) }
        });
        cluster.kill9(leader);
    });
    println!("  ({} answers were no sandbox and asked again)", load.retried.load(Ordering::Relaxed));
    let made = load.made.into_inner().expect("no client has panicked");
    assert_eq!(made.len(), KEYS);
    assert_ne!(cluster.leader(), leader);
    cluster.restart(leader);
    cluster.settles();
    let distinct: BTreeSet<String> = made.values().cloned().collect();
    let placed: BTreeSet<String> = cluster.node(leader).api().ids("").into_iter().collect();
    assert_eq!(distinct.len(), KEYS, "two keys have one sandbox");
    assert_eq!(placed, distinct, "sandboxes that no key has, or keys whose sandbox is lost");
    let mut running = BTreeMap::new();
    for node in 0..3 {
        for (id, container) in cluster.node(node).held().containers {
            assert!(container.running, "{id} does not run");
            *running.entry(id).or_insert(0) += 1;
        }
    }
    assert!(distinct.iter().all(|id| running.get(id) == Some(&1)), "not one container for each: {running:?}");
    for (number, (key, id)) in made.iter().enumerate() {
        let again = cluster.node(number % 3).api().create_keyed(key, &json!({})).expect(201).json();
        assert_eq!(again["id"], json!(id), "{key} has another sandbox");
    }
    empty(cluster);
}

/// Keyed creates by several clients, each asked until it is answered with a sandbox.
#[derive(Default)]
struct Load {
    next: AtomicUsize,
    retried: AtomicUsize,
    made: Mutex<BTreeMap<String, String>>,
}

impl Load {
    fn create_all(&self, client: usize, doors: &[Api]) {
        // A door for each request, the same in each run.
        let mut random = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(client as u64 + 1);
        let mut door = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            &doors[usize::try_from(random >> 33).unwrap_or_default() % doors.len()]
        };
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= KEYS {
                return;
            }
            let key = format!("key-{number}");
            let id = within_settling(&key, || {
                let asked = door().call("POST", "/sandboxes").header("Idempotency-Key", &key).json(&json!({})).send();
                match asked {
                    Ok(answer) if answer.status == 201 => Ok(tests::api::id_of(&answer.json())),
                    Ok(answer) if answer.status < 500 => panic!("{key}: {} {}", answer.status, answer.text()),
                    other => {
                        self.retried.fetch_add(1, Ordering::Relaxed);
                        Err(format!("{other:?}"))
                    }
                }
            });
            self.made.lock().expect("no client has panicked").insert(key, id);
        }
    }
}

/// Deletes everything through all doors, and looks that nothing is left.
fn empty(cluster: &Cluster) {
    let ids = cluster.node(0).api().ids("");
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (ids, next) = (&ids, &next);
            scope.spawn(move || {
                while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                    cluster.node(client % 3).api().destroy(id);
                }
            });
        }
    });
    for door in cluster.running() {
        assert_eq!(cluster.node(door).api().ids(""), Vec::<String>::new());
    }
    cluster.settles();
}

fn starts_growing(door: &Api, id: &str) -> JoinHandle<io::Result<Answer>> {
    let call = door.call("POST", &format!("/sandboxes/{id}/exec")).json(&json!({ "cmd": ["sh", "-c", GROWS] }));
    std::thread::spawn(move || call.send())
}

/// Waits until a file that a process writes to grows.
fn grows(door: &Api, id: &str) {
    let length = || door.exec(id, &["sh", "-c", "wc -c < /tmp/grows"]).out.trim().parse::<u64>().unwrap_or_default();
    let before = length();
    within_settling("a file that grows", || if length() > before { Ok(()) } else { Err("it does not".to_owned()) });
}

fn shows(door: &Api, id: &str, status: &str) -> Result<(), String> {
    let answer = door.get(&format!("/sandboxes/{id}"));
    if answer.status == 200 && answer.json()["status"] == json!(status) { Ok(()) } else { Err(answer.text()) }
}
