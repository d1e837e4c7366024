//! Chooses the node that a new sandbox goes to. A pure function of what the nodes report.

use types::{HostId, Resources};

/// What one node can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: HostId,
    /// It is the node that asks; no hop is needed.
    pub here: bool,
    /// Sandboxes it has.
    pub sandboxes: u64,
    /// Sandboxes it may have.
    pub sandboxes_max: u64,
    /// Bytes of memory promised to its sandboxes.
    pub memory_promised: u64,
    /// Bytes of memory it may promise, overcommit included.
    pub memory_max: u64,
    /// Warm slots of the shape that is asked for.
    pub warm: u64,
    /// Why it takes nothing at all; `None` while it does.
    pub closed: Option<String>,
}

/// Why one node was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The node.
    pub node: HostId,
    /// The reason, in words.
    pub reason: String,
}

/// The policy: the smallest wins. The id comes last so that ties are stable.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    cold: bool,
    elsewhere: bool,
    permille_promised: u64,
    sandboxes: u64,
    node: HostId,
}

fn refusal(candidate: &Candidate, need: &Resources) -> Option<String> {
    if let Some(reason) = &candidate.closed {
        return Some(reason.clone());
    }
    if candidate.sandboxes >= candidate.sandboxes_max {
        return Some(format!("has {} sandboxes of {} at most", candidate.sandboxes, candidate.sandboxes_max));
    }
    let free = candidate.memory_max.saturating_sub(candidate.memory_promised);
    if need.memory > free {
        return Some(format!("{} bytes of memory asked for, {free} free", need.memory));
    }
    None
}

/// The node that takes a sandbox of this size, or each node's reason why it does not.
///
/// # Errors
/// Every candidate refuses.
pub fn choose(candidates: &[Candidate], need: &Resources) -> Result<HostId, Vec<Refusal>> {
    let mut refusals = Vec::new();
    let mut best: Option<Score> = None;
    for candidate in candidates {
        if let Some(reason) = refusal(candidate, need) {
            refusals.push(Refusal { node: candidate.node.clone(), reason });
            continue;
        }
        let score = Score {
            cold: candidate.warm == 0,
            elsewhere: !candidate.here,
            permille_promised: candidate.memory_promised.saturating_mul(1000) / candidate.memory_max.max(1),
            sandboxes: candidate.sandboxes,
            node: candidate.node.clone(),
        };
        if best.as_ref().is_none_or(|best| score < *best) {
            best = Some(score);
        }
    }
    best.map(|score| score.node).ok_or(refusals)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str) -> Candidate {
        Candidate {
            node: HostId::new(name),
            here: false,
            sandboxes: 0,
            sandboxes_max: 10,
            memory_promised: 0,
            memory_max: 1000,
            warm: 0,
            closed: None,
        }
    }

    #[test]
    fn warm_before_here_before_empty() {
        let need = Resources { memory: 10, ..Resources::default() };
        let here = Candidate { here: true, memory_promised: 900, ..candidate("b") };
        let warm = Candidate { warm: 1, memory_promised: 500, ..candidate("c") };
        let table = [
            (vec![candidate("a"), here.clone(), warm.clone()], "c"),
            (vec![candidate("a"), here.clone()], "b"),
            (vec![candidate("z"), candidate("a")], "a"),
            (vec![Candidate { memory_promised: 1, ..candidate("a") }, candidate("z")], "z"),
        ];
        for (candidates, expected) in table {
            assert_eq!(choose(&candidates, &need), Ok(HostId::new(expected)));
        }
    }

    #[test]
    fn a_refusal_names_each_reason() {
        let need = Resources { memory: 200, ..Resources::default() };
        let candidates = [
            Candidate { memory_promised: 900, ..candidate("a") },
            Candidate { sandboxes: 10, ..candidate("b") },
            Candidate { closed: Some("draining".into()), ..candidate("c") },
        ];
        let reasons: Vec<_> =
            choose(&candidates, &need).unwrap_err().into_iter().map(|refusal| refusal.reason).collect();
        assert_eq!(reasons, ["200 bytes of memory asked for, 100 free", "has 10 sandboxes of 10 at most", "draining"]);
    }
}
