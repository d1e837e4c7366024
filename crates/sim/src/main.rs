//! Runs seeds, or one seed with its trace.

use std::io::Write as _;
use std::ops::Range;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;

/// Deterministic simulation of a cluster.
#[derive(Parser)]
struct Args {
    /// One seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Seeds from A up to but without B, as `A..B`.
    #[arg(long, value_parser = range)]
    seeds: Option<Range<u64>>,
    /// Nodes of the cluster; one, three or five by the seed unless it is given.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: Option<u64>,
    /// Print what happens.
    #[arg(long)]
    trace: bool,
    /// Plant a bug.
    #[arg(long, value_parser = bug)]
    bug: Option<sim::Bug>,
}

fn bug(name: &str) -> Result<sim::Bug, anyhow::Error> {
    let names = || sim::Bug::ALL.iter().map(|bug| format!("{bug:?}")).collect::<Vec<_>>().join(", ");
    let found = sim::Bug::ALL.iter().find(|bug| format!("{bug:?}").eq_ignore_ascii_case(name));
    found.copied().with_context(|| format!("want one of {}", names()))
}

fn range(text: &str) -> Result<Range<u64>, anyhow::Error> {
    let (from, to) = text.split_once("..").context("want A..B")?;
    Ok(from.parse()?..to.parse()?)
}

/// Whoever reads may stop reading.
fn print_lines(lines: &[String]) {
    let mut out = std::io::stdout().lock();
    let _ = lines.iter().try_for_each(|line| writeln!(out, "{line}"));
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seeds = match (args.seed, args.seeds) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(seeds)) => seeds,
        (None, None) => 0..300,
    };
    let bug = args.bug;
    let mut failed = 0;
    let (mut events, mut lives) = (0, 0);
    let count = seeds.clone().count();
    for seed in seeds {
        let nodes = args.nodes.map_or_else(|| sim::nodes_of(seed), |nodes| nodes as usize);
        let report = sim::run_with(nodes, seed, bug, args.trace);
        print_lines(&report.lines);
        events += report.events;
        lives += report.lives;
        if count == 1 || report.violation.is_some() {
            println!(
                "seed {seed}, {nodes} nodes: {} events, {} lives, {} virtual seconds, trace {:016x}",
                report.events, report.lives, report.seconds, report.hash
            );
        }
        if let Some(violation) = report.violation {
            failed += 1;
            println!("  {violation}");
        }
    }
    print_lines(&[format!("{count} seeds, {events} events, {lives} lives, {failed} failed")]);
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
