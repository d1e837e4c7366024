//! The agent's messages as protocol 1 had them, byte for byte: they must go on being written and read.

use prost::Message;
use proto::agent::{Activate, Done, Error, ErrorCode, HelloReply, Reserve, SandboxState};

#[test]
fn what_does_not_speak_of_leases_is_written_as_before() {
    let reserve = Reserve { sandbox_id: "ab".into(), spec_digest: vec![1, 2], leased: false };
    assert_eq!(reserve.encode_to_vec(), b"\x0a\x02ab\x12\x02\x01\x02");
    let activate = Activate { spec_digest: vec![1], workdir: "/".into(), allow_root: true, ..Activate::default() };
    assert_eq!(activate.encode_to_vec(), b"\x0a\x01\x01\x1a\x01/\x30\x01");
    assert_eq!(Done::default().encode_to_vec(), b"");
}

#[test]
fn what_was_written_before_is_read_with_nothing_said_of_leases() {
    let hello = HelloReply::decode(&b"\x08\x01\x12\x010\x18\x03\x22\x02ab\x28\x07\x32\x01\x09"[..]).unwrap();
    let expected = HelloReply {
        protocol_version: 1,
        agent_version: "0".into(),
        state: SandboxState::Active.into(),
        sandbox_id: "ab".into(),
        generation: 7,
        spec_digest: vec![9],
        ..HelloReply::default()
    };
    assert_eq!(hello, expected);
    assert!(!Done::decode(&b""[..]).unwrap().leased);
    let error = Error::decode(&b"\x08\x02\x12\x01m"[..]).unwrap();
    assert_eq!((error.code(), error.generation), (ErrorCode::StaleGeneration, 0));
}
