//! Carries out steps on containers and their agents. It decides nothing; what went wrong is turned
//! into words that a client can act on, and the rest is logged.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use runtime::agent::{Activation, AgentClient, AgentError, AgentStage, AgentStatus, Farewell, Identity, RefusalCode};
use runtime::slot::StopError;
use runtime::{Engine, ImageFacts, MakeSlotError, Slot, SlotOrder};
use types::{ErrorCode, Generation, Resources, SandboxId, SandboxSpec, WarrenError};
use warren_core::step::{AgentState, Charge, Examined, Step, StepKind, StepResult, step_error};

use crate::hub::Hub;
use crate::kill_point;
use crate::ledger::Ledger;
use crate::seal::SecretsKey;

/// Time that a sandbox's processes get between SIGTERM and SIGKILL when it is stopped.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Images whose facts are remembered. An image id names its content, so a fact never gets old.
const IMAGES_REMEMBERED_MAX: usize = 1_024;

/// The running containers of this node, by id: what an exec needs, without asking anybody.
#[derive(Default)]
pub struct Slots {
    held: RwLock<HashMap<SandboxId, Held>>,
    farewell: Farewell,
}

struct Held {
    slot: Slot,
    /// Limits in force, so that a claim writes only what differs.
    limits: Resources,
}

impl Slots {
    /// A client of the agent in this slot.
    pub fn agent(&self, id: &SandboxId) -> Option<AgentClient> {
        self.held.read().get(id).map(|held| held.slot.agent().with_farewell(self.farewell.clone()))
    }

    /// This process ends in good order: commands under way live on.
    pub fn say_farewell(&self) {
        self.farewell.say();
    }

    fn get(&self, id: &SandboxId) -> Option<(Slot, Resources)> {
        self.held.read().get(id).map(|held| (held.slot.clone(), held.limits))
    }

    fn put(&self, slot: Slot, limits: Resources) {
        self.held.write().insert(slot.id, Held { slot, limits });
    }

    fn set_limits(&self, id: &SandboxId, limits: Resources) {
        if let Some(held) = self.held.write().get_mut(id) {
            held.limits = limits;
        }
    }

    fn take(&self, id: &SandboxId) {
        self.held.write().remove(id);
    }

    /// Takes a slot out if this process is still the one it holds.
    fn take_dead(&self, id: &SandboxId, pid: u32) -> bool {
        let mut slots = self.held.write();
        let ours = slots.get(id).is_some_and(|held| held.slot.pid() == pid);
        if ours {
            slots.remove(id);
        }
        ours
    }
}

/// Where steps are carried out.
pub struct EngineRoom {
    engine: Engine,
    slots: Arc<Slots>,
    ledger: Ledger,
    secrets_key: SecretsKey,
    allow_root: bool,
    images: RefCell<HashMap<String, Arc<ImageFacts>>>,
}

impl EngineRoom {
    /// A room around a running engine.
    pub fn new(engine: Engine, slots: Arc<Slots>, ledger: Ledger, secrets_key: SecretsKey, allow_root: bool) -> Self {
        Self { engine, slots, ledger, secrets_key, allow_root, images: RefCell::default() }
    }

    /// Why the engine does not work; none while it does.
    pub fn unhealthy(&self) -> Option<String> {
        self.engine.unhealthy()
    }

    /// The engine itself.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Which sandboxes were handed their environment.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The containers that are held: running, with an agent that answered.
    pub fn all_held(&self) -> BTreeSet<SandboxId> {
        self.slots.held.read().keys().copied().collect()
    }

    /// Carries out one step on one container.
    pub async fn run(&self, hub: &Rc<Hub>, id: SandboxId, step: Step) -> StepResult {
        let done = match step {
            Step::Make { shape, resources } => self.make(hub, id, shape, resources).await,
            Step::Prepare(charge) => self.prepare(id, charge).await,
            Step::Activate { charge, spec, sealed_env } => self.activate(id, charge, &spec, &sealed_env).await,
            Step::Stop => self.stop(id).await,
            Step::Start { resources } => self.start(hub, id, resources).await,
            Step::Kill => self.kill(id).await,
            Step::Remove => self.remove(id).await,
            Step::Examine => return self.examine(hub, id).await,
        };
        match done {
            Ok(()) => StepResult::Done,
            Err(error) => StepResult::Failed(error),
        }
    }

    async fn make(
        &self,
        hub: &Rc<Hub>,
        id: SandboxId,
        shape: types::spec::SlotShape,
        resources: Resources,
    ) -> Result<(), WarrenError> {
        let order = SlotOrder { id, shape, resources, labels: BTreeMap::new() };
        let mut made = self.engine.make_slot(order.clone()).await;
        if matches!(made, Err(MakeSlotError::Exists)) {
            // What an earlier try left under this name. Nothing of the user's ran in it, else it
            // would not be made again.
            self.slots.take(&id);
            // First: a mark without a container would be taken for files that were lost.
            self.ledger.unmark(id).map_err(|error| step_error(StepKind::Make, error))?;
            self.engine.remove(id).await.map_err(|error| step_error(StepKind::Make, error))?;
            made = self.engine.make_slot(order).await;
        }
        let slot = made.map_err(|error| make_error(&error))?;
        tracing::debug!(sandbox = %id, times = ?slot.times, "slot made");
        self.hold(hub, slot, resources)
    }

    /// Keeps a running slot and watches for its death.
    fn hold(&self, hub: &Rc<Hub>, slot: Slot, limits: Resources) -> Result<(), WarrenError> {
        let death = slot.death().map_err(|error| step_error(StepKind::Make, error))?;
        let (id, pid) = (slot.id, slot.pid());
        self.slots.put(slot, limits);
        let (hub, slots) = (Rc::clone(hub), Arc::clone(&self.slots));
        actix::spawn(async move {
            if let Err(error) = death.wait().await {
                tracing::error!(sandbox = %id, %error, "its death can not be watched");
                return;
            }
            // A death that we brought about ourselves has taken the slot out before.
            if slots.take_dead(&id, pid) {
                hub.died(id, "its first process ended".to_owned());
            }
        });
        Ok(())
    }

    fn held(&self, id: SandboxId, kind: StepKind) -> Result<(Slot, Resources), WarrenError> {
        self.slots.get(&id).ok_or_else(|| step_error(kind, "its container does not run"))
    }

    async fn prepare(&self, id: SandboxId, charge: Charge) -> Result<(), WarrenError> {
        let (slot, limits) = self.held(id, StepKind::Prepare)?;
        if limits != charge.resources {
            slot.set_limits(&charge.resources).map_err(|error| step_error(StepKind::Prepare, error))?;
            self.slots.set_limits(&id, charge.resources);
        }
        slot.agent().reserve(&identity(id, charge)).await.map_err(|error| step_error(StepKind::Prepare, error))
    }

    async fn activate(
        &self,
        id: SandboxId,
        charge: Charge,
        spec: &SandboxSpec,
        sealed_env: &[u8],
    ) -> Result<(), WarrenError> {
        let failed = |error: &dyn std::fmt::Display| step_error(StepKind::Activate, error);
        let (slot, _) = self.held(id, StepKind::Activate)?;
        let env = self.secrets_key.open(sealed_env).map_err(|error| failed(&error))?;
        let image = self.image(&spec.image_id).await?;
        let activation = Activation {
            env: environment(&image, env),
            workdir: spec.workdir.clone().or_else(|| Some(image.workdir.clone()).filter(|workdir| !workdir.is_empty())),
            user: spec.user.clone(),
            image_user: Some(image.user.clone()).filter(|user| !user.is_empty()),
            allow_root: self.allow_root,
        };
        // Before the agent is told: from here on user code may have run.
        self.ledger.mark(id).map_err(|error| failed(&error))?;
        kill_point::reached("create.marked");
        match slot.agent().activate(&identity(id, charge), activation).await {
            Ok(()) => Ok(()),
            Err(AgentError::Refused { code, message, field }) => {
                let code = match code {
                    RefusalCode::Forbidden => ErrorCode::Forbidden,
                    _ => ErrorCode::Unprocessable,
                };
                let message = field.as_ref().map_or(message.clone(), |field| format!("{field}: {message}"));
                let error = WarrenError::new(code, message);
                Err(field.into_iter().fold(error, |error, field| error.with("field", field)))
            }
            Err(error) => Err(failed(&error)),
        }
    }

    async fn image(&self, image_id: &str) -> Result<Arc<ImageFacts>, WarrenError> {
        let known = self.images.borrow().get(image_id).cloned();
        if let Some(facts) = known {
            return Ok(facts);
        }
        let facts = self.engine.resolve_image(image_id).await.map_err(|error| step_error(StepKind::Activate, error))?;
        let mut images = self.images.borrow_mut();
        if images.len() >= IMAGES_REMEMBERED_MAX {
            images.clear();
        }
        images.insert(image_id.to_owned(), Arc::clone(&facts));
        Ok(facts)
    }

    async fn stop(&self, id: SandboxId) -> Result<(), WarrenError> {
        // Taken out first: its death is our doing.
        self.slots.take(&id);
        match self.engine.stop(id, STOP_GRACE).await {
            Ok(()) | Err(StopError::NoContainer) => Ok(()),
            Err(error) => Err(step_error(StepKind::Stop, error)),
        }
    }

    async fn start(&self, hub: &Rc<Hub>, id: SandboxId, resources: Resources) -> Result<(), WarrenError> {
        let slot = self.engine.start_again(id, &resources).await.map_err(|error| make_error(&error))?;
        self.hold(hub, slot, resources)
    }

    async fn kill(&self, id: SandboxId) -> Result<(), WarrenError> {
        let slot = match self.slots.get(&id) {
            Some((slot, _)) => Some(slot),
            None => self.engine.adopt(id).await.map_err(|error| step_error(StepKind::Kill, error))?,
        };
        self.slots.take(&id);
        match slot {
            Some(slot) => slot.kill().await.map_err(|error| step_error(StepKind::Kill, error)),
            None => Ok(()),
        }
    }

    async fn remove(&self, id: SandboxId) -> Result<(), WarrenError> {
        self.slots.take(&id);
        self.engine.remove(id).await.map_err(|error| step_error(StepKind::Remove, error))?;
        self.ledger.unmark(id).map_err(|error| step_error(StepKind::Remove, error))?;
        Ok(())
    }

    async fn examine(&self, hub: &Rc<Hub>, id: SandboxId) -> StepResult {
        match self.look(hub, id).await {
            Ok(examined) => StepResult::Examined(examined),
            Err(error) => StepResult::Failed(error),
        }
    }

    async fn look(&self, hub: &Rc<Hub>, id: SandboxId) -> Result<Examined, WarrenError> {
        let failed = |error: &dyn std::fmt::Display| step_error(StepKind::Examine, error);
        if let Some(status) = self.take_hold(hub, id).await? {
            return Ok(Examined::Answers(status));
        }
        let found = self.engine.list_ours().await.map_err(|error| failed(&error))?;
        Ok(match found.into_iter().find(|found| found.id == id) {
            Some(found) => Examined::Exited {
                why: match found.exit_code {
                    Some(code) => format!("its processes ended without Warren's doing (exit code {code})"),
                    None => "its processes ended without Warren's doing".to_owned(),
                },
            },
            None => Examined::Missing,
        })
    }

    /// Takes hold of a container that runs, and asks its agent who it is; none where it does not run.
    pub async fn take_hold(&self, hub: &Rc<Hub>, id: SandboxId) -> Result<Option<AgentState>, WarrenError> {
        let failed = |error: &dyn std::fmt::Display| step_error(StepKind::Examine, error);
        let slot = match self.slots.get(&id) {
            Some((slot, _)) => slot,
            None => {
                let Some(slot) = self.engine.adopt(id).await.map_err(|error| failed(&error))? else {
                    return Ok(None);
                };
                // Which limits are in force is not known, so the next claim writes them.
                self.hold(hub, slot.clone(), Resources { pids: u64::MAX, ..Resources::default() })?;
                slot
            }
        };
        let status = slot.agent().hello().await.map_err(|error| failed(&error))?;
        Ok(Some(agent_state(&status)))
    }
}

fn identity(id: SandboxId, charge: Charge) -> Identity {
    Identity {
        sandbox_id: id.to_string(),
        generation: charge.generation.0,
        spec_digest: charge.digest.to_vec(),
        leased: charge.leased,
    }
}

fn agent_state(status: &AgentStatus) -> AgentState {
    let known = status.identity.as_ref().map(|identity| {
        // A digest of another length is another sandbox's in any case.
        let digest = identity.spec_digest.as_slice().try_into().unwrap_or_default();
        (Generation(identity.generation), digest)
    });
    match (status.stage, known) {
        (AgentStage::Bare, _) | (_, None) => AgentState::Bare,
        (AgentStage::Reserved, Some((generation, digest))) => AgentState::Prepared { generation, digest },
        (AgentStage::Active, Some((generation, digest))) => AgentState::Active { generation, digest },
    }
}

/// The image's variables with the sandbox's own laid over them.
fn environment(image: &ImageFacts, own: BTreeMap<String, String>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut env: BTreeMap<&str, &str> = BTreeMap::new();
    env.extend(image.env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    env.extend(own.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    env.into_iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

fn make_error(error: &MakeSlotError) -> WarrenError {
    let code = match error {
        MakeSlotError::NotSupported(_) => ErrorCode::NotImplemented,
        MakeSlotError::NoImage(_) | MakeSlotError::Ended { .. } => ErrorCode::Unprocessable,
        MakeSlotError::NoContainer
        | MakeSlotError::Exists
        | MakeSlotError::Engine(_)
        | MakeSlotError::Files(_)
        | MakeSlotError::Silent { .. }
        | MakeSlotError::Limits(_)
        | MakeSlotError::NotUndone { .. }
        | MakeSlotError::CutOff => ErrorCode::Internal,
    };
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    WarrenError::new(code, message)
}
