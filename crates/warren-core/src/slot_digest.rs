//! A short name for what slots have in common, equal on every node.

use sha2::{Digest, Sha256};
use types::spec::SlotShape;

/// The digest of a [`SlotShape`]: two slots of one digest can stand for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SlotDigest(pub [u8; 32]);

impl SlotDigest {
    /// The digest of a shape.
    #[must_use]
    pub fn of(shape: &SlotShape) -> Self {
        let SlotShape { image, image_id, network_mode, writable_rootfs, tmpfs, disk } = shape;
        let mut digest = Sha256::new();
        // Each text with its length, so that no two shapes are one row of bytes.
        let mut text = |text: &str| {
            digest.update((text.len() as u64).to_be_bytes());
            digest.update(text);
        };
        text(image);
        text(image_id);
        text(network_mode.as_str());
        for mount in tmpfs {
            text(&mount.path);
            text(&mount.options);
            text(&mount.size.to_string());
        }
        digest.update([u8::from(*writable_rootfs)]);
        digest.update(disk.to_be_bytes());
        Self(digest.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use types::NetworkMode;
    use types::spec::Tmpfs;

    use super::*;

    #[test]
    fn equal_for_equal_shapes_only_and_the_same_for_ever() {
        let shape = SlotShape {
            image: "localhost/a:1".to_owned(),
            image_id: "00ff".to_owned(),
            network_mode: NetworkMode::None,
            writable_rootfs: true,
            tmpfs: vec![Tmpfs { path: "/a".to_owned(), size: 1, options: "b".to_owned() }],
            disk: 0,
        };
        let of_it = SlotDigest::of(&shape);
        assert_eq!(of_it, SlotDigest::of(&shape.clone()));
        let others = [
            SlotShape { image: "localhost/a:10".to_owned(), image_id: "0ff".to_owned(), ..shape.clone() },
            SlotShape { image_id: "00fe".to_owned(), ..shape.clone() },
            SlotShape { network_mode: NetworkMode::Internet, ..shape.clone() },
            SlotShape { writable_rootfs: false, ..shape.clone() },
            SlotShape { tmpfs: Vec::new(), ..shape.clone() },
            SlotShape {
                tmpfs: vec![Tmpfs { path: "/ab".to_owned(), size: 1, options: String::new() }],
                ..shape.clone()
            },
            SlotShape { disk: 1, ..shape.clone() },
        ];
        for other in others {
            assert_ne!(SlotDigest::of(&other), of_it, "{other:?}");
        }
        // Nodes of different versions compare it.
        assert_eq!(of_it.0[..4], [142, 226, 100, 159]);
    }
}
