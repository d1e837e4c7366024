//! What is counted and timed while the node works. To record is one lookup in no table and a few atomic additions.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use consensus::CounterReadings;
use parking_lot::Mutex;
use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, Registry};

/// Slots whose making counts for the median.
const REFILLS_REMEMBERED: usize = 32;

/// Bounds in seconds of what a disk or a majority answers.
const COMMIT_SECONDS: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.5, 5.0];

/// Bounds in seconds of what runs a client's program or makes a container.
const WORK_SECONDS: &[f64] = &[
    0.000_5, 0.001, 0.001_5, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
    300.0,
];

/// Where a request was carried out, seen from the front door that it came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// On the node of that door.
    Here,
    /// On another node.
    Elsewhere,
}

/// One kind of request: how long it took, by where it was done and whether it was granted.
pub struct Requests([Histogram; 4]);

impl Requests {
    fn new(registry: &Registry, name: &str, help: &str) -> Self {
        let options = HistogramOpts::new(name, help).buckets(WORK_SECONDS.to_vec());
        let family = HistogramVec::new(options, &["owner", "outcome"]).expect("a constant name and constant labels");
        register(registry, family.clone());
        let child = |owner, outcome| family.with_label_values(&[owner, outcome]);
        Self([child("here", "ok"), child("here", "error"), child("elsewhere", "ok"), child("elsewhere", "error")])
    }

    /// One request has ended.
    pub fn ended(&self, owner: Where, granted: bool, took: Duration) {
        let owner = match owner {
            Where::Here => 0,
            Where::Elsewhere => 2,
        };
        self.0[owner + usize::from(!granted)].observe(took.as_secs_f64());
    }
}

/// Everything that is counted and timed.
pub struct Instruments {
    registry: Registry,
    /// Creates that came through this node's front door.
    pub creates: Requests,
    /// Execs that came through this node's front door, the command's own time included.
    pub execs: Requests,
    /// From the hand-over of a batch to the word that it is durable.
    pub flush: Histogram,
    /// From a proposal of this node to its being applied here.
    pub proposal: Histogram,
    /// Read barriers that were passed.
    pub barrier: Histogram,
    /// Read barriers that were not.
    pub barrier_failures: IntCounter,
    /// Makings of warm slots.
    pub slot_makes: Histogram,
    /// Makings that failed.
    pub slot_make_failures: IntCounter,
    /// The warm pool.
    pub pool: Pool,
    log: OnceLock<ReadsLog>,
    refills_ms: Mutex<VecDeque<u64>>,
}

/// Reads what the log's store has done.
type ReadsLog = Box<dyn Fn() -> CounterReadings + Send + Sync>;

/// What the warm pool last said of itself.
#[derive(Default)]
pub struct Pool {
    target: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Pool {
    /// Publishes what it is.
    pub fn set(&self, target: usize, (hits, misses): (u64, u64)) {
        self.target.store(target as u64, Ordering::Relaxed);
        self.hits.store(hits, Ordering::Relaxed);
        self.misses.store(misses, Ordering::Relaxed);
    }

    /// Slots that should stand ready.
    pub fn target(&self) -> u64 {
        self.target.load(Ordering::Relaxed)
    }

    /// Claims that were served warm and cold.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }
}

impl Default for Instruments {
    fn default() -> Self {
        let registry = Registry::new();
        let histogram = |name: &str, help: &str, bounds: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(bounds.to_vec());
            register(&registry, Histogram::with_opts(options).expect("a constant name and ascending bounds"))
        };
        let counter =
            |name: &str, help: &str| register(&registry, IntCounter::new(name, help).expect("a constant name"));
        Self {
            creates: Requests::new(
                &registry,
                "warren_create_seconds",
                "Creates through this node's front door, by where they were done and how they ended",
            ),
            execs: Requests::new(
                &registry,
                "warren_exec_seconds",
                "Execs through this node's front door, the command's own time included",
            ),
            flush: histogram(
                "warren_log_flush_seconds",
                "From the hand-over of a batch to the log writer to its word that it is durable",
                COMMIT_SECONDS,
            ),
            proposal: histogram(
                "warren_proposal_seconds",
                "From a proposal of this node to its being applied here",
                COMMIT_SECONDS,
            ),
            barrier: histogram("warren_read_barrier_seconds", "Read barriers that were passed", COMMIT_SECONDS),
            barrier_failures: counter("warren_read_barrier_failures_total", "Read barriers that were not passed"),
            slot_makes: histogram("warren_slot_make_seconds", "Makings of warm slots that succeeded", WORK_SECONDS),
            slot_make_failures: counter("warren_slot_make_failures_total", "Makings of warm slots that failed"),
            pool: Pool::default(),
            log: OnceLock::new(),
            refills_ms: Mutex::default(),
            registry,
        }
    }
}

impl Instruments {
    /// A warm slot was made, or could not be.
    pub fn slot_made(&self, took: Duration, made: bool) {
        if !made {
            self.slot_make_failures.inc();
            return;
        }
        self.slot_makes.observe(took.as_secs_f64());
        let mut refills = self.refills_ms.lock();
        refills.push_back(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        if refills.len() > REFILLS_REMEMBERED {
            refills.pop_front();
        }
    }

    /// Milliseconds that the last warm slots took, the median; none before the first.
    pub fn refill_ms_p50(&self) -> Option<u64> {
        let mut sorted: Vec<u64> = self.refills_ms.lock().iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len().saturating_sub(1) / 2).copied()
    }

    /// Says where the log's counters are read; only the first word counts.
    pub fn set_log(&self, reads: impl Fn() -> CounterReadings + Send + Sync + 'static) {
        self.log.get_or_init(|| Box::new(reads));
    }

    /// What the log's store has done so far.
    pub fn log(&self) -> CounterReadings {
        self.log.get().map(|read| read()).unwrap_or_default()
    }

    /// Everything that was recorded.
    pub fn gather(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.registry.gather()
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect("each name is registered once");
    collector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_of_the_last_refills_only() {
        let instruments = Instruments::default();
        assert_eq!(instruments.refill_ms_p50(), None);
        instruments.slot_made(Duration::from_millis(900), true);
        instruments.slot_made(Duration::from_secs(9), false);
        assert_eq!(instruments.refill_ms_p50(), Some(900));
        for milliseconds in 0..u64::try_from(REFILLS_REMEMBERED).unwrap() {
            instruments.slot_made(Duration::from_millis(60 + milliseconds), true);
        }
        assert_eq!(instruments.refill_ms_p50(), Some(60 + 15));
        assert_eq!(instruments.slot_make_failures.get(), 1);
    }
}
