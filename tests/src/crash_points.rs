//! The crash tables' kill points as tests try them, on one node and on three: `docs/crash-tables.md` has what each of
//! them leaves.

/// What must be there when the node is back, before anybody asks again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sandbox {
    /// It was not in the log yet.
    Absent,
    /// It was on its way into the log.
    Either,
    /// It was in the log.
    Present,
}

/// A create is killed: where, from a warm slot or a cold one, and what is there afterwards.
pub const CREATES: &[(&str, bool, Sandbox)] = &[
    ("create.claimed", true, Sandbox::Absent),
    ("create.proposed", true, Sandbox::Either),
    ("create.prepared", true, Sandbox::Either),
    ("create.placed", true, Sandbox::Present),
    ("create.marked", true, Sandbox::Present),
    ("create.activated", true, Sandbox::Present),
    ("create.answered", true, Sandbox::Present),
    ("create.claimed", false, Sandbox::Absent),
    ("create.proposed", false, Sandbox::Either),
    ("create.placed", false, Sandbox::Present),
    ("create.made", false, Sandbox::Present),
    ("create.prepared", false, Sandbox::Present),
    ("create.marked", false, Sandbox::Present),
    ("create.activated", false, Sandbox::Present),
    ("create.answered", false, Sandbox::Present),
];

/// A delete is killed: where, whether its answer may have left before, and what is there afterwards.
pub const DELETES: &[(&str, bool, Sandbox)] = &[
    ("destroy.proposed", false, Sandbox::Either),
    ("destroy.committed", false, Sandbox::Absent),
    ("destroy.killed", false, Sandbox::Absent),
    ("destroy.answered", false, Sandbox::Absent),
    ("destroy.removed", true, Sandbox::Absent),
    ("destroy.reported", true, Sandbox::Absent),
];

/// A stop is killed.
pub const STOPS: &[&str] = &["wanted.committed", "stop.stopped", "stop.answered"];

/// A start is killed: the point, and whether the sandbox must come up by itself.
pub const STARTS: &[(&str, bool)] = &[
    ("wanted.committed", false),
    ("start.started", true),
    ("create.prepared", true),
    ("create.activated", true),
    ("start.answered", true),
];

/// A create that fails is killed.
pub const FAILURES: &[&str] = &["create.placed", "create.made", "create.failure_committed", "error.answered"];

/// A sandbox's time has come, and its owner is killed before it says so.
pub const EXPIRY: &str = "expire.due";

/// A node is lost and its sandbox placed again; whoever leads or takes it over is killed on the way.
pub const MOVES: &[&str] = &["node.lost", "repair.asked", "move.proposed", "create.placed", "create.activated"];

/// A former owner learns that its sandbox was placed again, and is killed.
pub const FAREWELLS: &[&str] = &["move.outdated", "destroy.killed", "destroy.removed"];

/// A node whose log is lost is let in again and killed: tried in a cluster.
pub const REJOINS: &[&str] = &["rejoin.accepted", "rejoin.aside", "rejoin.kept"];
