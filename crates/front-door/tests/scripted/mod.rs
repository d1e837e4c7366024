//! Operations that answer from a script and keep what they were asked, to test the contract's form.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Mutex;

use bytes::Bytes;
use front_door::{
    ByteRange, Consistency, Deleted, Download, FrontDoorConfig, Limits, ListFilter, Operations, SandboxPage,
    UploadStream, VersionFacts,
};
use futures_util::{StreamExt, stream};
use tokio::sync::Notify;
use types::node::{NodeAddresses, NodeCapacity, NodeHealth, NodeInfo, NodeRole, NodeState, NodeVersions, WarmTemplate};
use types::{
    ClusterId, CreateRequest, ErrorCode, ExecOutcome, ExecRequest, FileEntry, FileKind, Generation, HostId,
    Incarnation, NetworkMode, Resources, Sandbox, SandboxId, Status, Timestamp, WarrenError,
};

/// The one sandbox that is there.
pub const ID: &str = "abcdefghijklmnopqrst";
/// A well-formed id of none.
pub const OTHER_ID: &str = "aaaaaaaaaaaaaaaaaaaa";
pub const KEY: &str = "correct-key";
pub const SECOND_KEY: &str = "second-key";

#[derive(Default)]
pub struct Scripted {
    pub creates: Mutex<Vec<CreateRequest>>,
    pub execs: Mutex<Vec<ExecRequest>>,
    pub lists: Mutex<Vec<(ListFilter, Consistency)>>,
    pub files: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Sizes that files claim, where it is not their own.
    pub claimed_sizes: Mutex<BTreeMap<String, u64>>,
    pub directories: Mutex<Vec<String>>,
    /// Uploads that broke off, with what had come.
    pub broken_uploads: Mutex<Vec<(String, usize)>>,
    pub outcome: Mutex<ExecOutcome>,
    pub refuse_with: Mutex<Option<WarrenError>>,
    pub deleted: Mutex<Option<Deleted>>,
    pub unhealthy: Mutex<Option<String>>,
    pub node_reads: Mutex<Vec<Consistency>>,
    pub next_cursor: Mutex<Option<String>>,
    /// An exec of `hang` never ends; its start and its drop are told here.
    pub hang_started: Notify,
    pub hang_dropped: Notify,
}

impl Scripted {
    fn known(&self, id: SandboxId) -> Result<(), WarrenError> {
        if let Some(error) = self.refuse_with.lock().unwrap().clone() {
            return Err(error);
        }
        match id.as_str() == ID {
            true => Ok(()),
            false => Err(WarrenError::new(ErrorCode::NotFound, "sandbox not found")),
        }
    }

    fn entry(&self, path: &str, size: u64) -> FileEntry {
        FileEntry {
            name: path.rsplit('/').next().unwrap_or_default().to_owned(),
            path: path.to_owned(),
            size,
            mode: 0o644,
            modified: Timestamp(1_795_000_123_456),
            kind: FileKind::File,
            symlink_target: None,
            uid: 1000,
            gid: 1000,
        }
    }
}

pub fn sandbox() -> Sandbox {
    Sandbox {
        id: ID.parse().unwrap(),
        image: "default".to_owned(),
        status: Status::Running,
        created_at: Timestamp(1_795_000_123_456),
        expires_at: None,
        node: HostId::new("node-1"),
        generation: Generation(1),
        labels: BTreeMap::new(),
        template: None,
        name: None,
        resources: Resources { cpu: 1_000_000_000, memory: 1 << 29, disk: 0, pids: 256 },
        network_mode: NetworkMode::None,
        runtime: "runc".to_owned(),
        error: None,
    }
}

/// A node of which everything is known.
pub fn node() -> NodeInfo {
    NodeInfo {
        id: HostId::new("node-1"),
        name: Some("rack-7".to_owned()),
        role: NodeRole::Leader,
        state: NodeState::Up,
        here: true,
        reachable: true,
        member: 1,
        incarnation: Incarnation(3),
        addresses: NodeAddresses { http: Some("10.0.0.1:8080".to_owned()), peer: Some("10.0.0.1:7000".to_owned()) },
        versions: NodeVersions { build: Some("0.1.0 (abc)".to_owned()), commands: 1, peer_protocol: Some((1, 1)) },
        capacity: NodeCapacity {
            sandboxes: 2,
            sandboxes_max: Some(1_000),
            memory_promised: 1 << 30,
            memory_max: Some(64 << 30),
            cpu_promised: 2_000_000_000,
            cpu_max: None,
            cpu_cores: Some(8),
        },
        closed: Some("the node is starting".to_owned()),
        warm: Some(vec![
            WarmTemplate { template: "default".to_owned(), ready: 3, target: 4, refill_ms_p50: Some(74) },
            WarmTemplate { template: "new".to_owned(), ..WarmTemplate::default() },
        ]),
        runtime: Some("runc".to_owned()),
        images: Some(5),
    }
}

/// A node of which nothing is heard.
pub fn silent_node() -> NodeInfo {
    NodeInfo {
        id: HostId::new("node-2"),
        name: None,
        role: NodeRole::Voter,
        state: NodeState::Lost,
        here: false,
        reachable: false,
        member: 2,
        incarnation: Incarnation(1),
        addresses: NodeAddresses::default(),
        versions: NodeVersions { commands: 1, ..NodeVersions::default() },
        capacity: NodeCapacity { sandboxes: 1, memory_promised: 7, ..NodeCapacity::default() },
        closed: None,
        warm: None,
        runtime: None,
        images: None,
    }
}

struct TellsOfItsDrop<'a>(&'a Notify);

impl Drop for TellsOfItsDrop<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Operations for Scripted {
    fn health(&self) -> NodeHealth {
        NodeHealth {
            cluster: ClusterId::new("cluster-1"),
            node: HostId::new("node-1"),
            leader: Some(HostId::new("node-1")),
            quorum: true,
            voters: ["node-1", "node-2"].map(HostId::new).to_vec(),
            unhealthy: self.unhealthy.lock().unwrap().clone(),
        }
    }

    async fn nodes(&self, consistency: Consistency) -> Result<Vec<NodeInfo>, WarrenError> {
        if let Some(error) = self.refuse_with.lock().unwrap().clone() {
            return Err(error);
        }
        self.node_reads.lock().unwrap().push(consistency);
        Ok(vec![node(), silent_node()])
    }

    async fn node(&self, id: &str, consistency: Consistency) -> Result<NodeInfo, WarrenError> {
        let nodes = self.nodes(consistency).await?;
        let found = nodes.into_iter().find(|node| node.id.as_str() == id);
        found.ok_or_else(|| WarrenError::new(ErrorCode::NotFound, "node not found"))
    }

    async fn create(&self, request: CreateRequest) -> Result<Sandbox, WarrenError> {
        if let Some(error) = self.refuse_with.lock().unwrap().clone() {
            return Err(error);
        }
        self.creates.lock().unwrap().push(request);
        Ok(sandbox())
    }

    async fn get(&self, id: SandboxId, _consistency: Consistency) -> Result<Sandbox, WarrenError> {
        self.known(id).map(|()| sandbox())
    }

    async fn list(&self, filter: ListFilter, consistency: Consistency) -> Result<SandboxPage, WarrenError> {
        let limit = filter.limit;
        self.lists.lock().unwrap().push((filter, consistency));
        let next = self.next_cursor.lock().unwrap().clone();
        Ok(SandboxPage { items: if limit == Some(1) { vec![sandbox()] } else { Vec::new() }, next })
    }

    async fn delete(&self, id: SandboxId) -> Result<Deleted, WarrenError> {
        self.known(id).map(|()| self.deleted.lock().unwrap().unwrap_or(Deleted::Done))
    }

    async fn stop(&self, id: SandboxId) -> Result<Status, WarrenError> {
        self.known(id).map(|()| Status::Stopped)
    }

    async fn start(&self, id: SandboxId) -> Result<Status, WarrenError> {
        self.known(id).map(|()| Status::Running)
    }

    async fn exec(&self, id: SandboxId, request: ExecRequest) -> Result<ExecOutcome, WarrenError> {
        self.known(id)?;
        if request.cmd[0] == "hang" {
            let _tells = TellsOfItsDrop(&self.hang_dropped);
            self.hang_started.notify_one();
            std::future::pending::<()>().await;
        }
        self.execs.lock().unwrap().push(request);
        Ok(self.outcome.lock().unwrap().clone())
    }

    async fn read_file(&self, id: SandboxId, path: &str, range: Option<ByteRange>) -> Result<Download, WarrenError> {
        self.known(id)?;
        let content = self.files.lock().unwrap().get(path).cloned();
        let content = content.ok_or_else(|| WarrenError::new(ErrorCode::FileNotFound, "file not found"))?;
        let size = self.claimed_sizes.lock().unwrap().get(path).copied().unwrap_or(content.len() as u64);
        let range = range.unwrap_or(ByteRange { offset: 0, length: None });
        let start = usize::try_from(range.offset).unwrap_or(usize::MAX).min(content.len());
        let length = usize::try_from(range.length.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let end = start.saturating_add(length).min(content.len());
        let pieces: Vec<_> =
            content[start..end].chunks(65_536).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        Ok(Download { entry: self.entry(path, size), body: Box::pin(stream::iter(pieces)) })
    }

    async fn write_file(&self, id: SandboxId, path: &str, mut body: UploadStream) -> Result<(), WarrenError> {
        self.known(id)?;
        let mut content = Vec::new();
        while let Some(piece) = body.next().await {
            match piece {
                Ok(piece) => content.extend_from_slice(&piece),
                Err(error) => {
                    self.broken_uploads.lock().unwrap().push((path.to_owned(), content.len()));
                    return Err(WarrenError::field("body", error));
                }
            }
        }
        self.files.lock().unwrap().insert(path.to_owned(), content);
        Ok(())
    }

    async fn list_files(&self, id: SandboxId, path: &str) -> Result<Vec<FileEntry>, WarrenError> {
        self.known(id)?;
        self.directories.lock().unwrap().push(path.to_owned());
        Ok(self.files.lock().unwrap().iter().map(|(path, content)| self.entry(path, content.len() as u64)).collect())
    }

    async fn stat_file(&self, id: SandboxId, path: &str) -> Result<FileEntry, WarrenError> {
        self.known(id)?;
        let size = self.files.lock().unwrap().get(path).map(Vec::len);
        size.map(|size| self.entry(path, size as u64))
            .ok_or_else(|| WarrenError::new(ErrorCode::FileNotFound, "file not found"))
    }

    async fn mkdir(&self, id: SandboxId, path: &str) -> Result<(), WarrenError> {
        self.known(id)?;
        self.directories.lock().unwrap().push(path.to_owned());
        Ok(())
    }

    async fn remove_file(&self, id: SandboxId, path: &str) -> Result<(), WarrenError> {
        self.known(id)?;
        self.files.lock().unwrap().remove(path);
        Ok(())
    }
}

pub fn config(listeners: Vec<TcpListener>) -> FrontDoorConfig {
    FrontDoorConfig {
        listeners,
        api_keys: vec![KEY.to_owned(), SECOND_KEY.to_owned()],
        version: VersionFacts {
            version: "0.1.0".to_owned(),
            commit: "abc".to_owned(),
            build_date: "2026-11-18T00:00:00Z".to_owned(),
        },
        workers: 1,
        limits: Limits::default(),
    }
}
