//! Many sandboxes at once, from more clients than there are warm slots.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;
use tests::{Node, Options};

const SANDBOXES: u32 = 60;
const CLIENTS: u32 = 8;

#[test]
fn sixty_from_eight_clients() {
    let node = Node::start(Options { pool: 4, ..Options::default() });
    node.settles();
    let next = AtomicU32::new(0);
    let made: Vec<String> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut made = Vec::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= SANDBOXES {
                            return made;
                        }
                        let body = json!({ "env": { "NUMBER": number.to_string() }, "memory": 64 << 20 });
                        let id = node.api().create(&body);
                        assert_eq!(node.api().variable(&id, "NUMBER"), number.to_string());
                        made.push(id);
                    }
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().expect("all creates succeed")).collect()
    });
    let distinct: BTreeSet<&String> = made.iter().collect();
    assert_eq!((made.len(), distinct.len()), (60, 60));
    let listed: BTreeSet<String> = node.api().ids("").into_iter().collect();
    assert_eq!(listed, made.iter().cloned().collect());
    node.settles();
    std::thread::scope(|scope| {
        for chunk in made.chunks(made.len().div_ceil(CLIENTS as usize)) {
            let node = &node;
            scope.spawn(move || chunk.iter().for_each(|id| node.api().destroy(id)));
        }
    });
    assert_eq!(node.api().ids(""), Vec::<String>::new());
    node.settles();
}
