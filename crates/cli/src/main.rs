//! The `warren` binary.

mod client;
mod cluster;
mod cluster_status;
mod doctor;
mod node;
mod node_ls;
mod table;
mod token;

use clap::{Parser, Subcommand};

/// Sandboxes for untrusted code on your own machines.
#[derive(Parser)]
#[command(name = "warren", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node, or show the cluster's nodes.
    Node(Box<node::Arguments>),
    /// Say how the cluster is.
    Cluster(cluster::Arguments),
    /// Print a token that lets a node join this node's cluster.
    Token(token::Arguments),
    /// Say what this host lacks, and the command that mends it.
    Doctor(doctor::Arguments),
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("WARREN_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .init();
    match Arguments::parse().command {
        Command::Node(arguments) => node::run(&arguments),
        Command::Cluster(arguments) => Ok(client::told(cluster::run(&arguments))),
        Command::Token(arguments) => token::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
    }
}
