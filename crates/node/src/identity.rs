//! Who this node is, as its data directory says. The directory belongs to one node at a time.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use peers::{Accepted, Authority, JoinClient, JoinRequest, JoinToken, NodeKey, NodeTls, Security, Versions};
use serde::{Deserialize, Serialize};
use types::{ClusterId, HostId, Incarnation};
use warren_core::placement::COMMANDS_KNOWN;

use crate::config::NodeConfig;
use crate::hub::now;
use crate::known_peers;
use crate::seal::SecretsKey;

/// Version of `identity.json`; another one is refused rather than guessed at.
const FORMAT: u32 = 1;

/// Bytes of a host's or cluster's id before it is written in hexadecimal.
const ID_BYTES: usize = 8;

/// The member id of a cluster's first node.
const FIRST_MEMBER: u64 = 1;

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    host: HostId,
    cluster: ClusterId,
    /// Grows at each start, and is on the disk before the start goes on.
    incarnation: u64,
    /// Its id in the replicated log.
    #[serde(default = "first_member")]
    member: u64,
    /// It came to a cluster that was there.
    #[serde(default)]
    joined: bool,
    /// Whom it was told of when it was let in: whom it listens to before it has the map.
    #[serde(default)]
    told_of: Vec<ToldOf>,
    /// Its log was made, so that one which is gone is a log that is lost.
    #[serde(default)]
    log_begun: bool,
}

/// The one field that is read of every format.
#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// A data directory in which this node must not start.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// A node runs in it.
    #[error("{0} is in use by another node process")]
    InUse(PathBuf),
    /// Another version wrote it.
    #[error("{path} has format {found}, this version of Warren knows {FORMAT}: start the version that wrote it")]
    Format {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: u32,
    },
    /// It holds keys of one node and says that it is another's.
    #[error(
        "{dir} says it is host {host} of cluster {cluster}, its certificate is that of host {of_host} of cluster {of_cluster}"
    )]
    OtherNode {
        /// The directory.
        dir: PathBuf,
        /// What `identity.json` says.
        host: HostId,
        /// The same.
        cluster: ClusterId,
        /// What the certificate says.
        of_host: HostId,
        /// The same.
        of_cluster: ClusterId,
    },
    /// It belongs to a cluster, and the node is to join another one.
    #[error(
        "{dir} belongs to cluster {cluster}, the join token is cluster {wanted}'s: use another directory to join that one"
    )]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        cluster: ClusterId,
        /// Which cluster the node is to join.
        wanted: ClusterId,
    },
    /// The log is another member's: with it this one would vote twice, or for what it never saw.
    #[error("the log in {dir} is that of {found}, this node is {wanted}: one of them was copied from elsewhere")]
    OtherLog {
        /// The log's directory.
        dir: PathBuf,
        /// Whose it is.
        found: Box<Bearer>,
        /// Who wants it.
        wanted: Box<Bearer>,
    },
}

/// Who bears a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bearer {
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Which host.
    pub host: HostId,
    /// Under which id in the replicated log.
    pub member: u64,
}

impl fmt::Display for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "member {} on host {} of cluster {}", self.member, self.host, self.cluster)
    }
}

fn first_member() -> u64 {
    FIRST_MEMBER
}

/// A member, as this node was told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldOf {
    /// Its host.
    pub host: HostId,
    /// Its id in the replicated log.
    pub member: u64,
    /// Where it is found.
    pub peer_address: String,
}

/// Who this node is in this life.
pub struct Identity {
    /// Stays for as long as the data directory does.
    pub host: HostId,
    /// The cluster whose containers are ours.
    pub cluster: ClusterId,
    /// This life.
    pub incarnation: Incarnation,
    /// Its id in the replicated log.
    pub member: u64,
    /// It came to a cluster that was there.
    pub joined: bool,
    /// The other members, as far as this node knew them last.
    pub told_of: Vec<ToldOf>,
    /// Its log was made.
    pub log_begun: bool,
    /// Lets others in.
    pub authority: Authority,
    /// What it shows to other nodes, and what they must show.
    pub security: Security,
    /// Seals what the log must not show.
    pub secrets_key: SecretsKey,
    /// Keys of clients that came with the cluster.
    pub api_keys: Vec<String>,
    files: Files,
    /// Held locked for as long as the process lives, so that a second one can not start here.
    _lock: File,
}

/// The files of a data directory that say who a node is.
struct Files(PathBuf);

impl Files {
    fn identity(&self) -> PathBuf {
        self.0.join("identity.json")
    }

    fn secrets_key(&self) -> PathBuf {
        self.0.join("secrets.key")
    }

    fn authority(&self) -> PathBuf {
        self.0.join("authority")
    }

    fn certificate(&self) -> PathBuf {
        self.0.join("node.crt")
    }

    fn key(&self) -> PathBuf {
        self.0.join("node.key")
    }

    fn api_keys(&self) -> PathBuf {
        self.0.join("api_keys.json")
    }

    fn read_identity(&self, bytes: &[u8]) -> anyhow::Result<Stored> {
        let damaged = || format!("{} is damaged", self.identity().display());
        // First alone: another format may have other fields.
        let FormatOnly { format } = serde_json::from_slice(bytes).with_context(damaged)?;
        if format != FORMAT {
            bail!(DataDirError::Format { path: self.identity(), found: format });
        }
        serde_json::from_slice(bytes).with_context(damaged)
    }

    fn change_identity(&self, change: impl FnOnce(&mut Stored)) -> anyhow::Result<()> {
        let mut stored = self.read_identity(&fs::read(self.identity())?)?;
        change(&mut stored);
        write_durably(&self.identity(), &serde_json::to_vec_pretty(&stored)?, 0o644)?;
        Ok(())
    }

    /// A node that was let in before keeps its flags; only a token of another cluster says that it is not meant here.
    fn is_of_the_cluster_to_join(&self, stored: &Stored, config: &NodeConfig) -> Result<(), DataDirError> {
        let token = config.join.as_ref().and(config.join_token.as_ref());
        match token.and_then(|token| token.parse::<JoinToken>().ok()) {
            Some(token) if *token.cluster() != stored.cluster => Err(DataDirError::OtherCluster {
                dir: self.0.clone(),
                cluster: stored.cluster.clone(),
                wanted: token.cluster().clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Everything but `identity.json`, which comes last: a directory without it has no identity yet.
    fn write_secrets(&self, secrets: &Secrets) -> anyhow::Result<()> {
        write_durably(&self.secrets_key(), &secrets.secrets_key, 0o600)?;
        write_durably(&self.authority(), &secrets.authority.to_bytes(), 0o600)?;
        write_durably(&self.certificate(), &secrets.certificate, 0o644)?;
        write_durably(&self.key(), secrets.key.as_bytes(), 0o600)?;
        write_durably(&self.api_keys(), &serde_json::to_vec(&secrets.api_keys)?, 0o600)?;
        Ok(())
    }
}

/// What a node is given once.
struct Secrets {
    secrets_key: Vec<u8>,
    authority: Authority,
    certificate: Vec<u8>,
    key: NodeKey,
    api_keys: Vec<String>,
}

impl Identity {
    /// Locks the directory, makes an identity or joins where there is none, and begins a new life.
    ///
    /// # Errors
    /// The directory is another process's, can not be read or written, or the cluster does not let us in.
    pub async fn open(config: &NodeConfig) -> anyhow::Result<Self> {
        let files = Files(config.data_dir.clone());
        fs::create_dir_all(&files.0).with_context(|| format!("cannot make {}", files.0.display()))?;
        let lock = lock(&files.0)?;
        let mut stored = match fs::read(files.identity()) {
            Ok(bytes) => {
                let stored = files.read_identity(&bytes)?;
                files.is_of_the_cluster_to_join(&stored, config)?;
                stored
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => match &config.join {
                Some(address) => join(config, address, &files).await?,
                None => bootstrap(&files)?,
            },
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", files.identity().display()));
            }
        };
        stored.incarnation += 1;
        write_durably(&files.identity(), &serde_json::to_vec_pretty(&stored)?, 0o644)?;
        Self::assemble(stored, files, lock)
    }

    fn assemble(stored: Stored, files: Files, lock: File) -> anyhow::Result<Self> {
        let read = |path: PathBuf| fs::read(&path).with_context(|| format!("cannot read {}", path.display()));
        let secrets_key = SecretsKey::from_bytes(&read(files.secrets_key())?)?;
        let authority = Authority::from_bytes(&read(files.authority())?)?;
        let tls = NodeTls::new(authority.certificate(), &read(files.certificate())?, &read(files.key())?)?;
        if *tls.host() != stored.host || *tls.cluster() != stored.cluster {
            bail!(DataDirError::OtherNode {
                dir: files.0.clone(),
                host: stored.host,
                cluster: stored.cluster,
                of_host: tls.host().clone(),
                of_cluster: tls.cluster().clone(),
            });
        }
        let known = known_peers::read(&files.0).unwrap_or_else(|error| {
            // Needed only where the log is lost too.
            tracing::warn!(%error, "the other members are not known before the map is");
            Vec::new()
        });
        Ok(Self {
            host: stored.host,
            cluster: stored.cluster,
            incarnation: Incarnation(stored.incarnation),
            member: stored.member,
            joined: stored.joined,
            told_of: if known.is_empty() { stored.told_of } else { known },
            log_begun: stored.log_begun,
            authority,
            security: Security::tls(tls),
            secrets_key,
            api_keys: serde_json::from_slice(&read(files.api_keys())?)?,
            files,
            _lock: lock,
        })
    }

    /// Who bears this node's log.
    pub fn bearer(&self) -> Bearer {
        Bearer { cluster: self.cluster.clone(), host: self.host.clone(), member: self.member }
    }

    /// Records that the log was made.
    ///
    /// # Errors
    /// It can not be written.
    pub fn begin_log(&mut self) -> anyhow::Result<()> {
        self.log_begun = true;
        self.files.change_identity(|stored| stored.log_begun = true)
    }

    /// Records that this node is another member from now on, whose log is to be made.
    ///
    /// # Errors
    /// It can not be written.
    pub fn become_member(&mut self, member: u64) -> anyhow::Result<()> {
        (self.member, self.joined, self.log_begun) = (member, true, false);
        self.files.change_identity(|stored| {
            (stored.member, stored.joined, stored.log_begun) = (member, true, false);
        })
    }

    /// The half of this node's key that its certificate is made for.
    ///
    /// # Errors
    /// The key can not be read.
    pub fn public_key(&self) -> anyhow::Result<Vec<u8>> {
        let path = self.files.key();
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(NodeKey::from_bytes(&bytes)?.public_key().to_vec())
    }
}

/// Writes a later incarnation, before anybody hears of it.
///
/// # Errors
/// The identity can not be read or written.
pub fn record_incarnation(data_dir: &Path, incarnation: Incarnation) -> anyhow::Result<()> {
    Files(data_dir.to_owned()).change_identity(|stored| stored.incarnation = incarnation.0)
}

/// A token that lets a node join the cluster of the member in this directory, valid from now on for this many
/// seconds.
///
/// # Errors
/// No member's keys can be read there.
pub fn join_token(data_dir: &Path, valid_seconds: u64) -> anyhow::Result<String> {
    let files = Files(data_dir.to_owned());
    let read = |path: PathBuf| fs::read(&path).with_context(|| format!("cannot read {}", path.display()));
    let authority = Authority::from_bytes(&read(files.authority())?)?;
    let secret = read(files.secrets_key())?;
    let expires_at = now().checked_add_ms(valid_seconds.saturating_mul(1000)).context("valid: too long")?;
    Ok(JoinToken::issue(&secret, authority.cluster(), authority.fingerprint(), expires_at).to_string())
}

/// The first node of a new cluster.
fn bootstrap(files: &Files) -> anyhow::Result<Stored> {
    let (host, cluster) = (HostId::new(fresh_id()?), ClusterId::new(fresh_id()?));
    let authority = Authority::create(&cluster)?;
    let (_, certificate, key) = NodeTls::fresh(&authority, &host)?;
    let mut secrets_key = vec![0; SecretsKey::BYTES];
    getrandom::fill(&mut secrets_key).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
    files.write_secrets(&Secrets { secrets_key, authority, certificate, key, api_keys: Vec::new() })?;
    let (member, joined, told_of) = (FIRST_MEMBER, false, Vec::new());
    Ok(Stored { format: FORMAT, host, cluster, incarnation: 0, member, joined, told_of, log_begun: false })
}

/// A node that comes to a cluster that is there.
async fn join(config: &NodeConfig, address: &str, files: &Files) -> anyhow::Result<Stored> {
    let token: JoinToken =
        config.join_token.as_deref().context("join_token: missing")?.parse().context("join_token")?;
    let host = HostId::new(fresh_id()?);
    let key = NodeKey::generate()?;
    let public_key = key.public_key().try_into().context("the node's key has another length than the protocol's")?;
    let request = JoinRequest {
        host: host.clone(),
        peer_address: config.advertised_peer_address().context("peer_listen: missing")?,
        http_address: config.advertised_http_address(),
        public_key,
        versions: Versions { commands: COMMANDS_KNOWN, ..Versions::default() },
    };
    let accepted: Accepted =
        JoinClient::join(address, &token, request).await.context("the cluster does not let us in")?;
    let authority = Authority::from_parts(&accepted.ca_certificate, &accepted.ca_key)?;
    files.write_secrets(&Secrets {
        secrets_key: accepted.secrets_key.to_vec(),
        authority,
        certificate: accepted.certificate.to_vec(),
        key,
        api_keys: accepted.api_keys,
    })?;
    let told_of = accepted
        .peers
        .into_iter()
        .map(|peer| ToldOf { host: peer.host, member: peer.member, peer_address: peer.peer_address })
        .collect();
    let (cluster, member) = (accepted.cluster, accepted.member);
    Ok(Stored { format: FORMAT, host, cluster, incarnation: 0, member, joined: true, told_of, log_begun: false })
}

fn lock(data_dir: &Path) -> anyhow::Result<File> {
    let path = data_dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => bail!(DataDirError::InUse(data_dir.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

fn fresh_id() -> anyhow::Result<String> {
    let mut bytes = [0; ID_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Replaces a file so that after a crash it holds the old content or the new one, never a part.
pub(crate) fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let beside = PathBuf::from(format!("{}.new", path.display()));
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    if let Some(parent) = path.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_life_is_the_same_host_with_the_next_incarnation() {
        let dir = tempfile::tempdir().unwrap();
        let config = NodeConfig { data_dir: dir.path().to_owned(), ..NodeConfig::default() };
        let first = Identity::open(&config).await.unwrap();
        assert!(Identity::open(&config).await.is_err(), "two processes in one directory");
        let (host, incarnation) = (first.host.clone(), first.incarnation);
        drop(first);
        let second = Identity::open(&config).await.unwrap();
        assert_eq!((second.host, second.incarnation), (host, incarnation.next()));
    }

    /// Why the directory is refused.
    async fn refused(config: &NodeConfig) -> DataDirError {
        Identity::open(config).await.err().expect("a refusal").downcast().expect("a refusal with a type")
    }

    #[tokio::test]
    async fn a_directory_that_is_anothers_is_refused() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = |dir: &Path| NodeConfig { data_dir: dir.to_owned(), ..NodeConfig::default() };
        let first = Identity::open(&config(dir.path())).await.unwrap();
        assert!(matches!(refused(&config(dir.path())).await, DataDirError::InUse(_)));
        drop(first);
        drop(Identity::open(&config(other.path())).await.unwrap());

        // To join a cluster that it is not of; its own is what it was let in to before.
        let token = |of: &Path| Some(join_token(of, 60).unwrap());
        let join = Some("127.0.0.1:1".to_owned());
        let own = NodeConfig { join: join.clone(), join_token: token(dir.path()), ..config(dir.path()) };
        assert!(Identity::open(&own).await.is_ok());
        let foreign = NodeConfig { join, join_token: token(other.path()), ..config(dir.path()) };
        assert!(matches!(refused(&foreign).await, DataDirError::OtherCluster { .. }));

        // Half of another node's directory.
        let identity = fs::read(dir.path().join("identity.json")).unwrap();
        fs::copy(other.path().join("identity.json"), dir.path().join("identity.json")).unwrap();
        assert!(matches!(refused(&config(dir.path())).await, DataDirError::OtherNode { .. }));

        // A later version's, whose other fields mean nothing here.
        fs::write(dir.path().join("identity.json"), r#"{ "format": 2, "name": ["x"] }"#).unwrap();
        assert!(matches!(refused(&config(dir.path())).await, DataDirError::Format { found: 2, .. }));
        fs::write(dir.path().join("identity.json"), identity).unwrap();
        assert!(Identity::open(&config(dir.path())).await.is_ok());
    }
}
