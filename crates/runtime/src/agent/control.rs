//! The client, and the calls that concern the agent itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proto::agent::agent_frame::Frame;
use proto::agent::request::Operation;
use proto::agent::{Activate, Done, EnvVar, Hello, Reserve, SandboxState};
use proto::agent_limits::{PROTOCOL_DISTANCE_MAX, PROTOCOL_VERSION};
use tokio::time::Instant;

use super::address::AgentAddress;
use super::connection::{Connection, REPLY_TIMEOUT, frame_name, within};
use super::error::AgentError;
use super::warden;

/// Longest id or digest taken from an agent.
const IDENTITY_BYTES_MAX: usize = 256;

/// First and longest pause between two looks for an agent that is starting.
const READY_PAUSE_MIN: Duration = Duration::from_micros(500);
const READY_PAUSE_MAX: Duration = Duration::from_millis(10);

/// The client of one sandbox's agent. It holds no connection: each call makes its own.
#[derive(Clone, Debug)]
pub struct AgentClient {
    pub(super) address: AgentAddress,
    pub(super) farewell: Farewell,
}

/// Said when this process ends in good order: calls that are cut off from then on are not given up
/// by anybody, so they cancel nothing, just as if the process had been killed.
#[derive(Clone, Debug, Default)]
pub struct Farewell(Arc<AtomicBool>);

impl Farewell {
    /// Says it.
    pub fn say(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was said.
    pub fn said(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// How far an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentStage {
    /// In a pristine slot.
    Bare,
    /// Prepared for a sandbox; no user code may run.
    Reserved,
    /// User code may run.
    Active,
}

/// What an agent says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentStatus {
    /// Version of the protocol.
    pub protocol_version: u32,
    /// Version of the agent's build.
    pub agent_version: String,
    /// How far it is.
    pub stage: AgentStage,
    /// Whom it serves, unless it is bare.
    pub identity: Option<Identity>,
    /// How it stands with the node's lease.
    pub lease: LeaseStatus,
}

/// How an agent stands with the node's lease. All unset where its sandbox is not leased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseStatus {
    /// Calls are refused now.
    pub expired: bool,
    /// How often the lease ran out while the sandbox was active, since its agent began: each time all that ran in it was
    /// killed.
    pub lapses: u64,
    /// When that was last, in milliseconds of CLOCK_BOOTTIME.
    pub last_lapse_boottime_ms: Option<u64>,
}

/// Which sandbox an agent serves, and which placement of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The sandbox's id.
    pub sandbox_id: String,
    /// The placement's generation; positive.
    pub generation: u64,
    /// Digest of the spec that it runs.
    pub spec_digest: Vec<u8>,
    /// The sandbox may be placed again: its agent ends its processes and refuses calls once the node's lease has run out.
    pub leased: bool,
}

/// What every command of a sandbox starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activation {
    /// Environment of the image and the spec.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Directory in which commands start; `/` if there is none.
    pub workdir: Option<String>,
    /// User that the spec names.
    pub user: Option<String>,
    /// USER of the image; taken if the spec names none, and if it is not root.
    pub image_user: Option<String>,
    /// Whether commands may ask for root.
    pub allow_root: bool,
}

impl AgentClient {
    /// A client for the agent at this address.
    pub fn new(address: AgentAddress) -> Self {
        Self { address, farewell: Farewell::default() }
    }

    /// The same client, whose commands outlive this process once the farewell is said.
    #[must_use]
    pub fn with_farewell(mut self, farewell: Farewell) -> Self {
        self.farewell = farewell;
        self
    }

    /// Where the agent is.
    pub fn address(&self) -> &AgentAddress {
        &self.address
    }

    /// Asks the agent who it is. An answer is the sign of life; a connection alone is not.
    pub async fn hello(&self) -> Result<AgentStatus, AgentError> {
        let mut connection = Connection::open(&self.address, 0, Operation::Hello(Hello {})).await?;
        let reply = match connection.receive_within(REPLY_TIMEOUT).await? {
            Frame::Hello(reply) => reply,
            other => return Err(AgentError::unexpected(frame_name(&other))),
        };
        let stage = match reply.state() {
            SandboxState::Bare => AgentStage::Bare,
            SandboxState::Reserved => AgentStage::Reserved,
            SandboxState::Active => AgentStage::Active,
            SandboxState::Unspecified => return Err(AgentError::Protocol("an unknown state".into())),
        };
        if [reply.sandbox_id.len(), reply.spec_digest.len(), reply.agent_version.len()]
            .into_iter()
            .any(|length| length > IDENTITY_BYTES_MAX)
        {
            return Err(AgentError::Protocol("an identity that is too long".into()));
        }
        if reply.protocol_version.abs_diff(PROTOCOL_VERSION) > PROTOCOL_DISTANCE_MAX {
            let theirs = reply.protocol_version;
            return Err(AgentError::Protocol(format!("it speaks version {theirs}, this node {PROTOCOL_VERSION}")));
        }
        if reply.warden_pid != 0 {
            // Another one, perhaps, than when it was activated.
            warden::favour(&self.address, reply.warden_pid);
        }
        let lease = LeaseStatus {
            expired: reply.lease_expired,
            lapses: reply.lease_lapses,
            last_lapse_boottime_ms: Some(reply.last_lapse_boottime_ms).filter(|at| *at != 0),
        };
        let identity = (stage != AgentStage::Bare).then_some(Identity {
            sandbox_id: reply.sandbox_id,
            generation: reply.generation,
            spec_digest: reply.spec_digest,
            leased: reply.leased,
        });
        Ok(AgentStatus {
            protocol_version: reply.protocol_version,
            agent_version: reply.agent_version,
            stage,
            identity,
            lease,
        })
    }

    /// Waits until an agent that is starting answers. Only what may still come is waited for: an agent that is not
    /// ours, or that breaks the protocol, is an error at once.
    pub async fn wait_ready(&self, deadline: Instant) -> Result<AgentStatus, AgentError> {
        let mut pause = READY_PAUSE_MIN;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match within(left, self.hello()).await {
                Err(error @ (AgentError::Unreachable(_) | AgentError::Interrupted)) => {
                    if deadline.saturating_duration_since(Instant::now()).is_zero() {
                        return Err(error);
                    }
                }
                other => return other,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(READY_PAUSE_MAX);
        }
    }

    /// Ties a bare agent to a sandbox. The same again succeeds. `LeaseUnknown`: the agent is too old for a leased
    /// sandbox; it is reserved all the same, so its slot is of no use any more.
    pub async fn reserve(&self, identity: &Identity) -> Result<(), AgentError> {
        let reserve = Reserve {
            sandbox_id: identity.sandbox_id.clone(),
            spec_digest: identity.spec_digest.clone(),
            leased: identity.leased,
        };
        let done = self.simple(identity.generation, Operation::Reserve(reserve), REPLY_TIMEOUT).await?;
        keeps_lease(done, identity)
    }

    /// Lets user code run. The same again succeeds, and changes nothing. It succeeds without a lease as well: what user
    /// code would run is refused for itself.
    pub async fn activate(&self, identity: &Identity, activation: Activation) -> Result<(), AgentError> {
        let activate = Activate {
            spec_digest: identity.spec_digest.clone(),
            env: env_vars(activation.env),
            workdir: activation.workdir.unwrap_or_default(),
            user: activation.user.unwrap_or_default(),
            image_user: activation.image_user.unwrap_or_default(),
            allow_root: activation.allow_root,
            leased: identity.leased,
        };
        let done = self.simple(identity.generation, Operation::Activate(activate), REPLY_TIMEOUT).await?;
        if done.warden_pid != 0 {
            warden::favour(&self.address, done.warden_pid);
        }
        keeps_lease(done, identity)
    }

    /// An operation that is answered by Done alone.
    pub(super) async fn simple(
        &self,
        generation: u64,
        operation: Operation,
        timeout: Duration,
    ) -> Result<Done, AgentError> {
        let mut connection = Connection::open(&self.address, generation, operation).await?;
        match connection.receive_within(timeout).await? {
            Frame::Done(done) => Ok(done),
            other => Err(AgentError::unexpected(frame_name(&other))),
        }
    }
}

/// An agent that was told of a lease and does not say that it keeps to it never heard: it is of the protocol before.
fn keeps_lease(done: Done, identity: &Identity) -> Result<(), AgentError> {
    if identity.leased && !done.leased { Err(AgentError::LeaseUnknown) } else { Ok(()) }
}

/// An environment as it travels.
pub(super) fn env_vars(env: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<EnvVar> {
    env.into_iter().map(|(name, value)| EnvVar { name, value }).collect()
}
