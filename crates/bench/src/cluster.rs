//! Three nodes that are one cluster, on this host's loopback and on one Podman store.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::node::{Node, Peering};
use crate::places::Places;
use crate::ports;
use crate::processes::wait_for;

/// Nodes.
pub const NODES: usize = 3;

/// How long a token lets a node join.
const TOKEN_SECONDS: u64 = 3600;

/// What a node's log says when all three vote: when the change begins, and when it is over.
const THREE_VOTERS: &str = "voters=[1, 2, 3] learners=[]";

/// Lines of it.
const THREE_VOTERS_LINES: usize = 2;

/// Three nodes.
pub struct Cluster {
    /// They, by their numbers.
    pub nodes: Vec<Node>,
    id: String,
}

impl Cluster {
    /// Starts three nodes, each with its pool, and waits until all vote.
    pub fn start(places: &Places, pool_size: usize) -> Result<Self> {
        let mut cluster = Self { nodes: Vec::new(), id: String::new() };
        let mut inside = None;
        for number in 0..NODES {
            let listen = ports::free()?;
            let join = match (&inside, cluster.nodes.first()) {
                (Some(address), Some(first)) => Some((*address, node::join_token(first.data_dir(), TOKEN_SECONDS)?)),
                _ => None,
            };
            inside.get_or_insert(listen);
            let name = format!("node-{number}");
            cluster.nodes.push(Node::start_as(places, &name, pool_size, Some(Peering { listen, join }))?);
        }
        let identity: Value =
            serde_json::from_slice(&std::fs::read(cluster.nodes[0].data_dir().join("identity.json"))?)?;
        cluster.id = identity["cluster"].as_str().context("no cluster")?.to_owned();
        wait_for("all three nodes to vote", || {
            let mut most = 0;
            for node in &cluster.nodes {
                most = most.max(node.said()?.lines().filter(|line| line.contains(THREE_VOTERS)).count());
            }
            Ok(most >= THREE_VOTERS_LINES)
        })?;
        Ok(cluster)
    }

    /// The node that leads, as all three agree; waits until they do.
    pub fn leader(&mut self) -> Result<usize> {
        let mut found = None;
        wait_for("three nodes that agree on a leader", || {
            let mut named = BTreeSet::new();
            for node in &mut self.nodes {
                let health = node.health()?;
                named.insert(health["leader"].as_str().unwrap_or_default().to_owned());
            }
            found = match named.pop_first() {
                Some(leader) if named.is_empty() => self.nodes.iter().position(|node| node.name == leader),
                _ => None,
            };
            Ok(found.is_some())
        })?;
        found.context("no leader")
    }

    /// Deletes every sandbox through this node.
    pub fn delete_all(&mut self, through: usize) -> Result<()> {
        let mut client = self.nodes[through].client();
        let listed = client.call("GET", "/api/v1/sandboxes", None)?.expect(200)?.json()?;
        let listed = listed.as_array().cloned().unwrap_or_default();
        for id in listed.iter().filter_map(|sandbox| sandbox["id"].as_str()) {
            let answer = client.call("DELETE", &format!("/api/v1/sandboxes/{id}"), None)?;
            if !matches!(answer.status, 202 | 204 | 404) {
                bail!("{id} is not deleted: {}", answer.status);
            }
        }
        Ok(())
    }
}

/// Creates a sandbox through whatever node this client asks; none where it is refused or the node is gone.
pub fn try_create(client: &mut crate::http::Client) -> Option<Value> {
    let answer = client.call("POST", "/api/v1/sandboxes", Some(&serde_json::json!({"timeout": 600}))).ok()?;
    answer.expect(201).ok()?.json().ok()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // While there is a majority, deletes are decided in a moment.
        if !self.nodes.is_empty()
            && let Err(error) = self.delete_all(0)
        {
            eprintln!("error: {error:#}");
        }
        // Together: none waits for the others' goodbye.
        for node in &self.nodes {
            if let Err(error) = node.ask_to_end() {
                eprintln!("error: {error:#}");
            }
        }
        self.nodes.clear();
        if let Err(error) = self.remove_containers() {
            eprintln!("error: containers may be left: {error:#}");
        }
    }
}

impl Cluster {
    /// What is left where a node was killed and not started again.
    fn remove_containers(&self) -> Result<()> {
        if self.id.is_empty() {
            return Ok(());
        }
        let filter = format!("label=warren.cluster={}", self.id);
        let listed = Command::new("podman").args(["ps", "--all", "--quiet", "--filter", &filter]).output()?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let left: Vec<&str> = listed.split_whitespace().collect();
        if left.is_empty() {
            return Ok(());
        }
        eprintln!("removing {} containers of nodes that were killed", left.len());
        let status = Command::new("podman").args(["rm", "--force", "--time=0"]).args(&left).status()?;
        if !status.success() {
            bail!("podman rm: {status}");
        }
        Ok(())
    }
}
