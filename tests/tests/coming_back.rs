//! Nodes that go and come back: in order and announced, or without their log.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::machine::lives;
use tests::{Api, Cases, Cluster, Options, within_settling};

/// Short enough that a node which does not come back is missed within a test.
const RESTART_WITHIN: (&str, &str) = ("WARREN_NODE_RESTART_WITHIN_SECONDS", "20");

#[test]
fn nodes_go_and_come_back() {
    let mut cases = Cases::of("coming back");
    let mut cluster = Cluster::start_with(4, Options { env: &[RESTART_WITHIN], ..Options::default() });
    cases.case("SIGTERM lets a request through another node come to its end", || ends_in_order(&mut cluster));
    cases.case("a node that announced its restart is not missed", || restarts_announced(&mut cluster));
    cases.case("a node that announced its restart and stays away is missed", || stays_away(&mut cluster));
    cases.case("the log of a follower is damaged", || follower_damaged(&mut cluster));
    cases.case("the log of the leader ends too early", || leader_truncated(&mut cluster));
    cases.case("the log of a node is gone", || log_gone(&mut cluster));
    for point in ["rejoin.accepted", "rejoin.aside", "rejoin.kept"] {
        cases.case(&format!("a log is damaged, and its node dies at {point}"), || dies_on_its_way(&mut cluster, point));
    }
    cases.finish();
}

#[test]
fn a_lone_node_does_not_begin_anew_over_a_lost_log() {
    let mut cluster = Cluster::start(1);
    let id = cluster.node(0).api().create(&json!({}));
    cluster.settles();
    let first = cluster.node(0).held().containers[&id].pid;
    let log = cluster.node(0).data_dir().join("log");
    cluster.kill9(0);
    let kept = log.with_file_name("kept");
    fs::rename(&log, &kept).expect("the log can be moved");
    let refused = cluster.refuses_a_second_process_of(0);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.said);
    assert!(refused.said.contains("does not begin a new cluster over what it had"), "{}", refused.said);
    assert!(lives(first), "a sandbox was ended that the log had");
    assert!(!log.exists(), "a log was begun");
    // With what a backup would bring back it is what it was.
    fs::rename(&kept, &log).expect("the log can be moved");
    cluster.restart(0);
    assert_eq!(cluster.node(0).held().containers[&id].pid, first);
    assert_eq!(cluster.node(0).api().output(&id, &["echo", "on"]), "on");
}

#[test]
fn what_was_placed_again_is_destroyed_on_exit_as_well() {
    let mut cluster = Cluster::start_with(3, Options { flags: &["--destroy-on-exit"], ..Options::default() });
    let first = cluster.others(cluster.leader())[0];
    let id = cluster.node(first).api().create(&json!({ "on_node_loss": "restart" }));
    assert_eq!(cluster.owner_of(&id), first);
    cluster.kill9(first);
    let asked = cluster.leader();
    within_settling("it runs elsewhere", || {
        let shown = cluster.node(asked).api().get(&format!("/sandboxes/{id}")).json();
        if shown["generation"] == 2 && shown["status"] == "running" { Ok(()) } else { Err(shown.to_string()) }
    });
    let owner = cluster.owner_of(&id);
    assert!(cluster.sigterm(owner).success(), "{}", cluster.node(owner).log());
    let held = cluster.node(owner).held();
    assert!(held.containers.is_empty() && held.directories.is_empty(), "{held:?}");
    // In order: the map was told, and so was whoever is left.
    let left = cluster.others(owner).into_iter().find(|node| *node != first).expect("a third node");
    within_settling("the map has let go of it", || {
        let answer = cluster.node(left).api().get(&format!("/sandboxes/{id}?stale=true"));
        if answer.status == 404 { Ok(()) } else { Err(answer.text()) }
    });
    cluster.restart_together(&[first, owner]);
    cluster.settles();
}

#[test]
fn a_cluster_that_destroys_on_exit_leaves_nothing_though_all_end_at_once() {
    let mut cluster = Cluster::start_with(3, Options { flags: &["--destroy-on-exit"], ..Options::default() });
    for node in 0..3 {
        cluster.node(node).api().create(&json!({}));
    }
    cluster.settles();
    let began = Instant::now();
    for node in 0..3 {
        cluster.node(node).signal(Signal::TERM);
    }
    for node in 0..3 {
        assert!(cluster.sigterm(node).success(), "{}", cluster.node(node).log());
    }
    // Whoever ends last has no majority to tell.
    println!("  (all ended after {:.1} s)", began.elapsed().as_secs_f64());
    for node in 0..3 {
        let held = cluster.node(node).held();
        assert!(held.containers.is_empty() && held.directories.is_empty(), "{held:?}");
    }
    // What the map still has is gone, and is shown so once the nodes are back.
    cluster.restart_together(&[0, 1, 2]);
    for node in 0..3 {
        let left = cluster.node(node).api().list("");
        assert!(left.iter().all(|sandbox| sandbox["status"] == "error"), "{left:?}");
    }
    // Surely without a majority.
    cluster.settles();
    let last = cluster.others(cluster.leader())[0];
    let id = cluster.node(last).api().create(&json!({}));
    assert_eq!(cluster.owner_of(&id), last);
    for node in cluster.others(last) {
        cluster.kill9(node);
    }
    let began = Instant::now();
    assert!(cluster.sigterm(last).success(), "{}", cluster.node(last).log());
    println!("  (the last one ended after {:.1} s)", began.elapsed().as_secs_f64());
    assert!(cluster.node(last).held().containers.is_empty());
    let says = cluster.node(last).log();
    assert!(says.contains("the map was not told of all that is destroyed here"), "{says}");
}

fn ends_in_order(cluster: &mut Cluster) {
    let owner = cluster.others(cluster.leader())[0];
    let id = cluster.node(owner).api().create(&json!({}));
    assert_eq!(cluster.owner_of(&id), owner);
    cluster.settles();
    let door = cluster.node(cluster.others(owner)[0]).api().clone();
    let body = json!({ "cmd": ["sh", "-c", "touch /tmp/on; sleep 1; echo done"] });
    std::thread::scope(|scope| {
        let running = scope.spawn(|| door.exec_with(&id, &body));
        within_settling("it runs", || match door.names(&id, "/tmp").contains(&"on".to_owned()) {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        });
        assert!(cluster.sigterm(owner).success());
        assert_eq!(running.join().expect("an answer").expect(200).json()["stdout"], "done\n");
    });
    cluster.restart(owner);
    within_settling("reachable", || shows(&door, &id, "running"));
    door.destroy(&id);
    cluster.settles();
}

fn restarts_announced(cluster: &mut Cluster) {
    cluster.revive();
    let leader = cluster.leader();
    // One that votes and the one that learns: the others still are a majority.
    let learns = |node: &usize| shown_of(cluster, *node)["role"] == "learner";
    let (learners, voters): (Vec<usize>, Vec<usize>) = cluster.others(leader).into_iter().partition(learns);
    let (away, dead) = (voters[0], learners[0]);
    // It needs a lease for all that it does: the announcement goes on with that too.
    let id = cluster.node(away).api().create(&json!({ "on_node_loss": "restart" }));
    assert_eq!(cluster.owner_of(&id), away);
    cluster.settles();
    let first = cluster.node(away).held().containers[&id].pid;
    let door = cluster.node(leader).api().clone();
    let endless = json!({ "cmd": ["sh", "-c", "while :; do echo x >> /tmp/grows; sleep 0.05; done"] });
    // A node that has just begun has won no lease yet.
    within_settling("a lease", || match door.exec_with(&id, &json!({ "cmd": ["true"] })) {
        answer if answer.status == 200 => Ok(()),
        answer => Err(answer.text()),
    });
    let call = door.call("POST", &format!("/sandboxes/{id}/exec")).json(&endless);
    let cut = std::thread::spawn(move || call.send());
    grows(&door, &id);
    assert!(cluster.sigterm(away).success());
    let cut = cut.join().expect("a client");
    assert!(cut.as_ref().is_ok_and(|answer| answer.status == 503), "what does not end in time: {cut:?}");
    let says = cluster.node(away).log();
    assert!(says.contains("the cluster knows that this node restarts"), "{says}");
    cluster.kill9(dead);
    // The one that ended later is missed, the one before it is not.
    cluster.loses(dead, leader);
    let shown = door.sandbox(&id);
    assert_eq!(shown["status"], "unreachable", "{shown}");
    assert_eq!(shown["error"], json!(format!("node {} is restarting", cluster.host(away))), "{shown}");
    assert!(lives(first));
    let made = door.create(&json!({}));
    assert!(![away, dead].contains(&cluster.owner_of(&made)));
    cluster.restart(away);
    within_settling("reachable", || shows(&door, &id, "running"));
    assert_eq!(cluster.node(away).held().containers[&id].pid, first);
    assert_eq!(door.sandbox(&id)["generation"], 1);
    grows(&door, &id);
    cluster.restart(dead);
    cluster.settles();
    let after = cluster.node(away).api().create(&json!({}));
    assert_eq!(cluster.owner_of(&after), away, "a node that is back takes sandboxes");
    for id in [id, made, after] {
        door.destroy(&id);
    }
    cluster.settles();
}

fn stays_away(cluster: &mut Cluster) {
    cluster.revive();
    let leader = cluster.leader();
    let away = cluster.others(leader)[0];
    let id = cluster.node(away).api().create(&json!({}));
    assert!(cluster.sigterm(away).success());
    cluster.loses(away, leader);
    let shown = cluster.node(leader).api().sandbox(&id);
    assert_eq!(shown["error"], json!(format!("node {} is lost", cluster.host(away))), "{shown}");
    cluster.restart(away);
    let door = cluster.node(leader).api().clone();
    within_settling("reachable", || shows(&door, &id, "running"));
    door.destroy(&id);
    cluster.settles();
}

fn follower_damaged(cluster: &mut Cluster) {
    let lost = cluster.others(cluster.leader())[0];
    comes_back_as_another(cluster, lost, None, |log| {
        // In the midst of what was written.
        let file = File::options().write(true).open(log.join("log/db")).expect("a database");
        file.write_all_at(&[0xa5; 4096], 512).expect("it can be written");
        let mark = File::options().write(true).open(log.join("acknowledged")).expect("a mark");
        mark.write_all_at(&[0xa5; 8192], 0).expect("it can be written");
    });
}

fn leader_truncated(cluster: &mut Cluster) {
    let lost = cluster.leader();
    comes_back_as_another(cluster, lost, None, |log| {
        fs::remove_dir_all(log.join("log")).expect("a database");
    });
}

fn log_gone(cluster: &mut Cluster) {
    let lost = cluster.others(cluster.leader())[1];
    comes_back_as_another(cluster, lost, None, |log| fs::remove_dir_all(log).expect("a log"));
}

fn dies_on_its_way(cluster: &mut Cluster, point: &str) {
    let lost = cluster.others(cluster.leader())[0];
    comes_back_as_another(cluster, lost, Some(point), |log| {
        fs::write(log.join("acknowledged"), b"").expect("a mark");
    });
}

/// Kills a node, spoils its log, and shows that its host comes back with all it had as another member.
fn comes_back_as_another(cluster: &mut Cluster, lost: usize, dies_at: Option<&str>, spoil: impl FnOnce(&Path)) {
    cluster.revive();
    let kept = cluster.node(lost).api().create(&json!({ "env": { "KEPT": "yes" } }));
    cluster.settles();
    let deleted = cluster.node(lost).api().create(&json!({}));
    cluster.settles();
    let before = cluster.node(lost).held();
    let owners = [cluster.owner_of(&kept), cluster.owner_of(&deleted)];
    assert_eq!(owners, [lost, lost], "where slots were warm");
    let host = cluster.host(lost);
    let member = shown_of(cluster, lost)["member"].as_u64().expect("a member id");
    let door = cluster.node(cluster.others(lost)[0]).api().clone();
    cluster.kill9(lost);
    spoil(&cluster.node(lost).data_dir().join("log"));
    within_settling("unreachable", || shows(&door, &deleted, "unreachable"));
    within_settling("it is deleted", || match door.delete(&format!("/sandboxes/{deleted}")) {
        answer if answer.status == 202 => Ok(()),
        answer => Err(answer.text()),
    });
    let elsewhere = door.create(&json!({}));
    if let Some(point) = dies_at {
        cluster.restart_into_kill_point(lost, point);
    }
    cluster.restart(lost);
    within_settling("reachable", || shows(&door, &kept, "running"));
    assert_eq!(cluster.host(lost), host);
    assert_eq!(cluster.node(lost).held().containers[&kept].pid, before.containers[&kept].pid, "another process");
    assert_eq!(door.variable(&kept, "KEPT"), "yes");
    assert_eq!(cluster.node(lost).api().output(&elsewhere, &["echo", "on"]), "on");
    let now = shown_of(cluster, lost)["member"].as_u64().expect("a member id");
    assert_ne!(now, member, "a vote may be forgotten");
    within_settling("three that vote, and nobody of before", || {
        let membership = cluster.membership(cluster.leader());
        let all: Vec<u64> = [membership.voters.clone(), membership.learners.clone()].concat();
        if membership.voters.len() == 3 && all.len() == cluster.size() && !all.contains(&member) && all.contains(&now) {
            Ok(())
        } else {
            Err(format!("{membership:?}, was {member}, is {now}"))
        }
    });
    cluster.settles();
    assert!(!lives(before.containers[&deleted].pid), "what was deleted lives");
    let after = cluster.node(lost).api().create(&json!({}));
    assert_eq!(cluster.owner_of(&after), lost, "a node that is back takes sandboxes");
    for id in [kept, elsewhere, after] {
        door.destroy(&id);
    }
    cluster.settles();
}

/// A node as it shows itself.
fn shown_of(cluster: &Cluster, node: usize) -> Value {
    within_settling("it knows itself", || {
        let nodes = cluster.node(node).api().get("/nodes").expect(200).json();
        let mine = nodes.as_array().into_iter().flatten().find(|shown| shown["id"] == json!(cluster.host(node)));
        mine.cloned().ok_or_else(|| nodes.to_string())
    })
}

/// Waits until a file that a process writes to grows.
fn grows(door: &Api, id: &str) {
    let length = || -> Result<u64, String> {
        let answer = door.exec_with(id, &json!({ "cmd": ["sh", "-c", "wc -c < /tmp/grows"] }));
        let out = answer.json()["stdout"].as_str().and_then(|out| out.trim().parse().ok());
        out.ok_or_else(|| answer.text())
    };
    let before = within_settling("a file", length);
    within_settling("a file that grows", || match length()? {
        now if now > before => Ok(()),
        now => Err(format!("{now} bytes")),
    });
}

fn shows(door: &Api, id: &str, status: &str) -> Result<(), String> {
    let answer = door.get(&format!("/sandboxes/{id}"));
    if answer.status == 200 && answer.json()["status"] == json!(status) { Ok(()) } else { Err(answer.text()) }
}
