//! What a node tells the others without being asked, and what it takes in from them.

use types::{HostId, SandboxId, Timestamp};
use warren_core::lifecycle::Observed;
use warren_core::placement::{COMMANDS_KNOWN, Kind};
use warren_core::scheduler::Candidate;

use crate::log::Tell;
use crate::mail::{Actor, Letter};
use crate::network::Packet;
use crate::node::{Node, Outside, Phase};
use warren_core::leases::Beat;

/// Ticks between two tellings of what this node can take.
const TELL_TICKS: u64 = 5;

/// Tellings after which everything is told once more.
const ALL_AGAIN_TELLINGS: u64 = 8;

/// Microseconds of silence after which a node counts as out of reach.
const REACHED_US: u64 = 2_500_000;

/// Age in microseconds at which what another node said of itself does not count any more.
const HEARD_LATELY_US: u64 = 3_000_000;

impl Node {
    /// A packet has arrived.
    pub fn arrives(&mut self, from: usize, packet: Packet, out: &mut Outside<'_>) {
        self.heard_us.insert(from, out.agenda.now_us());
        match packet {
            Packet::Raft(message) => {
                // Whoever is known speaks as this member from here on, whatever the map says yet.
                if let Some(member) = consensus::sender(&message)
                    && self.members.values().any(|host| *host == from)
                {
                    self.members.insert(member, from);
                }
                self.tell(Actor::Consensus, Letter::Consensus(consensus::Input::Step { message }), out);
            }
            Packet::Beat(host, incarnation, number) => {
                self.tell(Actor::Consensus, Letter::Beat(Beat { host, incarnation, number }), out);
            }
            Packet::BeatAck(incarnation, number) => {
                self.tell(Actor::Consensus, Letter::BeatAck(incarnation, number), out);
            }
            Packet::Seen(id, observed) => {
                let peer = &self.names[from];
                // Only an owner speaks for a sandbox; the map may still be on its way here.
                if self.map.get(&id).is_none_or(|record| record.place.owner == *peer) {
                    self.observe(id, observed);
                }
            }
            Packet::Capacity(candidate) => {
                self.candidates.insert(from, (candidate, out.agenda.now_us()));
            }
            Packet::Call(call, op, seen) => {
                out.note(format_args!("is asked by {from} for {op}"));
                self.called(from, call, op, seen, out);
            }
            Packet::Answer(call, answer) => self.call_answered(call, answer, out),
            Packet::Ask(ask, asked_at) => self.newcomer(from, ask, asked_at, out),
            // Of a join that was given up.
            Packet::Accepted(..) => {}
        }
    }

    fn newcomer(&mut self, from: usize, ask: u64, asked_at: Timestamp, out: &mut Outside<'_>) {
        let kind = Kind::Join {
            host: self.names[from].clone(),
            peer_address: format!("peer-{from}"),
            http_address: format!("http-{from}"),
            commands: COMMANDS_KNOWN,
            asked_at,
        };
        let pending = self.pending(kind, Some(Tell::Newcomer(from, ask)), out);
        self.tell(Actor::Consensus, Letter::Propose(pending), out);
    }

    /// Takes in what an owner sees. What is left of an older generation does not speak for the sandbox.
    pub(crate) fn observe(&mut self, id: SandboxId, observed: Observed) {
        if self.view.get(&id).is_none_or(|known| known.generation <= observed.generation) {
            self.view.insert(id, observed);
        }
    }

    pub(crate) fn broadcast(&self, packet: Packet, out: &mut Outside<'_>) {
        for host in self.others_known(out.host) {
            out.send(host, packet.clone());
        }
    }

    fn others_known(&self, me: usize) -> Vec<usize> {
        let mut hosts: Vec<usize> = self.members.values().copied().filter(|host| *host != me).collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }

    /// Whether a node was heard lately.
    pub(crate) fn reaches_host(&self, host: &HostId, out: &Outside<'_>) -> bool {
        let at = self.names.iter().position(|name| name == host);
        at.and_then(|at| self.heard_us.get(&at)).is_some_and(|heard| out.agenda.now_us() < heard + REACHED_US)
    }

    /// The other nodes that can be called and have said lately what they can take.
    pub(crate) fn others(&self, out: &Outside<'_>) -> Vec<Candidate> {
        let fresh = |(candidate, heard_us): &(Candidate, u64)| {
            let lost = self.map.node(&candidate.node).is_none_or(|node| node.lost);
            let lately = out.agenda.now_us() < heard_us + HEARD_LATELY_US;
            (!lost && lately && self.reaches_host(&candidate.node, out)).then(|| candidate.clone())
        };
        self.candidates.values().filter_map(fresh).collect()
    }

    /// Tells the others what this node can take, and now and then everything that it sees.
    pub(crate) fn gossip(&mut self, out: &mut Outside<'_>) {
        if !self.ticks.is_multiple_of(TELL_TICKS) || self.phase != Phase::Open {
            return;
        }
        let candidate = Candidate { here: false, ..self.candidate(out) };
        self.broadcast(Packet::Capacity(candidate), out);
        if (self.ticks / TELL_TICKS).is_multiple_of(ALL_AGAIN_TELLINGS) {
            let map = &self.map;
            self.view.retain(|id, _| map.owner(id).is_some());
            let mine = self.map.newest_first().filter(|record| record.place.owner == self.me);
            let seen: Vec<Packet> = mine
                .filter_map(|record| Some(Packet::Seen(record.place.id, self.view.get(&record.place.id)?.clone())))
                .collect();
            for packet in seen {
                self.broadcast(packet, out);
            }
        }
    }
}
