//! Kept connections that are not what they were: what is sent again, and what never is.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps in vain")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::*;
use peers::wire::{self, CallFrame, Hello, Kind, Reply, ReplyFrame, call_frame};
use peers::{CallError, Caller, CallerConfig, Incoming, Listener, ListenerConfig, NotDone, Peer, Sent, Unknown};
use tokio::net::{TcpListener, TcpStream};

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
async fn a_whole_body_that_nobody_wanted_leaves_the_connection_in_order() {
    let node = Node::start(plaintext("h2")).await;
    let mut raw = Raw::new(TcpStream::connect(node.address).await.unwrap());
    raw.send(&hello(Kind::Call, "h1", "h2")).await;
    assert_eq!(raw.recv().await, Some(welcome("h2")));
    raw.send(&CallFrame { frame: Some(call_frame::Frame::Request(write("/refused"))) }).await;
    let part = wire::Chunk { data: vec![1; peers::limits::CHUNK_BYTES_MAX].into(), ..wire::Chunk::default() };
    let chunk = CallFrame { frame: Some(call_frame::Frame::Chunk(part)) };
    for _ in 0..32 {
        raw.send(&chunk).await;
    }
    raw.send(&CallFrame { frame: Some(call_frame::Frame::Finish(wire::Finish {})) }).await;
    raw.send(&CallFrame { frame: Some(call_frame::Frame::Request(stat("/a"))) }).await;
    assert!(matches!(raw.recv::<ReplyFrame>().await.unwrap().frame, Some(Reply::Error(_))));
    assert!(matches!(raw.recv::<ReplyFrame>().await.unwrap().frame, Some(Reply::Entry(_))));
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
