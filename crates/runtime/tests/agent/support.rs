//! Real containers for these tests: a Podman service of our own, images without a registry, raw create bodies.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use proto::lease_layout::PATH_INSIDE;
use runtime::LeaseFile;
use runtime::agent::{
    Activation, AgentAddress, AgentClient, AgentError, ExecRequest, ExitStatus, Identity, RunOutcome,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Generation of every sandbox here.
pub const GENERATION: u64 = 7;

/// Where the container's ids begin on the host.
const ID_BASE: u32 = 1_000_000;

/// Uid of the agent inside.
const AGENT_UID: u32 = 65_000;

/// Nothing in these tests takes as long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

const CAPABILITIES: [&str; 9] = [
    "CAP_SETUID",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_KILL",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_SETFCAP",
];

/// A name that no other run of these tests has.
fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("warren-agent-test-{what}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The static agent, built once per test run.
pub fn agent_binary() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            if let Some(path) = std::env::var_os("WARREN_AGENT") {
                return PathBuf::from(path);
            }
            let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
            let target = workspace.join("target/agent");
            let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
                .current_dir(&workspace)
                .args(["build", "--quiet", "--locked", "--profile", "agent", "-p", "agent"])
                .args(["--target", "x86_64-unknown-linux-gnu", "--target-dir"])
                .arg(&target)
                .env("RUSTFLAGS", "-C target-feature=+crt-static")
                .status()
                .unwrap();
            assert!(built.success(), "the agent does not build");
            target.join("x86_64-unknown-linux-gnu/agent/warren-agent")
        })
        .clone()
}

/// A Podman service, and what was made with it.
pub struct Podman {
    dir: TempDir,
    service: Child,
    images: Vec<String>,
    /// What stands for this node's lease; expired until a test sets it.
    pub lease: LeaseFile,
}

impl Podman {
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("warren-agent-test").tempdir().unwrap();
        let conf = "[containers]\nkeyring = false\n[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\n\
                    events_logger = \"file\"\n";
        fs::write(dir.path().join("containers.conf"), conf).unwrap();
        fs::write(dir.path().join("seccomp.json"), runtime::seccomp::profile().to_string()).unwrap();
        let socket = dir.path().join("podman.sock");
        let mut command = Command::new("podman");
        command.args(["system", "service", "--time", "0"]).arg(format!("unix://{}", socket.display()));
        let service = command
            // conmon inherits it, and leaves a file `oom` where it is.
            .current_dir(dir.path())
            .env("CONTAINERS_CONF", dir.path().join("containers.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let lease = LeaseFile::open(dir.path()).unwrap();
        let podman = Self { dir, service, images: Vec::new(), lease };
        wait_until("Podman's service answers", || UnixStream::connect(&socket).is_ok());
        podman
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("podman.sock")
    }

    /// One request of the engine's API; the status must be one of the 200s.
    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (status, answer) = self.try_request(method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    fn try_request(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        write!(
            stream,
            "{method} /v4.0.0/libpod{path} HTTP/1.0\r\nHost: d\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// Imports a root file system.
    fn import(&mut self, what: &str, root: &Path) -> String {
        let archive = self.dir.path().join("image.tar");
        // No two archives of these tests are the same: of the same layer one test would take away what another imports.
        static IMPORTS: AtomicU32 = AtomicU32::new(0);
        let own_time = u64::from(std::process::id()) * 1_000 + u64::from(IMPORTS.fetch_add(1, Ordering::Relaxed));
        let metadata = ["--owner=0", "--group=0", &format!("--mtime=@{own_time}"), "."];
        run(Command::new("tar").arg("-C").arg(root).arg("-cf").arg(&archive).args(metadata));
        let image = format!("localhost/{}", unique(what));
        run(Command::new("podman").args(["import", "--quiet"]).arg(&archive).arg(&image));
        self.images.push(image.clone());
        image
    }

    /// BusyBox with a user file, and a home that is missing.
    pub fn busybox_image(&mut self) -> String {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for directory in ["bin", "etc", "tmp", "root", "proc", "sys", "dev", "run"] {
            fs::create_dir(at(directory)).unwrap();
        }
        fs::copy("/bin/busybox", at("bin/busybox")).unwrap();
        let applets = Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
        for applet in String::from_utf8(applets).unwrap().lines().filter(|applet| *applet != "busybox") {
            std::os::unix::fs::symlink("busybox", at("bin").join(applet)).unwrap();
        }
        fs::set_permissions(at("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/sh\nsandbox:x:1000:1000::/home/sandbox:/bin/sh\n\
                      other:x:1001:1001::/tmp:/bin/sh\n";
        fs::write(at("etc/passwd"), passwd).unwrap();
        fs::write(at("etc/group"), "root:x:0:\nsandbox:x:1000:\nother:x:1001:\nextra:x:2000:sandbox\n").unwrap();
        self.import("busybox", root.path())
    }

    /// Two static programs and nothing else: no shell, no user file, no directories.
    pub fn bare_image(&mut self) -> String {
        let root = tempfile::tempdir().unwrap();
        for program in ["id", "cat"] {
            fs::copy("/bin/busybox", root.path().join(program)).unwrap();
        }
        self.import("bare", root.path())
    }

    pub fn has_image(&self, image: &str) -> bool {
        self.try_request("GET", &format!("/images/{}/exists", image.replace('/', "%2F")), None).0 == 204
    }

    /// A sandbox whose agent answers, still bare.
    pub fn sandbox(&self, image: &str) -> Sandbox<'_> {
        Sandbox::start(self, image, |_| json!({}))
    }

    /// The same with other mounts, which are told the socket's directory.
    pub fn sandbox_with_mounts(&self, image: &str, mounts: impl FnOnce(&Path) -> Value) -> Sandbox<'_> {
        Sandbox::start(self, image, |dir| json!({"mounts": mounts(dir)}))
    }

    /// The same with more in its create body.
    pub fn sandbox_with(&self, image: &str, more: Value) -> Sandbox<'_> {
        Sandbox::start(self, image, |_| more)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        for image in &self.images {
            let (status, answer) =
                self.try_request("DELETE", &format!("/images/{}?force=true", image.replace('/', "%2F")), None);
            if status >= 300 {
                eprintln!("{image} is left: {answer}");
            }
        }
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}

/// A container with the agent as its first process.
pub struct Sandbox<'a> {
    podman: &'a Podman,
    name: String,
    dir: TempDir,
    pub agent: AgentClient,
    runtime: tokio::runtime::Runtime,
}

impl<'a> Sandbox<'a> {
    fn start(podman: &'a Podman, image: &str, more: impl FnOnce(&Path) -> Value) -> Self {
        let name = unique("sandbox");
        let dir = tempfile::Builder::new().prefix("warren-agent-test").tempdir().unwrap();
        let owner = ID_BASE + AGENT_UID;
        let options = format!("size=64k,nr_inodes=16,mode=0700,uid={owner},gid={owner},nosuid,nodev,noexec");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // From here on Drop cleans up.
        let address = AgentAddress { socket_dir: dir.path().into(), pid: 0 };
        let mut sandbox = Self { podman, name, dir, agent: AgentClient::new(address), runtime };
        let mut body = sandbox.create_body(image);
        for (key, value) in more(sandbox.dir.path()).as_object().unwrap() {
            body[key] = value.clone();
        }
        podman.request("POST", "/containers/create", Some(&body));
        sandbox.start_container();
        sandbox
    }

    fn create_body(&self, image: &str) -> Value {
        let map = json!([{"container_id": 0, "host_id": ID_BASE, "size": 65536}]);
        let bind = |source: &Path, target: &str, mode: &str| json!({"type": "bind", "source": source, "destination": target, "options": [mode, "bind", "nosuid", "nodev"]});
        json!({
            "name": self.name,
            "image": image,
            "entrypoint": ["/.warren-agent"],
            "command": [],
            "user": format!("{AGENT_UID}:{AGENT_UID}"),
            "userns": {"nsmode": "private"},
            "idmappings": {"UIDMap": map, "GIDMap": map, "HostUIDMapping": false, "HostGIDMapping": false},
            "netns": {"nsmode": "none"},
            "no_new_privileges": true,
            "seccomp_profile_path": self.podman.dir.path().join("seccomp.json"),
            "cap_drop": ["ALL"],
            "cap_add": CAPABILITIES,
            "systemd": "false",
            "image_pull_policy": "never",
            "shm_size": 16 << 20,
            "resource_limits": {
                "pids": {"limit": 128},
                "memory": {"limit": 256 << 20, "swap": 256 << 20},
            },
            "r_limits": [
                {"type": "nofile", "soft": 1024, "hard": 4096},
                {"type": "nproc", "soft": 4096, "hard": 4096},
                {"type": "core", "soft": 0, "hard": 0},
            ],
            "mounts": [
                bind(&agent_binary(), "/.warren-agent", "ro"),
                bind(self.dir.path(), "/run/warren", "rw"),
                bind(self.podman.lease.path(), PATH_INSIDE, "ro"),
            ],
        })
    }

    fn start_container(&mut self) {
        self.podman.request("POST", &format!("/containers/{}/start", self.name), None);
        let pid = self.inspect()["State"]["Pid"].as_i64().unwrap();
        let address = AgentAddress { socket_dir: self.dir.path().into(), pid: i32::try_from(pid).unwrap() };
        self.agent = AgentClient::new(address);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let ready = self.wait(self.agent.wait_ready(deadline));
        ready.unwrap();
    }

    pub fn inspect(&self) -> Value {
        self.podman.request("GET", &format!("/containers/{}/json", self.name), None)
    }

    pub fn stop(&self) {
        self.podman.request("POST", &format!("/containers/{}/stop?timeout=20", self.name), None);
    }

    pub fn restart(&mut self) {
        self.stop();
        self.start_container();
    }

    /// The host's pid of the agent.
    pub fn pid(&self) -> i32 {
        self.agent.address().pid
    }

    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// The root of the container as the host can reach it.
    pub fn root(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid()))
    }

    pub fn identity() -> Identity {
        Identity { sandbox_id: "test".into(), generation: GENERATION, spec_digest: b"digest".to_vec(), leased: false }
    }

    /// Reserves and activates with these defaults.
    pub fn activate(self, activation: Activation) -> Self {
        self.wait(async {
            self.agent.reserve(&Self::identity()).await.unwrap();
            self.agent.activate(&Self::identity(), activation).await.unwrap();
        });
        self
    }

    /// Reserved and active, with root allowed.
    pub fn active(self) -> Self {
        self.activate(Activation { allow_root: true, ..Activation::default() })
    }

    /// Of a sandbox that may be placed again.
    pub fn leased_identity() -> Identity {
        Identity { leased: true, ..Self::identity() }
    }

    /// Active under the node's lease, with root allowed.
    pub fn leased(self) -> Self {
        let activation = Activation { allow_root: true, ..Activation::default() };
        self.wait(async {
            self.agent.reserve(&Self::leased_identity()).await.unwrap();
            self.agent.activate(&Self::leased_identity(), activation).await.unwrap();
        });
        self
    }

    /// Stops or goes on with all of it.
    pub fn freeze(&self, frozen: bool) {
        let verb = if frozen { "pause" } else { "unpause" };
        self.podman.request("POST", &format!("/containers/{}/{verb}", self.name), None);
    }

    /// Waits for a future, but not for ever.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("it hangs") })
    }

    pub fn try_run(&self, request: ExecRequest) -> Result<RunOutcome, AgentError> {
        self.wait(self.agent.run(GENERATION, request, None, 1 << 20))
    }

    pub fn run(&self, request: ExecRequest) -> RunOutcome {
        self.try_run(request).unwrap()
    }

    /// A script's standard output; it must succeed.
    pub fn sh(&self, script: &str) -> String {
        let outcome = self.run(sh(script));
        assert_eq!(outcome.exit.status, ExitStatus::Code(0), "{script}: {}", text(&outcome.stderr));
        text(&outcome.stdout)
    }

    /// The host's pids of what runs in the sandbox besides the agent.
    pub fn other_pids(&self) -> Vec<i32> {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let ours = namespace(self.pid());
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != self.pid() && namespace(*pid) == ours)
            .collect()
    }

    /// What runs in the sandbox besides the agent, by name.
    pub fn others(&self) -> Vec<String> {
        let name = |pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok();
        let mut names: Vec<_> = self
            .other_pids()
            .into_iter()
            .filter_map(name)
            .map(|name| name.trim().to_owned())
            // The agent's own, where a sandbox is leased.
            .filter(|name| name != "warren-lease")
            .collect();
        names.sort();
        names
    }

    /// Whether not one instruction of user code can follow: all that is left is dead or has SIGKILL waiting.
    pub fn is_doomed(&self) -> bool {
        self.other_pids().into_iter().all(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
            let waiting = |name| u64::from_str_radix(field(name), 16).unwrap_or(u64::MAX) >> 8 & 1 == 1;
            let done = field("State:").starts_with(['Z', 'X']) || field("Name:") == "warren-lease";
            status.is_empty() || done || waiting("ShdPnd:") || waiting("SigPnd:")
        })
    }

    /// Waits until the lease's return has reached it.
    pub fn until_back(&self) {
        wait_until("it serves again", || !self.wait(self.agent.hello()).unwrap().lease.expired);
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        let path = format!("/containers/{}?force=true&timeout=0", self.name);
        let (status, answer) = self.podman.try_request("DELETE", &path, None);
        if status >= 300 && status != 404 {
            eprintln!("{} is left: {answer}", self.name);
        }
        let _ = Command::new("umount").arg(self.dir.path()).status();
    }
}

/// The clock that leases count by.
pub fn boottime_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec * 1000 + now.tv_nsec / 1_000_000).unwrap()
}

/// A command by its words.
pub fn argv(words: &[&str]) -> ExecRequest {
    ExecRequest { argv: words.iter().map(|word| word.as_bytes().to_vec()).collect(), ..ExecRequest::default() }
}

/// A shell script.
pub fn sh(script: &str) -> ExecRequest {
    argv(&["/bin/sh", "-c", script])
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits for a condition, but not for ever.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
}
