//! The reference: Podman's own API, its service and its containers set up as ours are, and its command line.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Signal};
use serde_json::{Value, json};

use crate::cgroups;
use crate::child::Running;
use crate::host;
use crate::http::Client;
use crate::places::Places;
use crate::processes;

/// What every path of the API starts with.
const API: &str = "/v4.0.0/libpod";

/// The label of every container of a run; its value is the run's pid.
const LABEL: &str = "warren-bench";

/// The user that commands run as, on both sides.
const USER: &str = "1000:1000";

/// What the reference's container runs: as long as it is let.
const SLEEP: [&str; 2] = ["sleep", "2147483647"];

/// Open files and processes, as a node gives them.
const NOFILE: u64 = 65_536;
const NPROC: u64 = 30_000;

/// A node's default limits.
const MEMORY_BYTES: u64 = 512 << 20;
const PIDS: u64 = 256;

/// A Podman service of our own and what was made through it.
pub struct Podman {
    client: Client,
    conf: PathBuf,
    cgroup_parent: String,
    seccomp: PathBuf,
    files: PathBuf,
    made: BTreeSet<String>,
    // Last: it ends after the containers are removed.
    _service: Running,
}

impl Podman {
    /// Starts the service with this OCI runtime. `seccomp` is the profile that containers get.
    pub fn start(places: &Places, runtime: &str, seccomp: PathBuf) -> Result<Self> {
        let conf = places.home.join("containers.conf");
        fs::write(
            &conf,
            format!(
                "[containers]\nkeyring = false\nlog_driver = \"k8s-file\"\n\
                 [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"{runtime}\"\n"
            ),
        )?;
        let files = places.home.join("files");
        fs::create_dir_all(&files)?;
        for (name, _) in FILES {
            let path = files.join(name);
            fs::write(&path, "127.0.0.1 localhost\n")?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o444))?;
        }
        let socket = places.run.join("podman.sock");
        let mut service =
            Running::start("the podman service", "podman".as_ref(), places.home.join("podman.log"), |command| {
                command.args(["--log-level=warn", "system", "service", "--time=0"]);
                command.arg(format!("unix://{}", socket.display())).env("CONTAINERS_CONF", &conf);
            })?;
        let mut client = Client::unix(&socket);
        let ping = format!("{API}/_ping");
        service.wait_until(|| client.call("GET", &ping, None).is_ok_and(|answer| answer.status == 200))?;
        let cgroup_parent = format!("warren-bench-{}", std::process::id());
        let mut podman = Self { client, conf, cgroup_parent, seccomp, files, made: BTreeSet::new(), _service: service };
        podman.remove_stale()?;
        Ok(podman)
    }

    /// Creates and starts a container, and gives its id and how long both calls took.
    pub fn run(&mut self, image: &str) -> Result<(String, Duration)> {
        let body = self.create_body(image);
        let started = Instant::now();
        let created = self.client.call("POST", &format!("{API}/containers/create"), Some(&body))?.expect(201)?;
        let id = created.json()?["Id"].as_str().context("a container without an id")?.to_owned();
        self.made.insert(id.clone());
        self.client.call("POST", &format!("{API}/containers/{id}/start"), None)?.expect(204)?;
        Ok((id, started.elapsed()))
    }

    /// Runs a command in a container to the end of its output. Its exit code is not asked for: that would be a third
    /// call, and its time the reference's.
    pub fn exec(&mut self, container: &str, command: &[&str]) -> Result<Duration> {
        let create = json!({
            "Cmd": command, "AttachStdout": true, "AttachStderr": true, "AttachStdin": false, "Tty": false,
            "User": USER,
        });
        let started = Instant::now();
        let answer = self.client.call("POST", &format!("{API}/containers/{container}/exec"), Some(&create))?;
        let session = answer.expect(201)?.json()?["Id"].as_str().context("an exec without an id")?.to_owned();
        let start = json!({"Detach": false, "Tty": false});
        self.client.call("POST", &format!("{API}/exec/{session}/start"), Some(&start))?.expect(200)?;
        let took = started.elapsed();
        // Not part of the measured time: whether it was what we think it was.
        let seen = self.client.call("GET", &format!("{API}/exec/{session}/json"), None)?.expect(200)?.json()?;
        if seen["ExitCode"] != 0 {
            bail!("{command:?} by the API: {seen}");
        }
        Ok(took)
    }

    /// The same by the command line.
    pub fn exec_by_command_line(&self, container: &str, command: &[&str]) -> Result<Duration> {
        let mut podman = Command::new("podman");
        podman.args(["exec", "--user", USER, container]).args(command).env("CONTAINERS_CONF", &self.conf);
        podman.stdin(Stdio::null()).stdout(Stdio::null());
        let started = Instant::now();
        let status = podman.status().context("podman does not start")?;
        let took = started.elapsed();
        if !status.success() {
            bail!("podman exec: {status}");
        }
        Ok(took)
    }

    /// The first processes of a node's containers and their monitors.
    pub fn processes_of(&mut self, label: &str) -> Result<Vec<(i32, i32)>> {
        let filters = format!("%7B%22label%22%3A%5B%22{label}%22%5D%7D");
        let list = self.client.call("GET", &format!("{API}/containers/json?filters={filters}"), None)?.expect(200)?;
        let list = list.json()?;
        let ids = list.as_array().into_iter().flatten().filter_map(|entry| entry["Id"].as_str());
        ids.map(|id| {
            let state = &self.inspect(id)?["State"];
            let pid = |name: &str| state[name].as_i64().and_then(|pid| i32::try_from(pid).ok());
            pid("Pid").zip(pid("ConmonPid")).context("a container without a process")
        })
        .collect()
    }

    /// What the engine knows of a container, by id or name.
    pub fn inspect(&mut self, container: &str) -> Result<Value> {
        self.client.call("GET", &format!("{API}/containers/{container}/json"), None)?.expect(200)?.json()
    }

    /// Removes a container of ours and waits until the engine has tidied up after it.
    pub fn remove(&mut self, container: &str) -> Result<()> {
        let path = format!("{API}/containers/{container}?force=true&timeout=0");
        // 500 where it races with its own tidying after an exec; asked again it finds nothing, or removes the rest.
        let client = &mut self.client;
        processes::wait_for("a container to be removed", || {
            Ok(matches!(client.call("DELETE", &path, None)?.status, 200 | 204 | 404))
        })?;
        self.made.remove(container);
        // The monitors of execs by the API stay for five minutes; their container is gone.
        for process in processes::of_container(container)? {
            if process.arguments[0].ends_with("conmon") {
                processes::signal(process.pid, Signal::KILL)?;
            }
        }
        processes::wait_until_gone(container)
    }

    /// Containers that a run which was killed has left.
    fn remove_stale(&mut self) -> Result<()> {
        let filters = format!("%7B%22label%22%3A%5B%22{LABEL}%22%5D%7D");
        let path = format!("{API}/containers/json?all=true&filters={filters}");
        let list = self.client.call("GET", &path, None)?.expect(200)?.json()?;
        for entry in list.as_array().into_iter().flatten() {
            let run = entry["Labels"][LABEL].as_str().unwrap_or_default();
            if !std::path::Path::new("/proc").join(run).exists()
                && let Some(id) = entry["Id"].as_str()
            {
                eprintln!("removing container {id} of a run that was cut off");
                self.remove(id)?;
            }
        }
        Ok(())
    }

    /// The body of a create that isolates as a node's sandboxes are isolated. The command's user has no capability on
    /// either side; the agent's are left out, since nobody here needs them.
    fn create_body(&self, image: &str) -> Value {
        let ids = json!([{"container_id": 0, "host_id": 1_000_000, "size": 65_536}]);
        let (nofile, nproc) = (host::hard_limit(Resource::Nofile, NOFILE), host::hard_limit(Resource::Nproc, NPROC));
        let mounts: Vec<_> = FILES
            .iter()
            .map(|(name, inside)| {
                json!({"type": "bind", "source": self.files.join(name), "destination": inside,
                    "options": ["bind", "nosuid", "nodev", "ro"]})
            })
            .collect();
        json!({
            "image": image,
            "image_pull_policy": "never",
            "image_volume_mode": "ignore",
            "healthconfig": {"Test": ["NONE"]},
            "labels": {LABEL: std::process::id().to_string()},
            "entrypoint": SLEEP,
            "command": [],
            "work_dir": "/",
            "user": USER,
            "manage_password": false,
            "systemd": "false",
            "restart_policy": "no",
            "umask": "0022",
            "log_configuration": {"driver": "k8s-file", "size": 1 << 20},
            "userns": {"nsmode": "private"},
            "idmappings": {"UIDMap": ids, "GIDMap": ids, "HostUIDMapping": false, "HostGIDMapping": false},
            "netns": {"nsmode": "none"},
            "ipcns": {"nsmode": "private"},
            "no_new_privileges": true,
            "cap_drop": ["ALL"],
            "seccomp_profile_path": self.seccomp,
            "mounts": mounts,
            "shm_size": 64 << 20,
            "cgroup_parent": format!("/{}", self.cgroup_parent),
            "resource_limits": {
                "memory": {"limit": MEMORY_BYTES, "swap": MEMORY_BYTES},
                "pids": {"limit": PIDS},
                "cpu": {"quota": 100_000, "period": 100_000},
            },
            "r_limits": [
                {"type": "nofile", "soft": nofile, "hard": nofile},
                {"type": "nproc", "soft": nproc, "hard": nproc},
                {"type": "core", "soft": 0, "hard": 0},
            ],
        })
    }
}

/// What stands in for the files that Podman would make, as on our side.
const FILES: [(&str, &str); 4] = [
    ("hosts", "/etc/hosts"),
    ("hostname", "/etc/hostname"),
    ("resolv.conf", "/etc/resolv.conf"),
    ("containerenv", "/run/.containerenv"),
];

impl Drop for Podman {
    fn drop(&mut self) {
        for container in std::mem::take(&mut self.made) {
            if let Err(error) = self.remove(&container) {
                eprintln!("error: container {container} may be left: {error:#}");
            }
        }
        cgroups::remove(&self.cgroup_parent);
    }
}
