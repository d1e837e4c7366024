//! Delivers what leaves a core. One hub for all actors of a node's own thread.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix::{Actor, Addr};
use types::{SandboxId, Timestamp};
use warren_core::lifecycle;
use warren_core::step::{Step, StepResult};
use warren_core::warm_pool;
use warren_core::wiring::{self, Message, Requester};

use crate::actors::consensus::{ConsensusActor, Propose};
use crate::actors::pool::{PoolActor, PoolInput};
use crate::actors::supervisor::{Supervisor, SupervisorInput};
use crate::answers::Answers;
use crate::cluster::Cluster;
use crate::engine_room::EngineRoom;
use crate::gossip;
use crate::kill_point;
use crate::life::Life;
use crate::view::View;

/// Pause between two tries to discard a slot; doubled up to [`DISCARD_AGAIN_MAX`].
const DISCARD_AGAIN_MIN: Duration = Duration::from_millis(200);

/// Pause between two tries to discard a slot at most.
const DISCARD_AGAIN_MAX: Duration = Duration::from_secs(30);

/// The wall clock, as the cores take it.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Milliseconds by the clock that runs on while the host is suspended: leases count by it.
pub fn boottime_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(now.tv_sec) * 1000 + part(now.tv_nsec) / 1_000_000
}

/// A fresh id from the system's randomness.
pub fn fresh_sandbox_id() -> SandboxId {
    let mut entropy = [0; types::id::SANDBOX_ID_LENGTH];
    // Without random bytes two sandboxes could get one id: nothing can go on.
    getrandom::fill(&mut entropy).expect("the system gives random bytes");
    SandboxId::from_entropy(entropy)
}

/// Addresses of everything that a message can go to.
pub struct Hub {
    consensus: Addr<ConsensusActor>,
    pool: Addr<PoolActor>,
    supervisors: RefCell<HashMap<SandboxId, Addr<Supervisor>>>,
    room: Rc<EngineRoom>,
    answers: Arc<Answers>,
    view: Arc<View>,
    cluster: Arc<Cluster>,
    life: Arc<Life>,
    /// Containers on which something is being done, and how many things.
    under_way: RefCell<BTreeMap<SandboxId, u32>>,
    closed: RefCell<Option<String>>,
}

impl Hub {
    /// A hub between these.
    pub fn new(
        consensus: Addr<ConsensusActor>,
        pool: Addr<PoolActor>,
        room: Rc<EngineRoom>,
        answers: Arc<Answers>,
        view: Arc<View>,
        cluster: Arc<Cluster>,
        life: Arc<Life>,
    ) -> Rc<Self> {
        Rc::new(Self {
            consensus,
            pool,
            supervisors: RefCell::default(),
            room,
            answers,
            view,
            cluster,
            life,
            under_way: RefCell::default(),
            closed: RefCell::new(Some("the node is starting".to_owned())),
        })
    }

    /// The view that readers see.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Why this node takes no new sandboxes; none while it does.
    pub fn closed(&self) -> Option<String> {
        self.closed.borrow().clone().or_else(|| self.room.unhealthy())
    }

    /// Opens the node for new sandboxes, or closes it for a reason.
    pub fn set_closed(&self, reason: Option<String>) {
        if reason.is_none() {
            kill_point::opened();
        }
        *self.closed.borrow_mut() = reason;
    }

    /// Containers being worked on.
    pub fn working_on(&self) -> usize {
        self.under_way.borrow().len()
    }

    /// Sandboxes under supervision and containers being worked on: 0 when nothing of ours is left.
    pub fn busy_with(&self) -> usize {
        self.supervisors.borrow().len() + self.under_way.borrow().len()
    }

    fn begin(&self, slot: SandboxId) {
        *self.under_way.borrow_mut().entry(slot).or_default() += 1;
    }

    fn end(&self, slot: SandboxId) {
        let mut under_way = self.under_way.borrow_mut();
        if let Some(count) = under_way.get_mut(&slot) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&slot);
            }
        }
    }

    /// Brings a message to where it belongs.
    pub fn deliver(self: &Rc<Self>, message: Message) {
        match message {
            Message::Pool(input) => self.pool.do_send(PoolInput(input)),
            Message::Supervisor(id, input) => self.to_supervisor(id, input),
            Message::Propose(command) => self.consensus.do_send(Propose(command)),
            Message::Run { requester, slot, step } => self.run(requester, slot, step),
            Message::Discard(slot) => self.discard(slot),
            Message::Answer(ticket, answer) => {
                kill_point::answered(&answer);
                self.view.offers().ended(ticket);
                self.answers.answer(ticket, answer);
            }
            Message::Observe(id, observed) => {
                self.cluster.broadcast(&gossip::observed(self.view.me(), self.life.now(), id, &observed));
                self.view.observe(id, observed);
            }
            Message::WakePoolAt(at) => self.later(at, Message::Pool(warm_pool::Input::Wake)),
            Message::WakeSupervisorAt(id, at) => self.later(at, Message::Supervisor(id, lifecycle::Input::Wake)),
            Message::Retire { slot, sandbox } => {
                self.supervisors.borrow_mut().remove(&slot);
                self.view.forget(sandbox, slot);
            }
        }
    }

    /// Takes up what the map waits for from this node and nobody here works on.
    pub fn take_up_what_is_owed(self: &Rc<Self>) {
        let placement = Arc::clone(&self.view.placement());
        let supervised: Vec<SandboxId> = self.supervisors.borrow().keys().copied().collect();
        for message in wiring::owed(&placement, self.view.me(), supervised) {
            self.deliver(message);
        }
    }

    fn to_supervisor(self: &Rc<Self>, slot: SandboxId, input: lifecycle::Input) {
        if let Some(supervisor) = self.supervisors.borrow().get(&slot) {
            supervisor.do_send(SupervisorInput(input));
            return;
        }
        if wiring::begins(&input) {
            if matches!(input, lifecycle::Input::Create { .. }) {
                kill_point::reached("create.claimed");
            }
            let supervisor = Supervisor::new(slot, Rc::clone(self)).start();
            supervisor.do_send(SupervisorInput(input));
            self.supervisors.borrow_mut().insert(slot, supervisor);
        } else if let Some(message) = wiring::undelivered(slot, &input) {
            self.deliver(message);
        }
    }

    fn run(self: &Rc<Self>, requester: Requester, slot: SandboxId, step: Step) {
        let hub = Rc::clone(self);
        self.begin(slot);
        actix::spawn(async move {
            let (kind, since) = (step.kind(), Instant::now());
            let result = hub.room.run(&hub, slot, step).await;
            if requester == Requester::Pool {
                let made = !matches!(result, StepResult::Failed(_));
                hub.view.insight().instruments.slot_made(since.elapsed(), made);
            }
            if let StepResult::Failed(error) = &result {
                tracing::warn!(sandbox = %slot, step = ?kind, %error, "step failed");
            }
            match requester {
                Requester::Supervisor => kill_point::stepped(kind),
                Requester::Pool => kill_point::reached("slot.made"),
            }
            hub.deliver(wiring::step_ended(requester, slot, kind, result));
            hub.end(slot);
        });
    }

    fn discard(self: &Rc<Self>, slot: SandboxId) {
        let hub = Rc::clone(self);
        self.begin(slot);
        actix::spawn(async move {
            let mut pause = DISCARD_AGAIN_MIN;
            while let StepResult::Failed(error) = hub.room.run(&hub, slot, Step::Remove).await {
                tracing::warn!(%slot, %error, "a slot could not be discarded, trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(DISCARD_AGAIN_MAX);
            }
            hub.end(slot);
        });
    }

    fn later(self: &Rc<Self>, at: Timestamp, message: Message) {
        let hub = Rc::clone(self);
        let wait = Duration::from_millis(at.ms_since(now()));
        actix::spawn(async move {
            tokio::time::sleep(wait).await;
            hub.deliver(message);
        });
    }

    /// The first process of a slot has ended: whoever has it is told.
    pub fn died(self: &Rc<Self>, slot: SandboxId, why: String) {
        for message in wiring::died(slot, why) {
            self.deliver(message);
        }
    }

    /// What this node works on or keeps: a container of none of these is nobody's.
    pub fn known(&self) -> BTreeSet<SandboxId> {
        let mut known = self.room.all_held();
        known.extend(self.supervisors.borrow().keys().copied());
        known.extend(self.under_way.borrow().keys().copied());
        known
    }
}
