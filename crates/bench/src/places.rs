//! Where a run keeps its files, and what it measures.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The directories and programs of one run. Dropped, the directories are removed.
pub struct Places {
    /// Data and logs, on the disk that is measured.
    pub home: PathBuf,
    /// Sockets and mounts; short, because the path of a socket may not be long.
    pub run: PathBuf,
    /// The release build of `warren`.
    pub warren: PathBuf,
    /// The agent.
    pub agent: PathBuf,
}

impl Places {
    /// Makes the directories.
    pub fn make() -> Result<Self> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target").canonicalize()?;
        let program = |variable: &str, usual: PathBuf| -> Result<PathBuf> {
            let path = std::env::var_os(variable).map_or(usual, PathBuf::from);
            if !path.is_file() {
                bail!("{} is not there; `cargo xtask bench` builds it", path.display());
            }
            Ok(path)
        };
        let warren = program("WARREN_BIN", target.join("release/warren"))?;
        let agent = program("WARREN_AGENT", target.join("agent/x86_64-unknown-linux-gnu/agent/warren-agent"))?;
        let pid = std::process::id();
        let home = target.join("bench").join(pid.to_string());
        let run = PathBuf::from(format!("/run/warren-bench-{pid}"));
        for directory in [&home, &run] {
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        Ok(Self { home, run, warren, agent })
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        for directory in [&self.run, &self.home] {
            if let Err(error) = fs::remove_dir_all(directory) {
                eprintln!("error: cannot remove {}: {error}", directory.display());
            }
        }
    }
}
