//! Commands: codes, signals, streams, surroundings, deadlines.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tests::{Cases, DEFAULT_IMAGE, Node, Options, within_settling};

/// An argument that no other process on the host has.
const MARK: &str = "31415926";

#[test]
fn commands_run_as_asked() {
    let mut cases = Cases::of("exec");
    let node = Node::start(Options { image: DEFAULT_IMAGE, ..Options::default() });
    let api = node.api();
    let id = api.create(&json!({ "env": { "FROM_CREATE": "a b", "BOTH": "create" } }));
    rows(&mut cases, &node, &id);
    cases.case("a wrong directory or user is named", || {
        for (body, status, field) in [
            (json!({ "cmd": ["true"], "workdir": "/nothing" }), 400, "workdir"),
            (json!({ "cmd": ["true"], "workdir": "/etc/passwd" }), 400, "workdir"),
            (json!({ "cmd": ["true"], "workdir": "relative" }), 400, "workdir"),
            (json!({ "cmd": ["true"], "user": "nobody-there" }), 400, "user"),
            (json!({ "cmd": ["true"], "env": { "A=B": "x" } }), 400, "env"),
            (json!({ "cmd": ["a\0b"] }), 400, "cmd"),
        ] {
            let error = api.exec_with(&id, &body).expect_error(status, "bad_request");
            assert!(error["error"].as_str().is_some_and(|text| text.contains(field)), "{body}: {error}");
        }
    });
    cases.case("base64 keeps every byte", || {
        let all = "import os; os.write(1, bytes(range(256))); os.write(2, b'\\xff')";
        let body = json!({ "cmd": ["python3", "-c", all], "encoding": "base64" });
        let answer = api.exec_with(&id, &body).expect(200).json();
        let decoded = |field: &str| STANDARD.decode(answer[field].as_str().expect("text")).expect("base64");
        assert_eq!(decoded("stdout"), (0..=255).collect::<Vec<u8>>());
        assert_eq!(decoded("stderr"), [0xff]);
    });
    cases.case("output is bounded, and says so", || {
        let body = json!({ "cmd": ["head", "-c", "3000000", "/dev/zero"], "max_output": 1000 });
        let answer = api.exec_with(&id, &body).expect(200).json();
        assert_eq!((answer["truncated"].clone(), answer["exit_code"].clone()), (json!(true), json!(0)));
        assert_eq!(answer["stdout"].as_str().map(str::len), Some(1000));
        let whole = json!({ "cmd": ["head", "-c", "3000000", "/dev/zero"] });
        let answer = api.exec_with(&id, &whole).expect(200).json();
        assert_eq!(answer["truncated"], false);
        assert_eq!(answer["stdout"].as_str().map(str::len), Some(3_000_000));
    });
    deadlines(&mut cases, &node, &id);
    cases.case("what a command leaves running dies with it", || {
        let script = format!("sleep {MARK} & (setsid sleep {MARK} &) ; echo done");
        assert_eq!(api.output(&id, &["sh", "-c", &script]), "done");
        assert_eq!(marked(&node, &id), Vec::<String>::new());
    });
    cases.case("twenty at once", || {
        std::thread::scope(|scope| {
            for number in 0..20 {
                let id = &id;
                scope.spawn(move || {
                    let said = api.output(id, &["sh", "-c", &format!("sleep 0.1; echo {number}")]);
                    assert_eq!(said, number.to_string());
                });
            }
        });
    });
    cases.case("a client that hangs up does not hurt the next one", || {
        let call = api.call("POST", &format!("/sandboxes/{id}/exec")).json(&json!({ "cmd": ["sleep", "1"] }));
        call.hang_up().expect("it was sent");
        assert_eq!(api.output(&id, &["echo", "still"]), "still");
    });
    cases.finish();
}

/// Name, request, and the fields of the answer.
fn rows(cases: &mut Cases, node: &Node, id: &str) {
    let sh = |script: &str| json!(["sh", "-c", script]);
    let table = [
        ("zero", json!({ "cmd": ["true"] }), json!({ "exit_code": 0, "stdout": "", "stderr": "", "truncated": false })),
        ("three", json!({ "cmd": sh("exit 3") }), json!({ "exit_code": 3, "oom": false })),
        ("255", json!({ "cmd": sh("exit 255") }), json!({ "exit_code": 255 })),
        ("missing program", json!({ "cmd": ["no-such-program"] }), json!({ "exit_code": 127 })),
        ("missing path", json!({ "cmd": ["/no/such/program"] }), json!({ "exit_code": 127 })),
        ("not executable", json!({ "cmd": ["/etc/passwd"] }), json!({ "exit_code": 126 })),
        (
            "killed",
            json!({ "cmd": sh("kill -KILL $$") }),
            json!({ "exit_code": 137, "signal": "SIGKILL", "oom": false }),
        ),
        ("terminated", json!({ "cmd": sh("kill -TERM $$") }), json!({ "exit_code": 143, "signal": "SIGTERM" })),
        (
            "aborted",
            json!({ "cmd": ["python3", "-c", "import os; os.abort()"] }),
            json!({ "exit_code": 134, "signal": "SIGABRT" }),
        ),
        ("no signal", json!({ "cmd": sh("exit 137") }), json!({ "exit_code": 137, "signal": null })),
        (
            "two streams",
            json!({ "cmd": sh("echo out; echo err >&2") }),
            json!({ "stdout": "out\n", "stderr": "err\n" }),
        ),
        ("stdin", json!({ "cmd": ["cat"], "stdin": "in\u{e4}\n" }), json!({ "stdout": "in\u{e4}\n", "exit_code": 0 })),
        ("no stdin", json!({ "cmd": ["cat"] }), json!({ "stdout": "", "exit_code": 0 })),
        (
            "stdin that nobody reads",
            json!({ "cmd": ["true"], "stdin": "x".repeat(500_000) }),
            json!({ "exit_code": 0 }),
        ),
        ("much stdin", json!({ "cmd": ["wc", "-c"], "stdin": "x".repeat(900_000) }), json!({ "stdout": "900000\n" })),
        (
            "arguments as they are",
            json!({ "cmd": ["printf", "%s|", "a b", "", "$HOME", "'\"", "-n", "\u{20ac}\n"] }),
            json!({ "stdout": "a b||$HOME|'\"|-n|\u{20ac}\n|" }),
        ),
        ("env of the create", json!({ "cmd": sh("echo $FROM_CREATE $BOTH") }), json!({ "stdout": "a b create\n" })),
        (
            "env of the exec",
            json!({ "cmd": sh("echo $FROM_CREATE $BOTH"), "env": { "BOTH": "exec" } }),
            json!({ "stdout": "a b exec\n" }),
        ),
        ("env of the exec stays its own", json!({ "cmd": sh("echo $BOTH") }), json!({ "stdout": "create\n" })),
        (
            "env of the image",
            json!({ "cmd": ["printenv", "LANG", "HOME", "USER"] }),
            json!({ "stdout": "C.UTF-8\n/home/sandbox\nsandbox\n" }),
        ),
        ("directory of the image", json!({ "cmd": ["pwd"] }), json!({ "stdout": "/home/sandbox\n" })),
        ("directory", json!({ "cmd": ["pwd"], "workdir": "/usr/lib" }), json!({ "stdout": "/usr/lib\n" })),
        ("user", json!({ "cmd": sh("id -u; id -g; id -un") }), json!({ "stdout": "1000\n1000\nsandbox\n" })),
        ("root", json!({ "cmd": ["id", "-u"], "user": "root" }), json!({ "stdout": "0\n" })),
        ("another user", json!({ "cmd": ["id", "-u"], "user": "nobody" }), json!({ "stdout": "65534\n" })),
        (
            "a user by number",
            json!({ "cmd": sh("id -u; id -g"), "user": "4242:17" }),
            json!({ "stdout": "4242\n17\n" }),
        ),
        ("not UTF-8", json!({ "cmd": ["printf", "a\\377b"] }), json!({ "stdout": "a\u{fffd}b" })),
        (
            "a timeout that is not needed",
            json!({ "cmd": ["echo", "x"], "timeout": 100 }),
            json!({ "stdout": "x\n", "exit_code": 0 }),
        ),
        ("zero is no timeout", json!({ "cmd": ["echo", "x"], "timeout": 0 }), json!({ "stdout": "x\n" })),
    ];
    for (name, body, expected) in table {
        cases.case(name, || {
            let answer = node.api().exec_with(id, &body).expect(200).json();
            for (field, value) in expected.as_object().expect("an object") {
                let found = answer.get(field).unwrap_or(&Value::Null);
                assert_eq!(found, value, "{field} of {answer}");
            }
            assert!(answer["duration_ms"].is_u64(), "{answer}");
        });
    }
}

fn deadlines(cases: &mut Cases, node: &Node, id: &str) {
    let api = node.api();
    cases.case("a deadline kills all that was started", || {
        // In the foreground, in the background, in a session of its own, orphaned twice, deaf to signals.
        let script = format!(
            "echo so far; echo too >&2; sleep {MARK} & setsid sleep {MARK} & (setsid sh -c 'sleep {MARK} & sleep {MARK}' &);\
             (trap '' HUP INT TERM; setsid sleep {MARK} &); sleep {MARK}"
        );
        let error = api.exec_with(id, &json!({ "cmd": ["sh", "-c", script], "timeout": 1 }));
        let error = error.expect_error(408, "timed_out");
        assert_eq!(error["details"]["timed_out"], true, "{error}");
        assert_eq!(error["details"]["stdout"], "so far\n", "{error}");
        assert_eq!(error["details"]["stderr"], "too\n", "{error}");
        assert_eq!(marked(node, id), Vec::<String>::new());
    });
    cases.case("a deadline of parts of a second", || {
        let error = api.exec_with(id, &json!({ "cmd": ["sleep", MARK], "timeout": 0.2 }));
        error.expect_error(408, "timed_out");
    });
    cases.case("only the agent is left", || {
        within_settling("all commands are reaped", || {
            let held = node.held();
            match held.processes_of(id).as_slice() {
                [_agent] => Ok(()),
                others => Err(format!("{others:?}")),
            }
        });
    });
}

/// Processes of the sandbox that bear the mark.
fn marked(node: &Node, id: &str) -> Vec<String> {
    let held = node.held();
    let marked = held.processes_of(id).into_iter().filter(|process| process.command.contains(MARK));
    marked.map(|process| process.command.clone()).collect()
}
