//! The outside check: an existing client library, unmodified, against a real node alone and through each of three.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tests::den_sdk::DenSdk;
use tests::{Cases, Cluster, DEFAULT_IMAGE, Node, Options};

#[test]
fn den_sdk() {
    let Some(library) = library("den_sdk") else { return };
    let node = Node::start(with_the_default_image());
    library.passes_through(node.api());
    assert_eq!(node.api().ids(""), Vec::<String>::new());
    node.settles();
}

#[test]
fn den_sdk_through_each_node_of_a_cluster() {
    let Some(library) = library("den_sdk_through_each_node_of_a_cluster") else { return };
    let mut cases = Cases::of("den-sdk");
    let cluster = Cluster::start_with(3, with_the_default_image());
    for node in 0..3 {
        cases.case(&format!("through node {node}"), || {
            library.passes_through(cluster.node(node).api());
            assert_eq!(cluster.node(node).api().ids(""), Vec::<String>::new());
        });
    }
    cases.case("nothing is left", || cluster.settles());
    cases.finish();
}

#[test]
fn den_sdk_while_the_leader_changes() {
    let Some(library) = library("den_sdk_while_the_leader_changes") else { return };
    let mut cases = Cases::of("den-sdk while the leader changes");
    // Slots enough that a sandbox stays where it is asked for: the leader's death is that of no sandbox.
    let options = Options { pool: 6, ..with_the_default_image() };
    let mut cluster = Cluster::start_with(3, options);
    for door in 0..3 {
        cases.case(&format!("through node {door}"), || {
            leads_elsewhere(&cluster, door);
            let api = cluster.door(door).clone();
            let changed = AtomicBool::new(false);
            let old = cluster.leader();
            thread::scope(|scope| {
                let passes = scope.spawn(|| {
                    // The last pass begins after the change, the first one before.
                    loop {
                        let last = changed.load(Ordering::Acquire);
                        library.passes_through(&api);
                        if last {
                            return;
                        }
                    }
                });
                cluster.kill9(old);
                let new = cluster.leader();
                assert_ne!(new, old);
                cluster.restart(old);
                changed.store(true, Ordering::Release);
                if let Err(panic) = passes.join() {
                    std::panic::resume_unwind(panic);
                }
            });
        });
        cluster.revive();
    }
    cases.case("nothing is left", || cluster.settles());
    cases.finish();
}

/// Sees to it that another node than this one leads.
fn leads_elsewhere(cluster: &Cluster, node: usize) {
    if cluster.leader() == node {
        cluster.freeze(node);
        let _another = cluster.leader_among(&cluster.others(node));
        cluster.thaw(node);
        assert_ne!(cluster.leader(), node);
    }
}

fn library(test: &str) -> Option<DenSdk> {
    DenSdk::find().map_err(|reason| println!("SKIPPED {test}: {reason}")).ok()
}

fn with_the_default_image() -> Options {
    Options { image: DEFAULT_IMAGE, ..Options::default() }
}
