//! `build`: the static agent and the `warren` binary.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{command, paths, steps};

/// What to build.
#[derive(Args)]
pub struct Arguments {
    /// Build `warren` with optimisation
    #[arg(long)]
    release: bool,
}

/// How `warren` is built. The agent is always built for size.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    Dev,
    Release,
}

/// Where the built files are.
pub struct Built {
    pub agent: PathBuf,
    pub warren: PathBuf,
}

/// Builds both and prints where they are.
pub fn run(arguments: &Arguments) -> Result<()> {
    let profile = if arguments.release { Profile::Release } else { Profile::Dev };
    let built = build(profile)?;
    println!("agent   {}", built.agent.display());
    println!("warren  {}", built.warren.display());
    Ok(())
}

/// Builds the agent and `warren`. Cargo decides what is stale.
pub fn build(profile: Profile) -> Result<Built> {
    Ok(Built { agent: agent()?, warren: warren(profile)? })
}

fn agent() -> Result<PathBuf> {
    // A directory of its own: other flags in the shared one would make every other build start anew.
    let directory = paths::target().join("agent");
    let mut cargo = command::cargo();
    cargo.args(["build", "--quiet", "--locked", "--profile", "agent", "--package", "agent"]);
    cargo.args(["--target", paths::AGENT_TARGET, "--target-dir"]).arg(&directory);
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", "-C target-feature=+crt-static");
    steps::step("build the agent (static)", || command::quiet(&mut cargo).context("the agent does not build"))?;
    existing(directory.join(paths::AGENT_TARGET).join("agent").join("warren-agent"))
}

fn warren(profile: Profile) -> Result<PathBuf> {
    let mut cargo = command::cargo();
    cargo.args(["build", "--quiet", "--locked", "--package", "cli", "--bin", "warren"]);
    let (folder, title) = match profile {
        Profile::Dev => ("debug", "build warren (dev)"),
        Profile::Release => {
            cargo.arg("--release");
            ("release", "build warren (release; minutes the first time)")
        }
    };
    steps::step(title, || command::quiet(&mut cargo).context("warren does not build"))?;
    existing(paths::target().join(folder).join("warren"))
}

fn existing(path: PathBuf) -> Result<PathBuf> {
    if !path.is_file() {
        bail!("cargo built, but {} is not there", path.display());
    }
    Ok(path)
}
