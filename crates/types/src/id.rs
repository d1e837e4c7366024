//! Ids are types, never bare strings.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Characters of a sandbox id; 100 bits of entropy, no order.
pub const SANDBOX_ID_LENGTH: usize = 20;

/// Base-32 alphabet without the digits that look like letters.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// An id has another form than the one it must have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id of {expected}")]
pub struct MalformedId {
    /// The form that was expected, in words.
    pub expected: &'static str,
}

/// Names one sandbox for its whole life, on whichever node it runs. The warm slot that becomes the
/// sandbox carries the id from its birth, so nothing is ever renamed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SandboxId([u8; SANDBOX_ID_LENGTH]);

impl SandboxId {
    /// Folds random bytes into an id: five bits of each byte become one character.
    #[must_use]
    pub fn from_entropy(entropy: [u8; SANDBOX_ID_LENGTH]) -> Self {
        Self(entropy.map(|byte| ALPHABET[usize::from(byte & 31)]))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("every character comes from the alphabet")
    }
}

impl FromStr for SandboxId {
    type Err = MalformedId;

    fn from_str(text: &str) -> Result<Self, MalformedId> {
        let bytes: [u8; SANDBOX_ID_LENGTH] =
            text.as_bytes().try_into().map_err(|_| MalformedId { expected: "20 characters of a-z2-7" })?;
        if bytes.iter().all(|byte| ALPHABET.contains(byte)) {
            Ok(Self(bytes))
        } else {
            Err(MalformedId { expected: "20 characters of a-z2-7" })
        }
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for SandboxId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for SandboxId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Wraps a text that already is such an id.
            #[must_use]
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// Names a host for as long as its data directory lives. It stands in labels and placements and
    /// is not the Raft member id, which is new after a wipe.
    HostId
);
text_id!(
    /// Names a cluster; only containers that carry it as a label are ours to touch.
    ClusterId
);
text_id!(
    /// Names one command in one sandbox.
    ExecId
);

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The one that comes after this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// Grows each time a sandbox is placed; whatever carries an older one is refused everywhere.
    Generation
);
counter!(
    /// Grows each time a node starts; a placement proposed in an earlier life is refused at apply.
    Incarnation
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_becomes_a_well_formed_id_that_parses_back() {
        let id = SandboxId::from_entropy(std::array::from_fn(|index| (index * 37 % 256) as u8));
        assert_eq!(id.as_str().len(), SANDBOX_ID_LENGTH);
        assert_eq!(id.as_str().parse::<SandboxId>(), Ok(id));
    }

    #[test]
    fn other_forms_are_refused() {
        for text in
            ["", "abc", "ABCDEFGHIJKLMNOPQRST", "aaaaaaaaaaaaaaaaaaa1", "aaaaaaaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaaaé"]
        {
            assert!(text.parse::<SandboxId>().is_err(), "{text:?} passed for an id");
        }
    }
}
