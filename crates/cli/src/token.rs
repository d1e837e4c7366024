//! `warren token`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

/// Seconds that a token opens the cluster where nothing else is asked for.
const VALID_SECONDS_DEFAULT: u64 = 3_600;

/// Prints one line. Whoever has it can join until it expires, so it is a secret.
#[derive(clap::Args)]
pub struct Arguments {
    /// The data directory of a member.
    #[arg(long)]
    data_dir: PathBuf,
    /// Seconds that the token is valid.
    #[arg(long, default_value_t = VALID_SECONDS_DEFAULT)]
    valid: u64,
}

/// Reads the member's keys and signs a token; the node itself is not asked and need not run.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    println!("{}", node::join_token(&arguments.data_dir, arguments.valid)?);
    Ok(ExitCode::SUCCESS)
}
