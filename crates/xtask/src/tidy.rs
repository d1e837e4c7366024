//! House rules that no compiler knows: files stay short, and nothing is left marked as unfinished.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::paths;

/// About 500 lines is the rule; beyond this a file has more than one noun.
const FILE_LINES_MAX: usize = 600;

/// Reads all Rust files below a directory.
pub fn rust_files(directory: &Path, into: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            into.insert(path.strip_prefix(paths::root()).unwrap_or(&path).to_path_buf(), text);
        }
    }
}

fn breaches(files: &BTreeMap<PathBuf, String>) -> Vec<String> {
    // Put together here, so that this file does not accuse itself.
    let marks = [concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];
    let mut found = Vec::new();
    for (path, text) in files {
        let count = text.lines().count();
        if count > FILE_LINES_MAX {
            found.push(format!("{} has {count} lines; at most {FILE_LINES_MAX}", path.display()));
        }
        for (index, line) in text.lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            if let Some(mark) = words.find(|word| marks.contains(word)) {
                found.push(format!("{}:{} says {mark}", path.display(), index + 1));
            }
        }
    }
    found
}

#[test]
fn the_house_is_tidy() {
    let mut files = BTreeMap::new();
    rust_files(&paths::root().join("crates"), &mut files);
    rust_files(&paths::root().join("tests"), &mut files);
    assert!(files.len() > 20, "only {} files were found", files.len());
    let found = breaches(&files);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn planted_untidiness_is_found() {
    let mark = concat!("FIX", "ME");
    let files = BTreeMap::from([
        (PathBuf::from("long.rs"), "\n".repeat(FILE_LINES_MAX + 1)),
        (PathBuf::from("marked.rs"), format!("fine\n// {mark}: later\n{mark}ES is another word\n")),
    ]);
    assert_eq!(
        breaches(&files),
        [
            format!("long.rs has {} lines; at most {FILE_LINES_MAX}", FILE_LINES_MAX + 1),
            format!("marked.rs:2 says {mark}"),
        ]
    );
}
