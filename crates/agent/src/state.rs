//! Which sandbox the agent serves: bare, reserved, active. Values in, values out; no system call.

use proto::agent::{Activate, Done, EnvVar, HelloReply, Reserve, SandboxState};
use proto::agent_limits::PROTOCOL_VERSION;

use crate::refusal::Refusal;
use crate::users::Database;

/// Longest sandbox id and spec digest taken: both are ours, so anything longer is a mistake.
const IDENTITY_BYTES_MAX: usize = 256;

/// The sandbox that the agent was given to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    sandbox_id: String,
    generation: u64,
    spec_digest: Vec<u8>,
    leased: bool,
}

/// Names and values of an environment; neither holds NUL, names no `=`.
pub type Env = Vec<(Vec<u8>, Vec<u8>)>;

/// What every command starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Environment of the spec and the image.
    pub env: Env,
    /// Directory a command starts in.
    pub workdir: String,
    /// Who the spec says the sandbox's user is; may be empty.
    pub user: String,
    /// Who the image says it is; may be empty.
    pub image_user: String,
    /// Whether the template lets commands run as root.
    pub allow_root: bool,
}

/// The agent's state. It only ever moves forward: a used agent dies with its container.
#[derive(Debug)]
pub enum State {
    /// A pristine slot.
    Bare,
    /// Prepared, but the placement is not known to be committed.
    Reserved(Identity),
    /// User code may run.
    Active(Identity, Defaults),
}

impl State {
    /// Answers Hello.
    pub fn hello(&self) -> HelloReply {
        let (state, identity) = match self {
            State::Bare => (SandboxState::Bare, None),
            State::Reserved(identity) => (SandboxState::Reserved, Some(identity)),
            State::Active(identity, _) => (SandboxState::Active, Some(identity)),
        };
        HelloReply {
            protocol_version: PROTOCOL_VERSION,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            state: state.into(),
            sandbox_id: identity.map(|i| i.sandbox_id.clone()).unwrap_or_default(),
            generation: identity.map_or(0, |i| i.generation),
            spec_digest: identity.map(|i| i.spec_digest.clone()).unwrap_or_default(),
            leased: identity.is_some_and(|i| i.leased),
            ..HelloReply::default()
        }
    }

    /// Whether user code may run, but only under the node's lease.
    pub fn is_active_and_leased(&self) -> bool {
        matches!(self, State::Active(Identity { leased: true, .. }, _))
    }

    /// What Reserve and Activate are answered with.
    pub fn done(&self) -> Done {
        match self {
            State::Bare => Done::default(),
            State::Reserved(identity) | State::Active(identity, _) => {
                Done { leased: identity.leased, ..Done::default() }
            }
        }
    }

    /// Ties a bare agent to a sandbox; the same again changes nothing.
    pub fn reserve(&mut self, generation: u64, request: Reserve) -> Result<(), Refusal> {
        if generation == 0 {
            return Err(Refusal::invalid("generation", "must be positive"));
        }
        if request.sandbox_id.is_empty() || request.sandbox_id.len() > IDENTITY_BYTES_MAX {
            return Err(Refusal::invalid("sandbox_id", "empty or too long"));
        }
        if request.spec_digest.len() > IDENTITY_BYTES_MAX {
            return Err(Refusal::invalid("spec_digest", "too long"));
        }
        let Reserve { sandbox_id, spec_digest, leased } = request;
        let wanted = Identity { sandbox_id, generation, spec_digest, leased };
        match self {
            State::Bare => {
                *self = State::Reserved(wanted);
                Ok(())
            }
            State::Reserved(held) | State::Active(held, _) => held.agrees(&wanted),
        }
    }

    /// Lets user code run; the same again changes nothing. True if this call did it.
    pub fn activate(&mut self, generation: u64, request: Activate) -> Result<bool, Refusal> {
        match self {
            State::Bare => Err(Refusal::not_active("the agent is not reserved for a sandbox")),
            State::Active(held, _) => held.agrees_on(generation, &request.spec_digest, request.leased).map(|()| false),
            State::Reserved(held) => {
                held.agrees_on(generation, &request.spec_digest, request.leased)?;
                let defaults = Defaults {
                    env: env_pairs(request.env)?,
                    workdir: request.workdir,
                    user: request.user,
                    image_user: request.image_user,
                    allow_root: request.allow_root,
                };
                if !defaults.workdir.is_empty() && !defaults.workdir.starts_with('/') {
                    return Err(Refusal::invalid("workdir", "must be absolute"));
                }
                // Told now rather than at every command.
                Database::load().resolve("", &defaults)?;
                *self = State::Active(held.clone(), defaults);
                Ok(true)
            }
        }
    }

    /// The defaults, if user code may run for this generation.
    pub fn serving(&self, generation: u64) -> Result<&Defaults, Refusal> {
        match self {
            State::Active(held, defaults) if held.generation == generation => Ok(defaults),
            State::Active(held, _) => Err(Refusal::stale(generation, held.generation)),
            State::Bare | State::Reserved(_) => Err(Refusal::not_active("the sandbox is not active")),
        }
    }
}

impl Identity {
    fn agrees(&self, wanted: &Identity) -> Result<(), Refusal> {
        if self.sandbox_id != wanted.sandbox_id {
            return Err(Refusal::conflict("reserved for another sandbox"));
        }
        self.agrees_on(wanted.generation, &wanted.spec_digest, wanted.leased)
    }

    fn agrees_on(&self, generation: u64, spec_digest: &[u8], leased: bool) -> Result<(), Refusal> {
        if generation < self.generation {
            return Err(Refusal::stale(generation, self.generation));
        }
        // A later generation gets a fresh agent: what ran here must not be taken for what was asked for there.
        if generation > self.generation {
            return Err(Refusal::conflict("reserved for an earlier generation"));
        }
        if spec_digest != self.spec_digest {
            return Err(Refusal::conflict("reserved for another spec"));
        }
        if leased != self.leased {
            return Err(Refusal::conflict("reserved with another word about the lease"));
        }
        Ok(())
    }
}

/// Checks names and values of an environment.
pub fn env_pairs(env: Vec<EnvVar>) -> Result<Env, Refusal> {
    env.into_iter()
        .map(|EnvVar { name, value }| {
            if name.is_empty() || name.contains(&b'=') || name.contains(&0) || value.contains(&0) {
                return Err(Refusal::invalid("env", "a name is empty, or holds `=` or NUL, or a value holds NUL"));
            }
            Ok((name, value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proto::agent::ErrorCode;

    use super::*;

    fn reserve(id: &str, digest: &[u8]) -> Reserve {
        Reserve { sandbox_id: id.into(), spec_digest: digest.into(), leased: false }
    }

    fn activate(digest: &[u8]) -> Activate {
        Activate { spec_digest: digest.into(), ..Activate::default() }
    }

    fn code<T: std::fmt::Debug>(result: Result<T, Refusal>) -> ErrorCode {
        result.expect_err("must be refused").code
    }

    #[test]
    fn only_the_same_reservation_is_taken_twice() {
        let mut state = State::Bare;
        assert_eq!(code(state.reserve(0, reserve("a", b"d"))), ErrorCode::Invalid);
        state.reserve(7, reserve("a", b"d")).unwrap();
        state.reserve(7, reserve("a", b"d")).unwrap();
        for (generation, id, digest, expected) in [
            (6, "a", b"d", ErrorCode::StaleGeneration),
            (8, "a", b"d", ErrorCode::Conflict),
            (7, "b", b"d", ErrorCode::Conflict),
            (7, "a", b"e", ErrorCode::Conflict),
        ] {
            assert_eq!(code(state.reserve(generation, reserve(id, digest))), expected, "{generation} {id}");
        }
        let leased = Reserve { leased: true, ..reserve("a", b"d") };
        assert_eq!(code(state.reserve(7, leased)), ErrorCode::Conflict);
        assert_eq!(state.hello().generation, 7);
        assert_eq!(state.hello().state(), SandboxState::Reserved);
    }

    #[test]
    fn user_code_runs_only_after_activation_and_only_for_its_generation() {
        let mut state = State::Bare;
        assert_eq!(code(state.activate(7, activate(b"d"))), ErrorCode::NotActive);
        state.reserve(7, reserve("a", b"d")).unwrap();
        assert_eq!(code(state.serving(7)), ErrorCode::NotActive);
        assert_eq!(code(state.activate(6, activate(b"d"))), ErrorCode::StaleGeneration);
        assert_eq!(code(state.activate(7, activate(b"e"))), ErrorCode::Conflict);
        assert_eq!(code(state.activate(7, Activate { leased: true, ..activate(b"d") })), ErrorCode::Conflict);
        assert!(state.activate(7, activate(b"d")).unwrap());
        assert!(!state.activate(7, activate(b"d")).unwrap());
        state.reserve(7, reserve("a", b"d")).unwrap();
        state.serving(7).unwrap();
        assert_eq!(code(state.serving(6)), ErrorCode::StaleGeneration);
        assert_eq!(code(state.serving(8)), ErrorCode::StaleGeneration);
    }
}
