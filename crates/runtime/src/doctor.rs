//! What a host has and lacks, in words, with the command that mends it. It changes nothing.

mod kernel;
mod programs;

use crate::config::EngineConfig;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingState {
    /// As it should be.
    Ok,
    /// It works, with less: what that is, the words say.
    Warn,
    /// Nothing works without it.
    Missing,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it came out.
    pub state: FindingState,
    /// What was found, and what it means where it is not as it should be.
    pub says: String,
    /// The command that mends it, where one does.
    pub mend: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, says: impl Into<String>) -> Self {
        Self { check, state: FindingState::Ok, says: says.into(), mend: None }
    }

    fn warn(check: &'static str, says: impl Into<String>) -> Self {
        Self { check, state: FindingState::Warn, says: says.into(), mend: None }
    }

    fn missing(check: &'static str, says: impl Into<String>) -> Self {
        Self { check, state: FindingState::Missing, says: says.into(), mend: None }
    }

    fn mend(mut self, command: impl Into<String>) -> Self {
        self.mend = Some(command.into());
        self
    }
}

/// Looks at this host with the eyes of an engine of this configuration. It runs a few programs for
/// their versions and so takes up to a second; it asks no running service.
#[must_use]
pub fn examine(config: &EngineConfig) -> Vec<Finding> {
    let mut findings = vec![kernel::root()];
    findings.extend(programs::examine(config));
    findings.extend(kernel::examine(config));
    findings
}
