//! Commands and snapshots as bytes. What these functions write is a promise on disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use proto::placement as pb;
use types::spec::Tmpfs;
use types::{
    ErrorCode, Generation, HostId, IdempotencyKey, Incarnation, NetworkMode, OnNodeLoss, Resources, SandboxId,
    SandboxSpec, Timestamp,
};

use super::command::{Command, DestroyReason, Failure, Kind, Move, Place, Presence, Wanted};
use super::map::{Holder, KeyRecord, Node, Placement, Record, Tombstone};

/// Bytes that are no command or snapshot that this version knows. A node that meets them stops: to
/// skip one would let its map differ from the others'.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not the encoding at all.
    #[error("malformed record")]
    Malformed(#[from] prost::DecodeError),
    /// A kind or value that only a later version knows, or none at all.
    #[error("unknown or missing {0}")]
    Unknown(&'static str),
}

/// One command as an entry of the log.
#[must_use]
pub fn encode(command: &Command) -> Vec<u8> {
    let kind = match &command.kind {
        Kind::NodeUp { host, incarnation, presence } => pb::command::Kind::NodeUp(pb::NodeUp {
            host: host.to_string(),
            incarnation: incarnation.0,
            presence: presence_out(presence),
        }),
        Kind::Join { host, peer_address, http_address, commands, asked_at } => pb::command::Kind::Join(pb::Join {
            host: host.to_string(),
            peer_address: peer_address.clone(),
            http_address: http_address.clone(),
            commands: *commands,
            asked_ms: asked_at.0,
        }),
        Kind::NodeLost { host, incarnation, restarting } => pb::command::Kind::NodeLost(pb::NodeLost {
            host: host.to_string(),
            incarnation: incarnation.0,
            restarting: *restarting,
        }),
        Kind::NodeRestarting { host, incarnation, for_ms } => pb::command::Kind::NodeRestarting(pb::NodeRestarting {
            host: host.to_string(),
            incarnation: incarnation.0,
            for_ms: *for_ms,
        }),
        Kind::Place(place) => pb::command::Kind::Place(place_out(place)),
        Kind::Move(moved) => pb::command::Kind::Move(pb::Move {
            id: moved.id.to_string(),
            slot: moved.slot.to_string(),
            owner: moved.owner.to_string(),
            incarnation: moved.incarnation.0,
            generation: moved.generation.0,
        }),
        Kind::Fail { id, generation, failure, only_if_lost } => pb::command::Kind::Fail(pb::Fail {
            id: id.to_string(),
            generation: generation.0,
            failure: Some(failure_out(failure)),
            only_if_lost: *only_if_lost,
        }),
        Kind::SetWanted { id, generation, wanted } => pb::command::Kind::SetWanted(pb::SetWanted {
            id: id.to_string(),
            generation: generation.0,
            wanted: wanted_out(*wanted).into(),
        }),
        Kind::Destroy { id, reason } => {
            let (reason, expires_ms) = match reason {
                DestroyReason::Asked => (pb::DestroyReason::Asked, 0),
                DestroyReason::Expired { expires_at } => (pb::DestroyReason::Expired, expires_at.0),
            };
            pb::command::Kind::Destroy(pb::Destroy { id: id.to_string(), reason: reason.into(), expires_ms })
        }
        Kind::Removed { id, generation } => {
            pb::command::Kind::Removed(pb::Removed { id: id.to_string(), generation: generation.0 })
        }
        Kind::CreateFailed { id, generation, failure } => pb::command::Kind::CreateFailed(pb::CreateFailed {
            id: id.to_string(),
            generation: generation.0,
            failure: Some(failure_out(failure)),
        }),
    };
    pb::Command { time_ms: command.time.0, kind: Some(kind) }.encode_to_vec()
}

/// Reads one entry of the log.
///
/// # Errors
/// The bytes are no command that this version knows.
pub fn decode(bytes: &[u8]) -> Result<Command, DecodeError> {
    let command = pb::Command::decode(bytes)?;
    let kind = match command.kind.ok_or(DecodeError::Unknown("command"))? {
        pb::command::Kind::NodeUp(up) => Kind::NodeUp {
            host: HostId::new(up.host),
            incarnation: Incarnation(up.incarnation),
            presence: presence_in(up.presence.unwrap_or_default()),
        },
        pb::command::Kind::Join(join) => Kind::Join {
            host: HostId::new(join.host),
            peer_address: join.peer_address,
            http_address: join.http_address,
            commands: join.commands,
            asked_at: Timestamp(join.asked_ms),
        },
        pb::command::Kind::NodeLost(lost) => Kind::NodeLost {
            host: HostId::new(lost.host),
            incarnation: Incarnation(lost.incarnation),
            restarting: lost.restarting,
        },
        pb::command::Kind::NodeRestarting(restarting) => Kind::NodeRestarting {
            host: HostId::new(restarting.host),
            incarnation: Incarnation(restarting.incarnation),
            for_ms: restarting.for_ms,
        },
        pb::command::Kind::Place(place) => Kind::Place(Box::new(place_in(place)?)),
        pb::command::Kind::Move(moved) => Kind::Move(Move {
            id: id_in(&moved.id)?,
            slot: id_in(&moved.slot)?,
            owner: HostId::new(moved.owner),
            incarnation: Incarnation(moved.incarnation),
            generation: Generation(moved.generation),
        }),
        pb::command::Kind::Fail(fail) => Kind::Fail {
            id: id_in(&fail.id)?,
            generation: Generation(fail.generation),
            failure: failure_in(fail.failure.ok_or(DecodeError::Unknown("failure"))?)?,
            only_if_lost: fail.only_if_lost,
        },
        pb::command::Kind::SetWanted(set) => Kind::SetWanted {
            id: id_in(&set.id)?,
            generation: Generation(set.generation),
            wanted: wanted_in(set.wanted())?,
        },
        pb::command::Kind::Destroy(destroy) => Kind::Destroy {
            id: id_in(&destroy.id)?,
            reason: match destroy.reason() {
                pb::DestroyReason::Asked => DestroyReason::Asked,
                pb::DestroyReason::Expired => DestroyReason::Expired { expires_at: Timestamp(destroy.expires_ms) },
                pb::DestroyReason::Unspecified => return Err(DecodeError::Unknown("destroy reason")),
            },
        },
        pb::command::Kind::Removed(removed) => {
            Kind::Removed { id: id_in(&removed.id)?, generation: Generation(removed.generation) }
        }
        pb::command::Kind::CreateFailed(failed) => Kind::CreateFailed {
            id: id_in(&failed.id)?,
            generation: Generation(failed.generation),
            failure: failure_in(failed.failure.ok_or(DecodeError::Unknown("failure"))?)?,
        },
    };
    Ok(Command { time: Timestamp(command.time_ms), kind })
}

/// The whole map as bytes.
#[must_use]
pub fn encode_snapshot(map: &Placement) -> Vec<u8> {
    let nodes = map.nodes.iter().map(|(host, node)| pb::NodeRecord {
        host: host.to_string(),
        incarnation: node.incarnation.0,
        presence: presence_out(&node.presence),
        lost: node.lost,
        restarting_ms: node.restarting,
        joined_ms: node.joined_at.map(|at| at.0),
    });
    let sandboxes = map.sandboxes.values().map(|record| pb::SandboxRecord {
        place: Some(place_out(&record.place)),
        wanted: wanted_out(record.wanted).into(),
        created_ms: record.created_at.0,
        created_index: record.created_index,
        failure: record.failure.as_ref().map(failure_out),
    });
    let remains = map.remains().map(|(id, generation, holder)| pb::Remains {
        id: id.to_string(),
        generation: generation.0,
        owner: holder.owner.to_string(),
        slot: holder.slot.to_string(),
    });
    let keys = map.keys.iter().map(|(scope, known)| pb::KeyRecord {
        key: Some(pb::Key { scope: scope.to_vec(), digest: known.digest.to_vec() }),
        sandbox: known.sandbox.to_string(),
        used_ms: known.used_at.0,
        failure: known.failure.as_ref().map(failure_out),
    });
    let tombstones = map.tombstones.iter().map(|(id, tombstone)| pb::Tombstone {
        id: id.to_string(),
        owner: tombstone.owner.to_string(),
        slot: tombstone.slot.to_string(),
        generation: tombstone.generation.0,
    });
    pb::Snapshot {
        applied: map.applied,
        clock_ms: map.clock.0,
        nodes: nodes.collect(),
        sandboxes: sandboxes.collect(),
        keys: keys.collect(),
        tombstones: tombstones.collect(),
        last_member: map.last_member,
        retired: map.retired.iter().map(|(id, at)| pb::Retired { id: id.to_string(), at_ms: at.0 }).collect(),
        remains: remains.collect(),
    }
    .encode_to_vec()
}

/// Reads a whole map.
///
/// # Errors
/// The bytes are no map that this version knows.
pub fn decode_snapshot(bytes: &[u8]) -> Result<Placement, DecodeError> {
    let snapshot = pb::Snapshot::decode(bytes)?;
    let mut map = Placement { applied: snapshot.applied, clock: Timestamp(snapshot.clock_ms), ..Placement::default() };
    for node in snapshot.nodes {
        let presence = presence_in(node.presence.unwrap_or_default());
        let known = Node {
            incarnation: Incarnation(node.incarnation),
            presence,
            lost: node.lost,
            restarting: node.restarting_ms,
            joined_at: node.joined_ms.map(Timestamp),
        };
        map.nodes.insert(HostId::new(node.host), known);
    }
    map.last_member = snapshot.last_member;
    for retired in snapshot.retired {
        let (id, at) = (id_in(&retired.id)?, Timestamp(retired.at_ms));
        map.retired.insert(id, at);
        map.retired_by_time.insert((at, id), ());
    }
    for record in snapshot.sandboxes {
        let wanted = wanted_in(record.wanted())?;
        let place = place_in(record.place.ok_or(DecodeError::Unknown("place"))?)?;
        let created_at = Timestamp(record.created_ms);
        let failure = record.failure.map(failure_in).transpose()?;
        map.insert(Record { place, wanted, created_at, created_index: record.created_index, failure });
    }
    for record in snapshot.keys {
        let key = key_in(record.key.ok_or(DecodeError::Unknown("key"))?)?;
        let used_at = Timestamp(record.used_ms);
        let failure = record.failure.map(failure_in).transpose()?;
        map.keys_by_use.insert((used_at, key.scope), ());
        map.keys
            .insert(key.scope, KeyRecord { digest: key.digest, sandbox: id_in(&record.sandbox)?, used_at, failure });
    }
    for tombstone in snapshot.tombstones {
        map.tombstones.insert(
            id_in(&tombstone.id)?,
            Tombstone {
                owner: HostId::new(tombstone.owner),
                slot: id_in(&tombstone.slot)?,
                generation: Generation(tombstone.generation),
            },
        );
    }
    for remains in snapshot.remains {
        let holder = Holder { owner: HostId::new(remains.owner), slot: id_in(&remains.slot)? };
        map.remains.insert((id_in(&remains.id)?, Generation(remains.generation)), holder);
    }
    Ok(map)
}

/// A spec as bytes, for its digest.
pub(super) fn encode_spec(spec: &SandboxSpec) -> Vec<u8> {
    spec_out(spec).encode_to_vec()
}

fn presence_out(presence: &Presence) -> Option<pb::Presence> {
    // A node alone that says nothing of itself writes what earlier versions wrote.
    (*presence != Presence::default()).then(|| pb::Presence {
        member: presence.member,
        peer_address: presence.peer_address.clone(),
        http_address: presence.http_address.clone(),
        commands: presence.commands,
    })
}

fn presence_in(presence: pb::Presence) -> Presence {
    Presence {
        member: presence.member,
        peer_address: presence.peer_address,
        http_address: presence.http_address,
        commands: presence.commands,
    }
}

fn id_in(text: &str) -> Result<SandboxId, DecodeError> {
    text.parse().map_err(|_| DecodeError::Unknown("sandbox id"))
}

fn key_in(key: pb::Key) -> Result<IdempotencyKey, DecodeError> {
    let fixed = |bytes: Vec<u8>| bytes.try_into().map_err(|_| DecodeError::Unknown("key"));
    Ok(IdempotencyKey { scope: fixed(key.scope)?, digest: fixed(key.digest)? })
}

fn place_out(place: &Place) -> pb::Place {
    pb::Place {
        id: place.id.to_string(),
        slot: place.slot.to_string(),
        owner: place.owner.to_string(),
        incarnation: place.incarnation.0,
        generation: place.generation.0,
        spec: Some(spec_out(&place.spec)),
        sealed_env: place.sealed_env.to_vec(),
        expires_ms: place.expires_at.map_or(0, |end| end.0),
        key: place.key.as_ref().map(|key| pb::Key { scope: key.scope.to_vec(), digest: key.digest.to_vec() }),
    }
}

fn place_in(place: pb::Place) -> Result<Place, DecodeError> {
    Ok(Place {
        id: id_in(&place.id)?,
        slot: id_in(&place.slot)?,
        owner: HostId::new(place.owner),
        incarnation: Incarnation(place.incarnation),
        generation: Generation(place.generation),
        spec: Arc::new(spec_in(place.spec.ok_or(DecodeError::Unknown("spec"))?)?),
        sealed_env: place.sealed_env.into(),
        expires_at: (place.expires_ms != 0).then_some(Timestamp(place.expires_ms)),
        key: place.key.map(key_in).transpose()?,
    })
}

fn spec_out(spec: &SandboxSpec) -> pb::Spec {
    pb::Spec {
        template: spec.template.clone(),
        image: spec.image.clone(),
        image_id: spec.image_id.clone(),
        cpu: spec.resources.cpu,
        memory: spec.resources.memory,
        disk: spec.resources.disk,
        pids: spec.resources.pids,
        network_mode: match spec.network_mode {
            NetworkMode::None => pb::NetworkMode::None,
            NetworkMode::Internet => pb::NetworkMode::Internet,
        }
        .into(),
        workdir: spec.workdir.clone(),
        user: spec.user.clone(),
        command: spec.command.clone(),
        writable_rootfs: spec.writable_rootfs,
        tmpfs: spec
            .tmpfs
            .iter()
            .map(|tmpfs| pb::Tmpfs { path: tmpfs.path.clone(), size: tmpfs.size, options: tmpfs.options.clone() })
            .collect(),
        labels: spec.labels.clone().into_iter().collect(),
        name: spec.name.clone(),
        on_node_loss: match spec.on_node_loss {
            OnNodeLoss::Wait => pb::OnNodeLoss::Wait,
            OnNodeLoss::Restart => pb::OnNodeLoss::Restart,
            OnNodeLoss::Restore => pb::OnNodeLoss::Restore,
            OnNodeLoss::Fail => pb::OnNodeLoss::Fail,
        }
        .into(),
    }
}

fn spec_in(spec: pb::Spec) -> Result<SandboxSpec, DecodeError> {
    let network_mode = match spec.network_mode() {
        pb::NetworkMode::None => NetworkMode::None,
        pb::NetworkMode::Internet => NetworkMode::Internet,
        pb::NetworkMode::Unspecified => return Err(DecodeError::Unknown("network mode")),
    };
    let on_node_loss = match spec.on_node_loss() {
        pb::OnNodeLoss::Wait => OnNodeLoss::Wait,
        pb::OnNodeLoss::Restart => OnNodeLoss::Restart,
        pb::OnNodeLoss::Restore => OnNodeLoss::Restore,
        pb::OnNodeLoss::Fail => OnNodeLoss::Fail,
        pb::OnNodeLoss::Unspecified => return Err(DecodeError::Unknown("node loss policy")),
    };
    Ok(SandboxSpec {
        template: spec.template,
        image: spec.image,
        image_id: spec.image_id,
        resources: Resources { cpu: spec.cpu, memory: spec.memory, disk: spec.disk, pids: spec.pids },
        network_mode,
        workdir: spec.workdir,
        user: spec.user,
        command: spec.command,
        writable_rootfs: spec.writable_rootfs,
        tmpfs: spec
            .tmpfs
            .into_iter()
            .map(|tmpfs| Tmpfs { path: tmpfs.path, size: tmpfs.size, options: tmpfs.options })
            .collect(),
        labels: spec.labels.into_iter().collect::<BTreeMap<_, _>>(),
        name: spec.name,
        on_node_loss,
    })
}

fn wanted_out(wanted: Wanted) -> pb::Wanted {
    match wanted {
        Wanted::Running => pb::Wanted::Running,
        Wanted::Stopped => pb::Wanted::Stopped,
    }
}

fn wanted_in(wanted: pb::Wanted) -> Result<Wanted, DecodeError> {
    match wanted {
        pb::Wanted::Running => Ok(Wanted::Running),
        pb::Wanted::Stopped => Ok(Wanted::Stopped),
        pb::Wanted::Unspecified => Err(DecodeError::Unknown("wanted state")),
    }
}

fn failure_out(failure: &Failure) -> pb::Failure {
    pb::Failure { code: failure.code.as_str().to_owned(), message: failure.message.clone() }
}

fn failure_in(failure: pb::Failure) -> Result<Failure, DecodeError> {
    // A code of a later version is shown as our own fault rather than stopping the node: it is an
    // answer, not a decision.
    let code = ErrorCode::from_name(&failure.code).unwrap_or(ErrorCode::Internal);
    Ok(Failure { code, message: failure.message })
}
