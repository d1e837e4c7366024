//! Those who wait for an answer, beside the replicated state and never in it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use types::WarrenError;
use warren_core::lifecycle::{Answer, Ticket};

type Waiting = oneshot::Sender<Result<Answer, WarrenError>>;

/// Tickets and who holds them.
#[derive(Default)]
pub struct Answers {
    next: AtomicU64,
    waiting: Mutex<HashMap<Ticket, Waiting>>,
}

/// One who waits. Dropping it gives the ticket back.
pub struct Waiter<'a> {
    answers: &'a Answers,
    /// To be handed on with what is asked for.
    pub ticket: Ticket,
    answer: oneshot::Receiver<Result<Answer, WarrenError>>,
}

impl Answers {
    /// Draws a ticket.
    pub fn wait(&self) -> Waiter<'_> {
        let ticket = Ticket(self.next.fetch_add(1, Ordering::Relaxed));
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().insert(ticket, sender);
        Waiter { answers: self, ticket, answer }
    }

    /// Answers a ticket. Whoever gave up waiting is not there any more, and that is no error.
    pub fn answer(&self, ticket: Ticket, answer: Result<Answer, WarrenError>) {
        if let Some(sender) = self.waiting.lock().remove(&ticket)
            && sender.send(answer).is_err()
        {
            tracing::debug!(ticket = ticket.0, "nobody waits for this answer any more");
        }
    }
}

impl Waiter<'_> {
    /// The answer, or none when the node ends first.
    pub async fn answer(mut self) -> Option<Result<Answer, WarrenError>> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.answers.waiting.lock().remove(&self.ticket);
    }
}
