//! The receiving end of a peer's stream.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use types::HostId;

use crate::connections::StreamPlace;
use crate::error::LinkError;
use crate::frames::{Connection, FrameReader, FrameWriter};
use crate::limits::MESSAGE_BYTES_MAX;
use crate::wire::{Alive, Message, PeerMessage};

/// Messages from one peer. While nobody takes them the peer's queue fills, not this node's memory.
pub struct StreamLink {
    peer: HostId,
    reader: FrameReader,
    place: StreamPlace,
    silence_max: Duration,
    alive: JoinHandle<()>,
}

impl StreamLink {
    pub(crate) fn new(
        peer: HostId,
        connection: Connection,
        place: StreamPlace,
        alive_interval: Duration,
        silence_max: Duration,
    ) -> Self {
        let alive = tokio::spawn(say_alive(connection.writer, alive_interval, silence_max));
        Self { peer, reader: connection.reader, place, silence_max, alive }
    }

    /// Who sends, as its certificate says.
    #[must_use]
    pub fn peer(&self) -> &HostId {
        &self.peer
    }

    /// The next message, or none where the peer ended the stream. May be dropped and called again.
    ///
    /// # Errors
    /// The stream is dead, or a newer one of the same peer took its place. Drop it.
    pub async fn recv(&mut self) -> Result<Option<Message>, LinkError> {
        loop {
            let frame = tokio::select! {
                biased;
                () = self.place.superseded() => return Err(LinkError::Superseded),
                frame = self.reader.next_before_silence::<PeerMessage>(MESSAGE_BYTES_MAX, self.silence_max) => frame?,
            };
            match frame {
                None => return Ok(None),
                Some(PeerMessage { message: None }) => tracing::debug!(peer = %self.peer, "a message of a newer kind"),
                Some(PeerMessage { message: Some(Message::Alive(Alive {})) }) => {}
                Some(PeerMessage { message: Some(message) }) => return Ok(Some(message)),
            }
        }
    }
}

impl Drop for StreamLink {
    fn drop(&mut self) {
        self.alive.abort();
    }
}

impl std::fmt::Debug for StreamLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamLink").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Beside the receiver, so that a receiver that takes its time is not taken for dead.
async fn say_alive(mut writer: FrameWriter, every: Duration, write_max: Duration) {
    let alive = PeerMessage { message: Some(Message::Alive(Alive {})) };
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        writer.push(&alive);
        // The receiving half notices by itself that the connection is gone.
        if !matches!(timeout(write_max, writer.flush()).await, Ok(Ok(()))) {
            return;
        }
    }
}
