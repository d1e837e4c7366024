//! This node's lease for all its threads, and through one file for the agents of its sandboxes.

use std::sync::atomic::{AtomicU64, Ordering};

use runtime::Engine;
use types::{ErrorCode, WarrenError};

use crate::hub::boottime_ms;

/// Until when this node may act for sandboxes that could be placed again.
pub struct Lease {
    engine: Option<Engine>,
    until_ms: AtomicU64,
}

impl Lease {
    /// None yet. What an earlier life of this node told the agents holds until it runs out.
    pub fn new(engine: Option<Engine>) -> Self {
        Self { engine, until_ms: AtomicU64::new(0) }
    }

    /// The lease holds until then; it never gets shorter.
    pub fn extend(&self, until_ms: u64) {
        if self.until_ms.fetch_max(until_ms, Ordering::AcqRel) < until_ms
            && let Some(engine) = &self.engine
            && engine.lease_file().expires_boottime_ms() < until_ms
        {
            engine.lease_file().set(until_ms);
        }
    }

    /// Refuses where the lease has run out: the sandbox may be another node's by now.
    ///
    /// # Errors
    /// It has.
    pub fn require(&self) -> Result<(), WarrenError> {
        if boottime_ms() < self.until_ms.load(Ordering::Acquire) {
            return Ok(());
        }
        let message = "this node is cut off from the cluster's leader; the sandbox may be placed on another node";
        Err(WarrenError::new(ErrorCode::Unavailable, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_refused_until_it_is_won_and_after_it_has_run_out() {
        let lease = Lease::new(None);
        assert_eq!(lease.require().unwrap_err().code, ErrorCode::Unavailable);
        lease.extend(boottime_ms() + 60_000);
        assert!(lease.require().is_ok());
        // An acknowledgement of an earlier heartbeat that comes late shortens nothing.
        lease.extend(1);
        assert!(lease.require().is_ok());
        let past = Lease::new(None);
        past.extend(boottime_ms().saturating_sub(1));
        assert!(past.require().is_err());
    }
}
