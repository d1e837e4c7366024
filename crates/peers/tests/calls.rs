//! Calls: answered over kept connections, stopped when the caller goes, and told apart when they fail.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps in vain")]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use peers::wire::{self, CallFrame, Hello, Kind, Reply, ReplyFrame, call_frame};
use peers::{
    CallError, CallStream, Caller, CallerConfig, Incoming, Listener, ListenerConfig, NotDone, Peer, Sent, Unknown,
    words,
};
use tokio::net::{TcpListener, TcpStream};

async fn pair(cluster: &Cluster) -> (Node, Node, Caller) {
    let (one, two) = (Node::start(cluster.member("h1")).await, Node::start(cluster.member("h2")).await);
    let caller = one.caller(&two);
    (one, two, caller)
}

async fn entry_of(call: &mut CallStream) -> wire::FileEntry {
    let Some(Reply::Entry(entry)) = soon("an entry", call.next()).await.unwrap() else { panic!("no entry") };
    assert_eq!(soon("the end", call.next()).await.unwrap(), Some(Reply::End(wire::End {})));
    assert_eq!(call.next().await.unwrap(), None, "nothing comes after the end");
    entry
}

async fn stat_over(caller: &Caller, path: &str) -> Result<wire::FileEntry, CallError> {
    let mut call = soon("the call", caller.call(stat(path))).await?;
    match soon("an entry", call.next()).await? {
        Some(Reply::Entry(entry)) => {
            assert!(call.next().await?.is_some());
            Ok(entry)
        }
        other => panic!("{other:?}"),
    }
}

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

#[tokio::test]
async fn a_peer_that_is_given_up_ends_its_calls_at_once() {
    let (_one, mut two, caller) = pair(&Cluster::new("c1")).await;
    let mut waiting = caller.call(exec(&["sleep"])).await.unwrap();
    let mut sending = caller.call(write("/f")).await.unwrap();
    assert_eq!(sending.send(Bytes::from_static(b"half")).await.unwrap(), Sent::Whole);
    caller.sever();
    for call in [&mut waiting, &mut sending] {
        let error = soon("the end", call.next()).await.unwrap_err();
        assert!(matches!(error, CallError::Unknown(Unknown::Lost(peers::LinkError::Severed))), "{error:?}");
    }
    for _ in 0..4 {
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

// --- kept connections that are not what they were ---

#[tokio::test]
async fn a_kept_connection_that_the_peer_closed_is_replaced() {
    let cluster = Cluster::new("c1");
    let (_one, two, caller) = pair(&cluster).await;
    stat_over(&caller, "/a").await.unwrap();
    let address = two.address;
    drop(two);
    let mut two = Node::start_at(
        cluster.member("h2"),
        address,
        ListenerConfig { call_idle_max: Duration::from_millis(50), ..ListenerConfig::default() },
    )
    .await;
    stat_over(&caller, "/b").await.unwrap();
    assert_eq!((caller.counters().dials, caller.counters().stale), (2, 1));
    // Closed for want of use.
    assert!(matches!(two.event().await, Event::CallsEnded(_)));
    stat_over(&caller, "/c").await.unwrap();
    assert_eq!((caller.counters().dials, caller.counters().stale), (3, 2));
}

#[tokio::test]
async fn a_callee_that_ends_in_good_order_says_farewell() {
    let mut listener = Listener::bind(anywhere(), plaintext("h2"), ListenerConfig::default()).await.unwrap();
    let mut raw = Raw::new(TcpStream::connect(listener.local_address()).await.unwrap());
    raw.send(&hello(Kind::Call, "h1", "h2")).await;
    let Incoming::Call(mut calls) = soon("the connection", listener.accept()).await else { panic!("no call") };
    assert_eq!(raw.recv().await, Some(welcome("h2")));
    // As a node does that stops between two calls.
    assert!(tokio::time::timeout(Duration::from_millis(20), calls.next_request()).await.is_err());
    calls.close().await;
    assert_eq!(raw.recv().await, Some(ReplyFrame { frame: Some(Reply::Goodbye(wire::Goodbye {})) }));
    assert_eq!(raw.recv::<ReplyFrame>().await, None);
}

#[tokio::test]
async fn a_callee_that_watches_for_its_caller_does_not_lose_the_next_request() {
    let mut listener = Listener::bind(anywhere(), plaintext("h2"), ListenerConfig::default()).await.unwrap();
    let peer = Peer::new(&plaintext("h1"), host("h2"), listener.local_address().to_string());
    let caller = Caller::new(peer, CallerConfig::default());
    let callee = async {
        let Incoming::Call(mut calls) = soon("the connection", listener.accept()).await else { panic!("no call") };
        for _ in 0..2 {
            let (_, responder) = soon("a request", calls.next_request()).await.unwrap().unwrap();
            let (mut body, mut replies) = responder.split();
            replies.send(Reply::Done(wire::Done {})).await.unwrap();
            // The next request is here before the watch ends.
            assert!(tokio::time::timeout(Duration::from_millis(100), body.cancelled()).await.is_err());
        }
        calls
    };
    let calls = async {
        assert!(call_once(&caller, "/a").await.is_ok());
        assert!(call_once(&caller, "/b").await.is_ok());
    };
    tokio::join!(callee, calls);
    assert_eq!(caller.counters().dials, 1);
}

#[tokio::test]
async fn kept_connections_are_few_and_not_kept_for_long() {
    let cluster = Cluster::new("c1");
    let (one, mut two, _) = pair(&cluster).await;
    let config =
        CallerConfig { idle_connections_max: 2, idle_max: Duration::from_millis(50), ..CallerConfig::default() };
    let caller = Caller::new(one.peer(&two), config);
    let mut calls = Vec::new();
    for _ in 0..5 {
        calls.push(caller.call(stat("/a")).await.unwrap());
    }
    for call in &mut calls {
        entry_of(call).await;
    }
    assert_eq!((caller.counters().dials, caller.counters().idle), (5, 2));
    for _ in 0..3 {
        assert!(matches!(two.event().await, Event::CallsEnded(_)));
    }
    tokio::time::sleep(Duration::from_millis(60)).await;
    stat_over(&caller, "/a").await.unwrap();
    assert_eq!((caller.counters().dials, caller.counters().idle), (6, 1));
}

/// A callee of which each connection behaves as the test says.
struct Fake {
    listener: TcpListener,
    caller: Caller,
}

impl Fake {
    async fn new() -> Self {
        let listener = TcpListener::bind(anywhere()).await.unwrap();
        let peer = Peer::new(&plaintext("h1"), host("h2"), listener.local_addr().unwrap().to_string());
        Self { listener, caller: Caller::new(peer, CallerConfig::default()) }
    }

    async fn greeted(&self) -> Raw<TcpStream> {
        let mut raw = Raw::new(soon("a dial", self.listener.accept()).await.unwrap().0);
        assert!(raw.recv::<Hello>().await.is_some());
        raw.send(&welcome("h2")).await;
        raw
    }
}

async fn request(raw: &mut Raw<TcpStream>) -> wire::CallRequest {
    match raw.recv::<CallFrame>().await.unwrap().frame {
        Some(call_frame::Frame::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

async fn reply(raw: &mut Raw<TcpStream>, reply: Reply) {
    raw.send(&ReplyFrame { frame: Some(reply) }).await;
}

async fn one_done(raw: &mut Raw<TcpStream>) {
    request(raw).await;
    reply(raw, Reply::Done(wire::Done {})).await;
}

async fn call_once(caller: &Caller, path: &str) -> Result<Option<Reply>, CallError> {
    soon("the call", caller.call(stat(path))).await?.next().await
}

#[tokio::test]
async fn a_request_that_crosses_a_farewell_is_sent_once_more() {
    let fake = Fake::new().await;
    let callee = async {
        let mut first = fake.greeted().await;
        one_done(&mut first).await;
        assert!(matches!(request(&mut first).await.operation, Some(wire::Operation::StatFile(_))));
        reply(&mut first, Reply::Goodbye(wire::Goodbye {})).await;
        drop(first);
        let mut second = fake.greeted().await;
        let again = request(&mut second).await;
        assert_eq!(again, stat("/b"), "another request than the one that was not looked at");
        reply(&mut second, Reply::Done(wire::Done {})).await;
        second
    };
    let calls = async {
        assert!(matches!(call_once(&fake.caller, "/a").await, Ok(Some(Reply::Done(_)))));
        assert!(matches!(call_once(&fake.caller, "/b").await, Ok(Some(Reply::Done(_)))));
    };
    tokio::join!(callee, calls);
    assert_eq!((fake.caller.counters().dials, fake.caller.counters().stale), (2, 1));
}

#[tokio::test]
async fn a_request_is_sent_twice_at_most() {
    let fake = Fake::new().await;
    let callee = async {
        let mut first = fake.greeted().await;
        one_done(&mut first).await;
        request(&mut first).await;
        reply(&mut first, Reply::Goodbye(wire::Goodbye {})).await;
        let mut second = fake.greeted().await;
        request(&mut second).await;
        reply(&mut second, Reply::Goodbye(wire::Goodbye {})).await;
        (first, second)
    };
    let calls = async {
        assert!(call_once(&fake.caller, "/a").await.is_ok());
        let error = call_once(&fake.caller, "/b").await.unwrap_err();
        assert!(matches!(error, CallError::NotDone(NotDone::Closed)), "{error:?}");
    };
    tokio::join!(callee, calls);
    assert_eq!(fake.caller.counters().dials, 2);
}

#[tokio::test]
async fn a_request_that_may_have_been_read_is_never_sent_again() {
    let fake = Fake::new().await;
    let callee = async {
        let mut first = fake.greeted().await;
        one_done(&mut first).await;
        request(&mut first).await;
        drop(first);
        // Nobody dials again.
        let again = tokio::time::timeout(Duration::from_millis(300), fake.listener.accept()).await;
        assert!(again.is_err(), "the request was sent again");
    };
    let calls = async {
        assert!(call_once(&fake.caller, "/a").await.is_ok());
        let error = call_once(&fake.caller, "/b").await.unwrap_err();
        assert!(matches!(error, CallError::Unknown(Unknown::Lost(_))), "{error:?}");
        assert!(!error.surely_not_done());
    };
    tokio::join!(callee, calls);
}

#[tokio::test]
async fn a_request_whose_body_has_begun_is_never_sent_again() {
    let fake = Fake::new().await;
    let callee = async {
        let mut first = fake.greeted().await;
        one_done(&mut first).await;
        request(&mut first).await;
        assert!(matches!(first.recv::<CallFrame>().await.unwrap().frame, Some(call_frame::Frame::Chunk(_))));
        reply(&mut first, Reply::Goodbye(wire::Goodbye {})).await;
        first
    };
    let calls = async {
        assert!(call_once(&fake.caller, "/a").await.is_ok());
        let mut call = fake.caller.call(write("/f")).await.unwrap();
        assert_eq!(call.send(Bytes::from_static(b"part")).await.unwrap(), Sent::Whole);
        let error = soon("the farewell", call.next()).await.unwrap_err();
        assert!(matches!(error, CallError::NotDone(NotDone::Closed)), "{error:?}");
    };
    tokio::join!(callee, calls);
    assert_eq!(fake.caller.counters().dials, 1);
}

#[tokio::test]
async fn a_callee_that_breaks_the_protocol_leaves_the_call_unknown() {
    let frames: [&[u8]; 4] = [
        &[0xff; 8],
        &[0, 0, 0, 2, 0xff, 0xff],
        // A reply of a kind that is not known.
        &[0, 0, 0, 0],
        // Half a reply.
        &[0, 0, 0, 9, 0],
    ];
    for bytes in frames {
        let fake = Fake::new().await;
        let callee = async {
            let mut raw = fake.greeted().await;
            request(&mut raw).await;
            tokio::io::AsyncWriteExt::write_all(&mut raw.socket, bytes).await.unwrap();
        };
        let (_, answer) = tokio::join!(callee, call_once(&fake.caller, "/a"));
        let error = answer.unwrap_err();
        assert!(matches!(error, CallError::Unknown(Unknown::Lost(_))), "{bytes:?}: {error:?}");
        assert_eq!(fake.caller.counters().idle, 0);
    }
}

#[tokio::test]
async fn an_answer_with_something_after_it_is_not_followed_by_another_call() {
    let fake = Fake::new().await;
    let callee = async {
        let mut first = fake.greeted().await;
        request(&mut first).await;
        let done = ReplyFrame { frame: Some(Reply::Done(wire::Done {})) };
        let mut twice = bytes::BytesMut::new();
        proto::framing::encode(&done, &mut twice);
        proto::framing::encode(&done, &mut twice);
        tokio::io::AsyncWriteExt::write_all(&mut first.socket, &twice).await.unwrap();
        let mut second = fake.greeted().await;
        request(&mut second).await;
        reply(&mut second, Reply::End(wire::End {})).await;
        (first, second)
    };
    let calls = async {
        assert!(matches!(call_once(&fake.caller, "/a").await, Ok(Some(Reply::Done(_)))));
        assert!(matches!(call_once(&fake.caller, "/b").await, Ok(Some(Reply::End(_)))));
    };
    tokio::join!(callee, calls);
}
