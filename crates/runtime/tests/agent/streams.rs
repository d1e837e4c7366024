//! What goes in and comes out, and that none of it is gathered without bound.

use bytes::Bytes;
use runtime::agent::{ExecEvent, ExitStatus, OutputStream, TerminalSize};

use crate::support::{GENERATION, Podman, argv, sh, text, wait_until};

#[test]
fn streams_are_apart_and_limits_cut_them() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let sandbox = podman.sandbox(&image).active();

    let outcome = sandbox.run(sh("echo out; echo err >&2; printf 'a\\0\\377b'"));
    assert_eq!((&outcome.stdout[..], &outcome.stderr[..]), (&b"out\na\0\xffb"[..], &b"err\n"[..]));
    assert!(!outcome.stdout_truncated && !outcome.stderr_truncated);

    let cut = sandbox.wait(sandbox.agent.run(GENERATION, sh("seq 100000; echo err >&2"), None, 10)).unwrap();
    assert_eq!((text(&cut.stdout), text(&cut.stderr)), ("1\n2\n3\n4\n5\n".into(), "err\n".into()));
    assert_eq!((cut.stdout_truncated, cut.stderr_truncated, cut.exit.stdout_total), (true, false, 588_895));

    // Nothing to read: /dev/null.
    assert_eq!(text(&sandbox.run(sh("cat; echo end")).stdout), "end\n");
}

#[test]
fn input_reaches_the_command_whole_and_nobody_hangs_on_it() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let sandbox = podman.sandbox(&image).active();
    let input: Bytes = (0..5_000_000u32).flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>().into();

    let run = |request, limit| sandbox.wait(sandbox.agent.run(GENERATION, request, Some(input.clone()), limit));
    let outcome = run(argv(&["cat"]), u64::MAX).unwrap();
    assert_eq!(outcome.exit.status, ExitStatus::Code(0));
    assert!(outcome.stdout == input, "{} bytes came back of {}", outcome.stdout.len(), input.len());

    // A command that reads none of it ends all the same.
    assert_eq!(run(argv(&["true"]), 100).unwrap().exit.status, ExitStatus::Code(0));
    assert_eq!(text(&run(sh("head -c 4 | wc -c; exec 0<&-; sleep 0.1; echo end"), 100).unwrap().stdout), "4\nend\n");

    // One that never reads can still be signalled, behind all that input.
    let mut request = argv(&["sleep", "1000"]);
    request.stdin = true;
    sandbox.wait(async {
        let (stdin, mut output) = sandbox.agent.exec(GENERATION, request).await.unwrap().split();
        let feeder = stdin.clone();
        let feeding = tokio::spawn(async move { feeder.send_stdin(input).await });
        assert!(matches!(output.next().await.unwrap(), Some(ExecEvent::Started { .. })));
        // It takes what the pipe takes and the window allows, and then stands.
        let stuck = tokio::time::timeout(std::time::Duration::from_millis(300), output.next());
        let _ = stuck.await;
        assert!(!feeding.is_finished());
        stdin.signal(15).await.unwrap();
        let exit = loop {
            if let Some(ExecEvent::Exited(exit)) = output.next().await.unwrap() {
                break exit;
            }
        };
        assert_eq!(exit.status, ExitStatus::Signal(15));
        feeding.await.unwrap().unwrap();
    });
}

/// Resident kilobytes of the processes of the sandbox that are the agent's, but for PID 1.
fn supervisors_kb(first: i32) -> Vec<u64> {
    let agent = std::fs::metadata(format!("/proc/{first}/exe")).map(|m| std::os::unix::fs::MetadataExt::ino(&m));
    let Ok(agent) = agent else { return Vec::new() };
    let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap();
    children
        .split_whitespace()
        .filter(|pid| {
            std::fs::metadata(format!("/proc/{pid}/exe"))
                .is_ok_and(|m| std::os::unix::fs::MetadataExt::ino(&m) == agent)
        })
        .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok())
        .filter_map(|status| {
            let line = status.lines().find(|line| line.starts_with("VmHWM:"))?.to_owned();
            line.split_whitespace().nth(1)?.parse().ok()
        })
        .collect()
}

#[test]
fn a_hundred_megabytes_pass_through_bounded_memory() {
    const TOTAL: u64 = 100 << 20;
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let sandbox = podman.sandbox(&image).active();
    sandbox.wait(async {
        let script = "dd if=/dev/zero bs=65536 count=1600 2>/dev/null; echo done >&2; sleep 1000";
        let mut stream = sandbox.agent.exec(GENERATION, sh(script)).await.unwrap();
        let (mut out, mut err, mut highest) = (0, 0, 0);
        while err == 0 || out < TOTAL {
            match stream.next().await.unwrap().unwrap() {
                ExecEvent::Output { stream: OutputStream::Stdout, offset, data } => {
                    assert_eq!(offset, out);
                    out += data.len() as u64;
                    if out == 65536 {
                        // A reader that does not read: the writer stands still, and nothing is gathered meanwhile.
                        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                    }
                    highest = highest.max(supervisors_kb(sandbox.pid()).into_iter().max().unwrap_or(0));
                }
                ExecEvent::Output { stream: OutputStream::Stderr, data, .. } => err += data.len(),
                ExecEvent::Started { .. } => {}
                ExecEvent::Exited(exit) => panic!("{exit:?}"),
            }
        }
        assert_eq!(out, TOTAL);
        assert!((1..6_000).contains(&highest), "the supervisor took {highest} kB");
    });
    wait_until("the dropped command is dead", || sandbox.others().is_empty());
}

#[test]
fn a_terminal_has_a_size_that_changes() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let sandbox = podman.sandbox(&image).active();
    sandbox.wait(async {
        let mut request = sh("tty; stty size; read line; stty size; echo got $line; cat; echo end; stat -c %u $(tty)");
        request.stdin = true;
        request.terminal = Some(TerminalSize { cols: 100, rows: 30 });
        let (input, mut output) = sandbox.agent.exec(GENERATION, request).await.unwrap().split();
        let mut seen = Vec::new();
        let mut step = 0;
        let exit = loop {
            match output.next().await.unwrap().unwrap() {
                ExecEvent::Output { stream: OutputStream::Stdout, data, .. } => seen.extend_from_slice(&data),
                ExecEvent::Exited(exit) => break exit,
                _ => {}
            }
            let told = text(&seen);
            if step == 0 && told.contains("30 100") {
                input.resize(TerminalSize { cols: 120, rows: 40 }).await.unwrap();
                input.send_stdin(Bytes::from_static(b"hello\n")).await.unwrap();
                step = 1;
            } else if step == 1 && told.contains("got hello") {
                input.close_stdin().await.unwrap();
                step = 2;
            }
        };
        let told = text(&seen).replace('\r', "");
        assert_eq!(exit.status, ExitStatus::Code(0), "{told}");
        assert_eq!(told, "/dev/pts/0\n30 100\nhello\n40 120\ngot hello\nend\n1000\n");
    });
}
