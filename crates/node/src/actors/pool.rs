//! The warm pool of the default template.

use std::rc::Rc;

use actix::{Actor, Context, Handler, Message};
use types::spec::SlotShape;
use warren_core::scheduler::Warm;
use warren_core::slot_digest::SlotDigest;
use warren_core::warm_pool::{Input, Output, WarmPool};
use warren_core::wiring;

use crate::hub::{Hub, fresh_sandbox_id, now};

/// Something happened to the pool.
#[derive(Message)]
#[rtype(result = "()")]
pub struct PoolInput(pub Input);

/// The actor.
pub struct PoolActor {
    core: WarmPool,
    /// What its slots have in common, and the digest of that.
    shape: (SlotShape, SlotDigest),
    hub: Rc<Hub>,
}

impl PoolActor {
    /// An actor around a pool.
    pub fn new(core: WarmPool, hub: Rc<Hub>) -> Self {
        let shape = core.target().shape.clone();
        let digest = SlotDigest::of(&shape);
        Self { core, shape: (shape, digest), hub }
    }
}

impl Actor for PoolActor {
    type Context = Context<Self>;
}

impl Handler<PoolInput> for PoolActor {
    type Result = ();

    fn handle(&mut self, PoolInput(input): PoolInput, _: &mut Self::Context) {
        let outputs = self.core.handle(now(), &mut fresh_sandbox_id, input);
        let view = self.hub.view();
        view.set_pool_ready(self.core.ready());
        if self.core.target().shape != self.shape.0 {
            let shape = self.core.target().shape.clone();
            self.shape = (shape.clone(), SlotDigest::of(&shape));
        }
        for output in &outputs {
            if let Output::Give { slot, plan, .. } = output {
                view.offers().given(plan.ticket, *slot);
            }
        }
        view.offers().set_pool(Warm { shape: self.shape.1, ready: self.core.ready() as u64 });
        let pool = &self.hub.view().insight().instruments.pool;
        pool.set(self.core.target().size, self.core.hits_and_misses());
        for output in outputs {
            self.hub.deliver(wiring::from_pool(output));
        }
    }
}
