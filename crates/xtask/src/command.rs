//! Running other programs: quietly with their last words on failure, or with their output passed through.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::paths;

/// How many lines of a failed program's output are shown.
const TAIL_LINES: usize = 25;

/// Runs a program whose output matters only when it fails.
pub fn quiet(command: &mut Command) -> Result<Output> {
    let name = name_of(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        let mut words = String::from_utf8_lossy(&output.stdout).into_owned();
        words.push_str(&String::from_utf8_lossy(&output.stderr));
        bail!("{name} failed ({}):\n{}", output.status, tail(&words, TAIL_LINES));
    }
    Ok(output)
}

/// Runs a program quietly and returns what it wrote to standard output, trimmed.
pub fn read(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&quiet(command)?.stdout).trim().to_owned())
}

/// Runs a program with its output passed through.
pub fn loud(command: &mut Command) -> Result<()> {
    let name = name_of(command);
    let status = command.status().with_context(|| format!("cannot start {name}"))?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    Ok(())
}

/// Cargo in the workspace root. What `cargo run` told us about xtask is taken out of the environment, since build
/// scripts that watch those variables would run again on each change between a plain and a nested cargo.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root());
    for (key, _) in std::env::vars_os() {
        let key_text = key.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|p| key_text.starts_with(p)) {
            command.env_remove(&key);
        }
    }
    command
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Looks for a program on PATH and in the directories of administration, which a plain user's PATH lacks.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| is_file(candidate))
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file())
}

/// The program and its first plain words: enough to know what failed.
fn name_of(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    let plain =
        command.get_args().map(OsStr::to_string_lossy).filter(|word| !word.starts_with('-') && !word.contains("::"));
    words.extend(plain.take(2).map(|word| word.into_owned()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_program_is_quoted_by_its_last_lines() {
        let error = quiet(Command::new("sh").args(["-c", "seq 1 100; echo why >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.ends_with("\n99\n100\nwhy"), "{error}");
        assert!(!error.contains("\n50\n"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = format!("{:#}", quiet(&mut Command::new("no-such-program-here")).unwrap_err());
        assert!(error.contains("cannot start no-such-program-here"), "{error}");
    }

    #[test]
    fn tail_of_a_short_text_is_the_text() {
        assert_eq!(tail("a\nb", 5), "a\nb");
        assert_eq!(tail("a\nb\nc", 2), "b\nc");
        assert_eq!(tail("", 2), "");
    }
}
