//! `image`: the default sandbox image and the two small ones that tests use.
//!
//! An image carries the digest of its recipe as a label; one that is up to date costs a single look.

mod apt_sources;
mod base;
mod bootstrap;
mod plain;
mod podman;
mod recipe;
mod tiny;

use std::fs::File;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;

use crate::{paths, setup, steps};
pub use base::registry_answers;
pub use plain::{base_recipe, make_base};
#[cfg(test)]
pub use podman::podman;
pub use recipe::Recipe;

/// The image that a sandbox gets when it names none.
pub const DEFAULT_IMAGE: &str = "localhost/warren/default:latest";
/// BusyBox alone, root its only user.
pub const BUSYBOX_IMAGE: &str = "localhost/warren/busybox:latest";
/// One static program and nothing else: no shell, no /etc/passwd.
pub const NOSHELL_IMAGE: &str = "localhost/warren/noshell:latest";

/// Which image, and how.
#[derive(Args)]
pub struct Arguments {
    /// Make the BusyBox test image instead
    #[arg(long, conflicts_with_all = ["noshell", "base", "bootstrap"])]
    busybox: bool,
    /// Make the test image without a shell instead
    #[arg(long, conflicts_with_all = ["base", "bootstrap"])]
    noshell: bool,
    /// Build on this base image and fail where that can not be done
    #[arg(long, conflicts_with = "bootstrap")]
    base: Option<String>,
    /// Bootstrap from Debian packages without asking a registry
    #[arg(long)]
    bootstrap: bool,
    /// Make it even if the one that is there is up to date
    #[arg(long)]
    force: bool,
    /// The name of the default image
    #[arg(long, default_value = DEFAULT_IMAGE)]
    tag: String,
}

/// How the default image comes about.
enum Way {
    /// A pulled base where a registry answers, else bootstrapped.
    Either,
    Base(String),
    Bootstrap,
}

/// Makes the image that the arguments name.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::run(setup::Say::OnlyWhenMissing)?;
    if arguments.busybox {
        return busybox(arguments.force);
    }
    if arguments.noshell {
        return noshell(arguments.force);
    }
    let way = match (&arguments.base, arguments.bootstrap) {
        (Some(base), _) => Way::Base(base.clone()),
        (None, true) => Way::Bootstrap,
        (None, false) => Way::Either,
    };
    default(&arguments.tag, &way, arguments.force)
}

/// The default image, made when it is missing or its recipe has changed.
pub fn ensure_default() -> Result<()> {
    default(DEFAULT_IMAGE, &Way::Either, false)
}

/// All three images.
pub fn ensure_all() -> Result<()> {
    ensure_default()?;
    busybox(false)?;
    noshell(false)
}

fn default(tag: &str, way: &Way, force: bool) -> Result<()> {
    let recipe = match way {
        Way::Either => recipe::default_image("")?,
        Way::Base(base) => recipe::default_image(base)?,
        Way::Bootstrap => recipe::default_image("bootstrap")?,
    };
    refresh(tag, &recipe, force, || match way {
        Way::Bootstrap => bootstrap::make(tag, &recipe),
        Way::Base(base) => base::make(tag, &recipe, base),
        Way::Either => {
            let Err(error) = base::pull(base::PUBLIC_BASE).and_then(|()| base::make(tag, &recipe, base::PUBLIC_BASE))
            else {
                return Ok(());
            };
            println!("  no base image: {error:#}");
            println!("  so it is bootstrapped from the packages that this host's apt can reach");
            bootstrap::make(tag, &recipe)
        }
    })
}

fn busybox(force: bool) -> Result<()> {
    let recipe = tiny::busybox_recipe()?;
    refresh(BUSYBOX_IMAGE, &recipe, force, || tiny::make_busybox(BUSYBOX_IMAGE, &recipe))
}

fn noshell(force: bool) -> Result<()> {
    let recipe = tiny::noshell_recipe()?;
    refresh(NOSHELL_IMAGE, &recipe, force, || tiny::make_noshell(NOSHELL_IMAGE, &recipe))
}

/// Makes an image unless the one under this name was made by the same recipe.
fn refresh(tag: &str, recipe: &Recipe, force: bool, make: impl FnOnce() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    let before = podman::look(tag)?;
    if !force && before.as_ref().is_some_and(|image| image.recipe.as_deref() == Some(&recipe.digest)) {
        println!("image {tag} is up to date (recipe {}, {})", recipe.short(), steps::human(started.elapsed()));
        return Ok(());
    }
    println!("image {tag} (recipe {}):", recipe.short());
    // Two makers would write the same scratch files.
    let lock = paths::scratch()?.join("image.lock");
    let lock = File::create(&lock).with_context(|| format!("cannot write {}", lock.display()))?;
    lock.lock().context("cannot wait for another image in the making")?;
    make()?;
    let after = podman::look(tag)?.with_context(|| format!("{tag} was made, but the engine does not have it"))?;
    println!("  made in {}, {} MB", steps::human(started.elapsed()), after.size / 1_000_000);
    if let Some(old) = before.filter(|old| old.id != after.id) {
        podman::remove_unused(&old.id);
    }
    Ok(())
}
