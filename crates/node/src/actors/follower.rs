//! Where everything that concerns this node's sandboxes comes in: committed changes from consensus,
//! wishes from the front door. It hands them to the supervisor that they are about.

use std::rc::Rc;

use actix::{Actor, Context, Handler, Message};
use warren_core::wiring;

use super::FOLLOWER_MAILBOX;
use crate::hub::Hub;
use crate::kill_point;

/// Bring this to where it belongs.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Deliver(pub wiring::Message);

/// The actor.
pub struct Follower {
    hub: Rc<Hub>,
}

impl Follower {
    /// A follower that hands on through `hub`.
    pub fn new(hub: Rc<Hub>) -> Self {
        Self { hub }
    }
}

impl Actor for Follower {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(FOLLOWER_MAILBOX);
    }
}

impl Handler<Deliver> for Follower {
    type Result = ();

    fn handle(&mut self, Deliver(message): Deliver, _: &mut Self::Context) {
        if let wiring::Message::Supervisor(_, warren_core::lifecycle::Input::Applied { change }) = &message {
            kill_point::applied(change);
        }
        self.hub.deliver(message);
    }
}
