//! The engine itself: its service dies and comes back, strangers are left alone, leftovers are found.

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{BUSYBOX, Bench, podman, run};
use runtime::{Engine, EngineConfig, EngineStartError, ResolveError};
use rustix::process::{Pid, Signal};
use types::{ClusterId, HostId};

#[test]
fn the_service_is_killed_and_comes_back_while_sandboxes_run_on() {
    run(|| async {
        let bench = Bench::start().await;
        let slot = bench.engine.make_slot(bench.order()).await.expect("a slot");
        assert_eq!(bench.engine.unhealthy(), None);
        for _ in 0..2 {
            let service = bench.engine.service_pid().expect("a service of ours");
            kill(service);
            assert!(
                wait_for(|| bench.engine.service_pid().is_some_and(|pid| pid != service)).await,
                "it is started again"
            );
            // No wait for the engine here: the agent's answer does not need it.
            slot.agent().hello().await.expect("the sandbox answers without an engine");
            assert!(wait_for(|| bench.engine.unhealthy().is_none()).await, "{:?}", bench.engine.unhealthy());
            let found = bench.engine.list_ours().await.expect("a list");
            assert_eq!(found.len(), 1);
            assert!(found[0].running);
            assert_eq!(found[0].pid, Some(slot.pid()));
        }
        let adopted = bench.engine.adopt(slot.id).await.expect("known").expect("it runs");
        assert_eq!((adopted.pid(), &adopted.address), (slot.pid(), &slot.address));
    });
}

#[test]
fn a_service_that_is_stuck_is_replaced_while_sandboxes_run_on() {
    run(|| async {
        let bench = Bench::start().await;
        let slot = bench.engine.make_slot(bench.order()).await.expect("a slot");
        let service = bench.engine.service_pid().expect("a service of ours");
        signal(service, Signal::STOP);
        assert!(wait_for(|| bench.engine.unhealthy().is_some()).await, "it is said to be unwell first");
        slot.agent().hello().await.expect("the sandbox answers without an engine");
        let replaced = async {
            while bench.engine.service_pid().is_none_or(|pid| pid == service) {
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), replaced).await.expect("another one is started");
        assert!(wait_for(|| bench.engine.unhealthy().is_none()).await, "{:?}", bench.engine.unhealthy());
        assert_eq!(bench.engine.list_ours().await.expect("a list").len(), 1);
    });
}

#[test]
fn a_dead_service_is_said_to_be_dead() {
    run(|| async {
        let bench = Bench::start().await;
        bench.engine.stop_service();
        assert!(bench.engine.list_ours().await.is_err());
        assert!(wait_for(|| bench.engine.unhealthy().is_some()).await);
    });
}

#[test]
fn the_service_dies_with_the_process_that_started_it() {
    // In a process of its own, which is then killed.
    const MARK: &str = "WARREN_TEST_ENGINE_DIRECTORY";
    if let Some(directory) = std::env::var_os(MARK) {
        run(|| async {
            let mut config = EngineConfig::new(ClusterId::new("test"), HostId::new("killed"), "/bin/busybox".into());
            config.run_dir = Path::new(&directory).join("run");
            config.state_dir = Path::new(&directory).join("state");
            let engine = Engine::start(config).await.expect("the engine starts");
            let pid = engine.service_pid().expect("a service");
            let ready = Path::new(&directory).join("pid");
            fs::write(ready.with_extension("new"), pid.to_string()).expect("written");
            fs::rename(ready.with_extension("new"), ready).expect("renamed");
            std::future::pending::<()>().await;
        });
        return;
    }
    run(|| async {
        let directory = tempfile::tempdir().expect("a directory");
        let mut child = std::process::Command::new(std::env::current_exe().expect("ourselves"))
            .args(["--exact", "the_service_dies_with_the_process_that_started_it"])
            .env(MARK, directory.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("a child");
        let pid_file = directory.path().join("pid");
        let started = wait_for(|| pid_file.exists()).await;
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert!(started, "its engine started");
        let pid = fs::read_to_string(&pid_file).expect("a pid");
        let is_service = || {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.contains(directory.path().to_str().expect("a plain path"))
        };
        assert!(wait_for(|| !is_service()).await, "the service outlives its engine");
    });
}

#[test]
fn one_run_directory_has_one_engine() {
    run(|| async {
        let bench = Bench::start().await;
        let second = Engine::start(bench.engine.config().clone()).await;
        assert!(matches!(second, Err(EngineStartError::InUse { .. })));
        assert_eq!(bench.engine.unhealthy(), None);
    });
}

#[test]
fn strangers_are_neither_listed_nor_touched() {
    run(|| async {
        let bench = Bench::start().await;
        let id = common::new_id();
        let name = format!("warren-{id}");
        let node = format!("warren.node={}", bench.node);
        let sandbox = format!("warren.sandbox={id}");
        // Our name and nearly our labels: another cluster's.
        let created = podman(&[
            "create",
            "--name",
            &name,
            "--net=none",
            "--label",
            "warren.cluster=other",
            "--label",
            &node,
            "--label",
            &sandbox,
            "--pull=never",
            BUSYBOX,
            "/bin/true",
        ]);
        assert!(created.status.success(), "{created:?}");
        assert_eq!(bench.engine.list_ours().await.expect("a list").len(), 0);
        assert!(bench.engine.adopt(id).await.expect("known").is_none());
        let error = bench.engine.remove(id).await.expect_err("not ours");
        assert!(matches!(error, runtime::RemoveError::Foreign), "{error:?}");
        // Nor its files, though they are in our directory: that may have been another node's before.
        let files = bench.run_dir().join("sandboxes").join(id.as_str());
        fs::create_dir_all(&files).expect("a directory");
        assert_eq!(bench.engine.found_leftovers().await.expect("known"), []);
        bench.engine.sweep(id).await.expect("nothing to do");
        assert!(files.exists(), "its files are gone");
        let still = podman(&["container", "exists", &name]);
        podman(&["rm", "-f", &name]);
        assert!(still.status.success(), "it was touched");
    });
}

#[test]
fn leftovers_are_found_and_swept_and_what_lives_is_not() {
    run(|| async {
        let bench = Bench::start().await;
        let slot = bench.engine.make_slot(bench.order()).await.expect("a slot");
        let orphan = bench.engine.make_slot(bench.order()).await.expect("a slot");
        // Its container is taken away behind our back; mount and files stay.
        podman(&["rm", "-f", "-t", "0", &orphan.container_id]);
        let leftovers = bench.engine.found_leftovers().await.expect("known");
        assert_eq!(leftovers.len(), 1);
        assert_eq!((leftovers[0].id, leftovers[0].mounted), (orphan.id, true));
        bench.engine.sweep(orphan.id).await.expect("swept");
        assert_eq!(bench.traces(orphan.id, &orphan.container_id), Vec::<String>::new());
        bench.engine.sweep(slot.id).await.expect("nothing to do");
        assert_eq!(bench.engine.found_leftovers().await.expect("known"), []);
        slot.agent().hello().await.expect("it still answers");
    });
}

#[test]
fn a_new_engine_finds_what_the_old_one_left_running() {
    run(|| async {
        let bench = Bench::start().await;
        let slot = bench.engine.make_slot(bench.order()).await.expect("a slot");
        bench.engine.stop_service();
        let mut config = bench.engine.config().clone();
        // The old engine's lock is still held in this process, so the new one looks from elsewhere.
        config.run_dir = bench.directory.path().join("run-2");
        std::os::unix::fs::symlink(bench.run_dir().join("sandboxes"), {
            fs::create_dir(&config.run_dir).expect("a directory");
            config.run_dir.join("sandboxes")
        })
        .expect("a link");
        let engine = Engine::start(config).await.expect("a new engine");
        let found = engine.list_ours().await.expect("a list");
        assert_eq!(found.len(), 1);
        let adopted = engine.adopt(found[0].id).await.expect("known").expect("it runs");
        assert_eq!(adopted.pid(), slot.pid());
        adopted.agent().hello().await.expect("it answers");
        engine.remove(adopted.id).await.expect("removed");
        engine.stop_service();
    });
}

#[test]
fn an_image_is_known_at_once_when_it_changes() {
    run(|| async {
        let bench = Bench::start().await;
        let facts = bench.engine.resolve_image(BUSYBOX).await.expect("there");
        assert_eq!(facts.id.len(), 64);
        assert_eq!(facts.reference, BUSYBOX);

        let name = format!("localhost/warren/test-{}:1", bench.node);
        let missing = bench.engine.resolve_image(&name).await;
        assert!(matches!(missing, Err(ResolveError::NotThere { .. })), "{missing:?}");
        podman(&["tag", BUSYBOX, &name]);
        let tagged = bench.engine.resolve_image(&name).await;
        let made = podman(&[
            "import",
            "--change",
            "USER=1000:1000",
            "--change",
            "WORKDIR=/tmp",
            "--change",
            "ENV=A=b=c",
            common::path(&small_archive(bench.directory.path())),
            &name,
        ]);
        let imported = bench.engine.resolve_image(&name).await;
        podman(&["rmi", "-f", &name]);
        let removed = bench.engine.resolve_image(&name).await;

        assert!(made.status.success(), "{made:?}");
        assert_eq!(tagged.expect("tagged").id, facts.id);
        let imported = imported.expect("imported");
        assert_ne!(imported.id, facts.id);
        assert_eq!((imported.user.as_str(), imported.workdir.as_str()), ("1000:1000", "/tmp"));
        assert_eq!(imported.env, [("A".to_owned(), "b=c".to_owned())]);
        assert!(matches!(removed, Err(ResolveError::NotThere { .. })), "{removed:?}");
        let wrong = bench.engine.resolve_image("../containers/json").await;
        assert!(matches!(wrong, Err(ResolveError::NotThere { .. })), "{wrong:?}");
    });
}

#[test]
fn a_registry_that_does_not_answer_is_the_reason_given() {
    run(|| async {
        let bench = Bench::start().await;
        // A port of the loopback where nobody listens.
        let answer = bench.engine.resolve_image("127.0.0.1:1/nobody/nothing:1").await;
        match answer {
            Err(ResolveError::NotThere { reason }) => assert!(reason.contains("127.0.0.1:1"), "{reason}"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn an_engine_with_a_store_of_its_own_shares_nothing_with_its_neighbour() {
    run(|| async {
        let neighbour = Bench::start().await;
        let slot = neighbour.engine.make_slot(neighbour.order()).await.expect("a slot");
        let store = tempfile::tempdir().expect("a directory");
        let bench = Bench::start_with(|config| {
            config.storage_root = Some(store.path().join("root"));
            config.storage_runroot = Some(store.path().join("runroot"));
        })
        .await;
        let missing = bench.engine.resolve_image(BUSYBOX).await;
        assert!(matches!(missing, Err(ResolveError::NotThere { .. })), "{missing:?}");
        let archive = store.path().join("busybox.tar");
        let saved = podman(&["save", "--quiet", "-o", common::path(&archive), BUSYBOX]);
        assert!(saved.status.success(), "{saved:?}");
        let loaded = std::process::Command::new("podman")
            .env("CONTAINERS_CONF", bench.run_dir().join("engine/containers.conf"))
            .arg(format!("--root={}/root", store.path().display()))
            .arg(format!("--runroot={}/runroot", store.path().display()))
            .arg(format!("--tmpdir={}/runroot/libpod", store.path().display()))
            .args(["load", "--quiet", "-i", common::path(&archive)])
            .output()
            .expect("podman");
        assert!(loaded.status.success(), "{loaded:?}");
        bench.engine.resolve_image(BUSYBOX).await.expect("loaded");
        let own = bench.engine.make_slot(bench.order()).await.expect("a slot in its own store");
        assert!(podman(&["container", "exists", &slot.container_id]).status.success());
        assert!(!podman(&["container", "exists", &own.container_id]).status.success());
        own.agent().hello().await.expect("it answers");
        slot.agent().hello().await.expect("it answers");
        bench.engine.remove(own.id).await.expect("removed");
        neighbour.engine.remove(slot.id).await.expect("removed");
        drop(bench);
        common::command("umount", &["-l", common::path(&store.path().join("root/overlay"))]);
    });
}

fn small_archive(directory: &Path) -> std::path::PathBuf {
    let root = directory.join("small");
    fs::create_dir(&root).expect("a directory");
    fs::write(root.join("file"), "content").expect("written");
    let archive = directory.join("small.tar");
    let packed = common::command("tar", &["-C", common::path(&root), "-cf", common::path(&archive), "."]);
    assert!(packed.status.success(), "{packed:?}");
    archive
}

fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("it lives");
}

async fn wait_for(mut condition: impl FnMut() -> bool) -> bool {
    for _ in 0..400 {
        if condition() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    false
}
