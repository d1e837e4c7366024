//! The contract's answers: what is handed on, and how what comes back is shown.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes")]

mod scripted;

use std::sync::Arc;

use actix_web::test::{TestRequest, call_service, init_service, read_body, read_body_json};
use front_door::{Consistency, Deleted, FrontDoor, Limits};
use scripted::{ID, KEY, OTHER_ID, SECOND_KEY, Scripted, config, sandbox};
use serde_json::{Value, json};
use types::{ErrorCode, ExecOutcome, Lifetime, NetworkMode, OnNodeLoss, WarrenError};

macro_rules! app {
    ($operations:expr) => {
        init_service(FrontDoor::new($operations.clone(), &config(Vec::new())).unwrap().app()).await
    };
}

macro_rules! send {
    ($app:expr, $request:expr) => {
        call_service($app, $request.insert_header(("X-API-Key", KEY)).to_request()).await
    };
}

fn post(path: &str, body: Value) -> TestRequest {
    TestRequest::post().uri(&format!("/api/v1{path}")).set_json(body)
}

fn get(path: &str) -> TestRequest {
    TestRequest::get().uri(&format!("/api/v1{path}"))
}

#[actix_web::test]
async fn health_and_version_need_no_key() {
    let operations = Arc::new(Scripted::default());
    let app = app!(operations);
    let health: Value = read_body_json(call_service(&app, get("/health").to_request()).await).await;
    assert_eq!(health["status"], "ok");
    assert_eq!(
        (&health["node"], &health["leader"], &health["quorum"]),
        (&json!("node-1"), &json!("node-1"), &json!(true))
    );
    assert_eq!((&health["cluster"], &health["voters"]), (&json!("cluster-1"), &json!(["node-1", "node-2"])));
    let version: Value = read_body_json(call_service(&app, get("/version").to_request()).await).await;
    assert_eq!(version["version"], "0.1.0");
    for feature in ["network_mode", "start", "file_stat", "sandbox_ip", "writable_rootfs"] {
        assert!(version["features"].as_array().unwrap().contains(&json!(feature)), "{feature}");
    }
    *operations.unhealthy.lock().unwrap() = Some("the engine does not answer".to_owned());
    let response = call_service(&app, get("/health").to_request()).await;
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    let body: Value = read_body_json(response).await;
    assert_eq!((&body["code"], &body["reason"]), (&json!("unhealthy"), &json!("the engine does not answer")));
    assert!(body["request_id"].is_string() && body["error"].is_string());
}

#[actix_web::test]
async fn nodes_are_shown_with_all_that_is_known_of_them() {
    let operations = Arc::new(Scripted::default());
    let app = app!(operations);
    let response = send!(&app, get("/nodes"));
    assert_eq!(response.status(), 200);
    let first = json!({
        "id": "node-1", "name": "rack-7", "role": "leader", "state": "up", "here": true, "reachable": true,
        "member": 1, "incarnation": 3, "addresses": {"http": "10.0.0.1:8080", "peer": "10.0.0.1:7000"},
        "versions": {"build": "0.1.0 (abc)", "commands": 1, "peer_protocol_min": 1, "peer_protocol_max": 1},
        "capacity": {
            "sandboxes": 2, "sandboxes_max": 1_000, "memory_promised": 1u64 << 30, "memory_max": 64u64 << 30,
            "cpu_promised": 2_000_000_000, "cpu_cores": 8
        },
        "closed": "the node is starting",
        "warm": [
            {"template": "default", "ready": 3, "target": 4, "refill_ms_p50": 74},
            {"template": "new", "ready": 0, "target": 0}
        ],
        "runtime": "runc", "images": 5
    });
    // Of the second nothing was heard: what is not known is absent, never null and never a guess.
    let second = json!({
        "id": "node-2", "role": "voter", "state": "lost", "here": false, "reachable": false,
        "member": 2, "incarnation": 1, "addresses": {}, "versions": {"commands": 1},
        "capacity": {"sandboxes": 1, "memory_promised": 7, "cpu_promised": 0}
    });
    assert_eq!(read_body_json::<Value, _>(response).await, json!([first, second]));
    assert_eq!(read_body_json::<Value, _>(send!(&app, get("/nodes/node-2"))).await, second);
    assert_eq!(send!(&app, get("/nodes?stale=true")).status(), 200);
    let asked = operations.node_reads.lock().unwrap().clone();
    assert_eq!(asked, [Consistency::Barrier, Consistency::Barrier, Consistency::Stale]);
}

#[actix_web::test]
async fn nodes_are_refused_in_the_words_of_the_contract() {
    let operations = Arc::new(Scripted::default());
    let app = app!(operations);
    assert_eq!(call_service(&app, get("/nodes").to_request()).await.status(), 401);
    for id in ["node-3", "x%00y", "%2e%2e", "%F0%9F%90%87"] {
        let response = send!(&app, get(&format!("/nodes/{id}")));
        assert_eq!(response.status(), 404, "{id}");
        assert_eq!(read_body_json::<Value, _>(response).await["code"], "not_found", "{id}");
    }
    assert_eq!(send!(&app, get("/nodes?stale=maybe")).status(), 400);
    let response = send!(&app, TestRequest::delete().uri("/api/v1/nodes/node-1"));
    assert_eq!((response.status().as_u16(), response.headers().get("allow").unwrap().to_str().unwrap()), (405, "GET"));
    *operations.refuse_with.lock().unwrap() = Some(WarrenError::new(ErrorCode::NoQuorum, "no majority"));
    for path in ["/nodes", "/nodes/node-1"] {
        let response = send!(&app, get(path));
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key("retry-after"));
        assert_eq!(read_body_json::<Value, _>(response).await["code"], "no_quorum");
    }
}

#[actix_web::test]
async fn a_create_of_the_old_client_is_read_and_shown() {
    let operations = Arc::new(Scripted::default());
    let app = app!(operations);
    // The body that den-sdk sends for `create()`.
    let response = send!(&app, post("/sandboxes", json!({"image": ""})));
    assert_eq!(response.status(), 201);
    let shown: Value = read_body_json(response).await;
    assert_eq!(
        shown,
        json!({
            "id": ID, "image": "default", "status": "running",
            "created_at": "2026-11-18T11:08:43.456Z", "expires_at": null,
            "node": "node-1", "generation": 1, "labels": {},
            "resources": {"cpu": 1_000_000_000, "memory": 536_870_912, "disk": 0, "pids": 256},
            "network_mode": "none", "runtime": "runc"
        })
    );
    let asked = operations.creates.lock().unwrap().pop().unwrap();
    assert_eq!((asked.image, asked.lifetime, asked.idempotency), (None, Lifetime::Default, None));
}

#[actix_web::test]
async fn every_field_of_a_create_is_handed_on() {
    let operations = Arc::new(Scripted::default());
    let app = app!(operations);
    let body = json!({
        "image": "docker.io/library/busybox:1.36", "template": "py", "env": {"A": "b=c"}, "workdir": "/work",
        "timeout": 60.0, "cpu": 500_000_000, "memory": 268_435_456, "disk": 1_073_741_824, "pids": 64,
        "network_mode": "internet", "writable_rootfs": false, "labels": {"team": "a", "run": "7"}, "name": "x",
        "command": ["sleep", "1"], "user": "root", "on_node_loss": "restart",
        "storage": {"tmpfs": [{"path": "/scratch/", "size": "256m", "options": "noexec,mode=0700"}, {"path": "/t", "size": 4096}],
                    "volumes": [], "s3": null},
        "ports": [], "auto_resume": true, "idle_timeout": 0, "on_idle": "", "snapshot": "", "runtime": null,
        "something_new": {"x": 1}
    });
    assert_eq!(send!(&app, post("/sandboxes", body)).status(), 201);
    let asked = operations.creates.lock().unwrap().pop().unwrap();
    assert_eq!(asked.image.as_deref(), Some("docker.io/library/busybox:1.36"));
    assert_eq!(asked.template.as_deref(), Some("py"));
    assert_eq!(asked.env["A"], "b=c");
    assert_eq!(asked.workdir.as_deref(), Some("/work"));
    assert_eq!(asked.lifetime, Lifetime::Seconds(60));
    assert_eq!((asked.cpu, asked.memory), (Some(500_000_000), Some(268_435_456)));
    assert_eq!((asked.disk, asked.pids), (Some(1_073_741_824), Some(64)));
    assert_eq!((asked.network_mode, asked.writable_rootfs), (Some(NetworkMode::Internet), Some(false)));
    assert_eq!(asked.labels.len(), 2);
    assert_eq!((asked.name.as_deref(), asked.user.as_deref()), (Some("x"), Some("root")));
    assert_eq!((asked.command, asked.on_node_loss), (vec!["sleep".to_owned(), "1".to_owned()], OnNodeLoss::Restart));
    assert_eq!(asked.tmpfs.len(), 2);
    assert_eq!((asked.tmpfs[0].path.as_str(), asked.tmpfs[0].size), ("/scratch", 256 << 20));
    assert_eq!((asked.tmpfs[1].size, asked.tmpfs[0].options.as_str()), (4096, "noexec,mode=0700"));
}

#[actix_web::test]
async fn a_life_without_end_is_a_matter_of_configuration() {
    let operations = Arc::new(Scripted::default());
    let mut config = config(Vec::new());
    config.limits = Limits { never_expires: true, ..Limits::default() };
    let app = init_service(FrontDoor::new(operations.clone(), &config).unwrap().app()).await;
    for (timeout, lifetime) in [
        (json!(null), Lifetime::Never),
        (json!(0), Lifetime::Default),
        (json!(315_360_000), Lifetime::Seconds(315_360_000)),
    ] {
        assert_eq!(send!(&app, post("/sandboxes", json!({"timeout": timeout}))).status(), 201);
        assert_eq!(operations.creates.lock().unwrap().pop().unwrap().lifetime, lifetime);
    }
}

#[actix_web::test]
async fn an_idempotency_key_is_scoped_and_digests_the_value() {
    let operations = Arc::new(Scripted::default());
    let app = app!(operations);
    let mut seen = Vec::new();
    for (api_key, key, body) in [
        (KEY, "k1", r#"{"image":"a","cpu":1}"#),
        (KEY, "k1", r#"{ "cpu": 1.0, "image": "\u0061" }"#),
        (KEY, "k1", r#"{"image":"b","cpu":1}"#),
        (KEY, "k2", r#"{"image":"a","cpu":1}"#),
        (SECOND_KEY, "k1", r#"{"image":"a","cpu":1}"#),
    ] {
        let request = TestRequest::post()
            .uri("/api/v1/sandboxes")
            .insert_header(("X-API-Key", api_key))
            .insert_header(("Idempotency-Key", key))
            .set_payload(body);
        assert_eq!(call_service(&app, request.to_request()).await.status(), 201);
        seen.push(operations.creates.lock().unwrap().pop().unwrap().idempotency.unwrap());
    }
    assert_eq!(seen[0], seen[1]);
    assert!(seen[0].scope == seen[2].scope && seen[0].digest != seen[2].digest);
    assert!(seen[0].scope != seen[3].scope && seen[0].digest == seen[3].digest);
    assert!(seen[0].scope != seen[4].scope && seen[0].digest == seen[4].digest);
    for key in ["", &"x".repeat(256)] {
        let request = post("/sandboxes", json!({})).insert_header(("Idempotency-Key", key));
        let response = send!(&app, request);
        assert_eq!(response.status(), 400, "{key:?}");
        let body: Value = read_body_json(response).await;
        assert_eq!(body["details"]["field"], "Idempotency-Key");
    }
}

#[actix_web::test]
async fn lists_are_arrays_filtered_and_paged() {
    let operations = Arc::new(Scripted::default());
    let app = app!(operations);
    let response = send!(&app, get("/sandboxes"));
    assert!(response.headers().get("link").is_none());
    assert_eq!(read_body(response).await, "[]");
    *operations.next_cursor.lock().unwrap() = Some("a/b".to_owned());
    let response =
        send!(&app, get("/sandboxes?status=running&label=a:b+c&label=d:e:f&node=node-1&limit=1&cursor=x&stale=true"));
    assert_eq!(
        response.headers().get("link").unwrap(),
        "</api/v1/sandboxes?status=running&label=a:b+c&label=d:e:f&node=node-1&limit=1&stale=true&cursor=a%2Fb>; rel=\"next\""
    );
    let shown: Value = read_body_json(response).await;
    assert_eq!(shown[0]["id"], ID);
    let (filter, consistency) = operations.lists.lock().unwrap().pop().unwrap();
    assert_eq!(filter.status, Some(sandbox().status));
    assert_eq!(filter.labels, [("a".to_owned(), "b c".to_owned()), ("d".to_owned(), "e:f".to_owned())]);
    assert_eq!((filter.node.as_deref(), filter.limit, filter.cursor.as_deref()), (Some("node-1"), Some(1), Some("x")));
    assert_eq!(consistency, Consistency::Stale);
}

#[actix_web::test]
async fn ends_stops_and_starts_answer_as_promised() {
    let operations = Arc::new(Scripted::default());
    let app = app!(operations);
    for (verb, status) in [("stop", "stopped"), ("start", "running")] {
        // The old client sends neither a body nor a content type.
        let request = TestRequest::post().uri(&format!("/api/v1/sandboxes/{ID}/{verb}"));
        let response = send!(&app, request);
        assert_eq!(response.status(), 200);
        let body: Value = read_body_json(response).await;
        assert_eq!(body, json!({"status": status}));
    }
    let delete = || TestRequest::delete().uri(&format!("/api/v1/sandboxes/{ID}"));
    let response = send!(&app, delete());
    assert_eq!(response.status(), 204);
    assert!(read_body(response).await.is_empty());
    *operations.deleted.lock().unwrap() = Some(Deleted::Destroying);
    let response = send!(&app, delete());
    assert_eq!(response.status(), 202);
    let body: Value = read_body_json(response).await;
    assert_eq!(body, json!({"status": "destroying"}));
}

#[actix_web::test]
async fn exec_hands_on_and_shows_what_came_back() {
    let operations = Arc::new(Scripted::default());
    let app = app!(operations);
    let path = format!("/sandboxes/{ID}/exec");
    *operations.outcome.lock().unwrap() = ExecOutcome {
        exit_code: 3,
        stdout: b"hello \xff\n".to_vec(),
        stderr: "\u{e9}\"\u{1}".into(),
        duration_us: 712,
        ..ExecOutcome::default()
    };
    let body = json!({"cmd": ["sh", "-c", "x"], "env": {"A": "1"}, "workdir": "/w", "timeout": 1.5, "stdin": "in",
                      "user": "root", "max_output": 10});
    let shown: Value = read_body_json(send!(&app, post(&path, body))).await;
    assert_eq!(
        shown,
        json!({"exit_code": 3, "stdout": "hello \u{fffd}\n", "stderr": "\u{e9}\"\u{1}", "duration_ms": 1,
               "truncated": false, "oom": false})
    );
    let asked = operations.execs.lock().unwrap().pop().unwrap();
    assert_eq!(asked.cmd, ["sh", "-c", "x"]);
    assert_eq!((asked.timeout_ms, asked.max_output), (Some(1500), 10));
    assert_eq!((asked.workdir.as_deref(), asked.user.as_deref()), (Some("/w"), Some("root")));
    assert_eq!(asked.stdin.as_deref(), Some(&b"in"[..]));

    // What den-sdk sends for the simplest exec.
    *operations.outcome.lock().unwrap() = ExecOutcome {
        exit_code: 137,
        signal: Some(9),
        oom: true,
        truncated: true,
        stdout: vec![0, 255],
        ..ExecOutcome::default()
    };
    for timeout in [json!(null), json!(0)] {
        let body = json!({"cmd": ["true"], "timeout": timeout, "encoding": "base64"});
        let shown: Value = read_body_json(send!(&app, post(&path, body))).await;
        assert_eq!((&shown["stdout"], &shown["stderr"]), (&json!("AP8="), &json!("")));
        assert_eq!(
            (&shown["signal"], &shown["exit_code"], &shown["oom"]),
            (&json!("SIGKILL"), &json!(137), &json!(true))
        );
        let asked = operations.execs.lock().unwrap().pop().unwrap();
        assert_eq!((asked.timeout_ms, asked.max_output), (None, 16 << 20));
    }
}

#[actix_web::test]
async fn an_exec_that_runs_out_of_time_is_408_with_its_output() {
    let operations = Arc::new(Scripted::default());
    let app = app!(operations);
    *operations.outcome.lock().unwrap() = ExecOutcome {
        timed_out: true,
        exit_code: 137,
        signal: Some(9),
        stdout: b"so far".to_vec(),
        ..ExecOutcome::default()
    };
    let response = send!(&app, post(&format!("/sandboxes/{ID}/exec"), json!({"cmd": ["sleep"], "timeout": 0.0001})));
    assert_eq!(response.status(), 408);
    let body: Value = read_body_json(response).await;
    assert_eq!(body["code"], "timed_out");
    assert_eq!(body["details"]["stdout"], "so far");
    assert_eq!((&body["details"]["stderr"], &body["details"]["timed_out"]), (&json!(""), &json!(true)));
    assert_eq!(operations.execs.lock().unwrap().pop().unwrap().timeout_ms, Some(1), "a short deadline is not none");
}

#[actix_web::test]
async fn errors_of_the_operations_keep_their_words_but_not_our_faults() {
    let operations = Arc::new(Scripted::default());
    let app = app!(operations);
    for code in ErrorCode::ALL {
        let error = WarrenError::new(*code, "the reason").with("fact", 1);
        *operations.refuse_with.lock().unwrap() = Some(error);
        let response = send!(&app, get(&format!("/sandboxes/{OTHER_ID}")));
        assert_eq!(response.status().as_u16(), code.http_status());
        let retry = response.headers().contains_key("retry-after");
        assert_eq!(retry, matches!(code.http_status(), 429 | 503), "{code:?}");
        let made = response.headers().get("x-request-id").unwrap().to_str().unwrap().to_owned();
        let body: Value = read_body_json(response).await;
        assert_eq!((&body["code"], &body["request_id"]), (&json!(code.as_str()), &json!(made)));
        match code {
            ErrorCode::Internal => {
                assert_eq!(body["error"], "internal error");
                assert!(body.get("details").is_none(), "{body}");
            }
            _ => assert_eq!((&body["error"], &body["details"]["fact"]), (&json!("the reason"), &json!(1))),
        }
    }
}

#[actix_web::test]
async fn request_ids_are_taken_where_harmless_and_made_where_not() {
    let operations = Arc::new(Scripted::default());
    let app = app!(operations);
    let mut made = std::collections::BTreeSet::new();
    for sent in ["trace-1/2", "", "a b", "<script>", &"x".repeat(129)] {
        let response = send!(&app, get("/sandboxes").insert_header(("X-Request-Id", sent)));
        let shown = response.headers().get("x-request-id").unwrap().to_str().unwrap().to_owned();
        assert_eq!(shown == sent, sent == "trace-1/2", "{sent:?}");
        assert!(made.insert(shown), "an id was given twice");
    }
}
