//! Both sides of one node's leases, as it keeps them: its own, and those that it grants while it leads.

use std::collections::{BTreeMap, BTreeSet};

use types::{HostId, Incarnation};

use crate::lease::{Granter, Holder};
use crate::placement::Placement;

/// A heartbeat that was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Whose.
    pub host: HostId,
    /// Of which of its lives.
    pub incarnation: Incarnation,
    /// Which.
    pub number: u64,
}

/// Both sides of one node's leases. Every time is by the clock that runs on while a host is suspended.
#[derive(Debug, Default)]
pub struct Leases {
    holder: Holder,
    granter: Granter,
    leads: bool,
    /// Since it leads a barrier was passed: its map has all that was committed before.
    current: bool,
    /// Heard, and acknowledged once a quorum has confirmed that this node leads.
    heard: Vec<Beat>,
    confirming: BTreeMap<u64, Vec<Beat>>,
    /// Nodes that are being declared lost.
    declaring: BTreeSet<HostId>,
}

impl Leases {
    /// Planted: the own lease lasts too long, or the leader counts too short.
    #[cfg(feature = "planted-bugs")]
    pub fn plant(&mut self, lasts_too_long: bool, counts_too_short: bool) {
        self.holder.bug_lasts_too_long = lasts_too_long;
        self.granter.bug_counts_too_short = counts_too_short;
    }

    /// This node's own lease.
    #[must_use]
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// Who leads has changed, or the term.
    pub fn leadership(&mut self, now_ms: u64, leads: bool) {
        if leads && !self.leads {
            self.granter.elected(now_ms);
        } else if !leads {
            self.granter.deposed();
            self.heard.clear();
            self.confirming.clear();
        }
        self.leads = leads;
        self.current = false;
        self.declaring.clear();
    }

    /// A heartbeat of this node leaves; its number.
    pub fn send(&mut self, now_ms: u64) -> u64 {
        self.holder.send(now_ms)
    }

    /// The leader has acknowledged a heartbeat of this node.
    pub fn acknowledged(&mut self, number: u64) {
        self.holder.acknowledged(number);
    }

    /// A heartbeat came in. Nobody but the leader takes note.
    pub fn hear(&mut self, now_ms: u64, beat: Beat) {
        if self.leads {
            self.granter.heard(now_ms, &beat.host, beat.incarnation);
            self.heard.push(beat);
        }
    }

    /// A life of a node has begun: it is not late before it could be heard.
    pub fn began(&mut self, now_ms: u64, host: &HostId, incarnation: Incarnation) {
        if self.leads {
            self.granter.heard(now_ms, host, incarnation);
        }
    }

    /// A life of a node has announced that it restarts, and the map has that.
    pub fn restarting(&mut self, now_ms: u64, host: &HostId, incarnation: Incarnation) {
        if self.leads {
            self.granter.restarts(now_ms, host, incarnation);
        }
    }

    /// The map has taken in that this node restarts, as it was first proposed at `sent_ms`.
    pub fn restarts(&mut self, sent_ms: u64, for_ms: u64) {
        self.holder.restarts(sent_ms, for_ms);
    }

    /// Whether this life of a node was heard lately. Nobody but the leader hears.
    #[must_use]
    pub fn hears(&self, now_ms: u64, host: &HostId, incarnation: Incarnation) -> bool {
        self.granter.hears(now_ms, host, incarnation)
    }

    /// Whether a barrier is wanted for those that were heard.
    #[must_use]
    pub fn wants_confirmation(&self) -> bool {
        !self.heard.is_empty()
    }

    /// This barrier, which begins now, confirms all that were heard before it.
    pub fn confirm_by(&mut self, barrier: u64) {
        self.confirming.insert(barrier, std::mem::take(&mut self.heard));
    }

    /// The barrier is passed, and so the map has all that was committed before: these may be acknowledged. One that
    /// counts as lost may not, since its sandboxes may be placed elsewhere; nor one that is being declared lost, which
    /// would hold a lease when that is committed.
    pub fn confirmed(&mut self, barrier: u64, map: &Placement) -> Vec<Beat> {
        self.current = self.leads;
        let mut heard = self.confirming.remove(&barrier).unwrap_or_default();
        heard.retain(|beat| !self.declaring.contains(&beat.host) && !map.is_lost(&beat.host, beat.incarnation));
        heard
    }

    /// The barrier was not passed. The senders are not told: their leases run out unless the next one is.
    pub fn not_confirmed(&mut self, barrier: u64) {
        self.confirming.remove(&barrier);
    }

    /// The nodes that are to be declared lost now. A node that never was up is nobody to miss.
    pub fn lost(&mut self, now_ms: u64, map: &Placement, me: &HostId) -> Vec<(HostId, Incarnation)> {
        // An older map may lack that a node restarts.
        if !self.current {
            return Vec::new();
        }
        let watched = map
            .nodes()
            .filter(|(host, node)| *host != me && !node.lost && node.incarnation.0 > 0)
            .map(|(host, node)| (host, node.incarnation, node.restarting));
        let mut lost = self.granter.lost(now_ms, watched);
        lost.retain(|(host, _)| self.declaring.insert(host.clone()));
        lost
    }

    /// The map has it.
    pub fn declared(&mut self, host: &HostId) {
        self.declaring.remove(host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::{Command, Kind, Presence};
    use crate::script::host;
    use types::Timestamp;

    fn apply(map: &mut Placement, kind: Kind) {
        map.apply(map.applied() + 1, &Command { time: Timestamp(0), kind });
    }

    fn map() -> Placement {
        let mut map = Placement::default();
        for name in ["n1", "n2"] {
            let presence = Presence::default();
            apply(&mut map, Kind::NodeUp { host: host(name), incarnation: Incarnation(1), presence });
        }
        map
    }

    fn beat(number: u64) -> Beat {
        Beat { host: host("n2"), incarnation: Incarnation(1), number }
    }

    #[test]
    fn nobody_is_declared_lost_before_the_map_is_current_and_nobody_twice() {
        let (map, me) = (map(), host("n1"));
        let mut leases = Leases::default();
        leases.leadership(0, true);
        assert!(leases.lost(60_000, &map, &me).is_empty(), "the map may be older than an announced restart");
        leases.confirm_by(1);
        assert!(leases.confirmed(1, &map).is_empty());
        assert_eq!(leases.lost(60_000, &map, &me), [(host("n2"), Incarnation(1))]);
        assert!(leases.lost(60_000, &map, &me).is_empty(), "it is being declared");
        leases.leadership(60_000, false);
        leases.leadership(60_000, true);
        assert!(leases.lost(120_000, &map, &me).is_empty(), "another term, another barrier");
    }

    #[test]
    fn who_is_lost_or_being_declared_so_is_not_acknowledged() {
        let (mut map, me) = (map(), host("n1"));
        let mut leases = Leases::default();
        leases.hear(0, beat(1));
        assert!(!leases.wants_confirmation(), "only the leader takes note");
        leases.leadership(0, true);
        leases.hear(0, beat(1));
        leases.confirm_by(1);
        assert_eq!(leases.confirmed(1, &map), [beat(1)]);
        assert!(leases.confirmed(1, &map).is_empty(), "once");
        assert_eq!(leases.lost(60_000, &map, &me).len(), 1);
        leases.hear(60_000, beat(2));
        leases.confirm_by(2);
        assert!(leases.confirmed(2, &map).is_empty(), "it would hold a lease when its loss is committed");
        apply(&mut map, Kind::NodeLost { host: host("n2"), incarnation: Incarnation(1), restarting: false });
        leases.declared(&host("n2"));
        leases.hear(60_000, beat(3));
        leases.confirm_by(3);
        assert!(leases.confirmed(3, &map).is_empty(), "what it has may be placed elsewhere");
        let presence = Presence::default();
        apply(&mut map, Kind::NodeUp { host: host("n2"), incarnation: Incarnation(2), presence });
        let next = Beat { incarnation: Incarnation(2), ..beat(4) };
        leases.hear(60_000, next.clone());
        leases.confirm_by(4);
        assert_eq!(leases.confirmed(4, &map), [next], "another life is another matter");
        leases.hear(60_000, beat(5));
        leases.confirm_by(5);
        leases.not_confirmed(5);
        assert!(leases.confirmed(5, &map).is_empty());
    }
}
