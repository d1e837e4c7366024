//! Chooses the node for a new sandbox. A plan for this node is sent on; one for another goes back to
//! whoever can call that node.

use std::rc::Rc;

use actix::{Actor, Context, Handler, Message};
use tokio::sync::oneshot;
use types::{ErrorCode, WarrenError};
use warren_core::lifecycle::CreatePlan;
use warren_core::scheduler::{Ask, AskedImage, Choice, NoNode, Refusal, choose};
use warren_core::{warm_pool, wiring};

use super::SCHEDULER_MAILBOX;
use crate::hub::Hub;
use crate::offers::{Capacity, Sending};

/// Find a node for this plan.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Schedule {
    /// What is to be made.
    pub plan: Box<CreatePlan>,
    /// The image that it may have.
    pub image: AskedImage,
    /// Where it may go besides; none where only this node will do.
    pub elsewhere: Option<Elsewhere>,
}

/// That a sandbox may be made on another node.
pub struct Elsewhere {
    /// Nodes that did not take it.
    pub tried: Vec<Refusal>,
    /// Told where another node is chosen.
    pub tell: oneshot::Sender<Sending>,
}

/// Find a node for what this one can not plan, since it lacks the image.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Choose {
    /// What is to be placed.
    pub ask: Ask,
    /// Told where.
    pub tell: oneshot::Sender<Result<Chosen, NoNode>>,
}

/// Where a sandbox goes.
pub enum Chosen {
    /// To this node.
    Here,
    /// To another.
    Elsewhere(Sending),
}

/// Why nobody takes a sandbox, for its client.
pub fn no_capacity(none: NoNode) -> WarrenError {
    let error = WarrenError::new(ErrorCode::NoCapacity, "no node has room for this sandbox");
    none.refusals.into_iter().fold(error, |error, refusal| error.with(refusal.node.as_str(), refusal.reason))
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

    fn choose(&self, ask: &Ask, elsewhere: bool) -> Result<Choice, NoNode> {
        let view = self.hub.view();
        let (me, map) = (view.me(), view.placement());
        let mut candidates = vec![view.offers().here(me, &map, self.capacity, self.hub.closed())];
        if elsewhere {
            candidates.extend(view.offers().others(me, &map, |host| view.cluster().reaches(host)));
        }
        choose(&candidates, ask)
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

    fn handle(&mut self, Schedule { plan, image, elsewhere }: Schedule, _: &mut Self::Context) {
        let view = self.hub.view();
        let need = plan.spec.resources;
        let (tell, tried) = match elsewhere {
            Some(Elsewhere { tell, tried }) => (Some(tell), tried),
            None => (None, Vec::new()),
        };
        let ask = Ask { need, shape: plan.spec.slot_shape(), image, tried };
        match (self.choose(&ask, tell.is_some()), tell) {
            (Ok(choice), Some(tell)) if choice.node != *view.me() => {
                if tell.send(view.offers().send(choice, need)).is_err() {
                    tracing::debug!("nobody waits for this create any more");
                }
            }
            (Ok(choice), _) => {
                view.offers().begin(plan.ticket, need, &choice);
                self.hub.deliver(wiring::Message::Pool(warm_pool::Input::Claim(plan)));
            }
            (Err(none), _) => self.hub.deliver(wiring::Message::Answer(plan.ticket, Err(no_capacity(none)))),
        }
    }
}

impl Handler<Choose> for Scheduler {
    type Result = ();

    fn handle(&mut self, Choose { ask, tell }: Choose, _: &mut Self::Context) {
        let view = self.hub.view();
        let chosen = self.choose(&ask, true).map(|choice| {
            if choice.node == *view.me() {
                Chosen::Here
            } else {
                Chosen::Elsewhere(view.offers().send(choice, ask.need))
            }
        });
        if tell.send(chosen).is_err() {
            tracing::debug!("nobody waits for this create any more");
        }
    }
}
