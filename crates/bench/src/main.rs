//! The benchmarks: both sides of every comparison in one run, in turns, on one machine.
//!
//! Our side is a release build of a whole node, driven over HTTP; the reference is Podman with containers that are
//! isolated alike. It knows the HTTP API, Podman's API and the kernel; of the node's inside it knows only the log, for
//! the price of a bare commit.

mod cgroups;
mod child;
mod claim;
mod commit;
mod cost;
mod exec;
mod floor;
mod host;
mod http;
mod node;
mod places;
mod podman;
mod processes;
mod report;
mod samples;
mod stop;
mod trace;
mod turns;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::commit::Commits;
use crate::host::Host;
use crate::node::Node;
use crate::places::Places;
use crate::podman::Podman;
use crate::report::{QUIET_LOAD_MAX, Section};
use crate::stop::Stop;

/// The image of a sandbox that names none.
pub const DEFAULT_IMAGE: &str = "localhost/warren/default:latest";

/// The smallest image.
const TINY_IMAGE: &str = "localhost/warren/busybox:latest";

/// Compares a node with Podman on this machine.
#[derive(Parser)]
#[command(name = "bench")]
struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    /// Rounds in which every side has its turn; best a multiple of 24, the orders in which four sides can come
    #[arg(long, short, global = true, default_value_t = 96)]
    n: usize,
    /// Slots that the node keeps ready
    #[arg(long, global = true, default_value_t = 8)]
    pool_size: usize,
    /// Write the report here as well
    #[arg(long, global = true)]
    out: Option<PathBuf>,
}

#[derive(Subcommand, Clone, Copy, PartialEq, Eq)]
enum What {
    /// A warm claim to its first result
    P3,
    /// Exec in a live sandbox
    P4,
    /// Count system calls, syncs and context switches (needs strace)
    Cost,
    /// All of them
    All,
    /// The process that goes to the floor of an exec
    #[command(hide = true)]
    Floor {
        /// First process of the sandbox
        #[arg(long)]
        pid: i32,
    },
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let what = arguments.what.unwrap_or(What::All);
    if let What::Floor { pid } = what {
        floor::serve(pid)?;
        return Ok(ExitCode::SUCCESS);
    }
    let sections = run(&arguments, what)?;
    let report: Vec<_> = sections.iter().map(Section::text).collect();
    let report = report.join("\n");
    if let Some(out) = &arguments.out {
        std::fs::write(out, &report).with_context(|| format!("cannot write {}", out.display()))?;
    }
    println!("{report}");
    let missed = sections.iter().any(Section::failed);
    Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn run(arguments: &Arguments, what: What) -> Result<Vec<Section>> {
    let stop = Stop::catch()?;
    let load_before = host::load()?;
    let places = Places::make()?;
    let mut node = Node::start(&places, arguments.pool_size)?;
    let mut podman = Podman::start(&places, &node.runtime, node.seccomp_profile())?;
    let rounds = arguments.n.max(1);
    let wants = |part| what == part || what == What::All;

    let mut sections = Vec::new();
    if wants(What::P3) {
        eprintln!("P3: {rounds} rounds");
        let mut commits = Commits::open(&places.home.join("log"))?;
        sections.push(claim::measure(&mut node, &mut podman, &mut commits, rounds, &stop)?);
    }
    if wants(What::P4) {
        for image in [TINY_IMAGE, DEFAULT_IMAGE] {
            eprintln!("P4: {rounds} rounds with the engine, {} with the floor, {image}", rounds * exec::FLOOR_ROUNDS);
            sections.push(exec::measure(&mut node, &mut podman, image, rounds, &stop)?);
        }
    }
    if wants(What::Cost) {
        if host::first_line("strace", "--version").is_ok() || what == What::Cost {
            eprintln!("counting");
            sections.push(cost::count_all(&mut node, &mut podman, &places.home.join("traces"), &stop)?);
        } else {
            eprintln!("nothing is counted: strace is not installed");
        }
    }
    let facts = facts(&mut node, &podman, &places, load_before)?;
    sections.insert(0, facts);
    Ok(sections)
}

fn facts(node: &mut Node, podman: &Podman, places: &Places, load_before: f64) -> Result<Section> {
    let host = Host::look()?;
    let mut section = Section::new("What was measured on");
    section.line(&format!(
        "Warren {}; {}; {}; Linux {}; {}; log on {}; load average before {load_before:.2}, after {:.2}.",
        node.version()?,
        host.podman,
        host::first_line(podman.runtime(), "--version")?,
        host.kernel,
        host.processors,
        host::file_system(&places.home)?,
        host::load()?,
    ));
    if load_before > QUIET_LOAD_MAX {
        section.line(&format!(
            "**The machine was not quiet** when the run began (a load above {QUIET_LOAD_MAX}): read the ratios, and \
             those with care."
        ));
    }
    Ok(section)
}
