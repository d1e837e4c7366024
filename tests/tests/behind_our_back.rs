//! What others do to our containers is seen and said.

use std::time::Duration;

use serde_json::json;
use tests::engine::{podman, podman_says};
use tests::{BUSYBOX, Cases, Node, Options, within};

/// The contract's 2 s, stretched for slow hosts.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);

/// Two looks, ten seconds apart, stretched for slow hosts.
const STRAY_GONE_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn what_happens_behind_our_back_is_shown() {
    let mut cases = Cases::of("behind our back");
    let mut node = Node::start(Options::default());
    let id = node.api().create(&json!({ "env": { "KEPT": "yes" } }));
    node.api().write(&id, "/tmp/kept", b"kept");
    cases.case("a container that dies is shown as stopped, and starts again", || {
        let pid = node.held().containers[&id].pid;
        tests::remains::kill(pid);
        let shown = within(NOTICED_WITHIN, "it is shown as stopped", || match node.api().sandbox(&id) {
            shown if shown["status"] == "stopped" => Ok(shown),
            shown => Err(shown.to_string()),
        });
        assert!(shown["error"].as_str().is_some_and(|why| !why.is_empty()), "nobody asked for it: {shown}");
        node.api().exec_with(&id, &json!({ "cmd": ["true"] })).expect_error(409, "wrong_state");
        node.api().start(&id);
        assert!(node.api().sandbox(&id)["error"].is_null());
        assert_eq!(node.api().read(&id, "/tmp/kept"), b"kept");
        assert_eq!(node.api().variable(&id, "KEPT"), "yes");
        node.settles();
    });
    cases.case("a warm slot that dies is replaced and never handed out", || {
        node.settles();
        let held = node.held();
        let slot = held.containers.values().find(|container| container.sandbox != id).expect("a warm slot");
        tests::remains::kill(slot.pid);
        let other = node.api().create(&json!({}));
        assert_ne!(other, slot.sandbox);
        assert_eq!(node.api().output(&other, &["echo", "on"]), "on");
        node.api().destroy(&other);
        node.settles();
    });
    cases.case("a container that ends while the node is down", || {
        let pid = node.held().containers[&id].pid;
        node.kill9();
        tests::remains::kill(pid);
        node.restart();
        within(NOTICED_WITHIN, "it is shown as stopped", || match node.api().status(&id).as_str() {
            "stopped" => Ok(()),
            other => Err(other.to_owned()),
        });
        node.api().start(&id);
        assert_eq!(node.api().read(&id, "/tmp/kept"), b"kept");
    });
    cases.case("a container that was removed is an error, and can be deleted", || {
        let container = node.held().containers[&id].id.clone();
        assert!(podman(&["rm", "--force", "--time=0", &container]).status.success());
        node.restart();
        let shown = within(NOTICED_WITHIN, "it is shown in error", || match node.api().sandbox(&id) {
            shown if shown["status"] == "error" => Ok(shown),
            shown => Err(shown.to_string()),
        });
        assert!(shown["error"].as_str().is_some_and(|why| why.contains("removed")), "{shown}");
        node.api().exec_with(&id, &json!({ "cmd": ["true"] })).expect_error(409, "wrong_state");
        node.api().destroy(&id);
        node.settles();
    });
    cases.case("a container of ours that is nobody's is removed", || {
        // As an engine leaves it that was cut off in the midst of a create, after the stock was taken.
        let stray = "strayaaaaaaaaaaaaaaa";
        let identity = node.identity();
        let labels = [
            format!("--label=warren.cluster={}", identity.cluster),
            format!("--label=warren.node={}", identity.host),
            format!("--label=warren.sandbox={stray}"),
        ];
        let name = format!("--name=warren-{stray}");
        let mut arguments = vec!["create", "--network=none", &name];
        arguments.extend(labels.iter().map(String::as_str));
        arguments.extend([BUSYBOX, "true"]);
        podman_says(&arguments);
        within(STRAY_GONE_WITHIN, "the stray is gone", || {
            match podman(&["container", "exists", &format!("warren-{stray}")]).status.code() {
                Some(1) => Ok(()),
                other => Err(format!("podman says {other:?}")),
            }
        });
        node.settles();
    });
    cases.case("a container that somebody stops is stopped", || {
        let id = node.api().create(&json!({}));
        let container = node.held().containers[&id].id.clone();
        podman_says(&["stop", "--time=1", &container]);
        within(NOTICED_WITHIN, "it is shown as stopped", || match node.api().status(&id).as_str() {
            "stopped" => Ok(()),
            other => Err(other.to_owned()),
        });
        node.api().start(&id);
        assert_eq!(node.api().output(&id, &["echo", "on"]), "on");
        node.api().destroy(&id);
        node.settles();
    });
    cases.finish();
}
