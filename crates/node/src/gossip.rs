//! What this node tells the others without being asked: what it sees of its sandboxes, what it can take.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use peers::wire::{Capacity, Image, Images as WireImages, Message, Observed as WireObserved, ObservedBatch, WarmShape};
use peers::words::{status_from_wire, status_to_wire};
use runtime::Engine;
use types::{Generation, HostId, Incarnation, SandboxId};
use warren_core::images::Images;
use warren_core::lifecycle::Observed;
use warren_core::placement::COMMANDS_KNOWN;
use warren_core::scheduler::Warm;
use warren_core::slot_digest::SlotDigest;

use crate::cluster::Cluster;
use crate::hub::Hub;
use crate::life::Life;
use crate::offers::{self, Offer};
use crate::operations::DEFAULT_TEMPLATE;
use crate::view::View;

/// Time between two tellings of what this node can take.
pub const TELL_EVERY: Duration = Duration::from_millis(500);

/// Time between two looks whether the images are others: one look at a file each.
const LOOK_AT_IMAGES_EVERY: Duration = Duration::from_millis(500);

/// Time between two lists of the images where nothing seems to have changed: an engine call each. Stores beside the
/// engine's own are not watched.
const LIST_IMAGES_EVERY: Duration = Duration::from_secs(30);

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
    // A shape that does not parse is of a later version, and fits nothing here.
    let warm = |shape: &WarmShape| {
        let digest = shape.digest.as_ref().try_into().ok()?;
        Some(Warm { shape: SlotDigest(digest), ready: shape.ready.into() })
    };
    let offer = Offer {
        incarnation: Incarnation(capacity.incarnation),
        capacity: offers::Capacity {
            sandboxes_max: capacity.sandboxes_max,
            memory_max: capacity.memory_max,
            cpu_max: capacity.cpu_max,
        },
        warm: capacity.warm.iter().filter_map(warm).collect(),
        closed: capacity.closed,
    };
    view.offers().hear(peer, offer);
}

/// Takes in which images another node has.
pub fn hear_images(view: &View, peer: &HostId, told: WireImages) {
    let images = told.images.into_iter().map(|image| (image.id, image.names));
    view.offers().hear_images(peer, Images::new(images, told.whole));
}

fn images_to_wire(images: &Images) -> Message {
    let image = |(id, names): (&str, Vec<&str>)| Image {
        id: id.to_owned(),
        names: names.into_iter().map(str::to_owned).collect(),
    };
    Message::Images(WireImages { images: images.iter().map(image).collect(), whole: images.is_whole() })
}

/// Tells for as long as the node lives.
pub async fn tell(hub: Rc<Hub>, cluster: Arc<Cluster>, life: Arc<Life>, capacity: offers::Capacity) {
    let mut told: HashMap<HostId, u64> = HashMap::new();
    let mut images_told = Arc::new(Images::default());
    let mut sequence = 0;
    loop {
        let view = hub.view();
        let me = view.me().clone();
        let here = view.offers().here(&me, &view.placement(), capacity, hub.closed());
        sequence += 1;
        let incarnation = life.now();
        let insight = view.insight();
        let myself = insight.myself();
        let said = Capacity {
            host: me.to_string(),
            incarnation: incarnation.0,
            sequence,
            sandboxes: here.promised.sandboxes,
            sandboxes_max: here.sandboxes_max,
            memory_promised: here.promised.memory,
            memory_max: here.memory_max,
            cpu_promised: here.promised.cpu,
            cpu_max: here.cpu_max,
            warm: here
                .warm
                .iter()
                .map(|warm| WarmShape {
                    digest: warm.shape.0.to_vec().into(),
                    ready: u32::try_from(warm.ready).unwrap_or(u32::MAX),
                    template: DEFAULT_TEMPLATE.to_owned(),
                    target: u32::try_from(insight.instruments.pool.target()).unwrap_or(u32::MAX),
                    refill_ms_p50: insight.instruments.refill_ms_p50(),
                })
                .collect(),
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
        let images = view.offers().images();
        if images != images_told {
            cluster.broadcast(&images_to_wire(&images));
            images_told = images;
        }
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

/// Looks after the list of the images that are there, for as long as the node lives.
pub async fn list_images(hub: Rc<Hub>, engine: Engine) {
    let mut listed: Option<(_, Instant)> = None;
    loop {
        // Before the list: what changes during it is listed again.
        let stamp = engine.images_stamp();
        let is_old = |(seen, at): &(_, Instant)| *seen != stamp || at.elapsed() >= LIST_IMAGES_EVERY;
        if listed.as_ref().is_none_or(is_old) {
            match engine.list_images().await {
                Ok(images) => {
                    let view = hub.view();
                    view.insight().set_images(images.len());
                    let images = images.into_iter().map(|image| (image.id, image.names));
                    view.offers().set_images(Images::new(images, true));
                }
                Err(error) => tracing::debug!(%error, "the images can not be listed"),
            }
            listed = Some((stamp, Instant::now()));
        }
        tokio::time::sleep(LOOK_AT_IMAGES_EVERY).await;
    }
}

fn tell_all(view: &View, cluster: &Cluster, host: &HostId, incarnation: Incarnation) -> bool {
    if !cluster.send(host, images_to_wire(&view.offers().images())) {
        return false;
    }
    let me = view.me().clone();
    let placement = Arc::clone(&view.placement());
    let mine: Vec<WireObserved> = placement
        .newest_first()
        .filter(|record| record.place.owner == me)
        .filter_map(|record| Some(to_wire(record.place.id, &view.observed(&record.place.id)?)))
        .collect();
    mine.chunks(OBSERVED_PER_MESSAGE).all(|part| cluster.send(host, batch(&me, incarnation, part.to_vec())))
}
