//! What the leader does for the sandboxes of lost nodes: places them again, puts them in error, ends those whose time
//! has come. Whatever it asks for twice, or a deposed leader still asks for, is decided once by the generation.

use std::collections::BTreeMap;

use types::{ErrorCode, Generation, HostId, OnNodeLoss, SandboxId, Timestamp};

use crate::placement::{DestroyReason, Failure, Kind, Placement, Record, Wanted};
use crate::scheduler::{Ask, AskedImage, Candidate, choose};

/// Sandboxes that are being placed again at once: each costs its new owner a slot.
pub const UNDER_WAY_MAX: usize = 16;

/// Milliseconds until what was proposed, or failed, is tried once more; doubled with each failure in a row.
pub const AGAIN_MS_MIN: u64 = 1_000;

/// Milliseconds between two tries at most.
pub const AGAIN_MS_MAX: u64 = 30_000;

/// Something for the leader to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// Ask this node to take a sandbox over; exactly one [`Repairs::ended`] follows.
    Replace {
        /// Which.
        id: SandboxId,
        /// The generation that its lost owner has.
        generation: Generation,
        /// The node.
        on: HostId,
    },
    /// Replicate this.
    Propose(Kind),
}

/// What the leader has begun.
#[derive(Debug, Default)]
pub struct Repairs {
    under_way: BTreeMap<SandboxId, HostId>,
    /// Tries so far, and before when there is none.
    tried: BTreeMap<SandboxId, Tried>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tried {
    failures: u32,
    not_before_ms: u64,
}

impl Repairs {
    /// What is to be done now. `boottime_ms` counts pauses, `now` ends lives; `candidates` are the nodes that can take
    /// sandboxes, this one included.
    pub fn plan(
        &mut self,
        boottime_ms: u64,
        now: Timestamp,
        map: &Placement,
        mut candidates: Vec<Candidate>,
    ) -> Vec<Repair> {
        let mut repairs = Vec::new();
        let mut concerned = BTreeMap::new();
        for record in map.newest_first() {
            if record.failure.is_none() && !map.owner_is_lost(record) {
                continue;
            }
            let id = record.place.id;
            let tried = self.tried.get(&id).copied().unwrap_or_default();
            concerned.insert(id, tried);
            if self.under_way.contains_key(&id) || boottime_ms < tried.not_before_ms {
                continue;
            }
            if let Some(kind) = ended(record, now).or_else(|| in_error(record)) {
                let next = Tried { not_before_ms: boottime_ms.saturating_add(AGAIN_MS_MIN), ..tried };
                concerned.insert(id, next);
                repairs.push(Repair::Propose(kind));
            } else if may_move(record) && self.under_way.len() < UNDER_WAY_MAX {
                let need = record.place.spec.resources;
                // The very image, since the reference may name another one by now.
                let (shape, image) = (record.place.spec.slot_shape(), AskedImage::Exactly);
                let Ok(choice) = choose(&candidates, &Ask { need, shape, image, tried: Vec::new() }) else {
                    continue;
                };
                let on = choice.node;
                // The next choice knows of this one.
                if let Some(chosen) = candidates.iter_mut().find(|candidate| candidate.node == on) {
                    chosen.claimed.add(&need);
                    chosen.sent.add(&need);
                    if let Some(shape) = choice.warm {
                        chosen.take_warm(shape, 1);
                    }
                }
                self.under_way.insert(id, on.clone());
                repairs.push(Repair::Replace { id, generation: record.place.generation, on });
            }
        }
        self.tried = concerned;
        repairs
    }

    /// A node has answered whether it took a sandbox over.
    pub fn ended(&mut self, boottime_ms: u64, id: SandboxId, done: bool) {
        self.under_way.remove(&id);
        if done {
            self.tried.remove(&id);
        } else {
            let tried = self.tried.entry(id).or_default();
            let wait = AGAIN_MS_MIN.saturating_mul(1 << tried.failures.min(16)).min(AGAIN_MS_MAX);
            *tried =
                Tried { failures: tried.failures.saturating_add(1), not_before_ms: boottime_ms.saturating_add(wait) };
        }
    }
}

/// The end of a life that nobody else can end.
fn ended(record: &Record, now: Timestamp) -> Option<Kind> {
    let expires_at = record.place.expires_at.filter(|end| *end <= now)?;
    Some(Kind::Destroy { id: record.place.id, reason: DestroyReason::Expired { expires_at } })
}

fn in_error(record: &Record) -> Option<Kind> {
    let wanted = record.failure.is_none() && record.place.spec.on_node_loss == OnNodeLoss::Fail;
    wanted.then(|| Kind::Fail {
        id: record.place.id,
        generation: record.place.generation,
        failure: Failure { code: ErrorCode::Unavailable, message: format!("its node {} was lost", record.place.owner) },
        only_if_lost: true,
    })
}

fn may_move(record: &Record) -> bool {
    record.failure.is_none()
        && record.wanted == Wanted::Running
        && record.place.spec.on_node_loss == OnNodeLoss::Restart
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use types::Incarnation;

    use super::*;
    use crate::images::Images;
    use crate::placement::{Command, Place, Presence};
    use crate::scheduler::Warm;
    use crate::script::{self, host, id};
    use crate::slot_digest::SlotDigest;

    fn apply(map: &mut Placement, kind: Kind) {
        map.apply(map.applied() + 1, &Command { time: Timestamp(0), kind });
    }

    /// Nodes n1, n2 and n3; each letter a sandbox of n1 with that policy; n1 lost.
    fn map(sandboxes: &[(&str, OnNodeLoss)]) -> Placement {
        let mut map = Placement::default();
        for name in ["n1", "n2", "n3"] {
            let presence = Presence::default();
            apply(&mut map, Kind::NodeUp { host: host(name), incarnation: Incarnation(1), presence });
        }
        for (name, policy) in sandboxes {
            let mut spec = script::spec();
            spec.on_node_loss = *policy;
            let place = Place {
                id: id(name),
                slot: id(name),
                owner: host("n1"),
                incarnation: Incarnation(1),
                generation: Generation(1),
                spec: Arc::new(spec),
                sealed_env: script::sealed_env(),
                expires_at: Some(Timestamp(9_000)),
                key: None,
            };
            apply(&mut map, Kind::Place(Box::new(place)));
        }
        apply(&mut map, Kind::NodeLost { host: host("n1"), incarnation: Incarnation(1), restarting: false });
        map
    }

    fn candidate(name: &str) -> Candidate {
        let shape = SlotDigest::of(&script::spec().slot_shape());
        Candidate {
            sandboxes_max: 10,
            memory_max: 10 << 30,
            warm: vec![Warm { shape, ready: 1 }],
            closed: None,
            ..Candidate::unknown(host(name), "")
        }
    }

    fn candidates() -> Vec<Candidate> {
        vec![candidate("n2"), candidate("n3")]
    }

    fn replace(name: &str, on: &str) -> Repair {
        Repair::Replace { id: id(name), generation: Generation(1), on: host(on) }
    }

    #[test]
    fn each_policy_gets_its_own() {
        let map = map(&[("a", OnNodeLoss::Wait), ("b", OnNodeLoss::Restart), ("c", OnNodeLoss::Fail)]);
        let planned = Repairs::default().plan(0, Timestamp(0), &map, candidates());
        let [Repair::Propose(Kind::Fail { id: failed, only_if_lost: true, .. }), moved] = &planned[..] else {
            panic!("{planned:?}");
        };
        assert_eq!((*failed, moved), (id("c"), &replace("b", "n2")));
    }

    #[test]
    fn they_spread_and_none_is_begun_twice() {
        let map = map(&[("a", OnNodeLoss::Restart), ("b", OnNodeLoss::Restart)]);
        let mut repairs = Repairs::default();
        assert_eq!(
            repairs.plan(0, Timestamp(0), &map, candidates()),
            [replace("b", "n2"), replace("a", "n3")],
            "newest first, one each"
        );
        assert!(repairs.plan(60_000, Timestamp(0), &map, candidates()).is_empty(), "both are under way");
        repairs.ended(60_000, id("a"), false);
        assert!(repairs.plan(60_999, Timestamp(0), &map, candidates()).is_empty(), "not at once");
        assert_eq!(repairs.plan(61_000, Timestamp(0), &map, candidates()), [replace("a", "n2")]);
        repairs.ended(61_000, id("a"), false);
        assert!(repairs.plan(62_999, Timestamp(0), &map, candidates()).is_empty(), "twice as long");
        assert_eq!(repairs.plan(63_000, Timestamp(0), &map, vec![candidate("n3")]), [replace("a", "n3")]);
    }

    #[test]
    fn they_begin_again_only_from_their_very_image() {
        let map = map(&[("a", OnNodeLoss::Restart)]);
        let with = |name: &str, id: &str| {
            let images = Images::new([(id.to_owned(), [format!("localhost/{}:latest", script::spec().image)])], true);
            Candidate { images: Arc::new(images), ..candidate(name) }
        };
        let (right, wrong) = (script::spec().image_id, "another".to_owned());
        let plan = |candidates| Repairs::default().plan(0, Timestamp(0), &map, candidates);
        assert_eq!(plan(vec![with("n2", &wrong), with("n3", &right)]), [replace("a", "n3")]);
        assert!(plan(vec![with("n2", &wrong)]).is_empty(), "its reference means another image there");
    }

    #[test]
    fn without_room_they_wait_and_what_is_not_lost_is_left_alone() {
        let mut map = map(&[("a", OnNodeLoss::Restart)]);
        let mut repairs = Repairs::default();
        let full = Candidate { closed: Some("full".into()), ..candidate("n2") };
        assert!(repairs.plan(0, Timestamp(0), &map, vec![full]).is_empty());
        let presence = Presence::default();
        apply(&mut map, Kind::NodeUp { host: host("n1"), incarnation: Incarnation(2), presence });
        assert!(repairs.plan(0, Timestamp(0), &map, candidates()).is_empty());
    }

    #[test]
    fn lives_end_although_their_node_is_lost() {
        for policy in [OnNodeLoss::Wait, OnNodeLoss::Restart, OnNodeLoss::Fail] {
            let map = map(&[("a", policy)]);
            let reason = DestroyReason::Expired { expires_at: Timestamp(9_000) };
            let end = Repair::Propose(Kind::Destroy { id: id("a"), reason });
            let mut repairs = Repairs::default();
            assert_eq!(repairs.plan(0, Timestamp(9_000), &map, candidates()), std::slice::from_ref(&end));
            assert!(repairs.plan(999, Timestamp(9_000), &map, candidates()).is_empty());
            assert_eq!(repairs.plan(1_000, Timestamp(9_000), &map, candidates()), [end]);
        }
    }
}
