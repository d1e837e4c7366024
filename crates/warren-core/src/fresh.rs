//! Fresh ids. Their randomness comes in from outside; the cores only take the next one.

use types::SandboxId;

/// Hands out ids that nobody has used.
pub trait FreshIds {
    /// The next fresh id.
    fn sandbox_id(&mut self) -> SandboxId;
}

impl<F: FnMut() -> SandboxId> FreshIds for F {
    fn sandbox_id(&mut self) -> SandboxId {
        self()
    }
}
