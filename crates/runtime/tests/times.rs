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
