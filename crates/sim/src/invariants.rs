//! What must hold, each with an id and in words. `docs/invariants.md` says the same to people.

use std::fmt;

macro_rules! invariants {
    ($($name:ident $id:literal $words:literal;)*) => {
        /// One invariant.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Invariant { $(#[doc = $words] $name,)* }

        impl Invariant {
            /// Every invariant.
            pub const ALL: &'static [Invariant] = &[$(Self::$name,)*];

            /// Its id.
            #[must_use]
            pub fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// What it says.
            #[must_use]
            pub fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)* }
            }
        }
    };
}

invariants! {
    AckIsDurable "D1" "Whatever a client was told is durable at that moment, on a majority of those who vote: a create, a stop, a start, a destroy, and what a read shows.";
    CreateSurvives "D2" "A sandbox whose create was acknowledged stays in the map over any crash until a client asks for its end or its time has come.";
    LogIsStable "D3" "Entries are applied in growing order, and an index always holds the same entry, in every life.";
    ReplayAgrees "D4" "A map that was rebuilt from snapshot and log equals the map that one uninterrupted life would have.";
    OwnProposals "D5" "A proposal comes back to the life that made it, as it was made, and to no other.";
    OneOwner "F1" "A generation of a sandbox has one owner and one container, for ever.";
    GenerationsGrow "F2" "The generation of a sandbox never falls.";
    OwnLifeOnly "F3" "A sandbox is only placed by its owner's present life.";
    EndedStaysEnded "F4" "A sandbox that has ended is never placed again.";
    NothingPastTheLease "F5" "No command runs in a generation that is out of date, nor past its node's lease where another node could be given the sandbox.";
    LeaseBeforeLost "F6" "When a node counts as lost its lease has run out.";
    KeepsWhatIsPlaced "F7" "No container is ended that the map holds on that node.";
    SlotOnce "S1" "A slot is handed out at most once.";
    OneTenant "S2" "A container serves at most one sandbox with one spec and environment.";
    PoolIsPristine "S3" "A container that was prepared, or was handed an environment, is never in the pool.";
    EnvAfterPlaced "S4" "No environment reaches a container before its placement is applied and durable.";
    OneStepAtATime "S5" "Operations on one container never overlap.";
    ForeignUntouched "S6" "A container without our cluster's label is never touched.";
    ExecInOwn "S7" "A command runs only in a container that was activated for that very sandbox.";
    DeadLeavesPool "S8" "A slot of whose death the pool was told is not in the pool.";
    KeyOnce "K1" "An idempotency key makes at most one sandbox within its life.";
    KeyBindsBody "K2" "A key that comes again with another body is never answered with a sandbox.";
    KeyKeepsFailure "K3" "A key whose create failed for good after its commit is answered with that failure from then on.";
    DestroyedIsDead "E1" "When `destroyed` was answered the sandbox has no process, and never has one again.";
    DestroyedIsGone "E2" "A sandbox whose destroy was answered is never shown again.";
    StoppedIsStopped "E3" "When `stopped` was answered the sandbox has no process.";
    CreatedIsThere "E4" "When `created` or `started` was answered the sandbox has a container that was activated for it.";
    ReadsSeeAcks "R1" "A read shows every sandbox whose create was acknowledged before and that nobody ended.";
    DeadIsNotShown "R2" "A sandbox of whose death its supervisor was told is not shown as running, once nothing is under way for it.";
    AnsweredOnce "A1" "Every request is answered once, or its connection is lost.";
    MakingBounded "P1" "The pool never has more slots in the making than its limit.";
    TriesBounded "P2" "A template that keeps failing is tried a bounded number of times, never at once again, and once more for each claim.";
    NothingLeaks "L1" "When faults end, the containers are exactly those of the placements and the pool's target.";
    TombstonesClear "L2" "When faults end, no tombstone and no supervisor without a sandbox is left.";
    EveryoneAnswered "L3" "When faults end, nobody waits and nothing is under way.";
    ShownIsTrue "L4" "When faults end, every sandbox is shown as it is, and is as it is wanted, or shown stopped with the reason.";
    NothingOutlives "L5" "When faults end, no sandbox outlives its end by more than the time between two looks.";
    MembersAreRight "L6" "When faults end, one node of fewer than three votes, or three of more; everybody else learns, and no id that nobody bears is a member.";
    NoPanic "X1" "No core panics.";
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id(), self.words())
    }
}

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What was seen.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.invariant, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::Invariant;

    #[test]
    fn every_id_stands_for_one_invariant() {
        let mut ids: Vec<_> = Invariant::ALL.iter().map(|invariant| invariant.id()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), Invariant::ALL.len());
    }
}
