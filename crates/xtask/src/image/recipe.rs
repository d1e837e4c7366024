//! What goes into an image, and the digest that tells whether it has changed.

use std::path::PathBuf;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::paths;

/// The recipe's digest goes under this label. It does not start with `warren.`, since containers inherit it and
/// that prefix marks what a node or a test made.
pub const LABEL: &str = "io.warren.recipe";

/// Raised when this code changes what an image holds without a change in the recipe's files.
const CODE_VERSION: &str = "1";

/// Everything an image is made from, as one digest.
pub struct Recipe {
    pub digest: String,
}

impl Recipe {
    /// Digests named parts; lengths go in too, so that no two lists of parts collide.
    pub fn of(parts: &[(&str, &[u8])]) -> Recipe {
        let mut hash = Sha256::new();
        for (name, bytes) in [("code", CODE_VERSION.as_bytes())].iter().chain(parts) {
            for piece in [name.as_bytes(), bytes] {
                hash.update((piece.len() as u64).to_be_bytes());
                hash.update(piece);
            }
        }
        Recipe { digest: paths::hex(&hash.finalize()) }
    }

    /// Enough of the digest for a person.
    pub fn short(&self) -> &str {
        &self.digest[..12]
    }

    /// The label as the engine takes it.
    pub fn label(&self) -> String {
        format!("{LABEL}={}", self.digest)
    }
}

/// The directory with the default image's files.
pub fn default_directory() -> PathBuf {
    paths::root().join("cluster/images/default")
}

/// The recipe of the default image. `way` is part of it only where the caller insists on one.
pub fn default_image(way: &str) -> Result<Recipe> {
    let names = ["Containerfile", "dpkg-excludes", "finish.sh", "packages"];
    let mut contents = Vec::new();
    for name in names {
        let path = default_directory().join(name);
        contents.push(std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    let mut parts: Vec<(&str, &[u8])> = names.into_iter().zip(contents.iter().map(Vec::as_slice)).collect();
    parts.push(("way", way.as_bytes()));
    Ok(Recipe::of(&parts))
}

/// The packages of the default image.
pub fn packages() -> Result<Vec<String>> {
    let path = default_directory().join("packages");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_and_its_name_count() {
        let digest = |parts: &[(&str, &[u8])]| Recipe::of(parts).digest;
        assert_eq!(digest(&[("a", b"b")]), digest(&[("a", b"b")]));
        assert_ne!(digest(&[("a", b"b")]), digest(&[("ab", b"")]));
        assert_ne!(digest(&[("a", b"b")]), digest(&[("a", b"c")]));
        assert_ne!(digest(&[("a", b""), ("b", b"")]), digest(&[("a", b"")]));
    }

    #[test]
    fn the_default_image_depends_on_the_way_only_when_asked() {
        let digest = |way| default_image(way).unwrap().digest;
        assert_ne!(digest(""), digest("bootstrap"));
    }

    #[test]
    fn the_default_image_has_what_is_promised() {
        let packages = packages().unwrap();
        for name in ["python3", "python3-pip", "bash", "coreutils", "git", "curl", "ca-certificates"] {
            assert!(packages.iter().any(|package| package == name), "{name}");
        }
    }
}
