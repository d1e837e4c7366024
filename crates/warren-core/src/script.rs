//! Scripts for tests: a line is an input, the indented lines below it are what must come of it.
//!
//! A failing test prints the whole script as it ran, ready to be read, judged and pasted.

use std::fmt::Write as _;
use std::sync::Arc;

use types::{
    ErrorCode, HostId, IdempotencyKey, NetworkMode, OnNodeLoss, Resources, SandboxId, SandboxSpec, WarrenError,
};

/// Runs every input line of `script` and compares what came of it with the lines written below it.
#[track_caller]
pub(crate) fn check(script: &str, mut run: impl FnMut(&str) -> Vec<String>) {
    let script = dedent(script);
    let mut ran = String::new();
    for line in script.lines().filter(|line| !line.starts_with(' ')) {
        writeln!(ran, "{line}").unwrap();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        for output in run(line) {
            writeln!(ran, "  {output}").unwrap();
        }
    }
    assert!(ran == script, "the script ran differently:\n<<<<\n{ran}>>>>\nexpected:\n{script}");
}

/// Takes away the margin that a script has for standing in a test.
fn dedent(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    let margin = lines
        .iter()
        .filter(|line| !line.is_empty())
        .map(|line| line.len() - line.trim_start().len())
        .min()
        .unwrap_or(0);
    let mut out = String::new();
    for line in &lines {
        writeln!(out, "{}", line.get(margin..).unwrap_or("")).unwrap();
    }
    let begin = out.len() - out.trim_start_matches('\n').len();
    format!("{}\n", out[begin..].trim_end())
}

/// The words of one line, taken from the left; `name value` pairs may follow in any order.
pub(crate) struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    pub(crate) fn new(line: &'a str) -> Self {
        Self(line.split_whitespace().collect())
    }

    pub(crate) fn next(&mut self) -> &'a str {
        assert!(!self.0.is_empty(), "a word is missing");
        self.0.remove(0)
    }

    /// The value after `name`, where it is given.
    pub(crate) fn opt(&mut self, name: &str) -> Option<&'a str> {
        let at = self.0.iter().position(|word| *word == name)?;
        self.0.remove(at);
        Some(self.0.remove(at))
    }

    pub(crate) fn number(&mut self, name: &str, default: u64) -> u64 {
        self.opt(name).map_or(default, |text| text.parse().unwrap())
    }

    /// Nothing may be left over: a misspelt word must not pass for a test.
    #[track_caller]
    pub(crate) fn end(self) {
        assert!(self.0.is_empty(), "not understood: {:?}", self.0);
    }
}

/// The id that a script calls by one letter.
pub(crate) fn id(letter: &str) -> SandboxId {
    letter.repeat(types::id::SANDBOX_ID_LENGTH).parse().unwrap()
}

/// The letter of an id.
pub(crate) fn letter(id: SandboxId) -> String {
    id.as_str()[..1].to_owned()
}

pub(crate) fn host(name: &str) -> HostId {
    HostId::new(name)
}

/// A key and a body, each named by one letter.
pub(crate) fn key(scope: &str, body: &str) -> IdempotencyKey {
    IdempotencyKey { scope: [scope.as_bytes()[0]; 32], digest: [body.as_bytes()[0]; 32] }
}

/// An error as a script names it: its code.
pub(crate) fn error(code: &str) -> WarrenError {
    WarrenError::new(ErrorCode::from_name(code).unwrap(), format!("{code} of the test"))
}

pub(crate) fn spec() -> SandboxSpec {
    SandboxSpec {
        template: None,
        image: "debian".into(),
        image_id: "i1".into(),
        resources: Resources { cpu: 1_000_000_000, memory: 256 << 20, disk: 0, pids: 64 },
        network_mode: NetworkMode::None,
        workdir: None,
        user: None,
        command: Vec::new(),
        writable_rootfs: true,
        tmpfs: Vec::new(),
        labels: Default::default(),
        name: None,
        on_node_loss: OnNodeLoss::Wait,
    }
}

pub(crate) fn sealed_env() -> Arc<[u8]> {
    Arc::from(*b"sealed")
}

#[test]
#[should_panic(expected = "the script ran differently")]
fn a_script_that_ran_differently_fails() {
    check("a\n  b\n", |_| vec!["c".into()]);
}

#[test]
#[should_panic(expected = "the script ran differently")]
fn an_output_too_many_fails() {
    check("a\n  b\n", |_| vec!["b".into(), "c".into()]);
}

#[test]
fn the_margin_does_not_count() {
    check(
        "
        # said twice
        a
          a
          a

        b
          b
          b
        ",
        |line| vec![line.to_owned(); 2],
    );
}
