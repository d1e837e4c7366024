//! The project of `docker-compose.yml` on an engine of ours.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::engine::Engine;
use crate::client::Client;
use crate::image::{Recipe, base_recipe, make_base, registry_answers};
use crate::{command, paths, steps};

/// Its name, so that its containers are told from a user's.
const PROJECT: &str = "warren-test";
/// The base made here. Without a registry's name: nobody shall pull it.
const BASE: &str = "warren-base";
const NODE_IMAGE: &str = "warren-node";
const BALANCER_IMAGE: &str = "warren-balancer";
/// The recipe's digest goes under this label.
const RECIPE_LABEL: &str = "io.warren.recipe";
/// What Compose says of the base when it is the public one.
const PUBLIC_BASE: &str = "debian:bookworm-slim";

/// The project, up or not.
pub struct Project<'a> {
    engine: &'a Engine,
    compose: Vec<&'static str>,
    base: String,
    key: String,
    port: u16,
}

impl<'a> Project<'a> {
    /// Chooses a port that is free now. `None` where there is no Compose.
    pub fn new(engine: &'a Engine, key: &str) -> Result<Option<Project<'a>>> {
        let Some(compose) = compose(engine) else { return Ok(None) };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
        let port = listener.local_addr()?.port();
        Ok(Some(Project { engine, compose, base: PUBLIC_BASE.to_owned(), key: key.to_owned(), port }))
    }

    /// Through the balancer, a connection a call.
    pub fn client(&self) -> Client {
        Client::of_single_calls(&self.url(), &self.key)
    }

    /// Of one node, past the balancer.
    pub fn client_of(&self, service: &str) -> Result<Client> {
        let networks = self.inspect(service)?["NetworkSettings"]["Networks"].clone();
        let address = networks.as_object().and_then(|networks| networks.values().next());
        let address = address.and_then(|network| network["IPAddress"].as_str()).filter(|address| !address.is_empty());
        let address = address.with_context(|| format!("{service} has no address: {networks}"))?;
        Ok(Client::of_single_calls(&format!("http://{address}:8080"), &self.key))
    }

    /// Where the balancer answers.
    pub fn address(&self) -> (Ipv4Addr, u16) {
        (Ipv4Addr::LOCALHOST, self.port)
    }

    /// The same, with its scheme.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How Compose is called here.
    pub fn compose_words(&self) -> String {
        self.compose.join(" ")
    }

    /// The base: the one that is here, else the public one where a registry answers, else made from Debian packages.
    pub fn ensure_base(&mut self) -> Result<()> {
        let recipe = base_recipe()?;
        if self.image_field(BASE, &format!("{{{{index .Config.Labels \"{RECIPE_LABEL}\"}}}}")).as_deref()
            == Some(&recipe.digest)
        {
            println!("  the base image is up to date (recipe {})", recipe.short());
            self.base = BASE.to_owned();
            return Ok(());
        }
        if self.image_field(PUBLIC_BASE, "{{.Id}}").is_some() {
            return Ok(());
        }
        let pulled = registry_answers().and_then(|()| {
            steps::step(&format!("pull {PUBLIC_BASE}"), || {
                command::quiet(self.engine.docker().args(["pull", "--quiet", PUBLIC_BASE]))
            })
        });
        let Err(error) = pulled else { return Ok(()) };
        println!("  no base image: {error:#}");
        self.bootstrap_base(&recipe)
    }

    fn bootstrap_base(&mut self, recipe: &Recipe) -> Result<()> {
        let tar = paths::scratch()?.join("base.tar");
        let outcome =
            steps::step("bootstrap a base from Debian packages (mmdebstrap)", || make_base(&tar)).and_then(|()| {
                steps::step("import it (docker)", || {
                    let mut import = self.engine.docker();
                    import.args(["import", "--change", &format!("LABEL {}", recipe.label())]);
                    command::quiet(import.arg(&tar).arg(BASE))
                })
            });
        let removed = std::fs::remove_file(&tar);
        outcome?;
        removed.with_context(|| format!("cannot remove {}", tar.display()))?;
        self.base = BASE.to_owned();
        Ok(())
    }

    /// Whether a container can do here what a node's must; else why not.
    pub fn why_not(&self) -> Option<String> {
        let mut run = self.engine.docker();
        run.args(["run", "--rm", "--network=none", "--cap-add=SYS_ADMIN", "--cap-add=NET_ADMIN"]);
        run.args(["--cap-add=SYS_PTRACE", "--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined"]);
        run.args([&self.base, "sh", "-c", "mount -t proc proc /mnt && mount -t tmpfs none /tmp"]);
        command::quiet(&mut run).err().map(|error| format!("{error:#}"))
    }

    /// Builds the images and takes away what they replace.
    pub fn build(&self) -> Result<()> {
        let before = [NODE_IMAGE, BALANCER_IMAGE].map(|image| self.image_field(image, "{{.Id}}"));
        command::quiet(self.compose().arg("build"))?;
        for (image, before) in [NODE_IMAGE, BALANCER_IMAGE].into_iter().zip(before) {
            let after = self.image_field(image, "{{.Id}}");
            if let Some(before) = before.filter(|before| after.as_ref() != Some(before)) {
                command::quiet(self.engine.docker().args(["image", "rm", &before]))?;
            }
        }
        Ok(())
    }

    /// Starts all, in the order that the file says.
    pub fn up(&self) -> Result<()> {
        command::quiet(self.compose().args(["up", "--detach"]))?;
        Ok(())
    }

    /// Takes everything away but images. By kill first, since all goes anyway, and a node that ends in order waits for
    /// others that end too.
    pub fn down(&self) -> Result<()> {
        self.kill_all()?;
        command::quiet(self.compose().args(["down", "--volumes", "--remove-orphans"]))?;
        Ok(())
    }

    /// The message of Compose when no key is set.
    pub fn refusal_without_a_key(&self) -> Result<String> {
        let output = self.compose().env_remove("WARREN_API_KEY").arg("config").output()?;
        if output.status.success() {
            bail!("Compose takes the file without a key");
        }
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Ends all containers at once, as a power cut does.
    pub fn kill_all(&self) -> Result<()> {
        command::quiet(self.compose().arg("kill"))?;
        Ok(())
    }

    /// Ends a container at once, with all that is in it.
    pub fn kill(&self, service: &str) -> Result<()> {
        command::quiet(self.compose().args(["kill", service]))?;
        Ok(())
    }

    /// Starts it again.
    pub fn start(&self, service: &str) -> Result<()> {
        command::quiet(self.compose().args(["start", service]))?;
        Ok(())
    }

    /// What a service has said, on both streams.
    pub fn log(&self, service: &str) -> Result<String> {
        let output = self.engine.docker().arg("logs").arg(self.container(service)?).output()?;
        Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
    }

    /// Containers, volumes and networks of this engine that should not be there once all is down.
    pub fn what_is_left(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        let lists: [(&str, &[&str]); 3] = [
            ("container", &["ps", "--all", "--format", "{{.Names}}"]),
            ("volume", &["volume", "ls", "--format", "{{.Name}}"]),
            ("network", &["network", "ls", "--filter", "type=custom", "--format", "{{.Name}}"]),
        ];
        for (kind, arguments) in lists {
            let names = command::read(self.engine.docker().args(arguments))?;
            left.extend(names.lines().map(|name| format!("{kind} {name}")));
        }
        Ok(left)
    }

    /// Links of the host that the project's network has made: its bridge and what hangs on it.
    pub fn links(&self) -> Result<Vec<String>> {
        let id = command::read(self.engine.docker().args([
            "network",
            "inspect",
            "--format",
            "{{.Id}}",
            &format!("{PROJECT}_default"),
        ]))?;
        let bridge = format!("br-{}", id.get(..12).context("a network without an id")?);
        let text = command::read(Command::new("ip").args(["-json", "link", "show", "master", &bridge]))?;
        let ports: Vec<Value> = serde_json::from_str(&text).context("ip does not answer with JSON")?;
        let mut links: Vec<String> =
            ports.iter().filter_map(|link| link["ifname"].as_str()).map(str::to_owned).collect();
        links.push(bridge);
        Ok(links)
    }

    fn container(&self, service: &str) -> Result<String> {
        let mut list = self.engine.docker();
        list.args(["ps", "--all", "--quiet", "--filter", &format!("label=com.docker.compose.project={PROJECT}")]);
        list.args(["--filter", &format!("label=com.docker.compose.service={service}")]);
        let ids = command::read(&mut list)?;
        match ids.lines().collect::<Vec<_>>()[..] {
            [id] => Ok(id.to_owned()),
            ref other => bail!("{service} has {} containers", other.len()),
        }
    }

    fn inspect(&self, service: &str) -> Result<Value> {
        let text = command::read(self.engine.docker().arg("inspect").arg(self.container(service)?))?;
        let answer: Value = serde_json::from_str(&text).context("docker inspect is not JSON")?;
        Ok(answer[0].clone())
    }

    fn image_field(&self, image: &str, format: &str) -> Option<String> {
        command::read(self.engine.docker().args(["image", "inspect", "--format", format, image])).ok()
    }

    fn compose(&self) -> Command {
        let mut command = self.engine.client(self.compose[0]);
        command.args(&self.compose[1..]).current_dir(paths::root());
        command.args(["--project-name", PROJECT, "--file", "docker-compose.yml"]);
        command.env("WARREN_API_KEY", &self.key).env("WARREN_PORT", self.port.to_string());
        // BuildKit would have to be given leave to use the host's network, and Compose does not ask for it.
        command.env("DOCKER_BUILDKIT", "0");
        command.env("WARREN_BASE", &self.base).env("WARREN_PROFILE", "debug").env("WARREN_BUILD_NETWORK", "host");
        command
    }
}

/// The plugin of Docker's client where there is one, else the program that came before it.
fn compose(engine: &Engine) -> Option<Vec<&'static str>> {
    let works = |words: &[&str]| {
        let mut command = engine.client(words[0]);
        command.args(&words[1..]).arg("version").output().is_ok_and(|output| output.status.success())
    };
    [vec!["docker", "compose"], vec!["docker-compose"]].into_iter().find(|words| works(words))
}
