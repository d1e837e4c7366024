//! Which entry of the log answers which proposal.

use crate::config::Config;

/// Chosen by the proposer, once per life of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalId(pub u64);

const ORIGIN_VERSION: u8 = 1;
const ORIGIN_BYTES: usize = 1 + 3 * 8;

/// Who may take an entry for its own: travels in the entry's context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    node: u64,
    incarnation: u64,
}

impl Origin {
    pub(crate) fn of(config: &Config) -> Self {
        Self { node: config.id, incarnation: config.incarnation }
    }

    pub(crate) fn mark(self, number: u64) -> Vec<u8> {
        let mut context = Vec::with_capacity(ORIGIN_BYTES);
        context.push(ORIGIN_VERSION);
        for part in [self.node, self.incarnation, number] {
            context.extend_from_slice(&part.to_be_bytes());
        }
        context
    }

    /// The number in `context` if this life of this node wrote it.
    pub(crate) fn own(self, context: &[u8]) -> Option<u64> {
        let (&version, rest) = context.split_first()?;
        let (parts, left) = rest.as_chunks::<8>();
        let &[node, incarnation, number] = parts else { return None };
        let wrote_it = version == ORIGIN_VERSION
            && left.is_empty()
            && u64::from_be_bytes(node) == self.node
            && u64::from_be_bytes(incarnation) == self.incarnation;
        wrote_it.then(|| u64::from_be_bytes(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_node_in_the_same_life_owns_a_mark() {
        let mine = Origin { node: 1, incarnation: 7 };
        let mark = mine.mark(42);
        let cases = [
            (mine, mark.clone(), Some(42)),
            (Origin { node: 2, incarnation: 7 }, mark.clone(), None),
            (Origin { node: 1, incarnation: 8 }, mark.clone(), None),
            (mine, Vec::new(), None),
            (mine, mark[..mark.len() - 1].to_vec(), None),
            (mine, [&mark[..], &[0]].concat(), None),
            (mine, [&[ORIGIN_VERSION + 1], &mark[1..]].concat(), None),
        ];
        for (origin, context, expected) in cases {
            assert_eq!(origin.own(&context), expected, "{origin:?} {context:?}");
        }
    }
}
