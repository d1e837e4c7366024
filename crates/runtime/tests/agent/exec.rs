//! Commands: who they are, where they start, how they end.

use proto::agent_limits::PROTOCOL_VERSION;
use runtime::agent::{Activation, AgentStage, ExitStatus, Identity, RefusalCode};

use crate::support::{GENERATION, Podman, Sandbox, argv, sh, text};

/// Lines of /proc/self/status that tell what a process may do.
fn rights(status: &str) -> Vec<String> {
    let told = ["Uid", "Gid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "SigIgn", "SigBlk"];
    status
        .lines()
        .filter_map(|line| line.split_once(":\t"))
        .filter(|(name, _)| told.contains(name))
        .map(|(name, value)| format!("{name} {}", value.replace('\t', " ")))
        .collect()
}

#[test]
fn the_user_has_no_right_and_root_only_the_named_ones() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let sandbox = podman.sandbox(&image).active();

    let none = "0000000000000000";
    let signals = [format!("SigBlk {none}"), format!("SigIgn {none}")];
    let sets = |prm: &str| {
        let sets = [("CapInh", none), ("CapPrm", prm), ("CapEff", prm), ("CapBnd", prm), ("CapAmb", none)];
        sets.map(|(name, value)| format!("{name} {value}")).to_vec()
    };
    let expected = |id: u32, caps: &str| {
        let ids = format!("{id} {id} {id} {id}");
        [vec![format!("Uid {ids}"), format!("Gid {ids}")], signals.to_vec(), sets(caps), vec!["NoNewPrivs 1".into()]]
            .concat()
    };

    let user = sandbox.run(argv(&["cat", "/proc/self/status"]));
    assert_eq!(rights(&text(&user.stdout)), expected(1000, none));
    let mut request = argv(&["cat", "/proc/self/status"]);
    request.user = Some("root".into());
    let root = sandbox.run(request);
    assert_eq!(rights(&text(&root.stdout)), expected(0, "00000000800000db"));

    // And no way to the agent.
    for target in ["1", "$PPID"] {
        let attack = format!("kill -9 {target} 2>&1 || kill -STOP {target} 2>&1 || cat /proc/{target}/environ 2>&1");
        let outcome = sandbox.run(sh(&attack));
        assert_eq!(outcome.exit.status, ExitStatus::Code(1), "{}", text(&outcome.stdout));
        assert_eq!(text(&outcome.stdout).matches("not permitted").count(), 2, "{}", text(&outcome.stdout));
        assert!(text(&outcome.stdout).contains("denied"), "{}", text(&outcome.stdout));
    }
    let mut request = sh("ls /run/warren");
    request.user = Some("other".into());
    assert_eq!(sandbox.run(request).exit.status, ExitStatus::Code(1), "the socket is not the user's to see");
}

#[test]
fn user_environment_directory_and_home() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let pairs =
        |env: &[(&str, &str)]| env.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())).collect();
    let sandbox = podman.sandbox(&image).activate(Activation {
        env: pairs(&[("A", "1"), ("B", "2")]),
        workdir: Some("/tmp".into()),
        image_user: Some("root".into()),
        ..Activation::default()
    });

    // Root of the image becomes the user; the home that the image lacks is there and is the user's.
    let told = sandbox.sh("id -u; id -G; pwd; echo $A $B $HOME $USER; touch ~/x && stat -c %u:%g ~ /home ~/x");
    assert_eq!(told, "1000\n1000 2000\n/tmp\n1 2 /home/sandbox sandbox\n1000:1000\n0:0\n1000:1000\n");

    let mut request = sh("id -un; pwd; echo \"$A $B $C $HOME $PATH\"");
    request.user = Some("other:extra".into());
    request.workdir = Some("/etc".into());
    request.env = pairs(&[("B", "3"), ("C", "x y\n'\""), ("PATH", "/bin")]);
    assert_eq!(text(&sandbox.run(request).stdout), "other\n/etc\n1 3 x y\n'\" /tmp /bin\n");

    for (user, code, field) in [
        ("root", RefusalCode::Forbidden, "user"),
        ("0", RefusalCode::Forbidden, "user"),
        ("65000", RefusalCode::Invalid, "user"),
        ("4294967295", RefusalCode::Invalid, "user"),
        ("nobody-here", RefusalCode::Invalid, "user"),
    ] {
        let mut request = argv(&["id"]);
        request.user = Some(user.into());
        assert_refused(sandbox.try_run(request), code, field);
    }
    for workdir in ["/missing", "/etc/passwd", "/root/../etc/missing", "relative"] {
        let mut request = argv(&["id"]);
        request.workdir = Some(workdir.into());
        assert_refused(sandbox.try_run(request), RefusalCode::Invalid, "workdir");
    }
    assert_refused(sandbox.try_run(argv(&[])), RefusalCode::Invalid, "argv");
    let mut request = argv(&["id"]);
    request.env = pairs(&[("A=B", "x")]);
    assert_refused(sandbox.try_run(request), RefusalCode::Invalid, "env");
}

fn assert_refused<T: std::fmt::Debug>(
    result: Result<T, runtime::agent::AgentError>,
    expected: RefusalCode,
    in_field: &str,
) {
    match result {
        Err(runtime::agent::AgentError::Refused { code, field, .. }) => {
            assert_eq!((code, field.as_deref()), (expected, Some(in_field)));
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn exit_codes_are_waitpids_or_a_shells() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let sandbox = podman.sandbox(&image).active();
    for (script, status) in [
        ("exit 0", ExitStatus::Code(0)),
        ("exit 3", ExitStatus::Code(3)),
        ("exit 255", ExitStatus::Code(255)),
        ("kill -TERM $$", ExitStatus::Signal(15)),
        ("kill -SEGV $$", ExitStatus::Signal(11)),
        ("kill -9 $$", ExitStatus::Signal(9)),
    ] {
        let exit = sandbox.run(sh(script)).exit;
        assert_eq!((exit.status, exit.oom, exit.timed_out, exit.cancelled), (status, false, false, false), "{script}");
    }
    sandbox.sh("cd /tmp; printf 'echo $0 $1\\n' > script; printf '#!/missing\\n' > lost; cp script plain; chmod +x script lost");
    for (words, code, told) in [
        (&["/missing"][..], 127, "warren: /missing: not found\n"),
        (&["missing"], 127, "warren: missing: not found\n"),
        (&[""], 127, "warren: : not found\n"),
        (&["/etc/passwd/x"], 127, "warren: /etc/passwd/x: not found\n"),
        (&["/tmp/lost"], 127, "warren: /tmp/lost: not found\n"),
        (&["/tmp/plain"], 126, "warren: /tmp/plain: permission denied\n"),
        (&["/tmp"], 126, "warren: /tmp: permission denied\n"),
    ] {
        let outcome = sandbox.run(argv(words));
        assert_eq!((outcome.exit.status, text(&outcome.stderr).as_str()), (ExitStatus::Code(code), told), "{words:?}");
    }
    // A script without an interpreter line runs, as from a shell.
    assert_eq!(text(&sandbox.run(argv(&["/tmp/script", "x"])).stdout), "/tmp/script x\n");
}

#[test]
fn only_the_active_generation_is_served() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let sandbox = podman.sandbox(&image);
    let agent = sandbox.agent.clone();
    let identity = Sandbox::identity();
    sandbox.wait(async {
        let code = |result: Result<(), runtime::agent::AgentError>| result.unwrap_err().refusal_code().unwrap();
        let run = |generation| {
            let agent = agent.clone();
            async move { agent.run(generation, argv(&["true"]), None, 100).await.map(drop) }
        };

        let status = agent.hello().await.unwrap();
        assert_eq!(
            (status.stage, status.identity, status.protocol_version),
            (AgentStage::Bare, None, PROTOCOL_VERSION)
        );
        assert_eq!(code(run(GENERATION).await), RefusalCode::NotActive);
        assert_eq!(code(agent.activate(&identity, Activation::default()).await), RefusalCode::NotActive);

        agent.reserve(&identity).await.unwrap();
        agent.reserve(&identity).await.unwrap();
        assert_eq!(code(run(GENERATION).await), RefusalCode::NotActive);
        assert_eq!(code(agent.stat(GENERATION, b"/", false).await.map(drop)), RefusalCode::NotActive);
        let changed = |change: fn(&mut Identity)| {
            let mut identity = identity.clone();
            change(&mut identity);
            identity
        };
        for (other, expected) in [
            (changed(|i| i.generation -= 1), RefusalCode::StaleGeneration),
            (changed(|i| i.generation += 1), RefusalCode::Conflict),
            (changed(|i| i.sandbox_id = "b".into()), RefusalCode::Conflict),
            (changed(|i| i.spec_digest = b"b".to_vec()), RefusalCode::Conflict),
        ] {
            assert_eq!(code(agent.reserve(&other).await), expected, "{other:?}");
        }

        agent.activate(&identity, Activation::default()).await.unwrap();
        agent.activate(&identity, Activation::default()).await.unwrap();
        let status = agent.hello().await.unwrap();
        assert_eq!((status.stage, status.identity), (AgentStage::Active, Some(identity.clone())));
        run(GENERATION).await.unwrap();
        for other in [0, GENERATION - 1, GENERATION + 1] {
            assert_eq!(code(run(other).await), RefusalCode::StaleGeneration);
            assert_eq!(code(agent.remove(other, b"/tmp/x").await), RefusalCode::StaleGeneration);
        }
    });
}
