//! The default image from Debian packages alone, for hosts that reach a package mirror and no image registry.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::image::recipe::{self, Recipe};
use crate::image::{apt_sources, podman};
use crate::{command, paths, steps};

/// Settings of the host's apt without which its mirror may not be reachable.
const APT_SETTINGS: &[&str] =
    &["Acquire::http", "Acquire::https", "Acquire::Check-Valid-Until", "Acquire::Check-Date", "Acquire::ForceIPv"];

/// What both ways say about the image beside its files. The Containerfile says the same.
pub const CHANGES: &[&str] = &[
    "USER sandbox",
    "WORKDIR /home/sandbox",
    "ENV LANG=C.UTF-8",
    "ENV PATH=/home/sandbox/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "CMD [\"/bin/bash\"]",
];

/// Makes the image.
pub fn make(tag: &str, recipe: &Recipe) -> Result<()> {
    let host = apt_sources::host()?;
    let scratch = paths::scratch()?;
    let tar = scratch.join("default.tar");
    let apt_settings = scratch.join("apt-settings");
    std::fs::write(&apt_settings, host_apt_settings()?)
        .with_context(|| format!("cannot write {}", apt_settings.display()))?;

    let files = recipe::default_directory();
    let mut command = Command::new("mmdebstrap");
    // Device nodes are the runtime's to make, so /dev stays out of the tar.
    command.args(["--quiet", "--mode=root", "--variant=minbase", "--format=tar", "--skip=output/dev"]);
    command.arg(format!("--include={}", recipe::packages()?.join(",")));
    command.arg(format!("--dpkgopt={}", files.join("dpkg-excludes").display()));
    command.arg(format!("--aptopt={}", apt_settings.display()));
    command.arg(format!("--customize-hook=copy-in {} /", quoted(&files.join("finish.sh"))));
    command.arg("--customize-hook=chroot \"$1\" /bin/sh /finish.sh");
    // The host's proxies and clocks are not the image's business.
    command.arg("--customize-hook=rm \"$1/finish.sh\" \"$1/etc/apt/apt.conf.d/99mmdebstrap\"");
    command.arg(&host.codename).arg(&tar).args(&host.lines);

    let outcome = steps::step(&format!("bootstrap {} from Debian packages (mmdebstrap)", host.codename), || {
        command::quiet(&mut command)
    })
    .and_then(|_| steps::step("import it (podman)", || podman::import(&tar, tag, recipe, CHANGES)));
    // The tar is as large as the image; it goes whether or not the import went well.
    let removed = std::fs::remove_file(&tar);
    outcome?;
    removed.with_context(|| format!("cannot remove {}", tar.display()))
}

/// What the host's apt needs to reach its mirror.
pub fn host_apt_settings() -> Result<String> {
    let dump = command::read(Command::new("apt-config").arg("dump"))?;
    Ok(pick_settings(&dump))
}

fn pick_settings(dump: &str) -> String {
    let wanted = |line: &&str| APT_SETTINGS.iter().any(|prefix| line.starts_with(prefix)) && !line.ends_with(" \"\";");
    dump.lines().filter(wanted).map(|line| format!("{line}\n")).collect()
}

/// A path as a word of the shell that mmdebstrap splits its hooks with.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_of_reach_are_taken_over() {
        let dump = "Acquire \"\";\nAcquire::http::Proxy \"http://10.0.0.1:3142\";\nAcquire::https \"\";\n\
            Acquire::Check-Date \"false\";\nDPkg::Post-Invoke:: \"rm -f x\";\nDir::Cache \"var\";\n";
        assert_eq!(
            pick_settings(dump),
            "Acquire::http::Proxy \"http://10.0.0.1:3142\";\nAcquire::Check-Date \"false\";\n"
        );
    }

    #[test]
    fn the_containerfile_says_the_same() {
        let text = std::fs::read_to_string(recipe::default_directory().join("Containerfile")).unwrap();
        for change in CHANGES {
            assert!(text.lines().any(|line| line == *change), "the Containerfile lacks `{change}`");
        }
    }

    #[test]
    fn a_node_of_compose_gives_its_sandboxes_the_same() {
        let read = |path: &str| std::fs::read_to_string(paths::root().join(path)).unwrap();
        let start = read("cluster/node/start.sh");
        for change in CHANGES {
            assert!(start.lines().any(|line| line.contains("--change") && line.contains(change)), "no `{change}`");
        }
        let node = read("cluster/node/Containerfile");
        let recipe = read("cluster/images/default/Containerfile");
        let (_, steps) = recipe.split_once("RUN ").unwrap();
        let (steps, _) = steps.split_once("\nUSER ").unwrap();
        assert!(node.contains(steps), "the node's Containerfile lacks:\n{steps}");
    }

    #[test]
    fn a_path_with_quotes_stays_one_word() {
        assert_eq!(quoted(Path::new("/a b/c'd")), r"'/a b/c'\''d'");
    }
}
