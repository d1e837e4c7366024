//! Which of the host's apt sources a bootstrapped image takes over: its own release's main archive, from whatever
//! mirror the host uses.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The host's release and where its packages come from, as one-line apt sources.
pub struct HostSources {
    pub codename: String,
    pub lines: Vec<String>,
}

/// Reads the running host.
pub fn host() -> Result<HostSources> {
    let release = std::fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let codename = field(&release, "VERSION_CODENAME")
        .context("/etc/os-release names no VERSION_CODENAME; only Debian and Ubuntu can be bootstrapped from")?;
    let mut entries = Vec::new();
    for path in files()? {
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => entries.extend(parse_deb822(&text)),
            _ => entries.extend(text.lines().filter_map(parse_line)),
        }
    }
    let mut lines: Vec<String> = entries
        .into_iter()
        .filter_map(|entry| entry.wanted(&codename))
        .map(|entry| entry.line(&first_mirror))
        .collect();
    lines.sort();
    lines.dedup();
    if lines.is_empty() {
        bail!("no source of {codename} main was found in /etc/apt/sources.list or /etc/apt/sources.list.d");
    }
    Ok(HostSources { codename, lines })
}

/// One URI and one suite.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    uri: String,
    suite: String,
    components: Vec<String>,
    signed_by: Option<String>,
}

impl Entry {
    /// Keeps the release's own archive, updates and security; drops vendors' additions, which may carry a suite of
    /// the same name but not these components, and personal archives.
    fn wanted(mut self, codename: &str) -> Option<Entry> {
        let pocket = self.suite.strip_prefix(codename)?;
        let known = ["", "-updates", "-security", "/updates"].contains(&pocket);
        let foreign = self.uri.starts_with("cdrom:") || self.uri.contains("ppa.launchpad");
        self.components.retain(|component| component == "main" || component == "universe");
        (known && !foreign && self.components.iter().any(|component| component == "main")).then_some(self)
    }

    fn line(&self, resolve: &dyn Fn(&str) -> Option<String>) -> String {
        let options = self.signed_by.as_ref().map(|path| format!("[signed-by={path}] ")).unwrap_or_default();
        // A list of mirrors in a file of the host would be a dangling name inside the image.
        let uri = self.uri.strip_prefix("mirror+file:").and_then(resolve).unwrap_or_else(|| self.uri.clone());
        format!("deb {options}{uri} {} {}", self.suite, self.components.join(" "))
    }
}

fn first_mirror(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(Path::new("/").join(path.trim_start_matches('/'))).ok()?;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    line.split_whitespace().next().map(str::to_owned)
}

fn files() -> Result<Vec<PathBuf>> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(directory) = std::fs::read_dir("/etc/apt/sources.list.d") {
        for entry in directory {
            files.push(entry.context("cannot list /etc/apt/sources.list.d")?.path());
        }
    }
    files.retain(|path| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        path.is_file() && matches!(extension, Some("list" | "sources"))
    });
    files.sort();
    Ok(files)
}

/// A field of os-release, without its quotes.
fn field(release: &str, name: &str) -> Option<String> {
    let value = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim().trim_matches('"').to_owned()).filter(|value| !value.is_empty())
}

/// `deb [options] uri suite component...`
fn parse_line(line: &str) -> Option<Entry> {
    let rest = line.trim().strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(open) => open.split_once(']')?,
        None => ("", rest),
    };
    let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")).map(str::to_owned);
    let mut words = rest.split('#').next()?.split_whitespace().map(str::to_owned);
    Some(Entry { uri: words.next()?, suite: words.next()?, components: words.collect(), signed_by })
}

/// Stanzas of `Key: value` with continuation lines.
fn parse_deb822(text: &str) -> Vec<Entry> {
    let clean: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    clean.split(|line| line.trim().is_empty()).flat_map(parse_stanza).collect()
}

fn parse_stanza(lines: &[&str]) -> Vec<Entry> {
    let words = |key: &str| -> Vec<String> {
        let mut found = Vec::new();
        let mut inside = false;
        for line in lines {
            if line.starts_with([' ', '\t']) {
                if inside {
                    found.extend(line.split_whitespace().map(str::to_owned));
                }
            } else if let Some((name, value)) = line.split_once(':') {
                inside = name.eq_ignore_ascii_case(key);
                if inside {
                    found.extend(value.split_whitespace().map(str::to_owned));
                }
            }
        }
        found
    };
    let disabled = words("Enabled").first().is_some_and(|word| word.eq_ignore_ascii_case("no"));
    if disabled || !words("Types").iter().any(|word| word == "deb") {
        return Vec::new();
    }
    // A key written into the stanza itself is no path; such a source relies on it and is left out.
    let signed_by = words("Signed-By");
    if signed_by.first().is_some_and(|word| !word.starts_with('/')) {
        return Vec::new();
    }
    let (suites, components) = (words("Suites"), words("Components"));
    let pairs = words("URIs").into_iter().flat_map(|uri| suites.iter().map(move |suite| (uri.clone(), suite.clone())));
    let signed_by = signed_by.first().cloned();
    pairs
        .map(|(uri, suite)| Entry { uri, suite, components: components.clone(), signed_by: signed_by.clone() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(text: &str, deb822: bool, codename: &str) -> Vec<String> {
        let entries = if deb822 { parse_deb822(text) } else { text.lines().filter_map(parse_line).collect() };
        let resolve = |path: &str| (path == "/etc/mirrors").then(|| "http://mirror.example/debian".to_owned());
        entries.into_iter().filter_map(|entry| entry.wanted(codename)).map(|entry| entry.line(&resolve)).collect()
    }

    #[test]
    fn stanzas_of_the_release_are_kept() {
        let text = "Types: deb deb-src\n# a note\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
            Components: main contrib\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
            Types: deb\nURIs: https://deb.example.com/node\nSuites: nodistro\nComponents: main\n\n\
            Types: deb\nEnabled: no\nURIs: http://off.example\nSuites: bookworm\nComponents: main\n\n\
            Types: deb-src\nURIs: http://source.example\nSuites: bookworm\nComponents: main\n\n\
            Types: deb\nURIs: http://inline.example\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN\n";
        let signed = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian";
        assert_eq!(
            kept(text, true, "bookworm"),
            [format!("deb {signed} bookworm main"), format!("deb {signed} bookworm-updates main")]
        );
    }

    #[test]
    fn lines_of_the_release_are_kept() {
        let text = "# deb http://off.example bookworm main\ndeb http://mirror.example/debian bookworm main non-free # note\n\
            deb [arch=amd64 signed-by=/k.gpg] http://security.example bookworm-security main\n\
            deb-src http://mirror.example/debian bookworm main\ndeb https://other.example/linux/debian bookworm stable\n\
            deb cdrom:[Debian] bookworm main\ndeb http://mirror.example/debian bookworm-backports main\n";
        assert_eq!(
            kept(text, false, "bookworm"),
            [
                "deb http://mirror.example/debian bookworm main",
                "deb [signed-by=/k.gpg] http://security.example bookworm-security main",
            ]
        );
    }

    #[test]
    fn ubuntu_keeps_universe_and_drops_personal_archives() {
        let text = "Types: deb\nURIs: http://archive.ubuntu.com/ubuntu/\nSuites: noble\nComponents: main universe restricted\n\n\
            Types: deb\nURIs: https://ppa.launchpadcontent.net/x/y/ubuntu/\nSuites: noble\nComponents: main\n";
        assert_eq!(kept(text, true, "noble"), ["deb http://archive.ubuntu.com/ubuntu/ noble main universe"]);
    }

    #[test]
    fn a_list_of_mirrors_becomes_its_first() {
        let text = "Types: deb\nURIs: mirror+file:/etc/mirrors\nSuites: bookworm\nComponents: main\n";
        assert_eq!(kept(text, true, "bookworm"), ["deb http://mirror.example/debian bookworm main"]);
    }

    #[test]
    fn the_codename_is_read_with_and_without_quotes() {
        assert_eq!(field("ID=debian\nVERSION_CODENAME=bookworm\n", "VERSION_CODENAME").as_deref(), Some("bookworm"));
        assert_eq!(field("VERSION_CODENAME=\"noble\"\n", "VERSION_CODENAME").as_deref(), Some("noble"));
        assert_eq!(field("ID=debian\n", "VERSION_CODENAME"), None);
    }
}
