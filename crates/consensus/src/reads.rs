//! Read barriers: all that wait share one ReadIndex, and each is passed once the index it got is applied.

use std::collections::BTreeMap;

/// Barriers held at once, in any state.
pub const READS_WAITING_MAX: usize = 65_536;
/// Ticks after which an unanswered ReadIndex is asked again: it, its answer or its leader may be lost.
pub const READ_RETRY_TICKS: u32 = 5;

#[derive(Default)]
pub(crate) struct Reads {
    held: usize,
    /// Not asked for yet.
    waiting: Vec<u64>,
    /// Asked for, by the number of the asking.
    asked: BTreeMap<u64, Asked>,
    /// Answered, by the index that must be applied first.
    confirmed: BTreeMap<u64, Vec<u64>>,
    last_asking: u64,
}

struct Asked {
    ids: Vec<u64>,
    ticks: u32,
}

impl Reads {
    /// False if too many are held.
    pub(crate) fn add(&mut self, id: u64) -> bool {
        if self.held >= READS_WAITING_MAX {
            return false;
        }
        self.held += 1;
        self.waiting.push(id);
        true
    }

    pub(crate) fn any_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Moves all that wait under one asking and returns its number.
    pub(crate) fn ask(&mut self) -> u64 {
        self.last_asking += 1;
        let ids = std::mem::take(&mut self.waiting);
        self.asked.insert(self.last_asking, Asked { ids, ticks: 0 });
        self.last_asking
    }

    /// The barriers of this asking need `index` applied. An asking that was given up before is not known any more.
    pub(crate) fn confirm(&mut self, asking: u64, index: u64) {
        if let Some(asked) = self.asked.remove(&asking) {
            self.confirmed.entry(index).or_default().extend(asked.ids);
        }
    }

    /// All barriers that are passed now, each with its index.
    pub(crate) fn release(&mut self, applied: u64) -> Vec<(u64, u64)> {
        let mut passed = Vec::new();
        while let Some(lowest) = self.confirmed.first_entry().filter(|lowest| *lowest.key() <= applied) {
            let (index, ids) = lowest.remove_entry();
            passed.extend(ids.into_iter().map(|id| (id, index)));
        }
        self.held -= passed.len();
        passed
    }

    /// Gives up those that wait.
    pub(crate) fn fail_waiting(&mut self) -> Vec<u64> {
        self.held -= self.waiting.len();
        std::mem::take(&mut self.waiting)
    }

    /// Those asked for too long ago wait again.
    pub(crate) fn tick(&mut self) {
        self.asked.values_mut().for_each(|asked| asked.ticks += 1);
        let waiting = &mut self.waiting;
        self.asked.retain(|_, asked| {
            let keep = asked.ticks < READ_RETRY_TICKS;
            if !keep {
                waiting.append(&mut asked.ids);
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn barriers_share_one_asking_and_wait_for_its_index() {
        let mut reads = Reads::default();
        assert!(reads.add(1) && reads.add(2));
        let asking = reads.ask();
        assert!(!reads.any_waiting());
        reads.confirm(asking, 10);
        assert_eq!(reads.release(9), []);
        assert_eq!(reads.release(10), [(1, 10), (2, 10)]);
        assert_eq!(reads.release(99), []);
    }

    #[test]
    fn an_unanswered_asking_is_asked_again_and_its_late_answer_is_void() {
        let mut reads = Reads::default();
        assert!(reads.add(1));
        let first = reads.ask();
        for _ in 0..READ_RETRY_TICKS {
            assert!(!reads.any_waiting());
            reads.tick();
        }
        assert!(reads.any_waiting());
        let second = reads.ask();
        reads.confirm(first, 3);
        assert_eq!(reads.release(99), []);
        reads.confirm(second, 5);
        assert_eq!(reads.release(99), [(1, 5)]);
    }

    #[test]
    fn the_number_held_is_bounded_and_counts_down() {
        let mut reads = Reads::default();
        assert!((0..READS_WAITING_MAX as u64).all(|id| reads.add(id)));
        assert!(!reads.add(0));
        assert_eq!(reads.fail_waiting().len(), READS_WAITING_MAX);
        assert!(reads.add(0));
    }
}
