//! One life of a node's process: the production cores, and a shell around them that only carries messages.

use std::collections::BTreeMap;

use consensus::{Config, Consensus, Input, Output, ProposalId, Recovered, Start};
use types::{HostId, Incarnation, SandboxId};
use warren_core::lifecycle::{self, Lifecycle, Observed, Ticket};
use warren_core::placement::{self, Command, Kind, Outcome, Placement, Presence};
use warren_core::reconcile::{Found, reconcile};
use warren_core::warm_pool::{self, Target, WarmPool};
use warren_core::wiring::{self, Message};

use crate::agenda::{Agenda, Event};
use crate::clients::{Op, Reply};
use crate::fake_disk::FakeDisk;
use crate::fake_engine::{FakeEngine, Work};
use crate::mail::{Actor, Letter, Mail};
use crate::oracle::{Moment, Oracle};
use crate::rng::Rng;
use crate::trace::Trace;
use crate::weather::{Bug, Weather};

/// Microseconds between two ticks of consensus.
pub const TICK_US: u64 = 100_000;

/// Entries that stay in the log behind a snapshot: few, so that restarts begin from snapshots.
const LOG_TAIL_KEPT: u64 = 3;

/// Everything outside of a node that it touches.
pub struct Outside<'a> {
    pub(crate) host: usize,
    pub(crate) agenda: &'a mut Agenda,
    pub(crate) rng: &'a mut Rng,
    pub(crate) oracle: &'a mut Oracle,
    pub(crate) trace: &'a mut Trace,
    pub(crate) weather: &'a Weather,
    pub(crate) disk: &'a mut FakeDisk,
    pub(crate) engine: &'a mut FakeEngine,
    pub(crate) replies: &'a mut Vec<(Ticket, Op, Reply)>,
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

/// One life of a node's process.
pub struct Node {
    pub(crate) me: HostId,
    pub(crate) incarnation: Incarnation,
    consensus: Consensus,
    proposals: BTreeMap<ProposalId, Command>,
    last_number: u64,
    /// The proposal that says that this node is up, while its fate is open.
    up: Option<ProposalId>,
    pub(crate) map: Placement,
    pub(crate) pool: WarmPool,
    pub(crate) supervisors: BTreeMap<SandboxId, Lifecycle>,
    pub(crate) view: BTreeMap<SandboxId, Observed>,
    pub(crate) mail: Mail,
    pub(crate) phase: Phase,
    pub(crate) waiting: BTreeMap<Ticket, Op>,
    pub(crate) barriers: BTreeMap<u64, Ticket>,
    /// Containers that were listed and not yet decided about.
    found: Vec<Found>,
    since_snapshot: u64,
    /// Consensus has stopped for good: the process ends.
    pub(crate) halted: bool,
}

impl Node {
    /// Begins a life.
    pub fn start(
        me: HostId,
        incarnation: Incarnation,
        recovered: Recovered,
        target: Target,
        out: &mut Outside<'_>,
    ) -> Self {
        let config = Config {
            log_tail_kept: LOG_TAIL_KEPT,
            ..Config::new(out.host as u64 + 1, incarnation.0, Start::Bootstrap { voters: vec![1] })
        };
        let consensus = Consensus::new(config, recovered).expect("what the disk holds is a sound log");
        #[allow(unused_mut)]
        let mut pool = WarmPool::new(target);
        pool.bug_hands_out_twice = out.weather.bug == Some(Bug::HandsOutTwice);
        out.oracle.new_life();
        let mut node = Self {
            me,
            incarnation,
            consensus,
            proposals: BTreeMap::new(),
            last_number: 0,
            up: None,
            map: Placement::default(),
            pool,
            supervisors: BTreeMap::new(),
            view: BTreeMap::new(),
            mail: Mail::default(),
            phase: Phase::Replaying,
            waiting: BTreeMap::new(),
            barriers: BTreeMap::new(),
            found: Vec::new(),
            since_snapshot: 0,
            halted: false,
        };
        node.tell(Actor::Consensus, Letter::Consensus(Input::Tick), out);
        out.agenda.after(TICK_US, Event::Tick(out.host, incarnation.0));
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
        out.agenda.after(delay_us, Event::Hop(out.host, self.incarnation.0));
    }

    /// Carries a message to where it goes.
    pub(crate) fn route(&mut self, message: Message, out: &mut Outside<'_>) {
        let actor = match &message {
            Message::Pool(_) => Actor::Pool,
            Message::Supervisor(id, _) => Actor::Supervisor(*id),
            Message::Propose(_) => Actor::Consensus,
            Message::Run { slot, .. } | Message::Discard(slot) => Actor::Engine(*slot),
            Message::Answer(ticket, answer) => {
                if let (Ok(answer), Some(op)) = (answer, self.waiting.get(ticket)) {
                    out.oracle.answer_leaves(op, *answer, out.engine);
                }
                Actor::Clients
            }
            Message::Observe(id, observed) => {
                let status = observed.status.as_str();
                out.trace.note(out.agenda.now_us(), format_args!("{id} is {status} {:?}", observed.why));
                self.view.insert(*id, observed.clone());
                return;
            }
            Message::WakePoolAt(at) => {
                out.agenda.at_wall(*at, Event::WakePool(out.host, self.incarnation.0));
                return;
            }
            Message::WakeSupervisorAt(id, at) => {
                out.agenda.at_wall(*at, Event::WakeSupervisor(out.host, self.incarnation.0, *id));
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

    fn drive(&mut self, letters: Vec<Letter>, out: &mut Outside<'_>) {
        for letter in letters {
            let input = match letter {
                Letter::Consensus(input) => input,
                Letter::Core(Message::Propose(command)) => match self.proposal(command, out) {
                    Some(input) => input,
                    None => continue,
                },
                Letter::Core(other) => unreachable!("{other:?} does not go to consensus"),
            };
            let outputs = self.consensus.handle(input);
            self.carry_out(outputs, out);
        }
        let outputs = self.consensus.handle(Input::Drive);
        self.carry_out(outputs, out);
    }

    fn proposal(&mut self, command: Command, out: &mut Outside<'_>) -> Option<Input> {
        let what = crate::words::command(&command.kind);
        if out.rng.chance(out.weather.proposal_dropped_ppm) {
            out.trace.note(out.agenda.now_us(), format_args!("no room to propose {what}"));
            self.dropped(&command, out);
            return None;
        }
        self.last_number += 1;
        let proposal = ProposalId(self.last_number);
        out.trace.note(out.agenda.now_us(), format_args!("proposes {what}"));
        let data = placement::encode(&command).into();
        if matches!(command.kind, Kind::NodeUp { .. }) {
            self.up = Some(proposal);
        }
        self.proposals.insert(proposal, command);
        Some(Input::Propose { proposal, data })
    }

    fn dropped(&mut self, command: &Command, out: &mut Outside<'_>) {
        let holder = self.map.holder(&command.kind);
        if let Some(message) = wiring::dropped(holder.as_ref(), command) {
            self.route(message, out);
        }
    }

    fn carry_out(&mut self, outputs: Vec<Output>, out: &mut Outside<'_>) {
        for output in outputs {
            match output {
                Output::Persist(batch) => {
                    let number = batch.number;
                    if out.disk.write(batch) {
                        self.flush_begins(out);
                    }
                    if out.weather.bug == Some(Bug::AnswerBeforeFlush) {
                        let news = Input::Persisted { batch: number };
                        self.tell(Actor::Consensus, Letter::Consensus(news), out);
                    }
                }
                Output::Apply(committed) => {
                    out.oracle.applied(self.map.applied(), committed.index, &committed.data);
                    let command = placement::decode(&committed.data).expect("this version wrote it");
                    if let Some(proposal) = committed.proposal {
                        out.oracle.came_back(self.proposals.remove(&proposal).as_ref(), &command);
                    }
                    self.apply(committed.index, &command, committed.proposal, out);
                }
                Output::ApplySnapshot { index, data } => {
                    self.map = placement::decode_snapshot(&data).expect("this version wrote it");
                    assert_eq!(self.map.applied(), index, "a snapshot is of the index that it was given for");
                }
                Output::Dropped { proposal, .. } => {
                    if self.up == Some(proposal) {
                        self.up = None;
                    }
                    if let Some(command) = self.proposals.remove(&proposal) {
                        self.dropped(&command, out);
                    }
                }
                Output::ReadReady { id, .. } => self.read(id, out),
                Output::ReadDropped { id, .. } => self.read_dropped(id, out),
                Output::Halt { reason } => {
                    out.trace.note(out.agenda.now_us(), format_args!("halts: {reason}"));
                    self.halted = true;
                }
                Output::Leadership(_) | Output::Members { .. } | Output::SnapshotRefused { .. } => {}
                Output::Send { .. } | Output::SnapshotWanted { .. } => unreachable!("there is no peer"),
            }
        }
    }

    /// Has the flush that began end some time from now.
    pub(crate) fn flush_begins(&self, out: &mut Outside<'_>) {
        let delay_us = out.rng.between(100, out.weather.flush_us_max);
        out.agenda.after(delay_us, Event::Flushed(out.host, self.incarnation.0));
    }

    fn apply(&mut self, index: u64, command: &Command, proposal: Option<ProposalId>, out: &mut Outside<'_>) {
        let holder = self.map.holder(&command.kind);
        let outcome = self.map.apply(index, command);
        let what = crate::words::command(&command.kind);
        out.trace
            .note(out.agenda.now_us(), format_args!("applies {index}: {what}: {}", crate::words::outcome(&outcome)));
        out.oracle.map_is(&self.map);
        if proposal.is_some() && proposal == self.up && outcome == Outcome::NodeUp {
            self.phase = Phase::Listing;
            out.oracle.caught_up(&self.map);
            self.ask_for_list(out);
        } else if self.phase != Phase::Replaying {
            for message in wiring::applied(&self.me, holder.as_ref(), command, &outcome) {
                self.route(message, out);
            }
        }
        self.since_snapshot += 1;
        if self.since_snapshot >= out.weather.snapshot_every {
            self.since_snapshot = 0;
            let data = placement::encode_snapshot(&self.map).into();
            let input = Input::Snapshot { index: self.map.applied(), data };
            self.tell(Actor::Consensus, Letter::Consensus(input), out);
        }
    }

    fn ask_for_list(&self, out: &mut Outside<'_>) {
        let delay_us = out.rng.between(5_000, 80_000);
        out.agenda.after(delay_us, Event::Lists(out.host, self.incarnation.0));
    }

    /// Our containers are listed, or that fails and is begun again.
    pub fn lists(&mut self, out: &mut Outside<'_>) {
        if out.rng.chance(out.weather.list_fails_ppm) {
            out.trace.note(out.agenda.now_us(), format_args!("the list of containers fails"));
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
        out.agenda.after(delay_us, Event::Listed(out.host, self.incarnation.0));
    }

    /// What becomes of all that was found.
    pub fn listed(&mut self, out: &mut Outside<'_>) {
        let found = std::mem::take(&mut self.found);
        out.trace.note(out.agenda.now_us(), format_args!("finds {} containers", found.len()));
        let shape = self.pool.target().shape.clone();
        for verdict in reconcile(&self.map, &self.me, &found, &out.engine.ledger, Some(&shape)) {
            out.trace.note(out.agenda.now_us(), format_args!("{}", crate::words::verdict(&verdict)));
            self.route(wiring::from_verdict(verdict), out);
        }
        self.route(Message::Pool(warm_pool::Input::Open), out);
        self.phase = Phase::Open;
    }

    /// A container has died.
    pub fn died(&mut self, slot: SandboxId, out: &mut Outside<'_>) {
        for message in wiring::died(slot, "its first process ended".to_owned()) {
            self.route(message, out);
        }
    }

    /// The clock ticks.
    pub fn tick(&mut self, out: &mut Outside<'_>) {
        self.tell(Actor::Consensus, Letter::Consensus(Input::Tick), out);
        if self.phase == Phase::Replaying && self.up.is_none() && self.consensus.status().leadership.is_self {
            let kind =
                Kind::NodeUp { host: self.me.clone(), incarnation: self.incarnation, presence: Presence::default() };
            self.route(Message::Propose(Command { time: out.agenda.wall(), kind }), out);
        }
        out.agenda.after(TICK_US, Event::Tick(out.host, self.incarnation.0));
    }

    fn deliver(&mut self, message: Message, out: &mut Outside<'_>) {
        out.trace.note(out.agenda.now_us(), format_args!("{}", crate::words::message(&message)));
        match message {
            Message::Pool(input) => self.tell_pool(input, out),
            Message::Supervisor(id, input) => self.tell_supervisor(id, input, out),
            Message::Run { requester, slot, step } => self.run(slot, Work::Step(requester, step), out),
            Message::Discard(slot) => self.run(slot, Work::Discard, out),
            Message::Answer(ticket, answer) => self.answer(ticket, answer, out),
            other => unreachable!("{other:?} has no mailbox"),
        }
    }

    fn tell_pool(&mut self, input: warm_pool::Input, out: &mut Outside<'_>) {
        let now = out.agenda.wall();
        let moment = Moment { wall: now, us: out.agenda.now_us() };
        match &input {
            warm_pool::Input::Claim(_) => out.oracle.pool_claimed(),
            warm_pool::Input::Died(slot) => out.oracle.pool_told_dead(*slot),
            warm_pool::Input::Made(slot) => out.oracle.pool_tried(moment, *slot, true),
            warm_pool::Input::MakeFailed(slot, _) => out.oracle.pool_tried(moment, *slot, false),
            _ => {}
        }
        let rng = &mut *out.rng;
        for output in self.pool.handle(now, &mut || rng.sandbox_id(), input) {
            if let warm_pool::Output::Make { slot, shape, .. } = &output {
                out.oracle.pool_tries(moment, *slot, &shape.image_id);
            }
            self.route(wiring::from_pool(output), out);
        }
    }

    fn tell_supervisor(&mut self, id: SandboxId, input: lifecycle::Input, out: &mut Outside<'_>) {
        match &input {
            lifecycle::Input::Died { .. } => out.oracle.told_ended(id, out.engine),
            lifecycle::Input::Step(..) => out.oracle.ends(id),
            _ => {}
        }
        if let lifecycle::Input::Create { .. } = &input {
            out.oracle.given(id);
            if out.oracle.violation().is_some() {
                return;
            }
        }
        if !self.supervisors.contains_key(&id) {
            if !wiring::begins(&input) {
                if let Some(message) = wiring::undelivered(id, &input) {
                    self.route(message, out);
                }
                return;
            }
            let mut machine = Lifecycle::new(id);
            machine.bug_reuses_prepared = out.weather.bug == Some(Bug::ReusesPrepared);
            self.supervisors.insert(id, machine);
        }
        let now = out.agenda.wall();
        let Some(machine) = self.supervisors.get_mut(&id) else {
            return;
        };
        let outputs = machine.handle(now, input);
        for output in outputs {
            if let lifecycle::Output::Run(_) = &output {
                out.oracle.begins(id);
            }
            self.route(wiring::from_lifecycle(now, id, output), out);
        }
    }

    pub(crate) fn run(&mut self, slot: SandboxId, work: Work, out: &mut Outside<'_>) {
        let step = match &work {
            Work::Step(_, step) => Some(step),
            Work::Discard => None,
        };
        out.oracle.step_begins(slot, step, self.map.applied(), out.engine);
        let (job, delay_us) = out.engine.begin(slot, work, out.weather, out.rng);
        out.oracle.pool_makes(out.engine.pool_makes());
        out.agenda.after(delay_us, Event::Engine(out.host, job));
    }
}
