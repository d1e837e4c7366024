//! The whole world of one run: hosts with their disks, engines and nodes, the clients, and the weather.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use types::{HostId, Incarnation, OnNodeLoss, SandboxId};
use warren_core::lifecycle::Ticket;
use warren_core::step::StepResult;
use warren_core::warm_pool::{Input as PoolInput, Target};
use warren_core::wiring::{self, Message};

mod end;

use crate::agenda::{Agenda, Event};
use crate::clients::{Clients, Op, Send, TEMPLATE_IMAGE, image_id};
use crate::fake_disk::FakeDisk;
use crate::fake_engine::{ANSWER_US_MAX, Act, Container, FakeEngine, Job, Life, Progress, Work};
use crate::front::{RESOURCES, spec};
use crate::invariants::{Invariant, Violation};
use crate::mail::{Actor, Letter};
use crate::network::{Network, Packet};
use crate::node::{Identity, Node, Outside, Phase};
use crate::oracle::Oracle;
use crate::rng::Rng;
use crate::trace::Trace;
use crate::weather::{Bug, Weather};

/// Microseconds after the last fault by which all must be as it is wanted: the pool's longest pause, a step's
/// time-out and the longest pause of a removal, each with room.
const CALM_US_MAX: u64 = 900_000_000;

/// Microseconds after which no sandbox is left that was to end: the longest life, the time between two looks, and as
/// much as the clock may have been set by.
const LIFETIME_US_MAX: u64 = 120_000_000;

/// Events of one run: far more than any needs.
const EVENTS_MAX: u64 = 3_000_000;

/// Microseconds after which a newcomer that heard nothing asks again.
const ASK_AGAIN_US: u64 = 2_000_000;

/// What outlives a node's process, and the process.
pub struct Host {
    pub(crate) name: HostId,
    pub(crate) disk: FakeDisk,
    pub(crate) engine: FakeEngine,
    /// On the host's disk: the last life's number.
    pub(crate) incarnation: Incarnation,
    /// On the host's disk: its id in the log, where it has joined.
    pub(crate) member: Option<u64>,
    /// On the host's disk: it began the cluster.
    pub(crate) first: bool,
    /// On the host's disk: who bears which member id, as it was told when it joined.
    told_of: Vec<(u64, usize)>,
    /// The number of its last asking to be let in.
    ask: u64,
    /// Its node's process stands still until then.
    pub(crate) still_until_us: u64,
    /// Processes so far.
    lives: u64,
    pub(crate) node: Option<Node>,
}

/// One run.
pub struct World {
    pub(crate) agenda: Agenda,
    pub(crate) rng: Rng,
    pub(crate) weather: Weather,
    pub(crate) oracle: Oracle,
    trace: Trace,
    pub(crate) network: Network,
    pub(crate) hosts: Vec<Host>,
    /// Logs that were lost, by their members: whoever counted on them did so before, and they never vote again.
    pub(crate) lost_disks: BTreeMap<u64, FakeDisk>,
    clients: Clients,
    /// What the template's image stands for; grows with each change.
    pub(crate) image_version: u64,
    pub(crate) calm: bool,
    poked: bool,
    events: u64,
    foreign: Vec<(usize, SandboxId, Container)>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Hash over the whole trace.
    pub hash: u64,
    /// Events.
    pub events: u64,
    /// Lives of nodes.
    pub lives: u64,
    /// Virtual seconds.
    pub seconds: u64,
    /// What did not hold.
    pub violation: Option<Violation>,
    /// The trace's lines, where they were asked for.
    pub lines: Vec<String>,
}

impl World {
    /// The world of one seed, before anything happens.
    #[must_use]
    pub fn new(nodes: usize, seed: u64, bug: Option<Bug>, keep_trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let weather = Weather::draw(nodes, &mut rng, bug);
        let mut world = Self {
            agenda: Agenda::default(),
            rng,
            weather,
            oracle: Oracle::new(bug),
            network: Network::default(),
            trace: Trace::new(keep_trace),
            hosts: Vec::new(),
            lost_disks: BTreeMap::new(),
            clients: Clients::default(),
            image_version: 1,
            calm: false,
            poked: false,
            events: 0,
            foreign: Vec::new(),
        };
        world.trace.note(0, format_args!("{:?}", world.weather));
        world.build();
        world
    }

    fn build(&mut self) {
        for host in 0..self.weather.nodes {
            self.add_host();
            // Those that join do so one after another, or all at once.
            let delay_us = if host == 0 { 0 } else { self.rng.below(4_000_000) };
            self.agenda.after(delay_us, Event::Start(host));
        }
        if self.weather.another_comes {
            let delay_us = self.rng.below(self.weather.storm_us);
            self.agenda.after(delay_us, Event::Comes(self.weather.nodes));
        }
        for client in 0..self.weather.clients {
            self.agenda.after(self.rng.below(500_000), Event::Turn(client));
        }
        self.agenda.after(self.weather.storm_us, Event::Calm);
        for host in 0..self.weather.nodes {
            self.later(self.weather.death_every_us, Event::Death(host));
        }
        self.later(self.weather.clock_set_every_us, Event::ClockSet);
        self.later(self.weather.retarget_every_us, Event::Retarget);
        self.later(self.weather.broken_every_us, Event::Broken(true));
        self.later(self.weather.cut_every_us, Event::Cut);
        self.later(self.weather.crash_every_us, Event::Crash);
        self.later(self.weather.still_every_us, Event::StandsStill);
        self.later(self.weather.store_lost_every_us, Event::StoreLost);
    }

    fn add_host(&mut self) {
        let host = self.hosts.len();
        let mut engine = FakeEngine::default();
        engine.ignores_lease = self.weather.bug == Some(Bug::LeaseIgnored);
        let life = Life::Running(warren_core::step::AgentState::Bare);
        let shape = spec(TEMPLATE_IMAGE, "python:1", OnNodeLoss::Wait).slot_shape();
        let foreign = Container { ours: false, shape, life, charge: None, env: None, execs: 0 };
        let id = self.rng.sandbox_id();
        self.foreign.push((host, id, foreign.clone()));
        engine.containers.insert(id, foreign);
        self.network.add_host();
        self.agenda.add_clocks(self.weather.nodes == 1, &mut self.rng);
        self.hosts.push(Host {
            name: HostId::new(format!("host-{}", host + 1)),
            disk: FakeDisk::default(),
            engine,
            incarnation: Incarnation(0),
            member: (host == 0).then_some(1),
            first: host == 0,
            told_of: Vec::new(),
            ask: 0,
            still_until_us: 0,
            lives: 0,
            node: None,
        });
    }

    /// Has something happen after about this long, if at all.
    pub(crate) fn later(&mut self, every_us: u64, event: Event) {
        if every_us > 0 {
            let delay_us = self.rng.between(every_us / 2, every_us * 2);
            self.agenda.after(delay_us, event);
        }
    }

    /// Runs until something does not hold, or all is as it is wanted after the faults.
    #[must_use]
    pub fn run(mut self, seed: u64) -> Report {
        let panicked = catch_unwind(AssertUnwindSafe(|| self.run_on())).err();
        if let Some(panic) = panicked {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            self.oracle.broken(Invariant::NoPanic, text.unwrap_or_default());
        }
        if let Some(violation) = self.oracle.violation() {
            self.trace.note(self.agenda.now_us(), format_args!("VIOLATION {violation}"));
        }
        Report {
            seed,
            hash: self.trace.hash(),
            events: self.events,
            lives: self.hosts.iter().map(|host| host.lives).sum(),
            seconds: self.agenda.now_us() / 1_000_000,
            violation: self.oracle.violation().cloned(),
            lines: self.trace.into_lines(),
        }
    }

    fn run_on(&mut self) {
        while let Some(event) = self.agenda.next() {
            self.events += 1;
            if self.events > EVENTS_MAX {
                self.oracle.broken(Invariant::EveryoneAnswered, format!("no end after {EVENTS_MAX} events"));
                return;
            }
            if let Some(host) = self.process_of(&event) {
                if self.agenda.now_us() < self.hosts[host].still_until_us {
                    let delay_us = self.hosts[host].still_until_us - self.agenda.now_us();
                    self.agenda.after(delay_us, event);
                    continue;
                }
                if self.rng.chance(self.weather.crash_ppm) {
                    self.crash(host, "kill -9");
                }
            }
            self.happen(event);
            self.after_event();
            if self.oracle.violation().is_some() {
                return;
            }
            // Not before the last sandbox that is to end has ended.
            let calm_us = self.agenda.now_us().saturating_sub(self.weather.storm_us);
            if (self.poked && calm_us > LIFETIME_US_MAX) || calm_us > CALM_US_MAX {
                let Some(Violation { invariant, detail }) = self.unsettled() else {
                    self.trace.note(self.agenda.now_us(), format_args!("all is as it is wanted"));
                    return;
                };
                if calm_us > CALM_US_MAX {
                    self.oracle.broken(invariant, detail);
                    return;
                }
            }
        }
    }

    /// The host whose process an event belongs to.
    fn process_of(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Hop(host, _)
            | Event::Tick(host, _)
            | Event::Flushed(host, _)
            | Event::DiscardAgain(host, ..)
            | Event::Lists(host, _)
            | Event::Listed(host, _)
            | Event::DeathNews(host, ..)
            | Event::WakeSupervisor(host, ..)
            | Event::WakePool(host, _)
            | Event::Arrives(host, ..)
            | Event::CallLost(host, ..)
            | Event::Request(host, ..) => Some(*host).filter(|host| self.hosts[*host].node.is_some()),
            _ => None,
        }
    }

    pub(crate) fn target(&self) -> Target {
        let image_id = image_id(TEMPLATE_IMAGE, self.image_version);
        let shape = spec(TEMPLATE_IMAGE, &image_id, OnNodeLoss::Wait).slot_shape();
        Target { shape, resources: RESOURCES, size: self.weather.pool_size }
    }

    pub(crate) fn note(&mut self, line: std::fmt::Arguments<'_>) {
        self.trace.note(self.agenda.now_us(), line);
    }

    /// Has a node do something with the world around it, and gives its clients what it answered.
    pub(crate) fn with_node(&mut self, host: usize, life: Option<u64>, act: impl FnOnce(&mut Node, &mut Outside<'_>)) {
        let mut replies = Vec::new();
        let Host { node, disk, engine, incarnation, .. } = &mut self.hosts[host];
        let Some(node) = node.as_mut().filter(|node| life.is_none_or(|life| node.life == life)) else {
            return;
        };
        let mut outside = Outside {
            host,
            agenda: &mut self.agenda,
            rng: &mut self.rng,
            oracle: &mut self.oracle,
            trace: &mut self.trace,
            weather: &self.weather,
            network: &self.network,
            disk,
            engine,
            incarnation,
            image_version: self.image_version,
            replies: &mut replies,
        };
        act(node, &mut outside);
        let halted = node.halted.clone();
        for (ticket, op, reply) in replies {
            self.note(format_args!("answer to request {}, {op}: {reply}", ticket.0));
            let client = if self.rng.chance(self.weather.answer_lost_ppm) {
                self.clients.lost(ticket, &mut self.rng)
            } else {
                self.oracle.answered(ticket, &op, &reply);
                self.clients.answered(ticket, &reply, &mut self.rng)
            };
            self.next_turn(client);
        }
        if let Some(reason) = halted {
            self.crash(host, &reason);
        }
    }

    fn next_turn(&mut self, client: Option<usize>) {
        if let Some(client) = client
            && !self.calm
        {
            let delay_us = self.rng.below(self.weather.think_us * 2);
            self.agenda.after(delay_us, Event::Turn(client));
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Hop(host, life) => self.with_node(host, Some(life), Node::take_hop),
            Event::Tick(host, life) => self.with_node(host, Some(life), Node::tick),
            Event::Flushed(host, life) => self.flushed(host, life),
            Event::Engine(host, job) => self.engine(host, job),
            Event::DiscardAgain(host, life, slot) => {
                self.with_node(host, Some(life), |node, out| node.run(slot, Work::Discard, out));
            }
            Event::Lists(host, life) => self.with_node(host, Some(life), Node::lists),
            Event::Listed(host, life) => self.with_node(host, Some(life), Node::listed),
            Event::DeathNews(host, life, slot) => {
                self.with_node(host, Some(life), |node, out| node.died(slot, out));
            }
            Event::WakeSupervisor(host, life, id) => self.with_node(host, Some(life), |node, out| {
                node.route(Message::Supervisor(id, warren_core::lifecycle::Input::Wake), out);
            }),
            Event::WakePool(host, life) => {
                self.with_node(host, Some(life), |node, out| node.route(Message::Pool(PoolInput::Wake), out));
            }
            Event::Start(host) => self.start(host),
            Event::Comes(host) => {
                self.add_host();
                self.start(host);
            }
            Event::Arrives(to, from, packet) => self.arrives(to, from, packet),
            Event::CallLost(host, life, call) => {
                self.with_node(host, Some(life), |node, out| node.call_lost(call, out));
            }
            Event::Cut => self.cut(),
            Event::Healed(number) => self.network.heal(number),
            Event::Crash => self.some_crash(),
            Event::StandsStill => self.stands_still(),
            Event::StoreLost => self.store_lost(),
            Event::Death(host) => self.death(host),
            Event::DeathOf(host, slot) => self.death_of(host, slot),
            Event::ClockSet => self.set_clock(),
            Event::Turn(client) => self.turn(client),
            Event::Request(host, ticket, op) => self.request(host, ticket, op),
            Event::GivesUp(ticket) => {
                let client = self.clients.gives_up(ticket, &mut self.rng);
                if client.is_some() {
                    self.note(format_args!("nobody waits for request {} any longer", ticket.0));
                }
                self.next_turn(client);
            }
            Event::Retarget => self.retarget(),
            Event::Broken(broken) => self.broken(broken),
            Event::Calm => self.calm_down(),
            Event::Poke => self.poke(),
        }
    }

    fn start(&mut self, host: usize) {
        if self.hosts[host].node.is_some() {
            return;
        }
        let target = self.target();
        let names = (0..=self.weather.nodes).map(|host| HostId::new(format!("host-{}", host + 1))).collect();
        let Host { name, disk, engine, incarnation, node, member, first, told_of, lives, .. } = &mut self.hosts[host];
        let Some(member) = *member else {
            self.ask_to_join(host);
            return;
        };
        *incarnation = incarnation.next();
        *lives += 1;
        let identity = Identity { me: name.clone(), member, first: *first, told_of: told_of.clone(), names };
        self.trace.note(self.agenda.now_us(), format_args!("life {incarnation} of {name} begins"));
        let mut outside = Outside {
            host,
            agenda: &mut self.agenda,
            rng: &mut self.rng,
            oracle: &mut self.oracle,
            trace: &mut self.trace,
            weather: &self.weather,
            network: &self.network,
            disk,
            engine,
            incarnation,
            image_version: self.image_version,
            replies: &mut Vec::new(),
        };
        let recovered = outside.disk.recover();
        *node = Some(Node::start(identity, *lives, recovered, target, &mut outside));
    }

    /// A host without an identity asks some node to let it in.
    fn ask_to_join(&mut self, host: usize) {
        let open = |host: &Host| host.node.as_ref().is_some_and(|node| node.phase == Phase::Open);
        let others: Vec<usize> = (0..self.hosts.len()).filter(|other| open(&self.hosts[*other])).collect();
        if let Some(asked) = self.rng.pick(&others).copied() {
            self.note(format_args!("{host} asks {asked} to be let in"));
            self.hosts[host].ask += 1;
            let delay_us = self.rng.between(50, self.weather.packet_us_max);
            let ask = Packet::Ask(self.hosts[host].ask, self.agenda.wall(host));
            self.agenda.after(delay_us, Event::Arrives(asked, host, ask));
        }
        self.agenda.after(ASK_AGAIN_US, Event::Start(host));
    }

    fn arrives(&mut self, to: usize, from: usize, packet: Packet) {
        if !self.network.carries(from, to) {
            return;
        }
        if let Packet::Accepted(ask, member, told_of) = packet {
            let host = &mut self.hosts[to];
            if host.member.is_none() && host.ask == ask {
                host.member = Some(member);
                host.told_of = told_of;
                self.start(to);
            }
            return;
        }
        self.with_node(to, None, |node, out| node.arrives(from, packet, out));
    }

    pub(crate) fn crash(&mut self, host: usize, why: &str) {
        self.note(format_args!("CRASH of node {host}: {why}"));
        let Some(node) = self.hosts[host].node.take() else {
            return;
        };
        let kept = self.hosts[host].disk.crash(&mut self.rng);
        for batch in &kept {
            self.note(format_args!("batch {} is durable all the same", batch.number));
        }
        for (slot, act) in self.hosts[host].engine.crash(&mut self.rng) {
            self.note(format_args!("{slot} {act:?} happens all the same"));
            if act == Act::Boot {
                self.oracle.process_began(host, slot);
            }
        }
        self.hosts[host].still_until_us = 0;
        if why == crate::log::NO_MAJORITY {
            // It may know of nobody who leads by now, and so can not answer: whoever runs it tells it of the others.
            let all = self.hosts.iter().enumerate().filter_map(|(at, host)| Some((host.member?, at)));
            self.hosts[host].told_of = all.collect();
        }
        let lost: Vec<_> = node.waiting.keys().copied().collect();
        for ticket in lost {
            let client = self.clients.lost(ticket, &mut self.rng);
            self.next_turn(client);
        }
        let pauses_us: &[u64] = match self.weather.nodes {
            1 => &[10_000, 300_000, 5_000_000],
            _ => &[10_000, 300_000, 1_000_000, 5_000_000, 15_000_000],
        };
        let delay_us = *self.rng.pick(pauses_us).unwrap_or(&10_000);
        self.agenda.after(delay_us, Event::Start(host));
    }

    fn flushed(&mut self, host: usize, life: u64) {
        if self.hosts[host].node.as_ref().is_none_or(|node| node.life != life) {
            return;
        }
        if self.rng.chance(self.weather.flush_fails_ppm) {
            let batch = self.hosts[host].disk.first_flushing();
            self.note(format_args!("the flush of batch {batch} fails"));
            let failed = consensus::Input::PersistFailed { batch, reason: "the disk failed".to_owned() };
            self.with_node(host, Some(life), |node, out| {
                node.tell(Actor::Consensus, Letter::Consensus(failed), out);
            });
            return;
        }
        let batches = self.hosts[host].disk.flushed();
        let Some(last) = batches.last().map(|batch| batch.number) else {
            return;
        };
        self.note(format_args!("{host} has batch {last} durable"));
        self.with_node(host, Some(life), |node, out| {
            if out.disk.begin_flush() {
                node.flush_begins(out);
            }
            node.tell(Actor::Consensus, Letter::Consensus(consensus::Input::Persisted { batch: last }), out);
        });
    }

    fn engine(&mut self, host: usize, job: u64) {
        let before = self.hosts[host].engine.jobs.get(&job).map(|job| (job.slot, job.next_act()));
        let progress = self.hosts[host].engine.advance(job, &mut self.rng);
        if let Some((slot, Some(Act::Boot))) = before
            && self.hosts[host].engine.containers.get(&slot).is_some_and(Container::runs)
        {
            self.oracle.process_began(host, slot);
        }
        match progress {
            None => {}
            Some(Progress::Again(delay_us)) => {
                self.agenda.after(delay_us, Event::Engine(host, job));
                if let Some(job) = self.hosts[host].engine.jobs.get(&job).filter(|job| job.next_act().is_none())
                    && self.rng.chance(self.weather.death_at_end_ppm)
                {
                    let delay_us = self.rng.below(ANSWER_US_MAX);
                    self.agenda.after(delay_us, Event::DeathOf(host, job.slot));
                }
            }
            Some(Progress::Ended(job, result)) => {
                let Job { slot, work, .. } = *job;
                self.note(format_args!("{slot} {work} {}", crate::words::result(&result)));
                match work {
                    Work::Step(requester, step) => {
                        let message = wiring::step_ended(requester, slot, step.kind(), result);
                        self.with_node(host, None, |node, out| node.route(message, out));
                    }
                    Work::Discard => {
                        if matches!(result, StepResult::Failed(_)) {
                            let life = self.hosts[host].lives;
                            self.agenda.after(200_000, Event::DiscardAgain(host, life, slot));
                        }
                    }
                }
            }
        }
    }

    fn turn(&mut self, client: usize) {
        if !self.calm {
            for send in self.clients.turn(client, &mut self.rng) {
                self.send(send);
            }
        }
    }

    fn send(&mut self, Send { delay_us, ticket, op, waits }: Send) {
        self.oracle.asked(&op);
        let host = self.rng.index(self.hosts.len());
        self.agenda.after(delay_us, Event::Request(host, ticket, op));
        if let Some(patience_us) = waits {
            self.agenda.after(delay_us + patience_us, Event::GivesUp(ticket));
        }
    }

    fn request(&mut self, host: usize, ticket: Ticket, op: Op) {
        self.note(format_args!("{host} request {}: {op}", ticket.0));
        if self.hosts[host].node.is_none() {
            let client = self.clients.lost(ticket, &mut self.rng);
            self.next_turn(client);
            return;
        }
        if let Some(node) = &self.hosts[host].node {
            self.oracle.requested(ticket, &op, node.map.applied());
        }
        self.with_node(host, None, |node, out| node.request(ticket, op, out));
    }
}
