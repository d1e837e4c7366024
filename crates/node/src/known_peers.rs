//! The other members as this node knows them, kept in a file of its own: a node whose log is lost asks them to be let
//! in again. The first node of a cluster was told of nobody, so its map is what it learns them from.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use types::HostId;
use warren_core::placement::Placement;

use crate::identity::{ToldOf, write_durably};

/// The file in a data directory.
const FILE: &str = "peers.json";

/// Keeps the file as the map says.
pub struct KnownPeers {
    path: PathBuf,
    written: Vec<ToldOf>,
}

/// Who was known last; empty for a node that never knew another.
///
/// # Errors
/// The file can not be read.
pub fn read(data_dir: &Path) -> anyhow::Result<Vec<ToldOf>> {
    let path = data_dir.join(FILE);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

impl KnownPeers {
    /// Goes on from what the directory has.
    pub fn new(data_dir: &Path, written: Vec<ToldOf>) -> Self {
        Self { path: data_dir.join(FILE), written }
    }

    /// Writes whom the map has, if that is something new.
    pub fn follow(&mut self, me: &HostId, map: &Placement) {
        let known: Vec<ToldOf> = map
            .nodes()
            .filter(|(host, node)| *host != me && !node.presence.peer_address.is_empty())
            .map(|(host, node)| ToldOf {
                host: host.clone(),
                member: node.presence.member,
                peer_address: node.presence.peer_address.clone(),
            })
            .collect();
        // A map that is still catching up takes nobody away.
        if known.is_empty() || known == self.written {
            return;
        }
        let written = serde_json::to_vec_pretty(&known).map_err(io::Error::from);
        match written.and_then(|bytes| write_durably(&self.path, &bytes, 0o644)) {
            Ok(()) => self.written = known,
            // Needed only where the log is lost, and tried again at the next change.
            Err(error) => tracing::warn!(path = %self.path.display(), %error, "the other members can not be noted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use types::{Incarnation, Timestamp};
    use warren_core::placement::{Command, Kind, Presence};

    use super::*;

    #[test]
    fn whom_the_map_has_is_known_to_the_next_life() {
        let dir = tempfile::tempdir().unwrap();
        let (me, mut map) = (HostId::new("a"), Placement::default());
        let mut peers = KnownPeers::new(dir.path(), Vec::new());
        peers.follow(&me, &map);
        assert_eq!(read(dir.path()).unwrap(), []);
        for (index, host) in ["a", "b"].into_iter().enumerate() {
            let presence =
                Presence { member: index as u64 + 1, peer_address: format!("{host}:1"), ..Presence::default() };
            let kind = Kind::NodeUp { host: HostId::new(host), incarnation: Incarnation(1), presence };
            map.apply(index as u64 + 1, &Command { time: Timestamp(0), kind });
        }
        peers.follow(&me, &map);
        let expected = ToldOf { host: HostId::new("b"), member: 2, peer_address: "b:1".to_owned() };
        assert_eq!(read(dir.path()).unwrap(), std::slice::from_ref(&expected));
        // The log is lost: nobody is known from it, and nobody is forgotten.
        KnownPeers::new(dir.path(), vec![expected.clone()]).follow(&me, &Placement::default());
        assert_eq!(read(dir.path()).unwrap(), [expected]);
    }
}
