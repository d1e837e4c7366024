//! A create as the front door hands it on: every value checked, nothing chosen yet.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::spec::{NetworkMode, OnNodeLoss, Tmpfs};
use crate::time::Timestamp;

/// How long a sandbox is asked to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifetime {
    /// The configured default.
    #[default]
    Default,
    /// This many seconds from the create.
    Seconds(u64),
    /// Until it is deleted.
    Never,
}

impl Lifetime {
    /// The point at which a sandbox created at `now` ends.
    #[must_use]
    pub fn expires_at(self, now: Timestamp, default_seconds: u64) -> Option<Timestamp> {
        match self {
            Self::Default => now.checked_add_ms(default_seconds.saturating_mul(1000)),
            Self::Seconds(seconds) => now.checked_add_ms(seconds.saturating_mul(1000)),
            Self::Never => None,
        }
    }
}

/// A create with every value checked. What is absent takes the template's or the node's default.
///
/// A node passes it on to another as JSON, without what is absent: a build that does not know a field refuses it where
/// it was asked for, rather than make something else.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CreateRequest {
    /// Image reference; `None` for the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Template; `None` for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Environment, secret.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Lifetime.
    pub lifetime: Lifetime,
    /// Thousand-millionths of one processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u64>,
    /// Bytes of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Bytes of the writable layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_mode: Option<NetworkMode>,
    /// Whether the root file system can be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writable_rootfs: Option<bool>,
    /// Extra tmpfs mounts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tmpfs: Vec<Tmpfs>,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// A name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Main command.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Default user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What a node's loss does to it.
    pub on_node_loss: OnNodeLoss,
    /// Makes a retry safe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<IdempotencyKey>,
}

impl std::fmt::Debug for CreateRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The environment is secret: only its size is shown.
        f.debug_struct("CreateRequest")
            .field("image", &self.image)
            .field("template", &self.template)
            .field("env_count", &self.env.len())
            .field("labels", &self.labels)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// An idempotency key in its scope, with the digest of the body it was first seen with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// SHA-256 of API key, method, path and the key itself: the scope is part of the name, and no
    /// secret enters the log.
    pub scope: [u8; 32],
    /// SHA-256 of the body by JSON value.
    pub digest: [u8; 32],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_create_survives_the_way_to_another_node() {
        let request = CreateRequest {
            image: Some("debian:12".to_owned()),
            template: Some("t".to_owned()),
            env: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
            workdir: Some("/w".to_owned()),
            lifetime: Lifetime::Seconds(5),
            cpu: Some(1),
            memory: Some(2),
            disk: Some(3),
            pids: Some(4),
            network_mode: Some(NetworkMode::Internet),
            writable_rootfs: Some(false),
            tmpfs: vec![Tmpfs { path: "/t".to_owned(), size: 6, options: String::new() }],
            labels: BTreeMap::from([("l".to_owned(), "v".to_owned())]),
            name: Some("n".to_owned()),
            command: vec!["sh".to_owned()],
            user: Some("u".to_owned()),
            on_node_loss: OnNodeLoss::Restart,
            idempotency: Some(IdempotencyKey { scope: [7; 32], digest: [8; 32] }),
        };
        for request in [request, CreateRequest::default()] {
            let travels = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<CreateRequest>(&travels).unwrap(), request);
        }
    }

    #[test]
    fn what_is_absent_does_not_travel_and_what_is_unknown_is_refused() {
        let travels = serde_json::to_string(&CreateRequest::default()).unwrap();
        assert_eq!(travels, r#"{"lifetime":"default","on_node_loss":"wait"}"#);
        assert!(serde_json::from_str::<CreateRequest>(r#"{"of_tomorrow":1}"#).is_err());
    }
}
