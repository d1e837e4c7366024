//! Calls: answered over kept connections, stopped when the caller goes, and told apart when they fail.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps in vain")]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use peers::wire::{self, CallFrame, Kind, Reply, ReplyFrame, call_frame};
use peers::{CallError, Caller, CallerConfig, NotDone, Sent, Unknown, words};
use tokio::net::TcpStream;

#[tokio::test]
async fn calls_go_over_one_kept_connection() {
    let (_one, _two, caller) = pair(&Cluster::new("c1")).await;
    for index in 0..20 {
        let path = format!("/{index}");
        let mut call = caller.call(stat(&path)).await.unwrap();
        assert_eq!(entry_of(&mut call).await.path, path);
    }
    let counters = caller.counters();
    assert_eq!((counters.calls, counters.dials, counters.reused, counters.idle), (20, 1, 19, 1));
    assert_eq!(counters.under_way, 0);
}

#[tokio::test]
async fn each_thread_keeps_connections_of_its_own() {
    let (_one, _two, caller) = pair(&Cluster::new("c1")).await;
    // Both threads' runtimes live until the end, as a node's do: with one end the connections that it watches.
    let (ask, asked) = tokio::sync::mpsc::unbounded_channel::<tokio::sync::oneshot::Sender<()>>();
    let other = std::thread::spawn({
        let (caller, mut asked) = (caller.clone(), asked);
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                while let Some(done) = asked.recv().await {
                    stat_over(&caller, "/there").await.unwrap();
                    done.send(()).unwrap();
                }
            });
        }
    });
    for _ in 0..3 {
        stat_over(&caller, "/here").await.unwrap();
        let (done, told) = tokio::sync::oneshot::channel();
        ask.send(done).unwrap();
        soon("the other thread's call", told).await.unwrap();
    }
    let counters = caller.counters();
    assert_eq!((counters.calls, counters.dials, counters.reused, counters.idle), (6, 2, 4, 2));
    drop(ask);
    other.join().unwrap();
}

#[tokio::test]
async fn an_exec_brings_both_streams_and_its_end() {
    let (_one, _two, caller) = pair(&Cluster::new("c1")).await;
    let mut call = caller.call(exec(&["echo", "a"])).await.unwrap();
    let outcome = words::receive_exec_outcome(&mut call, 4).await.unwrap().unwrap();
    assert_eq!((&outcome.stdout[..], &outcome.stderr[..], outcome.exit_code), (&b"echo"[..], &b"err"[..], 3));
}

#[tokio::test]
async fn a_hundred_calls_at_once_are_all_answered_with_their_own() {
    let (_one, _two, caller) = pair(&Cluster::new("c1")).await;
    let calls = (0..100).map(|index| {
        let caller = caller.clone();
        tokio::spawn(async move {
            let word = format!("call {index}");
            let mut call = caller.call(exec(&[&word])).await.unwrap();
            let outcome = words::receive_exec_outcome(&mut call, 1 << 20).await.unwrap().unwrap();
            assert_eq!(outcome.stdout, word.into_bytes());
        })
    });
    for call in calls.collect::<Vec<_>>() {
        soon("a call", call).await.unwrap();
    }
    let counters = caller.counters();
    assert_eq!((counters.calls, counters.dials + counters.reused, counters.under_way), (100, 100, 0));
    assert!(counters.idle <= peers::limits::IDLE_CONNECTIONS_MAX, "{} connections are kept", counters.idle);
}

#[tokio::test]
async fn one_call_too_many_is_refused_at_once() {
    let cluster = Cluster::new("c1");
    let (one, two, _) = pair(&cluster).await;
    let caller = Caller::new(one.peer(&two), CallerConfig { calls_max: 1, ..CallerConfig::default() });
    let held = caller.call(exec(&["sleep"])).await.unwrap();
    let error = caller.call(stat("/a")).await.unwrap_err();
    assert!(matches!(error, CallError::NotDone(NotDone::Busy)), "{error:?}");
    drop(held);
    assert!(stat_over(&caller, "/a").await.is_ok());
}

#[tokio::test]
async fn requests_that_no_peer_takes_are_not_sent() {
    let (_one, two, caller) = pair(&Cluster::new("c1")).await;
    let passed_on = wire::CallRequest { hop: 1, ..stat("/a") };
    assert!(matches!(caller.call(passed_on).await.unwrap_err(), CallError::NotDone(NotDone::TooManyHops)));
    let large = stat(&"x".repeat(peers::limits::REQUEST_BYTES_MAX));
    assert!(matches!(caller.call(large).await.unwrap_err(), CallError::NotDone(NotDone::TooLarge(_))));
    assert_eq!(two.counters().accepted, 0);
    let largest = stat(&"x".repeat(peers::limits::REQUEST_BYTES_MAX - 200));
    assert!(caller.call(largest).await.is_ok());
}

#[tokio::test]
async fn a_peer_that_passes_on_what_was_passed_on_is_refused_by_the_callee_too() {
    let node = Node::start(plaintext("h2")).await;
    let mut raw = Raw::new(TcpStream::connect(node.address).await.unwrap());
    raw.send(&hello(Kind::Call, "h1", "h2")).await;
    assert_eq!(raw.recv().await, Some(welcome("h2")));
    for (request, code) in [
        (wire::CallRequest { hop: 1, ..stat("/a") }, "internal"),
        (wire::CallRequest { operation: None, ..stat("/a") }, "not_implemented"),
    ] {
        raw.send(&CallFrame { frame: Some(call_frame::Frame::Request(request)) }).await;
        match raw.recv::<ReplyFrame>().await.unwrap().frame {
            Some(Reply::Error(error)) => assert_eq!(error.code, code),
            other => panic!("{other:?}"),
        }
    }
    // The connection goes on.
    raw.send(&CallFrame { frame: Some(call_frame::Frame::Request(stat("/a"))) }).await;
    assert!(matches!(raw.recv::<ReplyFrame>().await.unwrap().frame, Some(Reply::Entry(_))));
}

#[tokio::test]
async fn what_a_caller_sends_out_of_turn_is_not_kept() {
    let node = Node::start(plaintext("h2")).await;
    let mut raw = Raw::new(TcpStream::connect(node.address).await.unwrap());
    raw.send(&hello(Kind::Call, "h1", "h2")).await;
    assert_eq!(raw.recv().await, Some(welcome("h2")));
    raw.send(&CallFrame { frame: Some(call_frame::Frame::Request(exec(&["sleep"]))) }).await;
    // A frame of 4 GiB, while the callee watches for the caller's end.
    let out_of_turn = async {
        tokio::io::AsyncWriteExt::write_all(&mut raw.socket, &[0xff; 4]).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut raw.socket, &vec![0; 64 << 20]).await
    };
    let taken = tokio::time::timeout(Duration::from_millis(500), out_of_turn).await;
    assert!(taken.is_err(), "64 MiB were taken that nobody asked for");
}

// --- cancellation ---

#[tokio::test]
async fn a_callee_sees_that_its_caller_has_gone() {
    let cluster = Cluster::new("c1");
    for (from, to) in [(cluster.member("h1"), cluster.member("h2")), (plaintext("h1"), plaintext("h2"))] {
        let (one, mut two) = (Node::start(from).await, Node::start(to).await);
        let caller = one.caller(&two);
        // While it works.
        drop(caller.call(exec(&["sleep"])).await.unwrap());
        assert!(matches!(two.event().await, Event::Cancelled(what) if what == "sleep"));
        assert!(matches!(two.event().await, Event::CallsEnded(_)));
        // While it answers.
        let mut call = caller.call(read("/10000")).await.unwrap();
        assert!(matches!(call.next().await.unwrap(), Some(Reply::Chunk(_))));
        drop(call);
        assert!(matches!(two.event().await, Event::Cancelled(what) if what == "/10000"));
        assert!(matches!(two.event().await, Event::CallsEnded(_)));
        // While it reads a body.
        let mut call = caller.call(write("/f")).await.unwrap();
        assert_eq!(call.send(Bytes::from_static(b"half")).await.unwrap(), Sent::Whole);
        drop(call);
        assert!(matches!(two.event().await, Event::BodyBroken(4)));
        assert_eq!(caller.counters().idle, 0, "a connection with half a call on it was kept");
    }
}

#[tokio::test]
async fn a_call_whose_time_is_over_is_unknown_and_stops_the_callee() {
    let (_one, mut two, caller) = pair(&Cluster::new("c1")).await;
    let mut call = caller.call(wire::CallRequest { budget_ms: 100, ..exec(&["sleep"]) }).await.unwrap();
    let error = soon("the time-out", call.next()).await.unwrap_err();
    assert!(matches!(error, CallError::Unknown(Unknown::TimedOut)), "{error:?}");
    assert!(matches!(two.event().await, Event::Cancelled(_)), "although the call is not dropped yet");
    assert_eq!(call.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_callee_that_dies_leaves_the_call_unknown() {
    let (_one, two, caller) = pair(&Cluster::new("c1")).await;
    let mut call = caller.call(read("/10000")).await.unwrap();
    assert!(call.next().await.unwrap().is_some());
    drop(two);
    let error = loop {
        match soon("the loss", call.next()).await {
            Ok(Some(Reply::Chunk(_))) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CallError::Unknown(Unknown::Lost(_))), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_dropped_anywhere_never_disturb_others() {
    let (_one, _two, caller) = pair(&Cluster::new("c1")).await;
    let workers = (0..20).map(|worker| {
        let caller = caller.clone();
        tokio::spawn(async move {
            for round in 0..50 {
                let word = format!("{worker}/{round} {}", "x".repeat(round * 1_000));
                let exchange = async {
                    let mut call = caller.call(exec(&[&word])).await.unwrap();
                    words::receive_exec_outcome(&mut call, 1 << 20).await.unwrap().unwrap()
                };
                // Every second one is dropped after so many polls, wherever that is.
                let polls = if (worker + round) % 2 == 0 { round % 7 } else { usize::MAX };
                if let Some(outcome) = polled(exchange, polls).await {
                    assert_eq!(outcome.stdout, word.into_bytes());
                }
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        soon("a worker", worker).await.unwrap();
    }
    assert_eq!(caller.counters().under_way, 0);
    assert!(stat_over(&caller, "/a").await.is_ok());
}

/// What a future comes to within so many polls; dropped if it has not.
async fn polled<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return std::task::Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

#[tokio::test]
async fn a_peer_that_is_given_up_ends_its_calls_at_once() {
    let (_one, mut two, caller) = pair(&Cluster::new("c1")).await;
    let kept = {
        let mut call = caller.call(stat("/a")).await.unwrap();
        let mut other = caller.call(stat("/b")).await.unwrap();
        entry_of(&mut call).await;
        entry_of(&mut other).await;
        caller.counters().idle
    };
    let mut waiting = caller.call(exec(&["sleep"])).await.unwrap();
    let mut sending = caller.call(write("/f")).await.unwrap();
    assert_eq!(sending.send(Bytes::from_static(b"half")).await.unwrap(), Sent::Whole);
    assert_eq!((kept, caller.counters().idle), (2, 0));
    let mut third = caller.call(stat("/c")).await.unwrap();
    entry_of(&mut third).await;
    caller.sever();
    assert_eq!(caller.counters().idle, 0);
    for call in [&mut waiting, &mut sending] {
        let error = soon("the end", call.next()).await.unwrap_err();
        assert!(matches!(error, CallError::Unknown(Unknown::Lost(peers::LinkError::Severed))), "{error:?}");
    }
    for _ in 0..5 {
        assert!(matches!(two.event().await, Event::Cancelled(_) | Event::BodyBroken(4) | Event::CallsEnded(_)));
    }
    assert!(stat_over(&caller, "/a").await.is_ok(), "later calls dial again");
}

// --- bodies ---

#[tokio::test]
async fn a_body_arrives_whole_and_the_connection_is_kept() {
    let (_one, _two, caller) = pair(&Cluster::new("c1")).await;
    for _ in 0..2 {
        let mut call = caller.call(write("/f")).await.unwrap();
        assert_eq!(call.send(vec![1; 1_000_000].into()).await.unwrap(), Sent::Whole);
        assert_eq!(call.send(Bytes::new()).await.unwrap(), Sent::Whole);
        assert_eq!(call.send(vec![2; 234_567].into()).await.unwrap(), Sent::Whole);
        assert_eq!(call.finish().await.unwrap(), Sent::Whole);
        assert_eq!(entry_of(&mut call).await.size, 1_234_567);
    }
    assert_eq!(caller.counters().dials, 1);
}

#[tokio::test]
async fn an_answer_before_the_end_of_a_body_is_heard() {
    let (_one, _two, caller) = pair(&Cluster::new("c1")).await;
    let mut call = caller.call(write("/refused")).await.unwrap();
    let part = Bytes::from(vec![1; 1 << 20]);
    soon("the answer", async { while call.send(part.clone()).await.unwrap() == Sent::Whole {} }).await;
    match call.next().await.unwrap() {
        Some(Reply::Error(error)) => assert_eq!(error.code, "no_space"),
        other => panic!("{other:?}"),
    }
    drop(call);
    assert_eq!(caller.counters().idle, 0);
    assert!(stat_over(&caller, "/a").await.is_ok());
    // A body that was whole by the time of the answer leaves the connection in order.
    let idle = caller.counters().dials;
    let mut call = caller.call(write("/refused")).await.unwrap();
    if call.send(Bytes::from_static(b"little")).await.unwrap() == Sent::Whole
        && call.finish().await.unwrap() == Sent::Whole
    {
        assert!(matches!(call.next().await.unwrap(), Some(Reply::Error(_))));
        assert!(stat_over(&caller, "/a").await.is_ok());
        assert_eq!(caller.counters().dials, idle);
    }
}

#[tokio::test]
async fn a_reader_that_pauses_holds_the_callee_up() {
    let (_one, two, caller) = pair(&Cluster::new("c1")).await;
    let mut call = caller.call(read("/256")).await.unwrap();
    assert!(call.next().await.unwrap().is_some());
    let mut last = 0;
    // Until nothing moves any more.
    soon("the callee to be held up", async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let sent = two.bytes_sent.load(Ordering::Relaxed);
            if sent == last {
                return;
            }
            last = sent;
        }
    })
    .await;
    assert!(last < 64 << 20, "{last} bytes were taken that nobody has read");
    let mut rest = 0;
    while let Some(Reply::Chunk(chunk)) = soon("the rest", call.next()).await.unwrap() {
        rest += chunk.data.len();
    }
    assert!(rest > 255 << 20);
}
