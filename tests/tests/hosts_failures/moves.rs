//! A sandbox of a lost node is placed again, and whoever does it is killed on the way, or who had it is.

use serde_json::json;
use tests::crash_points::{FAREWELLS, MOVES};
use tests::{Api, Cases, Cluster, within_settling};

use crate::{begin, three_hosts};

#[test]
fn a_sandbox_is_placed_again_once_whoever_dies_of_it() {
    let mut cases = Cases::of("moves");
    let test = "a_sandbox_is_placed_again_once_whoever_dies_of_it";
    let Some(mut cluster) = three_hosts(test, &Default::default(), false) else { return };
    for point in MOVES {
        cases.case(&format!("placed again, killed at {point}"), || killed_on_the_way(&mut cluster, point));
    }
    for point in FAREWELLS {
        cases
            .case(&format!("the former owner is back, killed at {point}"), || former_owner_killed(&mut cluster, point));
    }
    cases.finish();
}

/// A sandbox that is to be placed again, of a node that does not lead.
fn sandbox(cluster: &mut Cluster) -> (String, usize) {
    begin(cluster);
    let owner = cluster.others(cluster.leader())[0];
    let id = cluster.door(owner).create(&json!({ "on_node_loss": "restart", "env": { "KEPT": "yes" } }));
    assert_eq!(cluster.owner_of(&id), owner, "where a slot was warm");
    cluster.settles();
    (id, owner)
}

fn killed_on_the_way(cluster: &mut Cluster, point: &str) {
    let (id, owner) = sandbox(cluster);
    let rest = cluster.others(owner);
    cluster.kill9(owner);
    rest.iter().for_each(|node| cluster.node(*node).dies_at(point));
    let dead = within_settling(&format!("a death at {point}"), || {
        let dead = rest.iter().find(|node| cluster.node_mut(**node).has_ended().is_some());
        dead.copied().ok_or_else(|| "all live".to_owned())
    });
    rest.iter().for_each(|node| cluster.node(*node).lives_on());
    cluster.restart(dead);
    // The two others alone: the former owner stays away until it runs again.
    for door in &rest {
        let shown = cluster.door(*door).becomes(&id, "running");
        assert_eq!(shown["generation"], json!(2), "{shown}");
        serves(cluster.door(*door), &id);
    }
    cluster.restart(owner);
    is_in_order(cluster, &id, owner);
}

fn former_owner_killed(cluster: &mut Cluster, point: &str) {
    let (id, owner) = sandbox(cluster);
    let rest = cluster.others(owner);
    cluster.cut_off(owner);
    within_settling("placed again", || {
        let shown = cluster.door(rest[0]).sandbox(&id);
        if shown["generation"] == 2 && shown["status"] == "running" { Ok(()) } else { Err(shown.to_string()) }
    });
    cluster.node(owner).dies_at(point);
    cluster.heal();
    cluster.node_mut(owner).wait_for_kill_point(point);
    cluster.restart(owner);
    is_in_order(cluster, &id, owner);
}

/// It runs once, in the next generation, and nothing of the former one is left anywhere.
fn is_in_order(cluster: &Cluster, id: &str, former: usize) {
    cluster.settles();
    let owner = cluster.owner_of(id);
    assert_ne!(owner, former, "it is with its former owner");
    assert!(!cluster.node(former).held().containers.contains_key(id), "the former container is still there");
    for door in 0..3 {
        let shown = cluster.door(door).becomes(id, "running");
        assert_eq!(shown["generation"], json!(2), "{shown}");
        serves(cluster.door(door), id);
    }
}

/// Waits until a call for it is taken: a node that was started a moment ago has yet to win its lease.
fn serves(door: &Api, id: &str) {
    let kept = within_settling("a call is taken", || {
        let answer = door.exec_with(id, &json!({ "cmd": ["sh", "-c", "echo $KEPT"] }));
        match answer.status {
            200 => Ok(answer.json()["stdout"].clone()),
            503 => Err(answer.text()),
            other => panic!("{other}: {}", answer.text()),
        }
    });
    assert_eq!(kept, json!("yes\n"), "its environment");
}
