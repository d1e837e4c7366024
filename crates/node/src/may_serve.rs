//! Whether this node may act for a sandbox.

use types::{ErrorCode, SandboxId, Status, WarrenError};
use warren_core::placement::Record;

use crate::operations::NodeOperations;

impl NodeOperations {
    /// Refuses a sandbox that may be another node's by now.
    pub(crate) fn leased(&self, id: &SandboxId) -> Result<(), WarrenError> {
        let leased = self.view.placement().get(id).is_some_and(Record::is_leased);
        if leased { self.life.lease.require() } else { Ok(()) }
    }

    /// Refuses a sandbox that is in error for good.
    pub(crate) fn in_error(&self, id: &SandboxId) -> Result<(), WarrenError> {
        match self.view.placement().get(id).and_then(|record| record.failure.as_ref()) {
            Some(failure) => {
                let message = format!("sandbox is in error: {}", failure.message);
                Err(WarrenError::new(ErrorCode::WrongState, message).with("status", Status::Error.as_str()))
            }
            None => Ok(()),
        }
    }
}
