//! Where a sandbox goes when the nodes do not have the same images: each node on a host of its own, with its own
//! store. Needs root and namespaces.

use std::process::Command;

use serde_json::json;
use tests::engine::BUSYBOX;
use tests::{Cases, Cluster, Options, within_settling};

/// An image that one node has.
const RARE: &str = "localhost/warren/rare:latest";

/// One that none has and no registry can have.
const NOWHERE: &str = "localhost/warren/nowhere:latest";

#[test]
fn images_that_not_every_node_has() {
    let options = vec![Options::default(); 3];
    let mut cluster = match Cluster::on_hosts(&options, false) {
        Ok(cluster) => cluster,
        Err(reason) => {
            println!("SKIPPED placing on hosts: no hosts can be made of this machine: {reason}");
            return;
        }
    };
    let mut cases = Cases::of("placing on hosts");
    cluster.settles();
    cases.case("an image that nobody has is refused with the reason", || {
        for door in 0..3 {
            let answer = create(&cluster, door, NOWHERE).expect_error(422, "unprocessable");
            assert!(answer["error"].as_str().unwrap_or_default().contains("not in the local store"), "{answer}");
        }
    });
    cases.case("an image that one node has is made there through every door", || {
        build(&cluster, 1, RARE);
        hears_of(&cluster, RARE);
        for door in 0..3 {
            let made = create(&cluster, door, RARE).expect(201).json();
            assert_eq!(made["node"], cluster.host(1), "through door {door}: {made}");
            let id = made["id"].as_str().unwrap_or_default();
            assert_eq!(cluster.door(door).output(id, &["echo", "on"]), "on");
            cluster.door(door).destroy(id);
        }
    });
    cases.case("who has it is lost: no capacity, and each node's reason", || {
        cluster.cut_off(1);
        let refused = within_settling("the node of the image is lost", || {
            let answer = create(&cluster, 0, RARE);
            let details = answer.json()["details"].clone();
            if details[cluster.host(1)] == "lost" { Ok(answer) } else { Err(answer.text()) }
        });
        let details = refused.expect_error(503, "no_capacity")["details"].clone();
        for node in [0, 2] {
            assert_eq!(details[cluster.host(node)], format!("does not have the image {RARE}"), "{details}");
        }
        cluster.heal();
        cluster.revive();
        hears_of(&cluster, RARE);
        cluster.empty();
    });
    cases.finish();
}

fn create(cluster: &Cluster, door: usize, image: &str) -> tests::Answer {
    cluster.door(door).post("/sandboxes", &json!({ "image": image }))
}

/// Builds an image in a node's own store: BusyBox's, with a label that makes it another one.
fn build(cluster: &Cluster, node: usize, name: &str) {
    let script = format!(
        "set -e; d=$(mktemp -d); trap 'rm -r $d' EXIT; printf 'FROM {BUSYBOX}\\nLABEL tests=rare\\n' > $d/file; \
         podman --cgroup-manager cgroupfs build --isolation chroot --pull=never -q -t {name} -f $d/file $d"
    );
    cluster.node(node).on_its_host(Command::new("sh").args(["-c", &script]));
}

/// Waits until every door knows that some node has an image: nodes tell of it when they see it.
fn hears_of(cluster: &Cluster, image: &str) {
    for door in cluster.running() {
        within_settling("a door that has heard of an image", || {
            let answer = create(cluster, door, image);
            if answer.status != 201 {
                return Err(answer.text());
            }
            cluster.door(door).destroy(answer.json()["id"].as_str().unwrap_or_default());
            Ok(())
        });
    }
}
