//! `cargo xtask`: set-up, images, builds, the demonstration, the gate and the benchmarks, each one command.
//!
//! It builds with nothing but Rust, because it installs the rest. Of this workspace it knows `hosts` alone and never
//! Warren's own crates: it speaks to a node as any client does, by its command line and its HTTP API.

mod bench;
mod build;
mod client;
mod command;
mod compose;
mod image;
#[cfg(test)]
mod layers;
mod leftovers;
mod node_process;
mod paths;
mod setup;
mod steps;
mod tally;
mod test;
#[cfg(test)]
mod tidy;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Warren's chores.
#[derive(Parser)]
#[command(name = "cargo xtask", about, disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install the host packages that are missing, after saying which and why
    Setup,
    /// Make the default sandbox image, or one of the small test images
    Image(image::Arguments),
    /// Build the static agent and the `warren` binary, and print where they are
    Build(build::Arguments),
    /// Start a node, or three, and run a first program in a sandbox
    Up(up::Arguments),
    /// Try `docker-compose.yml` on a Docker engine that is started for it and stopped again
    Compose,
    /// The whole gate: formatting, lints, tests, and nothing left behind
    Test(test::Arguments),
    /// Run the benchmarks against a release build
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().chore {
        Chore::Setup => setup::run(setup::Say::Always),
        Chore::Image(arguments) => image::run(&arguments),
        Chore::Build(arguments) => build::run(&arguments),
        Chore::Up(arguments) => up::run(&arguments),
        Chore::Compose => compose::run(),
        Chore::Test(arguments) => test::run(&arguments),
        Chore::Bench(arguments) => bench::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
