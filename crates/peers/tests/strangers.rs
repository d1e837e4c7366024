//! Garbage, silence and crowds at the door cost nothing that lasts.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps in vain")]

mod common;

use std::time::Duration;

use common::*;
use peers::wire::{HelloReply, Kind, RefusedReason};
use peers::{CallError, Caller, CallerConfig, ConnectError, ListenerConfig, NotDone, Peer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn answers(node: &Node, from: &peers::Security) {
    let peer = Peer::new(from, node.host().clone(), node.address.to_string());
    let caller = Caller::new(peer, CallerConfig::default());
    let mut call = soon("a call", caller.call(stat("/a"))).await.unwrap();
    assert!(soon("an answer", call.next()).await.unwrap().is_some());
}

async fn until_refused(node: &Node, count: u64) {
    soon("the refusals", async {
        while node.counters().refused < count {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(node.counters().refused, count);
}

#[tokio::test]
async fn garbage_is_refused_and_members_still_come_in() {
    let cluster = Cluster::new("c1");
    for security in [cluster.member("h2"), plaintext("h2")] {
        let other = if security.is_encrypted() { cluster.member("h1") } else { plaintext("h1") };
        let node = Node::start(security).await;
        let garbage: [&[u8]; 5] = [
            b"",
            b"GET / HTTP/1.1\r\n\r\n",
            &[0; 100],
            &[0xff; 100_000],
            // A frame that is none, of a length that would be taken.
            &[0, 0, 0, 3, 0xff, 0xff, 0xff],
        ];
        for bytes in garbage {
            let mut stream = TcpStream::connect(node.address).await.unwrap();
            // The node may have closed it before everything was written.
            drop(stream.write_all(bytes).await);
            drop(stream.shutdown().await);
            let mut answer = Vec::new();
            drop(soon("the end", stream.read_to_end(&mut answer)).await);
            assert!(answer.len() < 200, "{} bytes of answer to garbage", answer.len());
        }
        until_refused(&node, garbage.len() as u64).await;
        answers(&node, &other).await;
        assert_eq!(node.counters().admitted, 1);
    }
}

#[tokio::test]
async fn a_hello_of_another_version_or_kind_is_told_so() {
    let node = Node::start(plaintext("h2")).await;
    let mut version = hello(Kind::Call, "h1", "h2");
    version.protocol_version += 1;
    let mut nameless = hello(Kind::Call, "", "h2");
    nameless.host = "a host / with strange signs".to_owned();
    for (hello, expected) in [
        (version, RefusedReason::ProtocolVersion),
        (hello(Kind::Unspecified, "h1", "h2"), RefusedReason::Malformed),
        (nameless, RefusedReason::Malformed),
    ] {
        let mut raw = Raw::new(TcpStream::connect(node.address).await.unwrap());
        raw.send(&hello).await;
        assert_eq!(refused(raw.recv().await), expected);
    }
}

#[tokio::test]
async fn the_silent_lose_their_places_to_those_who_speak() {
    let cluster = Cluster::new("c1");
    let config = ListenerConfig { handshakes_max: 4, handshake_timeout: PATIENCE * 4, ..ListenerConfig::default() };
    let node = Node::start_at(cluster.member("h2"), anywhere(), config).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(node.address).await.unwrap());
    }
    answers(&node, &cluster.member("h1")).await;
    // The listener has taken them all by now, since they came first; the oldest are closed.
    assert_eq!(soon("the end of the oldest", silent[0].read(&mut [0; 1])).await.unwrap_or(0), 0);
    assert!(node.counters().displaced >= 16, "{:?}", node.counters());
}

#[tokio::test]
async fn the_silent_run_out_of_time() {
    let cluster = Cluster::new("c1");
    let config = ListenerConfig { handshake_timeout: Duration::from_millis(100), ..ListenerConfig::default() };
    let node = Node::start_at(cluster.member("h2"), anywhere(), config.clone()).await;
    let mut silent = TcpStream::connect(node.address).await.unwrap();
    assert_eq!(soon("the end", silent.read(&mut [0; 1])).await.unwrap(), 0);
    // So do those who were encrypted and then said nothing, and those who begin a frame.
    let node = Node::start_at(plaintext("h2"), anywhere(), config).await;
    let mut silent = TcpStream::connect(node.address).await.unwrap();
    silent.write_all(&[0, 0, 1]).await.unwrap();
    assert_eq!(soon("the end", silent.read(&mut [0; 1])).await.unwrap(), 0);
}

#[tokio::test]
async fn call_connections_of_one_peer_are_bounded() {
    let config = ListenerConfig { call_connections_per_peer_max: 2, ..ListenerConfig::default() };
    let node = Node::start_at(plaintext("h2"), anywhere(), config).await;
    let mut held = Vec::new();
    for expected in [None, None, Some(RefusedReason::Busy)] {
        let mut raw = Raw::new(TcpStream::connect(node.address).await.unwrap());
        raw.send(&hello(Kind::Call, "h1", "h2")).await;
        let reply = raw.recv::<HelloReply>().await;
        match expected {
            None => assert_eq!(reply, Some(welcome("h2"))),
            Some(reason) => assert_eq!(refused(reply), reason),
        }
        held.push(raw);
    }
    answers(&node, &plaintext("h3")).await;
    held.clear();
    // The places come back with the connections' ends.
    soon("a place", async {
        loop {
            let mut raw = Raw::new(TcpStream::connect(node.address).await.unwrap());
            raw.send(&hello(Kind::Call, "h1", "h2")).await;
            if raw.recv::<HelloReply>().await == Some(welcome("h2")) {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_address_that_never_greets_is_given_up() {
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let cluster = Cluster::new("c1");
    for security in [cluster.member("h1"), plaintext("h1")] {
        let peer = Peer::new(&security, host("h2"), listener.local_addr().unwrap().to_string());
        let config = CallerConfig { connect_timeout: Duration::from_millis(100), ..CallerConfig::default() };
        let error = soon("the end", Caller::new(peer, config).call(stat("/a"))).await.unwrap_err();
        assert!(matches!(error, CallError::NotDone(NotDone::Connect(ConnectError::TimedOut { .. }))), "{error:?}");
    }
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    for address in [nobody.to_string(), "no address".to_owned(), "127.0.0.1".to_owned()] {
        let peer = Peer::new(&plaintext("h1"), host("h2"), address.clone());
        let error = soon("the end", Caller::new(peer, CallerConfig::default()).call(stat("/a"))).await.unwrap_err();
        let unreachable = matches!(error, CallError::NotDone(NotDone::Connect(ConnectError::Unreachable { .. })));
        assert!(unreachable, "{address}: {error:?}");
    }
}
