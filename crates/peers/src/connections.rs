//! Who is connected to this node: bounds by peer, and the newest stream of each.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use types::HostId;

/// The connections that were admitted and are still there.
pub(crate) struct Connections {
    peers: Mutex<HashMap<HostId, Held>>,
    calls_per_peer_max: usize,
    joins: Arc<Semaphore>,
}

#[derive(Default)]
struct Held {
    calls: usize,
    stream: Option<Arc<Notify>>,
}

impl Held {
    fn is_nothing(&self) -> bool {
        self.calls == 0 && self.stream.is_none()
    }
}

impl Connections {
    pub(crate) fn new(calls_per_peer_max: usize, joins_max: usize) -> Arc<Self> {
        Arc::new(Self { peers: Mutex::default(), calls_per_peer_max, joins: Arc::new(Semaphore::new(joins_max)) })
    }

    /// A place for one more call connection of this peer, if it has one left.
    pub(crate) fn admit_call(self: &Arc<Self>, host: &HostId) -> Option<CallPlace> {
        let mut peers = self.peers.lock();
        let held = peers.entry(host.clone()).or_default();
        if held.calls >= self.calls_per_peer_max {
            return None;
        }
        held.calls += 1;
        Some(CallPlace { connections: Arc::clone(self), host: host.clone() })
    }

    /// The place of this peer's stream. Whoever held it is told to go: a peer dials again when its stream is dead, and
    /// the dead end of that stream is here.
    pub(crate) fn admit_stream(self: &Arc<Self>, host: &HostId) -> StreamPlace {
        let superseded = Arc::new(Notify::new());
        let older = self.peers.lock().entry(host.clone()).or_default().stream.replace(Arc::clone(&superseded));
        if let Some(older) = older {
            older.notify_one();
        }
        StreamPlace { connections: Arc::clone(self), host: host.clone(), superseded }
    }

    /// A place for one more join.
    pub(crate) fn admit_join(&self) -> Option<JoinPlace> {
        Arc::clone(&self.joins).try_acquire_owned().ok().map(JoinPlace)
    }

    fn release(&self, host: &HostId, change: impl FnOnce(&mut Held)) {
        let mut peers = self.peers.lock();
        let Some(held) = peers.get_mut(host) else { return };
        change(held);
        if held.is_nothing() {
            peers.remove(host);
        }
    }
}

pub(crate) struct CallPlace {
    connections: Arc<Connections>,
    host: HostId,
}

impl Drop for CallPlace {
    fn drop(&mut self) {
        self.connections.release(&self.host, |held| held.calls -= 1);
    }
}

pub(crate) struct StreamPlace {
    connections: Arc<Connections>,
    host: HostId,
    superseded: Arc<Notify>,
}

impl StreamPlace {
    /// Waits until a newer stream of the same peer takes the place.
    pub(crate) async fn superseded(&self) {
        self.superseded.notified().await;
        // It stays so, however often it is asked.
        self.superseded.notify_one();
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.connections.release(&self.host, |held| {
            if held.stream.as_ref().is_some_and(|newest| Arc::ptr_eq(newest, &self.superseded)) {
                held.stream = None;
            }
        });
    }
}

pub(crate) struct JoinPlace(#[allow(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let connections = Connections::new(2, 1);
        let host = HostId::new("h1");
        let first = connections.admit_call(&host).unwrap();
        let _second = connections.admit_call(&host).unwrap();
        assert!(connections.admit_call(&host).is_none());
        assert!(connections.admit_call(&HostId::new("h2")).is_some(), "another peer has places of its own");
        drop(first);
        assert!(connections.admit_call(&host).is_some());
        let join = connections.admit_join().unwrap();
        assert!(connections.admit_join().is_none());
        drop(join);
        assert!(connections.admit_join().is_some());
    }

    async fn is_told(place: &StreamPlace) -> bool {
        tokio::select! {
            biased;
            () = place.superseded() => true,
            () = tokio::task::yield_now() => false,
        }
    }

    #[tokio::test]
    async fn the_newest_stream_keeps_its_place_when_the_older_one_goes() {
        let connections = Connections::new(1, 1);
        let host = HostId::new("h1");
        let older = connections.admit_stream(&host);
        let newer = connections.admit_stream(&host);
        assert!(is_told(&older).await && is_told(&older).await, "it stays so");
        assert!(!is_told(&newer).await);
        drop(older);
        let newest = connections.admit_stream(&host);
        assert!(is_told(&newer).await && !is_told(&newest).await);
        drop((newer, newest));
        assert!(connections.peers.lock().is_empty());
    }
}
