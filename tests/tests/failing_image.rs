//! A default image that is not there: the node is healthy, says what is missing, and does not try for ever.

use std::time::Duration;

use serde_json::json;
use tests::{BUSYBOX, Node, Options};

/// The time that is looked at.
const WATCHED: Duration = Duration::from_secs(5);

/// With tries after 1, 2 and 4 s there are four in that time; the slack is for a create of ours.
const TRIES_MAX: usize = 6;

#[test]
fn a_missing_image_is_refused_and_not_tried_for_ever() {
    tests::engine::need_image(BUSYBOX);
    let node = Node::start(Options { image: "localhost/warren/not-there:latest", pool: 4, ..Options::default() });
    let api = node.api();
    for _ in 0..3 {
        let error = api.post("/sandboxes", &json!({})).expect_error(422, "unprocessable");
        assert!(error["error"].as_str().is_some_and(|text| text.contains("not-there")), "{error}");
    }
    // What others ask for works.
    let id = api.create(&json!({ "image": BUSYBOX }));
    assert_eq!(api.output(&id, &["echo", "on"]), "on");
    api.destroy(&id);
    // Time is what is measured here: so many tries in so long.
    let before = tries(&node);
    std::thread::sleep(WATCHED);
    let after = tries(&node);
    assert!(after - before <= TRIES_MAX, "{} tries within {} s", after - before, WATCHED.as_secs());
    assert!(after >= 1, "the log does not show tries as this test reads it:\n{}", node.log());
    api.get("/health").expect(200);
    assert!(node.held().containers.is_empty(), "{:?}", node.held());
    assert!(node.held().directories.is_empty(), "{:?}", node.held());
}

fn tries(node: &Node) -> usize {
    node.log().lines().filter(|line| line.contains("step failed") && line.contains("step=Make")).count()
}
