//! The two small images of the tests: BusyBox, and one static program without any shell.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::image::podman;
use crate::image::recipe::Recipe;
use crate::{command, paths, steps};

const BUSYBOX: &str = "/bin/busybox";
/// A user that may log in and one that may not; the sandbox's own user is deliberately unknown here.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";
const BUSYBOX_CHANGES: &[&str] = &["ENV PATH=/bin", "CMD [\"/bin/sh\"]"];

const NOSHELL_SOURCE: &str = include_str!("../../programs/noshell.rs");
const NOSHELL_CHANGES: &[&str] = &["CMD [\"/noshell\", \"sleep\"]"];

/// What the BusyBox image is made from.
pub fn busybox_recipe() -> Result<Recipe> {
    let binary = fs::read(BUSYBOX).with_context(|| format!("cannot read {BUSYBOX} (package busybox-static)"))?;
    Ok(Recipe::of(&[("busybox", &binary), ("passwd", PASSWD.as_bytes()), ("group", GROUP.as_bytes())]))
}

/// What the image without a shell is made from.
pub fn noshell_recipe() -> Result<Recipe> {
    Ok(Recipe::of(&[("noshell", NOSHELL_SOURCE.as_bytes())]))
}

/// Makes the BusyBox image: /bin with all applets, two users, /root and /tmp.
pub fn make_busybox(tag: &str, recipe: &Recipe) -> Result<()> {
    let applets = command::read(Command::new(BUSYBOX).arg("--list"))?;
    import_tree("busybox", tag, recipe, BUSYBOX_CHANGES, |tree| {
        for (directory, mode) in [("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777)] {
            fs::create_dir(tree.join(directory))?;
            fs::set_permissions(tree.join(directory), fs::Permissions::from_mode(mode))?;
        }
        fs::copy(BUSYBOX, tree.join("bin/busybox"))?;
        for applet in applets.lines().filter(|applet| *applet != "busybox") {
            symlink("busybox", tree.join("bin").join(applet))?;
        }
        fs::write(tree.join("etc/passwd"), PASSWD)?;
        fs::write(tree.join("etc/group"), GROUP)?;
        Ok(())
    })
}

/// Makes the image whose only file is /noshell.
pub fn make_noshell(tag: &str, recipe: &Recipe) -> Result<()> {
    import_tree("noshell", tag, recipe, NOSHELL_CHANGES, |tree| {
        let source = paths::root().join("crates/xtask/programs/noshell.rs");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let mut rustc = Command::new(rustc);
        rustc.args(["--edition=2024", "-Copt-level=z", "-Cpanic=abort", "-Cstrip=symbols"]);
        rustc.args(["-Ctarget-feature=+crt-static", "--target", paths::AGENT_TARGET, "-o"]);
        command::quiet(rustc.arg(tree.join("noshell")).arg(source))?;
        Ok(())
    })
}

/// Fills a tree, packs it with owners and times that do not depend on this host, and imports it.
fn import_tree(
    name: &str,
    tag: &str,
    recipe: &Recipe,
    changes: &[&str],
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let scratch = paths::scratch()?;
    let (tree, tar) = (scratch.join(name), scratch.join(format!("{name}.tar")));
    remove_tree(&tree)?;
    fs::create_dir(&tree).with_context(|| format!("cannot make {}", tree.display()))?;
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o755))?;
    let outcome = steps::step(&format!("fill {name}"), || fill(&tree)).and_then(|()| {
        let mut pack = Command::new("tar");
        pack.args(["--create", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--file"]);
        command::quiet(pack.arg(&tar).arg("--directory").arg(&tree).arg("."))?;
        steps::step("import it (podman)", || podman::import(&tar, tag, recipe, changes))
    });
    remove_tree(&tree)?;
    if tar.exists() {
        fs::remove_file(&tar).with_context(|| format!("cannot remove {}", tar.display()))?;
    }
    outcome
}

fn remove_tree(tree: &Path) -> Result<()> {
    match fs::remove_dir_all(tree) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => bail!("cannot remove {}: {error}", tree.display()),
    }
}
