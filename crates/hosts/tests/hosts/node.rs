//! One real node on a host, asked from outside.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hosts::{Host, Machine, Process};

use crate::traces::Traces;
use crate::wait::{fresh_name, until};

const KEY: &str = "a-key-of-a-test";
const PORT: u16 = 7700;

/// As the environment says, else as they are built.
fn binary(variable: &str, built: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(workspace.join("target"), |path| workspace.join(path));
    let path = std::env::var_os(variable).map_or(target.join(built), PathBuf::from);
    assert!(path.exists(), "{} is not there: run `cargo xtask build`", path.display());
    path
}

fn start(host: &Host) -> Process {
    let mut command = Command::new(binary("WARREN_BIN", "debug/warren"));
    command.arg("node").arg("--data-dir").arg(host.directory().join("data")).args(["--run-dir", "/run/warren"]);
    command.arg("--listen").arg(format!("{}:{PORT}", host.address())).arg("--agent");
    command.arg(binary("WARREN_AGENT", "agent/x86_64-unknown-linux-gnu/agent/warren-agent"));
    command.args(["--pool-size", "1", "--default-image", "localhost/warren/busybox:latest"]);
    let log = std::fs::File::options().create(true).append(true).open(host.directory().join("log")).unwrap();
    command.env("WARREN_API_KEY", KEY).env("NO_COLOR", "1").stdout(log.try_clone().unwrap()).stderr(log);
    let mut node = host.spawn(&mut command).unwrap();
    let begun = Instant::now();
    until("a healthy node", || {
        if let Some(status) = node.try_wait().unwrap() {
            panic!("it ended with {status}: {}", std::fs::read_to_string(host.directory().join("log")).unwrap());
        }
        ask(host, "GET", "/health", "").and_then(
            |(status, body)| {
                if status == 200 { Ok(()) } else { Err(io::Error::other(body)) }
            },
        )
    });
    println!("  (healthy after {:.2} s)", begun.elapsed().as_secs_f64());
    node
}

/// One request from outside: the answer's status and body.
fn ask(host: &Host, method: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
    let address = SocketAddr::from((host.address(), PORT));
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let length = body.len();
    write!(
        stream,
        "{method} /api/v1{path} HTTP/1.0\r\nHost: {address}\r\nX-API-Key: {KEY}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, body.to_owned()))
}

fn create(host: &Host) -> String {
    let (status, body) = ask(host, "POST", "/sandboxes", r#"{"timeout": 600}"#).unwrap();
    assert_eq!(status, 201, "{body}");
    let (_, rest) = body.split_once("\"id\":\"").expect("an id");
    rest.split('"').next().unwrap().to_owned()
}

fn exec(host: &Host, id: &str) -> (u16, String) {
    ask(host, "POST", &format!("/sandboxes/{id}/exec"), r#"{"cmd": ["echo", "from within"]}"#).unwrap()
}

#[test]
fn a_node_on_a_host_serves_the_machine_and_comes_back_with_its_power() {
    let name = fresh_name();
    let mut traces = Traces::of(&name);
    let machine = Machine::new(&name).unwrap();
    let host = machine.add_host("n1").unwrap();
    let node = start(&host);
    traces.note(&host, &node);
    let id = create(&host);
    let (status, body) = exec(&host, &id);
    assert!(status == 200 && body.contains("from within\\n"), "{status} {body}");

    let processes = host.processes();
    host.kill_power().unwrap();
    assert!(processes.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()), "{processes:?}");
    host.power_on().unwrap();
    let mut node = start(&host);
    // What it promised is still known.
    let (status, body) = ask(&host, "GET", &format!("/sandboxes/{id}"), "").unwrap();
    println!("  (after the power came back: {body})");
    assert_eq!(status, 200, "{body}");
    let (status, body) = exec(&host, &create(&host));
    assert!(status == 200 && body.contains("from within\\n"), "{status} {body}");
    assert!(node.try_wait().unwrap().is_none());
    drop(machine);
    traces.assert_none();
}
