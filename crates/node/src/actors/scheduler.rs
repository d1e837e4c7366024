//! Chooses the node for a new sandbox. A plan for this node is sent on; one for another goes back to
//! whoever can call that node.

use std::rc::Rc;

use actix::{Actor, Context, Handler, Message};
use tokio::sync::oneshot;
use types::{ErrorCode, HostId, WarrenError};
use warren_core::lifecycle::CreatePlan;
use warren_core::scheduler::{Candidate, choose};
use warren_core::{warm_pool, wiring};

use super::SCHEDULER_MAILBOX;
use crate::hub::Hub;
use crate::view::View;

/// Find a node for this plan.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Schedule {
    /// What is to be made.
    pub plan: Box<CreatePlan>,
    /// Told where another node is chosen; none where only this one will do.
    pub elsewhere: Option<oneshot::Sender<HostId>>,
}

/// What this node may promise.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// Sandboxes.
    pub sandboxes_max: u64,
    /// Bytes of memory, overcommit included.
    pub memory_max: u64,
}

impl Capacity {
    /// This node, as the scheduler looks at it.
    pub fn here(&self, view: &View, closed: Option<String>) -> Candidate {
        let load = view.placement().load(view.me());
        Candidate {
            node: view.me().clone(),
            here: true,
            sandboxes: load.sandboxes,
            sandboxes_max: self.sandboxes_max,
            memory_promised: load.memory,
            memory_max: self.memory_max,
            warm: view.pool_ready(),
            closed,
        }
    }
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
}

impl Actor for Scheduler {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(SCHEDULER_MAILBOX);
    }
}

impl Handler<Schedule> for Scheduler {
    type Result = ();

    fn handle(&mut self, Schedule { plan, elsewhere }: Schedule, _: &mut Self::Context) {
        let view = self.hub.view();
        let mut candidates = vec![self.capacity.here(view, self.hub.closed())];
        if elsewhere.is_some() {
            candidates.extend(view.others());
        }
        match (choose(&candidates, &plan.spec.resources), elsewhere) {
            (Ok(host), Some(elsewhere)) if host != *view.me() => {
                if elsewhere.send(host).is_err() {
                    tracing::debug!("nobody waits for this create any more");
                }
            }
            (Ok(_), _) => self.hub.deliver(wiring::Message::Pool(warm_pool::Input::Claim(plan))),
            (Err(refusals), _) => {
                let mut error = WarrenError::new(ErrorCode::NoCapacity, "no node has room for this sandbox");
                for refusal in refusals {
                    error = error.with(refusal.node.as_str(), refusal.reason);
                }
                self.hub.deliver(wiring::Message::Answer(plan.ticket, Err(error)));
            }
        }
    }
}
