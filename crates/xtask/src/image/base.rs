//! The default image on a base image, where a registry answers or the base is here already.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::image::podman;
use crate::image::recipe::{self, Recipe};
use crate::{command, steps};

/// The public base. The same Debian everywhere, whatever the host runs.
pub const PUBLIC_BASE: &str = "docker.io/library/debian:bookworm-slim";
const PUBLIC_REGISTRY: &str = "registry-1.docker.io:443";

/// How long a registry may take to accept a connection, its name's resolution included.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Pulls the public base, after a short look whether its registry answers at all.
pub fn pull(base: &str) -> Result<()> {
    registry_answers()?;
    steps::step(&format!("pull {base}"), || command::quiet(podman::podman()?.args(["pull", "--quiet", base])))?;
    Ok(())
}

/// Whether the public registry answers, after a short look.
pub fn registry_answers() -> Result<()> {
    steps::step(&format!("ask {PUBLIC_REGISTRY} (at most {} s)", PROBE_TIMEOUT.as_secs()), || probe(&probed_address()))
}

/// Builds the image on a base that is here.
pub fn make(tag: &str, recipe: &Recipe, base: &str) -> Result<()> {
    if podman::look(base)?.is_none() {
        steps::step(&format!("pull {base}"), || command::quiet(podman::podman()?.args(["pull", "--quiet", base])))?;
    }
    let mut build = podman::podman()?;
    // The host's network, because only there its package mirror is sure to be reachable.
    build.args(["build", "--quiet", "--network=host", "--pull=never", "--squash", "--format=docker"]);
    build.args(["--label", &recipe.label(), "--build-arg", &format!("BASE={base}"), "--tag", tag]);
    build.arg(recipe::default_directory());
    steps::step(&format!("build on {base} (podman)"), || command::quiet(&mut build))?;
    Ok(())
}

/// Behind a proxy the registry's own name may not resolve; then the proxy is what must answer.
fn probed_address() -> String {
    let proxy = ["https_proxy", "HTTPS_PROXY"].into_iter().find_map(|name| std::env::var(name).ok());
    proxy.as_deref().and_then(proxy_address).unwrap_or_else(|| PUBLIC_REGISTRY.to_owned())
}

fn proxy_address(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let authority = rest.split('/').next()?;
    let host = authority.rsplit('@').next().filter(|host| !host.is_empty())?;
    let port = if scheme == "https" { 443 } else { 80 };
    Some(if host.rsplit_once(':').is_some() { host.to_owned() } else { format!("{host}:{port}") })
}

fn probe(address: &str) -> Result<()> {
    let (sender, receiver) = mpsc::channel();
    let asked = address.to_owned();
    // On a thread, since name resolution has no time-out of its own. It ends by itself.
    std::thread::spawn(move || sender.send(connect(&asked)));
    match receiver.recv_timeout(PROBE_TIMEOUT) {
        Ok(outcome) => outcome,
        Err(_) => bail!("{address} did not answer within {} s", PROBE_TIMEOUT.as_secs()),
    }
}

fn connect(address: &str) -> Result<()> {
    let resolved = address.to_socket_addrs().with_context(|| format!("{address} does not resolve"))?;
    let mut last = None;
    for candidate in resolved {
        match TcpStream::connect_timeout(&candidate, PROBE_TIMEOUT) {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error).with_context(|| format!("{address} does not accept connections")),
        None => bail!("{address} has no address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_read_in_all_its_spellings() {
        for (url, address) in [
            ("http://proxy:3128", "proxy:3128"),
            ("http://user:secret@proxy:3128/", "proxy:3128"),
            ("https://proxy", "proxy:443"),
            ("proxy", "proxy:80"),
        ] {
            assert_eq!(proxy_address(url).as_deref(), Some(address), "{url}");
        }
        assert_eq!(proxy_address("http://"), None);
    }

    #[test]
    fn a_closed_port_is_an_error_and_an_open_one_is_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        probe(&address).unwrap();
        drop(listener);
        assert!(probe(&address).unwrap_err().to_string().contains("does not accept connections"));
    }
}
