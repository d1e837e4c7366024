//! The present life of this node, for all its threads. A node that was declared lost while it lived
//! begins another one: what it had proposed before is refused from then on.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use types::Incarnation;

use crate::identity::record_incarnation;
use crate::lease::Lease;

/// The present life.
pub struct Life {
    data_dir: PathBuf,
    now: AtomicU64,
    /// Until when it may act for sandboxes that could be placed again.
    pub lease: Lease,
}

impl Life {
    /// A life that has begun and is on the disk.
    pub fn new(data_dir: &Path, incarnation: Incarnation, lease: Lease) -> Self {
        Self { data_dir: data_dir.to_owned(), now: AtomicU64::new(incarnation.0), lease }
    }

    /// The present life.
    pub fn now(&self) -> Incarnation {
        Incarnation(self.now.load(Ordering::Acquire))
    }

    /// Begins the next life, on the disk first.
    ///
    /// # Errors
    /// It could not be written.
    pub fn begin_next(&self) -> anyhow::Result<Incarnation> {
        let next = self.now().next();
        record_incarnation(&self.data_dir, next)?;
        self.now.store(next.0, Ordering::Release);
        Ok(next)
    }
}
