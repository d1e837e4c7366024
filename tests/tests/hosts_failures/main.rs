//! What three nodes promise when hosts, networks and processes fail, on hosts of their own: each with its network, its
//! mounts, its cgroups and its Podman. Needs root and namespaces.

use std::time::Instant;

use tests::{Cluster, Options};

mod crash_rows;
mod moves;
mod node_loss;
mod partitions;
mod under_load;

/// A cluster of three on hosts of its own; none where this machine can not be made into hosts, which is said. Where it
/// is `alone`, no other test has hosts meanwhile.
fn three_hosts(test: &str, options: &[Options; 3], alone: bool) -> Option<Cluster> {
    match Cluster::on_hosts(options, alone) {
        Ok(cluster) => Some(cluster),
        Err(reason) => {
            println!("SKIPPED {test}: no hosts can be made of this machine: {reason}");
            None
        }
    }
}

/// Says how long something took. Never asserted: machines differ.
fn took(what: &str, since: Instant) {
    println!("  ({what} after {:.2} s)", since.elapsed().as_secs_f64());
}

/// Whatever an earlier case left: all nodes run, reach each other, and hold nothing but their pools.
fn begin(cluster: &mut Cluster) {
    cluster.revive();
    cluster.empty();
}
