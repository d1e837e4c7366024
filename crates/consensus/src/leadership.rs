//! Who leads, as this member sees it.

/// Who leads, as this member sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader's member id, if one is known.
    pub leader: Option<u64>,
    /// The term this member is in.
    pub term: u64,
    /// Whether this member is that leader.
    pub is_self: bool,
}
