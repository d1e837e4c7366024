//! `warren node`: runs one, or shows those of a cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use config::Value;
use front_door::VersionFacts;
use node::{ExitReason, NodeConfig};

use crate::{client, node_ls};

/// Flags win over `WARREN_NODE_*` variables, which win over the file.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Configuration file (TOML).
    #[arg(long)]
    config: Option<PathBuf>,
    /// Where log, identity and key are kept.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Where sockets and mounts live.
    #[arg(long)]
    run_dir: Option<PathBuf>,
    /// Address of the HTTP front door.
    #[arg(long)]
    listen: Option<String>,
    /// Address on which other nodes are let in.
    #[arg(long)]
    peer_listen: Option<String>,
    /// Where other nodes find this one, where that is not the address it listens on.
    #[arg(long)]
    peer_address: Option<String>,
    /// Address on which Prometheus finds /metrics, or `off`.
    #[arg(long)]
    metrics_listen: Option<String>,
    /// Peer address of any member of the cluster to join.
    #[arg(long)]
    join: Option<String>,
    /// The token that lets this node join; `warren token` on a member prints one. Also WARREN_JOIN_TOKEN.
    #[arg(long, env = "WARREN_JOIN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The agent's binary.
    #[arg(long)]
    agent: Option<PathBuf>,
    /// Warm slots kept of the default image.
    #[arg(long)]
    pool_size: Option<u32>,
    /// Image of a sandbox that names none.
    #[arg(long)]
    default_image: Option<String>,
    /// OCI runtime, for example runc.
    #[arg(long)]
    runtime: Option<String>,
    /// Destroy every sandbox and slot when a signal ends the node.
    #[arg(long)]
    destroy_on_exit: bool,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Show the cluster's nodes.
    Ls(node_ls::Arguments),
}

/// The variable that holds one API key.
const API_KEY_VARIABLE: &str = "WARREN_API_KEY";

impl Arguments {
    fn overrides(&self) -> Vec<(&'static str, Value)> {
        let path = |path: &PathBuf| Value::from(path.display().to_string());
        let text = |text: &String| Value::from(text.clone());
        let mut overrides = Vec::new();
        let mut set = |name, value: Option<Value>| overrides.extend(value.map(|value| (name, value)));
        set("data_dir", self.data_dir.as_ref().map(path));
        set("run_dir", self.run_dir.as_ref().map(path));
        set("listen", self.listen.as_ref().map(text));
        set("peer_listen", self.peer_listen.as_ref().map(text));
        set("peer_address", self.peer_address.as_ref().map(text));
        set("metrics_listen", self.metrics_listen.as_ref().map(text));
        set("join", self.join.as_ref().map(text));
        set("join_token", self.token.as_ref().map(text));
        set("agent", self.agent.as_ref().map(path));
        set("pool_size", self.pool_size.map(|size| Value::from(i64::from(size))));
        set("default_image", self.default_image.as_ref().map(text));
        set("oci_runtime", self.runtime.as_ref().map(text));
        set("destroy_on_exit", self.destroy_on_exit.then(|| Value::from(true)));
        let key = std::env::var(API_KEY_VARIABLE).ok().filter(|key| !key.is_empty());
        set("api_keys", key.map(|key| Value::from(vec![key])));
        overrides
    }
}

/// Runs a node until it ends, unless something else is asked for.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(Command::Ls(arguments)) = &arguments.command {
        return Ok(client::told(node_ls::run(arguments)));
    }
    let config = NodeConfig::load(arguments.config.as_deref(), arguments.overrides())?;
    let version = VersionFacts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: env!("WARREN_COMMIT").to_owned(),
        build_date: env!("WARREN_BUILD_DATE").to_owned(),
    };
    match node::run(config, version)? {
        ExitReason::Signal => Ok(ExitCode::SUCCESS),
        reason => anyhow::bail!("the node ended: {reason:?}"),
    }
}
