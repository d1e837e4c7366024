//! Nodes of one cluster inside this process: each listens, takes messages and answers calls.
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use peers::wire::{self, CallRequest, ChunkStream, Message, Operation, Reply};
use peers::{
    Authority, CallConnection, CallError, CallStream, Caller, CallerConfig, Incoming, JoinConnection, Link, LinkConfig,
    LinkState, Listener, ListenerConfig, NodeTls, Peer, Responder, Security, words,
};
use proto::framing::{FrameBuffer, encode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use types::{ClusterId, Generation, HostId, SandboxId};

/// Longest wait for anything here; reaching it fails the test.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub async fn soon<F: Future>(what: &str, wait: F) -> F::Output {
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

pub fn host(name: &str) -> HostId {
    HostId::new(name)
}

pub fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub struct Cluster {
    pub authority: Authority,
}

impl Cluster {
    pub fn new(id: &str) -> Self {
        Self { authority: Authority::create(&ClusterId::new(id)).unwrap() }
    }

    pub fn member(&self, name: &str) -> Security {
        Security::tls(NodeTls::fresh(&self.authority, &host(name)).unwrap().0)
    }
}

pub fn plaintext(name: &str) -> Security {
    Security::plaintext_on_loopback(ClusterId::new("c1"), host(name)).unwrap()
}

/// What a node of these tests has seen.
#[derive(Debug)]
pub enum Event {
    Message(HostId, Box<Message>),
    StreamEnded(HostId, String),
    Cancelled(String),
    CallsEnded(HostId),
    BodyBroken(u64),
}

pub struct Node {
    pub security: Security,
    pub address: SocketAddr,
    pub events: mpsc::UnboundedReceiver<Event>,
    pub joins: mpsc::UnboundedReceiver<JoinConnection>,
    /// Bytes that its read_file has handed over.
    pub bytes_sent: Arc<AtomicU64>,
    meter: peers::ListenerMeter,
    task: AbortHandle,
}

impl Drop for Node {
    /// As if its process died: every connection is closed.
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Node {
    pub async fn start(security: Security) -> Self {
        Self::start_at(security, anywhere(), ListenerConfig::default()).await
    }

    pub async fn start_at(security: Security, address: SocketAddr, config: ListenerConfig) -> Self {
        // A node that was dropped a moment ago gives its port back once the runtime has ended its tasks.
        let mut listener = soon("the address", async {
            loop {
                match Listener::bind(address, security.clone(), config.clone()).await {
                    Ok(listener) => return listener,
                    Err(peers::BindError::Bind(_, error)) if error.kind() == std::io::ErrorKind::AddrInUse => {
                        tokio::task::yield_now().await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await;
        let address = listener.local_address();
        let meter = listener.meter();
        let (tell, events) = mpsc::unbounded_channel();
        let (tell_joins, joins) = mpsc::unbounded_channel();
        let bytes_sent = Arc::new(AtomicU64::new(0));
        let sent = Arc::clone(&bytes_sent);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let incoming = listener.accept().await;
                match incoming {
                    Incoming::Join(join) => drop(tell_joins.send(join)),
                    Incoming::Stream(mut stream) => {
                        let tell = tell.clone();
                        connections.spawn(async move {
                            let peer = stream.peer().clone();
                            let end = loop {
                                match stream.recv().await {
                                    Ok(Some(message)) => {
                                        drop(tell.send(Event::Message(peer.clone(), Box::new(message))))
                                    }
                                    Ok(None) => break "in good order".to_owned(),
                                    Err(error) => break error.to_string(),
                                }
                            };
                            drop(tell.send(Event::StreamEnded(peer, end)));
                        });
                    }
                    Incoming::Call(calls) => {
                        connections.spawn(answer_calls(calls, tell.clone(), Arc::clone(&sent)));
                    }
                }
            }
        });
        Self { security, address, events, joins, bytes_sent, meter, task: task.abort_handle() }
    }

    pub fn host(&self) -> &HostId {
        self.security.host()
    }

    pub fn counters(&self) -> peers::ListenerCounters {
        self.meter.read()
    }

    pub fn peer(&self, other: &Node) -> Peer {
        Peer::new(&self.security, other.host().clone(), other.address.to_string())
    }

    pub fn caller(&self, other: &Node) -> Caller {
        Caller::new(self.peer(other), CallerConfig::default())
    }

    pub fn link(&self, other: &Node) -> Link {
        Link::spawn(self.peer(other), quick_link())
    }

    pub async fn event(&mut self) -> Event {
        soon("an event", self.events.recv()).await.unwrap()
    }

    pub async fn message(&mut self) -> (HostId, Message) {
        match self.event().await {
            Event::Message(from, message) => (from, *message),
            other => panic!("{other:?} instead of a message"),
        }
    }
}

pub fn quick_link() -> LinkConfig {
    LinkConfig {
        backoff_min: Duration::from_millis(10),
        backoff_max: Duration::from_millis(50),
        ..LinkConfig::default()
    }
}

pub async fn until_state(link: &Link, what: &str, is: impl Fn(&LinkState) -> bool) -> LinkState {
    let mut state = link.state();
    soon(what, state.wait_for(is)).await.unwrap().clone()
}

pub async fn until_up(link: &Link) {
    until_state(link, "the link to be up", LinkState::is_up).await;
}

pub fn raft(bytes: impl Into<Bytes>) -> Message {
    Message::Raft(bytes.into())
}

pub fn call(operation: Operation) -> CallRequest {
    words::request(&SandboxId::from_entropy([1; 20]), Generation(1), operation)
}

pub fn stat(path: &str) -> CallRequest {
    call(Operation::StatFile(wire::StatFile { path: path.to_owned() }))
}

pub fn read(path: &str) -> CallRequest {
    call(Operation::ReadFile(wire::ReadFile { path: path.to_owned(), range: None }))
}

pub fn write(path: &str) -> CallRequest {
    call(Operation::WriteFile(wire::WriteFile { path: path.to_owned() }))
}

pub fn exec(cmd: &[&str]) -> CallRequest {
    let cmd = cmd.iter().map(|word| (*word).to_owned()).collect();
    call(Operation::Exec(wire::Exec { cmd, max_output: 1 << 20, ..wire::Exec::default() }))
}

pub async fn pair(cluster: &Cluster) -> (Node, Node, Caller) {
    let (one, two) = (Node::start(cluster.member("h1")).await, Node::start(cluster.member("h2")).await);
    let caller = one.caller(&two);
    (one, two, caller)
}

pub async fn entry_of(call: &mut CallStream) -> wire::FileEntry {
    let Some(Reply::Entry(entry)) = soon("an entry", call.next()).await.unwrap() else { panic!("no entry") };
    assert_eq!(soon("the end", call.next()).await.unwrap(), Some(Reply::End(wire::End {})));
    assert_eq!(call.next().await.unwrap(), None, "nothing comes after the end");
    entry
}

pub async fn stat_over(caller: &Caller, path: &str) -> Result<wire::FileEntry, CallError> {
    let mut call = soon("the call", caller.call(stat(path))).await?;
    match soon("an entry", call.next()).await? {
        Some(Reply::Entry(entry)) => {
            assert!(call.next().await?.is_some());
            Ok(entry)
        }
        other => panic!("{other:?}"),
    }
}

pub fn entry(path: &str, size: u64) -> wire::FileEntry {
    wire::FileEntry { path: path.to_owned(), size, kind: wire::FileKind::File.into(), ..wire::FileEntry::default() }
}

async fn answer_calls(mut calls: CallConnection, tell: mpsc::UnboundedSender<Event>, sent: Arc<AtomicU64>) {
    while let Ok(Some((request, responder))) = calls.next_request().await {
        answer_call(request, responder, &tell, &sent).await;
    }
    drop(tell.send(Event::CallsEnded(calls.peer().clone())));
}

async fn answer_call(
    request: CallRequest,
    responder: Responder,
    tell: &mpsc::UnboundedSender<Event>,
    sent: &AtomicU64,
) {
    let (mut body, mut replies) = responder.split();
    match request.operation.unwrap() {
        Operation::StatFile(stat) => {
            let answer = async {
                replies.feed(Reply::Entry(entry(&stat.path, 0))).await?;
                replies.send(Reply::End(wire::End {})).await
            };
            drop(answer.await);
        }
        Operation::ReadFile(read) => {
            // The path says how many MiB there are.
            let mebibytes: u64 = read.path.trim_start_matches('/').parse().unwrap();
            let part = Bytes::from(vec![7; 1 << 20]);
            for _ in 0..mebibytes {
                if replies.chunk(ChunkStream::Body, part.clone()).await.is_err() {
                    drop(tell.send(Event::Cancelled(read.path)));
                    return;
                }
                sent.fetch_add(part.len() as u64, Ordering::Relaxed);
            }
            drop(replies.send(Reply::End(wire::End {})).await);
        }
        Operation::WriteFile(write) if write.path == "/refused" => {
            let error = wire::Error { code: "no_space".to_owned(), ..wire::Error::default() };
            drop(replies.send(Reply::Error(error)).await);
        }
        Operation::WriteFile(write) => {
            let mut bytes = 0;
            loop {
                match body.next().await {
                    Ok(Some(part)) => bytes += part.len() as u64,
                    Ok(None) => break,
                    Err(_) => {
                        drop(tell.send(Event::BodyBroken(bytes)));
                        return;
                    }
                }
            }
            let answer = async {
                replies.feed(Reply::Entry(entry(&write.path, bytes))).await?;
                replies.send(Reply::End(wire::End {})).await
            };
            drop(answer.await);
        }
        Operation::Exec(exec) if exec.cmd == ["sleep"] => {
            body.cancelled().await;
            drop(tell.send(Event::Cancelled("sleep".to_owned())));
        }
        Operation::Exec(exec) => {
            let outcome = types::ExecOutcome {
                stdout: exec.cmd.join(" ").into_bytes(),
                stderr: b"err".to_vec(),
                exit_code: 3,
                ..types::ExecOutcome::default()
            };
            drop(words::send_exec_outcome(&mut replies, outcome).await);
        }
        _ => drop(replies.send(Reply::Done(wire::Done {})).await),
    }
}

/// A connection on which a test speaks frames itself.
pub struct Raw<S> {
    pub socket: S,
    buffer: FrameBuffer,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub fn new(socket: S) -> Self {
        Self { socket, buffer: FrameBuffer::new() }
    }

    pub async fn send(&mut self, message: &impl prost::Message) {
        let mut out = BytesMut::new();
        encode(message, &mut out);
        self.socket.write_all(&out).await.unwrap();
        self.socket.flush().await.unwrap();
    }

    /// The next message; none at the end, however it came.
    pub async fn recv<M: prost::Message + Default>(&mut self) -> Option<M> {
        soon("a frame", async {
            loop {
                if let Some(message) = self.buffer.next_message(64 << 20).unwrap() {
                    return Some(message);
                }
                match self.socket.read_buf(self.buffer.bytes_mut()).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        })
        .await
    }
}

pub fn hello(kind: wire::Kind, from: &str, to: &str) -> wire::Hello {
    wire::Hello {
        protocol_version: peers::limits::PROTOCOL_VERSION,
        kind: kind.into(),
        cluster: "c1".to_owned(),
        host: from.to_owned(),
        wanted_host: to.to_owned(),
    }
}

pub fn welcome(name: &str) -> wire::HelloReply {
    let welcome = wire::Welcome {
        protocol_version: peers::limits::PROTOCOL_VERSION,
        cluster: "c1".to_owned(),
        host: name.to_owned(),
    };
    wire::HelloReply { answer: Some(wire::hello_reply::Answer::Welcome(welcome)) }
}

pub fn refused(reply: Option<wire::HelloReply>) -> wire::RefusedReason {
    match reply.expect("an answer to the hello").answer {
        Some(wire::hello_reply::Answer::Refused(refused)) => refused.reason(),
        other => panic!("{other:?} instead of a refusal"),
    }
}
