//! P3: from a warm claim to the first result, beside a container made and asked by Podman's API.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::DEFAULT_IMAGE;
use crate::commit::Commits;
use crate::node::{Claim, Node};
use crate::podman::Podman;
use crate::processes::{self, Memory};
use crate::report::{Bar, Section, millis};
use crate::samples::{Samples, ratio};
use crate::stop::Stop;
use crate::turns::turns;

/// Bar and stretch against Podman's API.
pub const BAR_API: (f64, f64) = (0.05, 0.03);

/// Bar against the sum of a commit and an exec.
pub const BAR_SUM: f64 = 1.5;

/// The label that names a container's node.
const NODE_LABEL: &str = "warren.node";

/// What is run on both sides.
pub const COMMAND: [&str; 1] = ["true"];

#[derive(Default)]
struct Measured {
    ours: Samples,
    control: Samples,
    create: Samples,
    again: Samples,
    refill: Samples,
    commit: Samples,
    podman: Samples,
    podman_run: Samples,
}

/// Memory of one idle slot.
struct Idle {
    agent: Memory,
    monitor: Memory,
}

/// Measures it in rounds of our side, our side again, and the reference.
pub fn measure(
    node: &mut Node,
    podman: &mut Podman,
    commits: &mut Commits,
    rounds: usize,
    stop: &Stop,
) -> Result<Section> {
    let idle = idle_slot(node, podman)?;
    let mut measured = Measured::default();
    let syncs = |commits: &Commits| commits.counters().log_syncs;
    let before = syncs(commits);
    for round in 0..rounds {
        stop.check()?;
        for side in turns::<3>(round) {
            match side {
                2 => reference(podman, &mut measured)?,
                side => ours(node, podman, side == 0, &mut measured)?,
            }
        }
        measured.commit.push(commits.commit()?);
    }
    let mut section = report(&measured, node.pool_size, &idle);
    let each = (syncs(commits) - before) as f64 / rounds as f64;
    section.line(&format!("A bare commit syncs the log {each:.2} times."));
    Ok(section)
}

fn ours(node: &mut Node, podman: &mut Podman, first: bool, measured: &mut Measured) -> Result<()> {
    let one = one(node, podman)?;
    if first { &mut measured.ours } else { &mut measured.control }.push(one.claim.whole);
    measured.create.push(one.claim.create);
    measured.again.push(one.again);
    one.refill.into_iter().for_each(|refill| measured.refill.push(refill));
    Ok(())
}

/// A claim and what came after it.
pub struct One {
    /// The claim.
    pub claim: Claim,
    /// A further exec in it.
    pub again: Duration,
    /// Until the next slot stood ready, where that was seen.
    pub refill: Option<Duration>,
}

/// Claims a warm slot, waits until the pool is full again, and deletes the sandbox.
pub fn one(node: &mut Node, podman: &mut Podman) -> Result<One> {
    let claim = node.claim(&COMMAND)?;
    let answered = Instant::now();
    // Refilled before the sandbox goes, so that neither slows the other.
    node.wait_until_full()?;
    let refill = node.newest_slot_seen().map(|seen| seen.saturating_duration_since(answered));
    let again = node.exec(&claim.id, &COMMAND)?.1;
    let container = podman.inspect(&format!("warren-{}", claim.id))?;
    let container = container["Id"].as_str().context("a container without an id")?;
    node.delete(&claim.id)?;
    processes::wait_until_gone(container)?;
    Ok(One { claim, again, refill })
}

fn reference(podman: &mut Podman, measured: &mut Measured) -> Result<()> {
    let (container, run) = podman.run(DEFAULT_IMAGE)?;
    let exec = podman.exec(&container, &COMMAND)?;
    measured.podman.push(run + exec);
    measured.podman_run.push(run);
    podman.remove(&container)
}

/// The median slot.
fn idle_slot(node: &Node, podman: &mut Podman) -> Result<Idle> {
    let mut agents = Vec::new();
    let mut monitors = Vec::new();
    for (agent, monitor) in podman.processes_of(&format!("{NODE_LABEL}={}", node.name))? {
        agents.push(processes::memory(agent)?);
        monitors.push(processes::memory(monitor)?);
    }
    let middle = |all: &mut Vec<Memory>| {
        all.sort_unstable();
        all.get(all.len() / 2).copied().context("no idle slot")
    };
    Ok(Idle { agent: middle(&mut agents)?, monitor: middle(&mut monitors)? })
}

fn report(measured: &Measured, pool_size: usize, idle: &Idle) -> Section {
    let mut section = Section::new("P3: warm claim to first result");
    section.times(&[
        ("Warren: create and exec over HTTP", &measured.ours),
        ("Warren, control", &measured.control),
        ("of which create", &measured.create),
        ("a further exec in the same sandbox", &measured.again),
        ("own commit: consensus and log alone", &measured.commit),
        ("Podman's API: create, start, exec create, exec start", &measured.podman),
        ("of which create and start", &measured.podman_run),
        ("refill of one slot, off the request's path", &measured.refill),
    ]);
    let sum = measured.commit.p50() + measured.again.p50();
    section.bars(&[
        Bar {
            what: "Warren / Podman's API",
            ratio: measured.ours.ratio_to(&measured.podman),
            bar: BAR_API.0,
            stretch: Some(BAR_API.1),
        },
        Bar {
            what: "Warren / (own commit + own exec)",
            ratio: ratio(measured.ours.p50(), sum),
            bar: BAR_SUM,
            stretch: None,
        },
    ]);
    section.control(&measured.ours, &measured.control);
    let memory = |memory: Memory| {
        format!("{} KiB PSS, {} KiB RSS, {} KiB private and dirty", memory.pss, memory.rss, memory.private_dirty)
    };
    section.line(&format!(
        "Pool of {pool_size}. An idle slot: its agent holds {}; its conmon {}. Own commit + own exec = {}. An entry of \
         the log has {} bytes.",
        memory(idle.agent),
        memory(idle.monitor),
        millis(sum),
        Commits::entry_bytes(),
    ));
    section
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_of_medians() {
        let mut measured = Measured::default();
        let samples = |millis: u64| {
            let mut samples = Samples::default();
            samples.push(Duration::from_millis(millis));
            samples
        };
        measured.ours = samples(4);
        measured.control = samples(4);
        measured.commit = samples(1);
        measured.again = samples(1);
        measured.podman = samples(100);
        let idle = Idle { agent: Memory::default(), monitor: Memory::default() };
        let section = report(&measured, 8, &idle);
        assert!(section.text().contains("| Warren / (own commit + own exec) | 2.00 | ≤ 1.50 | **missed** |"));
        assert!(section.text().contains("| Warren / Podman's API | 0.0400 | ≤ 0.0500 (0.0300) | met |"));
        assert!(section.failed());
    }
}
