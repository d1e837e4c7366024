//! The engine as image maker: always under a configuration of our own, so that it works on hosts where the
//! distribution's defaults do not.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::image::recipe::{self, Recipe};
use crate::{command, paths};

/// Open files in a build step, within the host's hard limit.
const BUILD_NOFILE_MAX: u64 = 65_536;
/// Processes in a build step. A value near the host's own maximum is refused by some kernels.
const BUILD_NPROC_MAX: u64 = 30_000;

/// What the engine knows of an image.
pub struct Image {
    pub id: String,
    pub size: u64,
    pub recipe: Option<String>,
}

/// Podman under our configuration.
pub fn podman() -> Result<Command> {
    let mut command = Command::new("podman");
    command.env("CONTAINERS_CONF", configuration()?);
    Ok(command)
}

/// The image under this name, if there is one.
pub fn look(tag: &str) -> Result<Option<Image>> {
    let exists = podman()?.args(["image", "exists", tag]).output().context("cannot start podman")?;
    match exists.status.code() {
        Some(0) => {}
        Some(1) => return Ok(None),
        _ => anyhow::bail!("podman image exists {tag}: {}", String::from_utf8_lossy(&exists.stderr).trim()),
    }
    let text = command::read(podman()?.args(["image", "inspect", tag]))?;
    parse_inspect(&text).with_context(|| format!("cannot read what podman says about {tag}")).map(Some)
}

fn parse_inspect(text: &str) -> Result<Image> {
    let answer: serde_json::Value = serde_json::from_str(text)?;
    let image = &answer[0];
    Ok(Image {
        id: image["Id"].as_str().context("no Id")?.to_owned(),
        size: image["Size"].as_u64().context("no Size")?,
        recipe: image["Labels"][recipe::LABEL].as_str().map(str::to_owned),
    })
}

/// Imports a tar as a one-layer image. The changes are Containerfile instructions.
pub fn import(tar: &Path, tag: &str, recipe: &Recipe, changes: &[&str]) -> Result<()> {
    let mut command = podman()?;
    command.args(["import", "--quiet", "--change", &format!("LABEL {}", recipe.label())]);
    for change in changes {
        command.args(["--change", change]);
    }
    command::quiet(command.arg(tar).arg(tag))?;
    Ok(())
}

/// Takes away what a new image replaced. One that a container still uses stays, which is no fault.
pub fn remove_unused(id: &str) {
    if let Err(error) = podman().and_then(|mut podman| command::quiet(podman.args(["image", "rm", id]))) {
        let reason = error.to_string();
        println!("  the image that it replaces stays: {}", reason.lines().last().unwrap_or_default());
    }
}

fn configuration() -> Result<PathBuf> {
    let path = paths::scratch()?.join("containers.conf");
    let limits = std::fs::read_to_string("/proc/self/limits").context("cannot read /proc/self/limits")?;
    let pure_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let text = configuration_text(&limits, pure_v2);
    // Written only when it differs, so that no other process reads half of it.
    if std::fs::read_to_string(&path).ok().as_ref() != Some(&text) {
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(path)
}

fn configuration_text(limits: &str, pure_v2: bool) -> String {
    let nofile = hard_limit(limits, "Max open files").min(BUILD_NOFILE_MAX);
    let nproc = hard_limit(limits, "Max processes").min(BUILD_NPROC_MAX);
    // Both limits: with one alone the engine fills in the other, beyond what the host allows. No keyrings: they are
    // few per user, and builds need none.
    let mut text = format!(
        "[containers]\nkeyring = false\ndefault_ulimits = [\"nofile={nofile}:{nofile}\", \"nproc={nproc}:{nproc}\"]\n\
         [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n"
    );
    if !pure_v2 {
        // Some releases of crun refuse hybrid cgroups.
        text.push_str("runtime = \"runc\"\n");
    }
    text
}

/// The hard limit in a row of /proc/<pid>/limits; `unlimited` is the largest number.
fn hard_limit(limits: &str, row: &str) -> u64 {
    let fields = limits.lines().find_map(|line| line.strip_prefix(row));
    fields.and_then(|fields| fields.split_whitespace().nth(1)).and_then(|word| word.parse().ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units     \n\
        Max processes             96365                unlimited            processes \n\
        Max open files            1024                 20000                files     \n";

    #[test]
    fn limits_stay_within_the_hosts() {
        let text = configuration_text(LIMITS, true);
        assert!(text.contains("\"nofile=20000:20000\", \"nproc=30000:30000\""), "{text}");
        assert!(!text.contains("runtime"), "{text}");
    }

    #[test]
    fn hosts_without_pure_v2_get_runc() {
        let text = configuration_text(LIMITS, false);
        let parsed: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(parsed["engine"]["runtime"].as_str(), Some("runc"));
    }

    #[test]
    fn an_image_without_labels_has_no_recipe() {
        let image = parse_inspect(r#"[{"Id":"abc","Size":7,"Labels":null}]"#).unwrap();
        assert_eq!((image.id.as_str(), image.size, image.recipe), ("abc", 7, None));
        let image = parse_inspect(r#"[{"Id":"abc","Size":7,"Labels":{"io.warren.recipe":"r"}}]"#).unwrap();
        assert_eq!(image.recipe.as_deref(), Some("r"));
        assert!(parse_inspect("[]").is_err());
    }
}
