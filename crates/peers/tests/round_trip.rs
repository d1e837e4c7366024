//! What a call costs over loopback. Measured and printed, not judged: `cargo test -p peers --test round_trip -- --nocapture`.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps in vain")]

mod common;

use std::time::{Duration, Instant};

use common::*;
use peers::{Caller, Security, words};

const WARM_UP: usize = 200;
const SAMPLES: usize = 2_000;

struct Figures {
    p50: Duration,
    p99: Duration,
}

async fn measure<F: Future<Output = ()>>(samples: usize, mut call: impl FnMut() -> F) -> Figures {
    for _ in 0..samples.min(WARM_UP) {
        call().await;
    }
    let mut times = Vec::with_capacity(samples);
    for _ in 0..samples {
        let began = Instant::now();
        call().await;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Figures { p50: times[samples / 2], p99: times[samples * 99 / 100] }
}

async fn stat_once(caller: &Caller) {
    let mut call = caller.call(stat("/a")).await.unwrap();
    while call.next().await.unwrap().is_some() {}
}

async fn exec_once(caller: &Caller) {
    let mut call = caller.call(exec(&["echo", "hello"])).await.unwrap();
    words::receive_exec_outcome(&mut call, 1 << 20).await.unwrap().unwrap();
}

async fn report(name: &str, one: Security, two: Security) {
    let (one, two) = (Node::start(one).await, Node::start(two).await);
    let caller = one.caller(&two);
    let stat = measure(SAMPLES, || stat_once(&caller)).await;
    let exec = measure(SAMPLES, || exec_once(&caller)).await;
    let dial = measure(SAMPLES / 20, || async {
        caller.forget_idle();
        stat_once(&caller).await;
    })
    .await;
    println!(
        "{name}: stat p50 {:?} p99 {:?}, exec p50 {:?} p99 {:?}, with a fresh connection p50 {:?} p99 {:?}",
        stat.p50, stat.p99, exec.p50, exec.p99, dial.p50, dial.p99
    );
    assert!(caller.counters().reused > 0, "every call dialled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_there_and_back() {
    let cluster = Cluster::new("c1");
    report("TLS", cluster.member("h1"), cluster.member("h2")).await;
    report("plain text", plaintext("h1"), plaintext("h2")).await;
}
