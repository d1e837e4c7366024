//! A machine whose process is killed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use hosts::sweep;

use crate::power::FREEZE;
use crate::traces::{Swept, Traces};
use crate::wait::{fresh_name, until};

/// A process that holds a machine of two hosts, each with a process that is frozen and one that is not.
fn stand(name: &str) -> (Child, Vec<u32>) {
    let script = format!("sleep infinity & (until [ -e /run/cold ]; do sleep 0.01; done; sleep infinity) & {FREEZE}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_hosts-stand"));
    let mut child = command.args([name, "2", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines: Vec<String> =
        BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok).take(3).collect();
    let pids = lines.iter().filter_map(|line| line.split(' ').nth(2)?.parse().ok()).collect();
    assert_eq!(lines.last().map(String::as_str), Some("ready"), "{lines:?}");
    (child, pids)
}

#[test]
fn of_a_machine_whose_process_is_killed_nothing_runs_on_and_the_rest_is_swept() {
    let name = fresh_name();
    let prefix = format!("{name}y");
    let (dead, alive) = (format!("{prefix}1"), format!("{prefix}2"));
    let _swept = Swept(dead.clone());
    let (mut killed, pids) = stand(&dead);
    let (mut spared, spared_pids) = stand(&alive);
    assert!(sweep(&prefix).unwrap().is_empty(), "both live");

    killed.kill().unwrap();
    killed.wait().unwrap();
    let traces = Traces::of(&dead);
    // Only who is frozen can not go; the first process of its namespace waits for it, and its children to be reaped.
    let runs_on = |left: &String| {
        let words: Vec<&str> = left.split_whitespace().collect();
        let [_, pid, program, ..] = words[..] else { return false };
        words[0] == "process" && program != "cat" && pids.iter().all(|frozen| frozen.to_string() != pid)
    };
    until("their end without a sweep", || {
        let left: Vec<String> = traces.left().into_iter().filter(runs_on).collect();
        if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
    });
    let taken = sweep(&prefix).unwrap();
    assert!(taken.iter().any(|what| what.starts_with("cgroup ")), "{taken:?}");
    assert!(taken.iter().any(|what| what.starts_with("directory ")), "{taken:?}");
    until("its namespaces' end", || {
        let left = traces.left();
        if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
    });
    assert!(spared_pids.iter().all(|pid| Path::new(&format!("/proc/{pid}")).exists()), "the other one was touched");
    assert!(sweep(&prefix).unwrap().is_empty());

    // Its input ends, and it takes away its own.
    drop(spared.stdin.take());
    assert!(spared.wait().unwrap().success());
    Traces::of(&alive).assert_none();
}
