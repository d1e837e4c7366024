//! Both sides of this node's leases, as consensus keeps them: its own, and those it grants while it leads.

use std::collections::{BTreeMap, BTreeSet};

use types::{HostId, Incarnation};
use warren_core::lease::{Granter, Holder};
use warren_core::placement::Placement;

use crate::hub::boottime_ms;

/// A heartbeat that was heard.
#[derive(Debug, Clone)]
pub struct Beat {
    /// Whose.
    pub host: HostId,
    /// Of which of its lives.
    pub incarnation: Incarnation,
    /// Which.
    pub number: u64,
}

/// Both sides of this node's leases.
#[derive(Default)]
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
    /// Who leads has changed, or the term.
    pub fn leadership(&mut self, leads: bool) {
        if leads && !self.leads {
            self.granter.elected(boottime_ms());
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
    pub fn send(&mut self) -> u64 {
        self.holder.send(boottime_ms())
    }

    /// The leader has acknowledged a heartbeat of this node.
    pub fn acknowledged(&mut self, number: u64) {
        self.holder.acknowledged(number);
    }

    /// When this node's lease runs out.
    pub fn until_ms(&self) -> u64 {
        self.holder.until_ms()
    }

    /// A heartbeat came in. Nobody but the leader takes note.
    pub fn hear(&mut self, beat: Beat) {
        if self.leads {
            self.granter.heard(boottime_ms(), &beat.host, beat.incarnation);
            self.heard.push(beat);
        }
    }

    /// A life of a node has begun: it is not late before it could be heard.
    pub fn began(&mut self, host: &HostId, incarnation: Incarnation) {
        if self.leads {
            self.granter.heard(boottime_ms(), host, incarnation);
        }
    }

    /// A life of a node has announced that it restarts, and the map has that.
    pub fn restarting(&mut self, host: &HostId, incarnation: Incarnation) {
        if self.leads {
            self.granter.restarts(boottime_ms(), host, incarnation);
        }
    }

    /// The map has taken in that this node restarts, as it was first proposed at `sent_ms`.
    pub fn restarts(&mut self, sent_ms: u64, for_ms: u64) {
        self.holder.restarts(sent_ms, for_ms);
    }

    /// Whether this life of a node was heard lately. Nobody but the leader hears.
    pub fn hears(&self, host: &HostId, incarnation: Incarnation) -> bool {
        self.granter.hears(boottime_ms(), host, incarnation)
    }

    /// A barrier is passed: the map has all that was committed before this node led.
    pub fn is_current(&mut self) {
        self.current = self.leads;
    }

    /// Whether a barrier is wanted for those that were heard.
    pub fn wants_confirmation(&self) -> bool {
        !self.heard.is_empty()
    }

    /// This barrier, which begins now, confirms all that were heard before it.
    pub fn confirm_by(&mut self, barrier: u64) {
        self.confirming.insert(barrier, std::mem::take(&mut self.heard));
    }

    /// The barrier is passed: these may be acknowledged. One that is being declared lost may not: it would hold a lease
    /// when that is committed.
    pub fn confirmed(&mut self, barrier: u64) -> Vec<Beat> {
        let mut heard = self.confirming.remove(&barrier).unwrap_or_default();
        heard.retain(|beat| !self.declaring.contains(&beat.host));
        heard
    }

    /// The nodes that are to be declared lost now. A node that never was up is nobody to miss.
    pub fn lost(&mut self, map: &Placement, me: &HostId) -> Vec<(HostId, Incarnation)> {
        // An older map may lack that a node restarts.
        if !self.current {
            return Vec::new();
        }
        let watched = map
            .nodes()
            .filter(|(host, node)| *host != me && !node.lost && node.incarnation.0 > 0)
            .map(|(host, node)| (host, node.incarnation, node.restarting));
        let mut lost = self.granter.lost(boottime_ms(), watched);
        lost.retain(|(host, _)| self.declaring.insert(host.clone()));
        lost
    }

    /// The map has it.
    pub fn declared(&mut self, host: &HostId) {
        self.declaring.remove(host);
    }
}
