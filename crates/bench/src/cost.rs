//! What an exec and a warm create cost, counted rather than timed: system calls, syncs, context switches.

use std::path::Path;

use anyhow::{Context, Result};

use crate::node::Node;
use crate::podman::Podman;
use crate::processes;
use crate::report::Section;
use crate::stop::Stop;
use crate::trace::{Counts, Trace, count};

/// Execs that are counted.
const EXECS: usize = 200;

/// Creates that are counted.
const CREATES: usize = 20;

/// What makes data durable, or begins to.
const SYNCS: &str = "fsync,fdatasync,sync_file_range,msync,sync,syncfs";

/// Calls that are made less often than this for each exec are not listed.
const LISTED_MIN: f64 = 0.5;

/// What is run.
const COMMAND: [&str; 1] = ["true"];

/// Counts.
pub fn count_all(node: &mut Node, podman: &mut Podman, scratch: &Path, stop: &Stop) -> Result<Section> {
    let mut section = Section::new("Cost, counted");
    creates(node, &scratch.join("creates"), stop, &mut section)?;
    let (sandbox, _) = node.create_warm()?;
    let id = sandbox["id"].as_str().context("a sandbox without an id")?.to_owned();
    node.wait_until_full()?;
    let inspected = podman.inspect(&format!("warren-{id}"))?;
    let agent = inspected["State"]["Pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).context("no pid")?;
    execs(node, &id, agent, scratch, stop, &mut section)?;
    node.delete(&id)?;
    Ok(section)
}

fn creates(node: &mut Node, scratch: &Path, stop: &Stop, section: &mut Section) -> Result<()> {
    let trace = Trace::attach(node.pid(), scratch, Some(SYNCS))?;
    let mut ids = Vec::new();
    for _ in 0..CREATES {
        stop.check()?;
        let (sandbox, _) = node.create_warm()?;
        ids.push(sandbox["id"].as_str().context("a sandbox without an id")?.to_owned());
        node.wait_until_full()?;
    }
    let traced = trace.finish()?;
    let counts = count(traced.iter().flat_map(|thread| &thread.calls));
    section.line(&format!("Syncs of the node for each of {CREATES} warm creates: {}.", listed(&counts, CREATES, 0.0)));
    for id in ids {
        node.delete(&id)?;
    }
    Ok(())
}

fn execs(node: &mut Node, id: &str, agent: i32, scratch: &Path, stop: &Stop, section: &mut Section) -> Result<()> {
    let run = |node: &mut Node| -> Result<()> {
        for _ in 0..EXECS {
            stop.check()?;
            node.exec(id, &COMMAND)?;
        }
        Ok(())
    };
    let before = (processes::context_switches(node.pid())?, processes::context_switches(agent)?);
    run(node)?;
    let after = (processes::context_switches(node.pid())?, processes::context_switches(agent)?);
    let each = |before: u64, after: u64| (after - before) as f64 / EXECS as f64;
    section.line(&format!(
        "Context switches for each of {EXECS} execs: node {:.1}, agent's first process {:.1}.",
        each(before.0, after.0),
        each(before.1, after.1)
    ));

    let trace = Trace::attach(node.pid(), &scratch.join("node"), None)?;
    run(node)?;
    let counts = count(trace.finish()?.iter().flat_map(|thread| &thread.calls));
    section.line(&format!("System calls of the node for each exec: {}.", listed(&counts, EXECS, LISTED_MIN)));

    let trace = Trace::attach(agent, &scratch.join("agent"), None)?;
    run(node)?;
    let traced = trace.finish()?;
    let [mut first, mut supervisor, mut command, mut program] = [const { Vec::new() }; 4];
    for mut process in traced {
        let ran = process.calls.iter().position(|call| call.starts_with("execve(") && call.ends_with("= 0"));
        match ran {
            _ if process.pid == agent => first.append(&mut process.calls),
            Some(at) => {
                program.extend(process.calls.drain(at + 1..));
                command.append(&mut process.calls);
            }
            None => supervisor.append(&mut process.calls),
        }
    }
    for (who, calls) in [
        ("the agent's first process", first),
        ("the command's supervisor", supervisor),
        ("the command until it runs", command),
        ("the program itself", program),
    ] {
        section.line(&format!("System calls of {who}: {}.", listed(&count(&calls), EXECS, LISTED_MIN)));
    }
    Ok(())
}

/// The most frequent first, each for one operation.
fn listed(counts: &Counts, operations: usize, least: f64) -> String {
    let each = |count: u64| count as f64 / operations as f64;
    let mut sorted: Vec<_> = counts.iter().filter(|(_, count)| each(**count) >= least).collect();
    sorted.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), (*name).clone()));
    let total = each(counts.values().sum());
    let listed: Vec<_> = sorted.iter().map(|(name, count)| format!("{name} {:.1}", each(**count))).collect();
    if listed.is_empty() { "none".to_owned() } else { format!("{total:.1} in all; {}", listed.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_call_comes_first_and_rare_ones_are_left_out() {
        let counts: Counts = [("read", 20), ("write", 30), ("madvise", 1)].map(|(n, c)| (n.to_owned(), c)).into();
        assert_eq!(listed(&counts, 10, 0.5), "5.1 in all; write 3.0, read 2.0");
        assert_eq!(listed(&Counts::new(), 10, 0.5), "none");
    }
}
