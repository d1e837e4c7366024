//! The direction of the arrows between the crates, as a table in code and tests that hold it.
//!
//! Each crate may depend on the crates in its row and on nothing else of this workspace. Some outside crates may be
//! named by one room only, and the pure crates may not even touch the parts of the standard library that do I/O,
//! tell the time, or order things differently from run to run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::paths;

/// One crate: what of this workspace it may depend on, and which outside crates it must never name.
struct Row {
    name: &'static str,
    may_use: &'static [&'static str],
    never: &'static [&'static [&'static str]],
}

const fn row(name: &'static str, may_use: &'static [&'static str], never: &'static [&'static [&'static str]]) -> Row {
    Row { name, may_use, never }
}

const ACTORS: &[&str] = &["actix", "actix-rt"];
const HTTP: &[&str] = &["actix-web", "actix-http", "awc", "reqwest", "hyper", "ureq"];
const ENGINE: &[&str] = &["podman-api"];
const RAFT: &[&str] = &["raft", "raft-proto"];
const STORE: &[&str] = &["sled"];
const WIRE: &[&str] = &["prost", "prost-011", "prost-build"];
const CLOCKS_AND_DICE: &[&str] = &["rand", "rand_core", "rand_chacha", "getrandom", "chrono", "uuid"];
const RUNTIMES: &[&str] = &["tokio", "tokio-util", "async-std", "smol", "mio"];
const SYSTEM: &[&str] = &["libc", "nix", "rustix", "config"];

/// The table of `docs/architecture.md`. A crate that is not here may not exist.
const TABLE: &[Row] = &[
    row("types", &[], &[ACTORS, HTTP, ENGINE, RAFT, STORE, WIRE, CLOCKS_AND_DICE, RUNTIMES, SYSTEM]),
    row("proto", &["types"], &[ACTORS, HTTP, ENGINE, RAFT, STORE, CLOCKS_AND_DICE, RUNTIMES, SYSTEM]),
    row("warren-core", &["types", "proto"], &[ACTORS, HTTP, ENGINE, RAFT, STORE, CLOCKS_AND_DICE, RUNTIMES, SYSTEM]),
    row("consensus", &["types", "proto"], &[ACTORS, HTTP, ENGINE, CLOCKS_AND_DICE, RUNTIMES]),
    row("runtime", &["types", "proto"], &[ACTORS, RAFT, STORE, &["actix-web", "actix-http", "awc"]]),
    row("peers", &["types", "proto"], &[ACTORS, HTTP, ENGINE, RAFT, STORE]),
    row("front-door", &["types"], &[ACTORS, ENGINE, RAFT, STORE]),
    row(
        "node",
        &["types", "proto", "warren-core", "consensus", "runtime", "peers", "front-door"],
        &[ENGINE, RAFT, STORE],
    ),
    row("agent", &["proto"], &[ACTORS, HTTP, ENGINE, RAFT, STORE, RUNTIMES]),
    // `doctor` asks the runtime about the host, `node` tells the front door which build this is.
    row("cli", &["types", "runtime", "front-door", "node"], &[ENGINE, RAFT, STORE]),
    row("sim", &["types", "proto", "warren-core", "consensus"], &[ACTORS, HTTP, ENGINE, RUNTIMES]),
    // Xtask builds with it before protoc is there.
    row("hosts", &[], &[ACTORS, HTTP, ENGINE, RAFT, STORE, WIRE, CLOCKS_AND_DICE, RUNTIMES]),
    row("xtask", &["hosts"], &[ACTORS, ENGINE, RAFT, STORE, WIRE, RUNTIMES]),
    // It measures the commit alone, on one member and on three, beside the whole road.
    row("bench", &["types", "warren-core", "consensus", "node"], &[ENGINE, RAFT, STORE]),
    // The tests stand outside and look at everything.
    row("tests", &["types", "proto", "warren-core", "consensus", "runtime", "front-door", "node", "hosts", "sim"], &[]),
];

/// Crates whose answers may depend on nothing but their input.
const PURE: &[&str] = &["types", "warren-core"];

/// What a pure crate's source must not hold, tests aside.
const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "now_utc",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::io",
    "HashMap",
    "HashSet",
    "RandomState",
    "thread_rng",
];

/// A crate as it is: its name, what it depends on, and its sources.
struct Found {
    name: String,
    dependencies: BTreeSet<String>,
    sources: BTreeMap<PathBuf, String>,
}

/// Every breach of the table, in words.
fn violations(crates: &[Found]) -> Vec<String> {
    let all: BTreeSet<&str> = crates.iter().map(|found| found.name.as_str()).collect();
    let mut breaches = Vec::new();
    for found in crates {
        let Some(row) = TABLE.iter().find(|row| row.name == found.name) else {
            breaches.push(format!("{} has no row in the table of layers", found.name));
            continue;
        };
        for dependency in &found.dependencies {
            if all.contains(dependency.as_str()) && !row.may_use.contains(&dependency.as_str()) {
                breaches.push(format!("{} may not depend on {dependency}", found.name));
            }
            if row.never.iter().any(|list| list.contains(&dependency.as_str())) {
                breaches.push(format!("{} may not name the outside crate {dependency}", found.name));
            }
        }
        if PURE.contains(&found.name.as_str()) {
            for (path, text) in &found.sources {
                breaches.extend(
                    impurities(text).into_iter().map(|(line, word)| {
                        format!("{} is pure, but {}:{line} says {word}", found.name, path.display())
                    }),
                );
            }
        }
    }
    breaches
}

/// Lines of code that reach outside. Comments do not, and tests may: a module under `cfg(test)` ends the file by
/// the style of this house.
fn impurities(text: &str) -> Vec<(usize, &'static str)> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("#[cfg(test)]") {
            break;
        }
        let code = line.split("//").next().unwrap_or_default();
        found.extend(IMPURE.iter().filter(|word| code.contains(**word)).map(|word| (index + 1, *word)));
    }
    found
}

/// The names under `dependencies` and `build-dependencies`, also of single targets. What only tests use does not
/// reach into production code.
fn dependencies(manifest: &toml::Table) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for section in ["dependencies", "build-dependencies"] {
        names.extend(manifest.get(section).and_then(toml::Value::as_table).into_iter().flatten().map(|(name, _)| name));
    }
    let mut names: BTreeSet<String> = names.into_iter().cloned().collect();
    for target in manifest.get("target").and_then(toml::Value::as_table).into_iter().flatten() {
        names.extend(target.1.as_table().map(dependencies).unwrap_or_default());
    }
    names
}

fn read_workspace() -> Vec<Found> {
    let root = paths::root();
    let mut directories: Vec<PathBuf> =
        fs::read_dir(root.join("crates")).unwrap().map(|entry| entry.unwrap().path()).collect();
    directories.push(root.join("tests"));
    directories.sort();
    directories.iter().map(|directory| read_crate(directory)).collect()
}

fn read_crate(directory: &Path) -> Found {
    let text = fs::read_to_string(directory.join("Cargo.toml")).unwrap();
    let manifest: toml::Table = toml::from_str(&text).unwrap();
    let mut sources = BTreeMap::new();
    crate::tidy::rust_files(&directory.join("src"), &mut sources);
    let name = manifest["package"]["name"].as_str().unwrap().to_owned();
    Found { name, dependencies: dependencies(&manifest), sources }
}

fn planted(name: &str, dependencies: &[&str], source: &str) -> Found {
    Found {
        name: name.to_owned(),
        dependencies: dependencies.iter().map(|name| (*name).to_owned()).collect(),
        sources: BTreeMap::from([(PathBuf::from("lib.rs"), source.to_owned())]),
    }
}

#[test]
fn the_arrows_of_this_workspace_point_one_way() {
    let breaches = violations(&read_workspace());
    assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
}

#[test]
fn every_row_of_the_table_is_a_crate() {
    let crates = read_workspace();
    for row in TABLE {
        assert!(crates.iter().any(|found| found.name == row.name), "{} is in the table only", row.name);
    }
}

#[test]
fn rows_allow_no_circle() {
    // A crate may only use what stands above it in the table, the crates that stand aside excepted.
    for (index, row) in TABLE.iter().enumerate() {
        for used in row.may_use {
            assert!(TABLE[..index].iter().any(|above| above.name == *used), "{} uses {used} from below", row.name);
        }
    }
}

#[test]
fn planted_breaches_are_found() {
    let types = || planted("types", &[], "");
    let cases: &[(Found, &str)] = &[
        (planted("warren-core", &["tokio"], ""), "warren-core may not name the outside crate tokio"),
        (planted("warren-core", &["sled"], ""), "warren-core may not name the outside crate sled"),
        (planted("warren-core", &["getrandom"], ""), "warren-core may not name the outside crate getrandom"),
        (planted("runtime", &["sled"], ""), "runtime may not name the outside crate sled"),
        (planted("front-door", &["actix"], ""), "front-door may not name the outside crate actix"),
        (planted("agent", &["types"], ""), "agent may not depend on types"),
        (planted("newcomer", &[], ""), "newcomer has no row in the table of layers"),
        (
            planted("warren-core", &[], "use std::time::Instant;\nlet t = Instant::now();"),
            "warren-core is pure, but lib.rs:2 says Instant::now",
        ),
        (planted("warren-core", &[], "let m = HashMap::new();"), "warren-core is pure, but lib.rs:1 says HashMap"),
    ];
    for (breach, words) in cases {
        let copy = Found {
            name: breach.name.clone(),
            dependencies: breach.dependencies.clone(),
            sources: breach.sources.clone(),
        };
        assert_eq!(violations(&[types(), copy]), [*words]);
    }
    assert!(violations(&[types(), planted("warren-core", &["types", "imbl"], "BTreeMap::new()")]).is_empty());
}

#[test]
fn comments_and_tests_may_speak_of_the_world() {
    assert!(impurities("// never HashMap\n/// nor Instant::now\nlet a = 1; // std::env\n").is_empty());
    assert!(impurities("fn a() {}\n#[cfg(test)]\nmod tests { use std::collections::HashMap; }\n").is_empty());
    assert_eq!(impurities("let e = std::env::var(\"A\");"), [(1, "std::env")]);
}

#[test]
fn dependencies_of_all_sections_but_tests_are_read() {
    let text = "[dependencies]\na = \"1\"\n[build-dependencies]\nb = \"1\"\n[dev-dependencies]\nc = \"1\"\n\
        [target.'cfg(unix)'.dependencies]\nd = { workspace = true }\n";
    let names: Vec<String> = dependencies(&toml::from_str(text).unwrap()).into_iter().collect();
    assert_eq!(names, ["a", "b", "d"]);
}
