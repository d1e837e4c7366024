//! `bench`: set-up, image and release builds, then the benchmark program with its own arguments.

use anyhow::Result;
use clap::Args;

use crate::{build, command, image, setup};

/// What to pass on.
#[derive(Args)]
pub struct Arguments {
    /// Arguments of the benchmark program itself
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Prepares everything and hands over to the benchmark program.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::run(setup::Say::OnlyWhenMissing)?;
    setup::references()?;
    image::ensure_all()?;
    let built = build::build(build::Profile::Release)?;
    let mut cargo = command::cargo();
    cargo.args(["run", "--quiet", "--locked", "--release", "--package", "bench", "--"]).args(&arguments.rest);
    cargo.env("WARREN_BIN", built.warren).env("WARREN_AGENT", built.agent);
    command::loud(&mut cargo)
}
