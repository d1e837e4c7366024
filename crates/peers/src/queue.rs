//! What waits for one peer: bounded by count and bytes, never waited for.

use std::collections::VecDeque;

use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::Notify;

use crate::frames::FrameWriter;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::link::{LinkCounters, SendError};
use crate::wire::{Message, PeerMessage};

pub(crate) struct Queue {
    messages_max: usize,
    bytes_max: usize,
    inner: Mutex<Inner>,
    ready: Notify,
}

#[derive(Default)]
struct Inner {
    open: bool,
    /// Leases hang on these; they go ahead of what may be megabytes.
    urgent: VecDeque<Waiting>,
    ordinary: VecDeque<Waiting>,
    /// Of all that has not left yet, the batch being written included.
    messages: usize,
    bytes: usize,
    counters: LinkCounters,
}

struct Waiting {
    message: PeerMessage,
    bytes: usize,
}

/// What was taken out to be written. It counts as waiting until it has left.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Batch {
    messages: usize,
    bytes: usize,
}

impl Queue {
    pub(crate) fn new(messages_max: usize, bytes_max: usize) -> Self {
        Self { messages_max, bytes_max, inner: Mutex::default(), ready: Notify::new() }
    }

    pub(crate) fn push(&self, message: Message) -> Result<(), SendError> {
        let urgent = matches!(message, Message::Heartbeat(_) | Message::HeartbeatAck(_));
        let message = PeerMessage { message: Some(message) };
        let bytes = message.encoded_len();
        let mut inner = self.inner.lock();
        if bytes > MESSAGE_BYTES_MAX {
            inner.counters.dropped_too_large += 1;
            return Err(SendError::TooLarge(bytes));
        }
        if !inner.open {
            inner.counters.dropped_down += 1;
            return Err(SendError::Down);
        }
        if inner.messages >= self.messages_max || (inner.messages > 0 && inner.bytes + bytes > self.bytes_max) {
            inner.counters.dropped_full += 1;
            return Err(SendError::Full);
        }
        inner.messages += 1;
        inner.bytes += bytes;
        let lane = if urgent { &mut inner.urgent } else { &mut inner.ordinary };
        lane.push_back(Waiting { message, bytes });
        drop(inner);
        self.ready.notify_one();
        Ok(())
    }

    /// Waits until there is something to take. Wakes one waiter only.
    pub(crate) async fn ready(&self) {
        loop {
            {
                let inner = self.inner.lock();
                if !inner.urgent.is_empty() || !inner.ordinary.is_empty() {
                    return;
                }
            }
            self.ready.notified().await;
        }
    }

    /// Moves what waits into the writer, up to `bytes_max` and one message more.
    pub(crate) fn take(&self, writer: &mut FrameWriter, bytes_max: usize) -> Batch {
        let mut batch = Batch::default();
        while batch.bytes < bytes_max {
            let next = {
                let mut inner = self.inner.lock();
                inner.urgent.pop_front().or_else(|| inner.ordinary.pop_front())
            };
            let Some(waiting) = next else { break };
            // Outside the lock: a sender does not wait for the copy of a large message.
            writer.push(&waiting.message);
            batch.messages += 1;
            batch.bytes += waiting.bytes;
        }
        batch
    }

    /// A batch has left.
    pub(crate) fn sent(&self, batch: Batch) {
        if batch == Batch::default() {
            return;
        }
        let mut inner = self.inner.lock();
        inner.messages -= batch.messages;
        inner.bytes -= batch.bytes;
        inner.counters.sent += batch.messages as u64;
        inner.counters.sent_bytes += batch.bytes as u64;
        inner.counters.writes += 1;
    }

    /// The peer is connected: messages are taken.
    pub(crate) fn open(&self) {
        let mut inner = self.inner.lock();
        inner.open = true;
        inner.counters.connections += 1;
    }

    /// The peer is gone, and with it what was meant for it: by the time it is back, that is old news.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.open = false;
        inner.urgent.clear();
        inner.ordinary.clear();
        inner.counters.dropped_lost += inner.messages as u64;
        inner.messages = 0;
        inner.bytes = 0;
    }

    pub(crate) fn counters(&self) -> LinkCounters {
        let inner = self.inner.lock();
        LinkCounters { waiting: inner.messages, waiting_bytes: inner.bytes, ..inner.counters.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Heartbeat;

    fn raft(bytes: usize) -> Message {
        Message::Raft(vec![7; bytes].into())
    }

    #[test]
    fn nothing_is_taken_before_the_peer_is_there_nor_beyond_the_bounds() {
        let queue = Queue::new(3, 1_000);
        assert_eq!(queue.push(raft(1)), Err(SendError::Down));
        queue.open();
        assert_eq!(queue.push(raft(600)), Ok(()));
        assert_eq!(queue.push(raft(600)), Err(SendError::Full), "by bytes");
        assert_eq!(queue.push(raft(1)), Ok(()));
        assert_eq!(queue.push(raft(1)), Ok(()));
        assert_eq!(queue.push(raft(1)), Err(SendError::Full), "by count");
        assert!(matches!(queue.push(raft(MESSAGE_BYTES_MAX)), Err(SendError::TooLarge(_))));
        let counters = queue.counters();
        assert_eq!((counters.dropped_down, counters.dropped_full, counters.dropped_too_large), (1, 2, 1));
        assert_eq!(counters.waiting, 3);
        queue.close();
        let counters = queue.counters();
        assert_eq!((counters.waiting, counters.waiting_bytes, counters.dropped_lost), (0, 0, 3));
        assert_eq!(queue.push(raft(1)), Err(SendError::Down));
    }

    #[test]
    fn one_message_fits_however_large() {
        let queue = Queue::new(3, 10);
        queue.open();
        assert_eq!(queue.push(raft(600)), Ok(()));
        assert_eq!(queue.push(raft(1)), Err(SendError::Full));
    }

    #[test]
    fn heartbeats_go_first() {
        let queue = Queue::new(9, 1_000);
        queue.open();
        queue.push(raft(1)).unwrap();
        queue.push(Message::Heartbeat(Heartbeat::default())).unwrap();
        let mut inner = queue.inner.lock();
        assert!(matches!(inner.urgent.pop_front().unwrap().message.message, Some(Message::Heartbeat(_))));
        assert!(matches!(inner.ordinary.pop_front().unwrap().message.message, Some(Message::Raft(_))));
    }
}
