//! `up`: from a fresh checkout to a first program's output, through every layer, step by step with times.

mod balancer;
mod host_nodes;
mod three;
mod traces;

use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::client::Client;
use crate::leftovers::Watch;
use crate::node_process::{NodeOrder, NodeProcess};
use crate::{build, image, paths, setup, steps};

/// The program that the first sandbox runs.
const PROGRAM: &str = include_str!("first_program.py");
const HOME: &str = "/home/sandbox";
/// What the program's file must hold: from the literature, not from the program.
const PI_START: &str = "3.14159265358979323846264338327950288419716939937510";
const PI_END: &str = "2164201989\n";
const PI_LENGTH: usize = 1003;

/// Where a node listens when it stays.
const DEFAULT_PORT: u16 = 7700;
/// Seconds that the demonstration's sandbox may live, should nobody delete it.
const SANDBOX_TIMEOUT_SECONDS: u64 = 1800;
/// Seconds that the program may take.
const PROGRAM_TIMEOUT_SECONDS: u64 = 60;
/// How often a node that stays is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
const KEY_BYTES: usize = 24;
/// The one cluster that can be brought up.
const THREE: u32 = 3;

/// How to bring it up.
#[derive(Args)]
pub struct Arguments {
    /// How many nodes: 1, or 3 on hosts of their own behind a load balancer
    #[arg(long, default_value_t = 1)]
    nodes: u32,
    /// End after the first program, and see that nothing is left behind
    #[arg(long)]
    once: bool,
    /// Port on 127.0.0.1 [default: 7700, with --once a free one]
    #[arg(long)]
    port: Option<u16>,
    /// Sandboxes kept ready
    #[arg(long, default_value_t = 2)]
    pool_size: u32,
    /// Container runtime: runc or crun [default: what suits the host]
    #[arg(long)]
    runtime: Option<String>,
    /// Build `warren` without optimisation, which is quicker to build
    #[arg(long)]
    dev: bool,
}

/// The directories of one `up`.
struct Places {
    /// Data, key and log; in the checkout, so that it goes with it.
    home: PathBuf,
    /// Sockets and mounts of a node alone; short, because the path of a socket may not be long.
    run: PathBuf,
}

/// Brings a node up and runs the first program.
pub fn run(arguments: &Arguments) -> Result<()> {
    if ![1, THREE].contains(&arguments.nodes) {
        bail!("1 or 3 nodes can be brought up: a cluster has 1 or 3 voters, and more are not tried here yet");
    }
    let started = Instant::now();
    let interrupted = catch_signals()?;
    setup::run(setup::Say::OnlyWhenMissing)?;
    image::ensure_default()?;
    let profile = if arguments.dev { build::Profile::Dev } else { build::Profile::Release };
    let built = build::build(profile)?;

    if arguments.nodes == THREE {
        return three::run(arguments, &built, &interrupted, started);
    }
    let places = Places::new(arguments.once, "")?;
    let _lock = places.lock()?;
    make(&places.run)?;
    let order = NodeOrder {
        warren: built.warren,
        agent: built.agent,
        data_directory: places.home.join("data"),
        run_directory: places.run.clone(),
        log: places.home.join("node.log"),
        address: Ipv4Addr::LOCALHOST.into(),
        port: listener(arguments)?.local_addr()?.port(),
        key: places.key()?,
        pool_size: arguments.pool_size,
        runtime: arguments.runtime.clone(),
        peers: None,
    };
    let mut watch = Watch::begin(&[&places.run, &order.data_directory])?;
    let outcome = demonstrate(&order, arguments.once, &mut watch, &interrupted, started);
    finish(&places, arguments.once, &mut watch, outcome)
}

/// Everything while the node runs. The node has ended when this returns.
fn demonstrate(
    order: &NodeOrder,
    once: bool,
    watch: &mut Watch,
    interrupted: &Arc<AtomicBool>,
    started: Instant,
) -> Result<()> {
    let client = Client::new(&order.url(), &order.key);
    let stop_asked = || interrupted.load(Ordering::Relaxed);
    println!("node on {}, log in {}", order.url(), order.log.display());
    let mut node = steps::step("start it until it is healthy", || {
        let mut node = order.start()?;
        node.wait_until_healthy(&client, &stop_asked)?;
        Ok(node)
    })?;
    let id = first_program(&client).with_context(|| format!("the node's last words:\n{}", node.log_tail()))?;
    println!("up after {}", steps::human(started.elapsed()));
    watch.record()?;
    if once {
        steps::step("delete the sandbox", || client.delete(&id))?;
    } else {
        how_to_go_on(order, &id);
        stay(&mut node, &stop_asked)?;
    }
    steps::step("stop the node", || node.stop())
}

/// Creates a sandbox, runs the program in it, and compares what it wrote with what is known.
fn first_program(client: &Client) -> Result<String> {
    let sandbox = steps::step("create a sandbox", || client.create(SANDBOX_TIMEOUT_SECONDS))?;
    let id = sandbox["id"].as_str().with_context(|| format!("a sandbox without an id: {sandbox}"))?.to_owned();
    let script = format!("{HOME}/first_program.py");
    steps::step("write first_program.py into it", || client.write(&id, &script, PROGRAM.as_bytes()))?;
    let result =
        steps::step("run it", || client.exec(&id, &["python3", "-u", &script], HOME, PROGRAM_TIMEOUT_SECONDS))?;
    for line in result.stdout.lines().chain(result.stderr.lines()) {
        println!("  | {line}");
    }
    if result.exit_code != 0 {
        bail!("the program ended with {}", result.exit_code);
    }
    let file = steps::step("read pi.txt back", || client.read(&id, &format!("{HOME}/pi.txt")))?;
    check_pi(&file)?;
    println!("  pi.txt holds {} bytes, and they are pi: {}...", file.len(), &PI_START[..32]);
    Ok(id)
}

fn check_pi(file: &[u8]) -> Result<()> {
    let text = std::str::from_utf8(file).context("pi.txt is not text")?;
    if text.len() != PI_LENGTH || !text.starts_with(PI_START) || !text.ends_with(PI_END) {
        bail!("pi.txt is not pi: {} bytes, {:?}...", text.len(), text.chars().take(60).collect::<String>());
    }
    Ok(())
}

/// Takes away what was only for this run, and accuses whatever else is still there.
fn finish(places: &Places, once: bool, watch: &mut Watch, outcome: Result<()>) -> Result<()> {
    let left = watch.what_is_left()?;
    if left.is_empty() {
        remove_tree(&places.run)?;
    }
    if !left.is_empty() {
        println!("the node left behind:\n  {}", left.join("\n  "));
        if !once {
            println!("the next `cargo xtask up` takes it up again");
        }
    }
    outcome?;
    if !left.is_empty() {
        bail!("{} things are left behind", left.len());
    }
    if once {
        let count = watch.record()?;
        remove_tree(&places.home)?;
        println!("nothing is left of {count} containers: no process, mount, namespace or cgroup");
    }
    Ok(())
}

fn how_to_go_on(order: &NodeOrder, id: &str) {
    let (url, key) = (order.url(), &order.key);
    println!();
    println!("url  {url}");
    println!("key  {key}");
    println!("try  curl -sS -H 'X-API-Key: {key}' -H 'Content-Type: application/json' \\");
    println!("       -d '{{\"cmd\":[\"python3\",\"-c\",\"print(2**100)\"]}}' {url}/api/v1/sandboxes/{id}/exec");
    println!();
    println!("Ctrl-C ends the node and its sandboxes.");
}

/// Until a signal comes or the node ends by itself.
fn stay(node: &mut NodeProcess, stop_asked: &dyn Fn() -> bool) -> Result<()> {
    while !stop_asked() {
        if let Some(status) = node.ended()? {
            bail!("the node ended ({status}). Its last words:\n{}", node.log_tail());
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    println!();
    Ok(())
}

fn catch_signals() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // A second signal ends this process at once; the node follows, since it is told of its parent's death.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&flag))?;
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}

/// On the port that was asked for, else the usual one, or with `--once` one that is free now.
fn listener(arguments: &Arguments) -> Result<TcpListener> {
    let wanted = arguments.port.unwrap_or(if arguments.once { 0 } else { DEFAULT_PORT });
    TcpListener::bind((Ipv4Addr::LOCALHOST, wanted))
        .with_context(|| format!("port {wanted} on 127.0.0.1 is taken; choose another with --port"))
}

impl Places {
    /// A run that ends by itself gets places of its own, so that it may go beside one that stays.
    fn new(once: bool, kind: &str) -> Result<Places> {
        let suffix = if once { format!("once-{}", std::process::id()) } else { format!("stay{kind}") };
        let places = Places {
            home: paths::target().join("up").join(&suffix),
            run: Path::new("/run/warren-up").join(format!("{}-{suffix}", paths::checkout_name())),
        };
        make(&places.home)?;
        Ok(places)
    }

    /// Held as long as the file lives; the kernel gives it back however this process ends.
    fn lock(&self) -> Result<File> {
        let path = self.home.join("lock");
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        if file.try_lock().is_err() {
            bail!("another `cargo xtask up` runs in this checkout");
        }
        Ok(file)
    }

    /// The node's key, kept from run to run.
    fn key(&self) -> Result<String> {
        let path = self.home.join("key");
        if let Ok(key) = fs::read_to_string(&path)
            && key.len() == 2 * KEY_BYTES
        {
            return Ok(key);
        }
        let mut bytes = [0; KEY_BYTES];
        File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes)).context("no randomness")?;
        let key = paths::hex(&bytes);
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        std::io::Write::write_all(&mut file, key.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(key)
    }
}

fn make(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))
}

fn remove_tree(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pi_is_told_from_what_is_not() {
        assert!(check_pi(b"3.14\n").is_err());
        assert!(check_pi(&[0xff; PI_LENGTH]).is_err());
        let middle = "0".repeat(PI_LENGTH - PI_START.len() - PI_END.len());
        assert!(check_pi(format!("{PI_START}{middle}{PI_END}").as_bytes()).is_ok());
    }

    #[test]
    fn the_program_writes_what_is_expected() {
        if crate::command::find_program("python3").is_none() {
            println!("SKIPPED the_program_writes_what_is_expected: no python3 on this host");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let mut python = std::process::Command::new("python3");
        let output = crate::command::quiet(python.args(["-c", PROGRAM]).current_dir(&directory)).unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("as known: correct"));
        check_pi(&fs::read(directory.path().join("pi.txt")).unwrap()).unwrap();
    }

    #[test]
    fn a_taken_port_is_said_so() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let arguments = Arguments { nodes: 1, once: false, port: Some(port), pool_size: 0, runtime: None, dev: false };
        assert!(listener(&arguments).unwrap_err().to_string().contains("is taken"));
    }
}
