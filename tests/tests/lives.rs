//! One sandbox through several lives of its node, and the end of all things where that is asked for.

use serde_json::json;
use tests::machine::{cgroup_roots, lives, mounts_below, processes_that_name};
use tests::remains::kill;
use tests::{Cases, Node, Options, within_settling};

#[test]
fn sandboxes_outlive_their_node() {
    let mut cases = Cases::of("lives");
    let mut node = Node::start(Options::default());
    cases.case("kill -9 in the midst of an exec: its process goes on", || {
        let id = node.api().create(&json!({ "env": { "KEPT": "yes" } }));
        let api = node.api().clone();
        let first = node.held().containers[&id].pid;
        let script = "while :; do echo x >> /tmp/grows; sleep 0.05; done";
        std::thread::scope(|scope| {
            let running = scope.spawn(|| {
                api.call("POST", &format!("/sandboxes/{id}/exec")).json(&json!({ "cmd": ["sh", "-c", script] })).send()
            });
            grows(&node, &id);
            node.kill9();
            assert!(running.join().expect("a client").is_err(), "an answer without a node");
        });
        assert!(lives(first), "the sandbox died with its node");
        node.restart();
        assert_eq!(node.api().status(&id), "running");
        assert_eq!(node.held().containers[&id].pid, first, "another first process");
        grows(&node, &id);
        assert_eq!(node.api().variable(&id, "KEPT"), "yes");
        node.api().destroy(&id);
        assert!(!lives(first));
        node.settles();
    });
    cases.case("SIGTERM leaves sandboxes and slots running", || {
        node.settles();
        let id = node.api().create(&json!({}));
        let stopped = node.api().create(&json!({}));
        node.api().stop(&stopped);
        node.settles();
        let before = node.held();
        assert!(node.sigterm().success());
        assert_eq!(processes_that_name(&node.run_dir().join("engine").display().to_string()), [], "the service stays");
        let between = node.held();
        let pids = |held: &tests::Held| -> Vec<_> { held.containers.values().map(|c| (c.id.clone(), c.pid)).collect() };
        assert_eq!(pids(&between), pids(&before));
        node.restart();
        node.settles();
        assert_eq!(pids(&node.held()), pids(&before), "the slot was not adopted");
        assert_eq!((node.api().status(&id), node.api().status(&stopped)), ("running".into(), "stopped".into()));
        assert_eq!(node.api().output(&id, &["echo", "on"]), "on");
        node.api().destroy(&id);
        node.api().destroy(&stopped);
    });
    cases.case("SIGTERM lets a request come to its end", || {
        let id = node.api().create(&json!({}));
        let api = node.api().clone();
        let body = json!({ "cmd": ["sh", "-c", "touch /tmp/on; sleep 1; echo done"] });
        std::thread::scope(|scope| {
            let running = scope.spawn(|| api.exec_with(&id, &body));
            within_settling("it runs", || match api.names(&id, "/tmp").contains(&"on".to_owned()) {
                true => Ok(()),
                false => Err("not yet".to_owned()),
            });
            assert!(node.sigterm().success());
            assert_eq!(running.join().expect("an answer").expect(200).json()["stdout"], "done\n");
        });
        node.restart();
        node.api().destroy(&id);
    });
    cases.case("kill -9 of the podman service: it comes back", || {
        node.settles();
        let id = node.api().create(&json!({}));
        let engine = node.run_dir().join("engine").display().to_string();
        let service =
            || processes_that_name(&engine).into_iter().find(|(_, command)| command.contains("system service"));
        let (pid, _) = service().expect("a podman service");
        kill(pid);
        // What runs needs no engine.
        assert_eq!(node.api().output(&id, &["echo", "on"]), "on");
        let other = within_settling("a create works again", || {
            let answer = node.api().post("/sandboxes", &json!({}));
            match answer.status {
                201 => Ok(tests::api::id_of(&answer.json())),
                _ => Err(answer.text()),
            }
        });
        assert_ne!(service().map(|(pid, _)| pid), Some(pid));
        assert_eq!(node.api().output(&other, &["echo", "on"]), "on");
        node.api().destroy(&id);
        node.api().destroy(&other);
        node.settles();
    });
    cases.finish();
}

#[test]
fn a_node_that_destroys_on_exit_leaves_nothing() {
    let mut node = Node::start(Options { pool: 2, flags: &["--destroy-on-exit"], ..Options::default() });
    node.settles();
    let running = node.api().create(&json!({ "timeout": null }));
    let stopped = node.api().create(&json!({}));
    node.api().stop(&stopped);
    node.api().write(&running, "/tmp/x", b"x");
    let identity = node.identity();
    assert!(node.sigterm().success(), "{}", node.log());
    let held = node.held();
    assert!(held.containers.is_empty(), "{held:?}");
    assert!(held.directories.is_empty(), "{held:?}");
    // A conmon goes a moment after its container.
    within_settling("no process is left", || match node.held().processes {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    });
    assert!(mounts_below(node.run_dir()).is_empty(), "{:?}", mounts_below(node.run_dir()));
    assert_eq!(cgroup_roots(&identity), Vec::<std::path::PathBuf>::new(), "cgroups are left");
    assert_eq!(processes_that_name(&node.run_dir().display().to_string()), []);
    node.restart();
    assert_eq!(node.api().ids(""), Vec::<String>::new());
}

#[test]
fn a_node_that_destroys_on_exit_does_not_so_when_it_is_killed() {
    let mut node = Node::start(Options { flags: &["--destroy-on-exit"], ..Options::default() });
    let id = node.api().create(&json!({}));
    node.restart();
    assert_eq!(node.api().output(&id, &["echo", "on"]), "on");
}

/// Waits until a file in the sandbox has grown.
fn grows(node: &Node, id: &str) {
    let size = || {
        let answer = node.api().file("GET", id, "/stat", "/tmp/grows").send().map_err(|error| error.to_string())?;
        answer.json()["size"].as_u64().ok_or_else(|| answer.text())
    };
    let before = within_settling("the file is there", size);
    within_settling("the file grows", || match size()? {
        now if now > before => Ok(()),
        now => Err(format!("{now} bytes")),
    });
}
