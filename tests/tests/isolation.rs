//! What a sandbox's user is inside, and the limits as the kernel holds them.

use serde_json::json;
use tests::machine::cgroup_value;
use tests::{Cases, DEFAULT_IMAGE, Node, Options};

#[test]
fn a_sandbox_is_held() {
    let mut cases = Cases::of("isolation");
    let node = Node::start(Options { image: DEFAULT_IMAGE, ..Options::default() });
    node.settles();
    let api = node.api();
    let warm: Vec<String> = node.held().containers.into_keys().collect();
    let body = json!({ "memory": 100 << 20, "pids": 60, "cpu": 500_000_000, "env": { "TOKEN": "s3cr3t-of-the-test" } });
    let id = api.create(&body);
    assert_eq!(warm, std::slice::from_ref(&id), "the limits are to be those of a warm slot");
    inside(&mut cases, &node, &id);
    cases.case("the kernel holds the limits of a warm slot", || {
        let identity = node.identity();
        let container = &node.held().containers[&id].id;
        let value = |names: &[&str]| cgroup_value(&identity, container, names).unwrap_or_default();
        assert_eq!(value(&["memory.limit_in_bytes", "memory.max"]), (100 << 20).to_string());
        assert!(
            value(&["pids.max"]).parse::<u64>().is_ok_and(|pids| (60..70).contains(&pids)),
            "{}",
            value(&["pids.max"])
        );
        let cpu = (value(&["cpu.cfs_quota_us"]), value(&["cpu.cfs_period_us"]));
        assert!(cpu == ("50000".to_owned(), "100000".to_owned()) || value(&["cpu.max"]) == "50000 100000", "{cpu:?}");
        let swap = value(&["memory.memsw.limit_in_bytes", "memory.swap.max"]);
        assert!(swap == "0" || swap == (100 << 20).to_string() || swap.is_empty(), "swap is not counted: {swap}");
    });
    cases.case("out of memory ends the command, not the sandbox", || {
        let hog = "x = bytearray(400 << 20); print(len(x))";
        let answer = api.exec_with(&id, &json!({ "cmd": ["python3", "-c", hog] })).expect(200).json();
        assert_eq!((answer["exit_code"].clone(), answer["signal"].clone()), (json!(137), json!("SIGKILL")), "{answer}");
        assert_eq!(answer["oom"], true, "{answer}");
        assert_eq!(api.output(&id, &["echo", "on"]), "on");
        assert_eq!(api.status(&id), "running");
    });
    cases.case("at the limit of processes it still answers", || {
        let bomb = "import os, time\nfor _ in range(500):\n    try:\n        if os.fork() == 0: time.sleep(60)\n    except BlockingIOError:\n        print('full'); break";
        let answer = api.exec_with(&id, &json!({ "cmd": ["python3", "-c", bomb], "timeout": 20 })).expect(200).json();
        assert!(answer["stdout"].as_str().is_some_and(|out| out.contains("full")), "{answer}");
        assert_eq!(api.output(&id, &["echo", "on"]), "on");
    });
    cases.case("secrets are in no label, no configuration, no log", || {
        let container = &node.held().containers[&id].id;
        let inspected = tests::engine::podman_says(&["inspect", container]);
        assert!(inspected.contains(&id), "not the inspected container");
        assert!(!inspected.contains("s3cr3t-of-the-test"));
        assert!(!node.log().contains("s3cr3t-of-the-test"));
        let found =
            std::process::Command::new("grep").args(["-rl", "s3cr3t-of-the-test"]).arg(node.data_dir()).output();
        assert_eq!(String::from_utf8_lossy(&found.expect("grep runs").stdout), "");
        assert_eq!(api.variable(&id, "TOKEN"), "s3cr3t-of-the-test");
    });
    cases.finish();
}

fn inside(cases: &mut Cases, node: &Node, id: &str) {
    let api = node.api();
    let status = api.output(id, &["cat", "/proc/self/status"]);
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap_or_default();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for (name, value) in [
        ("CapInh", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Uid", "1000 1000 1000 1000"),
        ("Gid", "1000 1000 1000 1000"),
    ] {
        cases.case(&format!("{name} is {value}"), || assert_eq!(field(name), value));
    }
    cases.case("a user namespace with the one mapping", || {
        let map = api.output(id, &["cat", "/proc/self/uid_map"]);
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "1000000", "65536"]);
    });
    cases.case("no network but loopback", || {
        let ls = api.output(id, &["ls", "/sys/class/net"]);
        assert_eq!(ls, "lo");
    });
    cases.case("no namespaces of its own, no devices, no host files", || {
        for argv in [
            &["unshare", "--user", "true"][..],
            &["unshare", "--mount", "true"],
            &["mount", "-t", "tmpfs", "x", "/mnt"],
            &["mknod", "/tmp/null", "c", "1", "3"],
            &["sh", "-c", "echo x >> /etc/hosts"],
            &["sh", "-c", "echo x > /proc/sys/kernel/hostname"],
        ] {
            let ran = api.exec(id, argv);
            assert_ne!(ran.code, 0, "{argv:?} worked: {ran:?}");
            assert_ne!(ran.code, 127, "{argv:?} was not tried: {ran:?}");
        }
    });
    cases.case("root is root of the namespace only", || {
        let as_root = |argv: &[&str]| api.exec_with(id, &json!({ "cmd": argv, "user": "root" })).expect(200).json();
        for argv in [
            &["mknod", "/tmp/null", "c", "1", "3"][..],
            &["mount", "-t", "tmpfs", "x", "/mnt"],
            &["sh", "-c", "echo x >> /etc/hosts"],
            &["sh", "-c", "kill -STOP 1; prlimit --pid 1 --nofile=0"],
        ] {
            assert_ne!(as_root(argv)["exit_code"], 0, "{argv:?} worked");
        }
        assert_eq!(as_root(&["sh", "-c", "touch /etc/new && chown sandbox /etc/new"])["exit_code"], 0);
        assert_eq!(api.output(id, &["echo", "on"]), "on", "the agent was hurt");
    });
    cases.case("the agent can not be touched", || {
        for argv in [
            &["sh", "-c", "kill -KILL 1"][..],
            &["sh", "-c", "cat /proc/1/environ"],
            &["sh", "-c", "ls /run/warren"],
            &["sh", "-c", "echo x > /.warren-agent"],
        ] {
            assert_ne!(api.exec(id, argv).code, 0, "{argv:?} worked");
        }
    });
}
