//! How long each step of a slot takes; run by hand: `cargo test -p runtime --test times -- --ignored --nocapture`.

mod common;

use std::time::{Duration, Instant};

use common::{Bench, run};

const SLOTS: usize = 40;

#[test]
#[ignore = "a measurement, not a check"]
fn steps_of_a_slot() {
    run(|| async {
        let bench = Bench::start().await;
        let mut steps: [(&str, Vec<Duration>); 9] =
            ["run_dir", "turn", "create", "start", "hold", "ready", "set_limits", "kill", "remove"]
                .map(|name| (name, Vec::new()));
        for _ in 0..SLOTS {
            let order = bench.order();
            let slot = bench.engine.make_slot(order.clone()).await.expect("a slot");
            let times = slot.times;
            let limits = timed(async { slot.set_limits(&order.resources).expect("limits") }).await;
            let kill = timed(async { slot.kill().await.expect("a kill") }).await;
            let remove = timed(async { bench.engine.remove(slot.id).await.expect("a removal") }).await;
            let all =
                [times.run_dir, times.turn, times.create, times.start, times.hold, times.ready, limits, kill, remove];
            for (step, time) in steps.iter_mut().zip(all) {
                step.1.push(time);
            }
        }
        for (name, mut times) in steps {
            times.sort_unstable();
            let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
            println!("{name:>10}  p50 {:8.3} ms  p95 {:8.3}  max {:8.3}", at(50), at(95), at(100));
        }
    });
}

async fn timed(work: impl Future<Output = ()>) -> Duration {
    let start = Instant::now();
    work.await;
    start.elapsed()
}

#[test]
#[ignore = "a measurement, not a check"]
fn slots_by_the_number_in_flight() {
    run(|| async {
        for in_flight in [1, 2, 3, 4, 8] {
            let bench = Bench::start_with(|config| config.creates_in_flight_max = in_flight).await;
            let start = Instant::now();
            let making: Vec<_> = (0..24)
                .map(|_| {
                    let (engine, order) = (bench.engine.clone(), bench.order());
                    tokio::spawn(async move { engine.make_slot(order).await })
                })
                .collect();
            let mut ids = Vec::new();
            for slot in making {
                ids.push(slot.await.expect("no panic").expect("a slot").id);
            }
            let made = start.elapsed();
            let start = Instant::now();
            let removing: Vec<_> = ids
                .into_iter()
                .map(|id| {
                    let engine = bench.engine.clone();
                    tokio::spawn(async move { engine.remove(id).await })
                })
                .collect();
            for removed in removing {
                removed.await.expect("no panic").expect("a removal");
            }
            println!("{in_flight} in flight: 24 slots in {made:?}, all removed at once in {:?}", start.elapsed());
            assert_eq!(bench.engine.list_ours().await.expect("a list").len(), 0);
            assert_eq!(bench.engine.found_leftovers().await.expect("known"), []);
        }
    });
}
