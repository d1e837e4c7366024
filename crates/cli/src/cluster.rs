//! `warren cluster`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::client::{Client, Connection, Output};
use crate::cluster_status::Seen;

/// Ends `cluster status` where there is no quorum. 1 is for what could not be asked, 2 for wrong arguments.
const EXIT_NO_QUORUM: u8 = 3;

/// About the cluster as a whole.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Say how the cluster is, and what is wrong. Ends with 3 where it has no quorum.
    Status(StatusArguments),
}

#[derive(clap::Args, Debug)]
struct StatusArguments {
    #[command(flatten)]
    connection: Connection,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// Asks and prints.
///
/// # Errors
/// No good answer came.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Command::Status(status) = &arguments.command;
    let client = Client::new(&status.connection)?;
    let seen = ask(&client)?;
    match status.output {
        Output::Json => println!("{:#}", seen.json()),
        Output::Table => print!("{}", seen.text()),
    }
    Ok(if seen.quorum() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_NO_QUORUM) })
}

/// What a node says of the cluster: with a majority behind it, or else what it remembers.
fn ask(client: &Client) -> Result<Seen> {
    // An unhealthy node answers as well: its engine is one of the things that may be wrong.
    let health = client.ask("/health")?.body;
    anyhow::ensure!(health["node"].is_string(), "the answer is none of a node: {health}");
    if health["quorum"] == true {
        let nodes = client.ask("/nodes")?;
        if nodes.status == 200 {
            let sandboxes = list(client.get("/sandboxes")?)?;
            return Ok(Seen::new(health, list(nodes.body)?, &sandboxes));
        }
        anyhow::ensure!(nodes.code() == "no_quorum", "the members can not be shown: {}", nodes.body);
    }
    // The majority was lost since, where health still said otherwise.
    let mut health = health;
    health["quorum"] = json!(false);
    let nodes = list(client.get("/nodes?stale=true")?)?;
    let sandboxes = list(client.get("/sandboxes?stale=true")?)?;
    Ok(Seen::new(health, nodes, &sandboxes))
}

fn list(body: Value) -> Result<Vec<Value>> {
    match body {
        Value::Array(items) => Ok(items),
        other => Err(anyhow::anyhow!("{other}")).context("the answer is not a list"),
    }
}
