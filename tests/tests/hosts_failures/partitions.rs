//! Cut networks, with clients on both sides.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;
use tests::load::Work;
use tests::{Api, Cases, Cluster, Load, within_settling};

use crate::{begin, three_hosts, took};

/// Keys of a load that is ended by its test.
const ENDLESS: usize = usize::MAX;

/// For how long the cluster must stay as it is under a cut of one direction: several elections would fit in.
const CALM: Duration = Duration::from_secs(3);

/// Changes of the leader that one cut may bring with it.
const LEADERS_MAX: usize = 2;

#[test]
fn a_cluster_outlives_cuts() {
    let mut cases = Cases::of("partitions");
    let Some(mut cluster) = three_hosts("a_cluster_outlives_cuts", &Default::default(), false) else { return };
    cases.case("one node is away, with clients on both sides", || one_node_away(&mut cluster));
    cases.case("the leader is away, with clients on both sides", || leader_away(&mut cluster));
    for (who, leads) in [("a follower", false), ("the leader", true)] {
        for (how, hears) in [("is not heard", true), ("does not hear", false)] {
            cases.case(&format!("{who} {how}"), || one_way(&mut cluster, leads, hears));
        }
    }
    cases.case("between a follower and the leader one direction is cut", || one_way_to_the_leader(&mut cluster));
    cases.case("the majority is away, and is back", || nobody_reaches_anybody(&mut cluster));
    cases.finish();
}

fn one_node_away(cluster: &mut Cluster) {
    begin(cluster);
    let away = cluster.others(cluster.leader())[0];
    let rest = cluster.others(away);
    let kept = cluster.door(away).create(&json!({}));
    let elsewhere = cluster.door(rest[0]).create(&json!({}));
    cluster.settles();
    let doomed = cluster.door(away).create(&json!({}));
    assert_eq!([&kept, &elsewhere, &doomed].map(|id| cluster.owner_of(id)), [away, rest[0], away]);
    cluster.settles();
    let before = cluster.node(away).held();
    let lost_before = cluster.times_lost(away, rest[0]);

    cluster.cut_off(away);
    let cut = Instant::now();
    let inside = cluster.door(away).clone();
    let refused = inside.post("/sandboxes", &json!({}));
    took(&format!("a create on the cut off node is answered {}", refused.text()), cut);
    assert_eq!(refused.status, 503, "a create without a majority");
    let asked = Instant::now();
    inside.get(&format!("/sandboxes/{kept}")).expect_error(503, "no_quorum");
    took("a read there is refused", asked);
    inside.get("/sandboxes").expect_error(503, "no_quorum");
    let asked = Instant::now();
    let refused = inside.delete(&format!("/sandboxes/{doomed}"));
    took(&format!("a delete there is answered {}", refused.text()), asked);
    assert_eq!(refused.status, 503, "a delete without a majority");
    let stale = |id: &str| inside.get(&format!("/sandboxes/{id}?stale=true")).expect(200).json()["status"].clone();
    assert_eq!(stale(&kept), "running");
    within_settling("the others are unreachable from there", || {
        if stale(&elsewhere) == "unreachable" { Ok(()) } else { Err(stale(&elsewhere).to_string()) }
    });
    assert_eq!(inside.list("?stale=true").len(), 3);
    // Its sandboxes are to wait: they go on for whoever reaches their node.
    assert_eq!(inside.output(&kept, &["echo", "on"]), "on");
    inside.write(&kept, "/tmp/file", b"written while cut off");
    inside.exec_with(&elsewhere, &json!({ "cmd": ["true"] })).expect_error(503, "unavailable");

    for door in &rest {
        let door = cluster.door(*door);
        door.becomes(&kept, "unreachable");
        door.exec_with(&kept, &json!({ "cmd": ["true"] })).expect_error(503, "unavailable");
        let made = goes_on(door);
        assert_ne!(cluster.owner_of(&made), away);
        assert_eq!(door.output(&made, &["echo", "on"]), "on");
    }
    cluster.loses_again(away, rest[0], lost_before);
    let refused = inside.post("/sandboxes", &json!({}));
    assert_eq!(refused.status, 503, "a create without a majority: {}", refused.text());

    cluster.heal();
    let healed = Instant::now();
    for door in 0..3 {
        cluster.door(door).becomes(&kept, "running");
    }
    took("reachable again", healed);
    assert_eq!(cluster.door(rest[1]).read(&kept, "/tmp/file"), b"written while cut off");
    cluster.settles();
    took("in order again", healed);
    let after = cluster.node(away).held();
    assert_eq!(after.containers[&kept].pid, before.containers[&kept].pid, "another process");
    let made = cluster.door(away).create(&json!({}));
    assert_eq!(cluster.owner_of(&made), away, "a node that is back takes sandboxes");
    cluster.empty();
}

fn leader_away(cluster: &mut Cluster) {
    begin(cluster);
    let away = cluster.leader();
    let rest = cluster.others(away);
    let gone = cluster.door(rest[0]).create(&json!({}));
    let kept = cluster.door(away).create(&json!({}));
    cluster.settles();
    let process = cluster.node(away).held().containers[&kept].pid;
    cluster.cut_off(away);
    let cut = Instant::now();
    let (inside, outside) = (
        Load::new("inside", vec![cluster.door(away).clone()], Work::Create, ENDLESS),
        Load::new("outside", rest.iter().map(|door| cluster.door(*door).clone()).collect(), Work::Create, ENDLESS),
    );
    let healed = std::thread::scope(|scope| {
        let ends = (inside.ends_with_this(), outside.ends_with_this());
        inside.begin(scope, 2);
        outside.begin(scope, 2);
        outside.has_made(1);
        took("a create is acknowledged by the others", cut);
        assert_ne!(cluster.leader_among(&rest), away);
        took("the others agree on another leader", cut);
        cluster.door(rest[1]).destroy(&gone);
        outside.has_made(5);
        // Whatever it answers now, it may not say what was so before.
        for id in outside.made().values().chain([&gone]) {
            let answer = cluster.door(away).get(&format!("/sandboxes/{id}"));
            assert_eq!(answer.status, 503, "the former leader has read what was so before: {}", answer.text());
        }
        cluster.door(away).get("/sandboxes").expect_error(503, "no_quorum");
        assert_eq!(cluster.door(away).output(&kept, &["echo", "on"]), "on");
        let before = inside.made_before(Instant::now());
        assert_eq!(before, BTreeSet::new(), "acknowledged without a majority");
        let healed = Instant::now();
        cluster.heal();
        inside.has_made(2);
        took("a create is acknowledged by the former leader", healed);
        drop(ends);
        healed
    });
    println!("  (inside: {})", inside.in_words());
    println!("  (outside: {})", outside.in_words());
    cluster.settles();
    took("in order again", healed);
    let mut expected: BTreeSet<String> = inside.alive().union(&outside.alive()).cloned().collect();
    expected.insert(kept.clone());
    for door in 0..3 {
        let shown: BTreeSet<String> = cluster.door(door).ids("").into_iter().collect();
        assert_eq!(shown, expected, "node {door} shows other sandboxes than were acknowledged");
    }
    let keys = inside.made().len() + outside.made().len();
    assert_eq!(expected.len(), keys + 1, "two keys have one sandbox");
    assert_eq!(cluster.node(away).held().containers[&kept].pid, process, "another process");
    cluster.empty();
}

/// A node that hears the others and is not heard, or the other way.
fn one_way(cluster: &mut Cluster, leads: bool, hears: bool) {
    begin(cluster);
    let leader = cluster.leader();
    let cut = if leads { leader } else { cluster.others(leader)[0] };
    let rest = cluster.others(cut);
    let kept = cluster.door(cut).create(&json!({}));
    cluster.settles();
    let process = cluster.node(cut).held().containers[&kept].pid;
    for other in &rest {
        if hears { cluster.cut_one_way(cut, *other) } else { cluster.cut_one_way(*other, cut) }
    }
    let since = Instant::now();
    let leaders = stays_calm(cluster, &rest, since);
    assert!(leads || leaders == 1, "a follower that is cut brought {leaders} leaders");
    // Nothing that the cut node acknowledges may be unknown to the others.
    let answer = cluster.door(cut).post("/sandboxes", &json!({}));
    println!("  (a create through the cut node: {} {})", answer.status, answer.text());
    let made = (answer.status == 201).then(|| tests::api::id_of(&answer.json()));
    for (id, door) in made.iter().flat_map(|id| rest.iter().map(move |door| (id, door))) {
        cluster.door(*door).get(&format!("/sandboxes/{id}")).expect(200);
    }
    assert_eq!(cluster.door(cut).output(&kept, &["echo", "on"]), "on");
    cluster.heal();
    let healed = Instant::now();
    let led = cluster.leader();
    cluster.settles();
    took("in order again", healed);
    cluster.door(rest[0]).becomes(&kept, "running");
    assert_eq!(cluster.node(cut).held().containers[&kept].pid, process, "another process");
    assert_ne!(cluster.leader_among(&[0, 1, 2]), usize::MAX);
    println!("  (node {cut} was cut, {leader} led before, {led} after)");
    cluster.empty();
}

/// One of three can not tell the leader, or can not be told by it; the third reaches both.
fn one_way_to_the_leader(cluster: &mut Cluster) {
    for follower_is_mute in [true, false] {
        begin(cluster);
        let leader = cluster.leader();
        let others = cluster.others(leader);
        let (from, to) = if follower_is_mute { (others[0], leader) } else { (leader, others[0]) };
        cluster.cut_one_way(from, to);
        let leaders = stays_calm(cluster, &[others[1]], Instant::now());
        assert!(leaders <= LEADERS_MAX);
        cluster.heal();
        let healed = Instant::now();
        cluster.settles();
        took("in order again", healed);
        cluster.empty();
    }
}

/// Creates go on through these doors for a while, and the leader does not change all the time. Returns how many nodes
/// led meanwhile, as these doors saw it.
fn stays_calm(cluster: &Cluster, doors: &[usize], since: Instant) -> usize {
    let apis: Vec<Api> = doors.iter().map(|door| cluster.door(*door).clone()).collect();
    let load = Load::new(&format!("calm-{:?}", since), apis, Work::Create, ENDLESS);
    let mut leaders: Vec<String> = Vec::new();
    std::thread::scope(|scope| {
        let ends = load.ends_with_this();
        load.begin(scope, 1);
        load.has_made(1);
        took("a create is acknowledged", since);
        let calm = Instant::now();
        while calm.elapsed() < CALM {
            let health = cluster.door(doors[0]).get("/health").json();
            if let Some(leader) = health["leader"].as_str()
                && leaders.last().is_none_or(|last| last != leader)
            {
                leaders.push(leader.to_owned());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let before = load.made_count();
        load.has_made(before + 2);
        drop(ends);
    });
    println!("  ({}; {} led)", load.in_words(), leaders.len());
    assert!(leaders.len() <= LEADERS_MAX, "the leader changes all the time: {leaders:?}");
    leaders.len()
}

fn nobody_reaches_anybody(cluster: &mut Cluster) {
    begin(cluster);
    let ids: Vec<String> = (0..3).map(|door| cluster.door(door).create(&json!({}))).collect();
    cluster.settles();
    let owners: Vec<usize> = ids.iter().map(|id| cluster.owner_of(id)).collect();
    assert_eq!(owners, [0, 1, 2], "each where a slot was warm");
    let pids = |cluster: &Cluster| -> Vec<u32> {
        (0..3).map(|node| cluster.node(node).held().containers[&ids[node]].pid).collect()
    };
    let before = pids(cluster);
    cluster.cut_off(0);
    cluster.cut_off(1);
    let cut = Instant::now();
    for node in 0..3 {
        within_settling("no quorum", || {
            let health = cluster.door(node).get("/health").expect(200).json();
            if health["quorum"] == json!(false) { Ok(()) } else { Err(health.to_string()) }
        });
    }
    took("no node sees a quorum", cut);
    for node in 0..3 {
        let door = cluster.door(node);
        let asked = Instant::now();
        let refused = door.post("/sandboxes", &json!({}));
        assert_eq!(refused.status, 503, "{}", refused.text());
        took("a create is refused", asked);
        door.get("/sandboxes").expect_error(503, "no_quorum");
        assert_eq!(door.list("?stale=true").len(), 3);
        assert_eq!(door.output(&ids[node], &["echo", "on"]), "on");
        door.exec_with(&ids[(node + 1) % 3], &json!({ "cmd": ["true"] })).expect_error(503, "unavailable");
    }
    cluster.heal();
    let healed = Instant::now();
    let _someone = cluster.leader();
    took("they agree on a leader", healed);
    for node in 0..3 {
        for id in &ids {
            cluster.door(node).becomes(id, "running");
        }
    }
    took("reachable again", healed);
    cluster.settles();
    took("in order again", healed);
    let mut shown = cluster.door(0).ids("");
    shown.sort();
    let mut expected = ids.clone();
    expected.sort();
    assert_eq!(shown, expected, "what was refused has happened, or what was there is gone");
    assert_eq!(pids(cluster), before, "other processes");
    cluster.empty();
}

/// Creates until one is acknowledged: a node may still be chosen that has just gone away.
fn goes_on(door: &Api) -> String {
    let since = Instant::now();
    let id = within_settling("a create", || {
        let answer = door.post("/sandboxes", &json!({}));
        if answer.status == 201 { Ok(tests::api::id_of(&answer.json())) } else { Err(answer.text()) }
    });
    took("a create is acknowledged", since);
    id
}
