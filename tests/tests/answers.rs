//! What a node says of itself, what it shows of sandboxes, and how it refuses.

use serde_json::{Value, json};
use tests::{BUSYBOX, Cases, Node, Options, within_settling};

/// Of the right form, and of no sandbox.
const UNKNOWN: &str = "aaaaaaaaaaaaaaaaaaaa";

#[test]
fn answers_are_those_of_the_contract() {
    let mut cases = Cases::of("answers");
    let node = Node::start(Options::default());
    let api = node.api();
    cases.case("health and version need no key", || {
        let health = api.call_without_key("GET", "/health").send().expect("an answer").expect(200).json();
        assert_eq!(health["status"], "ok");
        assert_eq!(health["node"], node.identity().host.as_str());
        assert_eq!(health["leader"], node.identity().host.as_str());
        assert_eq!(health["quorum"], true);
        let version = api.call_without_key("GET", "/version").send().expect("an answer").expect(200).json();
        for field in ["version", "commit", "build_date"] {
            assert!(version[field].as_str().is_some_and(|text| !text.is_empty()), "{field} of {version}");
        }
        for features in [&health["features"], &version["features"]] {
            let features = features.as_array().expect("an array");
            for name in ["network_mode", "start", "file_stat", "sandbox_ip", "writable_rootfs"] {
                assert!(features.contains(&json!(name)), "{name} is not in {features:?}");
            }
        }
    });
    cases.case("a list of none is an empty array", || assert_eq!(api.get("/sandboxes").expect(200).text(), "[]"));
    order_of_checks(&mut cases, &node);
    refused_creates(&mut cases, &node);
    shown(&mut cases, &node);
    lists(&mut cases, &node);
    cases.case("a sandbox whose time has come is gone", || {
        let id = api.create(&json!({ "timeout": 1 }));
        within_settling("it expires", || match api.get(&format!("/sandboxes/{id}")).status {
            404 => Ok(()),
            status => Err(format!("it is shown with {status}")),
        });
    });
    cases.case("the host fits", || node.settles());
    cases.finish();
}

fn order_of_checks(cases: &mut Cases, node: &Node) {
    let api = node.api();
    let exec = |id: &str| format!("/sandboxes/{id}/exec");
    cases.case("first the key", || {
        let call = api.call_without_key("POST", &exec("bad")).header("Content-Type", "text/plain").bytes(b"x");
        let body = call.send().expect("an answer").expect_error(401, "missing_api_key");
        assert_eq!(body["error"], "missing API key");
        let call = api.call_without_key("GET", "/sandboxes").header("X-API-Key", "wrong");
        let body = call.send().expect("an answer").expect_error(401, "invalid_api_key");
        assert_eq!(body["error"], "invalid API key");
        let (_, key) = api.url_and_key();
        let call = api.call_without_key("GET", "/sandboxes").header("Authorization", &format!("Bearer {key}"));
        call.send().expect("an answer").expect(200);
    });
    cases.case("then the form of the id", || {
        for id in ["bad", "AAAAAAAAAAAAAAAAAAAA", "aaaaaaaaaaaaaaaaaaa1", "aaaaaaaaaaaaaaaaaaaaa", "..%2f..%2fhealth"] {
            let call = api.call("POST", &exec(id)).header("Content-Type", "text/plain").bytes(b"x");
            call.send().expect("an answer").expect_error(404, "not_found");
        }
    });
    cases.case("then the content type", || {
        let call = api.call("POST", &exec(UNKNOWN)).header("Content-Type", "text/plain").announce(2 << 20);
        call.send().expect("an answer").expect_error(415, "unsupported_media_type");
    });
    cases.case("then the size", || {
        let call = api.call("POST", &exec(UNKNOWN)).header("Content-Type", "application/json").announce(2 << 20);
        call.send().expect("an answer").expect_error(413, "too_large");
    });
    cases.case("then the body", || {
        for body in [&b"{"[..], b"[]", b"{}", b"{\"cmd\":[]}", b"{\"cmd\":\"ls\"}", b"{\"cmd\":[1]}"] {
            // None at all is taken as JSON.
            let answer = api.call("POST", &exec(UNKNOWN)).bytes(body).send().expect("an answer");
            answer.expect_error(400, "bad_request");
        }
        let missing = api.exec_with(UNKNOWN, &json!({})).expect_error(400, "bad_request");
        assert_eq!(missing["error"], "cmd is required");
        let negative = json!({ "cmd": ["true"], "timeout": -1 });
        let negative = api.exec_with(UNKNOWN, &negative).expect_error(400, "bad_request");
        assert!(negative["error"].as_str().is_some_and(|text| text.starts_with("timeout: ")), "{negative}");
    });
    cases.case("last the sandbox", || {
        for (method, rest) in [("GET", ""), ("DELETE", ""), ("POST", "/stop"), ("POST", "/start")] {
            let answer = api.call(method, &format!("/sandboxes/{UNKNOWN}{rest}")).send().expect("an answer");
            answer.expect_error(404, "not_found");
        }
        api.exec_with(UNKNOWN, &json!({ "cmd": ["true"], "unknown_field": 1 })).expect_error(404, "not_found");
        api.file("GET", UNKNOWN, "", "/x").send().expect("an answer").expect_error(404, "not_found");
    });
    cases.case("no such route, no such method", || {
        api.get("/nothing").expect_error(404, "not_found");
        let answer = api.call("PUT", "/sandboxes").send().expect("an answer");
        answer.expect_error(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some("POST, GET"), "{answer:?}");
    });
    cases.case("a request id is taken from the client", || {
        let answer = api.call("GET", "/sandboxes").header("X-Request-Id", "from-me").send().expect("an answer");
        assert_eq!(answer.header("x-request-id"), Some("from-me"));
    });
}

fn refused_creates(cases: &mut Cases, node: &Node) {
    let api = node.api();
    let table = [
        (json!({ "image": "localhost/warren/nothing:latest" }), 422, "unprocessable", "image"),
        (json!({ "template": "nothing" }), 422, "unprocessable", "template"),
        (json!({ "image": 7 }), 400, "bad_request", "image"),
        (json!({ "timeout": -1 }), 400, "bad_request", "timeout"),
        (json!({ "timeout": 1e30 }), 400, "bad_request", "timeout"),
        (json!({ "memory": -5 }), 400, "bad_request", "memory"),
        (json!({ "cpu": "much" }), 400, "bad_request", "cpu"),
        (json!({ "env": { "A": 1 } }), 400, "bad_request", "env.A"),
        (json!({ "env": { "A=B": "c" } }), 400, "bad_request", "env"),
        (json!({ "workdir": "relative" }), 400, "bad_request", "workdir"),
        (json!({ "network_mode": "host" }), 400, "bad_request", "network_mode"),
        (json!({ "ports": [{ "sandbox_port": 0 }] }), 400, "bad_request", "ports[0].sandbox_port"),
        (json!({ "ports": [{ "sandbox_port": 80, "protocol": "udp" }] }), 400, "bad_request", "ports[0].protocol"),
        (json!({ "ports": [{ "sandbox_port": 80 }] }), 501, "not_implemented", "ports"),
        (json!({ "snapshot": "snap-x" }), 501, "not_implemented", "snapshot"),
        (json!({ "disk": 1 << 30 }), 501, "not_implemented", "disk"),
        (json!({ "network_mode": "internet" }), 501, "not_implemented", "network_mode"),
        (json!({ "command": ["sleep", "1"] }), 501, "not_implemented", "command"),
        (json!({ "on_node_loss": "restore" }), 501, "not_implemented", "on_node_loss"),
        (json!({ "user": "nobody-there" }), 422, "unprocessable", "user"),
        (json!({ "storage": { "tmpfs": [{ "path": "/proc", "size": "1m" }] } }), 400, "bad_request", ""),
    ];
    for (body, status, code, field) in table {
        cases.case(&format!("{status} for {body}"), || {
            let error = api.post("/sandboxes", &body).expect_error(status, code);
            let sentence = error["error"].as_str().unwrap_or_default();
            assert!(sentence.contains(field), "{field} is not named: {error}");
        });
    }
    cases.case("none of the refused is there", || {
        assert_eq!(api.ids(""), Vec::<String>::new());
        node.settles();
    });
}

fn shown(cases: &mut Cases, node: &Node) {
    let api = node.api();
    cases.case("a sandbox is shown as it was asked for", || {
        let body = json!({
            "labels": { "a": "1" }, "name": "mine", "env": { "SECRET": "hunter2" }, "timeout": 600,
            "cpu": 500_000_000, "memory": 64 << 20, "pids": 40,
        });
        let created = api.post("/sandboxes", &body).expect(201).json();
        let id = tests::api::id_of(&created);
        assert!(id.len() == 20 && id.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7')), "{id}");
        for (field, value) in [
            ("image", json!(BUSYBOX)),
            ("status", json!("running")),
            ("node", json!(node.identity().host)),
            ("generation", json!(1)),
            ("labels", json!({ "a": "1" })),
            ("name", json!("mine")),
            ("network_mode", json!("none")),
            ("resources", json!({ "cpu": 500_000_000, "memory": 64 << 20, "disk": 0, "pids": 40 })),
        ] {
            assert_eq!(created[field], value, "{field}");
        }
        assert!(created["runtime"].as_str().is_some_and(|runtime| !runtime.is_empty()), "{created}");
        for field in ["created_at", "expires_at"] {
            let time = created[field].as_str().unwrap_or_default();
            assert!(time.len() >= 20 && time.ends_with('Z'), "{field}: {time}");
        }
        assert!(!created.to_string().contains("hunter2"), "a secret is echoed: {created}");
        assert!(no_nulls(&created), "{created}");
        assert_eq!(api.sandbox(&id), created);
        assert_eq!(api.list(""), [created]);
        api.destroy(&id);
    });
    cases.case("null never expires", || {
        let created = api.post("/sandboxes", &json!({ "timeout": null })).expect(201).json();
        assert_eq!(created.get("expires_at"), Some(&Value::Null));
        api.destroy(&tests::api::id_of(&created));
    });
}

fn no_nulls(value: &Value) -> bool {
    value.as_object().is_some_and(|fields| fields.values().all(|value| !value.is_null()))
}

fn lists(cases: &mut Cases, node: &Node) {
    let api = node.api();
    cases.case("lists are newest first, filtered, and in pages", || {
        let colours = ["red", "green", "red"];
        let mut made: Vec<String> =
            colours.iter().map(|colour| api.create(&json!({ "labels": { "colour": colour } }))).collect();
        api.stop(&made[1]);
        made.reverse();
        let [newest, middle, oldest] = [&made[0], &made[1], &made[2]];
        assert_eq!(api.ids(""), made);
        assert_eq!(api.ids("?label=colour:red"), [newest.clone(), oldest.clone()]);
        assert_eq!(api.ids("?status=stopped"), std::slice::from_ref(middle));
        assert_eq!(api.ids("?status=running&label=colour:green"), Vec::<String>::new());
        assert_eq!(api.ids(&format!("?node={}", node.identity().host)).len(), 3);
        assert_eq!(api.ids("?node=another"), Vec::<String>::new());
        let first = api.get("/sandboxes?limit=2").expect(200);
        let link = first.header("link").expect("a next page").to_owned();
        let next = link.strip_prefix("</api/v1").and_then(|rest| rest.split('>').next()).expect("a path");
        assert_eq!(first.json().as_array().map(Vec::len), Some(2));
        let second = api.get(next).expect(200);
        assert_eq!(second.json()[0]["id"], oldest.as_str());
        assert_eq!(second.header("link"), None);
        for query in ["?limit=0", "?limit=x", "?status=odd", "?label=x", "?cursor=odd"] {
            api.get(&format!("/sandboxes{query}")).expect_error(400, "bad_request");
        }
        made.iter().for_each(|id| api.destroy(id));
    });
}
