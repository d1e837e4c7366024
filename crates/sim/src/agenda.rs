//! What is still to happen, in the order of virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use types::{SandboxId, Timestamp};
use warren_core::lifecycle::Ticket;

use crate::clients::Op;
use crate::network::Packet;
use crate::rng::Rng;

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
    /// A packet reaches a host, from another.
    Arrives(usize, usize, Packet),
    /// A node waits no longer for another one's answer to a call.
    CallLost(usize, u64, u64),
    /// Two nodes, or groups of them, can not reach each other for a while.
    Cut,
    /// What a cut has separated is whole again.
    Healed(u64),
    /// A node dies.
    Crash,
    /// A node stands still for a while.
    StandsStill,
    /// A host loses its log.
    StoreLost,
    /// A container on a node dies by itself.
    Death(usize),
    /// A container on a node dies just now, of all moments.
    DeathOf(usize, SandboxId),
    /// Somebody sets a host's wall clock.
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
    /// A further host comes to the cluster.
    Comes(usize),
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

/// The clocks of one host. No two read the same.
#[derive(Debug, Clone, Default)]
struct Clocks {
    /// How far the wall clock was set forward, less how far it was set back.
    set_ms: i64,
    /// What the clock that is never set read at the start of the run.
    boot_ms: u64,
    /// By how many parts in a million it is too fast.
    fast_ppm: i64,
}

/// The queue of events, the virtual time, and the hosts' clocks.
#[derive(Debug, Default)]
pub struct Agenda {
    now_us: u64,
    clocks: Vec<Clocks>,
    last: u64,
    heap: BinaryHeap<Reverse<Scheduled>>,
}

impl Agenda {
    /// Microseconds since the start of the run.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// A further host's clocks. One alone has no other to differ from.
    pub fn add_clocks(&mut self, alone: bool, rng: &mut Rng) {
        let (set_ms, fast_ppm) =
            if alone { (0, 0) } else { (rng.below(4_000) as i64 - 2_000, rng.below(600) as i64 - 300) };
        self.clocks.push(Clocks { set_ms, boot_ms: rng.below(1_000_000_000), fast_ppm });
    }

    /// The wall clock that the cores on a host are given.
    #[must_use]
    pub fn wall(&self, host: usize) -> Timestamp {
        Timestamp((EPOCH_MS + self.now_us / 1_000).saturating_add_signed(self.clocks[host].set_ms))
    }

    /// Milliseconds by a host's clock that is never set.
    #[must_use]
    pub fn boot_ms(&self, host: usize) -> u64 {
        let Clocks { boot_ms, fast_ppm, .. } = self.clocks[host];
        boot_ms + self.now_us.saturating_add_signed(self.now_us as i64 / 1_000_000 * fast_ppm) / 1_000
    }

    /// Sets a host's wall clock forward or back.
    pub fn set_clock(&mut self, host: usize, by_ms: i64) {
        self.clocks[host].set_ms += by_ms;
    }

    /// Sets every host's wall clock right.
    pub fn set_clocks_right(&mut self) {
        let latest = self.clocks.iter().map(|clocks| clocks.set_ms).max().unwrap_or_default();
        self.clocks.iter_mut().for_each(|clocks| clocks.set_ms = latest);
    }

    /// Has something happen so many microseconds from now.
    pub fn after(&mut self, delay_us: u64, event: Event) {
        self.last += 1;
        self.heap.push(Reverse(Scheduled { at_us: self.now_us + delay_us, number: self.last, event }));
    }

    /// Has something happen when a host's wall clock would read this if nobody set it meanwhile, or at once where it
    /// is past: timers run on another clock.
    pub fn at_wall(&mut self, host: usize, at: Timestamp, event: Event) {
        let part_us = self.now_us % 1_000;
        self.after(at.ms_since(self.wall(host)).saturating_mul(1_000).saturating_sub(part_us), event);
    }

    /// The next event; time moves to it.
    pub fn next(&mut self) -> Option<Event> {
        let Reverse(next) = self.heap.pop()?;
        self.now_us = next.at_us;
        Some(next.event)
    }
}
