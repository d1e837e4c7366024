//! Both sides of one node's leases, as it keeps them: its own, and those that it grants while it leads.

use std::collections::{BTreeMap, BTreeSet};

use crate::weather::Bug;
use types::{HostId, Incarnation};

use warren_core::lease::{Granter, Holder};
use warren_core::placement::Placement;

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
    /// Plants a bug.
    pub fn plant(&mut self, bug: Option<Bug>) {
        self.holder.bug_lasts_too_long = bug == Some(Bug::LeaseTooLong);
        self.granter.bug_counts_too_short = bug == Some(Bug::LostTooSoon);
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

    /// Whether this life of a node was heard lately. Nobody but the leader hears.
    #[must_use]
    pub fn hears(&self, now_ms: u64, host: &HostId, incarnation: Incarnation) -> bool {
        self.granter.hears(now_ms, host, incarnation)
    }

    /// A barrier is passed: the map has all that was committed before this node led.
    pub fn is_current(&mut self) {
        self.current = self.leads;
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

    /// The barrier is passed: these may be acknowledged. One that is being declared lost may not: it would hold a lease
    /// when that is committed.
    pub fn confirmed(&mut self, barrier: u64) -> Vec<Beat> {
        let mut heard = self.confirming.remove(&barrier).unwrap_or_default();
        heard.retain(|beat| !self.declaring.contains(&beat.host));
        heard
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
