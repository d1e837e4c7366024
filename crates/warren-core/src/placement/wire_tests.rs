//! The bytes of the log and of snapshots. Logs on disk hold them: a test that fails here has found a
//! change that an older store could not be read with, or that another version would read otherwise.

use std::fmt::Write as _;
use std::sync::Arc;

use prost::Message;
use proto::placement as pb;
use types::spec::Tmpfs;
use types::{
    ErrorCode, Generation, IdempotencyKey, Incarnation, NetworkMode, OnNodeLoss, Resources, SandboxSpec, Timestamp,
};

use super::*;
use crate::script::{host, id, sealed_env, spec};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// A spec in which nothing is left at its default.
fn full_spec() -> SandboxSpec {
    SandboxSpec {
        template: Some("t".into()),
        image: "im".into(),
        image_id: "id".into(),
        resources: Resources { cpu: 1, memory: 2, disk: 3, pids: 4 },
        network_mode: NetworkMode::Internet,
        workdir: Some("/w".into()),
        user: Some("u".into()),
        command: vec!["c".into(), "d".into()],
        writable_rootfs: true,
        tmpfs: vec![Tmpfs { path: "/t".into(), size: 5, options: "o".into() }],
        labels: [("b", "2"), ("a", "1")].map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        name: Some("n".into()),
        on_node_loss: OnNodeLoss::Restore,
    }
}

fn full_place() -> Place {
    Place {
        id: id("a"),
        slot: id("b"),
        owner: host("n1"),
        incarnation: Incarnation(7),
        generation: Generation(3),
        spec: Arc::new(full_spec()),
        sealed_env: sealed_env(),
        expires_at: Some(Timestamp(9)),
        key: Some(IdempotencyKey { scope: [1; 32], digest: [2; 32] }),
    }
}

/// A placement in which everything optional is left out.
fn least_place() -> Place {
    Place {
        id: id("c"),
        slot: id("c"),
        owner: host("n1"),
        incarnation: Incarnation(7),
        generation: Generation(1),
        spec: Arc::new(spec()),
        sealed_env: Arc::from([]),
        expires_at: None,
        key: None,
    }
}

fn failure() -> Failure {
    Failure { code: ErrorCode::Unprocessable, message: "no".into() }
}

fn presence() -> Presence {
    Presence { member: 5, peer_address: "a:1".into(), http_address: "b:2".into(), commands: 2 }
}

/// One command of each kind, and of each variant that has bytes of its own.
fn commands() -> Vec<(&'static str, Command)> {
    let (a, generation) = (id("a"), Generation(3));
    [
        ("node up", Kind::NodeUp { host: host("n1"), incarnation: Incarnation(7), presence: Presence::default() }),
        ("place, full", Kind::Place(Box::new(full_place()))),
        ("place, least", Kind::Place(Box::new(least_place()))),
        ("wanted running", Kind::SetWanted { id: a, generation, wanted: Wanted::Running }),
        ("wanted stopped", Kind::SetWanted { id: a, generation, wanted: Wanted::Stopped }),
        ("destroy, asked", Kind::Destroy { id: a, reason: DestroyReason::Asked }),
        ("destroy, expired", Kind::Destroy { id: a, reason: DestroyReason::Expired { expires_at: Timestamp(9) } }),
        ("removed", Kind::Removed { id: a, generation }),
        ("create failed", Kind::CreateFailed { id: a, generation, failure: failure() }),
        ("node up, present", Kind::NodeUp { host: host("n1"), incarnation: Incarnation(7), presence: presence() }),
        (
            "join",
            Kind::Join {
                host: host("n1"),
                peer_address: "a:1".into(),
                http_address: "b:2".into(),
                commands: 0,
                asked_at: Timestamp(0),
            },
        ),
        ("node lost", Kind::NodeLost { host: host("n1"), incarnation: Incarnation(7), restarting: false }),
        ("node restarting", Kind::NodeRestarting { host: host("n1"), incarnation: Incarnation(7), for_ms: 300 }),
        ("move", Kind::Move(Move { id: a, slot: id("b"), owner: host("n1"), incarnation: Incarnation(7), generation })),
        ("fail", Kind::Fail { id: a, generation, failure: failure(), only_if_lost: true }),
    ]
    .map(|(name, kind)| (name, Command { time: Timestamp(300), kind }))
    .into()
}

#[test]
fn the_bytes_of_each_command_stay_what_they_are() {
    let golden = [
        "08ac0212060a026e311007",
        "08ac021acb010a146161616161616161616161616161616161616161121462626262626262626262626262626262626262621a026e312007280332450a01741202696d1a026964200128023003380440024a022f775201755a01635a016460016a090a022f7410051a016f72060a016112013172060a01621201327a016e8001033a067365616c656440094a440a20010101010101010101010101010101010101010101010101010101010101010112200202020202020202020202020202020202020202020202020202020202020202",
        "08ac021a570a146363636363636363636363636363636363636363121463636363636363636363636363636363636363631a026e31200728013221120664656269616e1a026931208094ebdc03288080808001384040016001800101",
        "08ac02221a0a14616161616161616161616161616161616161616110031801",
        "08ac02221a0a14616161616161616161616161616161616161616110031802",
        "08ac022a180a1461616161616161616161616161616161616161611001",
        "08ac022a1a0a14616161616161616161616161616161616161616110021809",
        "08ac0232180a1461616161616161616161616161616161616161611003",
        "08ac023a2d0a14616161616161616161616161616161616161616110031a130a0d756e70726f6365737361626c6512026e6f",
        "08ac0212160a026e3110071a0e08051203613a311a03623a322002",
        "08ac02420e0a026e311203613a311a03623a32",
        "08ac024a060a026e311007",
        "08ac0252090a026e31100718ac02",
        "08ac025a340a146161616161616161616161616161616161616161121462626262626262626262626262626262626262621a026e3120072803",
        "08ac02622f0a14616161616161616161616161616161616161616110031a130a0d756e70726f6365737361626c6512026e6f2001",
    ];
    let commands = commands();
    assert_eq!(commands.len(), golden.len());
    for ((name, command), expected) in commands.iter().zip(golden) {
        assert_eq!(hex(&encode(command)), expected, "{name}");
        assert_eq!(decode(&encode(command)).unwrap(), *command, "{name}");
    }
}

#[test]
fn the_digest_of_a_placement_stays_what_it_is() {
    // An agent that was prepared by an earlier version is held against this one's digest.
    assert_eq!(hex(&full_place().digest()), "12970b40b5c3649229291756f795730c2ce50d1952bf4f04b5a9452287b9f8dd");
    assert_eq!(hex(&least_place().digest()), "9278b29936fbde81ac4e3a3f5033e2bcef1bebbe663477353ce5c3851d551232");
}

#[test]
fn the_digest_names_id_spec_and_environment_and_nothing_else() {
    let place = full_place();
    let other_spec = Arc::new(SandboxSpec { user: None, ..full_spec() });
    for different in [
        Place { id: id("z"), ..place.clone() },
        Place { spec: other_spec, ..place.clone() },
        Place { sealed_env: Arc::from(*b"other"), ..place.clone() },
    ] {
        assert_ne!(different.digest(), place.digest());
    }
    for same in [
        Place { generation: Generation(4), incarnation: Incarnation(8), ..place.clone() },
        Place { slot: id("z"), owner: host("n2"), ..place.clone() },
        Place { expires_at: None, key: None, ..place.clone() },
    ] {
        assert_eq!(same.digest(), place.digest());
    }
}

/// A map that has one of everything.
fn map() -> Placement {
    let mut map = Placement::default();
    let key = |scope| Some(IdempotencyKey { scope: [scope; 32], digest: [2; 32] });
    let kinds = [
        Kind::NodeUp { host: host("n1"), incarnation: Incarnation(7), presence: Presence::default() },
        Kind::Place(Box::new(full_place())),
        Kind::Place(Box::new(least_place())),
        Kind::SetWanted { id: id("c"), generation: Generation(1), wanted: Wanted::Stopped },
        Kind::Place(Box::new(Place { id: id("d"), slot: id("d"), key: key(5), ..full_place() })),
        Kind::CreateFailed { id: id("d"), generation: Generation(3), failure: failure() },
    ];
    for (index, kind) in (1..).zip(kinds) {
        let outcome = map.apply(index, &Command { time: Timestamp(300), kind });
        assert!(!matches!(outcome, Outcome::Refused(_) | Outcome::Unknown), "{outcome:?}");
    }
    map
}

#[test]
fn the_bytes_of_a_snapshot_stay_what_they_are() {
    let map = map();
    let bytes = encode_snapshot(&map);
    assert_eq!(
        hex(&bytes),
        "080610ac021a060a026e31100722d5010acb010a146161616161616161616161616161616161616161121462626262626262626262626262626262626262621a026e312007280332450a01741202696d1a026964200128023003380440024a022f775201755a01635a016460016a090a022f7410051a016f72060a016112013172060a01621201327a016e8001033a067365616c656440094a440a20010101010101010101010101010101010101010101010101010101010101010112200202020202020202020202020202020202020202020202020202020202020202100118ac02200222600a570a146363636363636363636363636363636363636363121463636363636363636363636363636363636363631a026e31200728013221120664656269616e1a026931208094ebdc03288080808001384040016001800101100218ac0220032a5f0a440a200101010101010101010101010101010101010101010101010101010101010101122002020202020202020202020202020202020202020202020202020202020202021214616161616161616161616161616161616161616118ac022a740a440a200505050505050505050505050505050505050505050505050505050505050505122002020202020202020202020202020202020202020202020202020202020202021214646464646464646464646464646464646464646418ac0222130a0d756e70726f6365737361626c6512026e6f32320a14646464646464646464646464646464646464646412026e311a1464646464646464646464646464646464646464642003"
    );
    assert_eq!(decode_snapshot(&bytes).unwrap(), map);
    assert_eq!(decode_snapshot(&[]).unwrap(), Placement::default());
}

#[test]
fn a_map_from_a_snapshot_decides_like_the_map_it_was_taken_of() {
    let mut original = map();
    let mut copy = decode_snapshot(&encode_snapshot(&original)).unwrap();
    let day_ms = types::limits::IDEMPOTENCY_KEY_HOURS * 3600 * 1000;
    let again = Place { id: id("e"), slot: id("e"), ..full_place() };
    for (index, (time, kind)) in (7..).zip([
        (300, Kind::Place(Box::new(again.clone()))),
        (300, Kind::Destroy { id: id("a"), reason: DestroyReason::Asked }),
        // The keys of the snapshot are forgotten in their time too.
        (300 + day_ms, Kind::Place(Box::new(again))),
        (300 + day_ms, Kind::Removed { id: id("a"), generation: Generation(3) }),
    ]) {
        let command = Command { time: Timestamp(time), kind };
        assert_eq!(copy.apply(index, &command), original.apply(index, &command));
        assert_eq!(copy, original);
    }
    assert!(copy.get(&id("e")).is_some());
}

#[test]
fn what_this_version_does_not_know_is_refused() {
    let a = id("a").to_string();
    let spec = || pb::Spec { network_mode: 1, on_node_loss: 1, ..Default::default() };
    let place = || pb::Place { id: a.clone(), slot: a.clone(), spec: Some(spec()), ..Default::default() };
    let bytes = |kind: pb::command::Kind| pb::Command { time_ms: 1, kind: Some(kind) }.encode_to_vec();
    let placed = |place: pb::Place| bytes(pb::command::Kind::Place(place));
    assert!(decode(&placed(place())).is_ok(), "the table below spoils this one");

    let table = [
        ("no kind at all", "unknown or missing command", Vec::new()),
        // Field 100, as a kind that a later version adds would look.
        ("a kind of a later version", "unknown or missing command", vec![0x08, 0x01, 0xa2, 0x06, 0x00]),
        ("no protobuf", "malformed record", vec![0xff; 4]),
        ("cut short", "malformed record", {
            let mut whole = placed(place());
            whole.pop();
            whole
        }),
        ("an id of another form", "unknown or missing sandbox id", placed(pb::Place { id: "A1".into(), ..place() })),
        (
            "a slot of another form",
            "unknown or missing sandbox id",
            placed(pb::Place { slot: String::new(), ..place() }),
        ),
        ("no spec", "unknown or missing spec", placed(pb::Place { spec: None, ..place() })),
        (
            "a network of a later version",
            "unknown or missing network mode",
            placed(pb::Place { spec: Some(pb::Spec { network_mode: 9, ..spec() }), ..place() }),
        ),
        (
            "a loss policy of a later version",
            "unknown or missing node loss policy",
            placed(pb::Place { spec: Some(pb::Spec { on_node_loss: 9, ..spec() }), ..place() }),
        ),
        (
            "a key that is too short",
            "unknown or missing key",
            placed(pb::Place { key: Some(pb::Key { scope: vec![1; 31], digest: vec![1; 32] }), ..place() }),
        ),
        (
            "a wish of a later version",
            "unknown or missing wanted state",
            bytes(pb::command::Kind::SetWanted(pb::SetWanted { id: a.clone(), generation: 1, wanted: 9 })),
        ),
        (
            "a reason of a later version",
            "unknown or missing destroy reason",
            bytes(pb::command::Kind::Destroy(pb::Destroy { id: a.clone(), reason: 9, expires_ms: 0 })),
        ),
        (
            "a failure without its error",
            "unknown or missing failure",
            bytes(pb::command::Kind::CreateFailed(pb::CreateFailed { id: a.clone(), generation: 1, failure: None })),
        ),
    ];
    for (what, expected, bytes) in table {
        assert_eq!(decode(&bytes).unwrap_err().to_string(), expected, "{what}");
    }
}

#[test]
fn an_error_code_of_a_later_version_is_an_answer_and_not_a_reason_to_stop() {
    let failure = Some(pb::Failure { code: "of_a_later_version".into(), message: "no".into() });
    let kind = pb::command::Kind::CreateFailed(pb::CreateFailed { id: id("a").to_string(), generation: 1, failure });
    let command = decode(&pb::Command { time_ms: 1, kind: Some(kind) }.encode_to_vec()).unwrap();
    let expected = Failure { code: ErrorCode::Internal, message: "no".into() };
    assert_eq!(command.kind, Kind::CreateFailed { id: id("a"), generation: Generation(1), failure: expected });
}
