//! Stop, start, and keys that make a create safe to repeat.

use std::collections::BTreeSet;

use serde_json::json;
use tests::{Answer, Cases, Node, Options};

#[test]
fn a_stopped_sandbox_keeps_what_it_had() {
    let mut cases = Cases::of("stop and start");
    let node = Node::start(Options::default());
    let api = node.api();
    let id = api.create(&json!({ "env": { "KEPT": "in the log, sealed" }, "memory": 64 << 20 }));
    cases.case("stop", || {
        api.write(&id, "/tmp/kept", b"kept");
        for _ in 0..2 {
            api.stop(&id);
            assert_eq!(api.status(&id), "stopped");
        }
        assert!(api.sandbox(&id)["error"].is_null(), "nothing went wrong: {}", api.sandbox(&id));
        assert!(!node.held().containers[&id].running);
    });
    cases.case("what needs a running sandbox is 409", || {
        api.exec_with(&id, &json!({ "cmd": ["true"] })).expect_error(409, "wrong_state");
        api.file("GET", &id, "", "/tmp/kept").send().expect("an answer").expect_error(409, "wrong_state");
        api.file("PUT", &id, "", "/tmp/x").bytes(b"x").send().expect("an answer").expect_error(409, "wrong_state");
    });
    cases.case("start", || {
        for _ in 0..2 {
            api.start(&id);
            assert_eq!(api.status(&id), "running");
        }
        assert_eq!(api.read(&id, "/tmp/kept"), b"kept");
        assert_eq!(api.variable(&id, "KEPT"), "in the log, sealed");
        let container = &node.held().containers[&id].id;
        let limit = ["memory.limit_in_bytes", "memory.max"];
        let limit = tests::machine::cgroup_value(&node.identity(), container, &limit);
        assert_eq!(limit.as_deref(), Some("67108864"), "its limits are not set again");
    });
    cases.case("stop ends what runs", || {
        std::thread::scope(|scope| {
            let running =
                scope.spawn(|| api.exec_with(&id, &json!({ "cmd": ["sh", "-c", "touch /tmp/on; sleep 600"] })));
            tests::within_settling("it runs", || match api.names(&id, "/tmp").contains(&"on".to_owned()) {
                true => Ok(()),
                false => Err("not yet".to_owned()),
            });
            api.stop(&id);
            let answer = running.join().expect("an answer");
            // Whether it did its work is not known.
            assert!(matches!(answer.status, 200 | 503), "{answer:?}");
            if answer.status == 503 {
                answer.expect_error(503, "interrupted");
            } else {
                assert_ne!(answer.json()["exit_code"], 0, "an invented success: {}", answer.text());
            }
        });
    });
    cases.case("a stopped sandbox is destroyed", || {
        api.destroy(&id);
        node.settles();
    });
    cases.finish();
}

#[test]
fn a_create_with_a_key_happens_once() {
    let mut cases = Cases::of("idempotency");
    let node = Node::start(Options { pool: 2, ..Options::default() });
    let api = node.api();
    let body = json!({ "labels": { "made": "once" }, "timeout": 600 });
    let id = api.create_keyed("first", &body).expect(201).json()["id"].clone();
    cases.case("the same again is the same", || {
        let again = api.create_keyed("first", &body).expect(201).json();
        assert_eq!(again["id"], id);
        let (text, other) = ("{ \"timeout\" : 6e2, \"labels\":{\"ma\\u0064e\":\"once\"} }", "{\"timeout\":601}");
        let spelled = |text: &'static str| {
            let call = api.call("POST", "/sandboxes").header("Idempotency-Key", "first");
            call.bytes(text.as_bytes()).send().expect("an answer")
        };
        assert_eq!(spelled(text).expect(201).json()["id"], id, "equal by value");
        spelled(other).expect_error(409, "idempotency_mismatch");
    });
    cases.case("it is shown as it is now", || {
        let id = id.as_str().expect("an id");
        api.stop(id);
        assert_eq!(api.create_keyed("first", &body).expect(201).json()["status"], "stopped");
    });
    cases.case("another key is another sandbox", || {
        let other = api.create_keyed("second", &body).expect(201).json()["id"].clone();
        assert_ne!(other, id);
        api.destroy(other.as_str().expect("an id"));
    });
    cases.case("twenty at once are one", || {
        let body = json!({ "labels": { "made": "by twenty" } });
        let answers: Vec<Answer> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..20).map(|_| scope.spawn(|| api.create_keyed("shared", &body))).collect();
            threads.into_iter().map(|thread| thread.join().expect("an answer")).collect()
        });
        let ids: BTreeSet<String> =
            answers.into_iter().map(|answer| answer.expect(201).json()["id"].to_string()).collect();
        assert_eq!(ids.len(), 1, "{ids:?}");
        assert_eq!(api.ids("?label=made:by%20twenty").len(), 1);
        // The losers' slots were prepared, so they are destroyed.
        node.settles();
    });
    cases.case("what is deleted is gone", || {
        let id = id.as_str().expect("an id");
        api.destroy(id);
        let error = api.create_keyed("first", &body).expect_error(410, "gone");
        assert_eq!(error["details"]["id"], id, "{error}");
    });
    cases.case("a refusal leaves the key free", || {
        let wrong = json!({ "image": "localhost/warren/nothing:latest" });
        api.create_keyed("free", &wrong).expect_error(422, "unprocessable");
        api.create_keyed("free", &body).expect(201);
    });
    cases.case("a key that is none", || {
        api.create_keyed(&"k".repeat(256), &body).expect_error(400, "bad_request");
    });
    cases.finish();
}
