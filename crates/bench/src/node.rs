//! Our side: a node of its own, driven over HTTP as any client would.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cgroups;
use crate::child::Running;
use crate::http::Client;
use crate::places::Places;
use crate::ports;
use crate::processes::{self, wait_for};

/// The key of the node under test; it listens on loopback, for minutes.
pub const KEY: &str = "bench";

/// Seconds after which a sandbox that nobody deletes ends.
const SANDBOX_TIMEOUT_SECONDS: u64 = 1800;

/// The room that says when a slot was made.
const LOG_FILTER: &str = "info,node::engine_room=debug";

/// What it says.
const SLOT_MADE: &str = "slot made";

/// How a node finds the others of its cluster.
#[derive(Debug, Clone)]
pub struct Peering {
    /// Where it lets others in, in all its lives.
    pub listen: SocketAddr,
    /// Whom it joins, and by which token; none for the first.
    pub join: Option<(SocketAddr, String)>,
}

/// A node and a client of it.
pub struct Node {
    running: Running,
    client: Client,
    order: Order,
    log: SlotLog,
    /// Slots that it keeps ready.
    pub pool_size: usize,
    /// Its name.
    pub name: String,
    /// The OCI runtime that holds its sandboxes.
    pub runtime: String,
    /// Slots claimed so far.
    claimed: usize,
}

/// A warm claim and its first command, as the client saw them.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The sandbox.
    pub id: String,
    /// From the request to the answer of the create.
    pub create: Duration,
    /// From the create's request to the answer of the first exec.
    pub whole: Duration,
}

/// How a node is started, each time the same.
struct Order {
    warren: PathBuf,
    agent: PathBuf,
    listen: SocketAddr,
    peering: Option<Peering>,
    run_dir: PathBuf,
    data_dir: PathBuf,
    log: PathBuf,
    pool_size: usize,
}

impl Order {
    /// Starts it and waits until it is healthy.
    fn start(&self) -> Result<(Running, Client)> {
        let mut running = Running::start("the node", &self.warren, self.log.clone(), |command| {
            command.arg("node").arg("--data-dir").arg(&self.data_dir).arg("--run-dir").arg(&self.run_dir);
            command.args(["--listen", &self.listen.to_string(), "--pool-size", &self.pool_size.to_string()]);
            command.arg("--agent").arg(&self.agent).arg("--destroy-on-exit");
            // Several nodes share this host, and one address for metrics would be taken.
            command.args(["--metrics-listen", "off"]);
            if let Some(Peering { listen, join }) = &self.peering {
                command.args(["--peer-listen", &listen.to_string()]);
                if let Some((member, token)) = join {
                    command.args(["--join", &member.to_string(), "--token", token]);
                }
            }
            command.env("WARREN_API_KEY", KEY).env("WARREN_LOG", LOG_FILTER).env("NO_COLOR", "1");
        })?;
        let mut client = self.client();
        running.wait_until(|| client.call("GET", "/api/v1/health", None).is_ok_and(|answer| answer.status == 200))?;
        Ok((running, client))
    }

    fn client(&self) -> Client {
        Client::tcp(self.listen, KEY)
    }
}

impl Node {
    /// Starts a node and waits until it is healthy and its pool is full.
    pub fn start(places: &Places, pool_size: usize) -> Result<Self> {
        Self::start_as(places, "node", pool_size, None)
    }

    /// The same of one among several.
    pub fn start_as(places: &Places, called: &str, pool_size: usize, peering: Option<Peering>) -> Result<Self> {
        let order = Order {
            warren: places.warren.clone(),
            agent: places.agent.clone(),
            listen: ports::free()?,
            peering,
            run_dir: places.run.join(called),
            data_dir: places.home.join(called),
            log: places.home.join(format!("{called}.log")),
            pool_size,
        };
        let (running, client) = order.start()?;
        let (name, runtime) = (String::new(), String::new());
        let log = SlotLog::new(order.log.clone());
        let mut node = Self { running, client, order, log, pool_size, name, runtime, claimed: 0 };
        node.introduce()?;
        Ok(node)
    }

    /// Ends it as a power cut would end a process; its sandboxes run on.
    pub fn kill(&mut self) -> Result<()> {
        self.running.kill()
    }

    /// Starts it again and waits until it is healthy. From then on it does not know how full its pool is.
    pub fn restart(&mut self) -> Result<()> {
        (self.running, self.client) = self.order.start()?;
        Ok(())
    }

    /// Asks it to end, without waiting.
    pub fn ask_to_end(&self) -> Result<()> {
        processes::signal(self.pid(), rustix::process::Signal::TERM)
    }

    /// A client of its own connection.
    pub fn client(&self) -> Client {
        self.order.client()
    }

    /// Where it answers clients.
    pub fn listen(&self) -> SocketAddr {
        self.order.listen
    }

    /// What it says in its log.
    pub fn said(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.order.log)?)
    }

    /// Where its log, its identity and its keys are.
    pub fn data_dir(&self) -> &Path {
        &self.order.data_dir
    }

    /// What it says of its health.
    pub fn health(&mut self) -> Result<Value> {
        self.client.call("GET", "/api/v1/health", None)?.json()
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.running.pid()
    }

    /// The seccomp profile that it gives its sandboxes.
    pub fn seccomp_profile(&self) -> PathBuf {
        self.order.data_dir.join("engine").join("seccomp.json")
    }

    /// Asks a first sandbox who the node is and what holds its sandboxes.
    fn introduce(&mut self) -> Result<()> {
        self.wait_until_full()?;
        let (sandbox, _) = self.create_warm()?;
        self.wait_until_full()?;
        self.delete(sandbox["id"].as_str().context("a sandbox without an id")?)?;
        let text = |name: &str| sandbox[name].as_str().map(str::to_owned).with_context(|| format!("no {name}"));
        (self.name, self.runtime) = (text("node")?, text("runtime")?);
        Ok(())
    }

    /// Waits until what was claimed of the pool is made again.
    pub fn wait_until_full(&mut self) -> Result<()> {
        let wanted = self.pool_size + self.claimed;
        let log = &mut self.log;
        wait_for("the pool to be full", || Ok(log.read()?.len() >= wanted))
            .with_context(|| format!("its last words:\n{}", self.running.last_words()))
    }

    /// When the newest slot was seen to be made.
    pub fn newest_slot_seen(&self) -> Option<Instant> {
        self.log.made.values().max().copied()
    }

    /// Creates a sandbox of the default image. An error if that did not take a slot that stood ready.
    pub fn create_warm(&mut self) -> Result<(Value, Duration)> {
        let (sandbox, took) = self.create(None)?;
        let id = sandbox["id"].as_str().unwrap_or_default();
        if !self.log.made.contains_key(id) {
            bail!("sandbox {id} was not claimed from the pool");
        }
        self.claimed += 1;
        Ok((sandbox, took))
    }

    /// Creates a sandbox.
    pub fn create(&mut self, image: Option<&str>) -> Result<(Value, Duration)> {
        let mut body = json!({"timeout": SANDBOX_TIMEOUT_SECONDS});
        if let Some(image) = image {
            body["image"] = image.into();
        }
        let started = Instant::now();
        let answer = self.client.call("POST", "/api/v1/sandboxes", Some(&body))?;
        let took = started.elapsed();
        Ok((answer.expect(201)?.json()?, took))
    }

    /// Runs a command in a sandbox; an error unless it exits with 0.
    pub fn exec(&mut self, id: &str, command: &[&str]) -> Result<(Value, Duration)> {
        let path = format!("/api/v1/sandboxes/{id}/exec");
        let body = json!({ "cmd": command });
        let started = Instant::now();
        let answer = self.client.call("POST", &path, Some(&body))?;
        let took = started.elapsed();
        let outcome = answer.expect(200)?.json()?;
        if outcome["exit_code"] != 0 {
            bail!("{command:?} in {id}: {outcome}");
        }
        Ok((outcome, took))
    }

    /// A warm claim to its first result.
    pub fn claim(&mut self, command: &[&str]) -> Result<Claim> {
        let started = Instant::now();
        let (sandbox, create) = self.create_warm()?;
        let id = sandbox["id"].as_str().context("a sandbox without an id")?.to_owned();
        self.exec(&id, command)?;
        Ok(Claim { id, create, whole: started.elapsed() })
    }

    /// Deletes a sandbox and waits until its directory on the host is gone too.
    pub fn delete(&mut self, id: &str) -> Result<()> {
        self.client.call("DELETE", &format!("/api/v1/sandboxes/{id}"), None)?.expect(204)?;
        let directory = self.order.run_dir.join("sandboxes").join(id);
        wait_for("a sandbox's directory to be gone", || Ok(!directory.exists()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It destroys its sandboxes first.
        if let Err(error) = self.running.stop() {
            eprintln!("error: {error:#}");
        }
        if !self.name.is_empty() {
            cgroups::remove(&format!("warren-{}", self.name));
        }
    }
}

/// Which slots the node's log says were made, and when this was first seen.
struct SlotLog {
    path: PathBuf,
    read: usize,
    made: BTreeMap<String, Instant>,
}

impl SlotLog {
    fn new(path: PathBuf) -> Self {
        Self { path, read: 0, made: BTreeMap::new() }
    }

    fn read(&mut self) -> Result<&BTreeMap<String, Instant>> {
        let text = read_from(&self.path, self.read)?;
        // Only whole lines.
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        self.read += whole;
        let now = Instant::now();
        for id in text[..whole].lines().filter_map(slot_made) {
            self.made.entry(id.to_owned()).or_insert(now);
        }
        Ok(&self.made)
    }
}

fn read_from(path: &Path, offset: usize) -> Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = fs::File::open(path)?;
    file.seek(SeekFrom::Start(offset as u64))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

fn slot_made(line: &str) -> Option<&str> {
    line.contains(SLOT_MADE).then(|| line.split_whitespace().find_map(|word| word.strip_prefix("sandbox="))).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_slot_is_read_from_the_log() {
        let line = "2026-01-01T00:00:00.000001Z DEBUG node::engine_room: slot made sandbox=abc times=SlotTimes { }";
        assert_eq!(slot_made(line), Some("abc"));
        assert_eq!(slot_made("INFO node: something else sandbox=abc"), None);
    }
}
