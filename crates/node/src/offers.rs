//! What each node can take, as this one knows it: what the others said of themselves, what the map says, and what this
//! node has begun or sent and nobody has said anything of yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use types::{HostId, Incarnation, Resources, SandboxId};
use warren_core::images::Images;
use warren_core::lifecycle::Ticket;
use warren_core::placement::{Load, Node, Placement};
use warren_core::scheduler::{Candidate, Choice, Warm};
use warren_core::slot_digest::SlotDigest;

/// Age at which what another node said of itself does not count any more.
const HEARD_LATELY: Duration = Duration::from_secs(3);

/// What a node may promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Sandboxes.
    pub sandboxes_max: u64,
    /// Bytes of memory, overcommit included.
    pub memory_max: u64,
    /// Thousand-millionths of a processor, overcommit included; 0 where that refuses nothing.
    pub cpu_max: u64,
}

/// What another node says of itself.
#[derive(Debug, Clone)]
pub struct Offer {
    /// In which of its lives.
    pub incarnation: Incarnation,
    /// What it may promise.
    pub capacity: Capacity,
    /// Its warm slots.
    pub warm: Vec<Warm>,
    /// Why it takes nothing at all.
    pub closed: Option<String>,
}

/// Who can take what. Shared by all threads of a node.
#[derive(Default)]
pub struct Offers {
    others: Mutex<HashMap<HostId, Other>>,
    here: Mutex<Here>,
    images: ArcSwap<Images>,
}

#[derive(Default)]
struct Other {
    said: Option<(Offer, Instant)>,
    images: Arc<Images>,
    /// Creates that were sent there and are not answered.
    sent: Load,
    /// The warm slots that these are to take.
    sent_warm: BTreeMap<SlotDigest, u64>,
    /// Those that were taken since the node's last word.
    taken_warm: BTreeMap<SlotDigest, u64>,
}

/// Creates that this node has begun.
#[derive(Default)]
struct Here {
    /// By their tickets: those that are not answered.
    under_way: HashMap<Ticket, Resources>,
    /// The sum of these.
    sent: Load,
    /// Those that the map does not have yet.
    claims: BTreeMap<Ticket, Claim>,
    /// The pool's slots.
    pool: Option<Warm>,
}

struct Claim {
    need: Resources,
    /// The slots that it is to take one of, until the pool has given it one.
    warm: Option<SlotDigest>,
    slot: Option<SandboxId>,
}

/// A create on its way to another node, until it is answered.
pub struct Sending {
    offers: Arc<Offers>,
    choice: Choice,
    need: Resources,
}

impl Drop for Sending {
    fn drop(&mut self) {
        let mut others = self.offers.others.lock();
        let other = others.entry(self.choice.node.clone()).or_default();
        other.sent.take(&self.need);
        if let Some(shape) = self.choice.warm {
            count_down(&mut other.sent_warm, shape);
            *other.taken_warm.entry(shape).or_default() += 1;
        }
    }
}

impl Sending {
    /// Where it goes.
    pub fn node(&self) -> &HostId {
        &self.choice.node
    }
}

fn count_down(counts: &mut BTreeMap<SlotDigest, u64>, shape: SlotDigest) {
    if let Some(count) = counts.get_mut(&shape) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&shape);
        }
    }
}

impl Offers {
    /// Takes in what another node says of itself.
    pub fn hear(&self, node: &HostId, offer: Offer) {
        let mut others = self.others.lock();
        let other = others.entry(node.clone()).or_default();
        other.said = Some((offer, Instant::now()));
        // Its own count knows of them.
        other.taken_warm.clear();
    }

    /// Takes in which images another node has.
    pub fn hear_images(&self, node: &HostId, images: Images) {
        self.others.lock().entry(node.clone()).or_default().images = Arc::new(images);
    }

    /// The images that are here.
    pub fn images(&self) -> Arc<Images> {
        self.images.load_full()
    }

    /// Publishes the images that are here.
    pub fn set_images(&self, images: Images) {
        self.images.store(Arc::new(images));
    }

    /// The pool has given or taken in slots.
    pub fn set_pool(&self, pool: Warm) {
        self.here.lock().pool = Some(pool);
    }

    /// A create begins here, before the pool hears of it.
    pub fn begin(&self, ticket: Ticket, need: Resources, choice: &Choice) {
        let mut here = self.here.lock();
        here.under_way.insert(ticket, need);
        here.sent.add(&need);
        here.claims.insert(ticket, Claim { need, warm: choice.warm, slot: None });
    }

    /// The pool has given a create its slot.
    pub fn given(&self, ticket: Ticket, slot: SandboxId) {
        if let Some(claim) = self.here.lock().claims.get_mut(&ticket) {
            claim.slot = Some(slot);
            claim.warm = None;
        }
    }

    /// Whatever this ticket was for has ended.
    pub fn ended(&self, ticket: Ticket) {
        let mut here = self.here.lock();
        here.claims.remove(&ticket);
        if let Some(need) = here.under_way.remove(&ticket) {
            here.sent.take(&need);
        }
    }

    /// A create goes to another node.
    pub fn send(self: &Arc<Self>, choice: Choice, need: Resources) -> Sending {
        let mut others = self.others.lock();
        let other = others.entry(choice.node.clone()).or_default();
        other.sent.add(&need);
        if let Some(shape) = choice.warm {
            *other.sent_warm.entry(shape).or_default() += 1;
        }
        drop(others);
        Sending { offers: Arc::clone(self), choice, need }
    }

    /// This node.
    pub fn here(&self, me: &HostId, map: &Placement, capacity: Capacity, closed: Option<String>) -> Candidate {
        let mut here = self.here.lock();
        // What the map has is not promised twice.
        here.claims.retain(|_, claim| claim.slot.is_none_or(|slot| map.in_slot(&slot).is_none()));
        let mut claimed = Load::default();
        here.claims.values().for_each(|claim| claimed.add(&claim.need));
        let mut candidate = Candidate {
            here: true,
            promised: map.load(me),
            claimed,
            sent: here.sent,
            warm: here.pool.into_iter().collect(),
            images: self.images(),
            ..of_capacity(me, capacity, closed)
        };
        for shape in here.claims.values().filter_map(|claim| claim.warm) {
            candidate.take_warm(shape, 1);
        }
        candidate
    }

    /// All other nodes of the map, also those that take nothing. `reaches` says which can be called.
    pub fn others(&self, me: &HostId, map: &Placement, reaches: impl Fn(&HostId) -> bool) -> Vec<Candidate> {
        let others = self.others.lock();
        let silent = Other::default();
        map.nodes()
            .filter(|(host, _)| *host != me)
            .map(|(host, node)| {
                let other = others.get(host).unwrap_or(&silent);
                other.candidate(host, node, map, reaches(host))
            })
            .collect()
    }
}

fn of_capacity(node: &HostId, capacity: Capacity, closed: Option<String>) -> Candidate {
    let Capacity { sandboxes_max, memory_max, cpu_max } = capacity;
    Candidate { sandboxes_max, memory_max, cpu_max, closed, ..Candidate::unknown(node.clone(), "") }
}

impl Other {
    fn candidate(&self, host: &HostId, node: &Node, map: &Placement, reached: bool) -> Candidate {
        let said = self.said.as_ref().filter(|(offer, _)| offer.incarnation == node.incarnation);
        let closed = match said {
            _ if node.lost => Some("lost".to_owned()),
            _ if node.restarting.is_some() => Some("restarting".to_owned()),
            None => Some("not heard yet".to_owned()),
            Some((_, heard)) if heard.elapsed() >= HEARD_LATELY => {
                Some(format!("not heard for {} s", heard.elapsed().as_secs()))
            }
            Some(_) if !reached => Some("can not be reached".to_owned()),
            Some((offer, _)) => offer.closed.clone(),
        };
        let mut candidate = match said {
            Some((offer, _)) => Candidate { warm: offer.warm.clone(), ..of_capacity(host, offer.capacity, closed) },
            None => Candidate { closed, ..Candidate::unknown(host.clone(), "") },
        };
        // The map is nearer than the node's last word.
        candidate.promised = map.load(host);
        candidate.sent = self.sent;
        candidate.images = Arc::clone(&self.images);
        for (shape, count) in self.sent_warm.iter().chain(&self.taken_warm) {
            candidate.take_warm(*shape, *count);
        }
        candidate
    }
}

#[cfg(test)]
mod tests;
