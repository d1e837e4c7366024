//! Three members on each side of the comparison of logs: three of ours, and three of etcd, on one disk.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use types::{HostId, Incarnation};
use warren_core::placement;

use crate::child::Running;
use crate::http::Client;
use crate::key_value::KeyValue;
use crate::papers::Papers;
use crate::placing::place;
use crate::ports;
use crate::processes::wait_for;

/// Members on each side.
pub const MEMBERS: usize = 3;

/// How long a token lets a member join.
const TOKEN_SECONDS: u64 = 3600;

/// What our leader says when all three vote: when the change begins, and when it is over.
const THREE_VOTERS: &str = "voters=[1, 2, 3] learners=[]";

/// Lines of it.
const THREE_VOTERS_LINES: usize = 2;

/// One pair that is put: the placement, and the id that it is read by.
pub struct Pair {
    /// The id.
    pub key: Vec<u8>,
    /// The encoded command.
    pub value: Vec<u8>,
}

/// Three processes that are one log.
pub struct Trio {
    /// What they are.
    pub name: &'static str,
    members: Vec<Member>,
    /// Which of them leads.
    pub leader: usize,
    next: AtomicU64,
}

struct Member {
    running: Running,
    address: SocketAddr,
    owner: (HostId, Incarnation),
}

impl Trio {
    /// Three of ours.
    pub fn ours(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let program = std::env::current_exe()?;
        let mut members: Vec<Member> = Vec::new();
        let peers = free_addresses()?;
        let first = directory.join("0");
        for (number, address) in free_addresses()?.into_iter().enumerate() {
            let token = match number {
                0 => None,
                _ => Some(node::join_token(&first, TOKEN_SECONDS)?),
            };
            let log = directory.join(format!("{number}.log"));
            let mut running = Running::start("a member of ours", &program, log, |command| {
                command.arg("member").arg("--data-dir").arg(directory.join(number.to_string()));
                command.args(["--listen", &address.to_string(), "--peer-listen", &peers[number].to_string()]);
                if let Some(token) = &token {
                    command.args(["--join", &peers[0].to_string(), "--join-token", token]);
                }
            })?;
            let mut client = Client::tcp(address, "");
            let mut owner = None;
            running.wait_until(|| {
                owner = client.call("GET", "/status", None).and_then(|answer| answer.expect(200)?.json()).ok();
                owner.is_some()
            })?;
            let owner = owner.context("no status")?;
            let host = HostId::new(owner["host"].as_str().context("no host")?);
            let incarnation = Incarnation(owner["incarnation"].as_u64().context("no incarnation")?);
            members.push(Member { running, address, owner: (host, incarnation) });
        }
        let first_log = directory.join("0.log");
        wait_for("all three of ours to vote", || {
            let log = fs::read_to_string(&first_log)?;
            Ok(log.lines().filter(|line| line.contains(THREE_VOTERS)).count() >= THREE_VOTERS_LINES)
        })?;
        let mut trio = Self { name: "Warren", members, leader: 0, next: AtomicU64::new(1) };
        trio.leader = trio.find_leader(|client| Ok(client.call("GET", "/status", None)?.json()?["leads"] == true))?;
        Ok(trio)
    }

    /// Three of etcd.
    pub fn etcd(directory: &Path, papers: &Papers) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let (addresses, peers) = (free_addresses()?, free_addresses()?);
        let cluster: Vec<_> =
            peers.iter().enumerate().map(|(number, peer)| format!("m{number}=https://{peer}")).collect();
        let cluster = cluster.join(",");
        let mut members = Vec::new();
        for number in 0..MEMBERS {
            let (client_url, peer_url) =
                (format!("http://{}", addresses[number]), format!("https://{}", peers[number]));
            let log = directory.join(format!("{number}.log"));
            let running = Running::start("a member of etcd", Path::new("etcd"), log, |command| {
                command.args(["--name", &format!("m{number}"), "--log-level", "error", "--logger", "zap"]);
                command.arg("--data-dir").arg(directory.join(number.to_string()));
                command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
                command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
                command.args(["--initial-cluster", &cluster, "--initial-cluster-state", "new"]);
                command.arg("--peer-client-cert-auth").arg("--peer-trusted-ca-file").arg(&papers.authority);
                command.arg("--peer-cert-file").arg(&papers.certificate).arg("--peer-key-file").arg(&papers.key);
            })?;
            let owner = (HostId::new(format!("{number:016x}")), Incarnation(1));
            members.push(Member { running, address: addresses[number], owner });
        }
        let mut trio = Self { name: "etcd", members, leader: 0, next: AtomicU64::new(1) };
        for member in &mut trio.members {
            let mut client = Client::tcp(member.address, "");
            member.running.wait_until(|| etcd_status(&mut client).is_ok_and(|status| status.1 != "0"))?;
        }
        trio.leader = trio.find_leader(|client| {
            let (me, leader) = etcd_status(client)?;
            Ok(me == leader)
        })?;
        Ok(trio)
    }

    fn find_leader(&self, leads: impl Fn(&mut Client) -> Result<bool>) -> Result<usize> {
        let mut found = None;
        wait_for("a leader", || {
            for (number, member) in self.members.iter().enumerate() {
                if leads(&mut Client::tcp(member.address, ""))? {
                    found = Some(number);
                }
            }
            Ok(found.is_some())
        })?;
        found.with_context(|| format!("{} has no leader", self.name))
    }

    /// A client of a member, with a connection of its own.
    pub fn client(&self, member: usize) -> KeyValue {
        KeyValue::new(self.members[member].address)
    }

    /// A member that does not lead.
    pub fn a_follower(&self) -> usize {
        (self.leader + 1) % MEMBERS
    }

    /// Their pids.
    pub fn pids(&self) -> Vec<i32> {
        self.members.iter().map(|member| member.running.pid()).collect()
    }

    /// A pair that was never put, whose owner is this member.
    pub fn pair(&self, member: usize) -> Pair {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (host, incarnation) = self.members[member].owner.clone();
        let command = place(number, host, incarnation);
        let key = command.kind.sandbox().map(|id| id.as_str().as_bytes().to_vec()).unwrap_or_default();
        Pair { key, value: placement::encode(&command) }
    }

    /// Puts a pair once.
    pub fn put_one(&self, client: &mut KeyValue, member: usize) -> Result<Duration> {
        let pair = self.pair(member);
        client.put(&pair.key, &pair.value).with_context(|| self.name)
    }
}

/// A member's id and its leader's.
fn etcd_status(client: &mut Client) -> Result<(String, String)> {
    let answer = client.call("POST", "/v3/maintenance/status", Some(&serde_json::json!({})))?.expect(200)?.json()?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("0").to_owned();
    Ok((text(&answer["header"]["member_id"]), text(&answer["leader"])))
}

fn free_addresses() -> Result<[SocketAddr; MEMBERS]> {
    Ok([ports::free()?, ports::free()?, ports::free()?])
}
