//! Who answers, who may call, and what PID 1 lives through.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use runtime::agent::{AgentAddress, AgentClient, AgentError, AgentStage, ExitStatus};

use crate::support::{Podman, sh, text, wait_until};

fn hello(sandbox: &crate::support::Sandbox<'_>, agent: &AgentClient) -> Result<AgentStage, AgentError> {
    sandbox.wait(agent.hello()).map(|status| status.stage)
}

#[test]
fn only_the_agent_is_spoken_to() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let sandbox = podman.sandbox(&image).active();
    let socket = sandbox.socket_dir().join("sock");
    let aside = sandbox.socket_dir().join("aside");
    fs::rename(&socket, &aside).unwrap();

    assert!(matches!(hello(&sandbox, &sandbox.agent), Err(AgentError::Unreachable(_))));
    // A link to Podman's own socket, put there by the sandbox's root. A plain connect follows it.
    fs::rename(&aside, &socket).unwrap();
    let podmans = podman.socket();
    let mut plant = sh(&format!("cd /run/warren && mv sock aside && ln -s {} sock", podmans.display()));
    plant.user = Some("root".into());
    assert_eq!(sandbox.run(plant).exit.status, ExitStatus::Code(0));
    assert!(fs::symlink_metadata(&socket).unwrap().is_symlink(), "the link is in place");
    assert!(UnixStream::connect(&socket).is_ok(), "it leads to Podman");
    assert!(matches!(hello(&sandbox, &sandbox.agent), Err(AgentError::NotOurs(_))));

    // A link to the agent itself is a link all the same.
    fs::remove_file(&socket).unwrap();
    symlink("aside", &socket).unwrap();
    assert!(matches!(hello(&sandbox, &sandbox.agent), Err(AgentError::NotOurs(_))));
    // A file, a directory.
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "").unwrap();
    assert!(matches!(hello(&sandbox, &sandbox.agent), Err(AgentError::NotOurs(_))));
    fs::remove_file(&socket).unwrap();
    fs::create_dir(&socket).unwrap();
    assert!(matches!(hello(&sandbox, &sandbox.agent), Err(AgentError::NotOurs(_))));
    fs::remove_dir(&socket).unwrap();
    // Another listener.
    let impostor = UnixListener::bind(&socket).unwrap();
    assert!(matches!(hello(&sandbox, &sandbox.agent), Err(AgentError::NotOurs(_))));
    drop(impostor);
    assert!(matches!(hello(&sandbox, &sandbox.agent), Err(AgentError::Unreachable(_))), "nobody listens");
    fs::remove_file(&socket).unwrap();
    // The directory is a link.
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(sandbox.socket_dir(), elsewhere.path().join("dir")).unwrap();
    let through_link = AgentAddress { socket_dir: elsewhere.path().join("dir"), pid: sandbox.pid() };
    assert!(matches!(hello(&sandbox, &AgentClient::new(through_link)), Err(AgentError::NotOurs(_))));

    fs::rename(&aside, &socket).unwrap();
    assert_eq!(hello(&sandbox, &sandbox.agent).unwrap(), AgentStage::Active);
    // The agent of another sandbox is not ours either.
    let neighbour = podman.sandbox(&image);
    let crossed = AgentAddress { socket_dir: neighbour.socket_dir().into(), pid: sandbox.pid() };
    assert!(matches!(hello(&sandbox, &AgentClient::new(crossed)), Err(AgentError::NotOurs(_))));
}

/// Names the socket to `a_caller`.
const CALLED_SOCKET: &str = "WARREN_TEST_CALLED_SOCKET";

#[test]
#[ignore = "a part of another test, which runs it in a namespace"]
fn a_caller() {
    let Some(socket) = std::env::var_os(CALLED_SOCKET) else { return };
    let mut stream = UnixStream::connect(socket).unwrap();
    // An empty frame is refused in words; who is not listened to hears nothing at all.
    let sent = stream.write_all(&[0; 4]);
    let mut answer = Vec::new();
    let heard = sent.and_then(|()| stream.read_to_end(&mut answer));
    println!("answered: {}", heard.is_ok() && !answer.is_empty());
}

#[test]
fn the_agent_lives_through_rubbish_floods_and_callers_from_inside() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let sandbox = podman.sandbox(&image).active();
    let socket = sandbox.socket_dir().join("sock");
    let connect = || UnixStream::connect(&socket).unwrap();

    // What is no frame is told so, and the connection ends.
    for rubbish in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[0, 0, 0, 2, 0xff, 0xff], &[0, 0, 0, 0]] {
        let mut stream = connect();
        stream.write_all(rubbish).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(!answer.is_empty(), "{rubbish:?}");
    }
    // Callers who say nothing, or half a frame, many more than are kept: the oldest are closed, others are served.
    let silent: Vec<_> = (0..300)
        .map(|n| {
            let mut stream = connect();
            if n % 2 == 0 {
                stream.write_all(&[0, 0, 1]).unwrap();
            }
            assert_eq!(hello(&sandbox, &sandbox.agent).unwrap(), AgentStage::Active, "after {n}");
            stream
        })
        .collect();
    drop(silent);

    // A caller that has a pid in the sandbox reaches the socket, and is not listened to; without one it is.
    let target = format!("--target={}", sandbox.pid());
    for (namespace, answered) in [("--uts", true), ("--pid", false)] {
        let output = Command::new("nsenter")
            .args([&target, namespace, "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "socket::a_caller", "--ignored", "--nocapture"])
            .env(CALLED_SOCKET, &socket)
            .output()
            .unwrap();
        let told = text(&output.stdout);
        assert!(output.status.success() && told.contains(&format!("answered: {answered}")), "{namespace}: {told}");
    }
    assert_eq!(sandbox.sh("echo alive"), "alive\n");
    // Nothing of the agent's is left open or unreaped.
    wait_until("nothing is left", || sandbox.others().is_empty());
    let open = fs::read_dir(format!("/proc/{}/fd", sandbox.pid())).unwrap().count();
    assert!(open < 12, "{open} descriptors");
}

#[test]
fn no_descriptor_left_is_no_end() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let few = serde_json::json!([
        {"type": "nofile", "soft": 14, "hard": 14},
        {"type": "nproc", "soft": 4096, "hard": 4096},
    ]);
    let sandbox = podman.sandbox_with(&image, serde_json::json!({"r_limits": few})).active();
    let socket = sandbox.socket_dir().join("sock");
    let silent: Vec<_> = (0..60).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    // It may be turned away while callers fill the table, but not for ever.
    wait_until("the agent answers", || hello(&sandbox, &sandbox.agent).is_ok());
    drop(silent);
    wait_until("the agent answers", || hello(&sandbox, &sandbox.agent).is_ok());
    assert_eq!(sandbox.sh("echo alive"), "alive\n");
}

#[test]
fn a_stop_is_prompt_and_a_start_makes_a_bare_agent() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let mut sandbox = podman.sandbox(&image).active();
    sandbox.sh("echo kept > /tmp/kept");
    // Not from inside, not even from the sandbox's root.
    let mut request = sh("kill -TERM 1; kill -INT 1; echo done");
    request.user = Some("root".into());
    sandbox.run(request);
    assert_eq!(hello(&sandbox, &sandbox.agent).unwrap(), AgentStage::Active);

    let before = sandbox.pid();
    sandbox.restart();
    // Killed after its time it would say 137.
    assert_ne!(sandbox.pid(), before);
    assert_eq!(hello(&sandbox, &sandbox.agent).unwrap(), AgentStage::Bare);
    let sandbox = sandbox.active();
    assert_eq!(sandbox.sh("cat /tmp/kept"), "kept\n");
    sandbox.stop();
    assert_eq!(sandbox.inspect()["State"]["ExitCode"], 0);
}

#[test]
fn root_that_becomes_the_agents_uid_neither_ends_it_nor_speaks_for_it() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let sandbox = podman.sandbox(&image).active();
    let as_agent = |script: &str| {
        let user = "agent:x:65000:65000::/:/bin/sh";
        let mut request =
            sh(&format!("grep -q agent /etc/passwd || echo {user} >> /etc/passwd; su agent -c '{script}'"));
        request.user = Some("root".into());
        sandbox.try_run(request)
    };
    assert_eq!(
        text(&as_agent("id -u; kill -TERM 1; kill -STOP 1; kill -KILL 1; echo done").unwrap().stdout),
        "65000\ndone\n"
    );
    let outcome = as_agent("cat /proc/1/environ || cat /proc/1/maps || ls /proc/1/fd").unwrap();
    assert_ne!(outcome.exit.status, ExitStatus::Code(0), "{}", text(&outcome.stdout));
    // Its own supervisor it can kill. Then nobody knows how the command ended, and that is what is said.
    let outcome = as_agent("kill -KILL $PPID $(cut -d\" \" -f4 /proc/$PPID/stat); sleep 1000");
    assert!(matches!(outcome, Err(AgentError::Interrupted)), "{outcome:?}");
    assert_eq!(hello(&sandbox, &sandbox.agent).unwrap(), AgentStage::Active);
    assert_eq!(sandbox.sh("echo alive"), "alive\n");
}
