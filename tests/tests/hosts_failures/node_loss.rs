//! An owner that is cut off, stands still or loses its power: what becomes of its sandboxes, by their `on_node_loss`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{Api, Cases, Cluster, Witness, within_settling};

use crate::{begin, three_hosts, took};

/// Longer than any owner is away.
const LONG_SECONDS: &str = "1000";

/// How an owner goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Away {
    /// Its host is cut off from the others; clients still reach it.
    CutOff,
    /// Its process is stopped and goes on later.
    Stopped,
    /// Its host's power fails.
    WithoutPower,
}

#[test]
fn what_becomes_of_the_sandboxes_of_a_lost_node() {
    let mut cases = Cases::of("node loss");
    let test = "what_becomes_of_the_sandboxes_of_a_lost_node";
    let Some(mut cluster) = three_hosts(test, &Default::default(), false) else { return };
    cases.case("the host of an owner is cut off", || owner_away(&mut cluster, Away::CutOff, false));
    cases.case("the host of an owner that leads is cut off", || owner_away(&mut cluster, Away::CutOff, true));
    cases.case("an owner stands still for longer than its lease", || owner_away(&mut cluster, Away::Stopped, false));
    cases.case("an owner that leads stands still", || owner_away(&mut cluster, Away::Stopped, true));
    cases.case("the power of an owner's host fails", || owner_away(&mut cluster, Away::WithoutPower, false));
    cases.finish();
}

fn owner_away(cluster: &mut Cluster, away: Away, leads: bool) {
    begin(cluster);
    let leader = cluster.leader();
    let owner = if leads { leader } else { cluster.others(leader)[0] };
    let rest = cluster.others(owner);
    let [again, waits, fails] = ["restart", "wait", "fail"].map(|policy| {
        let body = json!({ "on_node_loss": policy, "env": { "KEPT": "yes" } });
        let id = cluster.door(owner).create(&body);
        assert_eq!(cluster.owner_of(&id), owner, "where a slot was warm");
        cluster.settles();
        id
    });
    let own = cluster.door(owner).clone();
    let others: Vec<Api> = rest.iter().map(|door| cluster.door(*door).clone()).collect();
    own.write(&waits, "/tmp/kept", b"kept");
    let incarnation = incarnation_of(cluster, owner);
    let before = cluster.node(owner).held();
    // Through a node that stays, and first: it writes the name.
    let witness = Witness::of(&again, [&others[..], std::slice::from_ref(&own)].concat());
    let lost_before = cluster.times_lost(owner, rest[0]);
    let long = format!("sleep {LONG_SECONDS}");
    std::thread::scope(|scope| {
        let watches = witness.begin(scope);
        let runs = long_command(scope, &own, &again, away);
        let goes_on = long_command(scope, &own, &waits, away);
        for id in [&again, &waits] {
            within_settling("a command runs", || {
                if alive(cluster, owner, id).contains(&long) { Ok(()) } else { Err("not yet".to_owned()) }
            });
        }
        go(cluster, owner, away);
        let gone = Instant::now();
        let mut lost = None;
        within_settling("it runs elsewhere", || {
            if lost.is_none() && cluster.times_lost(owner, rest[0]) > lost_before {
                lost = Some(gone.elapsed());
            }
            runs_elsewhere(cluster, &others[0], &again, owner)
        });
        took("the restart sandbox runs elsewhere", gone);
        println!("  (declared lost after {:.2} s)", lost.expect("before it ran elsewhere").as_secs_f64());
        if away != Away::WithoutPower {
            // Nobody told them: its node is cut off, or stands still.
            let left = alive(cluster, owner, &again);
            assert_eq!(left, Vec::<String>::new(), "the older life has processes while the next one runs");
            assert!(alive(cluster, owner, &waits).contains(&long), "what is to wait was ended");
        }
        for door in &others {
            let shown = door.becomes(&again, "running");
            assert_eq!(shown["generation"], json!(2), "{shown}");
            assert_eq!(door.variable(&again, "KEPT"), "yes");
            assert_eq!(door.becomes(&waits, "unreachable")["generation"], json!(1));
            let failed = door.becomes(&fails, "error");
            assert!(failed["error"].as_str().is_some_and(|why| !why.is_empty()), "without a reason: {failed}");
            let refused = door.exec_with(&fails, &json!({ "cmd": ["true"] }));
            assert!(refused.status >= 400 && refused.status < 500, "{}", refused.text());
        }
        println!("  (fail: {})", others[0].sandbox(&fails)["error"]);
        if away == Away::CutOff {
            let refused = own.exec_with(&again, &json!({ "cmd": ["true"] }));
            println!("  (a call to the cut off owner: {} {})", refused.status, refused.text());
            refused.expect_error(503, "unavailable");
            assert_eq!(own.output(&waits, &["echo", "on"]), "on");
            assert_eq!(own.output(&fails, &["echo", "on"]), "on", "nobody has told it yet");
        }
        // Asked while it is away, answered when it is not any more.
        let asked: Vec<_> =
            (0..2).map(|_| scope.spawn(|| own.call("GET", &format!("/sandboxes/{again}")).send())).collect();
        come_back(cluster, owner, away);
        let back = Instant::now();
        for answer in asked {
            // None came where there was nobody to hear it.
            if let Ok(Ok(answer)) = answer.join() {
                assert!(answer.status == 503 || answer.json()["generation"] == json!(2), "stale: {}", answer.text());
            }
        }
        let status = if away == Away::WithoutPower { "stopped" } else { "running" };
        for door in &others {
            door.becomes(&waits, status);
        }
        took("reachable again", back);
        cluster.settles();
        took("in order again", back);
        drop(watches);
        println!("  (the command of the restart sandbox: {})", runs.join().expect("a client"));
        if away == Away::WithoutPower {
            let shown = own.sandbox(&waits);
            println!("  (after the power cut: {} {})", shown["status"], shown["error"]);
            own.start(&waits);
        } else {
            let held = cluster.node(owner).held();
            assert_eq!(held.containers[&waits].pid, before.containers[&waits].pid, "another process");
            assert!(!goes_on.is_finished() || away == Away::Stopped, "the command that was to go on has ended");
        }
        // Its commands end with it.
        assert_eq!(own.read(&waits, "/tmp/kept"), b"kept");
        own.destroy(&waits);
        println!("  (the command of the sandbox that waited: {})", goes_on.join().expect("a client"));
    });
    println!("  ({})", witness.in_words());
    assert!(witness.heard().iter().any(|heard| heard.first) && witness.heard().iter().any(|heard| !heard.first));
    let late = witness.too_late();
    assert!(late.is_empty(), "{} calls were taken under an older generation: {late:?}", late.len());
    let held = cluster.node(owner).held();
    assert!(!held.containers.contains_key(&fails), "what failed has a container");
    assert!(incarnation_of(cluster, owner) > incarnation, "it goes on with the life that was declared lost");
    for door in 0..3 {
        let shown = cluster.door(door).sandbox(&again);
        assert_eq!((&shown["generation"], &shown["status"]), (&json!(2), &json!("running")), "{shown}");
        assert_ne!(cluster.owner_of(&again), owner);
        assert_eq!(cluster.door(door).variable(&again, "KEPT"), "yes");
    }
    let made = own.create(&json!({}));
    assert_eq!(cluster.owner_of(&made), owner, "a node that is back takes sandboxes");
    cluster.empty();
}

fn go(cluster: &mut Cluster, owner: usize, away: Away) {
    match away {
        Away::CutOff => cluster.cut_off(owner),
        Away::Stopped => cluster.freeze(owner),
        Away::WithoutPower => cluster.power_off(owner),
    }
}

fn come_back(cluster: &mut Cluster, owner: usize, away: Away) {
    match away {
        Away::CutOff => cluster.heal(),
        Away::Stopped => cluster.thaw(owner),
        Away::WithoutPower => cluster.power_on(owner),
    }
}

/// Processes of a sandbox's container but for the agent's own.
fn alive(cluster: &Cluster, owner: usize, id: &str) -> Vec<String> {
    let held = cluster.node(owner).held();
    let all = held.processes_of(id).into_iter().map(|process| process.command.trim().to_owned());
    all.filter(|command| !command.contains("warren-agent")).collect()
}

fn runs_elsewhere(cluster: &Cluster, door: &Api, id: &str, owner: usize) -> Result<(), String> {
    let answer = door.get(&format!("/sandboxes/{id}"));
    let shown: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let is_elsewhere = answer.status == 200 && shown["node"] != json!(cluster.host(owner));
    if is_elsewhere && shown["status"] == "running" { Ok(()) } else { Err(answer.text()) }
}

fn incarnation_of(cluster: &Cluster, node: usize) -> u64 {
    let text = std::fs::read(cluster.node(node).data_dir().join("identity.json")).expect("a node has an identity");
    let identity: Value = serde_json::from_slice(&text).expect("it is JSON");
    identity["incarnation"].as_u64().expect("it has an incarnation")
}

/// A command that runs until it is ended, and what its client heard.
fn long_command<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    door: &Api,
    id: &str,
    away: Away,
) -> std::thread::ScopedJoinHandle<'scope, String> {
    // A host without power does not even end a connection.
    let patience = Duration::from_secs(if away == Away::WithoutPower { 20 } else { 120 });
    let call = door.call("POST", &format!("/sandboxes/{id}/exec")).json(&json!({ "cmd": ["sleep", LONG_SECONDS] }));
    let call = call.patience(patience);
    scope.spawn(move || match call.send() {
        Ok(answer) => format!("{} {}", answer.status, answer.text()),
        Err(error) => error.to_string(),
    })
}
