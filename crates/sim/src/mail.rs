//! The mailboxes of one node's actors. Messages to one actor keep their order; those to different actors need not.

use std::collections::{BTreeMap, VecDeque};

use consensus::Input;
use types::{Incarnation, SandboxId};
use warren_core::wiring::Message;

use crate::log::Pending;
use crate::rng::Rng;
use warren_core::leases::Beat;

/// An actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Actor {
    /// The core of consensus.
    Consensus,
    /// The warm pool.
    Pool,
    /// The supervisor of a sandbox.
    Supervisor(SandboxId),
    /// The engine room's hand on one container.
    Engine(SandboxId),
    /// The connection to the clients.
    Clients,
}

/// What stands in a mailbox.
#[derive(Debug)]
pub enum Letter {
    /// From a core to a core.
    Core(Message),
    /// From the disk, a peer or a reader to consensus.
    Consensus(Input),
    /// The clock ticks for consensus.
    Tick,
    /// Somebody wants this proposed.
    Propose(Pending),
    /// A heartbeat was heard.
    Beat(Beat),
    /// A heartbeat of this life was acknowledged.
    BeatAck(Incarnation, u64),
}

/// All mailboxes of one node.
#[derive(Debug, Default)]
pub struct Mail {
    boxes: BTreeMap<Actor, VecDeque<(u64, Letter)>>,
    sent: u64,
    length: usize,
}

impl Mail {
    /// Puts a letter into a mailbox; true if all were empty.
    pub fn send(&mut self, to: Actor, letter: Letter) -> bool {
        self.sent += 1;
        self.length += 1;
        self.boxes.entry(to).or_default().push_back((self.sent, letter));
        self.length == 1
    }

    /// The actor whose turn it is: the one with the oldest letter, or any.
    pub fn next(&self, reorders: bool, rng: &mut Rng) -> Option<Actor> {
        if self.boxes.is_empty() {
            return None;
        }
        if reorders {
            self.boxes.keys().nth(rng.index(self.boxes.len())).copied()
        } else {
            let oldest = self.boxes.iter().min_by_key(|(_, letters)| letters.front().map(|(number, _)| *number));
            oldest.map(|(actor, _)| *actor)
        }
    }

    /// The oldest letter in a mailbox.
    pub fn take(&mut self, actor: Actor) -> Option<Letter> {
        let letters = self.boxes.get_mut(&actor)?;
        let (_, letter) = letters.pop_front()?;
        self.length -= 1;
        if letters.is_empty() {
            self.boxes.remove(&actor);
        }
        Some(letter)
    }

    /// The containers about which something waits.
    pub fn slots(&self) -> impl Iterator<Item = SandboxId> {
        self.boxes.keys().filter_map(|actor| match actor {
            Actor::Supervisor(slot) | Actor::Engine(slot) => Some(*slot),
            Actor::Consensus | Actor::Pool | Actor::Clients => None,
        })
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}
