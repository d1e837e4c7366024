//! An existing client library, unmodified, from its registry, as a user's program runs it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::api::Api;
use crate::engine::target;

/// The library, pinned.
const LIBRARY: &str = "den-sdk==0.0.6";

/// A Python that has the library.
pub struct DenSdk {
    python: PathBuf,
}

impl DenSdk {
    /// Finds it, made once and kept with what cargo builds.
    ///
    /// # Errors
    /// It can not be had from its registry, and why.
    ///
    /// # Panics
    /// This host's Python makes no environment: that is ours to set up.
    pub fn find() -> Result<Self, String> {
        // Once for all tests of a run: two at a time would make the same directory.
        static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        FOUND.get_or_init(environment).clone().map(|python| Self { python })
    }

    /// Runs the whole of a user's program against this node.
    ///
    /// # Panics
    /// It fails, or does not come to its end.
    #[track_caller]
    pub fn passes_through(&self, api: &Api) {
        let (url, key) = api.url_and_key();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/den_client.py");
        let mut client = Command::new(&self.python);
        client.arg(script).arg(url).arg(key);
        client.env_remove("HTTP_PROXY").env_remove("http_proxy").env("NO_PROXY", "127.0.0.1");
        let output = client.output().expect("python starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{said}");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.ends_with("all of it\n"), "the script did not come to its end");
    }
}

fn environment() -> Result<PathBuf, String> {
    let directory = target().join("den-sdk-0.0.6");
    let python = directory.join("bin/python3");
    let has_it = |python: &Path| {
        let check = "import den, importlib.metadata as m; assert m.version('den-sdk') == '0.0.6'";
        Command::new(python).args(["-c", check]).output().is_ok_and(|output| output.status.success())
    };
    if has_it(&python) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&directory)).expect("python3 makes an environment");
    run(Command::new(&python).args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--retries=1",
        "--timeout=15",
        LIBRARY,
    ]))?;
    if has_it(&python) { Ok(python) } else { Err(format!("{LIBRARY} was installed and can not be imported")) }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no words").to_owned();
    Err(format!("{}: {last}", command.get_program().display()))
}
