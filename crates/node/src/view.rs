//! What readers see without asking anybody: the published placement and what this node observes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use parking_lot::RwLock;
use types::{HostId, Sandbox, SandboxId, Status};
use warren_core::lifecycle::Observed;
use warren_core::placement::{Placement, Record};

/// The view of one node. Writers publish; readers never wait for them.
pub struct View {
    me: HostId,
    runtime: String,
    placement: ArcSwap<Placement>,
    observed: RwLock<HashMap<SandboxId, Observed>>,
    leads: AtomicBool,
    pool_ready: AtomicUsize,
}

impl View {
    /// An empty view of node `me`, whose sandboxes are held by the OCI runtime `runtime`.
    pub fn new(me: HostId, runtime: String) -> Self {
        Self {
            me,
            runtime,
            placement: ArcSwap::default(),
            observed: RwLock::default(),
            leads: AtomicBool::new(false),
            pool_ready: AtomicUsize::new(0),
        }
    }

    /// The node that sees it.
    pub fn me(&self) -> &HostId {
        &self.me
    }

    /// Whether this node leads.
    pub fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }

    /// Publishes whether this node leads.
    pub fn set_leads(&self, leads: bool) {
        self.leads.store(leads, Ordering::Relaxed);
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
        self.observed.write().insert(id, observed);
    }

    /// Forgets a sandbox that is gone.
    pub fn forget(&self, id: SandboxId) {
        self.observed.write().remove(&id);
    }

    /// What is seen of a sandbox.
    pub fn observed(&self, id: &SandboxId) -> Option<Observed> {
        self.observed.read().get(id).cloned()
    }

    /// A placed sandbox as its users see it.
    pub fn show(&self, record: &Record) -> Sandbox {
        let place = &record.place;
        let seen = self.observed(&place.id).filter(|seen| seen.generation == place.generation);
        let (status, error) = match seen {
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
