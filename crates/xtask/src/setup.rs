//! `setup`: the host packages that Warren and its tests need, found missing, announced, installed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command, steps};

/// One Debian package, by the file that shows it is there however it came.
struct Package {
    name: &'static str,
    /// A program on PATH, or an absolute path. A host may have it from elsewhere than a package.
    shown_by: &'static str,
    why: &'static str,
    /// Releases that lack the package can do without it.
    optional: bool,
}

const fn needed(name: &'static str, shown_by: &'static str, why: &'static str) -> Package {
    Package { name, shown_by, why, optional: false }
}

const fn wanted(name: &'static str, shown_by: &'static str, why: &'static str) -> Package {
    Package { name, shown_by, why, optional: true }
}

const PACKAGES: &[Package] = &[
    needed("podman", "podman", "the container engine that makes and keeps the sandboxes"),
    needed("runc", "runc", "the container runtime for hosts with hybrid cgroups, where crun refuses"),
    needed("crun", "crun", "the faster container runtime, for all other hosts"),
    needed("conmon", "conmon", "holds a sandbox while no Warren process runs"),
    wanted("netavark", "/usr/lib/podman/netavark", "bridge networks of sandboxes that may reach the internet"),
    wanted("aardvark-dns", "/usr/lib/podman/aardvark-dns", "names on those networks"),
    needed("uidmap", "newuidmap", "Podman's user namespaces"),
    needed("iptables", "iptables", "Podman's network rules"),
    needed("nftables", "nft", "the rules that close private addresses to sandboxes, and network cuts in tests"),
    needed("iproute2", "ip", "network namespaces and links"),
    needed("mmdebstrap", "mmdebstrap", "makes the default sandbox image where no image registry answers"),
    needed("busybox-static", "/bin/busybox", "the small test image"),
    needed("protobuf-compiler", "protoc", "the Raft library's build script"),
    needed("ca-certificates", "/etc/ssl/certs/ca-certificates.crt", "package downloads over TLS"),
    needed("python3-venv", "/usr/share/doc/python3-venv", "the test that runs an outside SDK against a node"),
];

/// What only the test of `docker-compose.yml` needs, which can also be left out.
const COMPOSE_PACKAGES: &[Package] = &[
    wanted("docker.io", "dockerd", "the Docker engine that the Compose test starts and stops"),
    wanted("docker-cli", "docker", "its client, where the engine comes without"),
    wanted("docker-compose", "docker-compose", "reads docker-compose.yml"),
];

/// What only the benchmarks need, as references and to look inside; `nginx` itself comes with any of its flavours.
const REFERENCE_PACKAGES: &[Package] = &[
    needed("etcd-server", "etcd", "the replicated log that ours is measured beside"),
    needed("nginx-light", "nginx", "the proxy that a hop between nodes is measured beside"),
    wanted("strace", "strace", "counts system calls and syncs"),
];

/// Keeps packages from starting services. Only where the host has no such rule of its own.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str = "#!/bin/sh\n# Written by xtask for one installation; it removes it afterwards.\nexit 101\n";

/// Whether to say so when nothing is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Say {
    Always,
    OnlyWhenMissing,
}

/// Installs what is missing. Fast when nothing is.
pub fn run(say: Say) -> Result<()> {
    install(PACKAGES, say)
}

/// Installs what the test of `docker-compose.yml` needs beside the rest. No service of it is started: an engine that
/// runs for good would change the host's network rules, and the test has one of its own.
pub fn compose() -> Result<()> {
    install_silent(COMPOSE_PACKAGES)
}

/// Installs what the benchmarks measure beside. No service of it is started: the benchmarks start their own.
pub fn references() -> Result<()> {
    install_silent(REFERENCE_PACKAGES)
}

/// Installs packages, and keeps them from starting services.
fn install_silent(packages: &'static [Package]) -> Result<()> {
    let missing = missing(packages, &installed(packages));
    if missing.is_empty() {
        return Ok(());
    }
    let ours = !Path::new(POLICY).exists();
    if ours {
        write_policy().with_context(|| format!("cannot write {POLICY}"))?;
    }
    let outcome = install(packages, Say::OnlyWhenMissing);
    if ours {
        std::fs::remove_file(POLICY).with_context(|| format!("cannot remove {POLICY}"))?;
    }
    outcome
}

fn write_policy() -> std::io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o755).open(POLICY)?;
    file.write_all(POLICY_TEXT.as_bytes())
}

fn install(packages: &'static [Package], say: Say) -> Result<()> {
    let missing = missing(packages, &installed(packages));
    if missing.is_empty() {
        if say == Say::Always {
            println!("setup: all {} host packages are there", packages.len());
        }
        return Ok(());
    }
    println!("setup: these host packages are missing and will be installed:");
    for package in &missing {
        println!("  {:<18} {}", package.name, package.why);
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    if command::find_program("apt-get").is_none() {
        bail!("this host has no apt-get; install what provides {} by hand and try again", names.join(", "));
    }
    if !rustix::process::geteuid().is_root() {
        bail!("only root can install packages; run `sudo apt-get install {}` or this command as root", names.join(" "));
    }
    let update = steps::step("apt-get update", || {
        command::quiet(apt().arg("update")).context("the package lists could not be read")
    })?;
    // It counts a mirror that does not answer as a success.
    for line in complaints(&update.stderr) {
        println!("  apt-get says: {line}");
    }
    let known: Vec<&str> = missing
        .iter()
        .filter(|package| !package.optional || is_available(package))
        .map(|package| package.name)
        .collect();
    for name in names.iter().filter(|name| !known.contains(name)) {
        println!("  {name} does not exist in this release: goes on without it");
    }
    if known.is_empty() {
        return Ok(());
    }
    steps::step(&format!("apt-get install ({} packages and what they need)", known.len()), || {
        command::quiet(apt().args(["install", "--yes", "--no-install-recommends"]).args(&known))
            .with_context(|| format!("apt-get could not install {}", known.join(" ")))
    })?;
    let still: Vec<&str> = self::missing(packages, &installed(packages))
        .into_iter()
        .filter(|package| known.contains(&package.name))
        .map(|package| package.name)
        .collect();
    if !still.is_empty() {
        bail!("apt-get said it installed {}, but they are not there", still.join(" "));
    }
    Ok(())
}

fn missing(packages: &'static [Package], installed: &BTreeSet<String>) -> Vec<&'static Package> {
    packages.iter().filter(|package| !installed.contains(package.name) && !is_shown(package.shown_by)).collect()
}

/// The names that dpkg has fully installed; empty where there is no dpkg, then only files count.
fn installed(packages: &[Package]) -> BTreeSet<String> {
    // It exits with 1 when it does not know one of the names, and still prints the others.
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\n"])
        .args(packages.iter().map(|package| package.name))
        .output();
    output.map(|output| parse_installed(&String::from_utf8_lossy(&output.stdout))).unwrap_or_default()
}

fn parse_installed(listing: &str) -> BTreeSet<String> {
    listing.lines().filter_map(|line| line.strip_suffix(" installed")).map(str::to_owned).collect()
}

fn complaints(output: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(output);
    text.lines().filter(|line| line.starts_with("W: ") || line.starts_with("E: ")).map(str::to_owned).collect()
}

fn is_shown(by: &str) -> bool {
    if by.starts_with('/') { Path::new(by).exists() } else { command::find_program(by).is_some() }
}

fn is_available(package: &Package) -> bool {
    command::quiet(Command::new("apt-cache").args(["show", package.name])).is_ok()
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "Dpkg::Use-Pty=0", "-o", "Acquire::Retries=3"]);
    // Another apt may be at work on a fresh host; wait for its lock rather than fail.
    command.args(["-o", "DPkg::Lock::Timeout=120"]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fully_installed_packages_count() {
        let listing =
            "podman installed\nrunc not-installed\ncrun config-files\nconmon half-installed\nuidmap installed\n";
        let names: Vec<String> = parse_installed(listing).into_iter().collect();
        assert_eq!(names, ["podman", "uidmap"]);
    }

    #[test]
    fn what_apt_complains_of_is_repeated() {
        assert_eq!(
            complaints(b"Reading lists\nW: Failed to fetch http://x\nN: a note\n"),
            ["W: Failed to fetch http://x"]
        );
    }

    #[test]
    fn every_package_is_named_once_with_a_reason() {
        let all = || PACKAGES.iter().chain(COMPOSE_PACKAGES).chain(REFERENCE_PACKAGES);
        let names: BTreeSet<&str> = all().map(|package| package.name).collect();
        assert_eq!(names.len(), all().count());
        assert!(all().all(|package| package.why.len() > 10));
    }
}
