//! Which image a reference means.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use parking_lot::Mutex;
use podman_api::opts::{ImageListOpts, PullOpts};

use crate::engine::{Engine, EngineError};
use crate::error::timed;

/// An inspect of an image takes a few milliseconds.
const IMAGE_INSPECT_LIMIT: Duration = Duration::from_secs(15);

/// A list of all images reads the store's whole record, and its neighbours'.
const IMAGE_LIST_LIMIT: Duration = Duration::from_secs(30);

/// How long a pull may take.
const PULL_LIMIT: Duration = Duration::from_secs(300);

/// How long an answer holds while the store's record of images does not change.
const FACTS_FRESH: Duration = Duration::from_secs(60);

/// How long an answer holds where that record can not be watched.
const FACTS_FRESH_UNWATCHED: Duration = Duration::from_secs(3);

/// How long "not there" holds, so that a flood of creates is not a flood of pulls.
const NOT_THERE_FRESH: Duration = Duration::from_secs(5);

/// References remembered; beyond it all are forgotten.
const REMEMBERED_MAX: usize = 1024;

/// What a sandbox must know of its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    /// As it was asked for.
    pub reference: String,
    /// The engine's id of it.
    pub id: String,
    /// Its `USER`; empty for none.
    pub user: String,
    /// Its working directory; empty for none.
    pub workdir: String,
    /// Its variables, in order.
    pub env: Vec<(String, String)>,
}

/// An image that is there, and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedImage {
    /// The engine's id of it.
    pub id: String,
    /// With tags first, then with digests.
    pub names: Vec<String>,
}

/// Why a reference means no image.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ResolveError {
    /// It is not in the local store and can not be pulled.
    #[error("the image is not there: {reason}")]
    NotThere {
        /// What the engine or the registry said.
        reason: String,
    },
    /// The engine failed.
    #[error("the engine failed: {0}")]
    Engine(Arc<EngineError>),
}

type Answer = Result<Arc<ImageFacts>, String>;

pub(crate) struct ImageCache {
    /// The store's record of its images: replaced by rename whenever an image or a name changes, by
    /// whichever process. One look at it replaces an event stream that sees only some of them.
    record: PathBuf,
    entries: Mutex<HashMap<String, Entry>>,
    /// References that the local store did not have when it was in that state.
    missing: Mutex<HashMap<String, (Option<Stamp>, Instant)>>,
    /// One look at a time for each reference, so that one pull serves all who wait.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

struct Entry {
    answer: Answer,
    seen: Option<Stamp>,
    at: Instant,
}

/// One state of the store's record of its images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    size: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl ImageCache {
    pub(crate) fn new(graph_root: &Path) -> Self {
        Self {
            record: graph_root.join("overlay-images").join("images.json"),
            entries: Mutex::new(HashMap::new()),
            missing: Mutex::new(HashMap::new()),
            turns: Mutex::new(HashMap::new()),
        }
    }

    fn stamp(&self) -> Option<Stamp> {
        let record = fs::metadata(&self.record).ok()?;
        Some(Stamp {
            inode: record.ino(),
            size: record.size(),
            seconds: record.mtime(),
            nanoseconds: record.mtime_nsec(),
        })
    }

    fn get(&self, reference: &str) -> Option<Answer> {
        let stamp = self.stamp();
        let entries = self.entries.lock();
        let entry = entries.get(reference)?;
        let fresh = match (&entry.answer, stamp) {
            (Err(_), _) => NOT_THERE_FRESH,
            (Ok(_), Some(_)) => FACTS_FRESH,
            (Ok(_), None) => FACTS_FRESH_UNWATCHED,
        };
        (entry.seen == stamp && entry.at.elapsed() < fresh).then(|| entry.answer.clone())
    }

    fn is_missing(&self, reference: &str) -> bool {
        let stamp = self.stamp();
        let fresh = if stamp.is_some() { FACTS_FRESH } else { FACTS_FRESH_UNWATCHED };
        let missing = self.missing.lock();
        missing.get(reference).is_some_and(|(seen, at)| *seen == stamp && at.elapsed() < fresh)
    }

    fn put_missing(&self, reference: &str, seen: Option<Stamp>) {
        let mut missing = self.missing.lock();
        if missing.len() >= REMEMBERED_MAX {
            missing.clear();
        }
        missing.insert(reference.to_owned(), (seen, Instant::now()));
    }

    fn put(&self, reference: &str, answer: Answer, seen: Option<Stamp>) {
        let mut entries = self.entries.lock();
        if entries.len() >= REMEMBERED_MAX {
            entries.clear();
        }
        entries.insert(reference.to_owned(), Entry { answer, seen, at: Instant::now() });
    }

    fn turn(&self, reference: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock();
        if turns.len() >= REMEMBERED_MAX {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        Arc::clone(turns.entry(reference.to_owned()).or_default())
    }
}

impl Engine {
    /// All images that are there, those of stores beside the engine's own included. An engine call: not for a
    /// request's way.
    ///
    /// # Errors
    /// The engine failed.
    pub async fn list_images(&self) -> Result<Vec<ListedImage>, EngineError> {
        let options = ImageListOpts::builder().build();
        let listed = timed("image list", IMAGE_LIST_LIMIT, self.inner.podman.images().list(&options)).await?;
        let image = |summary: podman_api::models::LibpodImageSummary| {
            let tags = summary.repo_tags.unwrap_or_default();
            let digests = summary.repo_digests.unwrap_or_default();
            // The engine's words for a name that it does not know.
            let names = tags.into_iter().chain(digests).filter(|name| !name.contains("<none>")).collect();
            Some(ListedImage { id: summary.id?, names })
        };
        Ok(listed.into_iter().filter_map(image).collect())
    }

    /// The state of the store's record of images, which changes with every image and name; none where it can not be
    /// watched. Costs one look at a file.
    #[must_use]
    pub fn images_stamp(&self) -> Option<Stamp> {
        self.inner.images.stamp()
    }

    /// What image a reference means here; none where it is not in the local store. Nothing is pulled.
    /// While the store does not change, the answer comes from memory.
    ///
    /// # Errors
    /// The engine failed.
    pub async fn find_image(&self, reference: &str) -> Result<Option<Arc<ImageFacts>>, Arc<EngineError>> {
        let cache = &self.inner.images;
        let known = || match cache.get(reference) {
            Some(Ok(facts)) => Some(Some(facts)),
            _ => cache.is_missing(reference).then_some(None),
        };
        if let Some(found) = known() {
            return Ok(found);
        }
        // Not the turn of those who pull: whoever only looks does not wait for a registry.
        let seen = cache.stamp();
        match self.look_up(reference).await.map_err(Arc::new)? {
            Ok(facts) => {
                cache.put(reference, Ok(Arc::clone(&facts)), seen);
                Ok(Some(facts))
            }
            Err(_) => {
                cache.put_missing(reference, seen);
                Ok(None)
            }
        }
    }

    /// What image a reference means; it is pulled where it is not there and a registry answers.
    /// While the store does not change, the answer comes from memory.
    pub async fn resolve_image(&self, reference: &str) -> Result<Arc<ImageFacts>, ResolveError> {
        let cache = &self.inner.images;
        let known = |answer: Answer| answer.map_err(|reason| ResolveError::NotThere { reason });
        if let Some(answer) = cache.get(reference) {
            return known(answer);
        }
        let turn = cache.turn(reference);
        let _turn = turn.lock().await;
        if let Some(answer) = cache.get(reference) {
            return known(answer);
        }
        // Before the look: what changes during it makes the answer old at once.
        let mut seen = cache.stamp();
        let engine = |error| ResolveError::Engine(Arc::new(error));
        let mut answer = self.look_up(reference).await.map_err(engine)?;
        if answer.is_err() {
            if let Err(reason) = self.pull(reference).await {
                answer = Err(reason);
            } else {
                seen = cache.stamp();
                answer = self.look_up(reference).await.map_err(engine)?;
            }
        }
        cache.put(reference, answer.clone(), seen);
        known(answer)
    }

    /// What the local store says: facts, or that it has no such image.
    async fn look_up(&self, reference: &str) -> Result<Answer, EngineError> {
        if !is_plain(reference) {
            return Ok(Err(format!("{reference:?} is no image reference")));
        }
        let image = self.inner.podman.images().get(reference);
        let inspected = match timed("image inspect", IMAGE_INSPECT_LIMIT, image.inspect()).await {
            Ok(inspected) => inspected,
            Err(error) if error.is_not_found() => return Ok(Err(error.to_string())),
            Err(error) => return Err(error),
        };
        let Some(id) = inspected.id else {
            return Err(EngineError::BadAnswer { call: "image inspect", why: "it has no id".to_owned() });
        };
        let config = inspected.config;
        let env = config.as_ref().and_then(|config| config.env.clone()).unwrap_or_default();
        Ok(Ok(Arc::new(ImageFacts {
            reference: reference.to_owned(),
            id,
            user: inspected.user.unwrap_or_default(),
            workdir: config.and_then(|config| config.working_dir).unwrap_or_default(),
            env: env
                .into_iter()
                .map(|variable| match variable.split_once('=') {
                    Some((name, value)) => (name.to_owned(), value.to_owned()),
                    None => (variable, String::new()),
                })
                .collect(),
        })))
    }

    /// Pulls an image, or says why that does not go.
    async fn pull(&self, reference: &str) -> Result<(), String> {
        if !is_plain(reference) {
            return Err(format!("{reference:?} is no image reference"));
        }
        if let Some(name) = reference.strip_prefix("localhost/") {
            return Err(format!("{name} is not in the local store, and localhost names no registry"));
        }
        let images = self.inner.podman.images();
        let options = PullOpts::builder().reference(reference).build();
        let pulling = async {
            let mut reports = images.pull(&options);
            let mut error = None;
            while let Some(report) = reports.next().await {
                match report {
                    Ok(report) => error = report.error.filter(|text| !text.is_empty()).or(error),
                    Err(failure) => error = Some(failure.to_string()),
                }
            }
            error.map_or(Ok(()), Err)
        };
        match tokio::time::timeout(PULL_LIMIT, pulling).await {
            Ok(result) => result,
            Err(_) => Err(format!("the pull took longer than {} s", PULL_LIMIT.as_secs())),
        }
    }
}

/// Whether a text can be a reference at all. It becomes part of a path on the engine's socket, so
/// nothing that a path or query gives a meaning to may be in it.
fn is_plain(reference: &str) -> bool {
    const REFERENCE_BYTES_MAX: usize = 512;
    (1..=REFERENCE_BYTES_MAX).contains(&reference.len())
        && !reference.contains("..")
        && reference.starts_with(|first: char| first.is_ascii_alphanumeric())
        && reference.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/:@+".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::is_plain;

    #[test]
    fn a_reference_can_not_reach_another_route() {
        for reference in ["debian", "localhost/a/b:1", "docker.io/library/debian@sha256:00ff", "a+b"] {
            assert!(is_plain(reference), "{reference}");
        }
        for reference in ["", "../containers/x", "a/../b", "a?force=true", "a#b", "a b", "a%2f", "/a", ":a", "ä"] {
            assert!(!is_plain(reference), "{reference}");
        }
    }
}
