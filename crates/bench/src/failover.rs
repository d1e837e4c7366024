//! R4: the node that leads is killed. How long until a create succeeds through the others, and until it counts as lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cluster::{Cluster, try_create};
use crate::http::Client;
use crate::report::{Section, millis};
use crate::samples::Samples;
use crate::stop::Stop;

/// Bar for the next create.
const CREATE_BAR: Duration = Duration::from_secs(2);

/// Bar for being declared lost.
const LOST_BAR: Duration = Duration::from_secs(10);

/// Fewer kills say nothing of a 99th percentile.
pub const KILLS_MIN: usize = 15;

/// One in so many kills waits until the dead node counts as lost.
const LOST_EVERY: usize = 3;

/// Pause after a refused create, as a client would make it.
const AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Pause between two looks at a sandbox of the dead node.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long any of it may take.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// Between a restart and the next kill: all links are up and the killed node's pool is full again.
const SETTLE: Duration = Duration::from_secs(2);

/// Kills the leader so many times.
pub fn measure(cluster: &mut Cluster, kills: usize, stop: &Stop) -> Result<Section> {
    let kills = kills.max(KILLS_MIN);
    let [mut any, mut each, mut lost] = [const { Samples::new() }; 3];
    for number in 0..kills {
        stop.check()?;
        let leader = cluster.leader()?;
        let others: Vec<usize> = (0..cluster.nodes.len()).filter(|node| *node != leader).collect();
        let kept = try_create(&mut cluster.nodes[leader].client()).context("no create before the kill")?;
        let kept = kept["id"].as_str().context("a sandbox without an id")?.to_owned();
        // Connections that stand, as a balancer's would.
        let clients: Vec<Client> = others
            .iter()
            .map(|node| {
                let mut client = cluster.nodes[*node].client();
                client.call("GET", "/api/v1/health", None)?;
                Ok(client)
            })
            .collect::<Result<_>>()?;
        let gave_up = AtomicBool::new(false);
        let killed = Instant::now();
        cluster.nodes[leader].kill()?;
        let took: Vec<Option<Duration>> = thread::scope(|scope| {
            let threads: Vec<_> =
                clients.into_iter().map(|client| scope.spawn(|| next_success(client, killed, &gave_up))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
        });
        let took: Vec<Duration> = took.into_iter().flatten().collect();
        if took.len() != others.len() {
            bail!("no create through a node that lives, {} s after the leader was killed", GIVE_UP_AFTER.as_secs());
        }
        any.push(took.iter().min().copied().unwrap_or_default());
        took.iter().for_each(|took| each.push(*took));
        if number % LOST_EVERY == 0 {
            lost.push(until_lost(cluster.nodes[others[0]].client(), &kept, killed)?);
        }
        cluster.nodes[leader].restart()?;
        cluster.leader()?;
        cluster.delete_all(others[0])?;
        thread::sleep(SETTLE);
    }
    Ok(report(kills, &any, &each, &lost))
}

fn next_success(mut client: Client, killed: Instant, gave_up: &AtomicBool) -> Option<Duration> {
    while killed.elapsed() < GIVE_UP_AFTER && !gave_up.load(Ordering::Relaxed) {
        if try_create(&mut client).is_some() {
            return Some(killed.elapsed());
        }
        thread::sleep(AGAIN_AFTER);
    }
    gave_up.store(true, Ordering::Relaxed);
    None
}

/// Asks for a sandbox of the dead node until it is shown as lost rather than out of reach.
fn until_lost(mut client: Client, sandbox: &str, killed: Instant) -> Result<Duration> {
    while killed.elapsed() < GIVE_UP_AFTER {
        let answer = client.call("GET", &format!("/api/v1/sandboxes/{sandbox}"), None)?;
        if answer.status == 200 && answer.json()?["error"].as_str().is_some_and(|error| error.ends_with("is lost")) {
            return Ok(killed.elapsed());
        }
        thread::sleep(LOOK_EVERY);
    }
    bail!("a dead node never counts as lost")
}

fn report(kills: usize, any: &Samples, each: &Samples, lost: &Samples) -> Section {
    let mut section = Section::new("R4: the leader is killed");
    section.line(&format!(
        "kill -9 of the node that leads, {kills} times, from just before the signal. Creates are asked for through both \
         others at once, from the first moment on; a refused one is asked for again after {} ms.",
        AGAIN_AFTER.as_millis()
    ));
    section.times(&[
        ("next successful create, through any node", any),
        ("next successful create, through each node", each),
        ("the dead node counts as lost", lost),
    ]);
    section.limit("p99 of the next successful create, through each node", each.percentile(99.0), CREATE_BAR);
    section.limit("slowest of being declared lost", lost.percentile(100.0), LOST_BAR);
    section.line(&format!("Slowest create: {}.", millis(each.percentile(100.0))));
    section
}
