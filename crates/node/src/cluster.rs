//! The other nodes, as this one reaches them: a link and a way to call for each.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use peers::wire::Message;
use peers::{Caller, CallerConfig, Link, LinkConfig, LinkCounters, LinkState, Peer, Security};
use tokio::sync::watch;
use types::HostId;
use warren_core::placement::Placement;

use crate::identity::ToldOf;

/// How long calls under way outlive the link to their node: as long as a lease. After a cut the network itself may say
/// nothing for a quarter of an hour.
const CALLS_WITHOUT_LINK_MAX: Duration = Duration::from_secs(4);

/// The other nodes. Shared by all threads of this node.
pub struct Cluster {
    me: HostId,
    security: Security,
    others: RwLock<HashMap<HostId, Other>>,
    /// Who bears which member id; an id of a lost store stays known until somebody else bears it.
    members: RwLock<HashMap<u64, HostId>>,
}

/// One link as it is now.
pub struct LinkNow {
    /// Where it leads.
    pub host: HostId,
    /// Whether messages are taken.
    pub up: bool,
    /// What went over it, and what did not.
    pub counters: LinkCounters,
}

struct Other {
    peer: Peer,
    link: Link,
    caller: Caller,
}

impl Cluster {
    /// Knows whom the joining node was told of, until the map says more.
    pub fn new(me: HostId, security: Security, told_of: &[ToldOf]) -> Self {
        let cluster = Self { me, security, others: RwLock::default(), members: RwLock::default() };
        for other in told_of {
            cluster.know(&other.host, other.member, &other.peer_address);
        }
        cluster
    }

    /// Follows the map: new nodes are linked, moved ones found again.
    pub fn follow(&self, map: &Placement) {
        for (host, node) in map.nodes() {
            self.know(host, node.presence.member, &node.presence.peer_address);
        }
    }

    fn know(&self, host: &HostId, member: u64, address: &str) {
        self.members.write().insert(member, host.clone());
        if *host == self.me || address.is_empty() {
            return;
        }
        let mut others = self.others.write();
        match others.get(host) {
            Some(other) => other.peer.set_address(address),
            None => {
                let peer = Peer::new(&self.security, host.clone(), address);
                let link = Link::spawn(peer.clone(), LinkConfig::default());
                let caller = Caller::new(peer.clone(), CallerConfig::default());
                tokio::spawn(give_up_calls(link.state(), caller.clone()));
                others.insert(host.clone(), Other { peer, link, caller });
            }
        }
    }

    /// A node speaks in the log's own protocol as this member. The map may say so only later, and cannot come before
    /// the member is answered: it may be the leader, under a new id since its store was lost.
    pub fn speaks_as(&self, host: &HostId, member: u64) {
        let known = self.members.read().get(&member) == Some(host);
        if !known && self.others.read().contains_key(host) {
            self.members.write().insert(member, host.clone());
        }
    }

    /// Sends a message of the log's own protocol; false where it is surely lost.
    pub fn send_raft(&self, member: u64, message: Bytes) -> bool {
        let host = self.members.read().get(&member).cloned();
        host.is_some_and(|host| self.send(&host, Message::Raft(message)))
    }

    /// Sends a message; false where it is surely lost.
    pub fn send(&self, host: &HostId, message: Message) -> bool {
        self.others.read().get(host).is_some_and(|other| other.link.try_send(message).is_ok())
    }

    /// Sends a message to everybody who can be reached.
    pub fn broadcast(&self, message: &Message) {
        for other in self.others.read().values() {
            if let Err(error) = other.link.try_send(message.clone()) {
                tracing::trace!(peer = %other.link.host(), %error, "not told");
            }
        }
    }

    /// A way to call a node.
    pub fn caller(&self, host: &HostId) -> Option<Caller> {
        self.others.read().get(host).map(|other| other.caller.clone())
    }

    /// Whether messages reach a node.
    pub fn reaches(&self, host: &HostId) -> bool {
        self.connection(host).is_some()
    }

    /// The number of the connection to a node, which grows with each; none where there is none.
    pub fn connection(&self, host: &HostId) -> Option<u64> {
        match *self.others.read().get(host)?.link.state().borrow() {
            LinkState::Up(number) => Some(number),
            _ => None,
        }
    }

    /// All links as they are now.
    pub fn links(&self) -> Vec<LinkNow> {
        let now = |(host, other): (&HostId, &Other)| LinkNow {
            host: host.clone(),
            up: other.link.state().borrow().is_up(),
            counters: other.link.counters(),
        };
        self.others.read().iter().map(now).collect()
    }

    /// All other nodes.
    pub fn hosts(&self) -> Vec<HostId> {
        self.others.read().keys().cloned().collect()
    }
}

/// Ends the calls to a node that has not been heard for too long, each time, until the link itself is gone.
async fn give_up_calls(mut link: watch::Receiver<LinkState>, caller: Caller) {
    while link.wait_for(|state| !state.is_up()).await.is_ok() {
        let heard = tokio::time::timeout(CALLS_WITHOUT_LINK_MAX, link.wait_for(LinkState::is_up)).await;
        let heard = heard.map(|up| up.is_ok());
        if heard.is_err() {
            caller.sever();
        }
        if heard == Ok(false) || link.wait_for(LinkState::is_up).await.is_err() {
            return;
        }
    }
}
