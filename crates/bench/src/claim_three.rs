//! P3 on three nodes: a warm claim to its first result, through the node that leads and through one that does not.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::DEFAULT_IMAGE;
use crate::claim::{self, BAR_API, BAR_SUM, COMMAND};
use crate::cluster::{Cluster, NODES};
use crate::podman::Podman;
use crate::report::{Bar, Section, millis};
use crate::samples::{Samples, ratio};
use crate::stop::Stop;
use crate::trio::Trio;
use crate::turns::turns;

#[derive(Default)]
struct Measured {
    leader: Samples,
    control: Samples,
    follower: Samples,
    create_at_leader: Samples,
    create_at_follower: Samples,
    again: Samples,
    commit_at_leader: Samples,
    commit_at_follower: Samples,
    podman: Samples,
}

/// Measures it in rounds of the leader, the leader again, another node, and Podman. `log` is three members of ours that
/// only place: what a commit among three costs alone.
pub fn measure(cluster: &mut Cluster, podman: &mut Podman, log: &Trio, rounds: usize, stop: &Stop) -> Result<Section> {
    let leader = cluster.leader()?;
    let follower = (leader + 1) % NODES;
    let mut members = [log.client(log.leader), log.client(log.a_follower())];
    let mut measured = Measured::default();
    for round in 0..rounds {
        stop.check()?;
        for side in turns::<4>(round) {
            if side == 3 {
                let (container, run) = podman.run(DEFAULT_IMAGE)?;
                let exec = podman.exec(&container, &COMMAND)?;
                measured.podman.push(run + exec);
                podman.remove(&container)?;
                continue;
            }
            let node = if side == 2 { follower } else { leader };
            let one = claim::one(&mut cluster.nodes[node], podman)?;
            match side {
                0 => measured.leader.push(one.claim.whole),
                1 => measured.control.push(one.claim.whole),
                _ => measured.follower.push(one.claim.whole),
            }
            match side {
                2 => measured.create_at_follower.push(one.claim.create),
                _ => measured.create_at_leader.push(one.claim.create),
            }
            measured.again.push(one.again);
        }
        // By turns first: the second finds the members' processes awake.
        let [at_leader, at_follower] = &mut members;
        for side in turns::<2>(round) {
            match side {
                0 => measured.commit_at_leader.push(alone(log, at_leader, log.leader)?),
                _ => measured.commit_at_follower.push(alone(log, at_follower, log.a_follower())?),
            }
        }
    }
    Ok(report(&measured))
}

/// A commit without the HTTP before it.
fn alone(log: &Trio, client: &mut crate::key_value::KeyValue, member: usize) -> Result<Duration> {
    let pair = log.pair(member);
    client.put_and_tell(&pair.key, &pair.value).context("a bare commit")
}

fn report(measured: &Measured) -> Section {
    let mut section = Section::new("P3 on three nodes: warm claim to first result");
    section.times(&[
        ("Warren through the leader: create and exec over HTTP", &measured.leader),
        ("Warren through the leader, control", &measured.control),
        ("Warren through another node", &measured.follower),
        ("of which create, through the leader", &measured.create_at_leader),
        ("of which create, through another node", &measured.create_at_follower),
        ("a further exec in the same sandbox", &measured.again),
        ("own commit among three, at the leader, without HTTP", &measured.commit_at_leader),
        ("own commit among three, at another member, without HTTP", &measured.commit_at_follower),
        ("Podman's API: create, start, exec create, exec start", &measured.podman),
    ]);
    let sum = |commit: &Samples| commit.p50() + measured.again.p50();
    let api = |what, ours: &Samples| {
        let ratio = ours.ratio_to(&measured.podman);
        Bar { what, ratio, bar: BAR_API.0, stretch: Some(BAR_API.1) }
    };
    let parts = |what, ours: &Samples, commit: &Samples| Bar {
        what,
        ratio: ratio(ours.p50(), sum(commit)),
        bar: BAR_SUM,
        stretch: None,
    };
    section.bars(&[
        api("through the leader / Podman's API", &measured.leader),
        api("through another node / Podman's API", &measured.follower),
        parts("through the leader / (own commit + own exec)", &measured.leader, &measured.commit_at_leader),
        parts("through another node / (own commit + own exec)", &measured.follower, &measured.commit_at_follower),
    ]);
    section.control(&measured.leader, &measured.control);
    section.line(&format!(
        "Own commit + own exec: {} at the leader, {} at another node. Each node takes its own slot: a create does not hop.",
        millis(sum(&measured.commit_at_leader)),
        millis(sum(&measured.commit_at_follower))
    ));
    section
}
