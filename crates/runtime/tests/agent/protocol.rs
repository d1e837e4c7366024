//! Agents of the protocol before this one: they are as old as their sandboxes, and go on being spoken to.

use bytes::BytesMut;
use proto::agent::agent_frame::Frame;
use proto::agent::request::Operation;
use proto::agent::{AgentFrame, Done, Error, ErrorCode, HelloReply, HostFrame, SandboxState, host_frame};
use proto::agent_limits::{PROTOCOL_VERSION, REQUEST_FRAME_BYTES_MAX};
use proto::framing::{FrameBuffer, encode};
use runtime::agent::{Activation, AgentAddress, AgentClient, AgentError, Identity, LeaseStatus, RefusalCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// An agent that says no more than protocol 1 had words for, whatever version it claims.
async fn answer(mut stream: UnixStream, version: u32) -> std::io::Result<()> {
    let mut input = FrameBuffer::new();
    let request = loop {
        if let Some(frame) = input.next_message::<HostFrame>(REQUEST_FRAME_BYTES_MAX).unwrap() {
            let Some(host_frame::Frame::Request(request)) = frame.frame else { panic!("{frame:?}") };
            break request;
        }
        stream.read_buf(input.bytes_mut()).await?;
    };
    let frame = match request.operation {
        Some(Operation::Hello(_)) => Frame::Hello(HelloReply {
            protocol_version: version,
            agent_version: "0.0.1".into(),
            state: SandboxState::Active.into(),
            sandbox_id: "a".into(),
            generation: 7,
            spec_digest: b"d".to_vec(),
            ..HelloReply::default()
        }),
        Some(Operation::Reserve(_) | Operation::Activate(_)) => Frame::Done(Done::default()),
        _ => {
            let message = "the request is of generation 6, the agent serves 7".into();
            Frame::Error(Error { code: ErrorCode::StaleGeneration.into(), message, ..Error::default() })
        }
    };
    let mut bytes = BytesMut::new();
    encode(&AgentFrame { frame: Some(frame) }, &mut bytes);
    stream.write_all(&bytes).await
}

fn with_agent<F: Future<Output = ()>>(version: u32, test: impl FnOnce(AgentClient) -> F) {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = UnixListener::bind(directory.path().join("sock")).unwrap();
        let agent = tokio::spawn(async move {
            loop {
                answer(listener.accept().await.unwrap().0, version).await.unwrap();
            }
        });
        let pid = i32::try_from(std::process::id()).unwrap();
        test(AgentClient::new(AgentAddress { socket_dir: directory.path().into(), pid })).await;
        agent.abort();
    });
}

fn identity(leased: bool) -> Identity {
    Identity { sandbox_id: "a".into(), generation: 7, spec_digest: b"d".to_vec(), leased }
}

#[test]
fn the_version_before_serves_what_needs_no_lease_and_gets_nothing_that_does() {
    with_agent(PROTOCOL_VERSION - 1, |agent| async move {
        let status = agent.hello().await.unwrap();
        assert_eq!((status.identity, status.lease), (Some(identity(false)), LeaseStatus::default()));
        agent.reserve(&identity(false)).await.unwrap();
        agent.activate(&identity(false), Activation::default()).await.unwrap();

        let refused = agent.reserve(&identity(true)).await.unwrap_err();
        assert!(matches!(refused, AgentError::LeaseUnknown), "{refused:?}");
        assert!(!refused.surely_not_done(), "it is reserved: its slot is spoilt");
        let refused = agent.activate(&identity(true), Activation::default()).await.unwrap_err();
        assert!(matches!(refused, AgentError::LeaseUnknown), "{refused:?}");

        let stale = agent.stat(6, b"/", false).await.unwrap_err();
        assert!(matches!(stale, AgentError::OtherGeneration { held: None }), "{stale:?}");
        assert_eq!(stale.refusal_code(), Some(RefusalCode::StaleGeneration));
    });
}

#[test]
fn one_version_apart_is_spoken_with_and_two_are_not() {
    for (version, spoken) in [
        (PROTOCOL_VERSION - 2, false),
        (PROTOCOL_VERSION - 1, true),
        (PROTOCOL_VERSION, true),
        (PROTOCOL_VERSION + 1, true),
        (PROTOCOL_VERSION + 2, false),
    ] {
        with_agent(version, |agent| async move {
            let answer = agent.hello().await;
            assert_eq!(answer.is_ok(), spoken, "{version}: {answer:?}");
        });
    }
}
