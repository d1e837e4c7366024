//! What this node tells the others without being asked: what it sees of its sandboxes, what it can take.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use peers::wire::{Capacity, Message, Observed as WireObserved, ObservedBatch, WarmShape};
use peers::words::{status_from_wire, status_to_wire};
use runtime::Engine;
use types::{Generation, HostId, Incarnation, SandboxId};
use warren_core::lifecycle::Observed;
use warren_core::placement::COMMANDS_KNOWN;
use warren_core::scheduler::Candidate;

use crate::cluster::Cluster;
use crate::hub::Hub;
use crate::life::Life;
use crate::operations::DEFAULT_TEMPLATE;
use crate::view::View;

/// Time between two tellings of what this node can take.
pub const TELL_EVERY: Duration = Duration::from_millis(500);

/// Time between two counts of the images: an engine call each.
const COUNT_IMAGES_EVERY: Duration = Duration::from_secs(30);

/// Tellings after which everything is told once more.
const ALL_AGAIN_TELLINGS: u64 = 8;

/// Sandboxes in one message.
const OBSERVED_PER_MESSAGE: usize = 500;

/// One change, for everybody.
pub fn observed(me: &HostId, incarnation: Incarnation, id: SandboxId, seen: &Observed) -> Message {
    batch(me, incarnation, vec![to_wire(id, seen)])
}

fn batch(me: &HostId, incarnation: Incarnation, observed: Vec<WireObserved>) -> Message {
    let (host, incarnation) = (me.to_string(), incarnation.0);
    Message::Observed(ObservedBatch { host, incarnation, observed, complete: false })
}

fn to_wire(id: SandboxId, seen: &Observed) -> WireObserved {
    WireObserved {
        sandbox: id.to_string(),
        generation: seen.generation.0,
        sequence: 0,
        status: status_to_wire(seen.status).into(),
        why: seen.why.clone(),
    }
}

/// Takes in what another node sees of its sandboxes. What does not parse is of a later version.
pub fn hear_observed(view: &View, peer: &HostId, batch: &ObservedBatch) {
    for seen in &batch.observed {
        let (Ok(id), Ok(status)) = (seen.sandbox.parse(), status_from_wire(seen.status)) else {
            tracing::debug!(%peer, ?seen, "not understood");
            continue;
        };
        // Only an owner speaks for a sandbox; the map may still be on its way here.
        if view.placement().get(&id).is_none_or(|record| record.place.owner == *peer) {
            let generation = Generation(seen.generation);
            view.observe(id, Observed { status, why: seen.why.clone(), generation });
        }
    }
}

/// Takes in what another node can take.
pub fn hear_capacity(view: &View, peer: &HostId, capacity: Capacity) {
    view.insight().words.hear(peer, capacity.clone());
    let candidate = Candidate {
        node: peer.clone(),
        here: false,
        sandboxes: capacity.sandboxes,
        sandboxes_max: capacity.sandboxes_max,
        memory_promised: capacity.memory_promised,
        memory_max: capacity.memory_max,
        warm: capacity.warm.iter().map(|shape| u64::from(shape.ready)).sum(),
        closed: capacity.closed,
    };
    view.hear(candidate);
}

/// Tells for as long as the node lives.
pub async fn tell(hub: Rc<Hub>, cluster: Arc<Cluster>, life: Arc<Life>, capacity: crate::actors::scheduler::Capacity) {
    let mut told: HashMap<HostId, u64> = HashMap::new();
    let mut sequence = 0;
    loop {
        let view = hub.view();
        let me = view.me().clone();
        let here = capacity.here(view, hub.closed());
        sequence += 1;
        let incarnation = life.now();
        let insight = view.insight();
        let myself = insight.myself();
        let said = Capacity {
            host: me.to_string(),
            incarnation: incarnation.0,
            sequence,
            sandboxes: here.sandboxes,
            sandboxes_max: here.sandboxes_max,
            memory_promised: here.memory_promised,
            memory_max: here.memory_max,
            warm: vec![WarmShape {
                digest: Vec::new().into(),
                ready: u32::try_from(here.warm).unwrap_or(u32::MAX),
                template: DEFAULT_TEMPLATE.to_owned(),
                target: u32::try_from(insight.instruments.pool.target()).unwrap_or(u32::MAX),
                refill_ms_p50: insight.instruments.refill_ms_p50(),
            }],
            closed: here.closed,
            runtime: view.runtime().to_owned(),
            name: myself.name.clone(),
            versions: Some(myself.versions(COMMANDS_KNOWN)),
            cpu_cores: myself.cpu_cores,
            images_count: insight.images(),
            ..Capacity::default()
        };
        insight.words.hear(&me, said.clone());
        cluster.broadcast(&Message::Capacity(said));
        // Whoever has just been reached has missed the changes before; and a change that came before its
        // placement is told again.
        if sequence.is_multiple_of(ALL_AGAIN_TELLINGS) {
            view.forget_strangers();
            told.clear();
        }
        for host in cluster.hosts() {
            match cluster.connection(&host) {
                Some(connection)
                    if told.get(&host) != Some(&connection) && tell_all(view, &cluster, &host, incarnation) =>
                {
                    told.insert(host, connection);
                }
                _ => {}
            }
        }
        tokio::time::sleep(TELL_EVERY).await;
    }
}

/// Counts the images that are there, for as long as the node lives.
pub async fn count_images(hub: Rc<Hub>, engine: Engine) {
    loop {
        match engine.images_count().await {
            Ok(count) => hub.view().insight().set_images(count),
            Err(error) => tracing::debug!(%error, "the images can not be counted"),
        }
        tokio::time::sleep(COUNT_IMAGES_EVERY).await;
    }
}

fn tell_all(view: &View, cluster: &Cluster, host: &HostId, incarnation: Incarnation) -> bool {
    let me = view.me().clone();
    let placement = Arc::clone(&view.placement());
    let mine: Vec<WireObserved> = placement
        .newest_first()
        .filter(|record| record.place.owner == me)
        .filter_map(|record| Some(to_wire(record.place.id, &view.observed(&record.place.id)?)))
        .collect();
    mine.chunks(OBSERVED_PER_MESSAGE).all(|part| cluster.send(host, batch(&me, incarnation, part.to_vec())))
}
