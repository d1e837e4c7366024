//! The gate: every seed holds every invariant, and the same seed gives the same trace.

/// Seeds of the gate.
const SEEDS: u64 = 300;

/// Runs these seeds on both of the smallest host's cores.
fn all(seeds: std::ops::Range<u64>, run: impl Fn(u64) -> Option<String> + Sync) -> Vec<String> {
    let next = std::sync::atomic::AtomicU64::new(seeds.start);
    let work = || {
        let mut failed = Vec::new();
        loop {
            let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if seed >= seeds.end {
                return failed;
            }
            failed.extend(run(seed));
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let mut failed = work();
        failed.extend(other.join().expect("a panic of a core is caught where it happens"));
        failed.sort();
        failed
    })
}

#[test]
fn every_seed_holds_every_invariant() {
    let failed = all(0..SEEDS, |seed| {
        let violation = sim::run(seed, None, false).violation?;
        Some(format!("seed {seed}: {violation}\n  read it: cargo run -p sim -- --seed {seed} --trace"))
    });
    assert!(failed.is_empty(), "{} seeds failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let first = sim::run(seed, None, false);
        // Whether lines are kept must not matter either.
        let second = sim::run(seed, None, true);
        assert_eq!((first.hash, first.events), (second.hash, second.events), "seed {seed}");
        assert!(!second.lines.is_empty() && first.lines.is_empty());
        assert!(hashes.insert(first.hash), "seed {seed} has another seed's trace");
    }
}
