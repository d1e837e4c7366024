//! Podman and the programs that it calls.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::Finding;
use crate::config::EngineConfig;
use crate::engine::{find_program, fitting_runtime};

/// Versions from which on, or between which, a known hole is closed or open. Distributions close
/// holes without a new number, so an older one is a reason to look, not a proof.
const PODMAN_FIXED: Version = (5, 7, 1);
const RUNC_FIXED: Version = (1, 2, 8);
const CRUN_OPEN: (Version, Version) = ((1, 19, 0), (1, 26, 0));

type Version = (u32, u32, u32);

pub(super) fn examine(config: &EngineConfig) -> Vec<Finding> {
    let mut findings = vec![podman(config)];
    let runtime = config.oci_runtime.clone().unwrap_or_else(|| fitting_runtime().to_owned());
    findings.push(oci_runtime(&runtime));
    findings.push(conmon());
    findings.push(helper("netavark", "sandboxes with network_mode internet need it"));
    findings.push(helper("aardvark-dns", "names do not resolve in sandboxes with network_mode internet without it"));
    findings.push(agent(&config.agent_binary));
    findings.push(keyring(config));
    findings.push(storage(config));
    findings
}

fn podman(config: &EngineConfig) -> Finding {
    const CHECK: &str = "podman";
    if let Some(socket) = &config.socket {
        let there = std::os::unix::net::UnixStream::connect(socket);
        return match there {
            Ok(_) => Finding::ok(CHECK, format!("a service answers at {}", socket.display())),
            Err(error) => Finding::missing(CHECK, format!("no service at {}: {error}", socket.display()))
                .mend(format!("podman system service --time 0 unix://{} &", socket.display())),
        };
    }
    let Some(text) = version_text("podman", "--version") else {
        return Finding::missing(CHECK, "podman is not installed: nothing can hold a sandbox")
            .mend("apt-get install -y podman");
    };
    match parse_version(&text) {
        Some(version) if version < (4, 0, 0) => {
            Finding::missing(CHECK, format!("{text}: its API is too old, 4.0 is the first that works"))
        }
        Some(version) if version < PODMAN_FIXED => Finding::warn(
            CHECK,
            format!(
                "{text}: before {} a link in an image's working directory could lead outside (we set the directory \
                 ourselves); your distribution may have closed it under this number",
                shown(PODMAN_FIXED)
            ),
        )
        .mend("apt-get update && apt-get install -y --only-upgrade podman"),
        Some(_) => Finding::ok(CHECK, text),
        None => Finding::warn(CHECK, format!("{text}: not a version that can be compared")),
    }
}

fn oci_runtime(name: &str) -> Finding {
    const CHECK: &str = "OCI runtime";
    let Some(path) = find_program(name) else {
        return Finding::missing(CHECK, format!("{name} is not installed: no container can start")).mend(format!(
            "apt-get install -y {}",
            Path::new(name).file_name().map_or(name.into(), |f| f.to_string_lossy())
        ));
    };
    let text = version_text(&path.to_string_lossy(), "--version").unwrap_or_default();
    let kind = path.file_name().map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
    if kind == "crun" && fitting_runtime() != "crun" {
        return Finding::missing(
            CHECK,
            format!("{text}: this host mounts cgroup version 1 and 2 side by side, which crun refuses; take runc"),
        )
        .mend("apt-get install -y runc");
    }
    let version = parse_version(&text);
    let known = match (kind.as_str(), version) {
        ("runc", Some(version)) if version < RUNC_FIXED => {
            format!("before {} a container could reach the host through races of its mounts", shown(RUNC_FIXED))
        }
        ("crun", Some(version)) if version >= CRUN_OPEN.0 && version < CRUN_OPEN.1 => {
            format!("from {} to {} it has a known hole", shown(CRUN_OPEN.0), shown(CRUN_OPEN.1))
        }
        _ => return Finding::ok(CHECK, format!("{text} at {}", path.display())),
    };
    Finding::warn(CHECK, format!("{text}: {known}; your distribution may have closed it under this number"))
        .mend(format!("apt-get update && apt-get install -y --only-upgrade {kind}"))
}

fn conmon() -> Finding {
    match version_text("conmon", "--version") {
        Some(text) => Finding::ok("conmon", text),
        None => Finding::missing("conmon", "conmon is not installed: nothing holds a container while no service runs")
            .mend("apt-get install -y conmon"),
    }
}

fn helper(name: &'static str, without: &str) -> Finding {
    match find_program(name) {
        Some(path) => Finding::ok(name, path.display().to_string()),
        None => Finding::warn(name, format!("{name} is not installed: {without}"))
            .mend(format!("apt-get install -y {name}")),
    }
}

fn agent(path: &Path) -> Finding {
    const CHECK: &str = "agent";
    let build = "cargo xtask build";
    match std::fs::read(path) {
        Err(error) => Finding::missing(CHECK, format!("{}: {error}", path.display())).mend(build),
        Ok(bytes) if !bytes.starts_with(b"\x7fELF") => {
            Finding::missing(CHECK, format!("{} is no program", path.display())).mend(build)
        }
        // A dynamic program names its loader, which most images do not have.
        Ok(bytes) if contains(&bytes, b"/ld-linux") || contains(&bytes, b"/ld-musl") => {
            Finding::missing(CHECK, format!("{} is not static: it runs in no image but its own", path.display()))
                .mend(build)
        }
        Ok(bytes) => Finding::ok(CHECK, format!("{}, {} KiB, static", path.display(), bytes.len() / 1024)),
    }
}

/// One keyring per container is charged to the mapped user, and all sandboxes share a mapping.
fn keyring(config: &EngineConfig) -> Finding {
    const CHECK: &str = "session keyrings";
    if config.socket.is_none() {
        return Finding::ok(CHECK, "off in our own service's configuration");
    }
    let off = ["/etc/containers/containers.conf", "/usr/share/containers/containers.conf"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .flat_map(|text| text.lines().map(|line| line.replace(' ', "")).collect::<Vec<_>>())
        .any(|line| line == "keyring=false");
    let quota = std::fs::read_to_string("/proc/sys/kernel/keys/maxkeys").unwrap_or_default();
    if off {
        Finding::ok(CHECK, "off in containers.conf")
    } else {
        Finding::warn(
            CHECK,
            format!(
                "the service that was named makes a keyring for each container, and one user may have {}: \
                 about as many sandboxes start, then \"disk quota exceeded\"",
                quota.trim()
            ),
        )
        .mend("printf '[containers]\\nkeyring = false\\n' >> /etc/containers/containers.conf, then restart the service")
    }
}

fn storage(config: &EngineConfig) -> Finding {
    const CHECK: &str = "storage driver";
    let mut command = Command::new("podman");
    if let Some(root) = &config.storage_root {
        command.arg("--root").arg(root);
    }
    if let Some(runroot) = &config.storage_runroot {
        command.arg("--runroot").arg(runroot);
    }
    let info = command.args(["info", "--format", "json"]).output();
    let info: Value = match info {
        Ok(output) if output.status.success() => serde_json::from_slice(&output.stdout).unwrap_or_default(),
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Finding::missing(CHECK, format!("podman info fails: {words}"));
        }
        Err(error) => return Finding::missing(CHECK, format!("podman can not be asked: {error}")),
    };
    let store = &info["store"];
    let driver = store["graphDriverName"].as_str().unwrap_or("unknown");
    let status = &store["graphStatus"];
    if driver != "overlay" {
        return Finding::missing(CHECK, format!("{driver}: sandboxes need overlay, whose upper layer is their diff"))
            .mend("set driver = \"overlay\" under [storage] in /etc/containers/storage.conf, on an empty store");
    }
    if status["Native Overlay Diff"].as_str() == Some("false") || status["Using metacopy"].as_str() == Some("true") {
        return Finding::warn(CHECK, "overlay with metacopy or redirected directories: snapshots will be refused")
            .mend("remove metacopy=on from mountopt in /etc/containers/storage.conf");
    }
    Finding::ok(CHECK, format!("overlay at {}", store["graphRoot"].as_str().unwrap_or("an unknown place")))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn version_text(program: &str, argument: &str) -> Option<String> {
    let path = find_program(program)?;
    let output = Command::new(path).arg(argument).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// The first word that looks like a version: `podman version 4.3.1`, `runc version 1.1.5+ds1`.
fn parse_version(text: &str) -> Option<Version> {
    text.split_whitespace().find_map(|word| {
        let mut parts = word.split(['.', '-', '+', '~']).map(|part| part.parse::<u32>().ok());
        let (major, minor) = (parts.next()??, parts.next()??);
        Some((major, minor, parts.next().flatten().unwrap_or(0)))
    })
}

fn shown((major, minor, patch): Version) -> String {
    format!("{major}.{minor}.{patch}")
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn versions_are_read_as_programs_write_them() {
        for (text, version) in [
            ("podman version 4.3.1", Some((4, 3, 1))),
            ("runc version 1.1.5+ds1", Some((1, 1, 5))),
            ("crun version 1.26", Some((1, 26, 0))),
            ("podman version 6.0.0-dev", Some((6, 0, 0))),
            ("no number", None),
        ] {
            assert_eq!(parse_version(text), version, "{text}");
        }
    }
}
