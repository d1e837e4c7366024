//! Three nodes as one: any front door does everything, a change is seen through all of them at once, and only who may
//! joins.

use serde_json::{Value, json};
use tests::{Answer, Api, Cases, Cluster, within_settling};

/// What one upload and one download carry.
const LARGE_BYTES: usize = 8 << 20;

/// Creates that come at once.
const BURST: usize = 18;

#[test]
fn any_front_door_does_everything() {
    let mut cases = Cases::of("cluster");
    let mut cluster = Cluster::start(3);
    let mut ids = Vec::new();
    cases.case("a create goes where a slot is warm", || {
        cluster.settles();
        ids.extend((0..3).map(|door| cluster.node(door).api().create(&json!({ "labels": { "made": "through" } }))));
        let mut owners: Vec<usize> = ids.iter().map(|id| cluster.owner_of(id)).collect();
        owners.sort_unstable();
        assert_eq!(owners, [0, 1, 2], "each node had one warm slot");
    });
    cases.case("every door shows the same", || every_door_shows_the_same(&cluster, &ids));
    cases.case("exec through every door, on every owner", || {
        for (door, id) in doors_and(&cluster, &ids) {
            let body = json!({ "cmd": ["sh", "-c", "cat; echo err >&2; exit 3"], "stdin": "through and back" });
            let answer = door.exec_with(id, &body).expect(200).json();
            let facts = (&answer["exit_code"], &answer["stdout"], &answer["stderr"]);
            assert_eq!(facts, (&json!(3), &json!("through and back"), &json!("err\n")));
        }
    });
    cases.case("files through every door, on every owner", || files(&cluster, &ids));
    cases.case("8 MiB up through one door and down through another", || {
        let content: Vec<u8> = (0..LARGE_BYTES).map(|at| (at / 7 % 251) as u8).collect();
        for id in &ids {
            let owner = cluster.owner_of(id);
            let [up, down] = cluster.others(owner)[..] else { panic!("two others") };
            cluster.node(up).api().write(id, "/tmp/large", &content);
            assert!(cluster.node(down).api().read(id, "/tmp/large") == content, "other bytes through another door");
            assert!(cluster.node(owner).api().read(id, "/tmp/large") == content, "other bytes through the owner");
        }
    });
    cases.case("a client that goes away ends its command on another node", || {
        let id = &ids[0];
        let door = cluster.node(cluster.others(cluster.owner_of(id))[0]).api();
        let body = json!({ "cmd": ["sh", "-c", "while :; do echo x >> /tmp/grows; sleep 0.02; done"] });
        let runs = || {
            within_settling("the command runs", || {
                let there = door.file("GET", id, "/stat", "/tmp/grows").send().map_err(|error| error.to_string())?;
                if there.status == 200 { Ok(()) } else { Err(there.text()) }
            });
        };
        let call = door.call("POST", &format!("/sandboxes/{id}/exec")).json(&body);
        call.hang_up_after(runs).expect("it can be sent");
        let sizes = || door.output(id, &["sh", "-c", "wc -c /tmp/grows; sleep 0.2; wc -c /tmp/grows"]);
        within_settling("a command that ends", || match sizes().lines().collect::<Vec<_>>()[..] {
            [before, after] if before == after && !before.starts_with("0 ") => Ok(()),
            ref grows => Err(format!("{grows:?}")),
        });
    });
    cases.case("an error is the same through every door", || errors(&cluster, &ids));
    cases.case("stop and start through every door", || {
        for (number, id) in ids.iter().enumerate() {
            let door = |step: usize| cluster.node((number + step) % 3).api();
            door(1).stop(id);
            assert_eq!(statuses(&cluster, id), ["stopped"; 3]);
            door(0).exec_with(id, &json!({ "cmd": ["true"] })).expect_error(409, "wrong_state");
            door(2).start(id);
            assert_eq!(statuses(&cluster, id), ["running"; 3]);
            assert_eq!(door(1).output(id, &["cat", "/tmp/kept"]), "kept", "a file was lost");
        }
    });
    cases.case("what one door acknowledged every other shows", || reads_pass_a_barrier(&cluster));
    cases.case("delete through a door that is not the owner's", || {
        for id in &ids {
            let owner = cluster.owner_of(id);
            let door = cluster.others(owner)[0];
            cluster.node(door).api().destroy(id);
            for door in cluster.running() {
                cluster.node(door).api().get(&format!("/sandboxes/{id}")).expect_error(404, "not_found");
                cluster.node(door).api().delete(&format!("/sandboxes/{id}")).expect_error(404, "not_found");
            }
        }
        cluster.settles();
    });
    cases.case("a burst through one door goes to all nodes", || a_burst_spreads(&cluster));
    cases.case("a refusal names each node's reason", || a_refusal_names_each_node(&mut cluster));
    cases.case("a wrong token is refused in words", || {
        let right = cluster.token(&[]);
        let wrong = altered(&right);
        let refused = cluster.refuses(&wrong);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(refused.said.contains("does not let us in") && refused.said.contains("token"), "{refused:?}");
        assert!(!refused.said.contains(&wrong), "the token is in the log");
        let refused = cluster.refuses("nonsense");
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(refused.said.contains("join_token"), "{refused:?}");
    });
    cases.case("an expired token is refused in words", || {
        let refused = cluster.refuses(&cluster.token(&["--valid", "0"]));
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(refused.said.contains("expired"), "{refused:?}");
    });
    cases.case("a second process in a data directory is refused", || {
        let refused = cluster.refuses_a_second_process_of(1);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(refused.said.contains("in use by another node process"), "{refused:?}");
        assert!(cluster.node(1).is_healthy());
    });
    cases.case("a fourth node learns, and is a door as any other", || {
        let fourth = cluster.join_another();
        within_settling("three voters and a learner", || {
            let leader = cluster.membership(cluster.leader());
            let fit = leader.voters.len() == 3 && leader.learners.len() == 1;
            if fit { Ok(()) } else { Err(format!("{leader:?}")) }
        });
        cluster.settles();
        let before = cluster.node(0).api().create(&json!({}));
        let through = cluster.node(fourth).api().create(&json!({}));
        for id in [&before, &through] {
            for door in cluster.running() {
                assert_eq!(cluster.node(door).api().output(id, &["echo", "on"]), "on");
            }
        }
        cluster.node(fourth).api().destroy(&before);
        cluster.node(0).api().destroy(&through);
        cluster.settles();
    });
    cases.finish();
}

/// Every door with every sandbox.
fn doors_and<'a>(cluster: &'a Cluster, ids: &'a [String]) -> impl Iterator<Item = (&'a Api, &'a String)> {
    cluster.running().flat_map(move |door| ids.iter().map(move |id| (cluster.node(door).api(), id)))
}

fn statuses(cluster: &Cluster, id: &str) -> Vec<String> {
    cluster.running().map(|door| cluster.node(door).api().status(id)).collect()
}

fn every_door_shows_the_same(cluster: &Cluster, ids: &[String]) {
    let first = cluster.node(0).api();
    for door in [1, 2].map(|door| cluster.node(door).api()) {
        assert_eq!(door.list(""), first.list(""));
        assert_eq!(door.list("?label=made:through&limit=2"), first.list("?label=made:through&limit=2"));
        for id in ids {
            assert_eq!(door.sandbox(id), first.sandbox(id));
        }
    }
    for (number, id) in ids.iter().enumerate() {
        let of_it = first.ids(&format!("?node={}", cluster.host(cluster.owner_of(id))));
        assert_eq!(of_it, std::slice::from_ref(id), "sandbox {number}");
    }
}

fn files(cluster: &Cluster, ids: &[String]) {
    for (number, id) in ids.iter().enumerate() {
        for step in 0..3 {
            let door = |other: usize| cluster.node((number + step + other) % 3).api();
            let (directory, path) = (format!("/tmp/made-{step}"), format!("/tmp/made-{step}/file"));
            door(0).file("POST", id, "/mkdir", &directory).send().expect("an answer").expect(200);
            door(1).write(id, &path, b"content");
            let seen: Vec<Value> = [0, 1, 2]
                .map(|other| door(other).file("GET", id, "/stat", &path).send().expect("an answer").expect(200).json())
                .into();
            assert!(seen[0]["size"] == 7 && seen[0] == seen[1] && seen[1] == seen[2], "{seen:?}");
            for other in 0..3 {
                assert_eq!(door(other).read(id, &path), b"content");
                assert_eq!(door(other).names(id, &directory), ["file"]);
            }
            let part = door(2).file("GET", id, "", &path).header("Range", "bytes=3-").send().expect("an answer");
            assert_eq!(part.expect(206).body, b"tent");
            door(2).file("DELETE", id, "", &directory).send().expect("an answer").expect(200);
            let gone = door(0).file("GET", id, "", &path).send().expect("an answer");
            gone.expect_error(404, "file_not_found");
        }
        cluster.node(0).api().write(id, "/tmp/kept", b"kept");
    }
}

/// Asks a door something about a sandbox that can not be granted.
type Ask = fn(&Api, &str) -> Answer;

/// Status and body of an answer, without what belongs to the request alone.
fn said(answer: &Answer) -> (u16, Value) {
    let mut body = answer.json();
    body.as_object_mut().expect("an error is an object").remove("request_id");
    (answer.status, body)
}

fn errors(cluster: &Cluster, ids: &[String]) {
    let asks: [Ask; 5] = [
        |door, id| door.file("GET", id, "", "/no/such/file").send().expect("an answer"),
        |door, id| door.file("GET", id, "", "/tmp").send().expect("an answer"),
        |door, id| door.exec_with(id, &json!({ "cmd": ["sleep", "9"], "timeout": 1 })),
        |door, id| door.exec_with(id, &json!({ "cmd": [] })),
        |door, _| door.exec_with("none", &json!({ "cmd": ["true"] })),
    ];
    for (number, ask) in asks.iter().enumerate() {
        let id = &ids[number % ids.len()];
        let answers: Vec<_> = cluster.running().map(|door| said(&ask(cluster.node(door).api(), id))).collect();
        assert!(answers[0].0 >= 400, "{answers:?}");
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    }
}

fn reads_pass_a_barrier(cluster: &Cluster) {
    for round in 0..6 {
        let door = |other: usize| cluster.node((round + other) % 3).api();
        let id = door(0).create(&json!({}));
        assert!(door(1).ids("").contains(&id), "a list does not show what was made");
        assert_eq!(door(2).status(&id), "running");
        assert_eq!(door(1).output(&id, &["echo", "at once"]), "at once");
        door(2).destroy(&id);
        door(0).get(&format!("/sandboxes/{id}")).expect_error(404, "not_found");
        assert!(!door(1).ids("").contains(&id), "a list shows what is gone");
    }
}

fn a_burst_spreads(cluster: &Cluster) {
    let door = cluster.node(0).api();
    std::thread::scope(|scope| {
        let creates: Vec<_> = (0..BURST).map(|_| scope.spawn(|| door.create(&json!({})))).collect();
        creates.into_iter().for_each(|create| drop(create.join().expect("a sandbox")));
    });
    let of_each = [0, 1, 2].map(|node| door.ids(&format!("?node={}", cluster.host(node))).len());
    assert_eq!(of_each.iter().sum::<usize>(), BURST);
    assert!(of_each.iter().all(|count| *count >= BURST / 6), "{of_each:?} of {BURST}");
    cluster.empty();
}

fn a_refusal_names_each_node(cluster: &mut Cluster) {
    let refused = |cluster: &Cluster, door: usize| {
        let answer = cluster.node(door).api().post("/sandboxes", &json!({ "memory": 1_u64 << 49 }));
        answer.expect_error(503, "no_capacity")["details"].clone()
    };
    let is_full = |cluster: &Cluster, details: &Value, node: usize| {
        let reason = details[cluster.host(node)].as_str().unwrap_or_default();
        assert!(reason.starts_with("562949953421312 bytes of memory asked for, "), "node {node}: {details}");
    };
    for door in 0..3 {
        let details = refused(cluster, door);
        assert_eq!(details.as_object().map(serde_json::Map::len), Some(3), "{details}");
        (0..3).for_each(|node| is_full(cluster, &details, node));
    }
    let ended = cluster.sigterm(2);
    assert!(ended.success(), "{ended:?}");
    let details = refused(cluster, 0);
    assert_eq!(details[cluster.host(2)], "restarting", "{details}");
    cluster.restart(2);
    cluster.settles();
}

/// A token of which one letter of its proof is another.
fn altered(token: &str) -> String {
    let (rest, last) = token.split_at(token.len() - 10);
    format!("{rest}{}{}", if last.starts_with('A') { "B" } else { "A" }, &last[1..])
}
