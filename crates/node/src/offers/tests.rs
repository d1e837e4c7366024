use std::sync::Arc;

use types::spec::SlotShape;
use types::{Generation, NetworkMode, OnNodeLoss, SandboxSpec, Timestamp};
use warren_core::placement::{Command, Kind, Place, Presence};
use warren_core::scheduler::{Ask, AskedImage, choose};

use super::*;

const CAPACITY: Capacity = Capacity { sandboxes_max: 4, memory_max: 1 << 40, cpu_max: 0 };

const NEED: Resources = Resources { cpu: 7, memory: 1 << 20, disk: 0, pids: 0 };

fn host(name: &str) -> HostId {
    HostId::new(name)
}

fn spec() -> SandboxSpec {
    SandboxSpec {
        template: None,
        image: "localhost/x:1".to_owned(),
        image_id: "i1".to_owned(),
        resources: NEED,
        network_mode: NetworkMode::None,
        workdir: None,
        user: None,
        command: Vec::new(),
        writable_rootfs: true,
        tmpfs: Vec::new(),
        labels: BTreeMap::new(),
        name: None,
        on_node_loss: OnNodeLoss::Wait,
    }
}

fn shape() -> SlotShape {
    spec().slot_shape()
}

fn warm(ready: u64) -> Warm {
    Warm { shape: SlotDigest::of(&shape()), ready }
}

fn ask() -> Ask {
    Ask { need: NEED, shape: shape(), image: AskedImage::Here, tried: Vec::new() }
}

fn offer(ready: u64) -> Offer {
    Offer { incarnation: Incarnation(1), capacity: CAPACITY, warm: vec![warm(ready)], closed: None }
}

fn apply(map: &mut Placement, kind: Kind) {
    map.apply(map.applied() + 1, &Command { time: Timestamp(1), kind });
}

/// Nodes a, b and c, all up.
fn map() -> Placement {
    let mut map = Placement::default();
    for name in ["a", "b", "c"] {
        apply(&mut map, Kind::NodeUp { host: host(name), incarnation: Incarnation(1), presence: Presence::default() });
    }
    map
}

fn place(map: &mut Placement, owner: &str, slot: SandboxId) {
    let place = Place {
        id: slot,
        slot,
        owner: host(owner),
        incarnation: Incarnation(1),
        generation: Generation(1),
        spec: Arc::new(spec()),
        sealed_env: Arc::from(*b"sealed"),
        expires_at: None,
        key: None,
    };
    apply(map, Kind::Place(Box::new(place)));
}

fn slot(number: u8) -> SandboxId {
    SandboxId::from_entropy([number; types::id::SANDBOX_ID_LENGTH])
}

/// What node b takes of a's creates, as a sees it.
fn b(offers: &Offers, map: &Placement) -> (u64, u64) {
    let others = offers.others(&host("a"), map, |_| true);
    let b = others.iter().find(|other| other.node == host("b")).unwrap();
    (b.warm.iter().map(|warm| warm.ready).sum(), b.sent.sandboxes)
}

#[test]
fn whoever_takes_nothing_is_named_with_its_reason() {
    let (offers, mut map) = (Offers::default(), map());
    let reasons = |offers: &Offers, map: &Placement, reached: bool| -> Vec<String> {
        let others = offers.others(&host("a"), map, |_| reached);
        others.into_iter().map(|other| format!("{} {}", other.node, other.closed.unwrap_or_default())).collect()
    };
    assert_eq!(reasons(&offers, &map, true), ["b not heard yet", "c not heard yet"]);
    offers.hear(&host("b"), offer(1));
    offers.hear(&host("c"), Offer { closed: Some("draining".to_owned()), ..offer(1) });
    assert_eq!(reasons(&offers, &map, true), ["b ", "c draining"]);
    assert_eq!(reasons(&offers, &map, false), ["b can not be reached", "c can not be reached"]);
    if let Some(other) = offers.others.lock().get_mut(&host("b")) {
        let (said, _) = other.said.take().unwrap();
        other.said = Some((said, Instant::now().checked_sub(HEARD_LATELY).unwrap()));
    }
    assert_eq!(reasons(&offers, &map, true)[0], "b not heard for 3 s");
    apply(&mut map, Kind::NodeRestarting { host: host("c"), incarnation: Incarnation(1), for_ms: 9 });
    apply(&mut map, Kind::NodeLost { host: host("b"), incarnation: Incarnation(1), restarting: false });
    assert_eq!(reasons(&offers, &map, true), ["b lost", "c restarting"]);
    // What it said in its earlier life does not count in this one.
    apply(&mut map, Kind::NodeUp { host: host("b"), incarnation: Incarnation(2), presence: Presence::default() });
    assert_eq!(reasons(&offers, &map, true)[0], "b not heard yet");
}

#[test]
fn what_was_sent_counts_until_it_is_answered_and_its_slot_until_the_next_word() {
    let (offers, map) = (Arc::new(Offers::default()), map());
    offers.hear(&host("b"), offer(2));
    let choice = || Choice { node: host("b"), warm: Some(warm(0).shape) };
    let first = offers.send(choice(), NEED);
    let second = offers.send(choice(), NEED);
    assert_eq!(b(&offers, &map), (0, 2));
    drop(first);
    assert_eq!(b(&offers, &map), (0, 1), "b has not said yet that it has another slot");
    offers.hear(&host("b"), offer(1));
    assert_eq!(b(&offers, &map), (0, 1), "its word came before the second create");
    drop(second);
    offers.hear(&host("b"), offer(2));
    assert_eq!(b(&offers, &map), (2, 0));
    drop(offers.send(Choice { node: host("b"), warm: None }, NEED));
    assert_eq!(b(&offers, &map), (2, 0), "a cold one takes no slot");
}

#[test]
fn what_has_begun_here_is_promised_once() {
    let (offers, mut map) = (Offers::default(), map());
    offers.set_pool(warm(1));
    let here = |map: &Placement| offers.here(&host("a"), map, CAPACITY, None);
    let seen = |map: &Placement| {
        let here = here(map);
        (here.promised.sandboxes, here.claimed.sandboxes, here.sent.sandboxes, here.warm[0].ready)
    };
    let cold = Choice { node: host("a"), warm: None };
    let choice = choose(&[here(&map)], &ask()).unwrap();
    assert!(choice.warm.is_some());
    offers.begin(Ticket(1), NEED, &choice);
    assert_eq!(seen(&map), (0, 1, 1, 0), "before the pool has heard of it");
    offers.given(Ticket(1), slot(1));
    offers.set_pool(warm(0));
    assert_eq!(seen(&map), (0, 1, 1, 0));
    place(&mut map, "a", slot(1));
    assert_eq!(seen(&map), (1, 0, 1, 0), "the map has it");
    offers.ended(Ticket(1));
    assert_eq!(seen(&map), (1, 0, 0, 0));
    for ticket in 2..=4 {
        offers.begin(Ticket(ticket), NEED, &cold);
    }
    let none = choose(&[here(&map)], &ask()).unwrap_err();
    assert_eq!(none.refusals[0].reason, "has 4 sandboxes of 4 at most", "of a burst no more begin than there is room");
    offers.ended(Ticket(3));
    offers.ended(Ticket(3));
    assert_eq!(seen(&map), (1, 2, 2, 0), "one that failed gives its place back, once");
    assert!(choose(&[here(&map)], &ask()).is_ok());
}
