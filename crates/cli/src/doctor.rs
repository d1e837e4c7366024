//! `warren doctor`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use node::NodeConfig;
use runtime::doctor::{FindingState, examine};
use types::{ClusterId, HostId};

/// Looks at this host and changes nothing. Ends with 1 where something is missing.
#[derive(clap::Args)]
pub struct Arguments {
    /// Configuration file (TOML) of the node that is to run here.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The agent's binary.
    #[arg(long)]
    agent: Option<PathBuf>,
}

/// Prints what was found, and how to mend it.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let agent = arguments.agent.as_ref().map(|agent| ("agent", agent.display().to_string().into()));
    let config = NodeConfig::load(arguments.config.as_deref(), agent.into_iter().collect())?;
    // No container is looked for, so any names do.
    let engine = config.engine(ClusterId::new("doctor"), HostId::new("doctor"));
    let mut missing = 0;
    for finding in examine(&engine) {
        let word = match finding.state {
            FindingState::Ok => "ok",
            FindingState::Warn => "warn",
            FindingState::Missing => "MISSING",
        };
        println!("{word:>7}  {}: {}", finding.check, finding.says);
        if let Some(mend) = &finding.mend {
            println!("         mend it with: {mend}");
        }
        missing += u32::from(finding.state == FindingState::Missing);
    }
    if missing == 0 {
        println!("this host can run a node");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{missing} missing: a node does not run here until that is mended");
    Ok(ExitCode::FAILURE)
}
