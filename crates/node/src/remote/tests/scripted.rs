//! Operations that answer from a script, and two nodes of one cluster inside this process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use front_door::{ByteRange, Consistency, Deleted, Download, ListFilter, Operations, SandboxPage, UploadStream};
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use peers::{Authority, Caller, CallerConfig, Incoming, Listener, ListenerConfig, NodeTls, Peer, Security};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet, LocalSet, spawn_local};
use types::node::{NodeHealth, NodeInfo};
use types::{
    ClusterId, CreateRequest, ErrorCode, ExecOutcome, ExecRequest, FileEntry, FileKind, Generation, HostId,
    NetworkMode, Resources, Sandbox, SandboxId, Status, Timestamp, WarrenError,
};

use crate::answer_calls::{Placed, answer};
use crate::doorway::Doorway;
use crate::remote::Remote;
use crate::take_over::TakesOver;

pub const MIB: usize = 1 << 20;
pub const GENERATION: Generation = Generation(3);

/// Longest wait for anything here; reaching it fails the test.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn id() -> SandboxId {
    SandboxId::from_entropy([5; 20])
}

pub async fn soon<F: Future>(what: &str, wait: F) -> F::Output {
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

pub async fn until(what: &str, is: impl Fn() -> bool) {
    soon(what, async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub fn local<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(LocalSet::new().run_until(test))
}

/// What the owner was asked, and what it is to say.
#[derive(Default)]
pub struct Scripted {
    /// Every call that came, in words.
    pub asked: Mutex<Vec<String>>,
    pub creates: Mutex<Vec<CreateRequest>>,
    pub execs: Mutex<Vec<ExecRequest>>,
    pub outcome: Mutex<ExecOutcome>,
    pub refuse_with: Mutex<Option<WarrenError>>,
    pub deleted: Mutex<Option<Deleted>>,
    pub entries: Mutex<Vec<FileEntry>>,
    /// Bytes that downloads have given out, and those that uploads have taken in.
    pub given: AtomicU64,
    pub taken: AtomicU64,
    /// Uploads that were whole, and those that broke off in an error.
    pub written: AtomicU64,
    pub broken: AtomicU64,
    /// Lets uploads to `/slow` begin to read.
    pub go_on: Notify,
    /// What never ends tells here that it began, and that it was dropped.
    pub began: AtomicU64,
    pub dropped: AtomicU64,
}

struct TellsOfItsDrop(Arc<Scripted>);

impl Drop for TellsOfItsDrop {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// The operations of the node that owns the sandbox.
pub struct Owner(pub Arc<Scripted>);

impl Owner {
    fn ask(&self, what: String) -> Result<(), WarrenError> {
        self.0.asked.lock().push(what);
        self.0.refuse_with.lock().clone().map_or(Ok(()), Err)
    }

    fn begin(&self) -> TellsOfItsDrop {
        self.0.began.fetch_add(1, Ordering::Relaxed);
        TellsOfItsDrop(Arc::clone(&self.0))
    }
}

pub fn entry(path: &str, size: u64) -> FileEntry {
    FileEntry {
        name: path.rsplit('/').next().unwrap_or_default().to_owned(),
        path: path.to_owned(),
        size,
        mode: 0o4755,
        modified: Timestamp(1_795_000_123_456),
        kind: FileKind::Symlink,
        symlink_target: Some("/t".to_owned()),
        uid: 1000,
        gid: 1001,
    }
}

pub fn sandbox() -> Sandbox {
    Sandbox {
        id: id(),
        image: "default".to_owned(),
        status: Status::Running,
        created_at: Timestamp(1_795_000_123_456),
        expires_at: Some(Timestamp(1_795_000_200_000)),
        node: HostId::new("h2"),
        generation: GENERATION,
        labels: [("a".to_owned(), "b".to_owned())].into(),
        template: None,
        name: Some("n".to_owned()),
        resources: Resources { cpu: 1_000_000_000, memory: 1 << 29, disk: 0, pids: 256 },
        network_mode: NetworkMode::Internet,
        runtime: "runc".to_owned(),
        error: None,
    }
}

/// The byte at each offset of a large body.
pub fn pattern(part: usize) -> Bytes {
    Bytes::from((0..MIB).map(|index| (index + part * 7) as u8).collect::<Vec<_>>())
}

impl TakesOver for Owner {
    async fn take_over(&self, id: SandboxId, generation: Generation) -> Result<(), WarrenError> {
        self.ask(format!("take_over {id} {generation}"))
    }
}

impl Operations for Owner {
    fn health(&self) -> NodeHealth {
        NodeHealth {
            cluster: ClusterId::new("c"),
            node: HostId::new("h2"),
            leader: None,
            quorum: true,
            voters: Vec::new(),
            unhealthy: None,
        }
    }

    async fn nodes(&self, _: Consistency) -> Result<Vec<NodeInfo>, WarrenError> {
        unreachable!("a node is asked for its own view only")
    }

    async fn node(&self, _: &str, _: Consistency) -> Result<NodeInfo, WarrenError> {
        unreachable!("a node is asked for its own view only")
    }

    async fn create(&self, request: CreateRequest) -> Result<Sandbox, WarrenError> {
        self.ask("create".to_owned())?;
        self.0.creates.lock().push(request);
        Ok(sandbox())
    }

    async fn get(&self, _id: SandboxId, _consistency: Consistency) -> Result<Sandbox, WarrenError> {
        panic!("a read is answered by whoever is asked")
    }

    async fn list(&self, _filter: ListFilter, _consistency: Consistency) -> Result<SandboxPage, WarrenError> {
        panic!("a list is answered by whoever is asked")
    }

    async fn delete(&self, id: SandboxId) -> Result<Deleted, WarrenError> {
        self.ask(format!("delete {id}"))?;
        Ok(self.0.deleted.lock().unwrap_or(Deleted::Done))
    }

    async fn stop(&self, id: SandboxId) -> Result<Status, WarrenError> {
        self.ask(format!("stop {id}")).map(|()| Status::Stopped)
    }

    async fn start(&self, id: SandboxId) -> Result<Status, WarrenError> {
        self.ask(format!("start {id}")).map(|()| Status::Running)
    }

    async fn exec(&self, id: SandboxId, request: ExecRequest) -> Result<ExecOutcome, WarrenError> {
        self.ask(format!("exec {id}"))?;
        if request.cmd == ["hang"] {
            let _tells = self.begin();
            std::future::pending::<()>().await;
        }
        self.0.execs.lock().push(request);
        Ok(self.0.outcome.lock().clone())
    }

    async fn read_file(&self, id: SandboxId, path: &str, range: Option<ByteRange>) -> Result<Download, WarrenError> {
        self.ask(format!("read_file {id} {path} {range:?}"))?;
        let tells = self.begin();
        // The path says how many MiB there are, and what follows them.
        let mut words = path.trim_start_matches('/').split('-');
        let parts: usize = words.next().and_then(|size| size.parse().ok()).unwrap();
        let bytes = stream::iter(0..parts).map(move |part| {
            tells.0.given.fetch_add(MIB as u64, Ordering::Relaxed);
            Ok(pattern(part))
        });
        let body = match words.next() {
            Some("fails") => {
                let error = WarrenError::new(ErrorCode::NoSpace, "broken").with("offset", 9);
                bytes.chain(stream::iter([Err(error)])).boxed_local()
            }
            Some("hangs") => bytes.chain(stream::pending()).boxed_local(),
            _ => bytes.boxed_local(),
        };
        Ok(Download { entry: entry(path, (parts * MIB) as u64), body })
    }

    async fn write_file(&self, id: SandboxId, path: &str, mut body: UploadStream) -> Result<(), WarrenError> {
        self.ask(format!("write_file {id} {path}"))?;
        let _tells = self.begin();
        if path == "/slow" {
            self.0.go_on.notified().await;
        }
        while let Some(part) = body.next().await {
            let Ok(part) = part else {
                self.0.broken.fetch_add(1, Ordering::Relaxed);
                return Err(WarrenError::new(ErrorCode::BadRequest, "cut off"));
            };
            let offset = self.0.taken.fetch_add(part.len() as u64, Ordering::Relaxed) as usize;
            for (index, byte) in part.iter().enumerate() {
                let (mebibyte, within) = ((offset + index) / MIB, (offset + index) % MIB);
                assert_eq!(*byte, (within + mebibyte * 7) as u8, "byte {}", offset + index);
            }
        }
        self.0.written.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn list_files(&self, id: SandboxId, path: &str) -> Result<Vec<FileEntry>, WarrenError> {
        self.ask(format!("list_files {id} {path}"))?;
        Ok(self.0.entries.lock().clone())
    }

    async fn stat_file(&self, id: SandboxId, path: &str) -> Result<FileEntry, WarrenError> {
        self.ask(format!("stat_file {id} {path}")).map(|()| entry(path, 5))
    }

    async fn mkdir(&self, id: SandboxId, path: &str) -> Result<(), WarrenError> {
        self.ask(format!("mkdir {id} {path}"))
    }

    async fn remove_file(&self, id: SandboxId, path: &str) -> Result<(), WarrenError> {
        self.ask(format!("remove_file {id} {path}"))
    }
}

/// A caller and the owner that it calls, over TLS on loopback.
pub struct Pair {
    pub script: Arc<Scripted>,
    pub caller: Caller,
    pub remote: Remote,
    pub placed: Arc<Mutex<Placed>>,
    pub doorway: Arc<Doorway>,
    owner: JoinHandle<()>,
}

impl Pair {
    pub async fn new() -> Self {
        let authority = Authority::create(&ClusterId::new("c1")).unwrap();
        let member = |name: &str| Security::tls(NodeTls::fresh(&authority, &HostId::new(name)).unwrap().0);
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut listener = Listener::bind(anywhere, member("h2"), ListenerConfig::default()).await.unwrap();
        let peer = Peer::new(&member("h1"), HostId::new("h2"), listener.local_address().to_string());
        let script = Arc::new(Scripted::default());
        let operations = Arc::new(Owner(Arc::clone(&script)));
        let placed = Arc::new(Mutex::new(Placed::Here(GENERATION)));
        let seen = Arc::clone(&placed);
        let doorway = Arc::<Doorway>::default();
        let shared = Arc::clone(&doorway);
        let owner = spawn_local(async move {
            let mut connections = JoinSet::new();
            loop {
                let Incoming::Call(calls) = listener.accept().await else { panic!("only calls come here") };
                let seen = Arc::clone(&seen);
                let doorway = Arc::clone(&shared);
                connections.spawn_local(answer(calls, Arc::clone(&operations), doorway, move |_| seen.lock().clone()));
            }
        });
        let caller = Caller::new(peer, CallerConfig::default());
        Self { script, remote: Remote::new(caller.clone()), caller, placed, doorway, owner }
    }

    /// As if the owner's process died: nobody listens, every connection is closed.
    pub async fn kill_owner(&mut self) {
        self.owner.abort();
        drop(soon("the owner's end", &mut self.owner).await);
    }

    pub fn began(&self) -> u64 {
        self.script.began.load(Ordering::Relaxed)
    }

    pub fn dropped(&self) -> u64 {
        self.script.dropped.load(Ordering::Relaxed)
    }
}

/// Parts of an upload, counted as they are taken.
pub fn parts(count: usize, taken: Arc<AtomicU64>) -> UploadStream {
    Box::pin(stream::iter(0..count).map(move |part| {
        taken.fetch_add(MIB as u64, Ordering::Relaxed);
        Ok(pattern(part))
    }))
}
