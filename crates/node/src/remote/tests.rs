//! Every operation from one node to another over TLS, and every way in which that can fail.

mod scripted;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt;
use tokio::task::spawn_local;
use types::{Lifetime, NetworkMode};

use self::scripted::*;
use super::*;
use crate::answer_calls::Placed;

/// Bytes that may be on their way between a source that goes on and a sink that does not: the system's buffers on
/// both sides, and a few parts.
const ON_THE_WAY_MAX: u64 = 24 << 20;

fn code<T: std::fmt::Debug>(result: Result<T, Fault>) -> ErrorCode {
    match result.expect_err("a fault") {
        Fault::Failed(error) => error.code,
        moved => panic!("{moved:?}"),
    }
}

/// The download without its body, so that results can be shown.
fn opened(result: Result<Download, Fault>) -> Result<FileEntry, Fault> {
    result.map(|download| download.entry)
}

async fn all(mut body: ByteStream) -> Result<Vec<u8>, WarrenError> {
    let mut bytes = Vec::new();
    while let Some(part) = soon("a part", body.next()).await {
        bytes.extend_from_slice(&part?);
    }
    Ok(bytes)
}

/// Waits until a count stands still, or has reached what it would reach if nothing held it up.
async fn stands_still(count: &AtomicU64, whole: u64) -> u64 {
    let (mut seen, mut still) = (0, 0);
    while still < 20 {
        let now = count.load(Ordering::Relaxed);
        still = if now == seen && now > 0 { still + 1 } else { 0 };
        if now >= whole {
            return now;
        }
        seen = now;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    seen
}

/// Every operation once; the faults in their order.
async fn each(pair: &Pair) -> Vec<(&'static str, Option<Fault>)> {
    // Small enough that the owner reads the rest of one that it refuses, and keeps the connection.
    let body: UploadStream = Box::pin(stream::iter([Ok(pattern(0))]));
    let (remote, id, generation) = (&pair.remote, id(), GENERATION);
    vec![
        ("create", remote.create(&CreateRequest::default()).await.err()),
        ("delete", remote.delete(id, generation).await.err()),
        ("stop", remote.stop(id, generation).await.err()),
        ("start", remote.start(id, generation).await.err()),
        ("exec", remote.exec(id, generation, ExecRequest::default()).await.err()),
        ("read_file", opened(remote.read_file(id, generation, "/1", None).await).err()),
        ("write_file", remote.write_file(id, generation, "/f", body).await.err()),
        ("list_files", remote.list_files(id, generation, "/").await.err()),
        ("stat_file", remote.stat_file(id, generation, "/f").await.err()),
        ("mkdir", remote.mkdir(id, generation, "/d").await.err()),
        ("remove_file", remote.remove_file(id, generation, "/f").await.err()),
    ]
}

#[test]
fn every_operation_goes_there_and_comes_back() {
    local(async {
        let pair = Pair::new().await;
        let (remote, id, generation) = (&pair.remote, id(), GENERATION);

        let create = CreateRequest {
            env: [("SECRET".to_owned(), "1".to_owned())].into(),
            lifetime: Lifetime::Seconds(7),
            network_mode: Some(NetworkMode::Internet),
            ..CreateRequest::default()
        };
        assert_eq!(remote.create(&create).await, Ok(sandbox()));
        assert_eq!(*pair.script.creates.lock(), [create]);

        assert_eq!(remote.stop(id, generation).await, Ok(Status::Stopped));
        assert_eq!(remote.start(id, generation).await, Ok(Status::Running));
        assert_eq!(remote.delete(id, generation).await, Ok(Deleted::Done));
        *pair.script.deleted.lock() = Some(Deleted::Destroying);
        assert_eq!(remote.delete(id, generation).await, Ok(Deleted::Destroying));

        let many: Vec<_> = (0..3000).map(|index| entry(&format!("/d/{index}"), index)).collect();
        pair.script.entries.lock().clone_from(&many);
        assert_eq!(remote.list_files(id, generation, "/d").await.unwrap(), many);
        pair.script.entries.lock().clear();
        assert_eq!(remote.list_files(id, generation, "/empty").await, Ok(Vec::new()));
        assert_eq!(remote.stat_file(id, generation, "/f").await, Ok(entry("/f", 5)));
        assert_eq!(remote.mkdir(id, generation, "/m").await, Ok(()));
        assert_eq!(remote.remove_file(id, generation, "/r").await, Ok(()));

        let range = Some(ByteRange { offset: 4, length: None });
        let download = remote.read_file(id, generation, "/2", range).await.unwrap();
        assert_eq!(download.entry, entry("/2", 2 << 20));
        let bytes = all(download.body).await.unwrap();
        assert_eq!(bytes, [pattern(0), pattern(1)].concat());
        let empty = remote.read_file(id, generation, "/0", None).await.unwrap();
        assert_eq!(all(empty.body).await, Ok(Vec::new()));

        assert_eq!(remote.write_file(id, generation, "/w", parts(2, Arc::default())).await, Ok(()));
        assert_eq!(remote.write_file(id, generation, "/e", parts(0, Arc::default())).await, Ok(()));
        assert_eq!(pair.script.taken.load(Ordering::Relaxed), 2 << 20);
        assert_eq!(pair.script.written.load(Ordering::Relaxed), 2);

        let expected = [
            "create".to_owned(),
            format!("stop {id}"),
            format!("start {id}"),
            format!("delete {id}"),
            format!("delete {id}"),
            format!("list_files {id} /d"),
            format!("list_files {id} /empty"),
            format!("stat_file {id} /f"),
            format!("mkdir {id} /m"),
            format!("remove_file {id} /r"),
            format!("read_file {id} /2 {range:?}"),
            format!("read_file {id} /0 None"),
            format!("write_file {id} /w"),
            format!("write_file {id} /e"),
        ];
        assert_eq!(*pair.script.asked.lock(), expected);
        assert_eq!(pair.caller.counters().dials, 1, "all went over one connection");
    });
}

#[test]
fn a_command_brings_its_output_and_a_passed_deadline_is_an_outcome() {
    local(async {
        let pair = Pair::new().await;
        let request = ExecRequest {
            cmd: vec!["sh".to_owned()],
            stdin: Some(b"in".to_vec()),
            timeout_ms: Some(5),
            max_output: 4 << 20,
            ..ExecRequest::default()
        };
        let outcome = ExecOutcome {
            exit_code: 137,
            signal: Some(9),
            oom: true,
            timed_out: true,
            stdout: [pattern(0), pattern(1)].concat(),
            stderr: b"err".to_vec(),
            truncated: true,
            duration_us: 5001,
        };
        *pair.script.outcome.lock() = outcome.clone();
        assert_eq!(pair.remote.exec(id(), GENERATION, request.clone()).await, Ok(outcome));
        assert_eq!(*pair.script.execs.lock(), [request]);
    });
}

#[test]
fn every_error_comes_back_with_its_details_and_the_connection_goes_on() {
    local(async {
        let pair = Pair::new().await;
        let error = WarrenError::new(ErrorCode::WrongState, "it is stopped").with("status", "stopped").with("n", 3);
        *pair.script.refuse_with.lock() = Some(error.clone());
        for (operation, fault) in each(&pair).await {
            assert_eq!(fault, Some(Fault::Failed(error.clone())), "{operation}");
        }
        assert_eq!(pair.script.asked.lock().len(), 11);
        // A refused upload whose end was not sent costs the connection; nothing else does.
        assert!(pair.caller.counters().dials <= 2);
    });
}

#[test]
fn a_download_that_fails_on_its_way_ends_in_the_owners_error() {
    local(async {
        let pair = Pair::new().await;
        let mut body = pair.remote.read_file(id(), GENERATION, "/1-fails", None).await.unwrap().body;
        let mut bytes = 0;
        let error = loop {
            match soon("a part", body.next()).await.expect("an error before the end") {
                Ok(part) => bytes += part.len(),
                Err(error) => break error,
            }
        };
        assert_eq!(error, WarrenError::new(ErrorCode::NoSpace, "broken").with("offset", 9));
        assert_eq!(bytes, MIB);
        assert!(body.next().await.is_none());
    });
}

#[test]
fn a_sandbox_that_moved_is_left_alone() {
    local(async {
        let pair = Pair::new().await;
        let moved = |owner: &str, generation| Fault::Moved { owner: HostId::new(owner), generation };
        let away = Placed::Elsewhere { owner: HostId::new("h9"), generation: Generation(4) };
        for (placed, expected) in [
            (away, moved("h9", Generation(4))),
            (Placed::Here(Generation(5)), moved("h2", Generation(5))),
            (Placed::Nowhere, WarrenError::new(ErrorCode::NotFound, "sandbox not found").into()),
        ] {
            *pair.placed.lock() = placed.clone();
            for (operation, fault) in each(&pair).await {
                let expected = (operation != "create").then(|| expected.clone());
                assert_eq!(fault, expected, "{operation} {placed:?}");
            }
        }
        *pair.placed.lock() = Placed::Here(Generation(2));
        assert_eq!(code(pair.remote.stop(id(), GENERATION).await), ErrorCode::Unavailable);
        assert_eq!(*pair.script.asked.lock(), ["create", "create", "create"]);
    });
}

#[test]
fn a_second_hop_is_not_made() {
    local(async {
        let pair = Pair::new().await;
        let request = words::request(&id(), GENERATION, Operation::Stop(wire::Stop {}));
        let error = pair.caller.call(CallRequest { hop: 1, ..request }).await.unwrap_err();
        assert!(error.surely_not_done());
        assert!(pair.script.asked.lock().is_empty());
    });
}

#[test]
fn a_large_download_waits_for_whoever_reads_it() {
    local(async {
        let pair = Pair::new().await;
        let mut body = pair.remote.read_file(id(), GENERATION, "/64", None).await.unwrap().body;
        let given = stands_still(&pair.script.given, 64 << 20).await;
        assert!(given < ON_THE_WAY_MAX, "{given} bytes for nobody");
        let (mut bytes, mut ahead_max) = (0, 0);
        while let Some(part) = soon("a part", body.next()).await {
            for byte in part.unwrap() {
                assert_eq!(byte, (bytes % MIB + bytes / MIB * 7) as u8, "byte {bytes}");
                bytes += 1;
            }
            ahead_max = ahead_max.max(pair.script.given.load(Ordering::Relaxed) - bytes as u64);
        }
        assert_eq!(bytes, 64 << 20);
        assert!(ahead_max < ON_THE_WAY_MAX, "{ahead_max} bytes between source and sink");
    });
}

#[test]
fn a_large_upload_waits_for_the_file() {
    local(async {
        let pair = Pair::new().await;
        let sent = Arc::new(AtomicU64::new(0));
        let (remote, body) = (pair.remote.clone(), parts(64, Arc::clone(&sent)));
        let upload = spawn_local(async move { remote.write_file(id(), GENERATION, "/slow", body).await });
        let held_up = stands_still(&sent, 64 << 20).await;
        assert!(held_up < ON_THE_WAY_MAX, "{held_up} bytes for a file that takes none");
        pair.script.go_on.notify_one();
        assert_eq!(soon("the upload", upload).await.unwrap(), Ok(()));
        assert_eq!(pair.script.taken.load(Ordering::Relaxed), 64 << 20);
        assert_eq!(pair.script.written.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_node_that_ends_finishes_what_it_has_begun_and_begins_nothing() {
    local(async {
        let pair = Pair::new().await;
        let (remote, body) = (pair.remote.clone(), parts(1, Arc::default()));
        let upload = spawn_local(async move { remote.write_file(id(), GENERATION, "/slow", body).await });
        until("the upload", || pair.script.asked.lock().contains(&format!("write_file {} /slow", id()))).await;
        let doorway = Arc::clone(&pair.doorway);
        let mut closing = Box::pin(async move { doorway.close_and_wait().await });
        assert!((&mut closing).now_or_never().is_none(), "an upload is under way");
        for (what, fault) in each(&pair).await {
            assert_eq!(code(fault.map_or(Ok(()), Err)), ErrorCode::Unavailable, "{what}");
        }
        pair.script.go_on.notify_one();
        soon("the upload's end", closing).await;
        assert_eq!(soon("the upload", upload).await.unwrap(), Ok(()));
        assert_eq!(pair.script.asked.lock().len(), 1, "{:?}", pair.script.asked.lock());
    });
}

#[test]
fn a_command_dies_with_its_caller() {
    local(async {
        let pair = Pair::new().await;
        let request = ExecRequest { cmd: vec!["hang".to_owned()], ..ExecRequest::default() };
        let exec = pair.remote.exec(id(), GENERATION, request);
        {
            let mut exec = Box::pin(exec);
            soon("the command's begin", async {
                while pair.began() == 0 {
                    assert!((&mut exec).now_or_never().is_none());
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
            .await;
            assert_eq!(pair.dropped(), 0);
        }
        until("the command's end", || pair.dropped() == 1).await;
        assert_eq!(pair.remote.stop(id(), GENERATION).await, Ok(Status::Stopped), "the next call is made");
    });
}

#[test]
fn a_download_that_nobody_wants_is_closed_at_the_owner() {
    local(async {
        let pair = Pair::new().await;
        for path in ["/64", "/1-hangs"] {
            let (before, mut body) =
                (pair.dropped(), pair.remote.read_file(id(), GENERATION, path, None).await.unwrap().body);
            soon("a part", body.next()).await.unwrap().unwrap();
            drop(body);
            until("the file to be closed", || pair.dropped() > before).await;
        }
        assert!(pair.script.given.load(Ordering::Relaxed) < 64 << 20);
    });
}

#[test]
fn half_an_upload_never_counts_as_whole() {
    local(async {
        let pair = Pair::new().await;
        // The client breaks off.
        let broken = stream::iter([Err(io::Error::other("reset"))]);
        let body = parts(1, Arc::default()).chain(broken);
        let fault = pair.remote.write_file(id(), GENERATION, "/f", Box::pin(body)).await.unwrap_err();
        let error = WarrenError::new(ErrorCode::BadRequest, "the body was cut off: reset");
        assert_eq!(fault, Fault::Failed(error));
        until("the upload's end", || pair.began() == 1 && pair.dropped() == 1).await;
        // The front door gives the call up.
        let body = parts(1, Arc::default()).chain(stream::pending());
        let remote = pair.remote.clone();
        let upload = spawn_local(async move { remote.write_file(id(), GENERATION, "/g", Box::pin(body)).await });
        until("the upload's begin", || pair.began() == 2).await;
        upload.abort();
        until("the upload's end", || pair.dropped() == 2).await;
        assert_eq!(pair.script.written.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn an_answer_before_the_end_of_an_upload_does_not_wait_for_the_client() {
    local(async {
        let pair = Pair::new().await;
        let error = WarrenError::new(ErrorCode::NoSpace, "full");
        *pair.script.refuse_with.lock() = Some(error.clone());
        let body = Box::pin(stream::pending());
        let written = soon("the refusal", pair.remote.write_file(id(), GENERATION, "/f", body)).await;
        assert_eq!(written, Err(Fault::Failed(error.clone())));
        // Nor is the rest of a large one sent.
        let sent = Arc::new(AtomicU64::new(0));
        let body = parts(512, Arc::clone(&sent));
        let written = soon("the refusal", pair.remote.write_file(id(), GENERATION, "/f", body)).await;
        assert_eq!(written, Err(Fault::Failed(error)));
        assert!(sent.load(Ordering::Relaxed) < 512 << 20);
    });
}

#[test]
fn an_owner_that_dies_leaves_the_outcome_unknown_and_is_then_not_there() {
    local(async {
        let mut pair = Pair::new().await;
        let remote = pair.remote.clone();
        let hang = ExecRequest { cmd: vec!["hang".to_owned()], ..ExecRequest::default() };
        let exec = spawn_local({
            let remote = remote.clone();
            async move { remote.exec(id(), GENERATION, hang).await }
        });
        let body = Box::pin(stream::pending());
        let upload = spawn_local({
            let remote = remote.clone();
            async move { remote.write_file(id(), GENERATION, "/f", body).await }
        });
        let mut download = remote.read_file(id(), GENERATION, "/1-hangs", None).await.unwrap().body;
        soon("a part", download.next()).await.unwrap().unwrap();
        until("all three to be under way", || pair.began() == 3).await;
        pair.kill_owner().await;
        assert_eq!(code(soon("the exec", exec).await.unwrap()), ErrorCode::Interrupted);
        assert_eq!(code(soon("the upload", upload).await.unwrap()), ErrorCode::Interrupted);
        assert_eq!(all(download).await.unwrap_err().code, ErrorCode::Interrupted);
        for (operation, fault) in each(&pair).await {
            assert_eq!(code(fault.map_or(Ok(()), Err)), ErrorCode::Unavailable, "{operation}");
        }
    });
}

#[test]
fn a_sandbox_is_taken_over_although_it_is_placed_elsewhere() {
    local(async {
        let pair = Pair::new().await;
        *pair.placed.lock() = Placed::Elsewhere { owner: HostId::new("h9"), generation: GENERATION };
        assert_eq!(pair.remote.take_over(id(), GENERATION).await, Ok(()));
        assert_eq!(*pair.script.asked.lock(), [format!("take_over {} {GENERATION}", id())]);
        let refusal = WarrenError::new(ErrorCode::NoCapacity, "full");
        *pair.script.refuse_with.lock() = Some(refusal);
        assert_eq!(code(pair.remote.take_over(id(), GENERATION).await), ErrorCode::NoCapacity);
    });
}
