//! The whole world of one run: hosts with their disks, engines and nodes, the clients, and the weather.

use std::panic::{AssertUnwindSafe, catch_unwind};

use types::{HostId, Incarnation, SandboxId};
use warren_core::warm_pool::Target;

use crate::agenda::{Agenda, Event};
use crate::clients::{Clients, Create, Op, Send, TEMPLATE_IMAGE};
use crate::fake_disk::FakeDisk;
use crate::fake_engine::{ANSWER_US_MAX, Act, Container, FakeEngine, Job, Life, Progress, Work};
use crate::front::{RESOURCES, SANDBOXES_MAX, spec};
use crate::invariants::{Invariant, Violation};
use crate::mail::{Actor, Letter};
use crate::node::{Node, Outside, Phase};
use crate::oracle::Oracle;
use crate::rng::Rng;
use crate::trace::Trace;
use crate::weather::{Bug, Weather};

use warren_core::step::StepResult;
use warren_core::warm_pool::Input as PoolInput;
use warren_core::wiring::{self, Message};

/// Microseconds after the last fault by which all must be as it is wanted: the pool's longest pause, a step's
/// time-out and the longest pause of a removal, each with room.
const CALM_US_MAX: u64 = 900_000_000;

/// Microseconds after which no sandbox is left that was to end: the longest life, the time between two looks, and as
/// much as the clock may have been set by.
const LIFETIME_US_MAX: u64 = 120_000_000;

/// What outlives a node's process, and the process.
pub struct Host {
    pub(crate) name: HostId,
    pub(crate) disk: FakeDisk,
    pub(crate) engine: FakeEngine,
    /// On the host's disk: the last life's number.
    pub(crate) incarnation: Incarnation,
    pub(crate) node: Option<Node>,
}

/// One run.
pub struct World {
    pub(crate) agenda: Agenda,
    pub(crate) rng: Rng,
    pub(crate) weather: Weather,
    pub(crate) oracle: Oracle,
    trace: Trace,
    pub(crate) hosts: Vec<Host>,
    clients: Clients,
    /// What the template's image stands for; grows with each change.
    pub(crate) image_version: u64,
    pub(crate) calm: bool,
    poked: bool,
    events: u64,
    foreign: Vec<(SandboxId, Container)>,
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
    pub fn new(seed: u64, bug: Option<Bug>, keep_trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let weather = Weather::draw(&mut rng, bug);
        let mut world = Self {
            agenda: Agenda::default(),
            rng,
            weather,
            oracle: Oracle::default(),
            trace: Trace::new(keep_trace),
            hosts: Vec::new(),
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
        let mut engine = FakeEngine::default();
        let life = Life::Running(warren_core::step::AgentState::Bare);
        let shape = spec(TEMPLATE_IMAGE, "python:1").slot_shape();
        let foreign = Container { ours: false, shape, life, charge: None, env: None, execs: 0 };
        let id = self.rng.sandbox_id();
        self.foreign.push((id, foreign.clone()));
        engine.containers.insert(id, foreign);
        let name = HostId::new("host-1");
        let disk = FakeDisk::default();
        self.hosts.push(Host { name, disk, engine, incarnation: Incarnation(0), node: None });
        self.agenda.after(0, Event::Start(0));
        for client in 0..self.weather.clients {
            self.agenda.after(self.rng.below(500_000), Event::Turn(client));
        }
        self.agenda.after(self.weather.storm_us, Event::Calm);
        self.later(self.weather.death_every_us, Event::Death(0));
        self.later(self.weather.clock_set_every_us, Event::ClockSet);
        self.later(self.weather.retarget_every_us, Event::Retarget);
        self.later(self.weather.broken_every_us, Event::Broken(true));
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
            lives: self.hosts.iter().map(|host| host.incarnation.0).sum(),
            seconds: self.agenda.now_us() / 1_000_000,
            violation: self.oracle.violation().cloned(),
            lines: self.trace.into_lines(),
        }
    }

    fn run_on(&mut self) {
        while let Some(event) = self.agenda.next() {
            self.events += 1;
            for host in 0..self.hosts.len() {
                if self.hosts[host].node.is_some() && self.rng.chance(self.weather.crash_ppm) {
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
            if self.poked && calm_us > LIFETIME_US_MAX {
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

    fn image_id(&self, image: &str) -> String {
        if image == TEMPLATE_IMAGE { format!("{image}:{}", self.image_version) } else { format!("{image}:1") }
    }

    pub(crate) fn target(&self) -> Target {
        let shape = spec(TEMPLATE_IMAGE, &self.image_id(TEMPLATE_IMAGE)).slot_shape();
        Target { shape, resources: RESOURCES, size: self.weather.pool_size }
    }

    pub(crate) fn note(&mut self, line: std::fmt::Arguments<'_>) {
        self.trace.note(self.agenda.now_us(), line);
    }

    /// Has a node do something with the world around it, and gives its clients what it answered.
    pub(crate) fn with_node(&mut self, host: usize, life: Option<u64>, act: impl FnOnce(&mut Node, &mut Outside<'_>)) {
        let mut replies = Vec::new();
        let Host { node, disk, engine, .. } = &mut self.hosts[host];
        let Some(node) = node.as_mut().filter(|node| life.is_none_or(|life| node.incarnation.0 == life)) else {
            return;
        };
        let mut outside = Outside {
            host,
            agenda: &mut self.agenda,
            rng: &mut self.rng,
            oracle: &mut self.oracle,
            trace: &mut self.trace,
            weather: &self.weather,
            disk,
            engine,
            replies: &mut replies,
        };
        act(node, &mut outside);
        let halted = node.halted;
        for (ticket, op, reply) in replies {
            self.note(format_args!("answer to request {}, {op}: {reply}", ticket.0));
            self.oracle.answered(ticket, &op, &reply, &self.hosts[host].engine);
            let client = self.clients.answered(ticket, &reply, &mut self.rng);
            self.next_turn(client);
        }
        if halted {
            self.crash(host, "consensus halted");
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
        let Host { name, disk, engine, incarnation, node } = &mut self.hosts[host];
        *incarnation = incarnation.next();
        self.trace.note(self.agenda.now_us(), format_args!("life {incarnation} of {name} begins"));
        let mut outside = Outside {
            host,
            agenda: &mut self.agenda,
            rng: &mut self.rng,
            oracle: &mut self.oracle,
            trace: &mut self.trace,
            weather: &self.weather,
            disk,
            engine,
            replies: &mut Vec::new(),
        };
        let recovered = outside.disk.recover();
        *node = Some(Node::start(name.clone(), *incarnation, recovered, target, &mut outside));
    }

    fn crash(&mut self, host: usize, why: &str) {
        self.note(format_args!("CRASH of node {host}: {why}"));
        let Some(node) = self.hosts[host].node.take() else {
            return;
        };
        let kept = self.hosts[host].disk.crash(&mut self.rng);
        for batch in &kept {
            self.note(format_args!("batch {} is durable all the same", batch.number));
            self.oracle.made_durable(batch);
        }
        for (slot, act) in self.hosts[host].engine.crash(&mut self.rng) {
            self.note(format_args!("{slot} {act:?} happens all the same"));
            if act == Act::Boot {
                self.oracle.process_began(slot);
            }
        }
        let lost: Vec<_> = node.waiting.keys().copied().collect();
        for ticket in lost {
            let client = self.clients.lost(ticket, &mut self.rng);
            self.next_turn(client);
        }
        let delay_us = *self.rng.pick(&[10_000, 300_000, 5_000_000]).unwrap_or(&10_000);
        self.agenda.after(delay_us, Event::Start(host));
    }

    fn flushed(&mut self, host: usize, life: u64) {
        if self.hosts[host].node.as_ref().is_none_or(|node| node.incarnation.0 != life) {
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
        self.note(format_args!("batch {last} is durable"));
        batches.iter().for_each(|batch| self.oracle.made_durable(batch));
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
            self.oracle.process_began(slot);
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
                            let life = self.hosts[host].incarnation.0;
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
        self.agenda.after(delay_us, Event::Request(0, ticket, op));
        if let Some(patience_us) = waits {
            self.agenda.after(delay_us + patience_us, Event::GivesUp(ticket));
        }
    }

    fn request(&mut self, host: usize, ticket: warren_core::lifecycle::Ticket, op: Op) {
        self.note(format_args!("request {}: {op}", ticket.0));
        if self.hosts[host].node.is_none() {
            let client = self.clients.lost(ticket, &mut self.rng);
            self.next_turn(client);
            return;
        }
        if let Some(node) = &self.hosts[host].node {
            self.oracle.requested(ticket, &op, node.map.applied());
        }
        let image_id = match &op {
            Op::Create(create) => self.image_id(create.image),
            _ => String::new(),
        };
        self.with_node(host, None, |node, out| node.request(ticket, op, &image_id, out));
    }

    fn calm_down(&mut self) {
        self.note(format_args!("faults end"));
        self.calm = true;
        self.weather.calm();
        self.hosts.iter_mut().for_each(|host| host.engine.broken_image = None);
        self.agenda.after(1_000, Event::Poke);
    }

    /// A pool that gave up tries again when somebody asks.
    fn poke(&mut self) {
        let Some(node) = self.hosts[0].node.as_ref().filter(|node| node.phase == Phase::Open) else {
            self.agenda.after(100_000, Event::Poke);
            return;
        };
        let crowded = node.map.len() as u64 >= SANDBOXES_MAX;
        let op = match node.map.newest_first().next().filter(|_| crowded) {
            Some(record) => Op::Destroy(record.place.id),
            None => {
                self.poked = true;
                Op::Create(Create { key: None, image: TEMPLATE_IMAGE, lifetime_ms: None })
            }
        };
        let send = self.clients.send(op, None, 0);
        self.send(send);
        if !self.poked {
            self.agenda.after(1_000_000, Event::Poke);
        }
    }

    fn after_event(&mut self) {
        for host in &self.hosts {
            if let Some(node) = &host.node {
                self.oracle.pool_holds(node.pool.slots(), &host.engine);
            }
        }
        let engine = &self.hosts[0].engine;
        for (id, container) in &self.foreign {
            let same = engine.containers.get(id) == Some(container);
            self.oracle.check(same, Invariant::ForeignUntouched, || format!("{id} was changed"));
        }
    }

    fn unsettled(&self) -> Option<Violation> {
        let now = self.agenda.wall();
        self.hosts.iter().find_map(|host| crate::settled::unsettled(host, now))
    }
}
