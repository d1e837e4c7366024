//! Puts the commit and the day of the build into the binary.

use std::process::Command;

fn main() {
    // Not in a checkout, or no git: the fact is unknown, and says so.
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
    };
    let commit = said("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let date = said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=WARREN_COMMIT={commit}");
    println!("cargo::rustc-env=WARREN_BUILD_DATE={date}");
    println!("cargo::rerun-if-changed=../../.git/HEAD");
    println!("cargo::rerun-if-changed=../../.git/refs/heads");
}
