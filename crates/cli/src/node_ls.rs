//! `warren node ls`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::client::{Client, Connection, Output};
use crate::table::table;

/// Shows the cluster's members, as any of them sees them.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// Show what the node that is asked knows, also without a majority.
    #[arg(long)]
    stale: bool,
}

/// Asks and prints.
///
/// # Errors
/// No good answer came.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let path = if arguments.stale { "/nodes?stale=true" } else { "/nodes" };
    let answer = Client::new(&arguments.connection)?.ask(path)?;
    let hint = match answer.code() {
        "no_quorum" => "; --stale shows what this node knows",
        _ => "",
    };
    if answer.status != 200 {
        let why = answer.body["error"].as_str().unwrap_or("no reason was given");
        anyhow::bail!("the members can not be shown: {why}{hint}");
    }
    match arguments.output {
        Output::Json => println!("{:#}", answer.body),
        Output::Table => print!("{}", nodes_table(answer.body.as_array().context("the answer is not a list")?)),
    }
    Ok(ExitCode::SUCCESS)
}

/// The members as rows. A star marks the node that answered.
pub fn nodes_table(nodes: &[Value]) -> String {
    let headings = ["ID", "NAME", "ROLE", "STATE", "LINK", "SANDBOXES", "MEMORY", "WARM", "VERSION", "HTTP"];
    table(headings, &nodes.iter().map(row).collect::<Vec<_>>())
}

fn row(node: &Value) -> [String; 10] {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let capacity = &node["capacity"];
    let here = node["here"] == true;
    let link = match (here, node["reachable"] == true) {
        (true, _) => "here",
        (false, true) => "up",
        (false, false) => "down",
    };
    let of = |has: String, max: Option<String>| max.map_or(has.clone(), |max| format!("{has}/{max}"));
    let number = |value: &Value| value.as_u64().unwrap_or_default().to_string();
    let warm: Vec<String> = node["warm"].as_array().into_iter().flatten().map(warm_cell).collect();
    [
        format!("{}{}", text(&node["id"]), if here { "*" } else { "" }),
        text(&node["name"]),
        text(&node["role"]),
        text(&node["state"]),
        link.to_owned(),
        of(number(&capacity["sandboxes"]), capacity["sandboxes_max"].as_u64().map(|max| max.to_string())),
        of(
            gibibytes(capacity["memory_promised"].as_u64().unwrap_or_default()),
            capacity["memory_max"].as_u64().map(gibibytes),
        ) + " GiB",
        warm.join(" "),
        text(&node["versions"]["build"]),
        text(&node["addresses"]["http"]),
    ]
}

fn warm_cell(warm: &Value) -> String {
    let (ready, target) = (warm["ready"].as_u64().unwrap_or_default(), warm["target"].as_u64().unwrap_or_default());
    format!("{}:{ready}/{target}", warm["template"].as_str().unwrap_or("?"))
}

/// Bytes as gibibytes with one decimal.
fn gibibytes(bytes: u64) -> String {
    let tenths = (u128::from(bytes) * 10 + (1 << 29)) >> 30;
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_not_heard_is_a_dash() {
        let heard = json!({
            "id": "aa", "name": "rack-7", "role": "leader", "state": "up", "here": true, "reachable": true,
            "capacity": {"sandboxes": 2, "sandboxes_max": 9, "memory_promised": 3u64 << 29, "memory_max": 64u64 << 30},
            "warm": [{"template": "default", "ready": 3, "target": 4}],
            "versions": {"build": "0.1.0 (abc)", "commands": 1}, "addresses": {"http": "10.0.0.1:8080"}
        });
        let silent = json!({
            "id": "bb", "role": "voter", "state": "lost", "here": false, "reachable": false,
            "capacity": {"sandboxes": 1, "memory_promised": 0}, "versions": {"commands": 1}, "addresses": {}
        });
        let wanted = "\
ID   NAME    ROLE    STATE  LINK  SANDBOXES  MEMORY        WARM         VERSION      HTTP
aa*  rack-7  leader  up     here  2/9        1.5/64.0 GiB  default:3/4  0.1.0 (abc)  10.0.0.1:8080
bb   -       voter   lost   down  1          0.0 GiB       -            -            -
";
        assert_eq!(nodes_table(&[heard, silent]), wanted);
    }
}
