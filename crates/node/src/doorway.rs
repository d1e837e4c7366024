//! How this node stops answering other nodes: what has begun comes to its end, nothing new begins.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// How long calls that are under way are given when the node ends: as long as the front door gives its own.
pub const CALLS_END_WITHIN: Duration = Duration::from_secs(5);

/// Counts the calls of other nodes that are under way here.
pub struct Doorway(watch::Sender<Inside>);

#[derive(Debug, Clone, Copy, Default)]
struct Inside {
    closed: bool,
    calls: usize,
}

/// A call that is under way, until it is dropped.
pub struct Entered(Arc<Doorway>);

impl Default for Doorway {
    fn default() -> Self {
        Self(watch::Sender::new(Inside::default()))
    }
}

impl Doorway {
    /// Lets a call in; none once it is closed.
    pub fn enter(self: &Arc<Self>) -> Option<Entered> {
        let mut entered = None;
        // One look and one change: a call is counted before whoever closes the doorway counts, or is not let in.
        self.0.send_if_modified(|inside| {
            if !inside.closed {
                inside.calls += 1;
                entered = Some(Entered(Arc::clone(self)));
            }
            !inside.closed
        });
        entered
    }

    /// Lets no further call in.
    fn close(&self) {
        self.0.send_modify(|inside| inside.closed = true);
    }

    /// Lets no further call in and waits until those under way have ended, or their time is over.
    pub async fn close_and_wait(&self) {
        self.close();
        if tokio::time::timeout(CALLS_END_WITHIN, self.emptied()).await.is_err() {
            tracing::warn!(calls = self.0.borrow().calls, "calls of other nodes are cut off, since this node ends");
        }
    }

    /// Waits until no call is under way.
    async fn emptied(&self) {
        // Fails only when the sender is gone, which is `self`.
        let _ = self.0.subscribe().wait_for(|inside| inside.calls == 0).await;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0.send_modify(|inside| inside.calls -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn what_has_begun_ends_and_nothing_new_begins() {
        let doorway = Arc::new(Doorway::default());
        let first = doorway.enter().unwrap();
        let second = doorway.enter().unwrap();
        drop(first);
        doorway.close();
        assert!(doorway.enter().is_none());
        let mut emptied = std::pin::pin!(doorway.emptied());
        assert_eq!(poll!(emptied.as_mut()), Poll::Pending);
        drop(second);
        assert_eq!(poll!(emptied), Poll::Ready(()));
        assert!(doorway.enter().is_none());
    }
}
