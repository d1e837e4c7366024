//! The clients: what they ask for, and what they do about an answer or a lost connection.

use std::collections::BTreeMap;

use types::{ErrorCode, Generation, IdempotencyKey, OnNodeLoss, SandboxId, Status, WarrenError};
use warren_core::lifecycle::{Answer, Ticket};

use crate::fake_engine::IMPOSSIBLE_IMAGE;
use crate::rng::Rng;

/// The template that the pool is kept for.
pub const TEMPLATE_IMAGE: &str = "python";

/// An image without a pool.
pub(crate) const OTHER_IMAGE: &str = "busybox";

/// Ids and keys that the clients remember.
const REMEMBERED_MAX: usize = 24;

/// Microseconds after which a client waits no longer. Shorter than the slowest create, so that retries meet creates
/// that are still under way.
const PATIENCE_US: u64 = 20_000_000;

/// What an image's name stands for, while the template's is of this version.
#[must_use]
pub fn image_id(image: &str, version: u64) -> String {
    if image == TEMPLATE_IMAGE { format!("{image}:{version}") } else { format!("{image}:1") }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Make a sandbox.
    Create(Create),
    /// Show one.
    Get(SandboxId),
    /// List them.
    List,
    /// End one.
    Destroy(SandboxId),
    /// Stop one.
    Stop(SandboxId),
    /// Start one.
    Start(SandboxId),
    /// Run a command in one.
    Exec(SandboxId),
    /// A leader's: take one over from a lost node that has it in this generation.
    TakeOver(SandboxId, Generation),
}

/// What a create asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    /// Makes a retry safe.
    pub key: Option<IdempotencyKey>,
    /// Image reference.
    pub image: &'static str,
    /// Milliseconds that it is to live.
    pub lifetime_ms: Option<u64>,
    /// What becomes of it when its node is lost.
    pub on_node_loss: OnNodeLoss,
}

impl Op {
    /// The sandbox that it names.
    #[must_use]
    pub fn target(&self) -> Option<SandboxId> {
        match self {
            Self::Create(_) | Self::List | Self::TakeOver(..) => None,
            Self::Get(id) | Self::Destroy(id) | Self::Stop(id) | Self::Start(id) | Self::Exec(id) => Some(*id),
        }
    }
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Create(Create { key, image, lifetime_ms, on_node_loss }) => {
                write!(f, "create of {image}, {on_node_loss:?}")?;
                if let Some(key) = key {
                    write!(f, ", key {} body {}", key.scope[0], key.digest[0])?;
                }
                match lifetime_ms {
                    Some(ms) => write!(f, ", to live {ms} ms"),
                    None => Ok(()),
                }
            }
            Self::Get(id) => write!(f, "get {id}"),
            Self::List => f.write_str("list"),
            Self::Destroy(id) => write!(f, "destroy {id}"),
            Self::Stop(id) => write!(f, "stop {id}"),
            Self::Start(id) => write!(f, "start {id}"),
            Self::Exec(id) => write!(f, "exec in {id}"),
            Self::TakeOver(id, generation) => write!(f, "take {id} over from generation {generation}"),
        }
    }
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// How a change ended.
    Done(Result<Answer, WarrenError>),
    /// What a sandbox is seen to be; `None` for 404.
    Shown(Option<Status>),
    /// All sandboxes, newest first.
    Listed(Vec<SandboxId>),
    /// Whether a command was run.
    Ran(bool),
    /// It is out of the map, and is killed when its node is back.
    Destroying,
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done(Ok(answer)) => write!(f, "{answer:?}"),
            Self::Done(Err(error)) => write!(f, "{}: {}", error.code.as_str(), error.message),
            Self::Shown(Some(status)) => f.write_str(status.as_str()),
            Self::Shown(None) => f.write_str("not_found"),
            Self::Listed(ids) => write!(f, "{} sandboxes", ids.len()),
            Self::Destroying => f.write_str("destroying"),
            Self::Ran(ran) => write!(f, "{}", if *ran { "ran" } else { "did not run" }),
        }
    }
}

/// A request on its way.
#[derive(Debug, Clone)]
pub struct Pending {
    /// What was asked.
    pub op: Op,
    /// Who waits; `None` for a repetition that nobody looks at.
    pub client: Option<usize>,
}

/// What is to be sent, and when.
#[derive(Debug)]
pub struct Send {
    /// Microseconds from now.
    pub delay_us: u64,
    /// Names it.
    pub ticket: Ticket,
    /// What.
    pub op: Op,
    /// The client that waits, and for how long.
    pub waits: Option<u64>,
}

/// All clients of one run.
#[derive(Debug, Default)]
pub struct Clients {
    /// Requests that were sent and not yet answered.
    pub pending: BTreeMap<Ticket, Pending>,
    ids: Vec<SandboxId>,
    keys: Vec<Create>,
    next_key: u64,
    next_ticket: u64,
    /// What a client asks next because its last request was lost.
    again: BTreeMap<usize, Op>,
}

impl Clients {
    /// A client's next request, and at times the same request again close behind.
    pub fn turn(&mut self, client: usize, rng: &mut Rng) -> Vec<Send> {
        let op = match self.again.remove(&client) {
            Some(op) => op,
            None => self.choose(rng),
        };
        let mut sends = vec![self.send(op.clone(), Some(client), 0)];
        if matches!(&op, Op::Create(create) if create.key.is_some()) && rng.chance(350_000) {
            let delay_us = rng.below(6_000);
            sends.push(self.send(op, None, delay_us));
        }
        sends
    }

    /// One request that a client makes.
    pub fn send(&mut self, op: Op, client: Option<usize>, delay_us: u64) -> Send {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.pending.insert(ticket, Pending { op: op.clone(), client });
        Send { delay_us, ticket, op, waits: client.is_some().then_some(PATIENCE_US) }
    }

    fn choose(&mut self, rng: &mut Rng) -> Op {
        let roll = rng.below(100);
        let id = rng.pick(&self.ids).copied();
        match (roll, id) {
            (0..=19, _) => Op::Create(Create { key: None, ..self.fresh_create(rng) }),
            (20..=37, _) => {
                let create = self.fresh_create(rng);
                remember(&mut self.keys, create.clone());
                Op::Create(create)
            }
            (38..=45, _) => match rng.pick(&self.keys).cloned() {
                Some(known) => Op::Create(known),
                None => Op::List,
            },
            (46..=48, _) => match rng.pick(&self.keys).cloned() {
                Some(known) => Op::Create(Self::other_body(known)),
                None => Op::List,
            },
            (49..=53, _) | (_, None) => Op::List,
            (54..=62, Some(id)) => Op::Get(id),
            (63..=72, Some(id)) => Op::Destroy(id),
            (73..=80, Some(id)) => Op::Stop(id),
            (81..=88, Some(id)) => Op::Start(id),
            (_, Some(id)) => Op::Exec(id),
        }
    }

    fn other_body(known: Create) -> Create {
        let key = known.key.map(|key| IdempotencyKey { digest: [key.digest[0] ^ 1; 32], ..key });
        Create { key, ..known }
    }

    fn fresh_create(&mut self, rng: &mut Rng) -> Create {
        self.next_key += 1;
        let mut scope = [0; 32];
        scope[..8].copy_from_slice(&self.next_key.to_le_bytes());
        let image = match rng.below(100) {
            0..=79 => TEMPLATE_IMAGE,
            80..=94 => OTHER_IMAGE,
            _ => IMPOSSIBLE_IMAGE,
        };
        let lifetime_ms = if rng.chance(200_000) { None } else { Some(rng.between(200, 40_000)) };
        let on_node_loss = *rng
            .pick(&[OnNodeLoss::Wait, OnNodeLoss::Restart, OnNodeLoss::Restart, OnNodeLoss::Fail])
            .unwrap_or(&OnNodeLoss::Wait);
        Create { key: Some(IdempotencyKey { scope, digest: [2; 32] }), image, lifetime_ms, on_node_loss }
    }

    /// An answer arrives; the client that waited for it, if any does.
    pub fn answered(&mut self, ticket: Ticket, reply: &Reply, rng: &mut Rng) -> Option<usize> {
        let pending = self.pending.remove(&ticket)?;
        match reply {
            Reply::Done(Ok(Answer::Created(id))) => remember(&mut self.ids, *id),
            Reply::Listed(ids) => ids.iter().take(3).for_each(|id| remember(&mut self.ids, *id)),
            Reply::Done(Err(error))
                if matches!(error.code, ErrorCode::Unavailable | ErrorCode::Interrupted | ErrorCode::NoQuorum) =>
            {
                self.maybe_again(&pending, rng);
            }
            _ => {}
        }
        pending.client
    }

    /// The connection of a request is lost, or its client waits no longer: whether it happened is unknown to it.
    pub fn lost(&mut self, ticket: Ticket, rng: &mut Rng) -> Option<usize> {
        let pending = self.pending.remove(&ticket)?;
        self.maybe_again(&pending, rng);
        pending.client
    }

    /// A client waits no longer; its request is still on its way.
    pub fn gives_up(&mut self, ticket: Ticket, rng: &mut Rng) -> Option<usize> {
        let pending = self.pending.get_mut(&ticket)?;
        let client = pending.client.take()?;
        let again = Pending { op: pending.op.clone(), client: Some(client) };
        self.maybe_again(&again, rng);
        Some(client)
    }

    fn maybe_again(&mut self, pending: &Pending, rng: &mut Rng) {
        let repeats = rng.chance(600_000);
        if let (Some(client), true) = (pending.client, repeats) {
            self.again.insert(client, pending.op.clone());
        }
    }
}

fn remember<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
        if list.len() > REMEMBERED_MAX {
            list.remove(0);
        }
    }
}
