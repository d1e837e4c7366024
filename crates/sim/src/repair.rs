//! The leader's care for the sandboxes of lost nodes, and what a node does that is asked to take one over.

use std::sync::Arc;

use types::{ErrorCode, Generation, SandboxId};
use warren_core::images::Images;
use warren_core::lifecycle::{Again, CreatePlan, Ticket};
use warren_core::placement::Command;
use warren_core::repair::Repair;
use warren_core::warm_pool;
use warren_core::wiring::Message;

use crate::clients::{OTHER_IMAGE, Op, Reply, TEMPLATE_IMAGE};
use crate::fake_engine::IMPOSSIBLE_IMAGE;
use crate::front::{Barrier, From, Waiter, failed};
use crate::node::{Node, Outside, Phase};

/// Ticks between two looks for what is to be repaired.
const LOOK_TICKS: u64 = 3;

/// Every image is on every node.
pub(crate) fn images(version: u64) -> Arc<Images> {
    let image = |name: &str, version: u64| (format!("{name}:{version}"), [format!("localhost/{name}:latest")]);
    // A name means the last that bears it.
    let templates = (1..=version).map(|version| image(TEMPLATE_IMAGE, version));
    let others = [image(OTHER_IMAGE, 1), image(IMPOSSIBLE_IMAGE, 1)];
    Arc::new(Images::new(templates.chain(others), true))
}

impl Node {
    /// Looks after the sandboxes of lost nodes, where this one leads.
    pub(crate) fn look_after_lost(&mut self, out: &mut Outside<'_>) {
        if !self.ticks.is_multiple_of(LOOK_TICKS) || self.phase != Phase::Open || self.leader() != Some(out.host) {
            return;
        }
        let mut candidates = vec![self.candidate(out)];
        candidates.extend(self.others(out));
        for repair in self.repairs.plan(out.boot_ms(), out.wall(), &self.map, candidates) {
            match repair {
                Repair::Propose(kind) => {
                    self.route(Message::Propose(Command { time: out.wall(), kind }), out);
                }
                Repair::Replace { id, generation, on } => {
                    out.note(format_args!("asks {on} to take {id} over from generation {generation}"));
                    let ticket = self.own_ticket(out);
                    let op = Op::TakeOver(id, generation);
                    self.waiting.insert(ticket, Waiter { op, from: From::Repair(id) });
                    if on == self.me {
                        self.ask_barrier(Barrier::TakeOver(ticket), out);
                    } else {
                        self.there(ticket, &on, generation, false, out);
                    }
                }
            }
        }
    }

    /// What became of a sandbox that was to be taken over.
    pub(crate) fn repaired(&mut self, id: SandboxId, done: bool, out: &Outside<'_>) {
        self.repairs.ended(out.boot_ms(), id, done);
    }

    /// Brings a sandbox up here whose lost owner had it in this generation.
    pub(crate) fn take_over(&mut self, ticket: Ticket, id: SandboxId, generation: Generation, out: &mut Outside<'_>) {
        let record = self.map.get(&id).cloned();
        let wanted = |record: &_| self.map.owner_is_lost(record);
        let Some(place) =
            record.filter(|record| record.place.generation == generation && wanted(record)).map(|record| record.place)
        else {
            self.reply(ticket, failed(ErrorCode::WrongState, "it is not to be taken over any more"), out);
            return;
        };
        if let Some(refusal) = self.map.owner_refused(&self.me, self.incarnation) {
            self.reply(ticket, Reply::Done(Err(refusal.error())), out);
            return;
        }
        let plan = CreatePlan {
            ticket,
            owner: self.me.clone(),
            incarnation: self.incarnation,
            spec: place.spec,
            sealed_env: place.sealed_env,
            expires_at: place.expires_at,
            key: None,
            again: Some(Again { id, generation: generation.next() }),
        };
        self.route(Message::Pool(warm_pool::Input::Claim(Box::new(plan))), out);
    }
}
