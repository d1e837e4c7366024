//! Leases: who may act for a sandbox that could be placed again, and when a node counts as lost.
//!
//! Both sides count by a clock that runs on while a host is suspended. A node's lease runs from the
//! moment it *sent* the heartbeat; the leader counts from the moment it *received* one, and a new
//! leader from its own election. A leader acknowledges a heartbeat only after a quorum has confirmed,
//! later than the receipt, that it still leads. So a lease has always run out before its node can be
//! declared lost, whatever became of messages and leaders in between.

use std::collections::BTreeMap;

use types::{HostId, Incarnation};

/// Milliseconds between two heartbeats of a node.
pub const HEARTBEAT_MS: u64 = 1_000;

/// Milliseconds that a lease lasts, from the send of the heartbeat that won it.
pub const LEASE_MS: u64 = 4_000;

/// Milliseconds after the last heartbeat received until a node is declared lost.
pub const LOST_AFTER_MS: u64 = 6_000;

/// What the leader waits longer than a lease lasts. It does so for an announced restart too.
pub const MARGIN_MS: u64 = LOST_AFTER_MS - LEASE_MS;

/// Heartbeats under way whose time of sending is remembered; older ones win nothing any more.
const UNDER_WAY_MAX: usize = 8;

/// A node's own side: its lease.
#[derive(Debug, Default)]
pub struct Holder {
    next: u64,
    sent: BTreeMap<u64, u64>,
    until_ms: u64,
    /// Planted: a lease lasts twice as long.
    #[cfg(feature = "planted-bugs")]
    pub bug_lasts_too_long: bool,
}

impl Holder {
    /// A heartbeat leaves now; its number.
    pub fn send(&mut self, now_ms: u64) -> u64 {
        self.next += 1;
        self.sent.insert(self.next, now_ms);
        while self.sent.len() > UNDER_WAY_MAX {
            self.sent.pop_first();
        }
        self.next
    }

    /// The leader has acknowledged a heartbeat of this life.
    pub fn acknowledged(&mut self, number: u64) {
        if let Some(sent_ms) = self.sent.remove(&number) {
            #[allow(unused_mut)]
            let mut lasts_ms = LEASE_MS;
            #[cfg(feature = "planted-bugs")]
            if self.bug_lasts_too_long {
                lasts_ms *= 2;
            }
            self.until_ms = self.until_ms.max(sent_ms.saturating_add(lasts_ms));
            // What was sent before it can win no longer lease.
            self.sent = self.sent.split_off(&number);
        }
    }

    /// The map has taken in that this life restarts, as it was first proposed at `sent_ms`: the lease goes on without
    /// heartbeats for as long as was asked for.
    pub fn restarts(&mut self, sent_ms: u64, for_ms: u64) {
        self.until_ms = self.until_ms.max(sent_ms.saturating_add(for_ms));
    }

    /// When the lease runs out.
    #[must_use]
    pub fn until_ms(&self) -> u64 {
        self.until_ms
    }

    /// Whether the lease lives.
    #[must_use]
    pub fn lives(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms
    }
}

/// The leader's side: whom it has heard.
#[derive(Debug, Default)]
pub struct Granter {
    /// When this node became leader; none while it is not.
    elected_ms: Option<u64>,
    heard: BTreeMap<HostId, (Incarnation, u64)>,
    /// Planted: a node is late before its lease has run out.
    #[cfg(feature = "planted-bugs")]
    pub bug_counts_too_short: bool,
}

impl Granter {
    /// This node leads from now on: nobody is late yet.
    pub fn elected(&mut self, now_ms: u64) {
        self.elected_ms = Some(now_ms);
        self.heard.clear();
    }

    /// This node does not lead any more.
    pub fn deposed(&mut self) {
        self.elected_ms = None;
        self.heard.clear();
    }

    /// A heartbeat was received. One of an earlier life that comes late takes nothing from the present one.
    pub fn heard(&mut self, now_ms: u64, host: &HostId, incarnation: Incarnation) {
        if self.heard.get(host).is_some_and(|(life, _)| *life > incarnation) {
            return;
        }
        self.heard.insert(host.clone(), (incarnation, now_ms));
    }

    /// A node has announced a restart, and this leader has just applied that: its time counts from here.
    pub fn restarts(&mut self, now_ms: u64, host: &HostId, incarnation: Incarnation) {
        self.heard(now_ms, host, incarnation);
    }

    /// Whether this life of a node was heard within the time of a lease.
    #[must_use]
    pub fn hears(&self, now_ms: u64, host: &HostId, incarnation: Incarnation) -> bool {
        let lately =
            |(life, heard_ms): &(Incarnation, u64)| *life >= incarnation && now_ms < heard_ms.saturating_add(LEASE_MS);
        self.elected_ms.is_some() && self.heard.get(host).is_some_and(lately)
    }

    /// Which of these nodes, each in its life that the map knows, are to be declared lost. A node that
    /// said it restarts for so many milliseconds has that and the usual margin.
    #[must_use]
    pub fn lost<'a>(
        &self,
        now_ms: u64,
        nodes: impl Iterator<Item = (&'a HostId, Incarnation, Option<u64>)>,
    ) -> Vec<(HostId, Incarnation)> {
        let Some(elected_ms) = self.elected_ms else {
            return Vec::new();
        };
        let late = |host: &HostId, incarnation: Incarnation, grace_ms: Option<u64>| {
            let heard_ms = match self.heard.get(host) {
                // An earlier life says nothing about this one.
                Some((life, heard_ms)) if *life >= incarnation => *heard_ms,
                _ => elected_ms,
            };
            let from_ms = heard_ms.max(elected_ms);
            #[cfg(feature = "planted-bugs")]
            if self.bug_counts_too_short && now_ms >= from_ms.saturating_add(LEASE_MS / 2) {
                return true;
            }
            let grace_ms = grace_ms.map_or(0, |grace_ms| grace_ms.saturating_add(MARGIN_MS));
            now_ms >= from_ms.saturating_add(LOST_AFTER_MS.max(grace_ms))
        };
        nodes
            .filter(|(host, incarnation, grace_ms)| late(host, *incarnation, *grace_ms))
            .map(|(host, incarnation, _)| (host.clone(), incarnation))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(granter: &Granter, now_ms: u64, grace_ms: Option<u64>) -> bool {
        let host = HostId::new("a");
        !granter.lost(now_ms, [(&host, Incarnation(2), grace_ms)].into_iter()).is_empty()
    }

    #[test]
    fn a_lease_runs_from_the_send_and_only_grows() {
        let mut holder = Holder::default();
        assert!(!holder.lives(0));
        let first = holder.send(1_000);
        let second = holder.send(2_000);
        holder.acknowledged(second);
        assert_eq!(holder.until_ms(), 6_000);
        // Late, of an earlier send: it wins nothing.
        holder.acknowledged(first);
        assert_eq!(holder.until_ms(), 6_000);
        // Twice, or never sent.
        holder.acknowledged(second);
        holder.acknowledged(99);
        assert!(holder.lives(5_999) && !holder.lives(6_000));
    }

    #[test]
    fn a_new_leader_counts_from_its_election() {
        let mut granter = Granter::default();
        assert!(!lost(&granter, 1_000_000, None), "who does not lead declares nobody lost");
        granter.elected(10_000);
        assert!(!lost(&granter, 15_999, None));
        assert!(lost(&granter, 16_000, None));
        granter.heard(12_000, &HostId::new("a"), Incarnation(2));
        assert!(!lost(&granter, 17_999, None) && lost(&granter, 18_000, None));
        // What an earlier life sent does not speak for this one.
        granter.heard(14_000, &HostId::new("a"), Incarnation(1));
        assert!(!lost(&granter, 17_999, None) && lost(&granter, 18_000, None));
        granter.elected(20_000);
        granter.heard(24_000, &HostId::new("a"), Incarnation(1));
        assert!(lost(&granter, 26_000, None));
        granter.deposed();
        assert!(!lost(&granter, 1_000_000, None));
    }

    #[test]
    fn a_restart_that_was_announced_has_its_grace() {
        let mut granter = Granter::default();
        granter.elected(0);
        granter.restarts(1_000, &HostId::new("a"), Incarnation(2));
        assert!(!lost(&granter, 62_999, Some(60_000)));
        assert!(lost(&granter, 63_000, Some(60_000)));
        // A new leader counts it from its own election.
        granter.elected(40_000);
        assert!(!lost(&granter, 101_999, Some(60_000)) && lost(&granter, 102_000, Some(60_000)));
        // One that is shorter than silence may be takes nothing away.
        assert!(!lost(&granter, 45_999, Some(1_000)) && lost(&granter, 46_000, Some(1_000)));
    }

    #[test]
    fn an_announced_restart_has_run_out_before_its_node_is_lost() {
        let for_ms = 20_000;
        for travel in [0, 1, 3_999, 30_000] {
            let (sent, applied) = (5_000, 5_000 + travel);
            let mut holder = Holder::default();
            let beat = holder.send(sent - 500);
            holder.acknowledged(beat);
            holder.restarts(sent, for_ms);
            assert_eq!(holder.until_ms(), sent + for_ms);
            let mut same = Granter::default();
            same.elected(0);
            same.restarts(applied, &HostId::new("a"), Incarnation(2));
            let mut next = Granter::default();
            next.elected(applied + 1);
            for now in (applied..applied + 2 * for_ms).step_by(250) {
                let declared = lost(&same, now, Some(for_ms)) || lost(&next, now, Some(for_ms));
                assert!(!(declared && holder.lives(now)), "applied {applied}, at {now}");
            }
        }
    }

    #[test]
    fn a_short_restart_shortens_no_lease() {
        let mut holder = Holder::default();
        let beat = holder.send(1_000);
        holder.acknowledged(beat);
        holder.restarts(1_500, 1_000);
        assert_eq!(holder.until_ms(), 1_000 + LEASE_MS);
    }

    #[test]
    fn who_was_heard_lately_is_there() {
        let (host, mut granter) = (HostId::new("a"), Granter::default());
        let hears = |granter: &Granter, now_ms| granter.hears(now_ms, &host, Incarnation(2));
        granter.heard(500, &host, Incarnation(2));
        assert!(!hears(&granter, 600), "who does not lead grants nothing");
        granter.elected(1_000);
        assert!(!hears(&granter, 1_000), "nobody was heard yet");
        granter.heard(1_500, &host, Incarnation(2));
        assert!(hears(&granter, 5_499) && !hears(&granter, 5_500));
        granter.heard(6_000, &host, Incarnation(1));
        assert!(!hears(&granter, 6_000), "an earlier life says nothing of this one");
    }

    #[test]
    fn a_lease_has_run_out_before_its_node_is_lost() {
        // Received no earlier than sent, acknowledged no earlier than received: for every leader that
        // acknowledged, and for every one elected after that acknowledgement.
        for sent in [0, 500, 7_000] {
            for travel in [0, 1, 3_999, 60_000] {
                let received = sent + travel;
                let mut holder = Holder::default();
                let number = holder.send(sent);
                holder.acknowledged(number);
                let mut same = Granter::default();
                same.elected(0);
                same.heard(received, &HostId::new("a"), Incarnation(2));
                let mut next = Granter::default();
                next.elected(received + 1);
                for now in (received..received + 10_000).step_by(250) {
                    let declared = lost(&same, now, None) || lost(&next, now, None);
                    assert!(!(declared && holder.lives(now)), "sent {sent}, received {received}, at {now}");
                }
            }
        }
    }
}
