//! A bare Debian as a tar: the base of the Compose images where no image registry answers.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::image::recipe::{self, Recipe};
use crate::image::{apt_sources, bootstrap};
use crate::{command, paths};

/// What the base is made from: the host's own release and mirror.
pub fn base_recipe() -> Result<Recipe> {
    let host = apt_sources::host()?;
    let (lines, settings) = (host.lines.join("\n"), bootstrap::host_apt_settings()?);
    let excludes = std::fs::read(recipe::default_directory().join("dpkg-excludes")).context("no dpkg-excludes")?;
    Ok(Recipe::of(&[
        ("codename", host.codename.as_bytes()),
        ("lines", lines.as_bytes()),
        ("settings", settings.as_bytes()),
        ("excludes", &excludes),
    ]))
}

/// Makes the tar. Packages are installed on it later, so it keeps the host's way to its mirror.
pub fn make_base(tar: &Path) -> Result<()> {
    let host = apt_sources::host()?;
    let apt_settings = paths::scratch()?.join("apt-settings-base");
    std::fs::write(&apt_settings, bootstrap::host_apt_settings()?)
        .with_context(|| format!("cannot write {}", apt_settings.display()))?;
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--mode=root", "--variant=minbase", "--format=tar", "--skip=output/dev"]);
    command.arg(format!("--dpkgopt={}", recipe::default_directory().join("dpkg-excludes").display()));
    command.arg(format!("--aptopt={}", apt_settings.display()));
    command.arg(&host.codename).arg(tar).args(&host.lines);
    command::quiet(&mut command)?;
    Ok(())
}
