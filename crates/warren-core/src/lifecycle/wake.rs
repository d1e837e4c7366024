//! When the machine asks to be called again, and what it does then.

use types::Timestamp;

use super::machine::{Lifecycle, Stage};
use super::{LOOK_AGAIN_MS, Output};
use crate::placement::{DestroyReason, Kind, Wanted};
use crate::step::Step;

impl Lifecycle {
    /// Asks to be called within `ms`. A call that is due sooner serves as well, else every dropped
    /// proposal would leave one more call behind.
    pub(super) fn wake_by(&mut self, now: Timestamp, ms: u64, out: &mut Vec<Output>) {
        let Some(at) = now.checked_add_ms(ms) else {
            return;
        };
        if self.wakes_due.range(now..=at).next().is_none() {
            self.wakes_due.insert(at);
            out.push(Output::WakeAt(at));
        }
    }

    pub(super) fn wake(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        // The wall clock may have been set since, so this call is the earliest whatever it reads. To
        // think that fewer are due than there are only costs one more.
        self.wakes_due.pop_first();
        self.wakes_due.retain(|due| *due > now);
        if !self.waiting_destroy.is_empty() && !matches!(self.stage, Stage::Killing { .. }) {
            out.push(Output::Propose(Kind::Destroy { id: self.id, reason: DestroyReason::Asked }));
        }
        match &self.stage {
            Stage::Creating(_) => self.wake_create(now, out),
            Stage::Up(_) | Stage::Down(..) => self.look_again(now, out),
            Stage::Examining { .. } if self.running.is_none() => self.run(Step::Examine, out),
            Stage::Stopping { place, committed: false, .. } => {
                let (id, generation) = (self.id, place.generation);
                out.push(Output::Propose(Kind::SetWanted { id, generation, wanted: Wanted::Stopped }));
            }
            Stage::Starting { place, committed: false, .. } => {
                let (id, generation) = (self.id, place.generation);
                out.push(Output::Propose(Kind::SetWanted { id, generation, wanted: Wanted::Running }));
            }
            Stage::Killing { .. } if self.running.is_none() => self.run(Step::Kill, out),
            Stage::Removing { .. } if self.running.is_none() => self.run(Step::Remove, out),
            Stage::Reporting { generation } => {
                out.push(Output::Propose(Kind::Removed { id: self.id, generation: *generation }));
            }
            _ => {}
        }
    }

    /// Ends it if its time has come, else asks to be called when it may have.
    pub(super) fn look_again(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        let (Stage::Up(place) | Stage::Down(place, _)) = &self.stage else {
            return;
        };
        let Some(expires_at) = place.expires_at else {
            return;
        };
        if expires_at <= now {
            let reason = DestroyReason::Expired { expires_at };
            out.push(Output::Propose(Kind::Destroy { id: self.id, reason }));
            self.wake_by(now, LOOK_AGAIN_MS, out);
        } else {
            self.wake_by(now, LOOK_AGAIN_MS.min(expires_at.ms_since(now)), out);
        }
    }
}
