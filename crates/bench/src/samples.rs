//! Measured times and what is said of them.

use std::time::Duration;

/// Times of one side, in the order in which they were taken.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<Duration>);

/// The middle values of two clusters of samples, and the share of the faster one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Modes {
    /// Median of the faster cluster.
    pub fast: Duration,
    /// Median of the slower cluster.
    pub slow: Duration,
    /// Part of the samples that are in the faster cluster, 0 to 1.
    pub share_fast: f64,
}

/// Samples outside this part at either end do not make a mode.
const MODE_SHARE_MIN: f64 = 0.1;

/// A gap smaller than this part of the median does not part two modes.
const MODE_GAP_MIN: f64 = 0.15;

impl Samples {
    /// None yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Takes one more.
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest sample that at least `percent` of all samples do not exceed; zero where there are none.
    pub fn percentile(&self, percent: f64) -> Duration {
        let sorted = self.sorted();
        let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
    }

    /// The median.
    pub fn p50(&self) -> Duration {
        self.percentile(50.0)
    }

    /// This side's median in parts of another's.
    pub fn ratio_to(&self, other: &Samples) -> f64 {
        ratio(self.p50(), other.p50())
    }

    /// The same of another percentile.
    pub fn ratio_at(&self, percent: f64, other: &Samples) -> f64 {
        ratio(self.percentile(percent), other.percentile(percent))
    }

    /// Two modes, where the samples fall apart into two clusters.
    pub fn modes(&self) -> Option<Modes> {
        let sorted = self.sorted();
        let edge = (sorted.len() as f64 * MODE_SHARE_MIN).ceil() as usize;
        let (gap, last_fast) =
            (edge.max(1)..sorted.len().checked_sub(edge)?).map(|at| (sorted[at] - sorted[at - 1], at - 1)).max()?;
        if gap.as_secs_f64() < MODE_GAP_MIN * self.p50().as_secs_f64() {
            return None;
        }
        let (fast, slow) = sorted.split_at(last_fast + 1);
        let middle = |part: &[Duration]| part[(part.len() - 1) / 2];
        Some(Modes { fast: middle(fast), slow: middle(slow), share_fast: fast.len() as f64 / sorted.len() as f64 })
    }

    fn sorted(&self) -> Vec<Duration> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted
    }
}

/// One time in parts of another.
pub fn ratio(ours: Duration, reference: Duration) -> f64 {
    ours.as_secs_f64() / reference.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(millis: impl IntoIterator<Item = u64>) -> Samples {
        Samples(millis.into_iter().map(Duration::from_millis).collect())
    }

    #[test]
    fn percentiles_are_samples() {
        let all = samples((1..=100).rev());
        for (percent, expected) in [(50.0, 50), (95.0, 95), (99.0, 99), (100.0, 100), (0.0, 1)] {
            assert_eq!(all.percentile(percent), Duration::from_millis(expected), "{percent}");
        }
        assert_eq!(samples([7]).percentile(99.0), Duration::from_millis(7));
        assert_eq!(samples([]).percentile(50.0), Duration::ZERO);
        assert!((samples([1, 2, 3]).ratio_to(&samples([4])) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn two_clusters_are_two_modes_and_one_is_none() {
        let two = samples((60..70).chain(100..120));
        let modes = two.modes().expect("two clusters");
        assert_eq!((modes.fast, modes.slow), (Duration::from_millis(64), Duration::from_millis(109)));
        assert!((modes.share_fast - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!(samples(60..90).modes(), None);
        // A few outliers are no mode.
        assert_eq!(samples((60..90).chain([500, 501])).modes(), None);
        assert_eq!(samples([]).modes(), None);
    }
}
