//! The warm pool of the default template.

use std::rc::Rc;

use actix::{Actor, Context, Handler, Message};
use warren_core::warm_pool::{Input, WarmPool};
use warren_core::wiring;

use crate::hub::{Hub, fresh_sandbox_id, now};

/// Something happened to the pool.
#[derive(Message)]
#[rtype(result = "()")]
pub struct PoolInput(pub Input);

/// The actor.
pub struct PoolActor {
    core: WarmPool,
    hub: Rc<Hub>,
}

impl PoolActor {
    /// An actor around a pool.
    pub fn new(core: WarmPool, hub: Rc<Hub>) -> Self {
        Self { core, hub }
    }
}

impl Actor for PoolActor {
    type Context = Context<Self>;
}

impl Handler<PoolInput> for PoolActor {
    type Result = ();

    fn handle(&mut self, PoolInput(input): PoolInput, _: &mut Self::Context) {
        let outputs = self.core.handle(now(), &mut fresh_sandbox_id, input);
        self.hub.view().set_pool_ready(self.core.ready());
        let pool = &self.hub.view().insight().instruments.pool;
        pool.set(self.core.target().size, self.core.hits_and_misses());
        for output in outputs {
            self.hub.deliver(wiring::from_pool(output));
        }
    }
}
