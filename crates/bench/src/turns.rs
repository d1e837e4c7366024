//! Whose turn it is. What ran before a side decides what it finds in caches, so over the rounds every side comes first,
//! last, and after every other equally often.

/// The order of the sides in a round: round after round another permutation, until all have come.
pub fn turns<const SIDES: usize>(round: usize) -> [usize; SIDES] {
    let mut left: Vec<usize> = (0..SIDES).collect();
    let mut number = round;
    std::array::from_fn(|_| {
        let choices = left.len();
        let chosen = left.remove(number % choices);
        number /= choices;
        chosen
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_permutation_comes_once_in_a_cycle() {
        let orders: BTreeSet<[usize; 4]> = (0..24).map(turns).collect();
        assert_eq!(orders.len(), 24);
        let mut sides = turns::<4>(17);
        sides.sort_unstable();
        assert_eq!(sides, [0, 1, 2, 3]);
        assert_eq!(turns::<3>(6), turns::<3>(0));
    }
}
