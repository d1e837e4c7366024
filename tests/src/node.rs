//! One `warren node` under test: started, asked, killed, started again, and taken away with all that it made.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hosts::Host;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::api::{Api, id_of};
use crate::engine::{BUSYBOX, binaries, need_image, target};
use crate::http::Call;
use crate::identity::Identity;
use crate::machine::Held;
use crate::remains::{self, HOMES, RUNS};
use crate::running::Running;
use crate::serial;
use crate::wait::{within, within_settling};

/// From start to the first healthy answer, adoption included.
const HEALTHY_WITHIN: Duration = Duration::from_secs(75);

/// From SIGTERM to the end, with everything destroyed where that was asked for.
pub(crate) const END_WITHIN: Duration = Duration::from_secs(75);

/// A killed process is gone at once; a busy host may take a while to say so.
const DEATH_WITHIN: Duration = Duration::from_secs(75);

/// Lines of the log that are shown when a test fails.
const LOG_LINES_SHOWN: usize = 40;

/// Where nobody listens.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Where a node on a host of its own shows its metrics.
const METRICS_PORT_ON_A_HOST: u16 = 7702;

/// The key of every node under test.
const KEY: &str = "key-of-the-tests";

/// Where a node on a host of its own answers clients.
const PORT_ON_A_HOST: u16 = 7700;

/// A host's own, empty when its power comes.
const RUN_DIR_ON_A_HOST: &str = "/run/warren";

/// In a node's home: the kill point that it is to die at.
const KILL_FILE: &str = "dies-at";

/// How a node is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Image of a sandbox that names none.
    pub image: &'static str,
    /// Warm slots.
    pub pool: usize,
    /// Flags beside the usual ones.
    pub flags: &'static [&'static str],
    /// Variables of every life of it.
    pub env: &'static [(&'static str, &'static str)],
}

impl Default for Options {
    fn default() -> Self {
        Self { image: BUSYBOX, pool: 1, flags: &[], env: &[] }
    }
}

/// How a node of a cluster finds the others.
#[derive(Debug, Clone)]
pub(crate) struct Peering {
    /// Where it lets others in, in all its lives.
    pub(crate) listen: SocketAddr,
    /// Whom it joins, and by which token; none for the first.
    pub(crate) join: Option<(SocketAddr, String)>,
}

/// A node under test. Dropping it takes away all that it made.
pub struct Node {
    name: String,
    options: Options,
    pub(crate) peering: Option<Peering>,
    home: PathBuf,
    run_dir: PathBuf,
    /// The host that it has to itself; none where it shares this one.
    host: Option<Host>,
    child: Option<Running>,
    api: Api,
    metrics: SocketAddr,
    // The turn ends last, when everything is away. A cluster has one for all its nodes.
    _turn: Option<File>,
}

impl Node {
    /// Starts a node and waits until it is healthy. One at a time: a test that holds two waits for ever.
    ///
    /// # Panics
    /// It does not become healthy.
    #[must_use]
    pub fn start(options: Options) -> Self {
        let turn = serial::take_turn();
        remains::sweep();
        let mut node = Self::prepare("node", options, None, None);
        node._turn = Some(turn);
        node.begin(&[]);
        node.wait_until_healthy();
        node
    }

    /// A node that was not started yet, here or on a host of its own. Whoever calls has the turn.
    pub(crate) fn prepare(called: &str, options: Options, peering: Option<Peering>, host: Option<Host>) -> Self {
        need_image(options.image);
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let (home, run_dir) = match &host {
            // On its disk, which goes with its machine.
            Some(host) => (host.directory().join("node"), PathBuf::from(RUN_DIR_ON_A_HOST)),
            None => (Path::new(HOMES).join(&name), Path::new(RUNS).join(&name)),
        };
        fs::create_dir_all(&home).unwrap_or_else(|error| panic!("{}: {error}", home.display()));
        if host.is_none() {
            fs::create_dir_all(&run_dir).unwrap_or_else(|error| panic!("{}: {error}", run_dir.display()));
        }
        let api = Api::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), KEY);
        Self {
            name: called.to_owned(),
            options,
            peering,
            home,
            run_dir,
            host,
            child: None,
            api,
            metrics: NOWHERE,
            _turn: None,
        }
    }

    /// Its API in its present life.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Asks for something of its metrics' listener.
    #[must_use]
    pub fn metrics<'a>(&self, path: &str) -> Call<'a> {
        Call::new(self.metrics, "GET", path)
    }

    /// Its pool's size.
    #[must_use]
    pub fn pool(&self) -> usize {
        self.options.pool
    }

    /// Its data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.home.join("data")
    }

    /// Its run directory.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Who it is.
    ///
    /// # Panics
    /// It has not come so far yet.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity::read(&self.data_dir()).expect("a node that was healthy has an identity")
    }

    /// Its pid.
    ///
    /// # Panics
    /// It does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    /// All that its lives have logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }

    /// What the host holds of it.
    #[must_use]
    pub fn held(&self) -> Held {
        match &self.host {
            None => Held::by(&self.identity(), &self.run_dir),
            Some(host) => Held::on(host, &self.data_dir(), &self.run_dir),
        }
    }

    /// Runs a program on the host that it has to itself, which has to succeed, and returns what it prints, trimmed.
    ///
    /// # Panics
    /// It has none, or the program fails.
    #[track_caller]
    pub fn on_its_host(&self, command: &mut Command) -> String {
        let host = self.host.as_ref().expect("a host of its own");
        host.says(command).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Ends it as a power cut would end a process.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child can be killed");
        }
    }

    /// Ends it in order.
    ///
    /// # Panics
    /// It does not end in time.
    pub fn sigterm(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_for_end("SIGTERM", END_WITHIN)
    }

    /// Sends its process a signal.
    ///
    /// # Panics
    /// It does not run.
    pub fn signal(&self, signal: Signal) {
        self.child.as_ref().expect("the node runs").signal(signal).expect("our own child can be signalled");
    }

    /// From now on it kills itself when it comes to this point, once.
    ///
    /// # Panics
    /// It can not be told.
    pub fn dies_at(&self, point: &str) {
        // By a rename: half a name would be none.
        let fresh = self.home.join(format!("{KILL_FILE}.new"));
        fs::write(&fresh, point).and_then(|()| fs::rename(&fresh, self.home.join(KILL_FILE))).expect("it can be told");
    }

    /// It lives on when it comes to its kill point.
    pub fn lives_on(&self) {
        let _may_not_be_there = fs::remove_file(self.home.join(KILL_FILE));
    }

    /// How it ended by itself, if it has.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().expect("our own child can be asked");
        if status.is_some() {
            self.child = None;
        }
        status
    }

    /// Waits until a kill point has ended it.
    ///
    /// # Panics
    /// It lives on.
    pub fn wait_for_kill_point(&mut self, point: &str) {
        use std::os::unix::process::ExitStatusExt;
        let status = self.wait_for_end(point, DEATH_WITHIN);
        assert_eq!(status.signal(), Some(9), "it ended with {status}, not by its kill point {point}");
    }

    pub(crate) fn wait_for_end(&mut self, why: &str, time: Duration) -> ExitStatus {
        let child = self.child.as_mut().expect("the node runs");
        let status = within(time, &format!("the node's end by {why}"), || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it lives".to_owned()),
            Err(error) => Err(error.to_string()),
        });
        self.child = None;
        status
    }

    /// Starts it again, killing it first where it runs, and waits until it is healthy.
    pub fn restart(&mut self) {
        self.kill9();
        self.begin(&[]);
        self.wait_until_healthy();
    }

    /// Starts it again so that it will kill itself at this point.
    pub fn restart_with_kill_point(&mut self, point: &str) {
        self.kill9();
        self.begin(&[("WARREN_KILL_AT", point)]);
        self.wait_until_healthy();
    }

    /// Starts it again so that it kills itself at this point of its start, and waits for that.
    pub fn restart_into_kill_point(&mut self, point: &str) {
        self.kill9();
        self.begin(&[("WARREN_KILL_AT", point)]);
        self.wait_for_kill_point(point);
    }

    /// Whether it runs and says that it is well.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        let health = self.api.call_without_key("GET", "/health").send();
        self.child.is_some() && health.is_ok_and(|answer| answer.status == 200)
    }

    /// Whether its process was started and not ended by the test.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) fn begin(&mut self, env: &[(&str, &str)]) {
        let address = match &self.host {
            Some(host) => SocketAddr::from((host.address(), PORT_ON_A_HOST)),
            None => free_address(),
        };
        self.api = Api::new(address, KEY);
        self.metrics = match &self.host {
            Some(host) => SocketAddr::from((host.address(), METRICS_PORT_ON_A_HOST)),
            None => free_address(),
        };
        let log = File::options().create(true).append(true).open(self.home.join("log")).expect("a log can be written");
        let mut command = self.command(address);
        command.envs(env.iter().copied());
        command.stdout(log.try_clone().expect("a log has two ends")).stderr(log);
        self.child = Some(match &self.host {
            None => Running::Here(command.spawn().expect("the node can be started")),
            Some(host) => Running::On(host.spawn(&mut command).expect("the node can be started")),
        });
    }

    /// What starts it with its front door at this address.
    pub(crate) fn command(&self, address: SocketAddr) -> Command {
        let (warren, agent) = binaries();
        // Should the test process be killed, the node goes too.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(warren).arg("node");
        command.arg("--data-dir").arg(self.data_dir()).arg("--run-dir").arg(&self.run_dir);
        command.arg("--listen").arg(address.to_string()).arg("--agent").arg(agent);
        command.arg("--pool-size").arg(self.options.pool.to_string()).args(["--default-image", self.options.image]);
        if let Some(peering) = &self.peering {
            command.arg("--peer-listen").arg(peering.listen.to_string());
            if let Some((address, token)) = &peering.join {
                command.arg("--join").arg(address.to_string()).args(["--token", token]);
            }
        }
        command.arg("--metrics-listen").arg(self.metrics.to_string());
        command.args(self.options.flags);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("WARREN_") {
                command.env_remove(&name);
            }
        }
        command.env("WARREN_API_KEY", KEY).env("WARREN_LOG", "info,node=debug").env("NO_COLOR", "1");
        command.env("WARREN_KILL_FILE", self.home.join(KILL_FILE));
        command.envs(self.options.env.iter().copied()).stdin(Stdio::null());
        command
    }

    pub(crate) fn wait_until_healthy(&mut self) {
        let started = Instant::now();
        within(HEALTHY_WITHIN, "a healthy node", || {
            let child = self.child.as_mut().expect("the node was started");
            if let Ok(Some(status)) = child.try_wait() {
                panic!("the node ended at its start: {status}");
            }
            match self.api.call_without_key("GET", "/health").send() {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(answer.text()),
                Err(error) => Err(error.to_string()),
            }
        });
        println!("  (healthy after {:.2} s)", started.elapsed().as_secs_f64());
    }

    /// What does not fit together between the placement and the host. A sandbox in error has lost its container.
    #[must_use]
    pub fn differences(&self) -> Vec<String> {
        self.differences_from(&self.api.list(""), true)
    }

    /// The same, from a placement that may hold sandboxes of other nodes.
    pub(crate) fn differences_from(&self, shown: &[Value], store_is_its_own: bool) -> Vec<String> {
        let me = self.identity().host;
        let mine = shown.iter().filter(|sandbox| sandbox["node"] == *me && sandbox["status"] != "error");
        let placed: BTreeSet<String> = mine.map(id_of).collect();
        let mut held = self.held();
        let again = shown.iter().filter(|sandbox| sandbox["node"] == *me && sandbox["status"] == "running");
        for id in again.filter(|sandbox| sandbox["generation"] != 1).map(id_of) {
            let body = json!({ "cmd": ["readlink", "/proc/self/ns/mnt"] });
            let ran = self.api.call("POST", &format!("/sandboxes/{id}/exec")).json(&body).send();
            if let Some(namespace) = ran.ok().filter(|ran| ran.status == 200).map(|ran| ran.json()["stdout"].clone()) {
                held.rename(namespace.as_str().unwrap_or_default().trim(), &id);
            }
        }
        let mut wrong = held.differences(&placed, self.options.pool);
        if store_is_its_own {
            wrong.extend(held.others.iter().map(|id| format!("container {id} is another node's")));
        }
        // A slot whose agent answers is the pool's only when the node has noticed.
        let log = self.log();
        let slots = held.containers.keys().filter(|id| !placed.contains(*id));
        wrong.extend(
            slots
                .filter(|id| !["made", "adopted"].iter().any(|how| log.contains(&format!("slot {how} sandbox={id}"))))
                .map(|id| format!("slot {id} is new")),
        );
        wrong
    }

    /// Waits until containers, mounts, cgroups and processes are those of the placement and the pool.
    ///
    /// # Panics
    /// They never are.
    #[track_caller]
    pub fn settles(&self) {
        within_settling("the host fits the placement", || match self.differences() {
            wrong if wrong.is_empty() => Ok(()),
            wrong => Err(wrong.join("; ")),
        });
    }
}

impl Node {
    /// Keeps the log of a node whose test failed, and shows what in it stands out.
    fn keep_log(&self) {
        let log = self.log();
        let kept = target().join(format!("failed-{}.log", self.name));
        match fs::write(&kept, &log) {
            Ok(()) => println!("the node's log is kept in {}; of it:", kept.display()),
            Err(error) => println!("the node's log can not be kept: {error}; of it:"),
        }
        let loud: Vec<&str> =
            log.lines().filter(|line| [" WARN ", "ERROR", "panicked"].iter().any(|word| line.contains(word))).collect();
        println!("{}", loud[loud.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n"));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take()
            && let Err(error) = child.kill()
        {
            eprintln!("the node could not be ended: {error}");
        }
        if std::thread::panicking() {
            self.keep_log();
        }
        // A kill point may strike while others watch: nothing of it may stay either way. A host goes with its machine.
        if self.host.is_none() {
            remains::take_away(&self.home, &self.run_dir);
        }
    }
}

pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound listener has an address")
}
