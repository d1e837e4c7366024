//! An engine on real Podman for one test, and the certainty that nothing of it stays.

// Each test file is a program of its own and uses a part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use runtime::{Engine, EngineConfig, SlotOrder};
use types::spec::SlotShape;
use types::{ClusterId, HostId, NetworkMode, Resources, SandboxId};

pub const BUSYBOX: &str = "localhost/warren/busybox:latest";

/// An engine of its own: node, run directory, state directory.
pub struct Bench {
    pub engine: Engine,
    pub directory: tempfile::TempDir,
    pub node: String,
    pub cgroup_parent: String,
}

/// What a test runs in; any panic in it fails the test after the cleaning.
pub fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    // Logs only where they are asked for: RUST_LOG=runtime=debug.
    let _already_set = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test());
}

impl Bench {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut EngineConfig)) -> Self {
        busybox_image();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let node = format!("test-{}-{number}", std::process::id());
        let directory = tempfile::Builder::new().prefix("warren-").tempdir_in("/tmp").expect("a directory");
        let mut config = EngineConfig::new(ClusterId::new("test"), HostId::new(&node), agent_binary());
        config.run_dir = directory.path().join("run");
        config.state_dir = directory.path().join("state");
        config.cgroup_parent = format!("/warren-{node}");
        change(&mut config);
        let cgroup_parent = config.cgroup_parent.clone();
        let engine = Engine::start(config).await.expect("the engine starts");
        Self { engine, directory, node, cgroup_parent }
    }

    pub fn run_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    pub fn order(&self) -> SlotOrder {
        order(BUSYBOX)
    }

    /// Everything on this host that names the sandbox: containers, mounts, directories, cgroups.
    pub fn traces(&self, id: SandboxId, container_id: &str) -> Vec<String> {
        let mut traces = lines(&podman(&["ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}}"]));
        traces.extend(fs::read_to_string("/proc/self/mountinfo").expect("mounts").lines().map(str::to_owned));
        traces.extend(lines(&command("find", &["/sys/fs/cgroup", "-type", "d", "-name", "libpod-*"])));
        traces.extend(lines(&command("find", &[path(self.directory.path())])));
        traces.retain(|line| line.contains(id.as_str()) || line.contains(container_id));
        traces
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.engine.stop_service();
        let label = format!("label=warren.node={}", self.node);
        let ids = lines(&podman(&["ps", "-aq", "--no-trunc", "--filter", &label]));
        for id in ids {
            podman(&["rm", "-f", "-t", "0", &id]);
            if let Err(error) = runtime::cgroup::remove_leftovers(&self.cgroup_parent, &id) {
                eprintln!("cgroups of {id} stay: {error}");
            }
        }
        for mount in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
            let point = mount.split(' ').nth(4).unwrap_or_default();
            if Path::new(point).starts_with(self.directory.path()) {
                command("umount", &["-l", point]);
            }
        }
        // A conmon ends a moment after its container, and its cgroup with it.
        let until = Instant::now() + Duration::from_secs(5);
        while let Err(error) = runtime::cgroup::remove_empty_parent(&self.cgroup_parent) {
            if Instant::now() > until {
                eprintln!("cgroups of {} stay: {error}", self.node);
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

pub fn order(image: &str) -> SlotOrder {
    SlotOrder {
        id: new_id(),
        shape: SlotShape {
            image: image.to_owned(),
            image_id: String::new(),
            network_mode: NetworkMode::None,
            writable_rootfs: true,
            tmpfs: Vec::new(),
            disk: 0,
        },
        resources: Resources { cpu: 2_000_000_000, memory: 256 << 20, disk: 0, pids: 128 },
        labels: BTreeMap::from([("colour".to_owned(), "blue".to_owned())]),
    }
}

pub fn new_id() -> SandboxId {
    let mut entropy = [0; 20];
    let random = fs::File::open("/dev/urandom").and_then(|mut file| std::io::Read::read_exact(&mut file, &mut entropy));
    random.expect("randomness");
    SandboxId::from_entropy(entropy)
}

pub fn podman(arguments: &[&str]) -> Output {
    command("podman", arguments)
}

pub fn command(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

pub fn lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

pub fn path(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// A line of `/proc/<pid>/status`.
pub fn status_of(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:"))).expect(field);
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn agent_binary() -> PathBuf {
    if let Some(given) = std::env::var_os("WARREN_AGENT") {
        return given.into();
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("a workspace");
    let target = workspace.join("target").join("agent");
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let status = Command::new(env!("CARGO"))
            .current_dir(workspace)
            .args(["build", "--quiet", "--profile", "agent", "--package", "agent"])
            .args(["--target", "x86_64-unknown-linux-gnu", "--target-dir", path(&target)])
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .status();
        assert!(status.expect("cargo runs").success(), "the agent does not build");
    });
    target.join("x86_64-unknown-linux-gnu").join("agent").join("warren-agent")
}

/// Imports a BusyBox image unless there is one.
fn busybox_image() {
    static IMPORTED: Once = Once::new();
    IMPORTED.call_once(|| {
        if podman(&["image", "exists", BUSYBOX]).status.success() {
            return;
        }
        let root = tempfile::tempdir().expect("a directory");
        let bin = root.path().join("bin");
        for directory in ["bin", "etc", "tmp", "root", "proc", "sys", "dev", "run"] {
            fs::create_dir(root.path().join(directory)).expect("a directory");
        }
        fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
        for applet in lines(&command("/bin/busybox", &["--list"])) {
            if applet != "busybox" {
                std::os::unix::fs::symlink("busybox", bin.join(applet)).expect("a link");
            }
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\nsandbox:x:1000:1000::/tmp:/bin/sh\n";
        fs::write(root.path().join("etc/passwd"), passwd).expect("passwd");
        fs::write(root.path().join("etc/group"), "root:x:0:\nsandbox:x:1000:\n").expect("group");
        let tar = root.path().with_extension("tar");
        let packed = command("tar", &["-C", path(root.path()), "-cf", path(&tar), "."]);
        assert!(packed.status.success(), "{packed:?}");
        let imported = podman(&["import", path(&tar), BUSYBOX]);
        fs::remove_file(&tar).expect("the archive is there");
        assert!(imported.status.success(), "{imported:?}");
    });
}
