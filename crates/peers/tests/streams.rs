//! Messages between nodes: nobody waits for anybody, and whoever comes back is found again.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps in vain")]

mod common;

use std::time::Duration;

use common::*;
use peers::wire::{Alive, Heartbeat, Kind, Message, PeerMessage};
use peers::{Link, LinkConfig, LinkError, LinkState, Listener, ListenerConfig, Peer, SendError};
use tokio::net::{TcpListener, TcpStream};

/// Short, so that the tests that wait for silence are.
const SHORT_SILENCE: Duration = Duration::from_millis(300);
const OFTEN: Duration = Duration::from_millis(50);

#[tokio::test]
async fn three_nodes_in_one_process_hear_each_other() {
    let cluster = Cluster::new("c1");
    let mut nodes = Vec::new();
    for name in ["h1", "h2", "h3"] {
        nodes.push(Node::start(cluster.member(name)).await);
    }
    let mut links = Vec::new();
    for from in &nodes {
        for to in nodes.iter().filter(|to| to.host() != from.host()) {
            links.push((from.host().clone(), from.link(to)));
        }
    }
    for (from, link) in &links {
        until_up(link).await;
        link.try_send(raft(format!("from {from} to {}", link.host()))).unwrap();
    }
    for node in &mut nodes {
        let mut heard = Vec::new();
        for _ in 0..2 {
            let (from, message) = node.message().await;
            assert_eq!(message, raft(format!("from {from} to {}", node.host())));
            heard.push(from);
        }
        heard.sort();
        heard.dedup();
        assert_eq!(heard.len(), 2, "one peer was heard twice");
    }
}

#[tokio::test]
async fn messages_arrive_whole_in_order_and_many_to_a_write() {
    let cluster = Cluster::new("c1");
    let (one, mut two) = (Node::start(cluster.member("h1")).await, Node::start(cluster.member("h2")).await);
    let link = one.link(&two);
    until_up(&link).await;
    // Nothing else runs between these, so all of them wait by the time that the link's task does.
    for index in 0..1_000u32 {
        link.try_send(raft(index.to_be_bytes().to_vec())).unwrap();
    }
    for index in 0..1_000u32 {
        assert_eq!(two.message().await.1, raft(index.to_be_bytes().to_vec()));
    }
    let large = raft(vec![9; 20 << 20]);
    link.try_send(large.clone()).unwrap();
    assert_eq!(two.message().await.1, large);
    let counters = link.counters();
    assert_eq!((counters.sent, counters.waiting, counters.waiting_bytes), (1_001, 0, 0));
    assert!(counters.writes <= 4, "{} writes for what waited together", counters.writes);
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_full_at_once_and_slows_nobody() {
    let cluster = Cluster::new("c1");
    let one = Node::start(cluster.member("h1")).await;
    let mut quick = Node::start(cluster.member("h3")).await;
    let mut listener = Listener::bind(
        anywhere(),
        cluster.member("h2"),
        ListenerConfig { alive_interval: OFTEN, ..ListenerConfig::default() },
    )
    .await
    .unwrap();
    let config = LinkConfig { bytes_max: 1 << 20, silence_max: SHORT_SILENCE, alive_interval: OFTEN, ..quick_link() };
    let slow_peer = Peer::new(&one.security, host("h2"), listener.local_address().to_string());
    let (to_slow, to_quick) = (Link::spawn(slow_peer, config), one.link(&quick));
    let peers::Incoming::Stream(mut held) = soon("the stream", listener.accept()).await else { panic!("no stream") };
    until_up(&to_slow).await;
    until_up(&to_quick).await;

    // The kernel takes some megabytes; after that the queue fills, and says so without waiting.
    let mut taken = 0u64;
    soon("the queue to be full", async {
        loop {
            match to_slow.try_send(raft(vec![1; 64 << 10])) {
                Ok(()) => taken += 1,
                Err(SendError::Full) if to_slow.counters().sent > 0 && !progresses(&to_slow).await => return,
                Err(SendError::Full) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        }
    })
    .await;
    let counters = to_slow.counters();
    assert!(counters.waiting_bytes <= 1 << 20, "{} bytes wait", counters.waiting_bytes);
    assert!(counters.dropped_full > 0);

    for index in 0..100u32 {
        to_quick.try_send(raft(index.to_be_bytes().to_vec())).unwrap();
    }
    for index in 0..100u32 {
        assert_eq!(quick.message().await.1, raft(index.to_be_bytes().to_vec()));
    }

    // Slow is not dead: it says that it lives, for longer than a silence would be borne.
    tokio::time::sleep(SHORT_SILENCE * 2).await;
    assert!(to_slow.state().borrow().is_up(), "{}", *to_slow.state().borrow());
    // And what was taken is not lost.
    for _ in 0..taken {
        assert!(matches!(soon("what was taken", held.recv()).await, Ok(Some(Message::Raft(_)))));
    }
}

/// Whether anything leaves while the runtime has nothing else to do.
async fn progresses(link: &Link) -> bool {
    let before = link.counters().sent;
    tokio::time::sleep(Duration::from_millis(50)).await;
    link.counters().sent > before
}

#[tokio::test]
async fn heartbeats_overtake_what_waits() {
    let cluster = Cluster::new("c1");
    let (one, mut two) = (Node::start(cluster.member("h1")).await, Node::start(cluster.member("h2")).await);
    let link = one.link(&two);
    until_up(&link).await;
    for _ in 0..10 {
        link.try_send(raft(vec![1; 1 << 20])).unwrap();
    }
    let heartbeat = Message::Heartbeat(Heartbeat { host: "h1".to_owned(), sequence: 1, ..Heartbeat::default() });
    link.try_send(heartbeat.clone()).unwrap();
    assert_eq!(two.message().await.1, heartbeat);
}

#[tokio::test]
async fn a_peer_that_comes_back_is_found_again() {
    let cluster = Cluster::new("c1");
    let one = Node::start(cluster.member("h1")).await;
    let two = Node::start(cluster.member("h2")).await;
    let link = one.link(&two);
    until_up(&link).await;
    let address = two.address;
    drop(two);
    until_state(&link, "the loss", |state| !state.is_up()).await;
    assert_eq!(link.try_send(raft("lost")), Err(SendError::Down));
    until_state(&link, "a failed dial", |state| matches!(state, LinkState::Unreachable(_))).await;

    let mut two = Node::start_at(cluster.member("h2"), address, ListenerConfig::default()).await;
    let state = until_state(&link, "the peer again", LinkState::is_up).await;
    assert!(matches!(state, LinkState::Up(2)), "{state:?}");
    link.try_send(raft("again")).unwrap();
    assert_eq!(two.message().await.1, raft("again"));

    // The same at another address, once that is known.
    drop(two);
    until_state(&link, "the loss", |state| !state.is_up()).await;
    let mut moved = Node::start(cluster.member("h2")).await;
    let slow = LinkConfig { backoff_min: PATIENCE, backoff_max: PATIENCE, ..LinkConfig::default() };
    let peer = Peer::new(&one.security, host("h2"), address.to_string());
    let link = Link::spawn(peer.clone(), slow);
    until_state(&link, "a failed dial", |state| matches!(state, LinkState::Unreachable(_))).await;
    peer.set_address(moved.address.to_string());
    until_up(&link).await;
    link.try_send(raft("moved")).unwrap();
    assert_eq!(moved.message().await.1, raft("moved"));
}

#[tokio::test]
async fn word_of_a_peer_ends_the_wait_for_it() {
    let cluster = Cluster::new("c1");
    let one = Node::start(cluster.member("h1")).await;
    let two = Node::start(cluster.member("h2")).await;
    let (peer, address) = (one.peer(&two), two.address);
    drop(two);
    // The port may be closed only a moment later.
    soon("the port to close", async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let slow = LinkConfig { backoff_min: PATIENCE * 2, backoff_max: PATIENCE * 2, ..LinkConfig::default() };
    let link = Link::spawn(peer, slow);
    until_state(&link, "a failed dial", |state| matches!(state, LinkState::Unreachable(_))).await;
    let _two = Node::start_at(cluster.member("h2"), address, ListenerConfig::default()).await;
    link.redial_now();
    until_up(&link).await;
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_given_up() {
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let peer = Peer::new(&plaintext("h1"), host("h2"), listener.local_addr().unwrap().to_string());
    let link = Link::spawn(peer, LinkConfig { silence_max: SHORT_SILENCE, ..quick_link() });
    let mut raw = Raw::new(soon("a dial", listener.accept()).await.unwrap().0);
    assert!(raw.recv::<peers::wire::Hello>().await.is_some());
    raw.send(&welcome("h2")).await;
    until_up(&link).await;
    // The connection stays open; nothing comes.
    let state = until_state(&link, "the silence to be noticed", |state| !state.is_up()).await;
    let LinkState::Lost(Some(error)) = state else { panic!("{state:?}") };
    assert!(matches!(*error, LinkError::Silent), "{error:?}");
}

#[tokio::test]
async fn a_sender_that_falls_silent_is_given_up_and_one_that_lives_is_not() {
    let config = ListenerConfig { silence_max: SHORT_SILENCE, alive_interval: OFTEN, ..ListenerConfig::default() };
    let mut node = Node::start_at(plaintext("h2"), anywhere(), config).await;
    let mut raw = Raw::new(TcpStream::connect(node.address).await.unwrap());
    raw.send(&hello(Kind::Stream, "h1", "h2")).await;
    assert_eq!(raw.recv().await, Some(welcome("h2")));
    // Idle for three silences, and alive.
    for _ in 0..12 {
        raw.send(&PeerMessage { message: Some(Message::Alive(Alive {})) }).await;
        assert!(raw.recv::<PeerMessage>().await.is_some(), "the receiver says that it lives");
        tokio::time::sleep(SHORT_SILENCE / 4).await;
    }
    raw.send(&PeerMessage { message: Some(raft("still there")) }).await;
    assert_eq!(node.message().await.1, raft("still there"));
    match node.event().await {
        Event::StreamEnded(peer, end) => assert_eq!((peer, end.as_str()), (host("h1"), "the other side is silent")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_newer_stream_of_a_peer_takes_the_place_of_a_dead_one() {
    let mut node = Node::start(plaintext("h2")).await;
    let mut older = Raw::new(TcpStream::connect(node.address).await.unwrap());
    older.send(&hello(Kind::Stream, "h1", "h2")).await;
    assert!(older.recv::<peers::wire::HelloReply>().await.is_some());
    let mut newer = Raw::new(TcpStream::connect(node.address).await.unwrap());
    newer.send(&hello(Kind::Stream, "h1", "h2")).await;
    assert!(newer.recv::<peers::wire::HelloReply>().await.is_some());
    match node.event().await {
        Event::StreamEnded(_, end) => assert!(end.contains("newer stream"), "{end}"),
        other => panic!("{other:?}"),
    }
    newer.send(&PeerMessage { message: Some(raft("here")) }).await;
    assert_eq!(node.message().await.1, raft("here"));
}

#[tokio::test]
async fn a_stream_that_is_cut_or_breaks_the_protocol_ends_alone() {
    let mut node = Node::start(plaintext("h2")).await;
    let endings: [(&[u8], &str); 3] = [
        (&[0, 0, 0, 9, 1], "the connection was cut off"),
        (&[0xff; 4], "the other side breaks the protocol"),
        (&[0, 0, 0, 2, 0xff, 0xff], "the other side breaks the protocol"),
    ];
    for (bytes, expected) in endings {
        let mut raw = Raw::new(TcpStream::connect(node.address).await.unwrap());
        raw.send(&hello(Kind::Stream, "h1", "h2")).await;
        assert!(raw.recv::<peers::wire::HelloReply>().await.is_some());
        tokio::io::AsyncWriteExt::write_all(&mut raw.socket, bytes).await.unwrap();
        drop(raw);
        match node.event().await {
            Event::StreamEnded(_, end) => assert_eq!(end, expected, "{bytes:?}"),
            other => panic!("{other:?}"),
        }
    }
    // A kind of message that this version does not know is passed over.
    let mut raw = Raw::new(TcpStream::connect(node.address).await.unwrap());
    raw.send(&hello(Kind::Stream, "h1", "h2")).await;
    assert!(raw.recv::<peers::wire::HelloReply>().await.is_some());
    raw.send(&PeerMessage { message: None }).await;
    raw.send(&PeerMessage { message: Some(raft("next")) }).await;
    assert_eq!(node.message().await.1, raft("next"));
}
