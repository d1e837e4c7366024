//! A node's front door in the simulation: what a request becomes, and how it is answered.

use std::sync::Arc;

use types::{ErrorCode, NetworkMode, OnNodeLoss, Resources, SandboxId, SandboxSpec, Status, WarrenError};
use warren_core::lifecycle::{self, Answer, CreatePlan, Ticket};
use warren_core::placement::Outcome;
use warren_core::scheduler::{self, Candidate};
use warren_core::warm_pool;
use warren_core::wiring::{self, Message};

use crate::clients::{Create, Op, Reply};
use crate::mail::{Actor, Letter};
use crate::node::{Node, Outside, Phase};

/// Sandboxes that one node takes.
pub const SANDBOXES_MAX: u64 = 16;

/// What a sandbox may use.
pub const RESOURCES: Resources = Resources { cpu: 1_000_000_000, memory: 64 << 20, disk: 0, pids: 64 };

/// The spec of a sandbox of this image.
#[must_use]
pub fn spec(image: &str, image_id: &str) -> SandboxSpec {
    SandboxSpec {
        template: None,
        image: image.to_owned(),
        image_id: image_id.to_owned(),
        resources: RESOURCES,
        network_mode: NetworkMode::None,
        workdir: None,
        user: None,
        command: Vec::new(),
        writable_rootfs: true,
        tmpfs: Vec::new(),
        labels: std::collections::BTreeMap::new(),
        name: None,
        on_node_loss: OnNodeLoss::Wait,
    }
}

impl Node {
    /// Takes a request. `image_id` is what its image's name stands for at present.
    pub fn request(&mut self, ticket: Ticket, op: Op, image_id: &str, out: &mut Outside<'_>) {
        self.waiting.insert(ticket, op.clone());
        if self.phase != Phase::Open {
            let error = WarrenError::new(ErrorCode::Unavailable, "the node is starting");
            self.reply(ticket, Reply::Done(Err(error)), out);
            return;
        }
        let message = match op {
            Op::Create(create) => self.create(ticket, create, image_id, out),
            Op::Get(_) | Op::List => {
                self.barriers.insert(ticket.0, ticket);
                let input = consensus::Input::ReadBarrier { id: ticket.0 };
                self.tell(Actor::Consensus, Letter::Consensus(input), out);
                return;
            }
            Op::Exec(id) => {
                let running = self.view.get(&id).is_some_and(|seen| seen.status == Status::Running);
                let ran = self.map.get(&id).is_some() && running && out.engine.exec(id);
                self.reply(ticket, Reply::Ran(ran), out);
                return;
            }
            Op::Destroy(id) => self.change(ticket, id, lifecycle::Input::Destroy(ticket)),
            Op::Stop(id) => self.change(ticket, id, lifecycle::Input::Stop(ticket)),
            Op::Start(id) => self.change(ticket, id, lifecycle::Input::Start(ticket)),
        };
        self.route(message, out);
    }

    /// A change goes to the sandbox's supervisor, where there is such a sandbox.
    fn change(&self, ticket: Ticket, id: SandboxId, input: lifecycle::Input) -> Message {
        if self.map.get(&id).is_some() {
            Message::Supervisor(id, input)
        } else {
            Message::Answer(ticket, Err(WarrenError::new(ErrorCode::NotFound, "there is no such sandbox")))
        }
    }

    fn create(&self, ticket: Ticket, create: Create, image_id: &str, out: &mut Outside<'_>) -> Message {
        match create.key.as_ref().and_then(|key| self.map.key(key)) {
            Some(Outcome::AlreadyPlaced { winner }) => {
                return Message::Supervisor(winner, lifecycle::Input::Join(ticket));
            }
            Some(Outcome::Refused(refusal)) => return Message::Answer(ticket, Err(refusal.error())),
            _ => {}
        }
        let load = self.map.load(&self.me);
        let candidate = Candidate {
            node: self.me.clone(),
            here: true,
            sandboxes: load.sandboxes,
            sandboxes_max: SANDBOXES_MAX,
            memory_promised: load.memory,
            memory_max: SANDBOXES_MAX * RESOURCES.memory,
            warm: self.pool.ready() as u64,
            closed: None,
        };
        let owner = match scheduler::choose(&[candidate], &RESOURCES) {
            Ok(owner) => owner,
            Err(_) => {
                let error = WarrenError::new(ErrorCode::NoCapacity, "no node has room");
                return Message::Answer(ticket, Err(error));
            }
        };
        let now = out.agenda.wall();
        let env: Vec<u8> = (0..8).map(|_| (out.rng.bits() & 0xff) as u8).collect();
        let plan = CreatePlan {
            ticket,
            owner,
            incarnation: self.incarnation,
            spec: Arc::new(spec(create.image, image_id)),
            sealed_env: env.into(),
            expires_at: create.lifetime_ms.and_then(|ms| now.checked_add_ms(ms)),
            key: create.key,
            again: None,
        };
        Message::Pool(warm_pool::Input::Claim(Box::new(plan)))
    }

    /// A read barrier is passed.
    pub(crate) fn read(&mut self, barrier: u64, out: &mut Outside<'_>) {
        let Some(ticket) = self.barriers.remove(&barrier) else {
            return;
        };
        let reply = match self.waiting.get(&ticket) {
            Some(Op::Get(id)) => {
                let placed = self.map.get(id).is_some();
                let status = self.view.get(id).map_or(Status::Creating, |seen| seen.status);
                Reply::Shown(placed.then_some(status))
            }
            _ => Reply::Listed(self.map.newest_first().map(|record| record.place.id).collect()),
        };
        self.reply(ticket, reply, out);
    }

    /// A read barrier will not be passed.
    pub(crate) fn read_dropped(&mut self, barrier: u64, out: &mut Outside<'_>) {
        if let Some(ticket) = self.barriers.remove(&barrier) {
            let error = WarrenError::new(ErrorCode::NoQuorum, "there is no leader");
            self.reply(ticket, Reply::Done(Err(error)), out);
        }
    }

    /// A core has an answer.
    pub(crate) fn answer(&mut self, ticket: Ticket, answer: Result<Answer, WarrenError>, out: &mut Outside<'_>) {
        match answer {
            Ok(Answer::Winner(winner)) => self.route(wiring::join(winner, ticket), out),
            other => self.reply(ticket, Reply::Done(other), out),
        }
    }

    fn reply(&mut self, ticket: Ticket, reply: Reply, out: &mut Outside<'_>) {
        match self.waiting.remove(&ticket) {
            Some(op) => out.replies.push((ticket, op, reply)),
            None => out.oracle.broken(
                crate::invariants::Invariant::AnsweredOnce,
                format!("request {} is answered again: {reply}", ticket.0),
            ),
        }
    }
}
