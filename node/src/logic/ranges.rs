//! What is left of a range without others: which tasks of a run are new, unfinished, still wanted.

use std::ops::Range;

/// The pieces of `whole` that none of `holes` covers, in order. The holes ascend by where they
/// begin; they may overlap, be empty, and reach beyond `whole`.
pub fn gaps(whole: Range<u64>, holes: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut pieces = Vec::new();
    let mut at = whole.start;
    for hole in holes {
        if hole.start >= whole.end {
            break;
        }
        if hole.is_empty() {
            continue;
        }
        if at < hole.start {
            pieces.push(at..hole.start);
        }
        at = at.max(hole.end);
    }
    if at < whole.end {
        pieces.push(at..whole.end);
    }
    pieces
}

/// The same for holes in any order.
#[must_use]
pub fn without(whole: Range<u64>, holes: &[Range<u64>]) -> Vec<Range<u64>> {
    if holes.is_sorted_by_key(|hole| hole.start) {
        return gaps(whole, holes.iter().cloned());
    }
    let mut holes = holes.to_vec();
    holes.sort_by_key(|hole| hole.start);
    gaps(whole, holes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn holes_are_cut_out() {
        assert_eq!(without(0..10, &[2..4, 8..20]), [0..2, 4..8]);
        assert!(without(0..10, &[0..4, 4..10]).is_empty());
        assert_eq!(without(5..10, &[0..3, 6..7, 12..13]), [5..6, 7..10]);
        assert_eq!(without(5..10, &[8..9, 6..7]), [5..6, 7..8, 9..10]);
        assert_eq!(without(5..10, &[]).first(), Some(&(5..10)), "nothing is cut");
        assert!(without(5..5, &[]).is_empty());
    }

    proptest! {
        #[test]
        fn what_is_left_agrees_with_a_plain_array(
            whole in (0u64..60, 0u64..40),
            holes in prop::collection::vec((0u64..100, 0u64..20), 0..12),
        ) {
            let whole = whole.0..whole.0 + whole.1;
            let holes: Vec<Range<u64>> = holes.iter().map(|&(at, count)| at..at + count).collect();
            let pieces = without(whole.clone(), &holes);
            for pair in pieces.windows(2) {
                prop_assert!(pair[0].end < pair[1].start, "pieces that touch are one");
            }
            prop_assert!(pieces.iter().all(|piece| !piece.is_empty()));
            let left: Vec<u64> = pieces.into_iter().flatten().collect();
            let is_left = |at: &u64| holes.iter().all(|hole| !hole.contains(at));
            let expected: Vec<u64> = whole.filter(is_left).collect();
            prop_assert_eq!(left, expected);
        }
    }
}
