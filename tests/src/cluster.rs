//! Several nodes under test that are one cluster: on this host's loopback and on one Podman store, or each on a host
//! of its own, whose network can be cut and whose power can fail.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};

use hosts::Machine;
use rustix::process::Signal;
use serde_json::Value;

use crate::api::{Api, id_of};
use crate::engine::{binaries, containers_of};
use crate::node::{END_WITHIN, Node, Options, Peering, free_address};
use crate::remains;
use crate::serial;
use crate::wait::within_settling;

/// Peers listen below the ports that the kernel gives to outgoing connections: else one of those could take the port
/// of a node that is down.
const PEER_PORTS: std::ops::Range<u16> = 20_000..30_000;

/// Where a node on a host of its own lets the others in.
const PEER_PORT_ON_A_HOST: u16 = 7701;

/// Machines of tests are named by this and the pid of their process.
const MACHINE_PREFIX: &str = "te";

/// Voters of a cluster that has enough nodes.
const VOTERS: usize = 3;

/// Nodes that are one cluster, by their numbers. Dropping it takes away all that they made.
pub struct Cluster {
    nodes: Vec<Node>,
    options: Options,
    /// Those of the first nodes, where they differ.
    own_options: Vec<Options>,
    // Goes after the nodes.
    machine: Option<Machine>,
    // The turn ends last.
    _turn: File,
}

/// A process that was not let in, and ended by itself.
#[derive(Debug)]
pub struct Refused {
    /// How it ended.
    pub status: ExitStatus,
    /// What it said.
    pub said: String,
}

/// Who votes and who learns, by the ids of members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// Voters.
    pub voters: Vec<u64>,
    /// Learners.
    pub learners: Vec<u64>,
}

impl Cluster {
    /// Starts so many nodes and waits until they vote as they should.
    #[must_use]
    pub fn start(size: usize) -> Self {
        Self::start_with(size, Options::default())
    }

    /// The same, with nodes of this kind.
    ///
    /// # Panics
    /// They do not become a cluster.
    #[must_use]
    pub fn start_with(size: usize, options: Options) -> Self {
        let turn = serial::take_turn();
        remains::sweep();
        let mut cluster = Self { nodes: Vec::new(), options, own_options: Vec::new(), machine: None, _turn: turn };
        cluster.grow(size);
        cluster
    }

    /// Starts nodes of these kinds, each on a host of its own. `alone`: the test uses the machine's cores, so no other
    /// such cluster is there meanwhile; else it mostly waits.
    ///
    /// # Errors
    /// This machine can not be made into several hosts, and why.
    ///
    /// # Panics
    /// They do not become a cluster.
    pub fn on_hosts(options: &[Options], alone: bool) -> Result<Self, String> {
        let turn = serial::take_turn_on_hosts(alone);
        for taken in hosts::sweep(MACHINE_PREFIX).map_err(|error| format!("{error:#}"))? {
            eprintln!("taken away, left by a run that was killed: {taken}");
        }
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let machine = Machine::new(&format!("{MACHINE_PREFIX}{}x{number}", std::process::id()));
        let machine = machine.map_err(|error| format!("{error:#}"))?;
        // Whatever hinders hosts hinders the first.
        machine.add_host("n0").map_err(|error| format!("{error:#}"))?;
        for number in 1..options.len() {
            machine.add_host(&format!("n{number}")).unwrap_or_else(|error| panic!("no further host: {error:#}"));
        }
        let (own_options, options) = (options.to_vec(), Options::default());
        let size = own_options.len();
        let mut cluster = Self { nodes: Vec::new(), options, own_options, machine: Some(machine), _turn: turn };
        cluster.grow(size);
        Ok(cluster)
    }

    fn grow(&mut self, size: usize) {
        for _ in 0..size {
            self.join_another();
        }
        within_settling("enough voters", || {
            let membership = self.membership(self.leader());
            let wanted = if size < VOTERS { 1 } else { VOTERS };
            if membership.voters.len() == wanted { Ok(()) } else { Err(format!("{membership:?}")) }
        });
    }

    /// Starts one more node, the first or one that joins, and returns its number.
    pub fn join_another(&mut self) -> usize {
        let token = (!self.nodes.is_empty()).then(|| self.token(&[]));
        let mut node = self.newcomer(token);
        node.begin(&[]);
        node.wait_until_healthy();
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Starts a process that wants to join by this token and is not let in.
    ///
    /// # Panics
    /// It is let in.
    #[must_use]
    pub fn refuses(&self, token: &str) -> Refused {
        let mut node = self.newcomer(Some(token.to_owned()));
        node.begin(&[]);
        let status = node.wait_for_end("being refused", END_WITHIN);
        Refused { status, said: node.log() }
    }

    /// Starts a second process in a node's data directory.
    ///
    /// # Panics
    /// It can not be started.
    #[must_use]
    pub fn refuses_a_second_process_of(&self, node: usize) -> Refused {
        let output = self.node(node).command(free_address()).output().expect("the node can be started");
        Refused { status: output.status, said: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    /// A join token of the first node, with flags beside the usual ones.
    ///
    /// # Panics
    /// There is none to be had.
    #[must_use]
    pub fn token(&self, flags: &[&str]) -> String {
        let (warren, _) = binaries();
        let mut command = Command::new(warren);
        command.arg("token").arg("--data-dir").arg(self.node(0).data_dir()).args(flags);
        let output = command.output().expect("the token can be asked for");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn newcomer(&self, token: Option<String>) -> Node {
        // Any node that runs lets others in.
        let inside = self.running().next().and_then(|node| self.nodes[node].peering.as_ref());
        let join = token.and_then(|token| Some((inside?.listen, token)));
        let number = self.nodes.len();
        let name = format!("node-{number}");
        let host = self.machine.as_ref().map(|machine| machine.hosts().swap_remove(number));
        let listen = match &host {
            Some(host) => SocketAddr::from((host.address(), PEER_PORT_ON_A_HOST)),
            None => free_peer_address(),
        };
        let options = self.own_options.get(number).unwrap_or(&self.options).clone();
        Node::prepare(&name, options, Some(Peering { listen, join }), host)
    }

    /// A node.
    #[must_use]
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    /// A node's API: what a client of it has.
    #[must_use]
    pub fn door(&self, number: usize) -> &Api {
        self.nodes[number].api()
    }

    /// How many nodes there are, running or not.
    #[must_use]
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// The nodes that run.
    pub fn running(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes.len()).filter(|number| self.nodes[*number].runs())
    }

    /// All nodes that run but this one.
    #[must_use]
    pub fn others(&self, node: usize) -> Vec<usize> {
        self.running().filter(|other| *other != node).collect()
    }

    /// The node that leads, as all that run agree.
    ///
    /// # Panics
    /// They do not agree on one that runs.
    #[must_use]
    #[track_caller]
    pub fn leader(&self) -> usize {
        self.leader_among(&self.running().collect::<Vec<_>>())
    }

    /// The node that leads, as all of these agree: one side of a cut.
    ///
    /// # Panics
    /// They do not agree on one of them that has a quorum.
    #[must_use]
    #[track_caller]
    pub fn leader_among(&self, side: &[usize]) -> usize {
        within_settling("one leader for all", || {
            let mut named: Vec<Value> = Vec::new();
            for number in side.iter().copied() {
                let health = self.nodes[number].api().call_without_key("GET", "/health").send();
                let health = health.map_err(|error| error.to_string())?.json();
                if health["quorum"] != true {
                    return Err(format!("node {number}: {health}"));
                }
                named.push(health["leader"].clone());
            }
            let leader = named.first().and_then(|leader| self.number_of(leader.as_str()?));
            match leader.filter(|leader| side.contains(leader)) {
                Some(leader) if named.iter().all(|other| *other == named[0]) => Ok(leader),
                _ => Err(format!("{named:?}")),
            }
        })
    }

    /// The node that has this sandbox.
    ///
    /// # Panics
    /// No node that runs knows it.
    #[must_use]
    #[track_caller]
    pub fn owner_of(&self, id: &str) -> usize {
        let asked = self.running().next().expect("a node runs");
        let shown = within_settling("a node that knows it", || {
            // It may have been made a moment ago through another one.
            let answer = self.nodes[asked].api().get(&format!("/sandboxes/{id}?stale=true"));
            if answer.status == 200 { Ok(answer.json()) } else { Err(answer.text()) }
        });
        let owner = shown["node"].as_str().and_then(|host| self.number_of(host));
        owner.unwrap_or_else(|| panic!("no node of ours has it: {shown}"))
    }

    /// A node's host id.
    #[must_use]
    pub fn host(&self, node: usize) -> String {
        self.nodes[node].identity().host
    }

    fn number_of(&self, host: &str) -> Option<usize> {
        (0..self.nodes.len()).find(|number| self.host(*number) == host)
    }

    /// Who votes and who learns, as far as a node knows.
    ///
    /// # Panics
    /// It does not answer.
    #[must_use]
    #[track_caller]
    pub fn membership(&self, node: usize) -> Membership {
        let nodes = self.nodes[node].api().get("/nodes?stale=true").expect(200).json();
        let ids = |roles: &[&str]| -> Vec<u64> {
            let all = nodes.as_array().into_iter().flatten();
            let those = all.filter(|node| node["role"].as_str().is_some_and(|role| roles.contains(&role)));
            those.filter_map(|node| node["member"].as_u64()).collect()
        };
        Membership { voters: ids(&["leader", "voter"]), learners: ids(&["learner"]) }
    }

    /// Ends a node as a power cut would end a process.
    pub fn kill9(&mut self, node: usize) {
        self.nodes[node].kill9();
    }

    /// Ends a node in order.
    pub fn sigterm(&mut self, node: usize) -> ExitStatus {
        self.nodes[node].sigterm()
    }

    /// Stops a node's process in the midst of whatever it does; its sandboxes run on.
    pub fn freeze(&self, node: usize) {
        self.nodes[node].signal(Signal::STOP);
    }

    /// Lets a frozen node go on as if nothing had been.
    pub fn thaw(&self, node: usize) {
        self.nodes[node].signal(Signal::CONT);
    }

    /// Brings back whatever an earlier case left frozen or down.
    pub fn revive(&mut self) {
        if self.machine.is_some() {
            self.heal();
        }
        for number in 0..self.nodes.len() {
            // A kill point may have struck.
            self.nodes[number].has_ended();
        }
        for node in self.nodes.iter().filter(|node| node.runs()) {
            node.lives_on();
            node.signal(Signal::CONT);
        }
        let down: Vec<usize> = (0..self.nodes.len()).filter(|number| !self.nodes[*number].runs()).collect();
        self.restart_together(&down);
        let _someone = self.leader();
        self.settles();
    }

    /// Waits until the node that is asked knows that another one counts as lost, from now on.
    #[track_caller]
    pub fn loses(&self, node: usize, asked: usize) {
        self.loses_again(node, asked, self.times_lost(node, asked));
    }

    /// The same, where it counted as lost so many times before it was made so.
    #[track_caller]
    pub fn loses_again(&self, node: usize, asked: usize, before: usize) {
        within_settling("a node declared lost", || {
            if self.times_lost(node, asked) > before { Ok(()) } else { Err("it is not".to_owned()) }
        });
    }

    /// How often a node has counted as lost, as the node that is asked knows.
    #[must_use]
    pub fn times_lost(&self, node: usize, asked: usize) -> usize {
        let words = format!("a node is lost node={}", self.host(node));
        self.nodes[asked].log().matches(&words).count()
    }

    /// Starts a node again and waits until it is healthy.
    pub fn restart(&mut self, node: usize) {
        self.nodes[node].restart();
    }

    /// Starts a node again so that it kills itself at this point of its start, and waits for that.
    pub fn restart_into_kill_point(&mut self, node: usize, point: &str) {
        self.nodes[node].restart_into_kill_point(point);
    }

    /// Starts nodes again that need each other, and waits until all are healthy.
    pub fn restart_together(&mut self, nodes: &[usize]) {
        for node in nodes {
            self.nodes[*node].kill9();
            self.nodes[*node].begin(&[]);
        }
        for node in nodes {
            self.nodes[*node].wait_until_healthy();
        }
    }

    /// What does not fit together between the nodes' views, their placement and the host.
    #[must_use]
    pub fn differences(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut shown: BTreeMap<usize, Vec<Value>> = BTreeMap::new();
        for number in self.running() {
            match self.nodes[number].api().call("GET", "/sandboxes").send() {
                Ok(answer) if answer.status == 200 => {
                    shown.insert(number, answer.json().as_array().cloned().unwrap_or_default());
                }
                Ok(answer) => wrong.push(format!("node {number} answers {}", answer.text())),
                Err(error) => wrong.push(format!("node {number} answers {error}")),
            }
        }
        let Some((first, of_first)) = shown.first_key_value() else { return wrong };
        for (number, of_it) in &shown {
            if of_it != of_first {
                let ids = |list: &[Value]| list.iter().map(|s| (id_of(s), s["status"].to_string())).collect::<Vec<_>>();
                wrong.push(format!("node {first} shows {:?}, {number} {:?}", ids(of_first), ids(of_it)));
            }
            let held = self.nodes[*number].differences_from(of_it, self.machine.is_some());
            wrong.extend(held.into_iter().map(|difference| format!("node {number}: {difference}")));
        }
        if self.machine.is_some() {
            return wrong;
        }
        let hosts: Vec<String> = (0..self.nodes.len()).map(|number| self.host(number)).collect();
        let all = containers_of(&self.nodes[0].identity().cluster);
        let strangers = all.iter().filter(|container| !hosts.contains(&container.host));
        wrong.extend(strangers.map(|container| format!("container {} is of no node", container.sandbox)));
        wrong
    }

    /// Waits until every node that runs shows the same, and what the host holds of each is that and its pool.
    ///
    /// # Panics
    /// That is never so.
    #[track_caller]
    pub fn settles(&self) {
        within_settling("the cluster fits its placement", || match self.differences() {
            wrong if wrong.is_empty() => Ok(()),
            wrong => Err(wrong.join("; ")),
        });
    }
}

impl Cluster {
    /// Deletes everything through all nodes, and waits until nothing is left but the pools.
    ///
    /// # Panics
    /// Something stays.
    #[track_caller]
    pub fn empty(&self) {
        let doors: Vec<usize> = self.running().collect();
        let ids = self.door(doors[0]).ids("");
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for door in &doors {
                let (ids, next) = (&ids, &next);
                scope.spawn(move || {
                    while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                        self.door(*door).destroy(id);
                    }
                });
            }
        });
        for door in doors {
            assert_eq!(self.door(door).ids(""), Vec::<String>::new());
        }
        self.settles();
    }
}

/// What can befall nodes that have hosts of their own.
///
/// # Panics
/// They have none, or the kernel refuses.
impl Cluster {
    fn machine(&self) -> &Machine {
        self.machine.as_ref().expect("a cluster on hosts")
    }

    fn host_name(&self, node: usize) -> String {
        self.machine().hosts()[node].name().to_owned()
    }

    /// Nothing passes between a node and the others any more. Clients still reach it, and its sandboxes run on.
    pub fn cut_off(&self, node: usize) {
        self.machine().isolate(self.host_name(node)).expect("the network can be cut");
    }

    /// Nothing passes from the first to the second any more, but from the second to the first.
    pub fn cut_one_way(&self, from: usize, to: usize) {
        self.machine().cut_one_way(self.host_name(from), self.host_name(to)).expect("the network can be cut");
    }

    /// Everything passes again between all nodes.
    pub fn heal(&self) {
        self.machine().heal().expect("the network can be mended");
    }

    /// Cuts the power of a node's host: its process, its sandboxes and their memory are gone, its disk stays.
    pub fn power_off(&mut self, node: usize) {
        self.machine().hosts()[node].kill_power().expect("the power can be cut");
        // It has died of that.
        self.nodes[node].kill9();
    }

    /// Turns a host on again, and starts its node.
    pub fn power_on(&mut self, node: usize) {
        self.machine().hosts()[node].power_on().expect("the power can be turned on");
        self.nodes[node].restart();
    }

    /// A node, to be told what it dies of.
    pub fn node_mut(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number]
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // All first: whoever lives on would make again what is taken away.
        for node in &mut self.nodes {
            node.kill9();
        }
    }
}

fn free_peer_address() -> SocketAddr {
    // Each process of tests begins elsewhere; who has the turn is alone, so no other takes it meanwhile.
    let from = u16::try_from(std::process::id() % u32::from(PEER_PORTS.end - PEER_PORTS.start)).unwrap_or_default();
    let all = PEER_PORTS.start + from..PEER_PORTS.end;
    let free = all.chain(PEER_PORTS).find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    SocketAddr::from((Ipv4Addr::LOCALHOST, free.expect("a free port")))
}
