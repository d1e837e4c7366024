//! P8, and P4 through another node: what it adds that a request comes in at a node that is not the sandbox's owner.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::cluster::Cluster;
use crate::floor::Floor;
use crate::host;
use crate::http::Client;
use crate::nginx::Nginx;
use crate::node::KEY;
use crate::podman::Podman;
use crate::processes;
use crate::report::{Bar, Section, millis};
use crate::samples::{Samples, ratio};
use crate::stop::Stop;
use crate::turns::turns;

/// Bar for what a hop adds, in parts of what nginx adds.
const BAR_ADDED: f64 = 1.0;

/// Bar for the time that the same work takes through a hop: 0.8 of the throughput.
const BAR_TIME: f64 = 1.0 / 0.8;

/// Bar and stretch of an exec through another node against the floor.
const BAR_FLOOR: (f64, f64) = (2.0, 1.6);

/// Turns for one of the run's rounds, where one client asks.
const TURNS: usize = 4;

/// Calls of a turn; the first counts for nobody, since it finds the processors' caches as another side left them.
const CALLS: usize = 4;

/// Clients that ask at once, and how often each in a turn.
const CLIENTS: usize = 16;
const CALLS_OF_EACH: usize = 12;

/// Rounds of many clients for one of the run's.
const ROUNDS_OF_MANY_PER: usize = 4;

/// A small file and a large one.
const SMALL: (&str, u64) = ("/tmp/small", 4 << 10);
const LARGE: (&str, u64) = ("/tmp/large", 64 << 20);

/// Downloads of the large one from each side.
const DOWNLOADS: usize = 8;

/// Doors: the owner's, another node's twice, nginx beside the owner, nginx before that one.
const DOORS: usize = 5;
const OWNER: usize = 0;
const OTHER: usize = 1;
const CONTROL: usize = 2;
const NGINX_DIRECT: usize = 3;
const NGINX_THROUGH: usize = 4;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    Exec,
    Small,
    Large,
}

/// Asks one sandbox through all doors.
struct Doors {
    addresses: [SocketAddr; DOORS],
    id: String,
}

/// Measures it.
pub fn measure(
    cluster: &mut Cluster,
    podman: &mut Podman,
    scratch: &Path,
    rounds: usize,
    stop: &Stop,
) -> Result<Section> {
    let (owner, other) = (0, 1);
    let (sandbox, _) = cluster.nodes[owner].create_warm()?;
    if sandbox["node"] != cluster.nodes[owner].name.as_str() {
        bail!("the sandbox is another node's: {sandbox}");
    }
    let id = sandbox["id"].as_str().context("a sandbox without an id")?.to_owned();
    for (path, bytes) in [SMALL, LARGE] {
        let command = format!("head -c {bytes} /dev/urandom > {path}");
        cluster.nodes[owner].exec(&id, &["sh", "-c", &command])?;
    }
    let container = podman.inspect(&format!("warren-{id}"))?;
    let pid = container["State"]["Pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).context("no pid")?;
    let container = container["Id"].as_str().context("a container without an id")?.to_owned();
    cluster.nodes[owner].wait_until_full()?;
    processes::wait_until_tidy(&container)?;
    let mut floor = Floor::start(pid)?;
    let nginx = Nginx::start(scratch, cluster.nodes[owner].listen())?;
    let (direct, hop) = (cluster.nodes[owner].listen(), cluster.nodes[other].listen());
    let doors = Doors { addresses: [direct, hop, hop, nginx.direct, nginx.through], id: id.clone() };

    let mut section = Section::new("P8: a request through a node that is not the owner");
    section.line(&format!(
        "Reference: {}, `proxy_pass` to a second nginx before the owner, beside the same request to that second one. \
         Between the two, as between our nodes, mutual TLS 1.3 on kept connections; clients speak plain text on both sides.",
        host::first_line_of_errors("nginx", "-v")?
    ));
    for ask in [Ask::Exec, Ask::Small] {
        alone(&doors, ask, Some(&mut floor).filter(|_| ask == Ask::Exec), rounds * TURNS, stop, &mut section)?;
    }
    for ask in [Ask::Exec, Ask::Small] {
        together(&doors, ask, rounds.div_ceil(ROUNDS_OF_MANY_PER), stop, &mut section)?;
    }
    downloads(&doors, stop, &mut section)?;
    cluster.nodes[owner].delete(&id)?;
    processes::wait_until_gone(&container)?;
    Ok(section)
}

impl Doors {
    fn clients(&self) -> [Client; DOORS] {
        self.addresses.map(|address| Client::tcp(address, KEY))
    }

    fn ask(&self, client: &mut Client, ask: Ask) -> Result<Duration> {
        let id = &self.id;
        let started = Instant::now();
        match ask {
            Ask::Exec => {
                let body = json!({"cmd": ["true"]});
                let answer = client.call("POST", &format!("/api/v1/sandboxes/{id}/exec"), Some(&body))?;
                let took = started.elapsed();
                let outcome = answer.expect(200)?.json()?;
                if outcome["exit_code"] != 0 {
                    bail!("{outcome}");
                }
                Ok(took)
            }
            Ask::Small | Ask::Large => {
                let (path, bytes) = if ask == Ask::Small { SMALL } else { LARGE };
                let answer = client.call("GET", &format!("/api/v1/sandboxes/{id}/files?path={path}"), None)?;
                let took = started.elapsed();
                let got = answer.expect(200)?.body.len() as u64;
                if got != bytes {
                    bail!("{got} bytes instead of {bytes}");
                }
                Ok(took)
            }
        }
    }
}

fn name(ask: Ask) -> &'static str {
    match ask {
        Ask::Exec => "exec `true`",
        Ask::Small => "read of a file of 4 KiB",
        Ask::Large => "download of 64 MiB",
    }
}

fn alone(
    doors: &Doors,
    ask: Ask,
    mut floor: Option<&mut Floor>,
    rounds: usize,
    stop: &Stop,
    section: &mut Section,
) -> Result<()> {
    let mut clients = doors.clients();
    let mut sides: [Samples; DOORS] = Default::default();
    let mut bottom = Samples::new();
    for round in 0..rounds {
        stop.check()?;
        for side in turns::<DOORS>(round) {
            for call in 0..CALLS {
                let took = doors.ask(&mut clients[side], ask)?;
                // The first round makes connections.
                if call > 0 && round > 0 {
                    sides[side].push(took);
                }
            }
        }
        if let Some(floor) = &mut floor {
            for call in 0..CALLS {
                let took = floor.exec()?;
                if call > 0 {
                    bottom.push(took);
                }
            }
        }
    }
    section.line(&format!("One client, {}:", name(ask)));
    let mut rows = vec![
        ("Warren, at the owner", &sides[OWNER]),
        ("Warren, through another node", &sides[OTHER]),
        ("Warren, through another node, control", &sides[CONTROL]),
        ("nginx before the owner", &sides[NGINX_DIRECT]),
        ("nginx before that nginx", &sides[NGINX_THROUGH]),
    ];
    if bottom.len() > 0 {
        rows.push(("floor: setns, user switch, execve, wait", &bottom));
    }
    section.times(&rows);
    let added = |through: usize, direct: usize| sides[through].p50().saturating_sub(sides[direct].p50());
    let (ours, nginx) = (added(OTHER, OWNER), added(NGINX_THROUGH, NGINX_DIRECT));
    section.line(&format!("Added to the median: by a node {}, by nginx {}.", millis(ours), millis(nginx)));
    let mut bars =
        vec![Bar { what: "added p50, Warren / nginx", ratio: ratio(ours, nginx), bar: BAR_ADDED, stretch: None }];
    if bottom.len() > 0 {
        bars.push(Bar {
            what: "P4 through another node: Warren / floor",
            ratio: sides[OTHER].ratio_to(&bottom),
            bar: BAR_FLOOR.0,
            stretch: Some(BAR_FLOOR.1),
        });
    }
    section.bars(&bars);
    section.control(&sides[OTHER], &sides[CONTROL]);
    Ok(())
}

fn together(doors: &Doors, ask: Ask, rounds: usize, stop: &Stop, section: &mut Section) -> Result<()> {
    let mut clients: Vec<Vec<Client>> =
        doors.addresses.map(|address| (0..CLIENTS).map(|_| Client::tcp(address, KEY)).collect()).into();
    let mut sides: [Samples; DOORS] = Default::default();
    for round in 0..=rounds {
        stop.check()?;
        for side in turns::<DOORS>(round) {
            let took = turn_of_many(doors, ask, &mut clients[side])?;
            if round > 0 {
                sides[side].push(took);
            }
        }
    }
    section.line(&format!("{CLIENTS} clients at once, {}; each row is the time of {} calls:", name(ask), work()));
    section.times(&[
        ("Warren, at the owner", &sides[OWNER]),
        ("Warren, through another node", &sides[OTHER]),
        ("Warren, through another node, control", &sides[CONTROL]),
        ("nginx before the owner", &sides[NGINX_DIRECT]),
        ("nginx before that nginx", &sides[NGINX_THROUGH]),
    ]);
    let rate = |side: usize| work() as f64 / sides[side].p50().as_secs_f64();
    section.line(&format!(
        "In a second: at the owner {:.0}, through another node {:.0}; nginx {:.0}, through the other nginx {:.0}.",
        rate(OWNER),
        rate(OTHER),
        rate(NGINX_DIRECT),
        rate(NGINX_THROUGH)
    ));
    section.bars(&[
        Bar {
            what: "time for the same work, through another node / at the owner",
            ratio: sides[OTHER].ratio_to(&sides[OWNER]),
            bar: BAR_TIME,
            stretch: None,
        },
        Bar {
            what: "time for the same work, through another node / through both nginx",
            ratio: sides[OTHER].ratio_to(&sides[NGINX_THROUGH]),
            bar: BAR_TIME,
            stretch: None,
        },
    ]);
    section.control(&sides[OTHER], &sides[CONTROL]);
    Ok(())
}

const fn work() -> usize {
    CLIENTS * CALLS_OF_EACH
}

fn turn_of_many(doors: &Doors, ask: Ask, clients: &mut [Client]) -> Result<Duration> {
    let ready = Barrier::new(clients.len() + 1);
    thread::scope(|scope| {
        let ready = &ready;
        let threads: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                scope.spawn(move || {
                    ready.wait();
                    (0..CALLS_OF_EACH).try_for_each(|_| doors.ask(client, ask).map(drop))
                })
            })
            .collect();
        ready.wait();
        let started = Instant::now();
        for thread in threads {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(started.elapsed())
    })
}

fn downloads(doors: &Doors, stop: &Stop, section: &mut Section) -> Result<()> {
    let mut clients = doors.clients();
    let mut sides: [Samples; DOORS] = Default::default();
    for round in 0..=DOWNLOADS {
        stop.check()?;
        for side in turns::<DOORS>(round) {
            let took = doors.ask(&mut clients[side], Ask::Large)?;
            if round > 0 {
                sides[side].push(took);
            }
        }
    }
    let rate = |side: usize| (LARGE.1 >> 20) as f64 / sides[side].p50().as_secs_f64();
    section.line(&format!(
        "One client, {}, MiB a second (n {DOWNLOADS}): at the owner {:.0}, through another node {:.0} (control {:.0}); \
         nginx {:.0}, through the other nginx {:.0}.",
        name(Ask::Large),
        rate(OWNER),
        rate(OTHER),
        rate(CONTROL),
        rate(NGINX_DIRECT),
        rate(NGINX_THROUGH)
    ));
    Ok(())
}
