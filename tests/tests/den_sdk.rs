//! The outside check: an existing client library, unmodified, from its registry, against a real node.

use std::path::{Path, PathBuf};
use std::process::Command;

use tests::{DEFAULT_IMAGE, Node, Options};

/// The library, pinned.
const LIBRARY: &str = "den-sdk==0.0.6";

#[test]
fn den_sdk() {
    let python = match environment() {
        Ok(python) => python,
        Err(reason) => {
            println!("SKIPPED den_sdk: {reason}");
            return;
        }
    };
    let node = Node::start(Options { image: DEFAULT_IMAGE, ..Options::default() });
    let (url, key) = node.api().url_and_key();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/den_client.py");
    let mut client = Command::new(python);
    client.arg(script).arg(url).arg(key).env_remove("HTTP_PROXY").env_remove("http_proxy").env("NO_PROXY", "127.0.0.1");
    let output = client.output().expect("python starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{said}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.ends_with("all of it\n"), "the script did not come to its end");
    assert_eq!(node.api().ids(""), Vec::<String>::new());
    node.settles();
}

/// A Python with the library, made once and kept with what cargo builds.
fn environment() -> Result<PathBuf, String> {
    let directory = tests::engine::target().join("den-sdk-0.0.6");
    let python = directory.join("bin/python3");
    let has_it = |python: &Path| {
        let check = "import den, importlib.metadata as m; assert m.version('den-sdk') == '0.0.6'";
        Command::new(python).args(["-c", check]).output().is_ok_and(|output| output.status.success())
    };
    if has_it(&python) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&directory))?;
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
