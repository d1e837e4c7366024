//! `compose`: what `docker-compose.yml` promises, tried on a Docker engine of our own: three nodes that vote, a
//! sandbox through the load balancer, the death of its owner, its return, and nothing left.

mod engine;
mod project;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::build::{self, Built};
use crate::client::Client;
use crate::{command, paths, setup, steps};
use engine::{Engine, Started};
use project::Project;

/// The nodes of the file.
const SERVICES: [&str; 3] = ["n1", "n2", "n3"];
const HOME: &str = "/home/sandbox";
/// Written before its owner dies, and read after its return.
const KEPT: (&str, &[u8]) = ("/home/sandbox/kept", b"kept over the death of a host\n");
const KEY: &str = "the-key-of-the-compose-test";
/// Seconds that a sandbox may live, should nobody delete it.
const SANDBOX_TIMEOUT_SECONDS: u64 = 600;
/// Seconds that a command may take.
const COMMAND_TIMEOUT_SECONDS: u64 = 60;
/// Seconds that a command would take whose client goes away.
const ABANDONED_SECONDS: u64 = 3_217;
/// How long a condition may take to come true.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Lines of each service's log that are shown on failure.
const LOG_TAIL_LINES: usize = 15;

/// How the test ended, where it did not fail.
pub enum Outcome {
    Passed,
    /// This host can not run it, and why.
    CannotRun(String),
}

/// The test alone.
pub fn run() -> Result<()> {
    setup::run(setup::Say::OnlyWhenMissing)?;
    let built = build::build(build::Profile::Dev)?;
    match test(&built)? {
        Outcome::Passed => println!("docker-compose.yml keeps its promises, and nothing is left but cached images"),
        Outcome::CannotRun(reason) => println!("SKIPPED docker-compose.yml: {reason}"),
    }
    Ok(())
}

/// Starts an engine, tries the file on it, stops the engine.
pub fn test(built: &Built) -> Result<Outcome> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Outcome::CannotRun("only root can start a Docker engine".to_owned()));
    }
    // The file takes the binaries from there.
    if !built.warren.starts_with(paths::root().join("target")) {
        return Ok(Outcome::CannotRun("the build is not in the checkout's target directory".to_owned()));
    }
    if let Err(error) = setup::compose() {
        return Ok(Outcome::CannotRun(format!("its packages can not be installed: {error:#}")));
    }
    for program in ["dockerd", "docker"] {
        if command::find_program(program).is_none() {
            return Ok(Outcome::CannotRun(format!("there is no {program}, and this release has no package of it")));
        }
    }
    println!("docker-compose.yml:");
    let rules = docker_rules()?;
    let engine = match steps::step("start a Docker engine", Engine::start)? {
        Started::Runs(engine) => engine,
        Started::CannotRun(reason) => return Ok(Outcome::CannotRun(reason)),
    };
    let mut links = BTreeSet::new();
    let outcome = on_engine(&engine, &mut links);
    if outcome.is_err() {
        println!("last words of the engine:\n{}", engine.log_tail());
    }
    let stopped = steps::step("stop the Docker engine", || engine.stop());
    let outcome = outcome?;
    stopped?;
    let left = left_on_the_host(&links, rules)?;
    if !left.is_empty() {
        bail!("left behind:\n  {}", left.join("\n  "));
    }
    Ok(outcome)
}

fn on_engine(engine: &Engine, links: &mut BTreeSet<String>) -> Result<Outcome> {
    let Some(mut project) = Project::new(engine, KEY)? else {
        return Ok(Outcome::CannotRun("there is neither `docker compose` nor docker-compose".to_owned()));
    };
    println!("  by {}, images are kept as a cache", project.compose_words());
    // What a run left that was killed.
    project.down()?;
    project.ensure_base()?;
    if let Some(reason) = project.why_not() {
        return Ok(Outcome::CannotRun(format!("a container can not do here what a node's must: {reason}")));
    }
    let refusal = project.refusal_without_a_key()?;
    if !refusal.contains("WARREN_API_KEY") && !refusal.contains("key that clients show") {
        bail!("without a key Compose says only: {refusal}");
    }
    steps::step("build the images", || project.build())?;
    let outcome = story(&project, links);
    if outcome.is_err() {
        for service in SERVICES.iter().chain(&["balancer"]) {
            let log = project.log(service).unwrap_or_else(|error| format!("({error:#})"));
            println!("last words of {service}:\n{}", command::tail(&log, LOG_TAIL_LINES));
        }
    }
    // Also after a failure, which comes first.
    let down = steps::step("compose down", || project.down());
    outcome?;
    down?;
    let left = project.what_is_left()?;
    if !left.is_empty() {
        bail!("compose down left {}", left.join(", "));
    }
    Ok(Outcome::Passed)
}

fn story(project: &Project, links: &mut BTreeSet<String>) -> Result<()> {
    steps::step("compose up", || project.up())?;
    links.extend(project.links()?);
    let client = project.client();
    let leader = steps::step("wait until all three vote and agree on a leader", || all_vote(project))?;
    let ids = SERVICES.map(|service| id_of(project, service));
    let [first, second, third] = ids;
    let ids = [first?, second?, third?];
    let name = |id: &str| SERVICES.iter().zip(&ids).find(|(_, own)| *own == id).map_or("?", |(service, _)| *service);
    println!("    leader is {}", name(&leader));

    steps::step("wait until the balancer answers", || wait("the balancer answers", || client.health()))?;
    let id = steps::step("create a sandbox through it", || create(&client))?;
    steps::step("write a file, run Python", || {
        client.write(&id, KEPT.0, KEPT.1)?;
        runs_python(&client, &id)
    })?;
    steps::step("read the file through each node", || {
        SERVICES.iter().try_for_each(|service| is_kept(&project.client_of(service)?, &id))
    })?;
    steps::step("leave a command alone: it ends", || abandoned_command_ends(project, &client, &id))?;

    let owner = client.get(&id)?["node"].as_str().context("the sandbox is nobody's")?.to_owned();
    let owner = name(&owner);
    println!("    {owner} owns sandbox {id}. Now its container dies:");
    steps::step(&format!("compose kill {owner}"), || project.kill(owner))?;
    let shown = steps::step("ask until the sandbox is shown as unreachable", || is_shown(&client, &id, "unreachable"))?;
    println!("    the cluster says: {}", shown["error"].as_str().unwrap_or("nothing of why"));
    match client.exec(&id, &["true"], HOME, COMMAND_TIMEOUT_SECONDS) {
        Ok(_) => bail!("a command ran in a sandbox whose host is dead"),
        Err(error) => println!("    a command in it: {error:#}"),
    }
    let other = steps::step("create another sandbox through the balancer", || {
        // An election may be under way, and the balancer may not have seen the death yet.
        wait("a sandbox is created without one node", || create(&client))
    })?;
    steps::step("run Python in it", || runs_python(&client, &other))?;

    steps::step(&format!("compose start {owner}"), || project.start(owner))?;
    // To its sandboxes it is a host after a reboot: files are kept, processes are not.
    steps::step("ask until the sandbox is shown as stopped", || is_shown(&client, &id, "stopped"))?;
    steps::step("start the sandbox, read its file, run Python", || {
        client.start(&id)?;
        is_kept(&client, &id)?;
        runs_python(&client, &id)
    })?;
    steps::step("wait until all three agree again", || agree(project))?;

    // None of them is well without another: nothing may wait for that one alone.
    steps::step("compose kill, all of it, and compose up", || project.kill_all().and_then(|()| project.up()))?;
    steps::step("wait until all three agree again", || agree(project))?;
    steps::step("start the sandbox, read its file", || {
        is_shown(&client, &id, "stopped")?;
        client.start(&id)?;
        is_kept(&client, &id)
    })?;
    steps::step("delete the sandboxes", || client.list()?.iter().try_for_each(|id| client.delete(id)))
}

fn create(client: &Client) -> Result<String> {
    let sandbox = client.create(SANDBOX_TIMEOUT_SECONDS)?;
    Ok(sandbox["id"].as_str().with_context(|| format!("a sandbox without an id: {sandbox}"))?.to_owned())
}

fn runs_python(client: &Client, id: &str) -> Result<()> {
    let result = client.exec(id, &["python3", "-c", "print(2**100)"], HOME, COMMAND_TIMEOUT_SECONDS)?;
    if result.exit_code != 0 || result.stdout != "1267650600228229401496703205376\n" {
        bail!("Python ended with {} and says {}{}", result.exit_code, result.stdout, result.stderr);
    }
    Ok(())
}

fn is_kept(client: &Client, id: &str) -> Result<()> {
    let bytes = client.read(id, KEPT.0)?;
    if bytes != KEPT.1 {
        bail!("the file holds {:?}", String::from_utf8_lossy(&bytes));
    }
    Ok(())
}

/// A client that goes away takes its command with it, also through the balancer.
fn abandoned_command_ends(project: &Project, client: &Client, id: &str) -> Result<()> {
    let sleep = ABANDONED_SECONDS.to_string();
    let count = || -> Result<usize> {
        // The brackets keep it from finding itself.
        let search = format!("cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o '[s]leep {sleep}' | wc -l");
        let result = client.exec(id, &["sh", "-c", &search], HOME, COMMAND_TIMEOUT_SECONDS)?;
        result.stdout.trim().parse().with_context(|| format!("no number: {}", result.stdout))
    };
    let body = json!({ "cmd": ["sleep", &sleep] }).to_string();
    let mut stream = TcpStream::connect(project.address()).context("the balancer does not take a connection")?;
    write!(
        stream,
        "POST /api/v1/sandboxes/{id}/exec HTTP/1.1\r\nHost: warren\r\nX-API-Key: {KEY}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let runs = |wanted: usize| {
        wait("the command of a client that goes away", || match count()? {
            found if found == wanted => Ok(()),
            found => bail!("{found} run, not {wanted}"),
        })
    };
    runs(1)?;
    drop(stream);
    runs(0)
}

fn is_shown(client: &Client, id: &str, status: &str) -> Result<Value> {
    wait(&format!("the sandbox is {status}"), || {
        let shown = client.get(id)?;
        if shown["status"] == status { Ok(shown) } else { bail!("{shown}") }
    })
}

fn id_of(project: &Project, service: &str) -> Result<String> {
    let health = project.client_of(service)?.health()?;
    Ok(health["node"].as_str().with_context(|| format!("no node in {health}"))?.to_owned())
}

/// Waits until all see a quorum and the same leader, and returns its id.
fn agree(project: &Project) -> Result<String> {
    wait("the nodes agree on a leader", || {
        let healths =
            SERVICES.iter().map(|service| project.client_of(service)?.health()).collect::<Result<Vec<_>>>()?;
        let leader = healths[0]["leader"].as_str().with_context(|| format!("no leader in {}", healths[0]))?;
        let agreed = healths.iter().all(|health| health["quorum"] == true && health["leader"] == leader);
        if agreed { Ok(leader.to_owned()) } else { bail!("{healths:?}") }
    })
}

/// Waits until every node shows all three as voters, and returns the leader's id.
fn all_vote(project: &Project) -> Result<String> {
    wait("all three vote", || {
        for service in SERVICES {
            let nodes = project.client_of(service)?.nodes()?;
            let votes = |node: &&Value| node["role"] == "leader" || node["role"] == "voter";
            if nodes.iter().filter(votes).count() != SERVICES.len() {
                bail!("{service} shows {nodes:?}");
            }
        }
        Ok(())
    })?;
    agree(project)
}

/// Asks again until the answer is a good one; the last bad one is quoted.
fn wait<T>(what: &str, look: impl Fn() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        let error = match look() {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        if Instant::now() > deadline {
            bail!("not within {} s: {what}. The last answer: {error:#}", WAIT_TIMEOUT.as_secs());
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Rules of the host that name Docker: an engine of the host's own may have some.
fn docker_rules() -> Result<usize> {
    let rules = command::read(Command::new("nft").args(["list", "ruleset"]))?;
    Ok(rules.lines().filter(|line| line.contains("DOCKER") || line.contains("docker")).count())
}

/// What the engine and the project have left outside of the engine's cache. Its mounts were in a namespace of its own.
fn left_on_the_host(links: &BTreeSet<String>, rules_before: usize) -> Result<Vec<String>> {
    let mut left: Vec<String> = links
        .iter()
        .filter(|link| Path::new("/sys/class/net").join(link).exists())
        .map(|link| format!("network link {link}"))
        .collect();
    let rules = docker_rules()?;
    if rules > rules_before {
        left.push(format!("{} rules of nftables that name Docker", rules - rules_before));
    }
    let cgroups = crate::leftovers::cgroups()?;
    let ours = cgroups.iter().filter(|path| path.file_name().is_some_and(|name| name == engine::CGROUP));
    left.extend(ours.map(|path| format!("cgroup {}", path.display())));
    let inside = |pid: &u32| {
        let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        cgroups.contains(&format!("/{}/", engine::CGROUP))
    };
    let pids = crate::leftovers::pids().into_iter().filter(inside);
    left.extend(pids.map(|pid| format!("process {pid} ({})", crate::leftovers::program(pid))));
    Ok(left)
}
