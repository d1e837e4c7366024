//! What three nodes promise when hosts, networks and processes fail, on hosts of their own: each with its network, its
//! mounts, its cgroups and its Podman. Needs root and namespaces.

use std::time::Instant;

use tests::{Cluster, Options};

mod crash_rows;
mod partitions;
mod under_load;

/// A cluster of three on hosts of its own; none where this machine can not be made into hosts, which is said.
fn three_hosts(test: &str, options: &[Options; 3]) -> Option<Cluster> {
    let started = Instant::now();
    match Cluster::on_hosts_with(options) {
        Ok(cluster) => {
            println!("  (three nodes on hosts of their own vote after {:.2} s)", started.elapsed().as_secs_f64());
            Some(cluster)
        }
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
