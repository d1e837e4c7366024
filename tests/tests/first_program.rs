//! The whole road: a program's output through every layer, from a warm slot and from a cold one.

use serde_json::json;
use tests::{BUSYBOX, Cases, DEFAULT_IMAGE, NOSHELL, Node, Options};

const PROGRAM: &str = "
import collections, sys
a, b = 0, 1
fibonacci = []
while len(fibonacci) < 20:
    fibonacci.append(a)
    a, b = b, a + b
print(*fibonacci[:10])
print('to stderr', file=sys.stderr)
with open('fibonacci.txt', 'w') as file:
    file.write('\\n'.join(map(str, fibonacci)) + '\\n')
";

#[test]
fn a_program_runs_in_every_image() {
    let mut cases = Cases::of("first program");
    let node = Node::start(Options { image: DEFAULT_IMAGE, pool: 1, ..Options::default() });
    tests::engine::need_image(BUSYBOX);
    tests::engine::need_image(NOSHELL);
    node.settles();
    cases.case("warm: the slot that stood ready is the sandbox", || {
        let ready: Vec<String> = node.held().containers.into_keys().collect();
        let id = python(&node, &json!({}));
        assert_eq!(ready, std::slice::from_ref(&id), "the sandbox is another container");
        gone(&node, &id);
    });
    // The pool is of one image only.
    cases.case("cold: a slot is made for a shape of its own", || {
        let id = python(&node, &json!({ "storage": { "tmpfs": [{ "path": "/scratch", "size": "1m" }] } }));
        assert_eq!(node.api().output(&id, &["stat", "--file-system", "--format=%T", "/scratch"]), "tmpfs");
        gone(&node, &id);
    });
    cases.case("busybox", || {
        let id = node.api().create(&json!({ "image": BUSYBOX }));
        assert_eq!(node.api().output(&id, &["sh", "-c", "echo $((6 * 7))"]), "42");
        gone(&node, &id);
    });
    cases.case("an image without a shell", || {
        let id = node.api().create(&json!({ "image": NOSHELL }));
        assert_eq!(node.api().output(&id, &["/noshell", "args", "a b", "$c"]), "a b\n$c");
        assert_eq!(node.api().exec(&id, &["/noshell", "exit", "3"]).code, 3);
        assert_eq!(node.api().exec(&id, &["/bin/sh"]).code, 127);
        node.api().write(&id, "/home/sandbox/made/file", b"bytes");
        assert_eq!(node.api().read(&id, "/home/sandbox/made/file"), b"bytes");
        gone(&node, &id);
    });
    cases.case("nothing is left", || node.settles());
    cases.finish();
}

/// Runs the program and returns its sandbox.
fn python(node: &Node, body: &serde_json::Value) -> String {
    let api = node.api();
    let id = api.create(body);
    assert_eq!(api.status(&id), "running");
    api.write(&id, "/home/sandbox/program.py", PROGRAM.as_bytes());
    let ran = api.exec(&id, &["python3", "program.py"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, "to stderr\n"), "{ran:?}");
    assert_eq!(ran.out, "0 1 1 2 3 5 8 13 21 34\n");
    assert!(api.read(&id, "/home/sandbox/fibonacci.txt").ends_with(b"2584\n4181\n"));
    let names = api.names(&id, "/home/sandbox");
    for name in ["fibonacci.txt", "program.py"] {
        assert!(names.iter().any(|known| known == name), "{name} is not in {names:?}");
    }
    id
}

fn gone(node: &Node, id: &str) {
    let api = node.api();
    let first = node.held().containers[id].pid;
    assert!(tests::machine::lives(first));
    api.destroy(id);
    assert!(!tests::machine::lives(first), "its first process lives after 204");
    api.get(&format!("/sandboxes/{id}")).expect_error(404, "not_found");
    api.delete(&format!("/sandboxes/{id}")).expect_error(404, "not_found");
    api.exec_with(id, &json!({ "cmd": ["true"] })).expect_error(404, "not_found");
    assert!(!api.ids("").contains(&id.to_owned()));
}
