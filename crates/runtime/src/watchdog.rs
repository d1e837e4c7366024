//! A service that answers pings and nothing else: its store's locks are in a knot, which Podman does not undo.
//!
//! Seen with Podman 4.3 where several of its processes use one store: one holds `layers.lock` and waits for
//! `storage.lock`, another the other way round. The kernel gives the locks back when one of them ends.

use std::sync::Weak;
use std::time::{Duration, Instant};

use podman_api::opts::ContainerListOpts;

use crate::engine::Inner;
use crate::error::{EngineError, timed};

/// Between two looks into the store.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A look takes some milliseconds, seconds on a busy host. One that takes this long will take for ever.
const STUCK_AFTER: Duration = Duration::from_secs(25);

/// Ends our own service where it is stuck, so that it is started again. Sandboxes run on; calls under way fail as where
/// the service died.
pub(crate) async fn keep_looking(engine: Weak<Inner>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(inner) = engine.upgrade() else { return };
        let Some(pid) = inner.service_pid() else { continue };
        let began = Instant::now();
        let options = ContainerListOpts::builder().all(true).build();
        let look = timed("a look into its store", STUCK_AFTER, inner.podman.containers().list(&options)).await;
        match look {
            Err(error @ EngineError::TimedOut { .. }) => {
                if inner.kill_service(pid) {
                    tracing::warn!(pid, %error, "the podman service is stuck, killing it");
                }
            }
            // One that is down, or refuses, is told by the ping.
            Err(error) => tracing::debug!(%error, "no look into the engine's store"),
            Ok(_) => tracing::trace!(took = ?began.elapsed(), "the engine's store answers"),
        }
    }
}
