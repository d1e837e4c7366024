//! One supervisor for each sandbox of this node.

use std::rc::Rc;

use actix::{Actor, Context, Handler, Message};
use types::SandboxId;
use warren_core::lifecycle::{Input, Lifecycle};
use warren_core::wiring;

use crate::hub::{Hub, now};

/// Something happened to the sandbox.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SupervisorInput(pub Input);

/// The actor. It ends when the hub lets go of its address.
pub struct Supervisor {
    slot: SandboxId,
    core: Lifecycle,
    hub: Rc<Hub>,
}

impl Supervisor {
    /// A supervisor for what is in this slot, to which nothing has happened yet.
    pub fn new(slot: SandboxId, hub: Rc<Hub>) -> Self {
        Self { slot, core: Lifecycle::new(slot), hub }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;
}

impl Handler<SupervisorInput> for Supervisor {
    type Result = ();

    fn handle(&mut self, SupervisorInput(input): SupervisorInput, _: &mut Self::Context) {
        let now = now();
        for output in self.core.handle(now, input) {
            self.hub.deliver(wiring::from_lifecycle(now, self.slot, output));
        }
    }
}
