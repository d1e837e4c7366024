//! `test`: the whole gate in one command. Its last line is the counts, alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::build::Built;
use crate::tally::Tally;
use crate::{build, command, compose, image, leftovers, paths, setup, steps};

/// One run at a time on a host: the sweep takes away what an earlier run left, and must not take a live one's.
const LOCK: &str = "/run/warren-xtask-test.lock";
/// Containers of tests bear this label.
const TEST_LABEL: &str = "warren.test";

/// What to test.
#[derive(Args)]
pub struct Arguments {
    /// Only the tests, without formatting and lints
    #[arg(long)]
    only_tests: bool,
    /// Passed to `cargo test` in place of --workspace, for example `-p runtime some_name`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    selection: Vec<String>,
}

/// What the host held before the tests.
struct Before {
    containers: BTreeSet<String>,
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
    processes: BTreeMap<u32, String>,
}

/// Runs the gate. However it ends, its last line is the counts.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut tally = Tally::default();
    if let Err(error) = gate(arguments, &mut tally) {
        println!("FAILED before the tests: {error:#}");
        tally.failed += 1;
    }
    for reason in &tally.reasons {
        println!("skipped: {reason}");
    }
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    if tally.failed > 0 {
        // Without a further word: what failed was said where it failed.
        std::process::exit(1);
    }
    Ok(())
}

/// An error is one without which nothing could be tested; all others are in the tally.
fn gate(arguments: &Arguments, tally: &mut Tally) -> Result<()> {
    setup::run(setup::Say::OnlyWhenMissing)?;
    image::ensure_all()?;
    let built = build::build(build::Profile::Dev)?;
    let _lock = lock()?;
    sweep()?;
    let before = Before::now(&built)?;

    if !arguments.only_tests {
        phase(tally, "formatting", 20, || command::loud(command::cargo().args(["fmt", "--all", "--check"])));
        phase(tally, "lints", 600, lints);
        dependencies(tally);
    }
    phase(tally, "build the tests", 900, || command::loud(tests(arguments).args(["--quiet", "--no-run"])));
    let started = Instant::now();
    let outcome = run_tests(arguments, &built, tally);
    timing("tests", started.elapsed(), 900);
    if let Err(error) = outcome {
        println!("FAILED tests: {error:#}");
        // A binary that crashed, or did not build, has no result line.
        tally.failed = tally.failed.max(1);
    }
    if arguments.selection.is_empty() {
        compose_file(&built, tally);
    }
    phase(tally, "nothing left behind", 60, || before.compare(&built));
    Ok(())
}

/// Runs one part of the gate. One that fails counts as one failure and the others still run.
fn phase(tally: &mut Tally, name: &str, budget_seconds: u64, work: impl FnOnce() -> Result<()>) {
    let started = Instant::now();
    let outcome = work();
    timing(name, started.elapsed(), budget_seconds);
    if let Err(error) = outcome {
        println!("FAILED {name}: {error:#}");
        tally.failed += 1;
    }
}

/// One test more, where it can run.
fn compose_file(built: &Built, tally: &mut Tally) {
    let started = Instant::now();
    match compose::test(built) {
        Ok(compose::Outcome::Passed) => tally.passed += 1,
        Ok(compose::Outcome::CannotRun(reason)) => {
            println!("SKIPPED docker-compose.yml: {reason}");
            tally.skipped += 1;
            tally.reasons.push(format!("docker-compose.yml: {reason}"));
        }
        Err(error) => {
            println!("FAILED docker-compose.yml: {error:#}");
            tally.failed += 1;
        }
    }
    timing("docker-compose.yml", started.elapsed(), 240);
}

/// A budget is a reminder, not a verdict: hosts differ.
fn timing(name: &str, time: Duration, budget_seconds: u64) {
    let over = if time.as_secs() > budget_seconds { "  OVER" } else { "" };
    println!("  {name:<20} {:>8}  (budget {budget_seconds} s){over}", steps::human(time));
}

fn lints() -> Result<()> {
    let mut cargo = command::cargo();
    cargo.args(["clippy", "--quiet", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]);
    command::loud(&mut cargo)
}

/// Licences, bans and sources where cargo-deny is there. It is not installed on the way: it takes minutes to build.
fn dependencies(tally: &mut Tally) {
    if command::quiet(command::cargo().args(["deny", "--version"])).is_err() {
        tally.skipped += 1;
        tally.reasons.push("dependency rules (deny.toml): cargo-deny is not installed".to_owned());
        return;
    }
    phase(tally, "dependency rules", 60, || {
        command::loud(command::cargo().args(["deny", "check", "bans", "licenses", "sources"]))
    });
    if let Err(error) = command::quiet(command::cargo().args(["deny", "check", "advisories"])) {
        let words = format!("{error:#}");
        if words.contains("failed to fetch") || words.contains("unable to fetch") {
            tally.skipped += 1;
            tally.reasons.push("known advisories: their database can not be reached".to_owned());
        } else {
            println!("FAILED known advisories: {words}");
            tally.failed += 1;
        }
    }
}

fn tests(arguments: &Arguments) -> Command {
    let mut cargo = command::cargo();
    cargo.args(["test", "--locked"]);
    if arguments.selection.is_empty() {
        cargo.arg("--workspace")
    } else {
        cargo.args(&arguments.selection)
    };
    cargo
}

fn run_tests(arguments: &Arguments, built: &Built, tally: &mut Tally) -> Result<()> {
    let log_path = paths::scratch()?.join("test.log");
    let mut log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let mut cargo = tests(arguments);
    cargo.args(["--no-fail-fast", "--", "--show-output"]);
    cargo.env("WARREN_AGENT", &built.agent).env("WARREN_BIN", &built.warren);
    let mut child = cargo.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot start cargo test")?;
    let (sender, lines) = mpsc::channel();
    // Both streams end when cargo and all tests have closed them; then the channel ends too.
    if let Some(stream) = child.stderr.take() {
        forward(stream, sender.clone());
    }
    if let Some(stream) = child.stdout.take() {
        forward(stream, sender);
    }
    let mut outcome = Ok(());
    for line in lines {
        if outcome.is_ok() {
            outcome = writeln!(log, "{line}").with_context(|| format!("cannot write {}", log_path.display()));
        }
        if tally.line(&line) {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    outcome?;
    if !status.success() {
        bail!("cargo test ended with {status}; all output is in {}", log_path.display());
    }
    Ok(())
}

fn forward(stream: impl Read + Send + 'static, to: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            if to.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
}

fn lock() -> Result<File> {
    let file = File::create(LOCK).with_context(|| format!("cannot write {LOCK}; the tests need root"))?;
    if file.try_lock().is_err() {
        println!("waiting for another test run on this host to end");
        file.lock().with_context(|| format!("cannot lock {LOCK}"))?;
    }
    Ok(file)
}

/// Takes away the containers of an earlier run that was killed.
fn sweep() -> Result<()> {
    for container in leftovers::containers()? {
        if container.labels.iter().any(|label| label.split('=').next() == Some(TEST_LABEL)) {
            println!("  sweep: container {} ({}) of an earlier run", &container.id[..12], container.name);
            command::quiet(Command::new("podman").args(["rm", "--force", "--time=0", &container.id]))?;
        }
    }
    Ok(())
}

impl Before {
    fn now(built: &Built) -> Result<Before> {
        Ok(Before {
            containers: leftovers::containers()?.into_iter().map(|container| container.id).collect(),
            mounts: leftovers::mount_points()?,
            cgroups: leftovers::cgroups()?,
            processes: processes(built),
        })
    }

    fn compare(&self, built: &Built) -> Result<()> {
        let mut left = Vec::new();
        for container in leftovers::containers()? {
            if !self.containers.contains(&container.id) {
                let labels = container.labels.join(" ");
                left.push(format!("container {} ({}; {labels})", &container.id[..12], container.name));
            }
        }
        left.extend(leftovers::mount_points()?.difference(&self.mounts).map(|point| format!("mount {point}")));
        left.extend(leftovers::cgroups()?.difference(&self.cgroups).map(|path| format!("cgroup {}", path.display())));
        let new = processes(built).into_iter().filter(|(pid, _)| !self.processes.contains_key(pid));
        left.extend(new.map(|(pid, name)| format!("process {pid} ({name})")));
        if !left.is_empty() {
            bail!("the tests left behind:\n  {}", left.join("\n  "));
        }
        Ok(())
    }
}

fn processes(built: &Built) -> BTreeMap<u32, String> {
    let files: [&Path; 2] = [&built.warren, &built.agent];
    leftovers::processes_of(&files)
}
