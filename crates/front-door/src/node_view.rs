//! Nodes as the contract shows them.

use serde::Serialize;
use types::node::{NodeInfo, NodeVersions, WarmTemplate};

/// A node. What was not heard of it is absent.
#[derive(Serialize)]
pub(crate) struct NodeView<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    role: &'a str,
    state: &'a str,
    here: bool,
    reachable: bool,
    member: u64,
    incarnation: u64,
    addresses: AddressesView<'a>,
    versions: VersionsView<'a>,
    capacity: CapacityView,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warm: Option<Vec<WarmView<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    images: Option<u64>,
}

#[derive(Serialize)]
struct AddressesView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'a str>,
}

#[derive(Serialize)]
struct VersionsView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    build: Option<&'a str>,
    commands: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_protocol_min: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_protocol_max: Option<u32>,
}

#[derive(Serialize)]
struct CapacityView {
    sandboxes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandboxes_max: Option<u64>,
    memory_promised: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_max: Option<u64>,
    cpu_promised: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_cores: Option<u64>,
}

#[derive(Serialize)]
struct WarmView<'a> {
    template: &'a str,
    ready: u64,
    target: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    refill_ms_p50: Option<u64>,
}

impl<'a> From<&'a NodeInfo> for NodeView<'a> {
    fn from(node: &'a NodeInfo) -> Self {
        let capacity = &node.capacity;
        Self {
            id: node.id.as_str(),
            name: node.name.as_deref(),
            role: node.role.as_str(),
            state: node.state.as_str(),
            here: node.here,
            reachable: node.reachable,
            member: node.member,
            incarnation: node.incarnation.0,
            addresses: AddressesView { http: node.addresses.http.as_deref(), peer: node.addresses.peer.as_deref() },
            versions: VersionsView::from(&node.versions),
            capacity: CapacityView {
                sandboxes: capacity.sandboxes,
                sandboxes_max: capacity.sandboxes_max,
                memory_promised: capacity.memory_promised,
                memory_max: capacity.memory_max,
                cpu_promised: capacity.cpu_promised,
                cpu_max: capacity.cpu_max,
                cpu_cores: capacity.cpu_cores,
            },
            closed: node.closed.as_deref(),
            warm: node.warm.as_ref().map(|warm| warm.iter().map(WarmView::from).collect()),
            runtime: node.runtime.as_deref(),
            images: node.images,
        }
    }
}

impl<'a> From<&'a NodeVersions> for VersionsView<'a> {
    fn from(versions: &'a NodeVersions) -> Self {
        let (peer_protocol_min, peer_protocol_max) = versions.peer_protocol.unzip();
        let (build, commands) = (versions.build.as_deref(), versions.commands);
        Self { build, commands, peer_protocol_min, peer_protocol_max }
    }
}

impl<'a> From<&'a WarmTemplate> for WarmView<'a> {
    fn from(warm: &'a WarmTemplate) -> Self {
        let (template, refill_ms_p50) = (warm.template.as_str(), warm.refill_ms_p50);
        Self { template, ready: warm.ready, target: warm.target, refill_ms_p50 }
    }
}
