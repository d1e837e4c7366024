//! Between the words of Warren and the messages that peers exchange: the one place where one becomes the other.

use std::collections::BTreeMap;

use bytes::Bytes;
use types::{
    ErrorCode, ExecOutcome, ExecRequest, FileEntry, FileKind, Generation, HostId, NetworkMode, Resources, Sandbox,
    SandboxId, Status, Timestamp, WarrenError,
};

use crate::error::{CallError, LinkError, NotDone};
use crate::wire::{self, CallRequest, ChunkStream, Reply};
use crate::{CallStream, ReplySender};

/// A message of a peer lacks what it must hold, or holds what is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a peer's message is malformed: {0}")]
pub struct Malformed(pub &'static str);

/// A request about a sandbox, for the first and only hop.
#[must_use]
pub fn request(sandbox: &SandboxId, generation: Generation, operation: wire::Operation) -> CallRequest {
    CallRequest {
        request_id: String::new(),
        hop: 0,
        budget_ms: 0,
        body: matches!(operation, wire::Operation::WriteFile(_)),
        sandbox: sandbox.as_str().to_owned(),
        generation: generation.0,
        operation: Some(operation),
    }
}

/// The sandbox that a request is about.
///
/// # Errors
/// It names none.
pub fn sandbox_id(request: &CallRequest) -> Result<SandboxId, Malformed> {
    request.sandbox.parse().map_err(|_| Malformed("not an id of a sandbox"))
}

/// A state of a sandbox, to a peer.
#[must_use]
pub fn status_to_wire(status: Status) -> wire::Status {
    match status {
        Status::Creating => wire::Status::Creating,
        Status::Running => wire::Status::Running,
        Status::Paused => wire::Status::Paused,
        Status::Stopped => wire::Status::Stopped,
        Status::Error => wire::Status::Error,
        Status::Unreachable => wire::Status::Unreachable,
    }
}

/// A state of a sandbox, from a peer.
///
/// # Errors
/// It is none that is known here.
pub fn status_from_wire(status: i32) -> Result<Status, Malformed> {
    match wire::Status::try_from(status) {
        Ok(wire::Status::Creating) => Ok(Status::Creating),
        Ok(wire::Status::Running) => Ok(Status::Running),
        Ok(wire::Status::Paused) => Ok(Status::Paused),
        Ok(wire::Status::Stopped) => Ok(Status::Stopped),
        Ok(wire::Status::Error) => Ok(Status::Error),
        Ok(wire::Status::Unreachable) => Ok(Status::Unreachable),
        Ok(wire::Status::Unspecified) | Err(_) => Err(Malformed("not a state of a sandbox")),
    }
}

/// A command, to a peer.
#[must_use]
pub fn exec_to_wire(request: ExecRequest) -> wire::Exec {
    wire::Exec {
        cmd: request.cmd,
        env: request.env,
        workdir: request.workdir,
        user: request.user,
        stdin: request.stdin.map(Bytes::from),
        timeout_ms: request.timeout_ms,
        max_output: request.max_output,
    }
}

/// A command, from a peer.
#[must_use]
pub fn exec_from_wire(exec: wire::Exec) -> ExecRequest {
    ExecRequest {
        cmd: exec.cmd,
        env: exec.env,
        workdir: exec.workdir,
        user: exec.user,
        stdin: exec.stdin.map(|bytes| bytes.to_vec()),
        timeout_ms: exec.timeout_ms,
        max_output: exec.max_output,
    }
}

/// Answers an exec: its output in chunks, then how it ended.
///
/// # Errors
/// The caller is gone.
pub async fn send_exec_outcome(replies: &mut ReplySender, outcome: ExecOutcome) -> Result<(), LinkError> {
    for (stream, data) in [(ChunkStream::Stdout, outcome.stdout), (ChunkStream::Stderr, outcome.stderr)] {
        let mut data = Bytes::from(data);
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(crate::limits::CHUNK_BYTES_MAX));
            replies.feed(Reply::Chunk(wire::Chunk { data: piece, stream: stream.into() })).await?;
        }
    }
    let outcome = wire::ExecOutcome {
        exit_code: outcome.exit_code,
        signal: outcome.signal,
        oom: outcome.oom,
        timed_out: outcome.timed_out,
        truncated: outcome.truncated,
        duration_us: outcome.duration_us,
    };
    replies.send(Reply::ExecOutcome(outcome)).await
}

/// Awaits the answer to an exec that keeps `max_output` bytes of each stream. The inner error is any other answer.
///
/// # Errors
/// The call failed.
pub async fn receive_exec_outcome(
    call: &mut CallStream,
    max_output: u64,
) -> Result<Result<ExecOutcome, Reply>, CallError> {
    let max_output = usize::try_from(max_output).unwrap_or(usize::MAX);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match call.next().await? {
            Some(Reply::Chunk(chunk)) => {
                let kept = if chunk.stream() == ChunkStream::Stderr { &mut stderr } else { &mut stdout };
                // An owner that sends more than was asked for is not given memory for it.
                let room = max_output.saturating_sub(kept.len());
                kept.extend_from_slice(&chunk.data[..chunk.data.len().min(room)]);
            }
            Some(Reply::ExecOutcome(outcome)) => {
                return Ok(Ok(ExecOutcome {
                    exit_code: outcome.exit_code,
                    signal: outcome.signal,
                    oom: outcome.oom,
                    timed_out: outcome.timed_out,
                    stdout,
                    stderr,
                    truncated: outcome.truncated,
                    duration_us: outcome.duration_us,
                }));
            }
            Some(other) => return Ok(Err(other)),
            None => return Ok(Err(Reply::End(wire::End {}))),
        }
    }
}

/// An entry, to a peer.
#[must_use]
pub fn entry_to_wire(entry: FileEntry) -> wire::FileEntry {
    let kind = match entry.kind {
        FileKind::File => wire::FileKind::File,
        FileKind::Directory => wire::FileKind::Directory,
        FileKind::Symlink => wire::FileKind::Symlink,
        FileKind::Other => wire::FileKind::Other,
    };
    wire::FileEntry {
        name: entry.name,
        path: entry.path,
        size: entry.size,
        mode: entry.mode,
        modified_ms: entry.modified.0,
        kind: kind.into(),
        symlink_target: entry.symlink_target,
        uid: entry.uid,
        gid: entry.gid,
    }
}

/// An entry, from a peer.
///
/// # Errors
/// Its kind is not known here.
pub fn entry_from_wire(entry: wire::FileEntry) -> Result<FileEntry, Malformed> {
    let kind = match entry.kind() {
        wire::FileKind::File => FileKind::File,
        wire::FileKind::Directory => FileKind::Directory,
        wire::FileKind::Symlink => FileKind::Symlink,
        wire::FileKind::Other => FileKind::Other,
        wire::FileKind::Unspecified => return Err(Malformed("not a kind of a file")),
    };
    Ok(FileEntry {
        kind,
        name: entry.name,
        path: entry.path,
        size: entry.size,
        mode: entry.mode,
        modified: Timestamp(entry.modified_ms),
        symlink_target: entry.symlink_target,
        uid: entry.uid,
        gid: entry.gid,
    })
}

/// A sandbox as its users see it, to a peer.
#[must_use]
pub fn sandbox_to_wire(sandbox: Sandbox) -> wire::Sandbox {
    let network_mode = match sandbox.network_mode {
        NetworkMode::None => wire::NetworkMode::None,
        NetworkMode::Internet => wire::NetworkMode::Internet,
    };
    wire::Sandbox {
        id: sandbox.id.as_str().to_owned(),
        image: sandbox.image,
        status: status_to_wire(sandbox.status).into(),
        created_ms: sandbox.created_at.0,
        expires_ms: sandbox.expires_at.map(|expires| expires.0),
        node: sandbox.node.as_str().to_owned(),
        generation: sandbox.generation.0,
        labels: sandbox.labels,
        template: sandbox.template,
        name: sandbox.name,
        resources: Some(wire::Resources {
            cpu: sandbox.resources.cpu,
            memory: sandbox.resources.memory,
            disk: sandbox.resources.disk,
            pids: sandbox.resources.pids,
        }),
        network_mode: network_mode.into(),
        runtime: sandbox.runtime,
        error: sandbox.error,
    }
}

/// A sandbox as its users see it, from a peer.
///
/// # Errors
/// It lacks something, or holds what is not known here.
pub fn sandbox_from_wire(sandbox: wire::Sandbox) -> Result<Sandbox, Malformed> {
    let network_mode = match sandbox.network_mode() {
        wire::NetworkMode::None => NetworkMode::None,
        wire::NetworkMode::Internet => NetworkMode::Internet,
        wire::NetworkMode::Unspecified => return Err(Malformed("not a network mode")),
    };
    let resources = sandbox.resources.ok_or(Malformed("a sandbox without resources"))?;
    Ok(Sandbox {
        id: sandbox.id.parse().map_err(|_| Malformed("not an id of a sandbox"))?,
        image: sandbox.image,
        status: status_from_wire(sandbox.status)?,
        created_at: Timestamp(sandbox.created_ms),
        expires_at: sandbox.expires_ms.map(Timestamp),
        node: HostId::new(sandbox.node),
        generation: Generation(sandbox.generation),
        labels: sandbox.labels,
        template: sandbox.template,
        name: sandbox.name,
        resources: Resources {
            cpu: resources.cpu,
            memory: resources.memory,
            disk: resources.disk,
            pids: resources.pids,
        },
        network_mode,
        runtime: sandbox.runtime,
        error: sandbox.error,
    })
}

/// An error, to a peer.
#[must_use]
pub fn error_to_wire(error: &WarrenError) -> wire::Error {
    let details_json = if error.details.is_empty() {
        String::new()
    } else {
        serde_json::to_string(&error.details).expect("names and values of JSON are JSON")
    };
    wire::Error { code: error.code.as_str().to_owned(), message: error.message.clone(), details_json }
}

/// An error, from a peer. A code that is not known here is a fault of ours.
#[must_use]
pub fn error_from_wire(error: &wire::Error) -> WarrenError {
    let code = ErrorCode::from_name(&error.code).unwrap_or(ErrorCode::Internal);
    let details: BTreeMap<String, serde_json::Value> = serde_json::from_str(&error.details_json).unwrap_or_default();
    WarrenError { code, message: error.message.clone(), details }
}

/// A call that failed, as a client is told of it.
#[must_use]
pub fn call_error(error: &CallError) -> WarrenError {
    match error {
        CallError::NotDone(NotDone::TooLarge(_)) => {
            WarrenError::new(ErrorCode::TooLarge, "the request is too large to be passed on to the sandbox's node")
        }
        CallError::NotDone(NotDone::TooManyHops) => {
            WarrenError::new(ErrorCode::Internal, "the request has been passed on already")
        }
        CallError::NotDone(NotDone::Busy) => {
            WarrenError::new(ErrorCode::Unavailable, "too many requests are under way to the sandbox's node")
        }
        CallError::NotDone(_) => WarrenError::new(ErrorCode::Unavailable, "the sandbox's node can not be reached"),
        CallError::Unknown(_) => {
            WarrenError::new(ErrorCode::Interrupted, "the sandbox's node was lost while this was under way")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_survives_the_way_there_and_back() {
        let sandbox = Sandbox {
            id: SandboxId::from_entropy([3; 20]),
            image: "docker.io/library/debian:12".to_owned(),
            status: Status::Stopped,
            created_at: Timestamp(7),
            expires_at: Some(Timestamp(9)),
            node: HostId::new("h1"),
            generation: Generation(4),
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            template: Some("t".to_owned()),
            name: None,
            resources: Resources { cpu: 1, memory: 2, disk: 3, pids: 4 },
            network_mode: NetworkMode::Internet,
            runtime: "runc".to_owned(),
            error: Some("why".to_owned()),
        };
        assert_eq!(sandbox_from_wire(sandbox_to_wire(sandbox.clone())), Ok(sandbox.clone()));
        let mut without = sandbox_to_wire(sandbox);
        without.resources = None;
        assert_eq!(sandbox_from_wire(without), Err(Malformed("a sandbox without resources")));
    }

    #[test]
    fn every_state_and_kind_survives() {
        for status in
            [Status::Creating, Status::Running, Status::Paused, Status::Stopped, Status::Error, Status::Unreachable]
        {
            assert_eq!(status_from_wire(status_to_wire(status).into()), Ok(status));
        }
        assert!(status_from_wire(0).is_err() && status_from_wire(99).is_err());
        for kind in [FileKind::File, FileKind::Directory, FileKind::Symlink, FileKind::Other] {
            let entry = FileEntry {
                name: "n".to_owned(),
                path: "/n".to_owned(),
                size: 1,
                mode: 0o644,
                modified: Timestamp(5),
                kind,
                symlink_target: None,
                uid: 1,
                gid: 2,
            };
            assert_eq!(entry_from_wire(entry_to_wire(entry.clone())), Ok(entry));
        }
        assert!(entry_from_wire(wire::FileEntry::default()).is_err());
    }

    #[test]
    fn a_command_survives() {
        let request = ExecRequest {
            cmd: vec!["sh".to_owned(), "-c".to_owned()],
            env: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
            workdir: Some("/".to_owned()),
            user: None,
            stdin: Some(Vec::new()),
            timeout_ms: Some(0),
            max_output: 5,
        };
        assert_eq!(exec_from_wire(exec_to_wire(request.clone())), request);
    }

    #[test]
    fn errors_keep_code_sentence_and_details() {
        for code in ErrorCode::ALL {
            let error = WarrenError::new(*code, "why").with("field", "cmd").with("count", 3);
            assert_eq!(error_from_wire(&error_to_wire(&error)), error);
        }
        let plain = WarrenError::new(ErrorCode::NotFound, "why");
        assert_eq!(error_from_wire(&error_to_wire(&plain)), plain);
        let strange =
            wire::Error { code: "of_tomorrow".to_owned(), message: "m".to_owned(), details_json: "[".to_owned() };
        assert_eq!(error_from_wire(&strange), WarrenError::new(ErrorCode::Internal, "m"));
    }

    #[test]
    fn a_failed_call_says_whether_it_may_be_made_again() {
        let surely = CallError::NotDone(NotDone::Closed);
        assert_eq!(call_error(&surely).code, ErrorCode::Unavailable);
        let unknown = CallError::Unknown(crate::error::Unknown::TimedOut);
        assert_eq!(call_error(&unknown).code, ErrorCode::Interrupted);
    }
}
