//! Chooses the node that a new sandbox goes to. A pure function of what the nodes report.

use std::sync::Arc;

use types::spec::SlotShape;
use types::{HostId, Resources};

use crate::images::{Images, Meaning};
use crate::placement::Load;
use crate::slot_digest::SlotDigest;

/// What one node can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: HostId,
    /// It is the node that asks; no hop is needed.
    pub here: bool,
    /// What its sandboxes are promised, as the map says.
    pub promised: Load,
    /// What is promised besides, and surely not in the map yet.
    pub claimed: Load,
    /// Creates that were sent to it and are not answered. Some are in the map by now, so they refuse nothing; but a
    /// burst spreads by them before the map or the node has said anything.
    pub sent: Load,
    /// Sandboxes it may have.
    pub sandboxes_max: u64,
    /// Bytes of memory it may promise, overcommit included.
    pub memory_max: u64,
    /// Thousand-millionths of a processor it may promise, overcommit included; 0 where that refuses nothing.
    pub cpu_max: u64,
    /// Its warm slots.
    pub warm: Vec<Warm>,
    /// Its images.
    pub images: Arc<Images>,
    /// Why it takes nothing at all; `None` while it does.
    pub closed: Option<String>,
}

/// Warm slots of one shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Warm {
    /// Which shape.
    pub shape: SlotDigest,
    /// How many.
    pub ready: u64,
}

impl Candidate {
    /// A node of which nothing is known, and which takes nothing for that.
    #[must_use]
    pub fn unknown(node: HostId, why: impl Into<String>) -> Self {
        Self {
            node,
            here: false,
            promised: Load::default(),
            claimed: Load::default(),
            sent: Load::default(),
            sandboxes_max: 0,
            memory_max: 0,
            cpu_max: 0,
            warm: Vec::new(),
            images: Arc::default(),
            closed: Some(why.into()),
        }
    }

    /// Warm slots of this shape are spoken for.
    pub fn take_warm(&mut self, shape: SlotDigest, count: u64) {
        if let Some(warm) = self.warm.iter_mut().find(|warm| warm.shape == shape) {
            warm.ready = warm.ready.saturating_sub(count);
        }
    }

    fn ready(&self, shape: SlotDigest) -> u64 {
        self.warm.iter().filter(|warm| warm.shape == shape).map(|warm| warm.ready).sum()
    }
}

/// What is to be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Its size.
    pub need: Resources,
    /// The slot that it needs; the image's id is empty where it is not known.
    pub shape: SlotShape,
    /// Which image it may have.
    pub image: AskedImage,
    /// Nodes that were asked and did not take it, and why.
    pub tried: Vec<Refusal>,
}

/// Which image a sandbox may have. A node that makes a sandbox looks up itself what a reference means there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskedImage {
    /// Whatever the reference means; the node that asks has it, under the shape's id.
    Here,
    /// Whatever the reference means; the node that asks does not have it.
    Missing {
        /// A node that lacks it may find it in a registry.
        pull: bool,
    },
    /// The shape's id and no other.
    Exactly,
}

/// Where a sandbox goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The node.
    pub node: HostId,
    /// The warm slots that it is to take one of.
    pub warm: Option<SlotDigest>,
}

/// Why one node was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The node.
    pub node: HostId,
    /// The reason, in words.
    pub reason: String,
}

/// No node takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoNode {
    /// Each node's reason.
    pub refusals: Vec<Refusal>,
    /// Room is not what is missing: as far as is known no node has the image, and none may pull it.
    pub no_image: bool,
}

/// Whether a node has the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Presence {
    /// The very one that the node that asks knows, where it knows one.
    Same,
    /// The reference means another image there.
    Other,
    Unknown,
    Absent,
}

/// The policy: the smallest wins. The id comes last so that ties are stable.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    cold: bool,
    /// Among warm slots the hop decides: it is a good part of what such a create costs. A slot that has to be made
    /// costs far more than a hop.
    warm_elsewhere: bool,
    image: Presence,
    millionths_promised: u64,
    sandboxes: u64,
    elsewhere: bool,
    node: HostId,
}

/// One candidate as this sandbox sees it.
struct Seen {
    image: Presence,
    /// The slots that fit.
    shape: SlotDigest,
}

fn found<'a>(images: &'a Images, asked: AskedImage, shape: &SlotShape) -> Meaning<'a> {
    if asked == AskedImage::Exactly { images.find_id(&shape.image_id) } else { images.find(&shape.image) }
}

fn see(candidate: &Candidate, ask: &Ask) -> Seen {
    let known = ask.shape.image_id.as_str();
    let (image, id) = match (ask.image, candidate.here) {
        // It has just looked: no list is newer.
        (AskedImage::Here, true) => (Presence::Same, known),
        (AskedImage::Missing { .. }, true) => (Presence::Absent, known),
        (asked, _) => match found(&candidate.images, asked, &ask.shape) {
            Meaning::Image(id) if known.is_empty() || id == known => (Presence::Same, id),
            Meaning::Image(_) => (Presence::Other, known),
            Meaning::Nothing => (Presence::Absent, known),
            Meaning::Unknown => (Presence::Unknown, known),
        },
    };
    let shape = SlotDigest::of(&SlotShape { image_id: id.to_owned(), ..ask.shape.clone() });
    Seen { image, shape }
}

fn refusal(candidate: &Candidate, seen: &Seen, ask: &Ask) -> Option<String> {
    if let Some(tried) = ask.tried.iter().find(|tried| tried.node == candidate.node) {
        return Some(tried.reason.clone());
    }
    if let Some(reason) = &candidate.closed {
        return Some(reason.clone());
    }
    let may_pull = match ask.image {
        AskedImage::Here => crate::images::may_be_pulled(&ask.shape.image),
        AskedImage::Missing { pull } => pull,
        AskedImage::Exactly => false,
    };
    if seen.image == Presence::Absent && !may_pull {
        return Some(format!("does not have the image {}", ask.shape.image));
    }
    let (promised, claimed, need) = (candidate.promised, candidate.claimed, &ask.need);
    let sandboxes = promised.sandboxes.saturating_add(claimed.sandboxes);
    if sandboxes >= candidate.sandboxes_max {
        return Some(format!("has {sandboxes} sandboxes of {} at most", candidate.sandboxes_max));
    }
    let free = candidate.memory_max.saturating_sub(promised.memory.saturating_add(claimed.memory));
    if need.memory > free {
        return Some(format!("{} bytes of memory asked for, {free} free", need.memory));
    }
    let free = candidate.cpu_max.saturating_sub(promised.cpu.saturating_add(claimed.cpu));
    if candidate.cpu_max > 0 && need.cpu > free {
        return Some(format!("{} processors asked for, {} free", processors(need.cpu), processors(free)));
    }
    None
}

fn processors(cpu: u64) -> f64 {
    cpu as f64 / 1e9
}

/// The larger of its shares of memory and processor that are promised, in millionths.
fn millionths_promised(candidate: &Candidate) -> u64 {
    let share = |promised: u64, sent: u64, max: u64| {
        let promised = u128::from(promised) + u128::from(sent);
        promised * 1_000_000 / u128::from(max.max(1))
    };
    let (promised, sent) = (candidate.promised, candidate.sent);
    let memory = share(promised.memory, sent.memory, candidate.memory_max);
    let cpu = if candidate.cpu_max == 0 { 0 } else { share(promised.cpu, sent.cpu, candidate.cpu_max) };
    u64::try_from(memory.max(cpu)).unwrap_or(u64::MAX)
}

/// The node that takes a sandbox, or each node's reason why it does not.
///
/// # Errors
/// Every candidate refuses.
pub fn choose(candidates: &[Candidate], ask: &Ask) -> Result<Choice, NoNode> {
    let mut none = NoNode { refusals: Vec::new(), no_image: ask.image == AskedImage::Missing { pull: false } };
    let mut best: Option<(Score, Choice)> = None;
    for candidate in candidates {
        let seen = see(candidate, ask);
        // One that has been lost may come back with it; what one that was never heard has does not count.
        let perhaps = seen.image == Presence::Unknown && candidate.closed.is_none();
        none.no_image &= !(seen.image <= Presence::Other || perhaps);
        if let Some(reason) = refusal(candidate, &seen, ask) {
            none.refusals.push(Refusal { node: candidate.node.clone(), reason });
            continue;
        }
        let warm = candidate.ready(seen.shape) > 0;
        let score = Score {
            cold: !warm,
            warm_elsewhere: warm && !candidate.here,
            image: seen.image,
            millionths_promised: millionths_promised(candidate),
            sandboxes: candidate.promised.sandboxes.saturating_add(candidate.sent.sandboxes),
            elsewhere: !candidate.here,
            node: candidate.node.clone(),
        };
        if best.as_ref().is_none_or(|(best, _)| score < *best) {
            let choice = Choice { node: candidate.node.clone(), warm: warm.then_some(seen.shape) };
            best = Some((score, choice));
        }
    }
    best.map(|(_, choice)| choice).ok_or(none)
}

#[cfg(test)]
mod tests;
