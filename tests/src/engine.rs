//! Podman from outside, by its command line: the tests' own view, which does not pass through the node.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

/// The image of a sandbox that names none.
pub const DEFAULT_IMAGE: &str = "localhost/warren/default:latest";
/// BusyBox alone.
pub const BUSYBOX: &str = "localhost/warren/busybox:latest";
/// One static program and nothing else.
pub const NOSHELL: &str = "localhost/warren/noshell:latest";

/// Runs podman.
///
/// # Panics
/// It can not be started.
#[must_use]
pub fn podman(arguments: &[&str]) -> Output {
    run(Command::new("podman").args(arguments))
}

/// Runs podman, which has to succeed, and returns its output, trimmed.
///
/// # Panics
/// It fails.
#[track_caller]
pub fn podman_says(arguments: &[&str]) -> String {
    let output = podman(arguments);
    assert!(output.status.success(), "podman {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// One container as podman lists it.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Container {
    /// Podman's id.
    pub id: String,
    /// Its sandbox, by its label.
    pub sandbox: String,
    /// The host that it belongs to, by its label.
    pub host: String,
    /// Whether podman holds it for running.
    pub running: bool,
    /// Its first process, or 0.
    pub pid: u32,
    /// That of its first process, as the kernel writes it.
    pub mount_namespace: Option<String>,
}

/// All containers of a cluster.
#[must_use]
pub fn containers_of(cluster: &str) -> Vec<Container> {
    let filter = format!("label=warren.cluster={cluster}");
    let text = podman_says(&["ps", "--all", "--no-trunc", "--format", "json", "--filter", &filter]);
    let listed: Vec<Value> = if text.is_empty() { Vec::new() } else { parsed(&text) };
    listed
        .iter()
        .map(|container| {
            let pid = container["Pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
            let namespace = std::fs::read_link(format!("/proc/{pid}/ns/mnt"));
            Container {
                id: container["Id"].as_str().unwrap_or_default().to_owned(),
                sandbox: container["Labels"]["warren.sandbox"].as_str().unwrap_or_default().to_owned(),
                host: container["Labels"]["warren.node"].as_str().unwrap_or_default().to_owned(),
                running: container["State"] == "running",
                pid,
                mount_namespace: namespace.ok().map(|namespace| namespace.display().to_string()),
            }
        })
        .collect()
}

fn parsed(text: &str) -> Vec<Value> {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("podman does not speak JSON ({error}): {text}"))
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// The root of the workspace.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// Cargo's target directory.
#[must_use]
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => workspace().join(directory),
        None => workspace().join("target"),
    }
}

/// Makes sure that an image is there.
///
/// # Panics
/// It is not, and can not be made.
pub fn need_image(image: &str) {
    if podman(&["image", "exists", image]).status.success() {
        return;
    }
    match image {
        DEFAULT_IMAGE => xtask(&["image"]),
        BUSYBOX => xtask(&["image", "--busybox"]),
        NOSHELL => xtask(&["image", "--noshell"]),
        // A test that asks for what is not there.
        _ => {}
    }
}

fn xtask(arguments: &[&str]) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = run(Command::new(cargo).current_dir(workspace()).arg("xtask").args(arguments));
    assert!(output.status.success(), "cargo xtask {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The node's and the agent's binaries: given by the environment, else those of the target directory, built where
/// they are missing. The node's is a dev build, since only that has kill points.
///
/// # Panics
/// They are missing and do not build.
#[must_use]
pub fn binaries() -> &'static (PathBuf, PathBuf) {
    static BINARIES: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    BINARIES.get_or_init(|| {
        let given = |variable| std::env::var_os(variable).map(PathBuf::from);
        let agent = target().join("agent/x86_64-unknown-linux-gnu/agent/warren-agent");
        let warren = given("WARREN_BIN").unwrap_or_else(|| target().join("debug/warren"));
        let agent = given("WARREN_AGENT").unwrap_or(agent);
        if !warren.exists() || !agent.exists() {
            xtask(&["build"]);
        }
        (warren, agent)
    })
}
