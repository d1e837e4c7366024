//! Hosts reach each other and the machine, and what is cut does not pass.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use hosts::{Host, Machine, OUTSIDE};

use crate::wait::{fresh_name, until};

const PORT: u16 = 7000;
/// Packets need microseconds on this switch; what has not come by then does not come.
const SILENCE: Duration = Duration::from_millis(300);

/// Answers each connection with the host's name, until the test ends.
fn serve(host: &Host) {
    let address = (host.address(), PORT);
    let listener = host.inside(|| TcpListener::bind(address)).unwrap().unwrap();
    let name = host.name().to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            stream.and_then(|mut stream| stream.write_all(name.as_bytes())).unwrap();
        }
    });
}

/// Who answers there, or how it fails.
fn ask(address: Ipv4Addr) -> Result<String, ErrorKind> {
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::from((address, PORT)), SILENCE).map_err(|error| error.kind())?;
    let mut name = String::new();
    stream.read_to_string(&mut name).map_err(|error| error.kind())?;
    Ok(name)
}

fn ask_from(host: &Host, other: &Host) -> Result<String, ErrorKind> {
    host.inside(|| ask(other.address())).unwrap()
}

/// Whether a packet from one arrives at the other.
fn passes(from: &Host, to: &Host) -> bool {
    let bind = |host: &Host| {
        let address = host.address();
        host.inside(|| UdpSocket::bind((address, 0))).unwrap().unwrap()
    };
    let (sender, receiver) = (bind(from), bind(to));
    receiver.set_read_timeout(Some(SILENCE)).unwrap();
    sender.send_to(b"x", receiver.local_addr().unwrap()).unwrap();
    receiver.recv(&mut [0]).is_ok()
}

#[test]
fn hosts_reach_each_other_and_the_machine_until_they_are_cut() {
    let machine = Machine::new(&fresh_name()).unwrap();
    let hosts: Vec<Host> = ["n1", "n2", "n3"].iter().map(|name| machine.add_host(name).unwrap()).collect();
    let [n1, n2, n3] = &hosts[..] else { panic!("three hosts") };
    hosts.iter().for_each(serve);
    let all_reach_all = || {
        for host in &hosts {
            for other in &hosts {
                assert_eq!(ask_from(host, other).as_deref(), Ok(other.name()), "{host:?} asks {other:?}");
            }
            assert_eq!(ask(host.address()).as_deref(), Ok(host.name()), "from outside");
        }
    };
    all_reach_all();
    let here = TcpListener::bind((machine.outside_address(), 0)).unwrap().local_addr().unwrap();
    let refused = n1.inside(|| TcpStream::connect_timeout(&here, SILENCE)).unwrap().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "it reaches us, and nobody listens any more");

    // A connection that is open hears nothing until the cut is mended, and then all of it.
    let address = (n2.address(), 0);
    let listener = n2.inside(|| TcpListener::bind(address)).unwrap().unwrap();
    let there = listener.local_addr().unwrap();
    let mut near = n1.inside(|| TcpStream::connect(there)).unwrap().unwrap();
    let (mut far, _) = listener.accept().unwrap();
    far.set_read_timeout(Some(SILENCE)).unwrap();

    machine.cut(n1, n2).unwrap();
    near.write_all(b"late").unwrap();
    assert_eq!(far.read(&mut [0; 4]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(ask_from(n1, n2), Err(ErrorKind::TimedOut));
    assert_eq!(ask_from(n2, n1), Err(ErrorKind::TimedOut));
    assert_eq!(ask_from(n3, n1).as_deref(), Ok("n1"));
    assert_eq!(ask_from(n3, n2).as_deref(), Ok("n2"));
    assert_eq!(ask(n1.address()).as_deref(), Ok("n1"));
    machine.mend(n2, n1).unwrap();
    let mut text = [0; 4];
    until("what was sent meanwhile", || far.read_exact(&mut text));
    assert_eq!(&text, b"late");

    machine.cut_one_way(n1, n2).unwrap();
    assert!(!passes(n1, n2) && passes(n2, n1) && passes(n1, n3) && passes(n3, n2));
    assert_eq!(ask_from(n2, n1), Err(ErrorKind::TimedOut), "the answer does not come back");
    machine.heal().unwrap();

    machine.isolate(n3).unwrap();
    assert!(!passes(n1, n3) && !passes(n3, n1) && !passes(n3, n2) && passes(n1, n2) && passes(n2, n1));
    assert_eq!(ask(n3.address()).as_deref(), Ok("n3"), "from outside it is reached");
    machine.cut(n3, OUTSIDE).unwrap();
    assert_eq!(ask(n3.address()), Err(ErrorKind::TimedOut));
    machine.heal().unwrap();
    all_reach_all();

    assert!(machine.cut(n1, "n9").unwrap_err().to_string().contains("no host n9"));
}

#[test]
fn a_host_without_power_says_nothing_and_is_still_cut_when_it_is_back() {
    let machine = Machine::new(&fresh_name()).unwrap();
    let (n1, n2) = (machine.add_host("n1").unwrap(), machine.add_host("n2").unwrap());
    // Of a process that dies the kernel tells the other end; of a host that dies nobody does.
    let mut server = Command::new("busybox");
    server.args(["nc", "-l", "-p", "7001"]).stdin(Stdio::piped());
    let server = n2.spawn(&mut server).unwrap();
    let there = SocketAddr::from((n2.address(), 7001));
    let mut near = until("a connection", || n1.inside(|| TcpStream::connect(there)).unwrap());
    near.set_read_timeout(Some(SILENCE)).unwrap();
    let address = n2.address();
    n2.kill_power().unwrap();
    assert_eq!(near.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "no end is heard of");
    drop(server);
    assert!(!n2.is_on() && n2.spawn(&mut Command::new("true")).is_err() && n2.inside(|| ()).is_err());

    machine.cut_one_way(&n1, &n2).unwrap();
    n2.power_on().unwrap();
    assert_eq!(n2.address(), address);
    assert!(!passes(&n1, &n2) && passes(&n2, &n1));
    machine.heal().unwrap();
    assert!(passes(&n1, &n2) && passes(&n2, &n1));
    // It has forgotten the connection, and says so now.
    let told = until("word of the lost connection", || match near.write(b"x").and_then(|_| near.read(&mut [0])) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err("silence"),
        told => Ok(told),
    });
    assert_eq!(told.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn machines_do_not_see_each_other() {
    let (one, other) = (Machine::new(&fresh_name()).unwrap(), Machine::new(&fresh_name()).unwrap());
    let (a, b) = (one.add_host("n1").unwrap(), other.add_host("n1").unwrap());
    assert_ne!(a.address().octets()[2], b.address().octets()[2]);
    serve(&b);
    assert_eq!(ask(b.address()).as_deref(), Ok("n1"));
    assert_eq!(ask_from(&a, &b), Err(ErrorKind::NetworkUnreachable));
    let again = Machine::new(one.name()).unwrap_err();
    assert!(again.to_string().contains("is there already"), "{again:#}");
}
