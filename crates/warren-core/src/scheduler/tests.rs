use super::*;
use crate::script;

const GIB: u64 = 1 << 30;
const PROCESSOR: u64 = 1_000_000_000;

/// An open node that has the image of scripts under the id of scripts, and nothing else.
fn node(name: &str) -> Candidate {
    let spec = script::spec();
    let names = [format!("docker.io/library/{}:latest", spec.image)];
    Candidate {
        sandboxes_max: 10,
        memory_max: 10 * GIB,
        images: Arc::new(Images::new([(spec.image_id, names)], true)),
        closed: None,
        ..Candidate::unknown(HostId::new(name), "")
    }
}

fn here(node: Candidate) -> Candidate {
    Candidate { here: true, ..node }
}

fn with_image(id: &str, node: Candidate) -> Candidate {
    let names = [format!("docker.io/library/{}:latest", script::spec().image)];
    Candidate { images: Arc::new(Images::new([(id.to_owned(), names)], true)), ..node }
}

fn bare(node: Candidate) -> Candidate {
    Candidate { images: Arc::new(Images::new([("other".to_owned(), ["localhost/other:1".to_owned()])], true)), ..node }
}

fn silent(node: Candidate) -> Candidate {
    Candidate { images: Arc::default(), ..node }
}

fn warm(ready: u64, image_id: &str, node: Candidate) -> Candidate {
    let shape = SlotShape { image_id: image_id.to_owned(), ..script::spec().slot_shape() };
    Candidate { warm: vec![Warm { shape: SlotDigest::of(&shape), ready }], ..node }
}

fn promised(sandboxes: u64, memory: u64, cpu: u64, node: Candidate) -> Candidate {
    Candidate { promised: Load { sandboxes, memory, cpu }, ..node }
}

fn closed(why: &str, node: Candidate) -> Candidate {
    Candidate { closed: Some(why.to_owned()), ..node }
}

fn ask(image: AskedImage) -> Ask {
    let mut shape = script::spec().slot_shape();
    if matches!(image, AskedImage::Missing { .. }) {
        shape.image_id = String::new();
    }
    Ask { need: Resources { memory: GIB, cpu: PROCESSOR, ..Resources::default() }, shape, image, tried: Vec::new() }
}

fn chosen(candidates: &[Candidate], ask: &Ask) -> String {
    match choose(candidates, ask) {
        Ok(Choice { node, warm }) => format!("{node} {}", if warm.is_some() { "warm" } else { "cold" }),
        Err(none) => {
            let reasons = none.refusals.into_iter().map(|Refusal { node, reason }| format!("{node} {reason}"));
            let what = if none.no_image { "no image" } else { "no room" };
            format!("{what}: {}", reasons.collect::<Vec<_>>().join("; "))
        }
    }
}

#[track_caller]
fn check(image: AskedImage, table: Vec<(&str, Vec<Candidate>, &str)>) {
    for (case, candidates, expected) in table {
        assert_eq!(chosen(&candidates, &ask(image)), expected, "{case}");
        // Whoever is named first has no advantage.
        let turned: Vec<_> = candidates.into_iter().rev().collect();
        if !expected.contains(';') {
            assert_eq!(chosen(&turned, &ask(image)), expected, "{case}, turned round");
        }
    }
}

#[test]
fn warm_comes_first_then_the_image_then_the_emptiest() {
    let full = |node| promised(9, 9 * GIB, 0, node);
    check(
        AskedImage::Here,
        vec![
            (
                "warm before empty and before here",
                vec![node("a"), here(node("b")), full(warm(1, "i1", node("c")))],
                "c warm",
            ),
            ("no hop among warm ones", vec![warm(5, "i1", node("a")), full(here(warm(1, "i1", node("b"))))], "b warm"),
            (
                "the emptier among warm ones elsewhere",
                vec![full(warm(9, "i1", node("a"))), warm(1, "i1", node("b"))],
                "b warm",
            ),
            ("taken slots are no slots", vec![warm(0, "i1", node("a")), warm(1, "i1", node("b"))], "b warm"),
            ("slots of another shape are no slots", vec![warm(9, "i2", node("z")), here(node("a"))], "a cold"),
            (
                "the emptiest among cold ones, although it is a hop",
                vec![here(promised(1, GIB, 0, node("a"))), node("b")],
                "b cold",
            ),
            ("no hop among equals", vec![node("a"), here(node("b"))], "b cold"),
            ("the smallest id among equals", vec![node("b"), node("a")], "a cold"),
            (
                "the image before the emptiest",
                vec![here(full(node("a"))), bare(node("b")), silent(node("c"))],
                "a cold",
            ),
            ("its very image before another of its name", vec![with_image("i2", node("a")), full(node("b"))], "b cold"),
            ("another of its name before none", vec![bare(node("a")), full(with_image("i2", node("b")))], "b cold"),
            ("perhaps before surely not", vec![bare(node("a")), full(silent(node("b")))], "b cold"),
            ("the node that asks has just looked", vec![here(bare(node("z"))), with_image("i2", node("a"))], "z cold"),
        ],
    );
}

#[test]
fn the_larger_share_counts() {
    let node = |name| Candidate { cpu_max: 10 * PROCESSOR, ..node(name) };
    let small = |name| Candidate { memory_max: 5 * GIB, ..node(name) };
    check(
        AskedImage::Here,
        vec![
            ("memory", vec![promised(1, 3 * GIB, 0, node("a")), promised(2, 2 * GIB, 0, node("b"))], "b cold"),
            (
                "processor",
                vec![promised(1, 0, 3 * PROCESSOR, node("a")), promised(2, 0, PROCESSOR, node("b"))],
                "b cold",
            ),
            (
                "whichever is larger",
                vec![promised(1, GIB, 4 * PROCESSOR, node("a")), promised(2, 3 * GIB, 0, node("b"))],
                "b cold",
            ),
            (
                "a share, not an amount",
                vec![promised(1, 3 * GIB, 0, small("a")), promised(2, 4 * GIB, 0, node("b"))],
                "b cold",
            ),
            (
                "fewer sandboxes where nothing is promised",
                vec![promised(2, 0, 0, node("a")), promised(1, 0, 0, node("b"))],
                "b cold",
            ),
        ],
    );
    let unbounded = |name| Candidate { cpu_max: 0, ..node(name) };
    let table = vec![(
        "processor that is not counted",
        vec![promised(1, GIB, 90 * PROCESSOR, unbounded("a")), promised(1, 2 * GIB, 0, unbounded("b"))],
        "a cold",
    )];
    check(AskedImage::Here, table);
}

#[test]
fn a_refusal_names_each_nodes_reason() {
    let cramped = |node| Candidate { cpu_max: 2 * PROCESSOR, ..node };
    let claimed = |node| Candidate { claimed: Load { sandboxes: 3, memory: 3 * GIB, cpu: 0 }, ..node };
    let sent = |node| Candidate { sent: Load { sandboxes: 99, memory: 99 * GIB, cpu: 0 }, ..node };
    let table = vec![
        (
            "memory",
            vec![promised(1, 10 * GIB - 1, 0, node("a"))],
            "no room: a 1073741824 bytes of memory asked for, 1 free",
        ),
        ("sandboxes", vec![promised(10, 0, 0, node("a"))], "no room: a has 10 sandboxes of 10 at most"),
        (
            "processor",
            vec![cramped(promised(1, 0, PROCESSOR * 3 / 2, node("a")))],
            "no room: a 1 processors asked for, 0.5 free",
        ),
        ("claims count", vec![claimed(promised(7, 0, 0, node("a")))], "no room: a has 10 sandboxes of 10 at most"),
        (
            "so does their memory",
            vec![claimed(promised(0, 7 * GIB, 0, node("a")))],
            "no room: a 1073741824 bytes of memory asked for, 0 free",
        ),
        ("what was sent may be in the map and refuses nothing", vec![sent(node("a"))], "a cold"),
        ("no processor is counted by default", vec![promised(1, 0, 999 * PROCESSOR, node("a"))], "a cold"),
        (
            "each",
            vec![closed("draining", here(node("a"))), closed("lost", node("b")), promised(10, 0, 0, node("c"))],
            "no room: a draining; b lost; c has 10 sandboxes of 10 at most",
        ),
        ("a warm slot does not open a closed node", vec![closed("lost", warm(1, "i1", node("a")))], "no room: a lost"),
    ];
    check(AskedImage::Here, table);
}

#[test]
fn who_was_tried_is_not_tried_again_and_has_said_why() {
    let tried = |name: &str| Refusal { node: HostId::new(name), reason: "said no".to_owned() };
    let nodes = [here(node("a")), node("b")];
    let with = |tried: Vec<Refusal>| Ask { tried, ..ask(AskedImage::Here) };
    assert_eq!(chosen(&nodes, &with(vec![tried("a")])), "b cold");
    assert_eq!(chosen(&nodes, &with(vec![tried("b"), tried("a")])), "no room: a said no; b said no");
}

#[test]
fn an_image_that_the_asked_node_lacks() {
    let missing = "does not have the image debian";
    let full = |node| promised(10, 0, 0, node);
    check(
        AskedImage::Missing { pull: true },
        vec![
            (
                "goes where it is",
                vec![here(bare(node("a"))), promised(9, 9 * GIB, 0, node("b")), bare(node("c"))],
                "b cold",
            ),
            (
                "warm by the id that it has there",
                vec![here(bare(node("a"))), warm(1, "i1", node("b")), node("c")],
                "b warm",
            ),
            (
                "a slot of another id than it has there is none",
                vec![here(node("a")), warm(1, "i2", node("b"))],
                "b cold",
            ),
            ("is pulled by one where nobody has it", vec![here(bare(node("a"))), bare(node("b"))], "a cold"),
            ("is pulled elsewhere where this one has no room", vec![here(full(node("a"))), bare(node("b"))], "b cold"),
            ("is pulled where those that have it have no room", vec![here(node("a")), full(node("b"))], "a cold"),
            (
                "no room is no want of an image",
                vec![here(full(node("a"))), full(bare(node("b")))],
                "no room: a has 10 sandboxes of 10 at most; b has 10 sandboxes of 10 at most",
            ),
        ],
    );
    check(
        AskedImage::Missing { pull: false },
        vec![
            ("goes where it is", vec![here(node("a")), node("b")], "b cold"),
            ("nobody has it", vec![here(node("a")), bare(node("b"))], &format!("no image: a {missing}; b {missing}")),
            ("alone", vec![here(node("a"))], &format!("no image: a {missing}")),
            (
                "who has it is full",
                vec![here(node("a")), full(node("b"))],
                &format!("no room: a {missing}; b has 10 sandboxes of 10 at most"),
            ),
            (
                "who had it is lost",
                vec![here(node("a")), closed("lost", node("b"))],
                &format!("no room: a {missing}; b lost"),
            ),
            (
                "who was never heard of counts for nothing",
                vec![here(node("a")), closed("lost", silent(node("b")))],
                &format!("no image: a {missing}; b lost"),
            ),
            ("who has not said may have it", vec![here(node("a")), silent(node("b"))], "b cold"),
        ],
    );
}

#[test]
fn one_that_begins_again_wants_its_very_image() {
    check(
        AskedImage::Exactly,
        vec![
            ("no other of its name", vec![with_image("i2", node("a")), promised(9, 9 * GIB, 0, node("b"))], "b cold"),
            ("nor from a registry", vec![bare(node("a"))], "no room: a does not have the image debian"),
            ("perhaps", vec![silent(node("a")), bare(node("b"))], "a cold"),
            ("warm of its id", vec![node("a"), warm(1, "i1", node("b"))], "b warm"),
        ],
    );
}

/// A door sends a hundred creates before any node or the map has said a word of them.
#[test]
fn a_burst_spreads_before_anything_is_heard() {
    let mut nodes = [here(warm(1, "i1", node("a"))), warm(1, "i1", node("b")), warm(1, "i1", node("c"))];
    for node in &mut nodes {
        (node.sandboxes_max, node.memory_max) = (1_000, 1_000 * GIB);
    }
    let ask = ask(AskedImage::Here);
    let mut order = Vec::new();
    for _ in 0..99 {
        let choice = choose(&nodes, &ask).unwrap();
        let node = nodes.iter_mut().find(|node| node.node == choice.node).unwrap();
        node.sent.add(&ask.need);
        if let Some(shape) = choice.warm {
            node.take_warm(shape, 1);
        }
        order.push(choice.node.to_string());
    }
    assert_eq!(order[..3], ["a", "b", "c"], "the warm ones first");
    for name in ["a", "b", "c"] {
        assert_eq!(order.iter().filter(|node| *node == name).count(), 33, "{order:?}");
    }
}
