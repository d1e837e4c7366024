//! What is still to happen, in the order of virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use types::{SandboxId, Timestamp};
use warren_core::lifecycle::Ticket;

use crate::clients::Op;

/// The wall clock at the start of every run, in milliseconds since the Unix epoch.
const EPOCH_MS: u64 = 1_800_000_000_000;

/// Something that happens. What belongs to one life of a node names it, and is void in the next.
#[derive(Debug, Clone)]
pub enum Event {
    /// A node's cores take their next message.
    Hop(usize, u64),
    /// A node's clock ticks.
    Tick(usize, u64),
    /// The flush under way on a node's disk ends.
    Flushed(usize, u64),
    /// A step on a node's engine goes on.
    Engine(usize, u64),
    /// A discard that failed is tried again.
    DiscardAgain(usize, u64, SandboxId),
    /// A node begins to list its containers.
    Lists(usize, u64),
    /// A node has asked all of its containers who they are; those that died meanwhile have died since.
    Listed(usize, u64),
    /// A node hears that a container died.
    DeathNews(usize, u64, SandboxId),
    /// A supervisor asked to be called.
    WakeSupervisor(usize, u64, SandboxId),
    /// The pool asked to be called.
    WakePool(usize, u64),
    /// A node's process begins.
    Start(usize),
    /// A container on a node dies by itself.
    Death(usize),
    /// A container on a node dies just now, of all moments.
    DeathOf(usize, SandboxId),
    /// Somebody sets the wall clock.
    ClockSet,
    /// A client makes its next request.
    Turn(usize),
    /// A request reaches a node.
    Request(usize, Ticket, Op),
    /// A client's patience ends.
    GivesUp(Ticket),
    /// The template names another image.
    Retarget,
    /// The template's image can not be made from here on, or can again.
    Broken(bool),
    /// Faults end.
    Calm,
    /// Somebody wants a sandbox after the faults have ended.
    Poke,
}

#[derive(Debug)]
struct Scheduled {
    at_us: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_us, self.number).cmp(&(other.at_us, other.number))
    }
}

/// The queue of events, and the virtual clock.
#[derive(Debug, Default)]
pub struct Agenda {
    now_us: u64,
    /// How far the wall clock was set forward, less how far it was set back.
    set_ms: i64,
    last: u64,
    heap: BinaryHeap<Reverse<Scheduled>>,
}

impl Agenda {
    /// Microseconds since the start of the run.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// The wall clock that the cores are given.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        Timestamp((EPOCH_MS + self.now_us / 1_000).saturating_add_signed(self.set_ms))
    }

    /// Sets the wall clock forward or back.
    pub fn set_clock(&mut self, by_ms: i64) {
        self.set_ms += by_ms;
    }

    /// Has something happen so many microseconds from now.
    pub fn after(&mut self, delay_us: u64, event: Event) {
        self.last += 1;
        self.heap.push(Reverse(Scheduled { at_us: self.now_us + delay_us, number: self.last, event }));
    }

    /// Has something happen when the wall clock would read this if nobody set it meanwhile, or at once where it is
    /// past: timers run on another clock.
    pub fn at_wall(&mut self, at: Timestamp, event: Event) {
        let part_us = self.now_us % 1_000;
        self.after(at.ms_since(self.wall()).saturating_mul(1_000).saturating_sub(part_us), event);
    }

    /// The next event; time moves to it.
    pub fn next(&mut self) -> Option<Event> {
        let Reverse(next) = self.heap.pop()?;
        self.now_us = next.at_us;
        Some(next.event)
    }
}
