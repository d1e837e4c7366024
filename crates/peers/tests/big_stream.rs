//! A gibibyte each way through a call, with memory for a few chunks. Alone in its file: it looks at the process.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps in vain")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use common::*;
use peers::Sent;
use peers::wire::Reply;

const GIBIBYTE: u64 = 1 << 30;

/// Sockets' buffers, some chunks, and what the allocator keeps.
const GROWTH_MAX: u64 = 48 << 20;

/// Bytes of `key` in /proc/self/status.
fn memory(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

async fn download(caller: &peers::Caller, mebibytes: u64, sent: &AtomicU64) -> u64 {
    let before = sent.load(Ordering::Relaxed);
    let mut call = caller.call(read(&format!("/{mebibytes}"))).await.unwrap();
    let (mut received, mut underway_max) = (0, 0);
    loop {
        match soon("a chunk", call.next()).await.unwrap() {
            Some(Reply::Chunk(chunk)) => {
                assert!(chunk.data.len() <= peers::limits::CHUNK_BYTES_MAX);
                received += chunk.data.len() as u64;
                underway_max = underway_max.max((sent.load(Ordering::Relaxed) - before).saturating_sub(received));
            }
            Some(Reply::End(_)) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(received, mebibytes << 20);
    underway_max
}

async fn upload(caller: &peers::Caller, mebibytes: u64) {
    let part = Bytes::from(vec![3; 1 << 20]);
    let mut call = caller.call(write("/f")).await.unwrap();
    for _ in 0..mebibytes {
        assert_eq!(soon("room", call.send(part.clone())).await.unwrap(), Sent::Whole);
    }
    assert_eq!(call.finish().await.unwrap(), Sent::Whole);
    match soon("the answer", call.next()).await.unwrap() {
        Some(Reply::Entry(entry)) => assert_eq!(entry.size, mebibytes << 20),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_each_way_takes_the_memory_of_a_few_chunks() {
    let cluster = Cluster::new("c1");
    let (one, two) = (Node::start(cluster.member("h1")).await, Node::start(cluster.member("h2")).await);
    let (caller, sent) = (one.caller(&two), Arc::clone(&two.bytes_sent));
    download(&caller, 16, &sent).await;
    upload(&caller, 16).await;
    let before = memory("VmRSS:");

    let began = std::time::Instant::now();
    let underway = download(&caller, GIBIBYTE >> 20, &sent).await;
    println!("download of 1 GiB: {:?}, at most {} KiB underway", began.elapsed(), underway >> 10);
    let began = std::time::Instant::now();
    upload(&caller, GIBIBYTE >> 20).await;
    println!("upload of 1 GiB: {:?}", began.elapsed());

    let growth = memory("VmHWM:").saturating_sub(before);
    println!("the process grew by {} KiB at most", growth >> 10);
    assert!(growth < GROWTH_MAX, "the process grew by {growth} bytes");
}
