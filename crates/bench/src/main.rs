//! The benchmarks: both sides of every comparison in one run, in turns, on one machine.
//!
//! Our side is a release build of a whole node, driven over HTTP; the reference is Podman with containers that are
//! isolated alike. It knows the HTTP API, Podman's API and the kernel; of the node's inside it knows only the log, for
//! the price of a bare commit.

mod cgroups;
mod child;
mod claim;
mod claim_three;
mod cluster;
mod commit;
mod contest;
mod cost;
mod exec;
mod failover;
mod floor;
mod hop;
mod host;
mod http;
mod key_value;
mod member;
mod nginx;
mod node;
mod papers;
mod places;
mod placing;
mod podman;
mod ports;
mod processes;
mod report;
mod samples;
mod stop;
mod trace;
mod trio;
mod turns;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};

use crate::cluster::Cluster;
use crate::commit::Commits;
use crate::contest::Contest;
use crate::host::Host;
use crate::node::Node;
use crate::places::Places;
use crate::podman::Podman;
use crate::report::{QUIET_LOAD_MAX, Section};
use crate::stop::Stop;
use crate::trio::Trio;

/// The image of a sandbox that names none.
pub const DEFAULT_IMAGE: &str = "localhost/warren/default:latest";

/// The smallest image.
const TINY_IMAGE: &str = "localhost/warren/busybox:latest";

/// Slots that each of three nodes keeps ready.
const POOL_OF_THREE: usize = 4;

/// Rounds of a run for one in which claims on three nodes have their turns: they take a second.
const ROUNDS_PER_CLAIM: usize = 2;

/// Rounds of a run for one kill of a leader.
const ROUNDS_PER_KILL: usize = 6;

/// Compares a node with Podman on this machine.
#[derive(Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
struct Arguments {
    /// What to measure; everything where nothing is named
    what: Vec<Part>,
    /// Rounds in which every side has its turn; best a multiple of 24, the orders in which four sides can come
    #[arg(long, short, default_value_t = 96)]
    n: usize,
    /// Slots that the node keeps ready
    #[arg(long, default_value_t = 8)]
    pool_size: usize,
    /// Write the report here as well
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// A figure.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// A warm claim to its first result
    P3,
    /// Exec in a live sandbox
    P4,
    /// Commits on three members, beside etcd
    P6,
    /// Linearizable reads among three members, beside etcd
    P7,
    /// A warm claim on three nodes
    P3x3,
    /// A request through a node that is not the owner, beside nginx
    P8,
    /// The leader of three nodes is killed
    R4,
    /// Count system calls, syncs and context switches (needs strace)
    Cost,
}

/// What a process is that the program starts beside itself.
#[derive(Subcommand)]
enum Role {
    /// The process that goes to the floor of an exec
    #[command(hide = true)]
    Floor {
        /// First process of the sandbox
        #[arg(long)]
        pid: i32,
    },
    /// A member that only places
    #[command(hide = true)]
    Member(member::Arguments),
}

fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::parse();
    match arguments.role.take() {
        Some(Role::Floor { pid }) => return floor::serve(pid).map(|()| ExitCode::SUCCESS),
        Some(Role::Member(member)) => return member::serve(member).map(|()| ExitCode::SUCCESS),
        None => {}
    }
    let mut sections = Vec::new();
    let outcome = run(&arguments, &mut sections);
    // Also where a part failed: what the others said stands.
    let report: Vec<_> = sections.iter().map(Section::text).collect();
    let report = report.join("\n");
    if let Some(out) = &arguments.out {
        std::fs::write(out, &report).with_context(|| format!("cannot write {}", out.display()))?;
    }
    println!("{report}");
    outcome?;
    let missed = sections.iter().any(Section::failed);
    Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Arguments {
    fn rounds(&self) -> usize {
        self.n.max(1)
    }

    fn wants(&self, part: Part) -> bool {
        self.what.is_empty() || self.what.contains(&part)
    }
}

fn run(arguments: &Arguments, sections: &mut Vec<Section>) -> Result<()> {
    let stop = Stop::catch()?;
    let load_before = host::load()?;
    let places = Places::make()?;
    sections.push(Section::new("What was measured on"));
    if [Part::P3, Part::P4, Part::Cost].into_iter().any(|part| arguments.wants(part)) {
        one_node(arguments, &places, &stop, sections)?;
    }
    if [Part::P6, Part::P7].into_iter().any(|part| arguments.wants(part)) {
        three_logs(arguments, &places, &stop, sections)?;
    }
    if [Part::P3x3, Part::P8, Part::R4].into_iter().any(|part| arguments.wants(part)) {
        three_nodes(arguments, &places, &stop, sections)?;
    }
    facts(&places, load_before, &mut sections[0])
}

/// Measures one part, and notes how busy the machine was meanwhile.
fn part(sections: &mut Vec<Section>, what: &str, measure: impl FnOnce() -> Result<Section>) -> Result<()> {
    eprintln!("{what}");
    let before = host::load()?;
    let mut section = measure().with_context(|| what.to_owned())?;
    section.line(&format!("Load average when this part began {before:.2}, when it ended {:.2}.", host::load()?));
    sections.push(section);
    Ok(())
}

/// What one node can show.
fn one_node(arguments: &Arguments, places: &Places, stop: &Stop, sections: &mut Vec<Section>) -> Result<()> {
    let mut node = Node::start(places, arguments.pool_size)?;
    let mut podman = Podman::start(places, &node.runtime, node.seccomp_profile())?;
    let rounds = arguments.rounds();
    if arguments.wants(Part::P3) {
        let mut commits = Commits::open(&places.home.join("log"))?;
        let measure = || claim::measure(&mut node, &mut podman, &mut commits, rounds, stop);
        part(sections, &format!("P3: {rounds} rounds"), measure)?;
    }
    if arguments.wants(Part::P4) {
        for image in [TINY_IMAGE, DEFAULT_IMAGE] {
            let what =
                format!("P4: {rounds} rounds with the engine, {} with the floor, {image}", rounds * exec::FLOOR_ROUNDS);
            part(sections, &what, || exec::measure(&mut node, &mut podman, image, rounds, stop))?;
        }
    }
    if arguments.wants(Part::Cost) {
        if host::first_line("strace", "--version").is_ok() || arguments.what.contains(&Part::Cost) {
            let scratch = places.home.join("traces");
            part(sections, "counting", || cost::count_all(&mut node, &mut podman, &scratch, stop))?;
        } else {
            eprintln!("nothing is counted: strace is not installed");
        }
    }
    Ok(())
}

/// What three members of a log can show.
fn three_logs(arguments: &Arguments, places: &Places, stop: &Stop, sections: &mut Vec<Section>) -> Result<()> {
    let contest = Contest::start(&places.home.join("contest"))?;
    let rounds = arguments.rounds();
    if arguments.wants(Part::P6) {
        let scratch = places.home.join("traces");
        part(sections, &format!("P6: {rounds} rounds"), || contest.commits(rounds, &scratch, stop))?;
    }
    if arguments.wants(Part::P7) {
        part(sections, &format!("P7: {rounds} rounds"), || contest.reads(rounds, stop))?;
    }
    Ok(())
}

/// What three nodes can show.
fn three_nodes(arguments: &Arguments, places: &Places, stop: &Stop, sections: &mut Vec<Section>) -> Result<()> {
    let mut cluster = Cluster::start(places, POOL_OF_THREE)?;
    let rounds = arguments.rounds();
    if arguments.wants(Part::P3x3) || arguments.wants(Part::P8) {
        let mut podman = Podman::start(places, &cluster.nodes[0].runtime, cluster.nodes[0].seccomp_profile())?;
        if arguments.wants(Part::P3x3) {
            let rounds = rounds.div_ceil(ROUNDS_PER_CLAIM);
            let log = Trio::ours(&places.home.join("log-of-three"))?;
            let measure = || claim_three::measure(&mut cluster, &mut podman, &log, rounds, stop);
            part(sections, &format!("P3 on three nodes: {rounds} rounds"), measure)?;
        }
        if arguments.wants(Part::P8) {
            let scratch = places.home.join("nginx");
            let measure = || hop::measure(&mut cluster, &mut podman, &scratch, rounds, stop);
            part(sections, &format!("P8: {rounds} rounds"), measure)?;
        }
    }
    if arguments.wants(Part::R4) {
        let kills = rounds.div_ceil(ROUNDS_PER_KILL).max(failover::KILLS_MIN);
        part(sections, &format!("R4: {kills} kills"), || failover::measure(&mut cluster, kills, stop))?;
    }
    Ok(())
}

fn facts(places: &Places, load_before: f64, section: &mut Section) -> Result<()> {
    let host = Host::look()?;
    section.line(&format!(
        "{}{}; {}; {}; Linux {}; {}; log on {}; load average before {load_before:.2}, after {:.2}.",
        host::first_line(&places.warren.to_string_lossy(), "--version")?,
        host::commit(),
        host.podman,
        host::first_line("runc", "--version")?,
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
    Ok(())
}
