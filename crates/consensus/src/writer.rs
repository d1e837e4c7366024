//! The log writer: a thread that owns the store, and makes everything that waits durable with one flush.

use crate::durable::WriteBatch;
use crate::store::{Counters, Store, WriteError};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

/// Batches that may wait for the disk. A sender waits when it is full: a disk that stuck stops its member's heart, and
/// that is right.
pub const WRITE_QUEUE_BATCHES_MAX: usize = 1_024;

/// The handle of the log writer.
pub struct LogWriter {
    queue: Option<SyncSender<WriteBatch>>,
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

/// The thread has ended: a write failed, and its callback was told.
#[derive(Debug, thiserror::Error)]
#[error("the log writer has stopped")]
pub struct WriterGone;

impl LogWriter {
    /// Starts the thread. After each flush `report` gets the number of the last batch that is durable with it; a
    /// failed write is reported once and is the end. `report` runs on the thread and must not wait for the sender.
    pub fn spawn(
        store: Store,
        report: impl FnMut(Result<u64, WriteError>) + Send + 'static,
    ) -> std::io::Result<LogWriter> {
        let (queue, waiting) = sync_channel(WRITE_QUEUE_BATCHES_MAX);
        let counters = store.counters();
        let thread = Builder::new().name("log-writer".to_owned()).spawn(move || run(store, waiting, report))?;
        Ok(Self { queue: Some(queue), counters, thread: Some(thread) })
    }

    /// Queues a batch.
    pub fn write(&self, batch: WriteBatch) -> Result<(), WriterGone> {
        self.queue.as_ref().ok_or(WriterGone)?.send(batch).map_err(|_| WriterGone)
    }

    /// What the store has done so far.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Writes what waits, then closes the store. The store can be opened again when it returns.
    pub fn close(self) {}
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log writer panicked");
        }
    }
}

fn run(mut store: Store, waiting: Receiver<WriteBatch>, mut report: impl FnMut(Result<u64, WriteError>)) {
    while let Ok(first) = waiting.recv() {
        let mut batches = vec![first];
        batches.extend(waiting.try_iter());
        let last = batches[batches.len() - 1].number;
        if let Err(error) = store.write(&batches) {
            // Closed first, so that whoever hears of the failure can not queue anything behind it.
            drop(waiting);
            return report(Err(error));
        }
        report(Ok(last));
    }
}
