//! What a cluster says of itself: its members through every door, its metrics, its health without a majority, and the
//! command line that shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tests::engine::binaries;
use tests::{Cases, Cluster, within_settling};

/// How `warren cluster status` ends without a quorum.
const EXIT_NO_QUORUM: i32 = 3;

#[test]
fn a_cluster_shows_what_it_is() {
    let mut cases = Cases::of("cluster shown");
    let mut cluster = Cluster::start(3);
    cluster.settles();
    cases.case("every door shows the same members", || every_door_shows_the_members(&cluster));
    cases.case("health names those who vote", || health_names_voters(&cluster));
    cases.case("the metrics of every node", || metrics(&cluster));
    cases.case("the command line shows the cluster", || command_line(&cluster));
    cases.case("the command line says what stands in its way", || command_line_fails(&cluster));
    cases.case("a learner claims no quorum that is not there", || without_a_majority(&mut cluster));
    cases.finish();
}

fn members(cluster: &Cluster, door: usize) -> Vec<Value> {
    match cluster.node(door).api().get("/nodes").expect(200).json() {
        Value::Array(nodes) => nodes,
        other => panic!("{other} is no list"),
    }
}

fn every_door_shows_the_members(cluster: &Cluster) {
    let id = cluster.node(0).api().create(&json!({}));
    let owner = cluster.host(cluster.owner_of(&id));
    let leader = cluster.host(cluster.leader());
    cluster.settles();
    for door in 0..3 {
        // What a node says of itself comes every half second.
        let nodes = within_settling("every node is heard", || {
            let nodes = members(cluster, door);
            let heard = |node: &Value| {
                node["warm"][0]["ready"] == 1
                    && node["warm"][0]["refill_ms_p50"].is_u64()
                    && node["images"].as_u64() >= Some(1)
            };
            if nodes.iter().all(heard) { Ok(nodes) } else { Err(format!("{nodes:?}")) }
        });
        let ids: Vec<&str> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
        assert_eq!(ids, [0, 1, 2].map(|node| cluster.host(node)), "in the order in which they joined");
        for (number, node) in nodes.iter().enumerate() {
            let role = if node["id"] == leader { "leader" } else { "voter" };
            assert_eq!((&node["role"], &node["state"]), (&json!(role), &json!("up")), "{node}");
            assert_eq!((&node["here"], &node["reachable"]), (&json!(number == door), &json!(true)), "{node}");
            assert_eq!((&node["member"], &node["incarnation"]), (&json!(number + 1), &json!(1)), "{node}");
            let (url, _) = cluster.node(number).api().url_and_key();
            assert_eq!(format!("http://{}", node["addresses"]["http"].as_str().unwrap_or_default()), url);
            assert!(node["addresses"]["peer"].is_string() && node["runtime"].is_string(), "{node}");
            assert_eq!(node["versions"]["build"], nodes[0]["versions"]["build"]);
            assert!(node["versions"]["commands"].as_u64() >= Some(1), "{node}");
            let warm = &node["warm"][0];
            assert_eq!((&warm["template"], &warm["target"]), (&json!("default"), &json!(1)), "{node}");
            let capacity = &node["capacity"];
            let (sandboxes, memory) = if node["id"] == owner { (1, 512 << 20) } else { (0, 0) };
            assert_eq!(capacity["sandboxes"], sandboxes, "{node}");
            assert_eq!(capacity["memory_promised"], memory, "{node}");
            assert!(capacity["memory_max"].as_u64() > Some(512 << 20) && capacity["sandboxes_max"].is_u64(), "{node}");
            let alone = cluster.node(door).api().get(&format!("/nodes/{}", ids[number])).expect(200).json();
            for field in ["id", "role", "state", "here", "member", "capacity", "versions"] {
                assert_eq!(alone[field], node[field], "{field}");
            }
        }
        cluster.node(door).api().get("/nodes/0123456789abcdef").expect_error(404, "not_found");
    }
    cluster.node(1).api().destroy(&id);
}

fn health_names_voters(cluster: &Cluster) {
    let hosts: BTreeSet<String> = (0..3).map(|node| cluster.host(node)).collect();
    for door in 0..3 {
        let health = cluster.node(door).api().call_without_key("GET", "/health").send().expect("an answer").json();
        let voters = health["voters"].as_array().cloned().unwrap_or_default();
        let voters: BTreeSet<String> = voters.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect();
        assert_eq!((&voters, &health["quorum"]), (&hosts, &json!(true)), "{health}");
        assert_eq!(health["cluster"], cluster.node(0).identity().cluster, "{health}");
    }
}

/// Every sample of a node's metrics, by its name and labels.
fn samples(cluster: &Cluster, node: usize) -> BTreeMap<String, f64> {
    let answer = cluster.node(node).metrics("/metrics").send().expect("an answer").expect(200);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4"));
    let text = answer.text();
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
    };
    text.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

fn metrics(cluster: &Cluster) {
    let door = cluster.node(0).api();
    let before: Vec<_> = (0..3).map(|node| samples(cluster, node)).collect();
    let ids: Vec<String> = (0..3).map(|_| door.create(&json!({}))).collect();
    for id in &ids {
        assert_eq!(door.output(id, &["echo", "on"]), "on");
    }
    door.list("");
    let after: Vec<_> = (0..3).map(|node| samples(cluster, node)).collect();
    let leaders = after.iter().filter(|samples| samples["warren_is_leader"] == 1.0).count();
    assert_eq!(leaders, 1);
    let sum = |all: &[BTreeMap<String, f64>], name: &str| -> f64 { all.iter().map(|samples| samples[name]).sum() };
    for (number, samples) in after.iter().enumerate() {
        assert_eq!(samples["warren_quorum"], 1.0);
        assert_eq!(samples["warren_raft_term"], after[0]["warren_raft_term"]);
        assert!(samples["warren_raft_apply_index"] > before[number]["warren_raft_apply_index"], "{samples:?}");
        assert!(samples["warren_raft_commit_index"] >= samples["warren_raft_apply_index"], "{samples:?}");
        assert_eq!(samples["warren_raft_members{role=\"voter\"}"], 3.0);
        assert!((0.1..=4.0).contains(&samples["warren_lease_seconds_left"]), "{samples:?}");
        assert!(samples["warren_log_flush_seconds_count"] > before[number]["warren_log_flush_seconds_count"]);
        assert!(samples["warren_log_flushes_total"] >= 1.0 && samples["warren_log_bytes_total"] > 0.0);
        assert_eq!(samples["warren_pool_target{template=\"default\"}"], 1.0);
        assert!(samples["warren_slot_make_seconds_count"] >= 1.0, "{samples:?}");
        for peer in (0..3).filter(|peer| *peer != number).map(|peer| cluster.host(peer)) {
            assert_eq!(samples[&format!("warren_peer_link_up{{peer=\"{peer}\"}}")], 1.0);
            assert!(samples[&format!("warren_peer_sent_messages_total{{peer=\"{peer}\"}}")] > 0.0);
            let dropped = format!("warren_peer_dropped_messages_total{{peer=\"{peer}\",reason=\"queue_full\"}}");
            assert_eq!(samples[&dropped], 0.0);
        }
    }
    assert_eq!(sum(&after, "warren_sandboxes{status=\"running\"}"), 3.0);
    assert_eq!(after[0]["warren_cluster_sandboxes"], 3.0);
    let claims = |all: &[_]| {
        ["hit", "miss"]
            .map(|result| sum(all, &format!("warren_pool_claims_total{{result=\"{result}\",template=\"default\"}}")))
    };
    assert_eq!(claims(&after).iter().sum::<f64>(), claims(&before).iter().sum::<f64>() + 3.0);
    assert!(claims(&after)[0] > claims(&before)[0], "each node had a warm slot");
    for kind in ["create", "exec"] {
        let of = |samples: &BTreeMap<String, f64>| -> f64 {
            ["here", "elsewhere"]
                .map(|owner| samples[&format!("warren_{kind}_seconds_count{{outcome=\"ok\",owner=\"{owner}\"}}")])
                .iter()
                .sum()
        };
        assert_eq!(of(&after[0]), of(&before[0]) + 3.0, "{kind} through this door");
        assert_eq!(of(&after[1]), of(&before[1]), "{kind} through another");
    }
    assert!(sum(&after, "warren_proposal_seconds_count") >= sum(&before, "warren_proposal_seconds_count") + 3.0);
    assert!(after[0]["warren_read_barrier_seconds_count"] > before[0]["warren_read_barrier_seconds_count"]);
    // Names of sandboxes would be one series each; the key is nobody's business.
    let (_, key) = door.url_and_key();
    for node in 0..3 {
        let text = cluster.node(node).metrics("/metrics").send().expect("an answer").text();
        assert!(!text.contains(&key) && ids.iter().all(|id| !text.contains(id.as_str())));
        assert_eq!(cluster.node(node).metrics("/api/v1/health").send().expect("an answer").status, 404);
    }
    for id in &ids {
        door.destroy(id);
    }
    cluster.settles();
}

/// Runs the command line against a node.
fn warren(cluster: &Cluster, node: usize, arguments: &[&str]) -> Output {
    let (url, key) = cluster.node(node).api().url_and_key();
    let mut command = command();
    // A variable of the node's own is no hindrance.
    command.env("WARREN_URL", url).env("WARREN_API_KEY", key).env("WARREN_JOIN_TOKEN", "unused");
    command.args(arguments).output().expect("the command line can be started")
}

fn command() -> Command {
    let mut command = Command::new(&binaries().0);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WARREN_")) {
        command.env_remove(name);
    }
    command
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn command_line(cluster: &Cluster) {
    let id = cluster.node(0).api().create(&json!({}));
    for door in 0..3 {
        let shown = warren(cluster, door, &["node", "ls"]);
        assert!(shown.status.success(), "{shown:?}");
        let lines: Vec<String> = out(&shown).lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[0].starts_with("ID ") && lines[0].ends_with("HTTP"), "{lines:?}");
        assert!(lines[door + 1].starts_with(&format!("{}*", cluster.host(door))), "{lines:?}");
        assert_eq!(lines.iter().filter(|line| line.contains(" leader ")).count(), 1, "{lines:?}");
        let listed = json_of(&warren(cluster, door, &["node", "ls", "-o", "json"]));
        assert_eq!(listed.as_array().map(Vec::len), Some(3));
        assert_eq!(listed[door]["here"], true);

        let status = warren(cluster, door, &["cluster", "status"]);
        assert!(status.status.success(), "{status:?}");
        let text = out(&status);
        assert!(text.contains("quorum     yes\n") && text.contains("sandboxes  1 running\n"), "{text}");
        assert!(text.contains(&format!("leader     {}\n", cluster.host(cluster.leader()))), "{text}");
        assert!(text.contains("nothing is wrong"), "{text}");
        let status = json_of(&warren(cluster, door, &["cluster", "status", "-o", "json"]));
        assert_eq!((&status["quorum"], &status["problems"]), (&json!(true), &json!([])), "{status}");
        assert_eq!(status["cluster"], cluster.node(0).identity().cluster);
        assert_eq!(status["sandboxes"], json!({"running": 1, "total": 1}));
        assert_eq!(status["voters"].as_array().map(Vec::len), Some(3));
    }
    cluster.node(2).api().destroy(&id);
}

fn command_line_fails(cluster: &Cluster) {
    let (url, _) = cluster.node(0).api().url_and_key();
    for arguments in [["node", "ls"], ["cluster", "status"]] {
        let mut wrong = command();
        let wrong = wrong.args(arguments).args(["--url", &url, "--api-key", "wrong"]).output().expect("it runs");
        assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
        assert!(err(&wrong).contains("does not know this API key") && out(&wrong).is_empty(), "{wrong:?}");
        let mut without = command();
        let without = without.args(arguments).args(["--url", &url]).output().expect("it runs");
        assert!(err(&without).contains("asks for an API key"), "{without:?}");
        let mut nobody = command();
        // The port of the discard service: nobody listens.
        let nobody = nobody.args(arguments).args(["--url", "http://127.0.0.1:9"]).output().expect("it runs");
        assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
        assert!(err(&nobody).contains("cannot reach a node at http://127.0.0.1:9"), "{nobody:?}");
    }
}

fn without_a_majority(cluster: &mut Cluster) {
    let learner = cluster.join_another();
    within_settling("a learner that is told of a quorum", || {
        let health = health(cluster, learner);
        let learns = cluster.membership(learner).learners.len() == 1 && cluster.membership(learner).voters.len() == 3;
        if learns && health["quorum"] == true { Ok(()) } else { Err(health.to_string()) }
    });
    cluster.settles();
    let leader = cluster.leader();
    let voters: Vec<usize> = cluster.others(learner);
    let left = voters.iter().copied().find(|voter| *voter != leader).expect("three vote");
    let gone = voters.iter().copied().find(|voter| *voter != leader && *voter != left).expect("three vote");

    cluster.kill9(gone);
    cluster.loses(gone, left);
    let status = warren(cluster, learner, &["cluster", "status"]);
    assert!(status.status.success(), "two of three decide: {status:?}");
    let text = out(&status);
    assert!(text.contains("! 2 of 3 voters answer: one more lost ends the quorum\n"), "{text}");
    assert!(text.contains(&format!("! node {} is lost, with 0 sandboxes\n", cluster.host(gone))), "{text}");

    cluster.kill9(leader);
    // Neither the voter nor the learner, which never stands for election, remembers itself into a quorum.
    for node in [left, learner] {
        let health = within_settling("no quorum", || {
            let health = health(cluster, node);
            if health["quorum"] == false { Ok(health) } else { Err(health.to_string()) }
        });
        assert_eq!((&health["status"], health.get("leader")), (&json!("ok"), None), "{health}");
        assert_eq!(health["voters"].as_array().map(Vec::len), Some(3), "{health}");
        cluster.node(node).api().get("/nodes").expect_error(503, "no_quorum");
        let nodes = cluster.node(node).api().get("/nodes?stale=true").expect(200).json();
        let shown =
            |of: usize| nodes.as_array().into_iter().flatten().find(|node| node["id"] == cluster.host(of)).cloned();
        let of_leader = shown(leader).expect("a member");
        assert_eq!((&of_leader["reachable"], &of_leader["role"]), (&json!(false), &json!("voter")), "{nodes}");
        let status = warren(cluster, node, &["cluster", "status"]);
        assert_eq!(status.status.code(), Some(EXIT_NO_QUORUM), "{status:?}");
        assert!(
            out(&status).contains("quorum     NO\n") && out(&status).contains("! no majority answers"),
            "{status:?}"
        );
        let refused = warren(cluster, node, &["node", "ls"]);
        assert!(refused.status.code() == Some(1) && err(&refused).contains("--stale"), "{refused:?}");
        assert!(warren(cluster, node, &["node", "ls", "--stale"]).status.success());
        assert_eq!(samples(cluster, node)["warren_quorum"], 0.0);
    }
    cluster.restart_together(&[gone, leader]);
    for node in [left, learner] {
        within_settling("a quorum", || {
            let health = health(cluster, node);
            if health["quorum"] == true { Ok(()) } else { Err(health.to_string()) }
        });
    }
}

fn health(cluster: &Cluster, node: usize) -> Value {
    cluster.node(node).api().call_without_key("GET", "/health").send().expect("an answer").expect(200).json()
}
