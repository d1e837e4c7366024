//! Nodes that are killed while clients are at work.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde_json::json;
use tests::load::Work;
use tests::{Cases, Cluster, Load, within_settling};

use crate::{begin, three_hosts, took};

/// Clients at work.
const CLIENTS: usize = 4;

/// Keys of the mixed load, and how many more of them each kill waits for.
const MIXED_KEYS: usize = 150;
const KEYS_BETWEEN_KILLS: usize = 10;

/// Keyed creates while leader and owner die between commit and reply: so many at a time are alive.
const KEYED: usize = 500;
const KEYS_AT_A_TIME: usize = 125;

/// From the commit of a create to its answer, and how many creates each victim brings to that point before it dies.
const BETWEEN_COMMIT_AND_REPLY: [&str; 4] =
    ["create.placed:2", "create.marked:3", "create.activated:2", "create.answered"];

#[test]
fn whoever_dies_under_load_what_was_acknowledged_is_true() {
    let mut cases = Cases::of("under load");
    let test = "whoever_dies_under_load_what_was_acknowledged_is_true";
    let Some(mut cluster) = three_hosts(test, &Default::default(), true) else { return };
    cases.case("leader, owner and front door are killed under creates, commands and deletes", || mixed(&mut cluster));
    cases.case("500 keyed creates while leader and owner die between commit and reply", || keyed(&mut cluster));
    cases.finish();
}

fn mixed(cluster: &mut Cluster) {
    begin(cluster);
    let doors = (0..3).map(|door| cluster.door(door).clone()).collect();
    let load = Load::new("mixed", doors, Work::CreateExecDelete, MIXED_KEYS);
    std::thread::scope(|scope| {
        let ends = load.ends_with_this();
        load.begin(scope, CLIENTS);
        for round in 0.. {
            let wanted = load.made_count() + KEYS_BETWEEN_KILLS;
            if wanted > MIXED_KEYS {
                break;
            }
            load.has_made(wanted);
            let (what, victim) = match round % 3 {
                0 => ("the leader", cluster.leader()),
                1 => ("an owner", cluster.owner_of(load.alive().last().expect("half of them are kept"))),
                // Each has clients of its own at every moment.
                _ => ("a front door", round % 2 + usize::from(cluster.leader() <= round % 2)),
            };
            let killed = Instant::now();
            cluster.kill9(victim);
            load.has_made(load.made_count() + 1);
            took(&format!("{what}, node {victim}, is killed; a create is acknowledged"), killed);
            cluster.restart(victim);
        }
        drop(ends);
    });
    println!("  ({})", load.in_words());
    cluster.settles();
    let alive = load.alive();
    for door in 0..3 {
        let shown: BTreeSet<String> = cluster.door(door).ids("").into_iter().collect();
        assert_eq!(shown, alive, "node {door} shows other sandboxes than were acknowledged and not deleted");
    }
    one_container_each(cluster, &alive);
    let id = alive.first().expect("half of them are kept");
    assert_eq!(cluster.door(0).output(id, &["echo", "on"]), "on");
    cluster.empty();
}

fn keyed(cluster: &mut Cluster) {
    begin(cluster);
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    let mut deaths: BTreeMap<&str, usize> = BTreeMap::new();
    let mut points = BETWEEN_COMMIT_AND_REPLY.iter().cycle();
    let started = Instant::now();
    for batch in 0..KEYED / KEYS_AT_A_TIME {
        let doors = (0..3).map(|door| cluster.door(door).clone()).collect();
        let load = Load::new(&format!("keyed-{batch}"), doors, Work::Create, KEYS_AT_A_TIME);
        std::thread::scope(|scope| {
            let ends = load.ends_with_this();
            load.begin(scope, CLIENTS);
            while load.made_count() < KEYS_AT_A_TIME {
                let leader = cluster.leader();
                // An owner, as each of them is while it dies of this.
                let owner = cluster.others(leader)[batch % 2];
                for victim in [leader, owner] {
                    let point = points.next().expect("they begin again");
                    cluster.node(victim).dies_at(point);
                    if dies_or_is_done(cluster, victim, &load) {
                        *deaths.entry(point).or_default() += 1;
                        cluster.restart(victim);
                    }
                    cluster.node(victim).lives_on();
                }
            }
            drop(ends);
        });
        // A kill point may have struck when nobody looked any more.
        cluster.revive();
        let made = load.made();
        assert_eq!(made.len(), KEYS_AT_A_TIME);
        let distinct: BTreeSet<String> = made.values().cloned().collect();
        assert_eq!(distinct.len(), KEYS_AT_A_TIME, "two keys have one sandbox");
        let shown: BTreeSet<String> = cluster.door(batch % 3).ids("").into_iter().collect();
        assert_eq!(shown, distinct, "sandboxes that no key has, or keys whose sandbox is lost");
        one_container_each(cluster, &distinct);
        for (number, (key, id)) in made.iter().enumerate().step_by(5) {
            let again = cluster.door(number % 3).create_keyed(key, &json!({})).expect(201).json();
            assert_eq!(again["id"], json!(id), "{key} has another sandbox");
        }
        println!("  ({})", load.in_words());
        cluster.empty();
        all.extend(made);
    }
    took("all are made and deleted", started);
    println!("  (deaths between commit and reply: {deaths:?})");
    assert!(deaths.values().sum::<usize>() >= KEYED / KEYS_AT_A_TIME, "hardly anybody died: {deaths:?}");
    assert_eq!(all.values().collect::<BTreeSet<_>>().len(), KEYED, "two keys have one sandbox");
    for (key, id) in all.iter().step_by(50) {
        let gone = cluster.door(1).create_keyed(key, &json!({})).expect_error(410, "gone");
        assert_eq!(gone["details"]["id"], json!(id), "{gone}");
    }
}

/// Whether it dies before the clients have what they want.
fn dies_or_is_done(cluster: &mut Cluster, victim: usize, load: &Load) -> bool {
    within_settling("its kill point, or the end of the load", || {
        if cluster.node_mut(victim).has_ended().is_some() {
            return Ok(true);
        }
        if load.made_count() == KEYS_AT_A_TIME { Ok(false) } else { Err("neither".to_owned()) }
    })
}

/// Demands that each of these has one running container on all hosts together; what else is there, others look at.
fn one_container_each(cluster: &Cluster, ids: &BTreeSet<String>) {
    let mut running: BTreeMap<String, usize> = BTreeMap::new();
    for node in 0..3 {
        for (id, container) in cluster.node(node).held().containers {
            if ids.contains(&id) {
                assert!(container.running, "{id} does not run");
                *running.entry(id).or_default() += 1;
            }
        }
    }
    assert!(ids.iter().all(|id| running.get(id) == Some(&1)), "not one container for each: {running:?}");
}
