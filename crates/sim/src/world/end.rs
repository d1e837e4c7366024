//! What must hold after each event, and how a run comes to its end.

use types::OnNodeLoss;

use super::{Host, World};
use crate::agenda::Event;
use crate::clients::{Create, Op, TEMPLATE_IMAGE};
use crate::fake_disk::FakeDisk;
use crate::front::SANDBOXES_MAX;
use crate::invariants::{Invariant, Violation};
use crate::node::Phase;
use crate::oracle::Fresh;

impl World {
    pub(super) fn calm_down(&mut self) {
        self.note(format_args!("faults end"));
        self.calm = true;
        self.weather.calm();
        self.network.heal_all();
        if self.weather.nodes > 1 {
            self.agenda.set_clocks_right();
        }
        self.hosts.iter_mut().for_each(|host| {
            host.engine.broken_image = None;
        });
        self.agenda.after(1_000, Event::Poke);
    }

    /// A pool that gave up tries again when somebody asks.
    pub(super) fn poke(&mut self) {
        let open = |host: &Host| host.node.as_ref().is_some_and(|node| node.phase == Phase::Open);
        if !self.hosts.iter().all(open) {
            self.agenda.after(100_000, Event::Poke);
            return;
        }
        let crowded = self.oracle.truth.len() as u64 >= SANDBOXES_MAX * self.hosts.len() as u64;
        let op = match self.oracle.truth.newest_first().next().filter(|_| crowded) {
            Some(record) => Op::Destroy(record.place.id),
            None => {
                self.poked = true;
                let on_node_loss = OnNodeLoss::Wait;
                Op::Create(Create { key: None, image: TEMPLATE_IMAGE, lifetime_ms: None, on_node_loss })
            }
        };
        let send = self.clients.send(op, None, 0);
        self.send(send);
        if !self.poked {
            self.agenda.after(1_000_000, Event::Poke);
        }
    }

    pub(super) fn after_event(&mut self) {
        for (at, host) in self.hosts.iter().enumerate() {
            if let Some(node) = &host.node {
                self.oracle.pool_holds(at, node.pool.slots(), &host.engine);
            }
        }
        for (host, id, container) in &self.foreign {
            let same = self.hosts[*host].engine.containers.get(id) == Some(container);
            self.oracle.check(same, Invariant::ForeignUntouched, || format!("{id} was changed"));
        }
        let fresh = std::mem::take(&mut self.oracle.fresh);
        for Fresh { index, term, members } in fresh {
            let has = |member: &u64| {
                let held = |disk: &FakeDisk| disk.holds(index, term);
                self.hosts.iter().any(|host| host.member == Some(*member) && held(&host.disk))
                    || self.lost_disks.get(member).is_some_and(held)
            };
            let majority = |voters: &[u64]| voters.iter().filter(|member| has(member)).count() > voters.len() / 2;
            let durable = members.iter().any(|members| majority(&members.voters));
            self.oracle.check(durable, Invariant::AckIsDurable, || {
                format!("entry {index} is applied and not durable on a majority of {members:?}")
            });
        }
        for (at, host) in self.hosts.iter().enumerate() {
            let (life, until_ms) = host.engine.lease;
            let lives = self.agenda.boot_ms(at) < until_ms;
            if lives && self.oracle.truth.node(&host.name).is_some_and(|node| node.lost && node.incarnation == life) {
                let detail = format!("{} is lost and holds its lease until {until_ms}", host.name);
                self.oracle.broken(Invariant::LeaseBeforeLost, detail);
            }
        }
    }

    pub(super) fn unsettled(&self) -> Option<Violation> {
        crate::settled::unsettled(&self.hosts, &self.oracle.truth, &self.agenda)
    }
}
