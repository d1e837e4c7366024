//! Who this node is, as its data directory says. The directory belongs to one node at a time.

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
    /// Where it was let in and whom it was told of: whom it listens to before it has the map.
    #[serde(default)]
    told_of: Vec<ToldOf>,
}

fn first_member() -> u64 {
    FIRST_MEMBER
}

/// A member, as this node was told of it when it joined.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// Whom it was told of when it joined.
    pub told_of: Vec<ToldOf>,
    /// Lets others in.
    pub authority: Authority,
    /// What it shows to other nodes, and what they must show.
    pub security: Security,
    /// Seals what the log must not show.
    pub secrets_key: SecretsKey,
    /// Keys of clients that came with the cluster.
    pub api_keys: Vec<String>,
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
            Ok(bytes) => serde_json::from_slice::<Stored>(&bytes)
                .with_context(|| format!("{} is damaged", files.identity().display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => match &config.join {
                Some(address) => join(config, address, &files).await?,
                None => bootstrap(&files)?,
            },
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", files.identity().display()));
            }
        };
        if stored.format != FORMAT {
            bail!("{} has format {}, this version knows {FORMAT}", files.identity().display(), stored.format);
        }
        stored.incarnation += 1;
        write_durably(&files.identity(), &serde_json::to_vec_pretty(&stored)?, 0o644)?;
        Self::assemble(stored, &files, lock)
    }

    fn assemble(stored: Stored, files: &Files, lock: File) -> anyhow::Result<Self> {
        let read = |path: PathBuf| fs::read(&path).with_context(|| format!("cannot read {}", path.display()));
        let secrets_key = SecretsKey::from_bytes(&read(files.secrets_key())?)?;
        let authority = Authority::from_bytes(&read(files.authority())?)?;
        let tls = NodeTls::new(authority.certificate(), &read(files.certificate())?, &read(files.key())?)?;
        if *tls.host() != stored.host || *tls.cluster() != stored.cluster {
            bail!("the certificate in {} is another node's", files.0.display());
        }
        Ok(Self {
            host: stored.host,
            cluster: stored.cluster,
            incarnation: Incarnation(stored.incarnation),
            member: stored.member,
            joined: stored.joined,
            told_of: stored.told_of,
            authority,
            security: Security::tls(tls),
            secrets_key,
            api_keys: serde_json::from_slice(&read(files.api_keys())?)?,
            _lock: lock,
        })
    }
}

/// Writes a later incarnation, before anybody hears of it.
///
/// # Errors
/// The identity can not be read or written.
pub fn record_incarnation(data_dir: &Path, incarnation: Incarnation) -> anyhow::Result<()> {
    let path = Files(data_dir.to_owned()).identity();
    let mut stored: Stored = serde_json::from_slice(&fs::read(&path)?)?;
    stored.incarnation = incarnation.0;
    write_durably(&path, &serde_json::to_vec_pretty(&stored)?, 0o644)?;
    Ok(())
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
    Ok(Stored { format: FORMAT, host, cluster, incarnation: 0, member, joined, told_of })
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
    Ok(Stored { format: FORMAT, host, cluster, incarnation: 0, member, joined: true, told_of })
}

fn lock(data_dir: &Path) -> anyhow::Result<File> {
    let path = data_dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => bail!("{} is in use by another node process", data_dir.display()),
        Err(fs::TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

fn fresh_id() -> anyhow::Result<String> {
    let mut bytes = [0; ID_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Replaces a file so that after a crash it holds the old content or the new one, never a part.
fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
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
}
