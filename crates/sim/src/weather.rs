//! How one seed's world behaves: what fails, how often, and how long things take.

use crate::rng::Rng;

/// A bug that is planted to prove that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// The disk reports a batch as durable when it is written, not when it is flushed.
    AnswerBeforeFlush,
    /// The pool leaves a slot in its list when it hands it out.
    HandsOutTwice,
    /// A slot that was prepared and not placed goes back to the pool.
    ReusesPrepared,
    /// A node takes its lease for twice as long as it is.
    LeaseTooLong,
    /// A leader counts a node as lost before its lease has run out.
    LostTooSoon,
    /// The agents look at no lease.
    LeaseIgnored,
    /// A key makes a second sandbox.
    KeyTwice,
    /// A placement of an earlier life counts.
    OldLife,
    /// A late copy of a placement brings back what has ended.
    ForgetsEnded,
    /// An older generation is accepted.
    AnyGeneration,
    /// Orphans are looked for in a map that is not caught up.
    StaleStock,
}

impl Bug {
    /// Every bug.
    pub const ALL: [Bug; 11] = [
        Self::AnswerBeforeFlush,
        Self::HandsOutTwice,
        Self::ReusesPrepared,
        Self::LeaseTooLong,
        Self::LostTooSoon,
        Self::LeaseIgnored,
        Self::KeyTwice,
        Self::OldLife,
        Self::ForgetsEnded,
        Self::AnyGeneration,
        Self::StaleStock,
    ];
}

/// What fails and how often, in parts per million, and how long things take, in microseconds. Each seed draws its
/// own, and leaves some faults out altogether: a fault that is everywhere hides the others.
#[derive(Debug, Clone)]
pub struct Weather {
    /// Nodes of the cluster from its beginning.
    pub nodes: usize,
    /// Another node comes to the cluster in the middle of it.
    pub another_comes: bool,
    /// A crash instead of the next event.
    pub crash_ppm: u64,
    /// Time between two crashes of some node; zero for none.
    pub crash_every_us: u64,
    /// Time between two nodes that stand still; zero for none.
    pub still_every_us: u64,
    /// A node stands still for at most this long.
    pub still_us_max: u64,
    /// Time between two losses of a host's log; zero for none.
    pub store_lost_every_us: u64,
    /// Time between two cuts of the network; zero for none.
    pub cut_every_us: u64,
    /// A cut lasts at most this long.
    pub cut_us_max: u64,
    /// A packet takes at most this long.
    pub packet_us_max: u64,
    /// A packet takes much longer.
    pub packet_slow_ppm: u64,
    /// How much longer at most.
    pub packet_slow_us_max: u64,
    /// A packet is lost.
    pub packet_lost_ppm: u64,
    /// A packet arrives twice.
    pub packet_twice_ppm: u64,
    /// The answer to a client is lost.
    pub answer_lost_ppm: u64,
    /// A step fails, before its effect, half way or after it.
    pub step_fails_ppm: u64,
    /// A step that fails does so by its time-out.
    pub step_hangs_ppm: u64,
    /// A flush fails.
    pub flush_fails_ppm: u64,
    /// A proposal finds consensus' mailbox full.
    pub proposal_dropped_ppm: u64,
    /// The list of containers fails.
    pub list_fails_ppm: u64,
    /// Time between two containers that die by themselves; zero for none.
    pub death_every_us: u64,
    /// A container dies just when a step on it ends.
    pub death_at_end_ppm: u64,
    /// Time between two settings of the wall clock; zero for none.
    pub clock_set_every_us: u64,
    /// News of a death takes at most this long.
    pub news_us_max: u64,
    /// A flush takes at most this long.
    pub flush_us_max: u64,
    /// A message between cores takes at most this long.
    pub hop_us_max: u64,
    /// Messages to different cores may overtake each other.
    pub reorders: bool,
    /// Time between two changes of the template's image; zero for none.
    pub retarget_every_us: u64,
    /// Time between two spells in which the template's image can not be made; zero for none.
    pub broken_every_us: u64,
    /// Entries between two snapshots of the map.
    pub snapshot_every: u64,
    /// Slots of the warm pool.
    pub pool_size: usize,
    /// Clients.
    pub clients: usize,
    /// Mean pause of a client between two requests.
    pub think_us: u64,
    /// How long faults happen.
    pub storm_us: u64,
    /// The planted bug.
    pub bug: Option<Bug>,
}

impl Weather {
    /// The weather of one seed.
    pub fn draw(nodes: usize, rng: &mut Rng, bug: Option<Bug>) -> Self {
        let several = nodes > 1;
        let mut sometimes = |value: u64| if rng.chance(700_000) { rng.between(1, value) } else { 0 };
        // Many more events in several nodes, and a cluster has to get somewhere between its crashes.
        let crash_ppm = sometimes(if several { 300 } else { 8_000 });
        let mut in_several = |value: u64| if several { sometimes(value) } else { 0 };
        let mut every = |value: u64| match in_several(value) {
            0 => 0,
            every => every + 1_000_000,
        };
        let crash_every_us = every(12_000_000);
        let still_every_us = every(25_000_000);
        let cut_every_us = every(15_000_000);
        let packet_slow_ppm = in_several(40_000);
        let packet_lost_ppm = in_several(60_000);
        let packet_twice_ppm = in_several(60_000);
        let answer_lost_ppm = in_several(60_000);
        let store_lost = in_several(3) == 3;
        let step_fails_ppm = sometimes(150_000);
        let step_hangs_ppm = sometimes(200_000);
        let flush_fails_ppm = sometimes(10_000);
        let proposal_dropped_ppm = sometimes(100_000);
        let list_fails_ppm = sometimes(300_000);
        let death_every_us = sometimes(8_000_000);
        let death_at_end_ppm = sometimes(150_000);
        let clock_set_every_us = if sometimes(2) == 2 { 15_000_000 } else { 0 };
        let retarget_every_us = sometimes(20_000_000);
        let broken_every_us = sometimes(40_000_000);
        let clients = rng.between(2, 5) as usize;
        let think_us = *rng.pick(&[20_000, 200_000, 1_000_000]).unwrap_or(&200_000);
        // A long and quiet one now and then: a template that keeps failing is only given up in minutes.
        let long = rng.chance(120_000);
        let long = long && !several;
        let (broken_every_us, crash_ppm) = if long { (300_000_000, 0) } else { (broken_every_us, crash_ppm) };
        Self {
            nodes,
            another_comes: several && rng.chance(400_000),
            crash_ppm,
            crash_every_us,
            still_every_us,
            still_us_max: *rng.pick(&[500_000, 5_000_000, 12_000_000]).unwrap_or(&500_000),
            store_lost_every_us: if store_lost { 15_000_000 } else { 0 },
            cut_every_us,
            cut_us_max: *rng.pick(&[1_000_000, 5_000_000, 15_000_000]).unwrap_or(&1_000_000),
            packet_us_max: *rng.pick(&[300, 3_000, 40_000]).unwrap_or(&300),
            packet_slow_ppm,
            packet_slow_us_max: *rng.pick(&[100_000, 1_000_000, 8_000_000]).unwrap_or(&100_000),
            packet_lost_ppm,
            packet_twice_ppm,
            answer_lost_ppm,
            step_fails_ppm,
            step_hangs_ppm,
            flush_fails_ppm,
            proposal_dropped_ppm,
            list_fails_ppm,
            death_every_us,
            death_at_end_ppm,
            clock_set_every_us,
            news_us_max: *rng.pick(&[100, 50_000, 2_000_000]).unwrap_or(&100),
            flush_us_max: *rng.pick(&[300, 3_000, 60_000, 1_500_000]).unwrap_or(&300),
            hop_us_max: *rng.pick(&[1, 50, 4_000]).unwrap_or(&1),
            reorders: rng.chance(500_000),
            retarget_every_us,
            broken_every_us,
            snapshot_every: *rng.pick(&[7, 40, 1_000]).unwrap_or(&40),
            pool_size: rng.between(0, 4) as usize,
            clients: if long { 1 } else { clients },
            think_us: if long { 60_000_000 } else { think_us },
            storm_us: if long { 1_200_000_000 } else { 40_000_000 },
            bug,
        }
    }

    /// From here on nothing fails any more.
    pub fn calm(&mut self) {
        self.crash_ppm = 0;
        self.crash_every_us = 0;
        self.still_every_us = 0;
        self.store_lost_every_us = 0;
        self.cut_every_us = 0;
        self.packet_slow_ppm = 0;
        self.packet_lost_ppm = 0;
        self.packet_twice_ppm = 0;
        self.answer_lost_ppm = 0;
        self.step_fails_ppm = 0;
        self.step_hangs_ppm = 0;
        self.flush_fails_ppm = 0;
        self.proposal_dropped_ppm = 0;
        self.list_fails_ppm = 0;
        self.death_every_us = 0;
        self.death_at_end_ppm = 0;
        self.clock_set_every_us = 0;
        self.retarget_every_us = 0;
        self.broken_every_us = 0;
    }
}
