//! What runs on a host, and its end.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use hosts::{Host, Machine, Process, Signal};

use crate::traces::Traces;
use crate::wait::{fresh_name, until};

/// Freezes itself, as a paused container is.
pub const FREEZE: &str = "if [ -d /sys/fs/cgroup/freezer ]; \
    then d=/sys/fs/cgroup/freezer/cold f=freezer.state w=FROZEN; else d=/sys/fs/cgroup/cold f=cgroup.freeze w=1; fi; \
    mkdir $d && echo 0 >$d/cgroup.procs && touch /run/cold && echo $w >$d/$f; exec sleep infinity";

fn sleep(host: &Host) -> Process {
    host.spawn(Command::new("sleep").arg("infinity")).unwrap()
}

#[test]
fn a_process_is_the_hosts_and_its_end_is_ours_to_hear() {
    let machine = Machine::new(&fresh_name()).unwrap();
    let host = machine.add_host("n1").unwrap();
    assert_eq!(host.says(&mut Command::new("hostname")).unwrap(), "n1");
    // Its own processes only: the first, the shell, and ls.
    let pids = host.says(Command::new("sh").args(["-c", "ls -d /proc/[0-9]* | wc -l; echo $$"])).unwrap();
    let (count, pid) = pids.split_once('\n').unwrap();
    assert!(count.parse::<u32>().unwrap() <= 5 && pid.parse::<u32>().unwrap() < 50, "{pids}");
    let mut process = sleep(&host);
    assert!(Path::new(&format!("/proc/{}", process.id())).exists(), "the pid is the machine's");
    assert_eq!(host.processes(), BTreeSet::from([process.id()]));
    assert!(process.try_wait().unwrap().is_none());
    process.signal(Signal::TERM).unwrap();
    assert_eq!(process.wait().unwrap().to_string(), "signal: 15 (SIGTERM)");
    process.kill().unwrap();

    let output = host.output(Command::new("sh").args(["-c", "cat; echo out; echo err >&2; exit 3"])).unwrap();
    assert_eq!((output.status.code(), &output.stdout[..], &output.stderr[..]), (Some(3), &b"out\n"[..], &b"err\n"[..]));
    let error = host.spawn(&mut Command::new("/no/such/program")).unwrap_err();
    assert!(format!("{error:#}").contains("/no/such/program"), "{error:#}");
    // A command may be used again, on another host and outside.
    let mut command = Command::new("hostname");
    assert_eq!(host.says(&mut command).unwrap(), "n1");
    let other = machine.add_host("n2").unwrap();
    assert_eq!(other.says(&mut command).unwrap(), "n2");
    other.kill_power().unwrap();
    assert!(command.status().unwrap().success());
    assert_eq!(host.says(&mut command).unwrap(), "n1");
    // One that asks to be told of its parent's death is not told before.
    let mut bound = host.spawn(Command::new("setpriv").args(["--pdeathsig", "KILL", "sleep", "infinity"])).unwrap();
    sleep(&host).kill().unwrap();
    assert!(bound.try_wait().unwrap().is_none());
}

#[test]
fn a_cut_of_power_leaves_no_process_and_takes_no_other() {
    let name = fresh_name();
    let machine = Machine::new(&name).unwrap();
    let (host, other) = (machine.add_host("n1").unwrap(), machine.add_host("n2").unwrap());
    let mut traces = Traces::of(&name);
    // One that is held, one that nobody holds any more, an orphan in a session of its own that ignores what it can,
    // one that is stopped, one that is frozen, and one in namespaces of its own.
    let mut held = sleep(&host);
    traces.note(&host, &held);
    drop(sleep(&host));
    let orphan = "setsid sh -c 'trap \"\" TERM HUP INT; while :; do sleep 1; done' >/dev/null 2>&1 &";
    host.says(Command::new("sh").args(["-c", orphan])).unwrap();
    sleep(&host).signal(Signal::STOP).unwrap();
    let nested = ["--pid", "--mount", "--net", "--fork", "sleep", "infinity"];
    let nested = host.spawn(Command::new("unshare").args(nested)).unwrap();
    let frozen = host.spawn(Command::new("sh").args(["-c", FREEZE])).unwrap();
    until("a frozen process", || {
        let there = host.inside(|| Path::new("/run/cold").exists()).unwrap();
        if there { Ok(()) } else { Err("not yet") }
    });
    until("all of them", || if host.processes().len() >= 8 { Ok(()) } else { Err(format!("{:?}", host.processes())) });
    let processes = host.processes();
    assert!(processes.contains(&nested.id()) && processes.contains(&frozen.id()));
    let mut survivor = sleep(&other);
    traces.note(&other, &survivor);

    host.kill_power().unwrap();
    assert!(processes.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()), "{processes:?}");
    assert!(host.processes().is_empty());
    assert_eq!(held.wait().unwrap().to_string(), "signal: 9 (SIGKILL)");
    assert!(survivor.try_wait().unwrap().is_none());

    host.power_on().unwrap();
    assert!(!host.inside(|| Path::new("/run/cold").exists()).unwrap(), "run directories are empty");
    assert!(host.processes().is_empty());
    traces.note(&host, &sleep(&host));
    assert!(!traces.left().is_empty());
    drop(machine);
    traces.assert_none();
    assert!(survivor.try_wait().unwrap().is_some());
}

#[test]
fn a_machine_that_is_dropped_leaves_nothing() {
    let name = fresh_name();
    let names = |path: &str| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name()).collect::<BTreeSet<_>>()
    };
    let mut traces = Traces::of(&name);
    let netns = names("/run/netns");
    let machine = Machine::new(&name).unwrap();
    for number in 1..=3 {
        let host = machine.add_host(&format!("n{number}")).unwrap();
        fs::write(host.directory().join("file"), "x").unwrap();
        traces.note(&host, &sleep(&host));
    }
    assert!(traces.left().iter().any(|left| left.starts_with("link")), "{:?}", traces.left());
    assert_eq!(names("/run/netns"), netns, "no namespace has a name that would keep it");
    let host = machine.hosts().remove(0);
    drop(machine);
    traces.assert_none();
    assert!(!host.is_on());
}

#[test]
fn a_host_has_its_own_run_directories_and_cgroups() {
    let machine = Machine::new(&fresh_name()).unwrap();
    let host = machine.add_host("n1").unwrap();
    let marker = format!("/run/{}", machine.name());
    host.says(Command::new("touch").arg(&marker)).unwrap();
    assert!(!Path::new(&marker).exists());
    host.says(Command::new("touch").arg(format!("/dev/shm/{}", machine.name()))).unwrap();
    assert!(!Path::new("/dev/shm").join(machine.name()).exists());
    // What is made at the root of its cgroups is in its tree on the machine.
    let mut limits = Command::new("sh");
    limits.args(["-c", "cat /proc/self/cgroup; find /sys/fs/cgroup -maxdepth 2 -name init | head -1"]);
    let seen = host.says(limits.stdin(Stdio::null())).unwrap();
    assert!(seen.lines().any(|line| line.ends_with(":/init")) && !seen.contains(machine.name()), "{seen}");
    assert!(seen.lines().last().unwrap().ends_with("/init"), "{seen}");
}
