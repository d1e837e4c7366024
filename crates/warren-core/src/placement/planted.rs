//! Bugs that the simulation plants into the map to prove that it finds them.

use super::map::Placement;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// A key that was used makes another sandbox.
    KeyTwice,
    /// A placement of an earlier life of its owner counts.
    OldLife,
    /// A late copy brings back what has ended.
    ForgetsEnded,
    /// Whoever asks last is given a sandbox that is placed again, in whatever generation.
    AnyGeneration,
}

impl Placement {
    #[cfg(feature = "planted-bugs")]
    pub(super) fn has_planted(&self, bug: Planted) -> bool {
        self.planted == Some(bug)
    }

    /// No bug is ever planted but in the simulation.
    #[cfg(not(feature = "planted-bugs"))]
    pub(super) const fn has_planted(&self, _: Planted) -> bool {
        false
    }
}
