//! A small load balancer: passes each TCP connection on to the next node that is healthy.
//!
//! It stands for the one that a cluster has in front, and knows of a node only what such a one knows: its health
//! route. A connection that can not be opened goes to the next node; one that was opened is its node's to the end.

use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

/// Time between two looks at a node's health.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// A node that takes longer than this to answer that it is healthy is not.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);
/// A node that takes longer than this to open a connection gets none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The balancer. Dropping it closes its port; connections that are open run on until one side ends them.
pub struct Balancer {
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    nodes: Vec<Backend>,
    next: AtomicUsize,
    stop: AtomicBool,
}

struct Backend {
    address: SocketAddr,
    healthy: AtomicBool,
    /// Connections that it was given.
    given: AtomicU64,
}

impl Balancer {
    /// Passes on what comes in at the listener.
    pub fn start(listener: TcpListener, nodes: &[SocketAddr]) -> Result<Balancer> {
        let address = listener.local_addr().context("the balancer has no address")?;
        let backend = |address: &SocketAddr| Backend {
            address: *address,
            healthy: AtomicBool::new(false),
            given: AtomicU64::new(0),
        };
        let shared = Arc::new(Shared {
            nodes: nodes.iter().map(backend).collect(),
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let mut balancer = Balancer { address, shared: Arc::clone(&shared), threads: Vec::new() };
        for index in 0..nodes.len() {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name("health".to_owned());
            balancer.threads.push(thread.spawn(move || shared.watch(&shared.nodes[index]))?);
        }
        let thread = std::thread::Builder::new().name("balancer".to_owned());
        balancer.threads.push(thread.spawn(move || shared.accept(&listener))?);
        Ok(balancer)
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whether this many nodes are healthy by its own look.
    pub fn sees(&self, count: usize) -> bool {
        self.shared.nodes.iter().filter(|node| node.healthy.load(Ordering::Relaxed)).count() == count
    }

    /// How many connections each node was given, in the order of the nodes.
    pub fn given(&self) -> Vec<u64> {
        self.shared.nodes.iter().map(|node| node.given.load(Ordering::Relaxed)).collect()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the one that waits for a connection.
        let _ = TcpStream::connect_timeout(&self.address, CONNECT_TIMEOUT);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("error: a thread of the balancer panicked");
            }
        }
    }
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn watch(&self, node: &Backend) {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().timeout_global(Some(HEALTH_TIMEOUT)).proxy(None).build().into();
        let url = format!("http://{}/api/v1/health", node.address);
        while !self.stopped() {
            node.healthy.store(agent.get(&url).call().is_ok(), Ordering::Relaxed);
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.stopped() {
                return;
            }
            let Ok(client) = client else {
                // Too many open files, most likely: the next look finds fewer.
                std::thread::sleep(LOOK_INTERVAL);
                continue;
            };
            let shared = Arc::clone(self);
            // A client without a thread is closed, as by a balancer that is full.
            let _ = std::thread::Builder::new().name("connection".to_owned()).spawn(move || {
                if let Some(node) = shared.connect() {
                    pass(&client, &node);
                }
            });
        }
    }

    /// A connection to the next healthy node, or to the one after it.
    fn connect(&self) -> Option<TcpStream> {
        let count = self.nodes.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let turns = (0..count).map(|turn| &self.nodes[(first + turn) % count]);
        for node in turns.filter(|node| node.healthy.load(Ordering::Relaxed)) {
            match TcpStream::connect_timeout(&node.address, CONNECT_TIMEOUT) {
                Ok(stream) => {
                    node.given.fetch_add(1, Ordering::Relaxed);
                    return Some(stream);
                }
                Err(_) => node.healthy.store(false, Ordering::Relaxed),
            }
        }
        None
    }
}

/// Passes bytes both ways until both sides have ended theirs, or one has failed.
fn pass(client: &TcpStream, node: &TcpStream) {
    for stream in [client, node] {
        // A delay, not a fault, where it is refused.
        let _ = stream.set_nodelay(true);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| one_way(client, node));
        one_way(node, client);
    });
}

fn one_way(mut from: &TcpStream, mut to: &TcpStream) {
    let how = match io::copy(&mut from, &mut to) {
        Ok(_) => Shutdown::Write,
        // Broken on one side: both shall know.
        Err(_) => Shutdown::Both,
    };
    for stream in if how == Shutdown::Both { vec![from, to] } else { vec![to] } {
        match stream.shutdown(how) {
            Err(error) if error.kind() != ErrorKind::NotConnected => eprintln!("error: the balancer: {error}"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// A node that answers every request, health or not, with its name, until it is told to stop.
    struct Stub {
        address: SocketAddr,
        stop: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    }

    impl Stub {
        fn start(name: &'static str) -> Stub {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let (address, stop) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
            let asked = Arc::clone(&stop);
            let thread = std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if asked.load(Ordering::Relaxed) {
                        return;
                    }
                    answer(stream.unwrap(), name);
                }
            });
            Stub { address, stop, thread: Some(thread) }
        }
    }

    impl Drop for Stub {
        fn drop(&mut self) {
            self.stop.store(true, Ordering::Relaxed);
            let _ = TcpStream::connect(self.address);
            self.thread.take().unwrap().join().unwrap();
        }
    }

    fn answer(mut stream: TcpStream, name: &str) {
        let mut request = Vec::new();
        let mut buffer = [0; 1024];
        while !request.windows(4).any(|window| window == b"\r\n\r\n") {
            match stream.read(&mut buffer).unwrap() {
                0 => return,
                count => request.extend_from_slice(&buffer[..count]),
            }
        }
        let length = name.len();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}").unwrap();
    }

    fn ask(balancer: &Balancer) -> String {
        let mut stream = TcpStream::connect(balancer.address).unwrap();
        write!(stream, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        match stream.read_to_string(&mut text) {
            // What was asked has not been read.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return String::new(),
            read => read.unwrap(),
        };
        text.rsplit('\n').next().unwrap_or_default().to_owned()
    }

    fn until_it_sees(balancer: &Balancer, count: usize) {
        while !balancer.sees(count) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn connections_go_round_and_a_dead_node_gets_none() {
        let (one, two) = (Stub::start("one"), Stub::start("two"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let balancer = Balancer::start(listener, &[one.address, two.address]).unwrap();
        until_it_sees(&balancer, 2);
        assert_eq!([(); 4].map(|()| ask(&balancer)), ["one", "two", "one", "two"]);
        assert_eq!(balancer.given(), [2, 2]);
        drop(one);
        // Also before its health was looked at again: the connection is refused.
        assert_eq!([(); 3].map(|()| ask(&balancer)), ["two", "two", "two"]);
        until_it_sees(&balancer, 1);
        drop(two);
        until_it_sees(&balancer, 0);
        assert_eq!(ask(&balancer), "", "nobody is there to answer");
    }
}
