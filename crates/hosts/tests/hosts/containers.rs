//! Podman on three hosts of one machine.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use hosts::{Host, Machine, Process};
use rustix::fs::{FlockOperation, fcntl_lock};

use crate::traces::Traces;
use crate::wait::{fresh_name, until};

const BUSYBOX: &str = "localhost/warren/busybox:latest";
const SOCKET: &str = "/run/podman.sock";
/// The machine's own.
const IMAGES: &str = "/var/lib/containers/storage";

fn podman(host: &Host, arguments: &[&str]) -> String {
    host.says(Command::new("podman").args(arguments)).unwrap()
}

/// Through the service.
fn remote(host: &Host, arguments: &[&str]) -> String {
    host.says(Command::new("podman").args(["--remote", "--url", &format!("unix://{SOCKET}")]).args(arguments)).unwrap()
}

fn serve(host: &Host) -> Process {
    let socket = format!("unix://{SOCKET}");
    let mut command = Command::new("podman");
    command.args(["system", "service", "--time=0", &socket]).stdout(Stdio::null()).stderr(Stdio::null());
    let service = host.spawn(&mut command).unwrap();
    until("podman's service", || host.inside(|| UnixStream::connect(SOCKET).map(drop)).unwrap());
    service
}

/// The machine's Podman may be at work on its images, or stand still in the midst of it.
#[test]
fn a_host_does_not_wait_for_who_holds_the_machines_images() {
    let machine = Machine::new(&fresh_name()).unwrap();
    let host = machine.add_host("n1").unwrap();
    let locks = ["overlay-images/images.lock", "overlay-layers/layers.lock"];
    let held: Vec<File> = locks
        .into_iter()
        .filter_map(|lock| File::options().write(true).open(Path::new(IMAGES).join(lock)).ok())
        .filter(|lock| fcntl_lock(lock, FlockOperation::NonBlockingLockExclusive).is_ok())
        .collect();
    println!("  ({} locks are held by this test, the others by somebody else)", held.len());
    // Else it would wait for this test for ever.
    let mut podman = Command::new("timeout");
    podman.args(["30", "podman", "images", "--format", "{{.Repository}}"]);
    let images = host.says(&mut podman).unwrap();
    drop(held);
    assert!(images.contains("localhost/warren/busybox"), "{images}");
}

#[test]
fn each_host_has_containers_of_its_own_and_all_have_the_machines_images() {
    let name = fresh_name();
    let machine = Machine::new(&name).unwrap();
    let mut traces = Traces::of(&name);
    let hosts: Vec<Host> = ["n1", "n2", "n3"].iter().map(|name| machine.add_host(name).unwrap()).collect();
    let mut ids = BTreeSet::new();
    for host in &hosts {
        let begun = Instant::now();
        let service = serve(host);
        traces.note(host, &service);
        println!("  ({host:?}: service after {:.2} s)", begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        let arguments = ["run", "--detach", "--name", "one", "--network", "none", BUSYBOX, "sleep", "1000"];
        ids.insert(remote(host, &arguments));
        println!("  ({host:?}: first container after {:.2} s)", begun.elapsed().as_secs_f64());
        assert_eq!(remote(host, &["exec", "one", "echo", "here"]), "here");
    }
    assert_eq!(ids.len(), 3);
    for host in &hosts {
        assert_eq!(podman(host, &["ps", "--quiet", "--all"]).lines().count(), 1);
        // Nothing was copied: what a host has is its container's own layer.
        let size = host.directory().join("containers/storage/overlay");
        let size = host.says(Command::new("du").args(["--summarize", "--block-size=1"]).arg(size)).unwrap();
        let bytes: u64 = size.split_whitespace().next().unwrap().parse().unwrap();
        assert!(bytes < 1 << 20, "{bytes} bytes of an image of two million");
    }
    // From a container's own network over its host's to another host.
    let n1 = &hosts[0];
    let (address, port) = (hosts[1].address().to_string(), 7000);
    let listener = hosts[1].inside(|| TcpListener::bind((&*address, port))).unwrap().unwrap();
    let served = std::thread::spawn(move || listener.accept().and_then(|(mut stream, _)| stream.write_all(b"hello")));
    let nc = ["run", "--rm", "--network", "podman", BUSYBOX, "nc", "-w", "5", &address, &port.to_string()];
    assert_eq!(remote(n1, &nc), "hello");
    served.join().unwrap().unwrap();
    remote(n1, &["pause", "one"]);
    let processes = n1.processes();
    let one = podman(n1, &["inspect", "--format", "{{.State.Pid}}", "one"]);
    assert!(processes.len() >= 3, "service, conmon and container: {processes:?}; {one}");

    n1.kill_power().unwrap();
    assert!(processes.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()), "{processes:?}");
    assert_eq!(remote(&hosts[1], &["exec", "one", "echo", "here"]), "here");

    n1.power_on().unwrap();
    let _service = serve(n1);
    assert_eq!(remote(n1, &["ps", "--all", "--format", "{{.Names}} {{.Status}}"]).split(' ').next(), Some("one"));
    assert_ne!(remote(n1, &["inspect", "--format", "{{.State.Status}}", "one"]), "running");
    remote(n1, &["start", "one"]);
    assert_eq!(remote(n1, &["exec", "one", "echo", "again"]), "again");

    drop(machine);
    traces.assert_none();
}
