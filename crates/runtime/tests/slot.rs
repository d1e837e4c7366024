//! One slot's life on real Podman: what it is made of, limits, death, stop and start, removal.

mod common;

use std::fs;
use std::time::Duration;

use common::{Bench, podman, run, status_of};
use runtime::agent::{Activation, Identity, RefusalCode};
use runtime::{MakeSlotError, Slot};
use types::spec::Tmpfs;
use types::{NetworkMode, Resources};

#[test]
fn a_slot_is_confined_as_ordered() {
    run(|| async {
        let bench = Bench::start().await;
        let mut order = bench.order();
        order.shape.tmpfs.push(Tmpfs { path: "/scratch".to_owned(), size: 1 << 20, options: "noexec".to_owned() });
        let slot = bench.engine.make_slot(order.clone()).await.expect("a slot");

        let pid = slot.pid();
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status_of(pid, set), "00000000800001fb", "{set}");
        }
        assert_eq!(status_of(pid, "NoNewPrivs"), "1");
        assert_eq!(status_of(pid, "Seccomp"), "2");
        assert_eq!(status_of(pid, "Uid"), "1065000 1065000 1065000 1065000");
        assert_eq!(status_of(pid, "Gid"), "1065000 1065000 1065000 1065000");
        let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).expect("a map");
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "1000000", "65536"]);
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("core");
        assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
        let environment = fs::read_to_string(format!("/proc/{pid}/environ"));
        // Not dumpable: even root of the host may be told no; what is read must hold no image's values.
        assert!(
            environment.is_err() || !environment.unwrap().contains("PATH="),
            "the image's variables are the user's"
        );
        let net = fs::read_to_string(format!("/proc/{pid}/net/dev")).expect("devices");
        assert_eq!(net.lines().skip(2).filter(|line| !line.trim_start().starts_with("lo:")).count(), 0, "{net}");

        let mounts = mounts(pid);
        for (inside, wanted) in [
            ("/.warren-agent", "ro,nosuid,nodev"),
            ("/run/warren", "rw,nosuid,nodev,noexec"),
            ("/run/warren-lease", "ro,nosuid,nodev,noexec"),
            ("/etc/hosts", "ro,nosuid,nodev"),
            ("/etc/hostname", "ro,nosuid,nodev"),
            ("/etc/resolv.conf", "ro,nosuid,nodev"),
            ("/run/.containerenv", "ro,nosuid,nodev"),
            ("/scratch", "rw,nosuid,nodev,noexec"),
            ("/", "rw"),
        ] {
            let options = &mounts.iter().find(|(point, _)| point == inside).expect(inside).1;
            assert!(options.starts_with(wanted), "{inside} is {options}");
        }
        assert_no_writable_host_path(&mounts);

        let stranger = bench.engine.list_ours().await.expect("a list");
        assert_eq!(stranger.len(), 1);
        let found = &stranger[0];
        assert_eq!((found.id, &found.container_id), (slot.id, &slot.container_id));
        assert!(found.running);
        assert_eq!(found.pid, Some(pid));
        assert_eq!(found.labels["colour"], "blue");
        assert_eq!(found.shape.as_ref(), Some(&order.shape));
        assert_eq!(found.agent_digest.as_deref(), Some(bench.engine.agent_digest()));
    });
}

#[test]
fn a_read_only_root_is_read_only() {
    run(|| async {
        let bench = Bench::start().await;
        let mut order = bench.order();
        order.shape.writable_rootfs = false;
        let slot = bench.engine.make_slot(order).await.expect("a slot");
        let root = mounts(slot.pid()).into_iter().find(|(point, _)| point == "/").expect("a root");
        assert!(root.1.starts_with("ro"), "{root:?}");
    });
}

#[test]
fn the_nodes_lease_reaches_a_sandbox_also_after_a_stop_and_a_start() {
    run(|| async {
        let bench = Bench::start().await;
        let lease = bench.engine.lease_file();
        assert_eq!(lease.expires_boottime_ms(), 0, "no node has set it");
        let order = bench.order();
        let mut slot = bench.engine.make_slot(order.clone()).await.expect("a slot");
        for _ in 0..2 {
            lease.set(u64::MAX);
            let identity =
                Identity { sandbox_id: order.id.to_string(), generation: 3, spec_digest: vec![7; 32], leased: true };
            let agent = slot.agent();
            agent.reserve(&identity).await.expect("reserved");
            agent.activate(&identity, Activation::default()).await.expect("active");
            // Its watch over the lease is sure of its time, and nothing else has that.
            let policies = policies_of_children(slot.pid());
            assert_eq!(policies, [SCHED_DEADLINE], "the only child of a sandbox in which nothing runs");
            agent.stat(3, b"/", false).await.expect("served");
            lease.set(0);
            let refused = agent.stat(3, b"/", false).await.expect_err("refused");
            assert_eq!(refused.refusal_code(), Some(RefusalCode::LeaseExpired), "{refused}");

            bench.engine.stop(order.id, Duration::from_secs(5)).await.expect("a stop");
            slot = bench.engine.start_again(order.id, &order.resources).await.expect("a start");
        }
    });
}

/// The kernel's number of the policy.
const SCHED_DEADLINE: u32 = 6;

/// Scheduling policies of a process's children.
fn policies_of_children(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children");
    let policy = |child: &str| {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).expect("it lives");
        // Field 41, of which the name, the second, is cut off with the first.
        let fields = stat.rsplit_once(')').expect("a name").1;
        fields.split_whitespace().nth(38).expect("a policy").parse().expect("a number")
    };
    children.split_whitespace().map(policy).collect()
}

#[test]
fn limits_are_the_orders_and_then_those_that_are_set() {
    run(|| async {
        let bench = Bench::start().await;
        let slot = bench.engine.make_slot(bench.order()).await.expect("a slot");
        assert_eq!(limits(&slot), (256 << 20, "200000".to_owned(), "128".to_owned()));
        // Up and down again: each direction has an order of its own that the kernel insists on.
        for (cpu, memory, pids) in [(500_000_000, 512 << 20, 200), (1_000_000_000, 64 << 20, 16)] {
            slot.set_limits(&Resources { cpu, memory, disk: 0, pids }).expect("limits");
            assert_eq!(limits(&slot), (memory, (cpu / 10_000).to_string(), pids.to_string()));
        }
        slot.set_limits(&Resources::default()).expect("no limits");
        let (memory, cpu, pids) = limits(&slot);
        assert!(memory > 1 << 50, "{memory}");
        assert!(["-1", "max"].contains(&cpu.as_str()), "{cpu}");
        assert_eq!(pids, "max");
    });
}

#[test]
fn a_kill_is_over_when_everything_is_dead() {
    run(|| async {
        let bench = Bench::start().await;
        let slot = bench.engine.make_slot(bench.order()).await.expect("a slot");
        let death = slot.death().expect("a watch");
        let watching = tokio::spawn(death.wait());
        assert!(slot.is_alive().expect("known"));
        slot.kill().await.expect("a kill");
        assert!(!slot.is_alive().expect("known"));
        watching.await.expect("no panic").expect("the watcher learns of it");
        slot.kill().await.expect("what is dead can be killed again");
        assert!(bench.engine.adopt(slot.id).await.expect("known").is_none(), "the dead can not be adopted");
        bench.engine.remove(slot.id).await.expect("a removal");
        assert_eq!(bench.traces(slot.id, &slot.container_id), Vec::<String>::new());
    });
}

#[test]
fn a_removal_leaves_nothing_and_can_be_done_again() {
    run(|| async {
        let bench = Bench::start().await;
        let slot = bench.engine.make_slot(bench.order()).await.expect("a slot");
        assert!(bench.traces(slot.id, &slot.container_id).len() > 5, "the test sees what is there");
        bench.engine.remove(slot.id).await.expect("a removal");
        assert_eq!(bench.traces(slot.id, &slot.container_id), Vec::<String>::new());
        assert!(!slot.is_alive().expect("known"));
        bench.engine.remove(slot.id).await.expect("again");
        bench.engine.remove(common::new_id()).await.expect("what never was");
    });
}

#[test]
fn a_stopped_sandbox_starts_again_with_its_files_and_limits_after_a_reboot_took_the_mounts() {
    run(|| async {
        let bench = Bench::start().await;
        let order = bench.order();
        let slot = bench.engine.make_slot(order.clone()).await.expect("a slot");
        let marked = podman(&["exec", "--user", "0", &slot.container_id, "/bin/busybox", "touch", "/mark"]);
        assert!(marked.status.success(), "{marked:?}");
        bench.engine.stop(slot.id, Duration::from_secs(10)).await.expect("a stop");
        assert!(!slot.is_alive().expect("known"));
        bench.engine.stop(slot.id, Duration::ZERO).await.expect("again");
        let found = bench.engine.list_ours().await.expect("a list");
        assert!(!found[0].running && found[0].pid.is_none() && found[0].exit_code.is_some(), "{found:?}");

        // As after a reboot: no tmpfs, no files.
        let run_dir = bench.run_dir().join("sandboxes").join(slot.id.as_str());
        common::command("umount", &[common::path(&run_dir.join("sock"))]);
        fs::remove_dir_all(&run_dir).expect("it was there");

        let resources = Resources { memory: 128 << 20, ..order.resources };
        let again = bench.engine.start_again(slot.id, &resources).await.expect("a start");
        assert_ne!(again.pid(), slot.pid());
        assert_eq!(limits(&again).0, 128 << 20);
        assert!(!slot.is_alive().expect("known"), "the old handle never means the new process");
        let seen = podman(&["exec", &again.container_id, "/bin/busybox", "ls", "/mark"]);
        assert!(seen.status.success(), "{seen:?}");
    });
}

#[test]
fn what_is_not_possible_is_refused_and_leaves_nothing() {
    run(|| async {
        let bench = Bench::start().await;
        let mut network = bench.order();
        network.shape.network_mode = NetworkMode::Internet;
        let mut image = bench.order();
        image.shape.image = "localhost/warren/no-such-image:1".to_owned();
        let mut cover = bench.order();
        cover.shape.tmpfs.push(Tmpfs { path: "/proc".to_owned(), size: 1 << 20, options: String::new() });
        let refused = |error: &MakeSlotError| matches!(error, MakeSlotError::NotSupported(_));
        let no_image = |error: &MakeSlotError| matches!(error, MakeSlotError::NoImage(_));
        type Check<'a> = &'a dyn Fn(&MakeSlotError) -> bool;
        let cases: [(_, Check<'_>); 3] = [(network, &refused), (image, &no_image), (cover, &refused)];
        for (order, expected) in cases {
            let id = order.id;
            let error = bench.engine.make_slot(order).await.expect_err("not possible");
            assert!(expected(&error), "{error:?}");
            assert_eq!(bench.traces(id, "no container"), Vec::<String>::new());
        }
    });
}

#[test]
fn a_container_that_ends_before_its_agent_answers_is_removed() {
    run(|| async {
        let fake = tempfile::NamedTempFile::new().expect("a file");
        fs::write(fake.path(), "not a program").expect("written");
        let bench = Bench::start_with(|config| config.agent_binary = fake.path().to_owned()).await;
        let order = bench.order();
        let error = bench.engine.make_slot(order.clone()).await.expect_err("no agent");
        assert!(matches!(error, MakeSlotError::Engine(_) | MakeSlotError::Ended { .. }), "{error:?}");
        assert_eq!(bench.traces(order.id, "no container"), Vec::<String>::new());
        assert_eq!(bench.engine.list_ours().await.expect("a list").len(), 0);
    });
}

#[test]
fn nobody_waits_for_it_and_so_it_goes() {
    run(|| async {
        let bench = Bench::start().await;
        let order = bench.order();
        let given_up = tokio::time::timeout(Duration::from_millis(1), bench.engine.make_slot(order.clone())).await;
        assert!(given_up.is_err(), "a millisecond is too short for a container");
        let seen = wait_for(|| !bench.traces(order.id, "no container").is_empty()).await;
        assert!(seen, "the making goes on");
        let gone = wait_for(|| bench.traces(order.id, "no container").is_empty()).await;
        assert!(gone, "{:?}", bench.traces(order.id, "no container"));
    });
}

#[test]
fn what_is_there_already_is_not_made_again_and_not_undone() {
    run(|| async {
        let bench = Bench::start().await;
        let order = bench.order();
        let slot = bench.engine.make_slot(order.clone()).await.expect("a slot");
        let error = bench.engine.make_slot(order.clone()).await.expect_err("it is there");
        assert!(matches!(error, MakeSlotError::Exists), "{error:?}");
        // Its directory is lost, the engine still has the name.
        bench.engine.stop(slot.id, Duration::ZERO).await.expect("a stop");
        let run_dir = bench.run_dir().join("sandboxes").join(slot.id.as_str());
        common::command("umount", &[common::path(&run_dir.join("sock"))]);
        fs::remove_dir_all(&run_dir).expect("it was there");
        let error = bench.engine.make_slot(order.clone()).await.expect_err("it is there");
        assert!(matches!(error, MakeSlotError::Exists), "{error:?}");
        assert!(!run_dir.exists(), "what the second try made is gone");
        bench.engine.start_again(slot.id, &order.resources).await.expect("the container is untouched");
    });
}

#[test]
fn slots_are_made_side_by_side() {
    run(|| async {
        let bench = Bench::start().await;
        let making: Vec<_> = (0..5)
            .map(|_| {
                let (engine, order) = (bench.engine.clone(), bench.order());
                tokio::spawn(async move { engine.make_slot(order).await })
            })
            .collect();
        let mut pids = std::collections::BTreeSet::new();
        for slot in making {
            pids.insert(slot.await.expect("no panic").expect("a slot").pid());
        }
        assert_eq!(pids.len(), 5);
        let found = bench.engine.list_ours().await.expect("a list");
        assert_eq!(found.iter().filter_map(|found| found.pid).collect::<std::collections::BTreeSet<_>>(), pids);
    });
}

#[test]
fn a_removal_is_whole_even_after_conmon_was_killed() {
    run(|| async {
        let bench = Bench::start().await;
        let slot = bench.engine.make_slot(bench.order()).await.expect("a slot");
        let conmon = podman(&["inspect", "--format", "{{.State.ConmonPid}}", &slot.container_id]);
        let conmon = common::lines(&conmon).concat();
        let killed = common::command("kill", &["-9", &conmon]);
        assert!(killed.status.success(), "{killed:?}");
        slot.agent().hello().await.expect("it lives without conmon");
        bench.engine.remove(slot.id).await.expect("a removal");
        assert_eq!(bench.traces(slot.id, &slot.container_id), Vec::<String>::new());
        assert!(!slot.is_alive().expect("known"));
    });
}

async fn wait_for(mut condition: impl FnMut() -> bool) -> bool {
    for _ in 0..600 {
        if condition() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

/// Mount points of a process with their options.
fn mounts(pid: u32) -> Vec<(String, String)> {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mounts");
    let field = |line: &str, index| line.split(' ').nth(index).expect("a field").to_owned();
    mounts.lines().map(|line| (field(line, 4), field(line, 5))).collect()
}

/// The only writable places of the host that a sandbox may see are its own root and its socket's
/// tmpfs: anything else would be a way around every limit.
fn assert_no_writable_host_path(mounts: &[(String, String)]) {
    let own = ["/", "/proc", "/run/warren", "/scratch"];
    for (point, options) in mounts {
        let kernel = ["/dev", "/sys", "/proc/"].iter().any(|tree| point.starts_with(tree));
        assert!(kernel || own.contains(&point.as_str()) || options.starts_with("ro"), "{point} is {options}");
    }
}

/// Memory, quota and processes as the kernel has them.
fn limits(slot: &Slot) -> (u64, String, String) {
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", slot.pid())).expect("cgroups");
    let group = groups.lines().find(|line| line.contains(&slot.container_id)).expect("a group");
    let group = group.split(':').nth(2).expect("a path");
    let read = |files: [&str; 2]| {
        let text = files.iter().find_map(|file| {
            let (controller, name) = file.split_once('/').expect("controller/name");
            fs::read_to_string(format!("/sys/fs/cgroup/{controller}{group}/{name}")).ok()
        });
        text.unwrap_or_else(|| panic!("none of {files:?}")).split_whitespace().next().expect("a value").to_owned()
    };
    let memory = read(["memory/memory.limit_in_bytes", "./memory.max"]);
    let memory = if memory == "max" { u64::MAX } else { memory.parse().expect("a number") };
    (memory, read(["cpu/cpu.cfs_quota_us", "./cpu.max"]), read(["pids/pids.max", "./pids.max"]))
}
