//! What a node publishes of its inside: for its health, for `GET /nodes`, for its metrics. Nothing is decided by it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use warren_core::lease::LEASE_MS;

use crate::hub::boottime_ms;
use crate::instruments::Instruments;
use crate::nodes::{Group, Myself, Words};

/// Age at which a majority's last answer counts for nothing any more: that of a lease.
const QUORUM_LATELY_MS: u64 = LEASE_MS;

/// What a node publishes of its inside. Shared by all its threads.
#[derive(Default)]
pub struct Insight {
    group: ArcSwap<Group>,
    /// What each node said of itself.
    pub words: Words,
    /// Counters and latencies.
    pub instruments: Instruments,
    myself: OnceLock<Myself>,
    /// When something was last asked for that a majority has confirmed since; 0 for never.
    quorum_ms: AtomicU64,
    /// When this node's lease runs out.
    lease_until_ms: AtomicU64,
    /// One more than the images that are there; 0 while they are not counted.
    images_and_one: AtomicU64,
}

impl Insight {
    /// The log's group.
    pub fn group(&self) -> Arc<Group> {
        self.group.load_full()
    }

    /// Publishes the log's group.
    pub fn set_group(&self, group: Group) {
        if **self.group.load() != group {
            self.group.store(Arc::new(group));
        }
    }

    /// What this process is.
    pub fn myself(&self) -> &Myself {
        self.myself.get_or_init(Myself::default)
    }

    /// Says what this process is; only the first word counts.
    pub fn set_myself(&self, myself: Myself) {
        self.myself.get_or_init(|| myself);
    }

    /// How many images are there, once they were counted.
    pub fn images(&self) -> Option<u64> {
        self.images_and_one.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Publishes how many images are there.
    pub fn set_images(&self, count: usize) {
        self.images_and_one.store((count as u64).saturating_add(1), Ordering::Relaxed);
    }

    /// A majority has confirmed what was asked for so long ago.
    pub fn majority_answered(&self, asked: Duration) {
        let ago = u64::try_from(asked.as_millis()).unwrap_or(u64::MAX);
        self.quorum_ms.fetch_max(boottime_ms().saturating_sub(ago), Ordering::Relaxed);
    }

    /// Publishes until when this node's lease lasts. A leader grants it only after a majority has confirmed it.
    pub fn set_lease_until(&self, until_ms: u64) {
        self.lease_until_ms.store(until_ms, Ordering::Relaxed);
        // A lease that reaches further was promised for an announced restart, not won by an answer of just now.
        if until_ms <= boottime_ms().saturating_add(LEASE_MS) {
            self.quorum_ms.fetch_max(until_ms.saturating_sub(LEASE_MS), Ordering::Relaxed);
        }
    }

    /// Milliseconds that are left of this node's lease.
    pub fn lease_left_ms(&self) -> u64 {
        self.lease_until_ms.load(Ordering::Relaxed).saturating_sub(boottime_ms())
    }

    /// Whether a majority has answered a leader on this node's behalf lately. That a leader is remembered proves
    /// nothing: a learner remembers one that has been gone for hours.
    pub fn quorum_lately(&self) -> bool {
        quorum_at(self.quorum_ms.load(Ordering::Relaxed), boottime_ms())
    }
}

fn quorum_at(answered_ms: u64, now_ms: u64) -> bool {
    answered_ms > 0 && now_ms < answered_ms.saturating_add(QUORUM_LATELY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_is_claimed_no_longer_than_a_lease_after_the_question_that_proved_it() {
        assert!(!quorum_at(0, 0) && !quorum_at(0, 3_000), "never answered");
        assert!(quorum_at(10_000, 13_999) && !quorum_at(10_000, 14_000));
        let insight = Insight::default();
        assert!(!insight.quorum_lately(), "nothing was heard");
        // A lease that ran out before this moment proves nothing, nor does an answer to an old question.
        insight.set_lease_until(boottime_ms());
        insight.majority_answered(Duration::from_millis(QUORUM_LATELY_MS));
        assert!(!insight.quorum_lately());
        // Nor does one that was promised for a restart.
        insight.set_lease_until(boottime_ms() + 60_000);
        assert!(!insight.quorum_lately());
        insight.set_lease_until(boottime_ms() + LEASE_MS);
        assert!(insight.quorum_lately());
        // An answer that comes out of order takes nothing back.
        insight.majority_answered(Duration::from_secs(3_600));
        assert!(insight.quorum_lately());
    }
}
