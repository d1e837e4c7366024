//! What readers see without asking anybody: the published placement and what this node observes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use parking_lot::RwLock;
use tokio::sync::watch;
use types::{HostId, Sandbox, SandboxId, Status};
use warren_core::lifecycle::Observed;
use warren_core::placement::{Placement, Record};

use crate::cluster::Cluster;
use crate::insight::Insight;
use crate::offers::Offers;

/// The view of one node. Writers publish; readers never wait for them.
pub struct View {
    me: HostId,
    cluster: Arc<Cluster>,
    offers: Arc<Offers>,
    runtime: String,
    placement: ArcSwap<Placement>,
    observed: RwLock<HashMap<SandboxId, Observed>>,
    /// Member id of the leader.
    leader: watch::Sender<Option<u64>>,
    pool_ready: AtomicUsize,
    insight: Insight,
}

impl View {
    /// An empty view of node `me`, whose sandboxes are held by the OCI runtime `runtime`.
    pub fn new(me: HostId, runtime: String, cluster: Arc<Cluster>) -> Self {
        Self {
            me,
            cluster,
            offers: Arc::default(),
            runtime,
            placement: ArcSwap::default(),
            observed: RwLock::default(),
            leader: watch::Sender::new(None),
            pool_ready: AtomicUsize::new(0),
            insight: Insight::default(),
        }
    }

    /// The node that sees it.
    pub fn me(&self) -> &HostId {
        &self.me
    }

    /// The other nodes, as this one reaches them.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The OCI runtime that holds this node's sandboxes.
    pub fn runtime(&self) -> &str {
        &self.runtime
    }

    /// What this node publishes of its inside.
    pub fn insight(&self) -> &Insight {
        &self.insight
    }

    /// The node that leads, where one is known.
    pub fn leader(&self) -> Option<HostId> {
        let member = (*self.leader.borrow())?;
        self.placement.load().host_of(member).cloned()
    }

    /// The member id of the leader, and every change of it.
    pub fn leadership(&self) -> watch::Receiver<Option<u64>> {
        self.leader.subscribe()
    }

    /// Publishes who leads.
    pub fn set_leader(&self, member: Option<u64>) {
        self.leader.send_if_modified(|leader| std::mem::replace(leader, member) != member);
    }

    /// Warm slots that stand ready.
    pub fn pool_ready(&self) -> u64 {
        self.pool_ready.load(Ordering::Relaxed) as u64
    }

    /// Publishes how many warm slots stand ready.
    pub fn set_pool_ready(&self, ready: usize) {
        self.pool_ready.store(ready, Ordering::Relaxed);
    }

    /// Publishes a newer map.
    pub fn publish(&self, placement: Placement) {
        self.placement.store(Arc::new(placement));
    }

    /// The newest published map.
    pub fn placement(&self) -> arc_swap::Guard<Arc<Placement>> {
        self.placement.load()
    }

    /// Publishes what a supervisor sees.
    pub fn observe(&self, id: SandboxId, observed: Observed) {
        let mut seen = self.observed.write();
        // What is left of an older generation does not speak for the sandbox.
        if seen.get(&id).is_none_or(|known| known.generation <= observed.generation) {
            seen.insert(id, observed);
        }
    }

    /// Forgets a sandbox of which nothing is left in this slot, unless it lives in another one.
    pub fn forget(&self, id: SandboxId, slot: SandboxId) {
        if self.placement.load().get(&id).is_none_or(|record| record.place.slot == slot) {
            self.observed.write().remove(&id);
        }
    }

    /// Forgets what is in no map and not of this node.
    pub fn forget_strangers(&self) {
        let placement = self.placement.load();
        self.observed.write().retain(|id, _| placement.owner(id).is_some());
    }

    /// What each node can take.
    pub fn offers(&self) -> &Arc<Offers> {
        &self.offers
    }

    /// What is seen of a sandbox.
    pub fn observed(&self, id: &SandboxId) -> Option<Observed> {
        self.observed.read().get(id).cloned()
    }

    /// A placed sandbox as its users see it.
    pub fn show(&self, record: &Record) -> Sandbox {
        let place = &record.place;
        let seen = self.observed(&place.id).filter(|seen| seen.generation == place.generation);
        let owner = self.placement.load().node(&place.owner).cloned();
        let lost = owner.as_ref().is_some_and(|node| node.lost);
        let restarts = owner.is_some_and(|node| node.restarting.is_some());
        let away = place.owner != self.me && !self.cluster.reaches(&place.owner);
        let (status, error) = match seen {
            _ if record.failure.is_some() => {
                (Status::Error, record.failure.as_ref().map(|failure| failure.message.clone()))
            }
            _ if lost => (Status::Unreachable, Some(format!("node {} is lost", place.owner))),
            _ if restarts => (Status::Unreachable, Some(format!("node {} is restarting", place.owner))),
            _ if away => (Status::Unreachable, Some(format!("node {} can not be reached", place.owner))),
            Some(seen) => (seen.status, seen.why),
            None => (Status::Creating, None),
        };
        Sandbox {
            id: place.id,
            image: place.spec.image.clone(),
            status,
            created_at: record.created_at,
            expires_at: place.expires_at,
            node: place.owner.clone(),
            generation: place.generation,
            labels: place.spec.labels.clone(),
            template: place.spec.template.clone(),
            name: place.spec.name.clone(),
            resources: place.spec.resources,
            network_mode: place.spec.network_mode,
            runtime: self.runtime.clone(),
            error,
        }
    }
}
