//! A sandbox that may be placed again lives by the node's lease, whatever becomes of the node.

use std::time::{Duration, Instant};

use runtime::agent::{AgentError, ExecEvent, ExecRequest, RefusalCode};
use serde_json::json;

use crate::support::{GENERATION, Podman, Sandbox, agent_binary, argv, boottime_ms, sh, text, wait_until};

/// Longer than any test: a lease that holds.
const FAR_MS: u64 = 3_600_000;

impl Podman {
    /// The lease holds for so long from now on.
    fn lease_for(&self, ms: u64) {
        self.lease.set(boottime_ms() + ms);
    }
}

fn refused<T>(result: Result<T, AgentError>) -> Option<RefusalCode> {
    result.err().and_then(|error| error.refusal_code())
}

fn detached(script: &str) -> ExecRequest {
    ExecRequest { detach: true, ..sh(script) }
}

#[test]
fn at_its_end_processes_die_and_calls_are_refused_until_it_is_back() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    podman.lease_for(FAR_MS);
    let sandbox = podman.sandbox(&image).leased();
    let neighbour = podman.sandbox(&image).active();
    for each in [&sandbox, &neighbour] {
        each.run(detached("trap '' TERM HUP; setsid sleep 1000 & sleep 1000 &"));
        wait_until("they sleep", || each.others() == ["sleep", "sleep"]);
    }
    let status = sandbox.wait(sandbox.agent.hello()).unwrap();
    assert!(status.identity.unwrap().leased);
    assert_eq!(status.lease, Default::default());

    // It runs out by itself: nobody says a word to the agent.
    podman.lease_for(300);
    wait_until("all that ran is dead", || sandbox.others().is_empty());
    sandbox.wait(async {
        let agent = &sandbox.agent;
        let lease = agent.hello().await.unwrap().lease;
        assert!(lease.expired);
        assert_eq!(lease.lapses, 1);
        assert!(lease.last_lapse_boottime_ms.is_some_and(|at| at >= podman.lease.expires_boottime_ms()));

        assert_eq!(refused(agent.run(GENERATION, argv(&["true"]), None, 1).await), Some(RefusalCode::LeaseExpired));
        assert_eq!(refused(agent.stat(GENERATION, b"/", false).await), Some(RefusalCode::LeaseExpired));
        assert_eq!(refused(agent.list(GENERATION, b"/").await), Some(RefusalCode::LeaseExpired));
        assert_eq!(refused(agent.mkdir(GENERATION, b"/tmp/d", None).await), Some(RefusalCode::LeaseExpired));
        assert_eq!(refused(agent.remove(GENERATION, b"/tmp/d").await), Some(RefusalCode::LeaseExpired));
        let (other, stale) = (GENERATION - 1, Some(RefusalCode::StaleGeneration));
        assert_eq!(refused(agent.stat(other, b"/", false).await), stale, "the older generation is told what it is");
        // What concerns the agent itself goes on.
        agent.reserve(&Sandbox::leased_identity()).await.unwrap();
        agent.activate(&Sandbox::leased_identity(), Default::default()).await.unwrap();
    });
    assert_eq!(neighbour.others(), ["sleep", "sleep"], "it does not live by the lease");
    assert_eq!(neighbour.sh("echo alive"), "alive\n");

    // The node has it again: the files are there, the processes are not.
    podman.lease_for(FAR_MS);
    sandbox.until_back();
    assert_eq!(sandbox.sh("echo back; sleep 1000 & echo $!").lines().next(), Some("back"));
    let lease = sandbox.wait(sandbox.agent.hello()).unwrap().lease;
    assert!(!lease.expired);
    assert_eq!(lease.lapses, 1);

    // Given up before its time.
    sandbox.run(detached("sleep 1000 &"));
    podman.lease.set(0);
    wait_until("dead again", || sandbox.others().is_empty());
    assert_eq!(sandbox.wait(sandbox.agent.hello()).unwrap().lease.lapses, 2);
}

#[test]
fn a_command_under_way_ends_with_the_reason_and_no_exit_status() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    podman.lease_for(FAR_MS);
    let sandbox = podman.sandbox(&image).leased();
    sandbox.wait(async {
        let mut tty = sh("echo before; sleep 1000");
        tty.terminal = Some(runtime::agent::TerminalSize { cols: 80, rows: 24 });
        let mut with_deadline = sh("echo before; sleep 1000");
        with_deadline.deadline = Some(Duration::from_secs(1000));
        let mut streams = Vec::new();
        for request in [sh("echo before; sleep 1000"), tty, with_deadline] {
            let mut stream = sandbox.agent.exec(GENERATION, request).await.unwrap();
            while !matches!(stream.next().await.unwrap().unwrap(), ExecEvent::Output { .. }) {}
            streams.push(stream);
        }
        podman.lease_for(200);
        for mut stream in streams {
            let error = stream.next().await.unwrap_err();
            assert!(matches!(error, AgentError::LeaseLapsed), "{error:?}");
            assert!(!error.surely_not_done());
        }
    });
    wait_until("all are dead", || sandbox.others().is_empty());
}

#[test]
fn without_a_lease_nothing_begins_and_a_late_one_is_taken() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    // Nobody has set it yet.
    let sandbox = podman.sandbox(&image).leased();
    assert_eq!(refused(sandbox.try_run(sh("touch /tmp/ran"))), Some(RefusalCode::LeaseExpired));
    let lease = sandbox.wait(sandbox.agent.hello()).unwrap().lease;
    assert!(lease.expired);
    assert_eq!(lease.lapses, 0, "nothing ran that could have been ended");
    podman.lease_for(FAR_MS);
    sandbox.until_back();
    assert_eq!(sandbox.sh("ls /tmp"), "");
}

#[test]
fn user_code_can_read_it_and_nothing_else() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    podman.lease_for(FAR_MS);
    let sandbox = podman.sandbox(&image).leased();
    assert_eq!(sandbox.sh("head -c 8 /run/warren-lease"), "WRNLEAS1");
    let held = podman.lease.expires_boottime_ms();
    for user in ["sandbox", "root"] {
        for attack in [
            "echo x > /run/warren-lease",
            "echo x >> /run/warren-lease",
            "truncate -s 0 /run/warren-lease",
            "chmod 666 /run/warren-lease",
            "rm -f /run/warren-lease",
            "mv /run/warren-lease /run/elsewhere",
            "echo x > /tmp/other && mv /tmp/other /run/warren-lease",
            "umount /run/warren-lease",
            "mount -o remount,rw,bind /run/warren-lease",
            "mount --bind /tmp /run",
            "ln -f /run/warren-lease /tmp/link",
        ] {
            let mut request = sh(attack);
            request.user = Some(user.to_owned());
            let outcome = sandbox.run(request);
            assert_ne!(outcome.exit.status.shell_code(), 0, "{user}: {attack}: {}", text(&outcome.stdout));
        }
    }
    assert_eq!(podman.lease.expires_boottime_ms(), held);
    sandbox.run(detached("sleep 1000 &"));
    podman.lease.set(0);
    wait_until("its end is seen all the same", || sandbox.others().is_empty());
}

#[test]
fn a_file_that_is_missing_or_not_the_hosts_is_no_lease() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    podman.lease_for(FAR_MS);
    let forged = std::fs::read(podman.lease.path()).unwrap();
    let bind = |source: &std::path::Path, inside: &str, mode: &str| json!({"type": "bind", "source": source, "destination": inside, "options": [mode, "bind", "nosuid", "nodev"]});
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let mut no_magic = forged.clone();
    no_magic[7] = b'2';
    let (short, other) = (file("short", &forged[..16]), file("other", &no_magic));
    let mounts = |socket_dir: &std::path::Path| {
        json!([bind(&agent_binary(), "/.warren-agent", "ro"), bind(socket_dir, "/run/warren", "rw")])
    };
    for case in [None, Some(&short), Some(&other)] {
        let sandbox = podman.sandbox_with_mounts(&image, |socket_dir| {
            let mut mounts = mounts(socket_dir);
            mounts.as_array_mut().unwrap().extend(case.map(|path| bind(path, "/run/warren-lease", "ro")));
            mounts
        });
        let mut sandbox = sandbox.leased();
        assert_eq!(refused(sandbox.try_run(argv(&["true"]))), Some(RefusalCode::LeaseExpired), "{case:?}");
        if case.is_none() {
            // As if user code had left it there before a restart.
            std::fs::write(sandbox.root("/run/warren-lease"), &forged).unwrap();
            sandbox.restart();
            let sandbox = sandbox.leased();
            assert_eq!(refused(sandbox.try_run(argv(&["true"]))), Some(RefusalCode::LeaseExpired));
        }
    }
}

#[test]
fn frozen_over_its_end_the_first_thing_it_does_is_to_refuse() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    podman.lease_for(FAR_MS);
    let sandbox = podman.sandbox(&image).leased();
    sandbox.run(detached("while read now idle < /proc/uptime; do echo $now; done >> /tmp/last &"));
    wait_until("it runs", || sandbox.root("/tmp/last").exists());
    podman.lease_for(300);
    sandbox.freeze(true);
    wait_until("the lease is over", || podman.lease.expires_boottime_ms() < boottime_ms());
    let thawed = sandbox.wait(async {
        let call = sandbox.agent.run(GENERATION, sh("touch /tmp/ran"), None, 1);
        tokio::pin!(call);
        // It is sent, and waits in the socket.
        tokio::select! {
            biased;
            answer = &mut call => panic!("a frozen agent answered: {answer:?}"),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        let thawed = boottime_ms();
        sandbox.freeze(false);
        assert_eq!(refused(call.await), Some(RefusalCode::LeaseExpired));
        thawed
    });
    wait_until("all are dead", || sandbox.others().is_empty());
    assert!(!sandbox.root("/tmp/ran").exists());
    let signs = std::fs::read_to_string(sandbox.root("/tmp/last")).unwrap();
    let last = signs.trim().lines().rev().nth(1).unwrap();
    eprintln!("frozen over the end: thawed at {thawed} ms, last sign of user code at {last} s");
}

#[test]
fn a_call_costs_no_more_for_the_lease() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    podman.lease_for(FAR_MS);
    let (leased, free) = (podman.sandbox(&image).leased(), podman.sandbox(&image).active());
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..400 {
        for (sandbox, times) in [&leased, &free].into_iter().zip(&mut times) {
            sandbox.wait(async {
                let began = Instant::now();
                sandbox.agent.run(GENERATION, argv(&["true"]), None, 1).await.unwrap();
                times.push(began.elapsed());
            });
        }
    }
    let [leased, free] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    eprintln!("median of an exec: {leased:?} leased, {free:?} not");
}

#[test]
fn roots_of_the_sandbox_that_stop_the_warden_end_all_the_same() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    for signal in ["STOP", "KILL"] {
        podman.lease_for(FAR_MS);
        let sandbox = podman.sandbox(&image).leased();
        let script = format!(
            "echo agent:x:65000:65000::/:/bin/sh >> /etc/passwd; su agent -c 'kill -{signal} $(pidof warren-lease)' && echo done"
        );
        let outcome = sandbox.run(ExecRequest { user: Some("root".into()), ..sh(&script) });
        assert_eq!(text(&outcome.stdout), "done\n", "{}", text(&outcome.stderr));
        sandbox.run(detached("trap '' TERM; sleep 1000 &"));
        podman.lease_for(100);
        wait_until("all that ran is dead", || sandbox.others().is_empty());
        podman.lease_for(FAR_MS);
        sandbox.until_back();
        assert_eq!(sandbox.sh("echo alive"), "alive\n");
    }
}
