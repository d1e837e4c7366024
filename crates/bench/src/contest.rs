//! P6 and P7: commits and linearizable reads among three members, ours beside etcd's, in turns.

use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::host;
use crate::key_value::KeyValue;
use crate::papers::Papers;
use crate::report::{Bar, Section, millis};
use crate::samples::Samples;
use crate::stop::Stop;
use crate::trace::{Counts, Trace, count};
use crate::trio::{MEMBERS, Trio};
use crate::turns::turns;

/// Bars of a commit: p50, p99, and time for so much work (throughput upside down) with its stretch.
const COMMIT_P50: f64 = 1.0;
const COMMIT_P99: f64 = 1.2;
const COMMIT_TIME: (f64, f64) = (1.0, 1.0 / 1.5);

/// Bar and stretch of a read.
const READ: (f64, f64) = (0.7, 0.4);

/// Many clients.
const MANY: usize = 64;

/// Calls of a lone client in one turn.
const CALLS_ALONE: usize = 40;

/// Calls of each of many clients in one turn.
const CALLS_OF_MANY: usize = 20;

/// Rounds for one of the whole run's: a turn is many calls.
const ROUNDS_ALONE_PER: usize = 4;
const ROUNDS_OF_MANY_PER: usize = 8;

/// Commits whose syncs are counted.
const COUNTED: usize = 200;

/// etcd writes its database 100 ms after a commit: what it owes is paid before the next side's turn, not in it.
const SETTLE: Duration = Duration::from_millis(150);

/// What makes data durable, or begins to.
const SYNCS: &str = "fsync,fdatasync,sync_file_range,msync,sync,syncfs";

/// Both sides, up.
pub struct Contest {
    ours: Trio,
    etcd: Trio,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Put,
    Range,
}

/// Where clients are connected.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clients {
    /// One, to the leader.
    AtLeader,
    /// One, to another member.
    AtFollower,
    /// Many, over all members.
    Everywhere,
}

/// One side's figures.
#[derive(Default)]
struct Side {
    each: Samples,
    /// How long a turn took.
    turn: Samples,
}

impl Contest {
    /// Starts both.
    pub fn start(directory: &Path) -> Result<Self> {
        let papers = Papers::make(&directory.join("papers"))?;
        let etcd = Trio::etcd(&directory.join("etcd"), &papers)?;
        let ours = Trio::ours(&directory.join("ours"))?;
        Ok(Self { ours, etcd })
    }

    /// P6.
    pub fn commits(&self, rounds: usize, scratch: &Path, stop: &Stop) -> Result<Section> {
        let mut section = Section::new("P6: a placement committed on three members");
        let value = self.ours.pair(0).value.len();
        section.line(&format!(
            "{}, through its HTTP gateway; ours are three processes with the node's own consensus, peer links and map. \
             Values of {value} bytes on both sides, mutual TLS between the members of both, one disk.",
            etcd_version()?
        ));
        for clients in [Clients::AtLeader, Clients::AtFollower, Clients::Everywhere] {
            self.compare(Call::Put, clients, rounds, stop, &mut section)?;
        }
        self.count_syncs(scratch, &mut section)?;
        Ok(section)
    }

    /// P7.
    pub fn reads(&self, rounds: usize, stop: &Stop) -> Result<Section> {
        let mut section = Section::new("P7: a linearizable read among three members");
        section.line(&format!("{}, through its HTTP gateway.", etcd_version()?));
        for clients in [Clients::AtLeader, Clients::AtFollower, Clients::Everywhere] {
            self.compare(Call::Range, clients, rounds, stop, &mut section)?;
        }
        Ok(section)
    }

    fn compare(&self, call: Call, at: Clients, rounds: usize, stop: &Stop, section: &mut Section) -> Result<()> {
        let (rounds, calls) = match at {
            Clients::Everywhere => (rounds.div_ceil(ROUNDS_OF_MANY_PER), CALLS_OF_MANY),
            _ => (rounds.div_ceil(ROUNDS_ALONE_PER), CALLS_ALONE),
        };
        let mut clients = [&self.ours, &self.ours, &self.etcd].map(|trio| Group::connect(trio, at));
        let mut sides: [Side; 3] = Default::default();
        // The first round counts for nobody.
        for round in 0..=rounds {
            stop.check()?;
            for side in turns::<3>(round) {
                thread::sleep(SETTLE);
                let (each, took) = clients[side].turn(call, calls)?;
                if round > 0 {
                    each.into_iter().for_each(|one| sides[side].each.push(one));
                    sides[side].turn.push(took);
                }
            }
        }
        report(call, at, calls, &sides, section);
        Ok(())
    }

    /// How often each side syncs, by strace, for commits one after another and for many at once.
    fn count_syncs(&self, scratch: &Path, section: &mut Section) -> Result<()> {
        if host::first_line("strace", "--version").is_err() {
            section.line("Syncs were not counted: strace is not installed.");
            return Ok(());
        }
        for (at, name) in [(Clients::AtLeader, "one client"), (Clients::Everywhere, "64 clients")] {
            for trio in [&self.ours, &self.etcd] {
                let mut clients = Group::connect(trio, at);
                let calls = COUNTED.div_ceil(clients.clients.len());
                clients.turn(Call::Put, calls)?;
                thread::sleep(SETTLE);
                let traces: Vec<Trace> = trio
                    .pids()
                    .into_iter()
                    .map(|pid| Trace::attach(pid, &scratch.join(pid.to_string()), Some(SYNCS)))
                    .collect::<Result<_>>()?;
                let committed = clients.turn(Call::Put, calls)?.0.len();
                thread::sleep(SETTLE);
                let mut total = Counts::new();
                for trace in traces {
                    for (name, calls) in count(trace.finish()?.iter().flat_map(|thread| &thread.calls)) {
                        *total.entry(name).or_default() += calls;
                    }
                }
                let listed: Vec<_> = total
                    .iter()
                    .map(|(name, calls)| format!("{name} {:.2}", *calls as f64 / committed as f64))
                    .collect();
                section.line(&format!(
                    "Syncs of {}, all three members together, for each of {committed} commits by {name}: {}.",
                    trio.name,
                    listed.join(", ")
                ));
            }
        }
        Ok(())
    }
}

/// Clients of one side, connected.
struct Group<'a> {
    trio: &'a Trio,
    clients: Vec<(usize, KeyValue)>,
    /// A key that is there.
    known: Option<Vec<u8>>,
}

impl<'a> Group<'a> {
    fn connect(trio: &'a Trio, at: Clients) -> Self {
        let members: Vec<usize> = match at {
            Clients::AtLeader => vec![trio.leader],
            Clients::AtFollower => vec![trio.a_follower()],
            Clients::Everywhere => (0..MANY).map(|client| client % MEMBERS).collect(),
        };
        let clients = members.into_iter().map(|member| (member, trio.client(member))).collect();
        Self { trio, clients, known: None }
    }

    /// Each client makes so many calls, all clients side by side. Their times, and from the first call's begin to the
    /// last one's end.
    fn turn(&mut self, call: Call, calls: usize) -> Result<(Vec<Duration>, Duration)> {
        if call == Call::Range && self.known.is_none() {
            let (member, client) = &mut self.clients[0];
            let pair = self.trio.pair(*member);
            client.put(&pair.key, &pair.value)?;
            self.known = Some(pair.key);
        }
        let (trio, known) = (self.trio, self.known.as_deref().unwrap_or_default());
        let one = |member: usize, client: &mut KeyValue| match call {
            Call::Put => trio.put_one(client, member),
            Call::Range => client.range(known).with_context(|| trio.name),
        };
        if let [(member, client)] = &mut self.clients[..] {
            let started = Instant::now();
            let each: Vec<_> = (0..calls).map(|_| one(*member, client)).collect::<Result<_>>()?;
            return Ok((each, started.elapsed()));
        }
        let ready = Barrier::new(self.clients.len() + 1);
        thread::scope(|scope| {
            let (one, ready) = (&one, &ready);
            let threads: Vec<_> = self
                .clients
                .iter_mut()
                .map(|(member, client)| {
                    scope.spawn(move || {
                        ready.wait();
                        (0..calls).map(|_| one(*member, client)).collect::<Result<Vec<_>>>()
                    })
                })
                .collect();
            ready.wait();
            let started = Instant::now();
            let mut each = Vec::new();
            for thread in threads {
                each.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok((each, started.elapsed()))
        })
    }
}

fn report(call: Call, at: Clients, calls: usize, sides: &[Side; 3], section: &mut Section) {
    let [ours, control, etcd] = sides;
    let what = match call {
        Call::Put => "commits",
        Call::Range => "reads",
    };
    let whose = match at {
        Clients::AtLeader => "One client at the leader".to_owned(),
        Clients::AtFollower => "One client at a member that does not lead".to_owned(),
        Clients::Everywhere => format!("{MANY} clients over all three members"),
    };
    section.line(&format!("{whose}, {what}:"));
    section.times(&[("Warren", &ours.each), ("Warren, control", &control.each), ("etcd", &etcd.each)]);
    let clients = if at == Clients::Everywhere { MANY } else { 1 };
    let rate = |side: &Side| (clients * calls) as f64 / side.turn.p50().as_secs_f64();
    section.line(&format!(
        "In a second (median turn of {}): Warren {:.0}, control {:.0}, etcd {:.0}.",
        millis(ours.turn.p50()),
        rate(ours),
        rate(control),
        rate(etcd)
    ));
    let bar = |what, ratio, (bar, stretch): (f64, Option<f64>)| Bar { what, ratio, bar, stretch };
    let p50 = ours.each.ratio_to(&etcd.each);
    section.bars(&match call {
        Call::Put => vec![
            bar("p50, Warren / etcd", p50, (COMMIT_P50, None)),
            bar("p99, Warren / etcd", ours.each.ratio_at(99.0, &etcd.each), (COMMIT_P99, None)),
            bar(
                "time for the same work (throughput upside down), Warren / etcd",
                ours.turn.ratio_to(&etcd.turn),
                (COMMIT_TIME.0, Some(COMMIT_TIME.1)),
            ),
        ],
        Call::Range => vec![bar("p50, Warren / etcd", p50, (READ.0, Some(READ.1)))],
    });
    section.control(&ours.each, &control.each);
}

fn etcd_version() -> Result<String> {
    Ok(host::first_line("etcd", "--version")?.replace("etcd Version:", "etcd"))
}
