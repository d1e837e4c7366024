//! Takes away all that a node under test has made, however its test ended.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::engine::{containers_of, podman};
use crate::identity::Identity;
use crate::machine::{cgroup_roots, containers_with_cgroup, lives, mounts_below, processes_that_name};

/// Where homes of nodes under test are: data directory and log.
pub const HOMES: &str = "/var/tmp/warren-node-tests";

/// Where their run directories are. Short, since the paths of sockets are.
pub const RUNS: &str = "/run/warren-node-tests";

/// Names of containers that tests make beside the node.
pub const FOREIGN_PREFIX: &str = "foreign-to-warren-tests";

/// What conmon and the kernel may still be tidying.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Takes away what a node has made. The node itself has ended.
pub fn take_away(home: &Path, run_dir: &Path) {
    // It ends with its node, unless the node ended a moment ago.
    end_services(run_dir);
    if let Some(identity) = Identity::read(&home.join("data")) {
        // What the service had under way when it was killed may come to its end a moment later.
        let until = Instant::now() + SETTLE_TIMEOUT;
        while let Err(left) = remove_containers(&identity) {
            if Instant::now() > until {
                eprintln!("of a node under test stays: {left}");
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    for point in mounts_below(run_dir) {
        complain("umount", run(Command::new("umount").arg("--lazy").arg(&point)));
    }
    for directory in [run_dir, home] {
        if let Err(error) = fs::remove_dir_all(directory)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("{} stays: {error}", directory.display());
        }
    }
}

/// Takes away what earlier runs left that were killed. Whoever calls has the turn, so none of them is alive.
pub fn sweep() {
    for entry in fs::read_dir(HOMES).into_iter().flatten().flatten() {
        eprintln!("taking away what {} of an earlier run has left", entry.path().display());
        let run_dir = Path::new(RUNS).join(entry.file_name());
        for (pid, _) in processes_that_name(&format!("--run-dir {}", run_dir.display())) {
            kill(pid);
        }
        take_away(&entry.path(), &run_dir);
    }
    let filter = format!("name={FOREIGN_PREFIX}");
    let listed = podman(&["ps", "--all", "--quiet", "--filter", &filter]);
    for id in String::from_utf8_lossy(&listed.stdout).split_whitespace() {
        complain("podman rm", podman(&["rm", "--force", "--time=0", id]).status.success());
    }
}

/// Ends a process that this test run has started, and waits for its end.
pub fn kill(pid: u32) {
    let Some(target) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    if rustix::process::kill_process(target, Signal::KILL).is_ok() {
        let until = Instant::now() + SETTLE_TIMEOUT;
        while lives(pid) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn end_services(run_dir: &Path) {
    for (pid, command) in processes_that_name(&run_dir.join("engine").display().to_string()) {
        if command.contains("system service") {
            kill(pid);
        }
    }
}

/// Removes containers and their cgroup, or says what is still there.
fn remove_containers(identity: &Identity) -> Result<(), String> {
    let ids: Vec<String> = containers_of(&identity.cluster).into_iter().map(|container| container.id).collect();
    if !ids.is_empty() {
        let mut arguments = vec!["rm", "--force", "--time=0"];
        arguments.extend(ids.iter().map(String::as_str));
        let removed = podman(&arguments);
        if !removed.status.success() {
            return Err(String::from_utf8_lossy(&removed.stderr).into_owned());
        }
    }
    for id in containers_with_cgroup(identity) {
        // A service that was killed in the midst of a start leaves what it does not know of: only the runtime does.
        for runtime in ["runc", "crun"] {
            let _may_be_the_other = Command::new(runtime).args(["delete", "--force", &id]).output();
        }
    }
    let left: Vec<_> = cgroup_roots(identity).into_iter().filter(|root| !remove_tree(root)).collect();
    if left.is_empty() { Ok(()) } else { Err(format!("cgroups {left:?}")) }
}

/// Cgroups can only be removed one by one, innermost first.
fn remove_tree(directory: &Path) -> bool {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(directory).is_ok()
}

fn run(command: &mut Command) -> bool {
    command.status().is_ok_and(|status| status.success())
}

fn complain(what: &str, done: bool) {
    if !done {
        eprintln!("{what} failed while taking away what a test has made");
    }
}
