//! The one source of randomness of a run.

use types::SandboxId;
use types::id::SANDBOX_ID_LENGTH;

/// A small seeded generator (SplitMix64). Everything random in a run comes from one of these, so a seed is a run.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The generator of one seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds must not give neighbouring runs.
        Self(seed.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(0x2545_f491_4f6c_dd1d))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True with a probability of `ppm` in a million.
    pub fn chance(&mut self, ppm: u64) -> bool {
        // Drawn even where it can not come true, so that calm weather does not shift the draws that follow.
        self.below(1_000_000) < ppm
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let drawn = self.bits();
        if from.is_empty() { None } else { from.get((drawn % from.len() as u64) as usize) }
    }

    /// A place in a list of this length, which is not zero.
    pub fn index(&mut self, length: usize) -> usize {
        (self.bits() % length as u64) as usize
    }

    /// An id that nobody has used.
    pub fn sandbox_id(&mut self) -> SandboxId {
        let mut entropy = [0; SANDBOX_ID_LENGTH];
        for byte in &mut entropy {
            *byte = (self.bits() & 0xff) as u8;
        }
        SandboxId::from_entropy(entropy)
    }
}
