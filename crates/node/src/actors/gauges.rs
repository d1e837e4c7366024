//! What consensus publishes of itself, and how long its disk takes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use consensus::{Consensus, Leadership};

use crate::nodes::Group;
use crate::view::View;

/// The instruments of consensus. Only its own thread has them.
pub struct Gauges {
    view: Arc<View>,
    /// Batches that are being made durable, oldest first, and when they were handed over.
    flushing: VecDeque<(u64, Instant)>,
}

impl Gauges {
    /// They show where readers look.
    pub fn new(view: Arc<View>) -> Self {
        Self { view, flushing: VecDeque::new() }
    }

    /// A batch goes to the disk.
    pub fn handed_over(&mut self, batch: u64) {
        self.flushing.push_back((batch, Instant::now()));
    }

    /// This batch and all before it are durable.
    pub fn durable(&mut self, batch: u64) {
        while let Some((_, since)) = self.flushing.pop_front_if(|(handed, _)| *handed <= batch) {
            self.view.insight().instruments.flush.observe(since.elapsed().as_secs_f64());
        }
    }

    /// A proposal of this node is applied here: a majority has it.
    pub fn applied(&self, since: Instant) {
        let took = since.elapsed();
        self.view.insight().instruments.proposal.observe(took.as_secs_f64());
        self.view.insight().majority_answered(took);
    }

    /// Publishes the state of the group, and until when this node's lease lasts.
    pub fn publish(&self, core: &Consensus, leadership: Leadership, lease_until_ms: u64) {
        let (status, members) = (core.status(), core.members());
        let changing = !members.voters_outgoing.is_empty();
        self.view.insight().set_lease_until(lease_until_ms);
        self.view.insight().set_group(Group {
            term: leadership.term,
            leads: leadership.is_self,
            committed: status.committed,
            last_index: status.last_index,
            snapshot_index: status.snapshot_index,
            log_entries: status.log_entries,
            voters: if changing { members.voters_outgoing } else { members.voters },
            learners: members.learners,
        });
    }
}
