//! The placement that is committed where commits alone are measured: that of a create without wishes.

use std::sync::Arc;

use types::{Generation, HostId, Incarnation, NetworkMode, Resources, SandboxId, SandboxSpec, Timestamp};
use warren_core::placement::{Command, Kind, Place};

/// Bits that one character of an id carries.
const BITS_PER_CHARACTER: usize = 5;

/// The placement of this number: another number is another sandbox.
pub fn place(number: u64, owner: HostId, incarnation: Incarnation) -> Command {
    let id = SandboxId::from_entropy(std::array::from_fn(|at| {
        number.checked_shr((at * BITS_PER_CHARACTER) as u32).unwrap_or(0) as u8
    }));
    let spec = SandboxSpec {
        template: None,
        image: "localhost/warren/default:latest".to_owned(),
        image_id: "0".repeat(64),
        resources: Resources { cpu: 1_000_000_000, memory: 512 << 20, disk: 0, pids: 256 },
        network_mode: NetworkMode::None,
        workdir: None,
        user: None,
        command: Vec::new(),
        writable_rootfs: true,
        tmpfs: Vec::new(),
        labels: Default::default(),
        name: None,
        on_node_loss: Default::default(),
    };
    let place = Place {
        id,
        slot: id,
        owner,
        incarnation,
        generation: Generation(1),
        spec: Arc::new(spec),
        sealed_env: Vec::new().into(),
        // As far from now as a measurement can not last, so that nothing expires in it.
        expires_at: Some(Timestamp(4_000_000_000_000)),
        key: None,
    };
    Command { time: Timestamp(1_800_000_000_000), kind: Kind::Place(Box::new(place)) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn another_number_is_another_sandbox() {
        let ids: BTreeSet<_> =
            (0..5000).filter_map(|number| place(number, HostId::new("h"), Incarnation(1)).kind.sandbox()).collect();
        assert_eq!(ids.len(), 5000);
    }
}
