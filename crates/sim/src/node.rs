//! One life of a node's process: the production cores, and a shell around them that only carries messages.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use consensus::raft_types::ConfState;
use consensus::{Config, Consensus, Input, Leadership, ProposalId, Recovered, Start};
use types::{HostId, Incarnation, SandboxId};
use warren_core::lifecycle::{self, Lifecycle, Observed, Ticket};
use warren_core::placement::{COMMANDS_KNOWN, Placement, Presence};
use warren_core::reconcile::{Found, reconcile, strays};
use warren_core::repair::Repairs;
use warren_core::scheduler::Candidate;
use warren_core::warm_pool::{self, Target, WarmPool};
use warren_core::wiring::{self, Message};

use crate::agenda::{Agenda, Event};
use crate::clients::{Op, Reply};
use crate::fake_disk::FakeDisk;
use crate::fake_engine::{FakeEngine, Work};
use crate::front::{Barrier, Call, Unled, Waiter};
use crate::log::Pending;
use crate::mail::{Actor, Letter, Mail};
use crate::network::{Network, Packet};
use crate::oracle::Oracle;
use crate::rng::Rng;
use crate::trace::Trace;
use crate::watch::Moment;
use crate::weather::{Bug, Weather};
use warren_core::leases::Leases;

/// Microseconds between two ticks of consensus.
pub const TICK_US: u64 = 100_000;

/// Entries that stay in the log behind a snapshot: few, so that restarts begin from snapshots.
const LOG_TAIL_KEPT: u64 = 3;

/// Members that differ in their patience before they campaign.
const ELECTION_STAGGER_MEMBERS: u64 = 5;

/// Ticks by which the patience of one member differs from that of the next.
const ELECTION_STAGGER_TICKS: u64 = 2;

/// Everything outside of a node that it touches.
pub struct Outside<'a> {
    pub(crate) host: usize,
    pub(crate) agenda: &'a mut Agenda,
    pub(crate) rng: &'a mut Rng,
    pub(crate) oracle: &'a mut Oracle,
    pub(crate) trace: &'a mut Trace,
    pub(crate) weather: &'a Weather,
    pub(crate) network: &'a Network,
    pub(crate) disk: &'a mut FakeDisk,
    pub(crate) engine: &'a mut FakeEngine,
    /// On the host's disk: the number of the node's last life.
    pub(crate) incarnation: &'a mut Incarnation,
    /// What the template's image stands for.
    pub(crate) image_version: u64,
    pub(crate) replies: &'a mut Vec<(Ticket, Op, Reply)>,
}

impl Outside<'_> {
    /// Takes down one line of this host.
    pub fn note(&mut self, line: std::fmt::Arguments<'_>) {
        self.trace.note(self.agenda.now_us(), format_args!("{} {line}", self.host));
    }

    /// The wall clock of this host.
    pub fn wall(&self) -> types::Timestamp {
        self.agenda.wall(self.host)
    }

    /// This host's clock that is never set, in milliseconds.
    pub fn boot_ms(&self) -> u64 {
        self.agenda.boot_ms(self.host)
    }

    /// Sends a packet on its way.
    pub fn send(&mut self, to: usize, packet: Packet) {
        let lost = self.rng.chance(self.weather.packet_lost_ppm);
        if lost || !self.network.carries(self.host, to) {
            return;
        }
        let twice = packet.may_repeat() && self.rng.chance(self.weather.packet_twice_ppm);
        if twice {
            self.send_once(to, packet.clone());
        }
        self.send_once(to, packet);
    }

    fn send_once(&mut self, to: usize, packet: Packet) {
        let slow = self.rng.chance(self.weather.packet_slow_ppm);
        let slower_us = if slow { self.rng.below(self.weather.packet_slow_us_max) } else { 0 };
        let delay_us = self.rng.between(50, self.weather.packet_us_max) + slower_us;
        self.agenda.after(delay_us, Event::Arrives(to, self.host, packet));
    }
}

/// How far a life has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It applies what earlier lives left, and says that it is up.
    Replaying,
    /// It is up in the map, and asks for its containers.
    Listing,
    /// It takes requests.
    Open,
}

/// What a node knows of itself when it starts.
#[derive(Debug, Clone)]
pub struct Identity {
    pub(crate) me: HostId,
    pub(crate) member: u64,
    /// It begins the group.
    pub(crate) first: bool,
    /// Who bears which member id, as it was told when it joined.
    pub(crate) told_of: Vec<(u64, usize)>,
    /// Names of all hosts.
    pub(crate) names: Vec<HostId>,
}

/// One life of a node's process.
pub struct Node {
    pub(crate) me: HostId,
    /// Which process of this host it is.
    pub(crate) life: u64,
    /// What the map is to know as its present life; grows while it lives if it finds itself lost.
    pub(crate) incarnation: Incarnation,
    pub(crate) presence: Presence,
    pub(crate) names: Vec<HostId>,
    pub(crate) members: BTreeMap<u64, usize>,
    pub(crate) consensus: Consensus,
    /// The last membership that was applied, and the one before.
    pub(crate) voters: Vec<ConfState>,
    pub(crate) leadership: Leadership,
    pub(crate) leases: Leases,
    pub(crate) repairs: Repairs,
    pub(crate) changing: Option<ProposalId>,
    pub(crate) proposals: BTreeMap<ProposalId, Pending>,
    pub(crate) again: VecDeque<Pending>,
    pub(crate) last_number: u64,
    pub(crate) last_barrier: u64,
    pub(crate) last_call: u64,
    pub(crate) ticks: u64,
    pub(crate) began_us: u64,
    pub(crate) map: Placement,
    pub(crate) pool: WarmPool,
    pub(crate) supervisors: BTreeMap<SandboxId, Lifecycle>,
    pub(crate) view: BTreeMap<SandboxId, Observed>,
    pub(crate) mail: Mail,
    pub(crate) phase: Phase,
    pub(crate) waiting: BTreeMap<Ticket, Waiter>,
    pub(crate) barriers: BTreeMap<u64, Barrier>,
    pub(crate) calls: BTreeMap<u64, Call>,
    pub(crate) unled: Vec<Unled>,
    /// Creates whose key another node's sandbox has, until that is up.
    pub(crate) awaited: BTreeMap<Ticket, (SandboxId, u64)>,
    /// When each host was heard last.
    pub(crate) heard_us: BTreeMap<usize, u64>,
    pub(crate) candidates: BTreeMap<usize, (Candidate, u64)>,
    /// Containers that were listed and not yet decided about.
    found: Vec<Found>,
    seen_strays: BTreeSet<SandboxId>,
    pub(crate) snapshot_index: u64,
    /// The process ends.
    pub(crate) halted: Option<String>,
}

impl Node {
    /// Begins a life.
    pub fn start(identity: Identity, life: u64, recovered: Recovered, target: Target, out: &mut Outside<'_>) -> Self {
        let Identity { me, member, first, told_of, names } = identity;
        let begin = if first { Start::Bootstrap { voters: vec![member] } } else { Start::Join };
        let stagger = (member % ELECTION_STAGGER_MEMBERS) * ELECTION_STAGGER_TICKS;
        let config = Config {
            log_tail_kept: LOG_TAIL_KEPT,
            election_stagger_ticks: stagger as usize,
            ..Config::new(member, out.incarnation.0, begin)
        };
        let consensus = Consensus::new(config, recovered).expect("what the disk holds is a sound log");
        #[allow(unused_mut)]
        let mut pool = WarmPool::new(target);
        pool.bug_hands_out_twice = out.weather.bug == Some(Bug::HandsOutTwice);
        out.oracle.watch(out.host).new_life();
        let host = out.host;
        let presence = Presence {
            member,
            peer_address: format!("peer-{host}"),
            http_address: format!("http-{host}"),
            commands: COMMANDS_KNOWN,
        };
        let mut node = Self {
            me,
            life,
            incarnation: *out.incarnation,
            presence,
            names,
            members: told_of.into_iter().chain([(member, host)]).collect(),
            voters: vec![consensus.members()],
            consensus,
            leadership: Leadership::default(),
            leases: Leases::default(),
            repairs: Repairs::default(),
            changing: None,
            proposals: BTreeMap::new(),
            again: VecDeque::new(),
            last_number: 0,
            last_barrier: 0,
            // An answer to an earlier life is none to this one.
            last_call: life << 20,
            ticks: 0,
            began_us: out.agenda.now_us(),
            map: Placement::default(),
            pool,
            supervisors: BTreeMap::new(),
            view: BTreeMap::new(),
            mail: Mail::default(),
            phase: Phase::Replaying,
            waiting: BTreeMap::new(),
            barriers: BTreeMap::new(),
            calls: BTreeMap::new(),
            unled: Vec::new(),
            awaited: BTreeMap::new(),
            heard_us: BTreeMap::new(),
            candidates: BTreeMap::new(),
            found: Vec::new(),
            seen_strays: BTreeSet::new(),
            snapshot_index: 0,
            halted: None,
        };
        node.leases.plant(out.weather.bug == Some(Bug::LeaseTooLong), out.weather.bug == Some(Bug::LostTooSoon));
        out.oracle.plant_into(&mut node.map);
        if out.weather.bug == Some(Bug::StaleStock) {
            node.ask_for_list(out);
        }
        node.tell(Actor::Consensus, Letter::Consensus(Input::Tick), out);
        let pending = node.up(Some(crate::log::Tell::Up), out);
        node.tell(Actor::Consensus, Letter::Propose(pending), out);
        out.agenda.after(TICK_US, Event::Tick(host, life));
        node
    }

    /// Puts a letter into a mailbox and sees to it that it is read.
    pub(crate) fn tell(&mut self, to: Actor, letter: Letter, out: &mut Outside<'_>) {
        if self.mail.send(to, letter) {
            self.hop(out);
        }
    }

    fn hop(&self, out: &mut Outside<'_>) {
        let delay_us = out.rng.between(1, out.weather.hop_us_max);
        out.agenda.after(delay_us, Event::Hop(out.host, self.life));
    }

    /// Carries a message to where it goes.
    pub(crate) fn route(&mut self, message: Message, out: &mut Outside<'_>) {
        let actor = match &message {
            Message::Pool(_) => Actor::Pool,
            Message::Supervisor(slot, _) => Actor::Supervisor(*slot),
            Message::Propose(_) => Actor::Consensus,
            Message::Run { slot, .. } | Message::Discard(slot) => Actor::Engine(*slot),
            Message::Answer(ticket, answer) => {
                if let (Ok(answer), Some(waiter)) = (answer, self.waiting.get(ticket)) {
                    out.oracle.answer_leaves(out.host, &waiter.op, *answer, out.engine);
                }
                Actor::Clients
            }
            Message::Observe(id, observed) => {
                out.note(format_args!("{id} is {} {:?}", observed.status.as_str(), observed.why));
                self.broadcast(Packet::Seen(*id, observed.clone()), out);
                self.observe(*id, observed.clone());
                return;
            }
            Message::WakePoolAt(at) => {
                out.agenda.at_wall(out.host, *at, Event::WakePool(out.host, self.life));
                return;
            }
            Message::WakeSupervisorAt(slot, at) => {
                out.agenda.at_wall(out.host, *at, Event::WakeSupervisor(out.host, self.life, *slot));
                return;
            }
            Message::Retire { slot, sandbox } => {
                self.supervisors.remove(slot);
                if self.map.get(sandbox).is_none_or(|record| record.place.slot == *slot) {
                    self.view.remove(sandbox);
                }
                return;
            }
        };
        self.tell(actor, Letter::Core(message), out);
    }

    /// One actor takes its next letter; consensus takes all that wait, as its actor does.
    pub fn take_hop(&mut self, out: &mut Outside<'_>) {
        let Some(actor) = self.mail.next(out.weather.reorders, out.rng) else {
            return;
        };
        if actor == Actor::Consensus {
            let mut inputs = Vec::new();
            while let Some(letter) = self.mail.take(actor) {
                inputs.push(letter);
            }
            self.drive(inputs, out);
        } else if let Some(Letter::Core(message)) = self.mail.take(actor) {
            self.deliver(message, out);
        }
        if !self.mail.is_empty() {
            self.hop(out);
        }
    }

    /// Has the flush that began end some time from now.
    pub(crate) fn flush_begins(&self, out: &mut Outside<'_>) {
        let delay_us = out.rng.between(100, out.weather.flush_us_max);
        out.agenda.after(delay_us, Event::Flushed(out.host, self.life));
    }

    /// Has the containers listed some time from now.
    pub(crate) fn ask_for_list(&self, out: &mut Outside<'_>) {
        let delay_us = out.rng.between(5_000, 80_000);
        out.agenda.after(delay_us, Event::Lists(out.host, self.life));
    }

    /// Our containers are listed, or that fails and is begun again.
    pub fn lists(&mut self, out: &mut Outside<'_>) {
        if out.rng.chance(out.weather.list_fails_ppm) {
            out.note(format_args!("the list of containers fails"));
            self.ask_for_list(out);
            return;
        }
        self.found = out.engine.list();
        // One of them may die before the last one has said who it is.
        if out.rng.chance(out.weather.death_at_end_ppm)
            && let Some(slot) = out.engine.any_running(out.rng)
        {
            let delay_us = out.rng.below(20_000);
            out.agenda.after(delay_us, Event::DeathOf(out.host, slot));
        }
        let delay_us = out.rng.between(1_000, 40_000);
        out.agenda.after(delay_us, Event::Listed(out.host, self.life));
    }

    /// What becomes of all that was found.
    pub fn listed(&mut self, out: &mut Outside<'_>) {
        let found = std::mem::take(&mut self.found);
        out.note(format_args!("finds {} containers", found.len()));
        let shape = self.pool.target().shape.clone();
        for verdict in reconcile(&self.map, &self.me, &found, &out.engine.ledger, Some(&shape)) {
            out.note(format_args!("{}", crate::words::verdict(&verdict)));
            self.route(wiring::from_verdict(verdict), out);
        }
        self.route(Message::Pool(warm_pool::Input::Open), out);
        self.phase = Phase::Open;
    }

    /// Looks for containers of ours that are nobody's, and for what the map waits for.
    pub(crate) fn take_stock(&mut self, out: &mut Outside<'_>) {
        if self.phase != Phase::Open {
            return;
        }
        let found = out.engine.list().into_iter().map(|found| found.slot).collect();
        let mut known: BTreeSet<SandboxId> = self.supervisors.keys().copied().collect();
        known.extend(self.pool.slots());
        known.extend(out.engine.jobs.values().map(|job| job.slot));
        known.extend(self.mail.slots());
        let (bury, now) = strays(&self.map, &found, &known, &self.seen_strays);
        self.seen_strays = now;
        for slot in bury {
            out.note(format_args!("{slot} is nobody's"));
            self.route(Message::Supervisor(slot, lifecycle::Input::Bury { duty: None }), out);
        }
        self.take_up_what_is_owed(out);
    }

    /// Takes up what the map waits for from this node and nobody here works on.
    pub(crate) fn take_up_what_is_owed(&mut self, out: &mut Outside<'_>) {
        for message in wiring::owed(&self.map, &self.me, self.supervisors.keys().copied()) {
            self.route(message, out);
        }
    }

    /// A container has died.
    pub fn died(&mut self, slot: SandboxId, out: &mut Outside<'_>) {
        for message in wiring::died(slot, "its first process ended".to_owned()) {
            self.route(message, out);
        }
    }

    fn deliver(&mut self, message: Message, out: &mut Outside<'_>) {
        out.note(format_args!("{}", crate::words::message(&message)));
        match message {
            Message::Pool(input) => self.tell_pool(input, out),
            Message::Supervisor(slot, input) => self.tell_supervisor(slot, input, out),
            Message::Run { requester, slot, step } => self.run(slot, Work::Step(requester, step), out),
            Message::Discard(slot) => self.run(slot, Work::Discard, out),
            Message::Answer(ticket, answer) => self.answer(ticket, answer, out),
            other => unreachable!("{other:?} has no mailbox"),
        }
    }

    fn tell_pool(&mut self, input: warm_pool::Input, out: &mut Outside<'_>) {
        let now = out.wall();
        let moment = Moment { wall: now, us: out.agenda.now_us() };
        let watch = out.oracle.watch(out.host);
        match &input {
            warm_pool::Input::Claim(_) => watch.pool_claimed(),
            warm_pool::Input::Died(slot) => watch.pool_told_dead(*slot),
            warm_pool::Input::Made(slot) => out.oracle.pool_tried(out.host, moment, *slot, true),
            warm_pool::Input::MakeFailed(slot, _) => out.oracle.pool_tried(out.host, moment, *slot, false),
            _ => {}
        }
        let rng = &mut *out.rng;
        for output in self.pool.handle(now, &mut || rng.sandbox_id(), input) {
            if let warm_pool::Output::Make { slot, shape, .. } = &output {
                out.oracle.pool_tries(out.host, moment, *slot, &shape.image_id);
            }
            self.route(wiring::from_pool(output), out);
        }
    }

    fn tell_supervisor(&mut self, slot: SandboxId, input: lifecycle::Input, out: &mut Outside<'_>) {
        match &input {
            lifecycle::Input::Died { .. } => out.oracle.watch(out.host).told_ended(slot, out.engine),
            lifecycle::Input::Step(..) => out.oracle.watch(out.host).ends(slot),
            _ => {}
        }
        if let lifecycle::Input::Create { .. } = &input {
            out.oracle.given(out.host, slot);
            if out.oracle.violation().is_some() {
                return;
            }
        }
        if !self.supervisors.contains_key(&slot) {
            if !wiring::begins(&input) {
                if let Some(message) = wiring::undelivered(slot, &input) {
                    self.route(message, out);
                }
                return;
            }
            let mut machine = Lifecycle::new(slot);
            machine.bug_reuses_prepared = out.weather.bug == Some(Bug::ReusesPrepared);
            self.supervisors.insert(slot, machine);
        }
        let now = out.wall();
        let Some(machine) = self.supervisors.get_mut(&slot) else {
            return;
        };
        let outputs = machine.handle(now, input);
        for output in outputs {
            if let lifecycle::Output::Run(_) = &output {
                out.oracle.watch(out.host).begins(slot);
            }
            self.route(wiring::from_lifecycle(now, slot, output), out);
        }
    }

    pub(crate) fn run(&mut self, slot: SandboxId, work: Work, out: &mut Outside<'_>) {
        out.oracle.step_begins(out.host, &self.me, slot, &work, self.map.applied(), out.engine);
        let (job, delay_us) = out.engine.begin(slot, work, out.weather, out.rng);
        out.oracle.pool_makes(out.engine.pool_makes());
        out.agenda.after(delay_us, Event::Engine(out.host, job));
    }
}
