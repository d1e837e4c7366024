//! Where things are in this checkout.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The target triple of the static agent. Named, so that `crt-static` does not reach build scripts and macros.
pub const AGENT_TARGET: &str = "x86_64-unknown-linux-gnu";

/// The root of the workspace.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap_or(manifest).to_path_buf()
}

/// Cargo's target directory for everything but the agent.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => root().join(directory),
        None => root().join("target"),
    }
}

/// xtask's own corner of the target directory, made when it is missing.
pub fn scratch() -> Result<PathBuf> {
    let directory = target().join("xtask");
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

/// A short name for this checkout, so that two clones on one host do not share a run directory.
pub fn checkout_name() -> String {
    hex(&Sha256::digest(root().as_os_str().as_encoded_bytes()))[..8].to_owned()
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
