//! This node's own log: opened as it was left, or, where it is lost, left aside while the node asks the other members
//! to be let in again under an id that never voted.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use consensus::{OpenError, Recovered, Store};
use peers::{Accepted, JoinClient, JoinRequest, Versions};
use warren_core::placement::COMMANDS_KNOWN;

use crate::config::NodeConfig;
use crate::identity::{Bearer, DataDirError, Identity, write_durably};
use crate::kill_point;

/// Where the log is, in a data directory.
const DIRECTORY: &str = "log";

/// What a lost log is called, followed by a number.
const LOST: &str = "log.damaged-";

/// Lost logs that are kept: the newest, and the one before.
const LOST_KEPT: usize = 2;

/// The file beside a log that says whose it is.
const BEARER: &str = "member.json";

/// How long a node whose log is lost asks to be let in again: longer than the others need to choose a leader, should
/// it have been this one.
const REJOIN_WITHIN: Duration = Duration::from_secs(60);

/// Time between two rounds of asking.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A log that is open.
pub struct OwnLog {
    /// Its disk.
    pub store: Store,
    /// What was on it.
    pub recovered: Recovered,
}

/// A log that is lost and that nobody can replace.
#[derive(Debug, thiserror::Error)]
pub enum LostLog {
    /// There is no other member.
    #[error(
        "the log in {dir} is lost ({why}), and this node knows no other member of its cluster that has another copy. It \
         does not begin a new cluster over what it had. Either put a backup of the whole data directory in its place; or \
         give up what was recorded: move {dir} and identity.json away, and the node begins a new cluster, which leaves \
         the containers of the old one alone"
    )]
    Alone {
        /// The log's directory.
        dir: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The other members did not let it in.
    #[error(
        "the log in {dir} is lost ({why}), and no other member has let this node in again within {} s. It is left as it \
         is: start this node again once a majority of the other members runs",
        REJOIN_WITHIN.as_secs()
    )]
    NotLetIn {
        /// The log's directory.
        dir: PathBuf,
        /// What is wrong with it.
        why: String,
        /// What the last one that was asked said.
        #[source]
        last: anyhow::Error,
    },
}

/// Opens this node's log. Where it is lost the node becomes another member, with an empty one: what its host runs is
/// its own all the same.
///
/// # Errors
/// The log can not be read now, is another's, or is lost and nobody lets this node in again.
pub async fn open(config: &NodeConfig, identity: &mut Identity) -> anyhow::Result<OwnLog> {
    let dir = config.data_dir.join(DIRECTORY);
    let why = match open_as_it_is(&dir, identity)? {
        Ok(log) => return Ok(log),
        Err(why) => why,
    };
    tracing::error!(dir = %dir.display(), why, member = identity.member, "the log is lost: this member does not come back");
    if identity.told_of.is_empty() {
        return Err(LostLog::Alone { dir, why }.into());
    }
    let accepted = match rejoin(config, identity).await {
        Ok(accepted) => accepted,
        Err(last) => return Err(LostLog::NotLetIn { dir, why, last }.into()),
    };
    kill_point::reached("rejoin.accepted");
    let aside = put_aside(&config.data_dir, &dir)?;
    kill_point::reached("rejoin.aside");
    let former = identity.member;
    identity.become_member(accepted.member)?;
    kill_point::reached("rejoin.kept");
    let aside = aside.map_or_else(|| "nothing, it was gone".to_owned(), |path| path.display().to_string());
    tracing::error!(
        former,
        member = identity.member,
        kept = aside,
        "the log was lost: this host comes back as another member"
    );
    let (store, recovered) = Store::open(&dir).context("the new log can not be opened")?;
    begun(&dir, identity, store, recovered)
}

/// The log, or why it is lost.
fn open_as_it_is(dir: &Path, identity: &mut Identity) -> anyhow::Result<Result<OwnLog, String>> {
    match fs::read(dir.join(BEARER)) {
        Ok(bytes) => match serde_json::from_slice::<Bearer>(&bytes) {
            Ok(found) if found == identity.bearer() => {}
            // It may have been copied with the directory around it or without; whoever votes with another's log votes
            // for what it never saw.
            Ok(found) => {
                let (found, wanted) = (found.into(), identity.bearer().into());
                bail!(DataDirError::OtherLog { dir: dir.to_owned(), found, wanted });
            }
            Err(error) => return Ok(Err(format!("{BEARER} is damaged: {error}"))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {BEARER} in {}", dir.display())),
    }
    let opened = if identity.log_begun { Store::open_existing(dir) } else { Store::open(dir) };
    match opened {
        Ok((store, recovered)) => begun(dir, identity, store, recovered).map(Ok),
        Err(error) if error.is_lost() => Ok(Err(words_of(&error))),
        Err(error) => Err(error).context("the log can not be opened"),
    }
}

fn begun(dir: &Path, identity: &mut Identity, store: Store, recovered: Recovered) -> anyhow::Result<OwnLog> {
    let bearer = dir.join(BEARER);
    if !bearer.exists() {
        write_durably(&bearer, &serde_json::to_vec_pretty(&identity.bearer())?, 0o644)?;
    }
    if !identity.log_begun {
        identity.begin_log()?;
    }
    Ok(OwnLog { store, recovered })
}

fn words_of(error: &OpenError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Asks the members that this node knew, one after another, until one lets it in.
async fn rejoin(config: &NodeConfig, identity: &Identity) -> anyhow::Result<Accepted> {
    let public_key = identity.public_key()?;
    let request = JoinRequest {
        host: identity.host.clone(),
        peer_address: config.advertised_peer_address().context("peer_listen: missing, and other members need it")?,
        http_address: config.advertised_http_address(),
        public_key: public_key.try_into().ok().context("the node's key has another length than the protocol's")?,
        versions: Versions { commands: COMMANDS_KNOWN, ..Versions::default() },
    };
    let began = Instant::now();
    loop {
        let mut last = None;
        for member in &identity.told_of {
            let asked = JoinClient::rejoin(&identity.security, &member.host, &member.peer_address, request.clone());
            match asked.await {
                Ok(accepted) => return Ok(accepted),
                Err(error) => {
                    tracing::warn!(host = %member.host, address = member.peer_address, %error, "not let in again by this one");
                    last = Some(error);
                }
            }
        }
        if began.elapsed() >= REJOIN_WITHIN {
            return Err(last.map_or_else(|| anyhow::anyhow!("nobody is known"), Into::into));
        }
        tokio::time::sleep(ASK_AGAIN_AFTER).await;
    }
}

/// Keeps what is left of a lost log beside the new one; none where nothing is.
fn put_aside(data_dir: &Path, dir: &Path) -> anyhow::Result<Option<PathBuf>> {
    if !dir.exists() {
        return Ok(None);
    }
    let mut kept: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(data_dir)? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.strip_prefix(LOST)?.parse().ok());
        kept.extend(number.map(|number| (number, entry.path())));
    }
    kept.sort();
    let next = kept.last().map_or(1, |(number, _)| number + 1);
    let aside = data_dir.join(format!("{LOST}{next}"));
    fs::rename(dir, &aside).with_context(|| format!("cannot put {} aside", dir.display()))?;
    File::open(data_dir)?.sync_all()?;
    let too_many = (kept.len() + 1).saturating_sub(LOST_KEPT);
    for (_, old) in kept.drain(..too_many) {
        fs::remove_dir_all(&old).with_context(|| format!("cannot remove {}", old.display()))?;
    }
    Ok(Some(aside))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &Path) -> NodeConfig {
        NodeConfig { data_dir: dir.to_owned(), ..NodeConfig::default() }
    }

    #[tokio::test]
    async fn a_log_that_is_gone_is_not_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let mut first = Identity::open(&config).await.unwrap();
        assert!(!first.log_begun);
        drop(open(&config, &mut first).await.unwrap());
        drop(first);
        let mut second = Identity::open(&config).await.unwrap();
        assert!(second.log_begun);
        drop(open(&config, &mut second).await.unwrap());
        for spoil in [
            |log: &Path| fs::remove_dir_all(log).unwrap(),
            |log: &Path| fs::create_dir(log).unwrap(),
            |log: &Path| fs::write(log.join("acknowledged"), b"").unwrap(),
        ] {
            spoil(&dir.path().join(DIRECTORY));
            let error = open(&config, &mut second).await.err().unwrap();
            assert!(matches!(error.downcast_ref(), Some(LostLog::Alone { .. })), "{error:?}");
            let words = error.to_string();
            assert!(words.contains("does not begin a new cluster") && words.contains("backup"), "{words}");
        }
    }

    #[tokio::test]
    async fn another_members_log_is_not_opened() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [&dir, &other] {
            let config = config(dir.path());
            let mut identity = Identity::open(&config).await.unwrap();
            drop(open(&config, &mut identity).await.unwrap());
        }
        let config = config(dir.path());
        fs::rename(dir.path().join(DIRECTORY), dir.path().join("own")).unwrap();
        fs::rename(other.path().join(DIRECTORY), dir.path().join(DIRECTORY)).unwrap();
        let mut identity = Identity::open(&config).await.unwrap();
        let error = open(&config, &mut identity).await.err().unwrap();
        assert!(matches!(error.downcast_ref(), Some(DataDirError::OtherLog { .. })), "{error:?}");
    }

    #[test]
    fn two_lost_logs_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join(DIRECTORY);
        assert_eq!(put_aside(dir.path(), &log).unwrap(), None);
        for number in 1..=4 {
            fs::create_dir(&log).unwrap();
            let aside = dir.path().join(format!("{LOST}{number}"));
            assert_eq!(put_aside(dir.path(), &log).unwrap(), Some(aside));
        }
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["log.damaged-3", "log.damaged-4"]);
    }
}
