//! What is measured on: the machine, the engine, and how busy it is.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Facts of a run that its reader needs.
#[derive(Debug, Clone)]
pub struct Host {
    /// `uname -r`.
    pub kernel: String,
    /// Number and model of the processors.
    pub processors: String,
    /// Podman's version.
    pub podman: String,
}

impl Host {
    /// Looks.
    pub fn look() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let models: Vec<_> = cpuinfo.lines().filter_map(|line| line.strip_prefix("model name")).collect();
        let model = models.first().map_or("unknown", |line| line.trim_start_matches(['\t', ' ', ':']));
        Ok(Self {
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            processors: format!("{} x {model}", models.len()),
            podman: first_line("podman", "--version")?,
        })
    }
}

/// The first line that a program says of its version.
pub fn first_line(program: &str, argument: &str) -> Result<String> {
    let output = Command::new(program).arg(argument).output().with_context(|| format!("{program} does not start"))?;
    if !output.status.success() {
        bail!("{program} {argument}: {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned())
}

/// The same of a program that says it among its errors.
pub fn first_line_of_errors(program: &str, argument: &str) -> Result<String> {
    let output = Command::new(program).arg(argument).output().with_context(|| format!("{program} does not start"))?;
    Ok(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().trim().to_owned())
}

/// The commit of this checkout, to stand behind a version; nothing where git does not know it.
pub fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR")]).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match (git(&["rev-parse", "--short=12", "HEAD"]), git(&["status", "--porcelain", "--untracked-files=no"])) {
        (Some(commit), Some(changes)) if changes.is_empty() => format!(" ({commit})"),
        (Some(commit), _) => format!(" ({commit} with changes)"),
        _ => String::new(),
    }
}

/// Load average of the last minute.
pub fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().context("/proc/loadavg is empty")?.parse()?)
}

/// Which file system a directory is on.
pub fn file_system(directory: &std::path::Path) -> Result<String> {
    let directory = directory.canonicalize()?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut best = ("", "unknown");
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        if let (Some(point), Some(kind)) = (fields.next(), fields.next())
            && directory.starts_with(point)
            && point.len() >= best.0.len()
        {
            best = (point, kind);
        }
    }
    Ok(best.1.to_owned())
}

/// A hard limit of this process, at most `wanted`.
pub fn hard_limit(resource: rustix::process::Resource, wanted: u64) -> u64 {
    rustix::process::getrlimit(resource).maximum.map_or(wanted, |hard: u64| hard.min(wanted))
}
