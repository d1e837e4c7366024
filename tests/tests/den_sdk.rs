//! The outside check: an existing client library, unmodified, against a real node alone and through each of three.

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

fn library(test: &str) -> Option<DenSdk> {
    DenSdk::find().map_err(|reason| println!("SKIPPED {test}: {reason}")).ok()
}

fn with_the_default_image() -> Options {
    Options { image: DEFAULT_IMAGE, ..Options::default() }
}
