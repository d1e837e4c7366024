//! Three nodes, each on a host of its own made of namespaces, joined to one cluster.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hosts::{Host, Machine};
use serde_json::Value;

use crate::build::Built;
use crate::client::Client;
use crate::node_process::{NodeOrder, NodeProcess, PeerOrder};
use crate::{command, steps};

/// Where each node answers clients, on its own address.
const PORT: u16 = 7700;
/// Where each node lets the others in.
const PEER_PORT: u16 = 7701;
/// A host's own, empty when its power comes.
const RUN_DIRECTORY: &str = "/run/warren";
/// Until the nodes agree, from the moment that they should begin to.
const AGREE_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// One node and its host.
pub struct HostNode {
    pub host: Host,
    /// Its id in the cluster, as it says itself.
    pub id: String,
    pub client: Client,
    order: NodeOrder,
    process: Option<NodeProcess>,
    /// How often it was started.
    lives: u32,
}

/// What all three have in common.
pub struct Common<'a> {
    pub built: &'a Built,
    pub key: &'a str,
    pub pool_size: u32,
    pub runtime: Option<&'a str>,
    /// Where the logs go: they outlive the hosts.
    pub logs: &'a Path,
}

impl HostNode {
    /// A host that is on, and the order for a node that is not started yet.
    fn new(machine: &Machine, name: &str, common: &Common) -> Result<HostNode> {
        let host = machine.add_host(name)?;
        let address = host.address().into();
        let order = NodeOrder {
            warren: common.built.warren.clone(),
            agent: common.built.agent.clone(),
            data_directory: host.directory().join("data"),
            run_directory: RUN_DIRECTORY.into(),
            log: common.logs.join(format!("{name}.log")),
            address,
            port: PORT,
            key: common.key.to_owned(),
            pool_size: common.pool_size,
            runtime: common.runtime.map(str::to_owned),
            peers: Some(PeerOrder { listen: SocketAddr::new(address, PEER_PORT), join: None }),
        };
        let client = Client::new(&order.url(), common.key);
        Ok(HostNode { host, id: String::new(), client, order, process: None, lives: 0 })
    }

    /// Where it answers clients.
    pub fn listen(&self) -> SocketAddr {
        self.order.listen()
    }

    /// Where it shows its metrics.
    pub fn metrics_listen(&self) -> SocketAddr {
        self.order.metrics_listen()
    }

    /// Starts it and waits until it is healthy.
    pub fn start(&mut self, stop_asked: &dyn Fn() -> bool) -> Result<()> {
        self.lives += 1;
        if self.lives > 1 {
            // The log of its last life may say why that one ended.
            self.order.log.set_file_name(format!("{}-{}.log", self.host.name(), self.lives));
        }
        let mut process = self.order.start_on(&self.host)?;
        process.wait_until_healthy(&self.client, stop_asked)?;
        self.process = Some(process);
        let health = self.client.health()?;
        self.id = health["node"].as_str().with_context(|| format!("no node in {health}"))?.to_owned();
        Ok(())
    }

    /// Kills it as a fault would: its host and its containers run on.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().with_context(|| format!("{} does not run", self.host.name()))?.kill()
    }

    /// Its pid on this host, where it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(NodeProcess::id)
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Whether it has ended by itself since the last look, and its last words.
    pub fn ended(&mut self) -> Result<Option<String>> {
        let Some(process) = &mut self.process else { return Ok(None) };
        let Some(status) = process.ended()? else { return Ok(None) };
        let words = format!("{} ended ({status}). Its last words:\n{}", self.host.name(), process.log_tail());
        self.process = None;
        Ok(Some(words))
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        self.process.as_ref().map(NodeProcess::log_tail).unwrap_or_default()
    }
}

/// Makes three hosts and starts a cluster on them.
pub fn start(machine: &Machine, common: &Common, stop_asked: &dyn Fn() -> bool) -> Result<Vec<HostNode>> {
    let mut nodes = steps::step("make three hosts", || {
        ["n1", "n2", "n3"].into_iter().map(|name| HostNode::new(machine, name, common)).collect::<Result<Vec<_>>>()
    })?;
    for node in &nodes {
        let (name, directory) = (node.host.name(), node.host.directory().display());
        println!("    {name} is {} with its disk in {directory}", node.host.address());
    }
    let member = SocketAddr::new(nodes[0].order.address, PEER_PORT);
    let mut token = None;
    for (index, node) in nodes.iter_mut().enumerate() {
        let title = format!("start {} until it is healthy", node.host.name());
        steps::step(&title, || {
            if let (Some(peers), Some(token)) = (&mut node.order.peers, &token) {
                peers.join = Some((member, String::clone(token)));
            }
            node.start(stop_asked)
        })?;
        if index == 0 {
            let mut warren = Command::new(&node.order.warren);
            warren.arg("token").arg("--data-dir").arg(&node.order.data_directory);
            let ask = || command::read(&mut warren).context("no token");
            token = Some(steps::step("ask it for a token that lets others join", ask)?);
        }
    }
    Ok(nodes)
}

/// Stops all nodes that run, side by side: none waits for the others' goodbye.
pub fn stop(nodes: &mut [HostNode]) -> Result<()> {
    let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
        let stopping: Vec<_> = nodes
            .iter_mut()
            .filter_map(|node| {
                let process = node.process.take()?;
                let name = node.host.name();
                Some(scope.spawn(move || process.stop().with_context(|| format!("node {name}"))))
            })
            .collect();
        stopping.into_iter().map(|thread| thread.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
    });
    outcomes.into_iter().collect()
}

/// Waits until all that were started for the first time agree on a leader and vote.
pub fn all_vote(nodes: &[HostNode], stop_asked: &dyn Fn() -> bool) -> Result<Vec<Value>> {
    let all: Vec<_> = nodes.iter().collect();
    let healths = agree(&all, stop_asked)?;
    // Until then the death of the first node would be the cluster's.
    let voters: BTreeSet<&str> = nodes.iter().map(|node| node.id.as_str()).collect();
    wait("all three vote", stop_asked, || {
        for node in nodes {
            let health = node.client.health()?;
            let said: BTreeSet<_> =
                health["voters"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            if said != voters {
                bail!("{health}");
            }
        }
        Ok(())
    })?;
    Ok(healths)
}

/// Waits until all of these nodes have a quorum and see the same leader among them, and returns their health.
pub fn agree(nodes: &[&HostNode], stop_asked: &dyn Fn() -> bool) -> Result<Vec<Value>> {
    wait("the nodes agree on a leader", stop_asked, || {
        let healths = nodes.iter().map(|node| node.client.health()).collect::<Result<Vec<_>>>()?;
        let leader = &healths[0]["leader"];
        let one_of_them = nodes.iter().any(|node| *leader == node.id);
        let agreed = healths.iter().all(|health| health["quorum"] == true && health["leader"] == *leader);
        if one_of_them && agreed { Ok(healths) } else { bail!("{healths:?}") }
    })
}

/// Asks again until the answer is a good one; the last bad one is quoted.
pub fn wait<T>(what: &str, stop_asked: &dyn Fn() -> bool, look: impl Fn() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + AGREE_TIMEOUT;
    loop {
        let error = match look() {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        if stop_asked() {
            bail!("interrupted");
        }
        if Instant::now() > deadline {
            bail!("not within {} s: {what}. The last answer: {error:#}", AGREE_TIMEOUT.as_secs());
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}
