//! What machines have left behind whose processes were killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::cgroups::{self, Cgroups};
use crate::places::{self, MACHINES, Place};
use crate::switch;

/// What was frozen when its maker died ends after it is thawed.
const DEAD_WITHIN: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Takes away what is left of every machine whose name starts so and whose process is gone: directories, kept disks
/// too, cgroups, and what is frozen in them. Returns what it took, in words. Machines that live are left alone.
///
/// # Errors
/// We are not root, or something does not go.
pub fn sweep(prefix: &str) -> Result<Vec<String>> {
    let mut taken = Vec::new();
    for path in machines(prefix)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Held until all of it is gone: one of the same name may want to begin.
        let Some(place) = Place::take_over(path)? else { continue };
        taken.extend(kernel_things(&name)?);
        place.remove()?;
        taken.push(format!("directory {}", place.path().display()));
    }
    Ok(taken)
}

/// The directories of machines whose names start so. Each machine makes one before all else, and removes it last.
fn machines(prefix: &str) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(MACHINES) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {MACHINES}")),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(prefix) && places::check_name(name).is_ok()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Takes away what a dead machine has left in the kernel.
pub(crate) fn kernel_things(machine: &str) -> Result<Vec<String>> {
    let mut taken = Vec::new();
    for name in cgroups::names_with_prefix(&places::cgroup(machine, ""))? {
        let cgroups = Cgroups::named(&name)?;
        end_processes(&cgroups)?;
        cgroups.remove()?;
        taken.push(format!("cgroup {name}"));
    }
    let link = places::link(machine);
    // It goes with the switch's namespace, which the kernel clears away some time after its last process.
    if Path::new("/sys/class/net").join(&link).exists() {
        match switch::ip(&format!("link delete dev {link}\n")) {
            Err(error) if Path::new("/sys/class/net").join(&link).exists() => return Err(error),
            _ => taken.push(format!("link {link}")),
        }
    }
    Ok(taken)
}

/// Their first process has died with its maker, and they with it, unless they were frozen.
fn end_processes(cgroups: &Cgroups) -> Result<()> {
    let deadline = Instant::now() + DEAD_WITHIN;
    loop {
        let pids = cgroups.pids();
        if pids.is_empty() {
            return Ok(());
        }
        for pid in &pids {
            let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) else { continue };
            match kill_process(pid, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error).context("cannot kill what a dead machine has left"),
            }
        }
        cgroups.thaw()?;
        if Instant::now() > deadline {
            bail!("processes {pids:?} of a dead machine do not die");
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}
