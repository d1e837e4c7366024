//! The road on three nodes: a first program through a load balancer, then the death of its sandbox's owner.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use hosts::Machine;
use serde_json::Value;

use super::balancer::Balancer;
use super::host_nodes::{self, Common, HostNode, agree, wait};
use super::traces::Traces;
use super::{
    Arguments, HOME, LOOK_INTERVAL, PI_LENGTH, PROGRAM_TIMEOUT_SECONDS, Places, SANDBOX_TIMEOUT_SECONDS, check_pi,
    first_program, listener, remove_tree,
};
use crate::build::Built;
use crate::client::Client;
use crate::{paths, steps};

/// Machines of this chore are named by this and what tells them apart.
const MACHINE_PREFIX: &str = "up";

/// What the story is told with.
struct Stage<'a> {
    arguments: &'a Arguments,
    machine: &'a Machine,
    places: &'a Places,
    built: &'a Built,
    stop_asked: &'a dyn Fn() -> bool,
    started: Instant,
}

/// Brings three nodes up, runs the first program, and kills the owner of its sandbox.
pub fn run(arguments: &Arguments, built: &Built, interrupted: &Arc<AtomicBool>, started: Instant) -> Result<()> {
    let places = Places::new(arguments.once, "-3")?;
    let _lock = places.lock()?;
    // What a run left that was killed. Those that live are locked and stay.
    for taken in hosts::sweep(MACHINE_PREFIX)? {
        println!("left by a run that was killed, taken away: {taken}");
    }
    let name = match arguments.once {
        true => std::process::id().to_string(),
        false => paths::checkout_name(),
    };
    let machine = Machine::new(&format!("{MACHINE_PREFIX}{name}"))?;
    let mut traces = Traces::begin(&machine)?;
    let stop_asked = || interrupted.load(Ordering::Relaxed);
    let stage = Stage { arguments, machine: &machine, places: &places, built, stop_asked: &stop_asked, started };
    let outcome = stage.play(&mut traces);
    // Also after a failure: the hosts go, and whatever stays is accused.
    let recorded = traces.record(&machine);
    steps::step("take the hosts away", || {
        drop(machine);
        Ok(())
    })?;
    let left = traces.left_here()?;
    if !left.is_empty() {
        println!("left behind:\n  {}", left.join("\n  "));
    }
    if outcome.is_err() {
        println!("logs in {}", places.home.display());
    }
    outcome?;
    if !left.is_empty() {
        bail!("{} things are left behind", left.len());
    }
    if arguments.once {
        remove_tree(&places.home)?;
    }
    println!(
        "nothing is left of 3 hosts, {} containers and {} namespaces: no process, mount, namespace, cgroup or link",
        recorded?,
        traces.namespace_count()
    );
    Ok(())
}

impl Stage<'_> {
    /// Everything while the hosts are there.
    fn play(&self, traces: &mut Traces) -> Result<()> {
        let listener = listener(self.arguments)?;
        let key = self.places.key()?;
        let common = Common {
            built: self.built,
            key: &key,
            pool_size: self.arguments.pool_size,
            runtime: self.arguments.runtime.as_deref(),
            logs: &self.places.home,
        };
        println!("three nodes, each on a host of its own (network, mounts, processes, cgroups, Podman storage);");
        println!("logs in {}", self.places.home.display());
        let mut nodes = host_nodes::start(self.machine, &common, self.stop_asked)?;
        let healths = steps::step("wait until all three vote and agree on a leader", || {
            host_nodes::all_vote(&nodes, self.stop_asked)
        })?;
        say_leader(&nodes, &healths);
        let addresses: Vec<_> = nodes.iter().map(HostNode::listen).collect();
        let balancer = Balancer::start(listener, &addresses)?;
        steps::step("start the load balancer until it sees three nodes", || self.balancer_sees(&balancer, 3))?;
        let outcome = self.story(&mut nodes, &balancer, &key, traces);
        if outcome.is_err() {
            for node in &nodes {
                println!("last words of {}:\n{}", node.host.name(), node.log_tail());
            }
        }
        outcome?;
        // What a node that was killed has left there goes with its host.
        let hosts: Vec<_> = nodes.iter().filter(|node| node.runs()).map(|node| node.host.clone()).collect();
        steps::step("stop the nodes", || host_nodes::stop(&mut nodes))?;
        let left = Traces::left_on_hosts(&hosts)?;
        if !left.is_empty() {
            bail!("the nodes left behind on their hosts:\n  {}", left.join("\n  "));
        }
        println!("the nodes left no container and no process on their hosts");
        Ok(())
    }

    /// From the first program to the last word.
    fn story(&self, nodes: &mut [HostNode], balancer: &Balancer, key: &str, traces: &mut Traces) -> Result<()> {
        let client = Client::of_single_calls(&balancer.url(), key);
        println!("the first program, each call through the load balancer on {}:", balancer.url());
        let id = first_program(&client)?;
        println!("up after {}", steps::human(self.started.elapsed()));
        let given: Vec<_> = nodes
            .iter()
            .zip(balancer.given())
            .map(|(node, count)| format!("{count} by {}", node.host.name()))
            .collect();
        println!("calls came in {}", given.join(", "));
        traces.record(self.machine)?;

        self.lose_the_owner(nodes, balancer, &client, &id)?;
        traces.record(self.machine)?;
        if !self.arguments.once {
            self.how_to_go_on(nodes, balancer, key, &id);
            self.stay(nodes)?;
        }
        // While there is a quorum: a node that ends with the others could not have its deletes decided.
        if nodes.iter().all(HostNode::runs) {
            steps::step("delete the sandboxes", || client.list()?.iter().try_for_each(|id| client.delete(id)))?;
        }
        Ok(())
    }

    /// Kills the owner, hears what the cluster says, starts the owner again.
    fn lose_the_owner(&self, nodes: &mut [HostNode], balancer: &Balancer, client: &Client, id: &str) -> Result<()> {
        let sandbox = client.get(id)?;
        let owner = nodes.iter().position(|node| sandbox["node"] == node.id).context("the sandbox is nobody's")?;
        let name = nodes[owner].host.name().to_owned();
        let witness = &nodes[(owner + 1) % nodes.len()].host.name().to_owned();
        let first_process = first_process_of(client, id)?;
        let leads = nodes[owner].client.health()?["leader"] == nodes[owner].id;
        println!("{name} owns sandbox {id}{}. Now it dies:", if leads { " and leads the cluster" } else { "" });
        steps::step(&format!("kill -9 {name}"), || nodes[owner].kill())?;
        let through = &nodes[(owner + 1) % nodes.len()].client;
        let shown = steps::step(&format!("ask {witness} until it shows the sandbox as unreachable"), || {
            self.wait_for_status(through, id, "unreachable")
        })?;
        println!("    {} says: {}", witness, shown["error"].as_str().unwrap_or("nothing of why"));
        match through.exec(id, &["true"], HOME, PROGRAM_TIMEOUT_SECONDS) {
            Ok(_) => bail!("a command ran in a sandbox whose owner is dead"),
            Err(error) => println!("    a command in it: {error:#}"),
        }
        let healths = steps::step("wait until the other two agree on a leader", || self.agree(nodes, Some(owner)))?;
        say_leader(nodes, &healths);
        steps::step("wait until the balancer passes it by", || self.balancer_sees(balancer, 2))?;
        let second = steps::step("create another sandbox through the balancer", || {
            let sandbox = client.create(SANDBOX_TIMEOUT_SECONDS)?;
            Ok(sandbox["id"].as_str().with_context(|| format!("a sandbox without an id: {sandbox}"))?.to_owned())
        })?;
        let result = steps::step("run a command in it", || {
            client.exec(&second, &["python3", "-c", "print(2**100)"], HOME, PROGRAM_TIMEOUT_SECONDS)
        })?;
        let at = client.get(&second)?;
        let at = nodes.iter().find(|node| at["node"] == node.id).map_or("?", |node| node.host.name());
        println!("    on {at}: {}", result.stdout.trim());
        if result.stdout != "1267650600228229401496703205376\n" {
            bail!("that is not 2**100");
        }

        steps::step(&format!("start {name} again until it is healthy"), || nodes[owner].start(self.stop_asked))?;
        let through = &nodes[(owner + 1) % nodes.len()].client;
        steps::step(&format!("ask {witness} until its sandbox runs"), || self.wait_for_status(through, id, "running"))?;
        let file = steps::step("read pi.txt in it", || through.read(id, &format!("{HOME}/pi.txt")))?;
        check_pi(&file)?;
        if first_process_of(through, id)? != first_process {
            bail!("the sandbox was started anew");
        }
        println!("    it is still pi, {PI_LENGTH} bytes, and the sandbox's first process is the one from before");
        steps::step("wait until all three agree again", || self.agree(nodes, None))?;
        steps::step("wait until the balancer sees three nodes", || self.balancer_sees(balancer, 3))?;
        Ok(())
    }

    fn agree(&self, nodes: &[HostNode], without: Option<usize>) -> Result<Vec<Value>> {
        let asked: Vec<_> =
            nodes.iter().enumerate().filter(|(index, _)| Some(*index) != without).map(|(_, n)| n).collect();
        agree(&asked, self.stop_asked)
    }

    fn balancer_sees(&self, balancer: &Balancer, count: usize) -> Result<()> {
        wait("the balancer sees the nodes", self.stop_asked, || match balancer.sees(count) {
            true => Ok(()),
            false => bail!("it does not see {count}"),
        })
    }

    fn wait_for_status(&self, client: &Client, id: &str, status: &str) -> Result<Value> {
        wait(&format!("the sandbox is {status}"), self.stop_asked, || {
            let shown = client.get(id)?;
            if shown["status"] == status { Ok(shown) } else { bail!("{shown}") }
        })
    }

    fn how_to_go_on(&self, nodes: &[HostNode], balancer: &Balancer, key: &str, id: &str) {
        let url = balancer.url();
        println!();
        println!("url  {url} (the load balancer)");
        for node in nodes {
            let pid = node.pid().map(|pid| pid.to_string()).unwrap_or_default();
            let metrics = node.metrics_listen();
            println!("{}   http://{} (process {pid}), http://{metrics}/metrics", node.host.name(), node.listen());
        }
        println!("key  {key}");
        println!("try  curl -sS -H 'X-API-Key: {key}' -H 'Content-Type: application/json' \\");
        println!("       -d '{{\"cmd\":[\"python3\",\"-c\",\"print(2**100)\"]}}' {url}/api/v1/sandboxes/{id}/exec");
        println!("     or WARREN_URL={url} WARREN_API_KEY={key} {} cluster status", self.built.warren.display());
        println!("     or kill -9 one of the processes, and ask again; it stays dead until the next `up`");
        println!();
        println!("Ctrl-C ends the nodes, their sandboxes and their hosts.");
    }

    /// Until a signal comes. Nodes may be killed meanwhile: that is what they are there for.
    fn stay(&self, nodes: &mut [HostNode]) -> Result<()> {
        while !(self.stop_asked)() {
            for node in &mut *nodes {
                if let Some(words) = node.ended()? {
                    println!("{words}");
                }
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        println!();
        Ok(())
    }
}

/// When the sandbox's first process was started: another one has another time.
fn first_process_of(client: &Client, id: &str) -> Result<String> {
    let program = "print(open('/proc/1/stat').read().rsplit(')', 1)[1].split()[19])";
    let result = client.exec(id, &["python3", "-c", program], HOME, PROGRAM_TIMEOUT_SECONDS)?;
    if result.exit_code != 0 {
        bail!("the sandbox does not say when it was started: {}", result.stderr);
    }
    Ok(result.stdout)
}

fn say_leader(nodes: &[HostNode], healths: &[Value]) {
    let leader = nodes.iter().find(|node| healths[0]["leader"] == node.id);
    println!("    leader is {}, with a quorum", leader.map_or("?", |node| node.host.name()));
}
