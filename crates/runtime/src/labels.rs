//! The labels by which our containers are known again. Nothing in them is secret.

use sha2::{Digest, Sha256};
use types::spec::SlotShape;

use crate::agent_file::hex;

/// The cluster that a container belongs to.
pub const LABEL_CLUSTER: &str = "warren.cluster";
/// The host that it belongs to.
pub const LABEL_NODE: &str = "warren.node";
/// The sandbox that it is or will be.
pub const LABEL_SANDBOX: &str = "warren.sandbox";
/// SHA-256 of the agent that it was made with.
pub const LABEL_AGENT: &str = "warren.agent";
/// SHA-256 of its shape.
pub const LABEL_SHAPE: &str = "warren.shape";
/// Its shape itself, as JSON: a node that comes back finds which pool a slot belongs to.
pub const LABEL_SHAPE_JSON: &str = "warren.shape-json";

/// SHA-256 of a shape, in hexadecimal.
#[must_use]
pub fn shape_digest(shape: &SlotShape) -> String {
    hex(&Sha256::digest(shape_json(shape)))
}

pub(crate) fn shape_json(shape: &SlotShape) -> String {
    serde_json::to_string(shape).expect("a shape is plain data with text for keys")
}
