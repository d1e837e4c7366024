//! Chooses the node for a new sandbox and sends its plan on.

use std::rc::Rc;

use actix::{Actor, Context, Handler, Message};
use types::{ErrorCode, WarrenError};
use warren_core::lifecycle::CreatePlan;
use warren_core::scheduler::{Candidate, choose};
use warren_core::{warm_pool, wiring};

use super::SCHEDULER_MAILBOX;
use crate::hub::Hub;

/// Find a node for this plan.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Schedule(pub Box<CreatePlan>);

/// What this node may promise.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// Sandboxes.
    pub sandboxes_max: u64,
    /// Bytes of memory, overcommit included.
    pub memory_max: u64,
}

/// The actor.
pub struct Scheduler {
    hub: Rc<Hub>,
    capacity: Capacity,
}

impl Scheduler {
    /// A scheduler for a node of this capacity.
    pub fn new(hub: Rc<Hub>, capacity: Capacity) -> Self {
        Self { hub, capacity }
    }

    fn here(&self) -> Candidate {
        let view = self.hub.view();
        let load = view.placement().load(view.me());
        Candidate {
            node: view.me().clone(),
            here: true,
            sandboxes: load.sandboxes,
            sandboxes_max: self.capacity.sandboxes_max,
            memory_promised: load.memory,
            memory_max: self.capacity.memory_max,
            warm: view.pool_ready(),
            closed: self.hub.closed(),
        }
    }
}

impl Actor for Scheduler {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(SCHEDULER_MAILBOX);
    }
}

impl Handler<Schedule> for Scheduler {
    type Result = ();

    fn handle(&mut self, Schedule(plan): Schedule, _: &mut Self::Context) {
        match choose(&[self.here()], &plan.spec.resources) {
            Ok(_this_node) => self.hub.deliver(wiring::Message::Pool(warm_pool::Input::Claim(plan))),
            Err(refusals) => {
                let mut error = WarrenError::new(ErrorCode::NoCapacity, "no node has room for this sandbox");
                for refusal in refusals {
                    error = error.with(refusal.node.as_str(), refusal.reason);
                }
                self.hub.deliver(wiring::Message::Answer(plan.ticket, Err(error)));
            }
        }
    }
}
