//! The end of a command is the end of all that it started.

use std::time::Duration;

use runtime::agent::{ExecEvent, ExecStream, Exit, ExitStatus};

use crate::support::{GENERATION, Podman, Sandbox, argv, sh, text, wait_until};

/// Double forks in sessions of their own, deaf to every signal that can be ignored, some of them stopped.
const STUBBORN: &str = "trap '' TERM INT HUP QUIT USR1 USR2 TSTP
    (setsid sh -c 'trap \"\" TERM INT HUP; sleep 1000 & sh -c \"kill -STOP \\$\\$\" & wait; sleep 1000' &)
    (setsid setsid sleep 1000 &)
    while [ $(ls /proc | grep -c '^[0-9]') -lt 7 ]; do :; done
    echo ready; while :; do sleep 1000; done";

async fn until_ready(stream: &mut ExecStream) {
    loop {
        if let ExecEvent::Output { data, .. } = stream.next().await.unwrap().unwrap() {
            assert_eq!(text(&data), "ready\n");
            return;
        }
    }
}

async fn until_exit(stream: &mut ExecStream) -> Exit {
    loop {
        if let ExecEvent::Exited(exit) = stream.next().await.unwrap().unwrap() {
            assert_eq!(stream.next().await.unwrap(), None);
            return exit;
        }
    }
}

fn nothing_is_left(sandbox: &Sandbox<'_>) {
    wait_until("nothing runs but the agent", || sandbox.others().is_empty());
    assert_eq!(sandbox.sh("echo alive"), "alive\n");
}

#[test]
fn deadline_cancel_kill_and_drop_leave_nothing() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let sandbox = podman.sandbox(&image).active();

    let mut request = sh(STUBBORN);
    request.deadline = Some(Duration::from_millis(1500));
    sandbox.wait(async {
        let mut stream = sandbox.agent.exec(GENERATION, request).await.unwrap();
        until_ready(&mut stream).await;
        // The count that `ready` waits for includes shells that are just about to become a `sleep`.
        wait_until("the stubborn ones sleep", || sandbox.others().iter().filter(|name| *name == "sleep").count() >= 2);
        let exit = until_exit(&mut stream).await;
        assert_eq!((exit.status, exit.timed_out, exit.cancelled), (ExitStatus::Signal(9), true, false));
        assert!(exit.duration >= Duration::from_millis(1500));
    });
    nothing_is_left(&sandbox);

    for (name, cancelled) in [("cancel", true), ("signal", false)] {
        sandbox.wait(async {
            let mut stream = sandbox.agent.exec(GENERATION, sh(STUBBORN)).await.unwrap();
            until_ready(&mut stream).await;
            match name {
                "cancel" => stream.input().cancel().await.unwrap(),
                _ => stream.input().signal(9).await.unwrap(),
            }
            let exit = until_exit(&mut stream).await;
            assert_eq!((exit.status, exit.timed_out, exit.cancelled), (ExitStatus::Signal(9), false, cancelled));
        });
        nothing_is_left(&sandbox);
    }

    sandbox.wait(async {
        let mut stream = sandbox.agent.exec(GENERATION, sh(STUBBORN)).await.unwrap();
        until_ready(&mut stream).await;
        // The client goes away.
    });
    nothing_is_left(&sandbox);

    // A client that goes away while output waits for it, which it never reads.
    sandbox.wait(async { drop(sandbox.agent.exec(GENERATION, sh("yes")).await.unwrap()) });
    nothing_is_left(&sandbox);
}

#[test]
fn what_is_left_running_is_killed_unless_it_was_asked_for() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let sandbox = podman.sandbox(&image).active();

    // The leftover holds the pipes: the answer does not wait for it.
    let outcome = sandbox.run(sh("(setsid sleep 1000 &); sleep 1000 & echo out"));
    assert_eq!((outcome.exit.status, text(&outcome.stdout).as_str()), (ExitStatus::Code(0), "out\n"));
    nothing_is_left(&sandbox);

    // For ever forking and exiting, so that no pid lives long.
    let bomb = "f() { (f &) ; exit; }; f & while [ $(ls /proc | grep -c '^[0-9]') -lt 4 ]; do :; done; echo out";
    let outcome = sandbox.run(sh(bomb));
    assert_eq!((outcome.exit.status, text(&outcome.stdout).as_str()), (ExitStatus::Code(0), "out\n"));
    nothing_is_left(&sandbox);

    let mut request = sh("(while :; do echo x; sleep 0.01; done &); echo out");
    request.detach = true;
    assert_eq!(sandbox.run(request).exit.status, ExitStatus::Code(0));
    let mut request = sh("setsid sleep 1000 & echo out");
    request.detach = true;
    assert_eq!(sandbox.run(request).exit.status, ExitStatus::Code(0));
    wait_until("the supervisor has left, the detached one has not", || sandbox.others() == ["sleep"]);
}

#[test]
fn a_lost_host_is_not_a_cancel() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let sandbox = podman.sandbox(&image).active();
    sandbox.wait(async {
        // More output than the socket and the pipe hold, and then a mark.
        let script = "echo ready; yes | head -c 3000000; echo mark > /tmp/mark; sleep 1000";
        let mut stream = sandbox.agent.exec(GENERATION, sh(script)).await.unwrap();
        until_started(&mut stream).await;
        stream.leave_running();
    });
    wait_until("the command went on", || sandbox.root("/tmp/mark").exists());
    // The shell becomes it, or starts it, a moment after the mark.
    wait_until("it sleeps", || sandbox.others().contains(&"sleep".to_owned()));

    // Its deadline holds all the same.
    let mut request = argv(&["sleep", "1001"]);
    request.deadline = Some(Duration::from_secs(3));
    let before = sandbox.others().len();
    sandbox.wait(async {
        let mut stream = sandbox.agent.exec(GENERATION, request).await.unwrap();
        until_started(&mut stream).await;
        stream.leave_running();
    });
    wait_until("the second one runs", || sandbox.others().len() > before);
    wait_until("the deadline", || sandbox.others().len() == before);
}

async fn until_started(stream: &mut ExecStream) {
    assert!(matches!(stream.next().await.unwrap(), Some(ExecEvent::Started { .. })));
}

#[test]
fn signals_reach_the_group() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let sandbox = podman.sandbox(&image).active();
    sandbox.wait(async {
        let script = "trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.01; done";
        let mut stream = sandbox.agent.exec(GENERATION, sh(script)).await.unwrap();
        until_ready(&mut stream).await;
        stream.input().signal(10).await.unwrap();
        let exit = until_exit(&mut stream).await;
        assert_eq!(exit.status, ExitStatus::Code(5));
    });
    nothing_is_left(&sandbox);
}
