//! The name that is most likely meant by one that does not exist.

/// The candidate that is at most two changes away from `name`, and fewer than the name has letters;
/// the first of several that are equally near. A change is a letter that is too many, missing,
/// another one, or swapped with its neighbour.
#[must_use]
pub fn nearest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let most = 2.min(name.chars().count().saturating_sub(1));
    let near = candidates.iter().map(|candidate| (changes(name, candidate), *candidate));
    let near = near.filter(|(changes, _)| *changes <= most);
    near.min_by_key(|(changes, _)| *changes).map(|(_, candidate)| candidate)
}

/// How many changes make one word of another: the optimal string alignment distance.
fn changes(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    // Row `i` says what the first `i` letters of `from` are away from each beginning of `to`.
    let mut rows: Vec<Vec<usize>> = vec![(0..=to.len()).collect()];
    for (i, letter) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, other) in to.iter().enumerate() {
            let at = |i: usize, j: usize| rows.get(i).and_then(|row| row.get(j)).copied();
            let replaced = at(i, j).map(|it| it + usize::from(letter != other));
            let dropped = at(i, j + 1).map(|it| it + 1);
            let added = row.get(j).map(|it| it + 1);
            let is_swapped = i > 0 && j > 0 && from.get(i - 1) == Some(other);
            let is_swapped = is_swapped && to.get(j.wrapping_sub(1)) == Some(letter);
            let swapped = is_swapped.then(|| at(i - 1, j - 1).map(|it| it + 1)).flatten();
            let ways = [replaced, dropped, added, swapped];
            row.push(ways.into_iter().flatten().min().unwrap_or_default());
        }
        rows.push(row);
    }
    rows.last().and_then(|row| row.last()).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_counted() {
        for (from, to, count) in [
            ("slots", "slots", 0),
            ("slotz", "slots", 1),
            ("slot", "slots", 1),
            ("slotss", "slots", 1),
            ("solts", "slots", 1),
            ("", "slots", 5),
            ("slots", "", 5),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(changes(from, to), count, "{from} {to}");
        }
    }

    #[test]
    fn only_what_is_near_is_meant() {
        let keys = ["slots", "share", "ports"];
        assert_eq!(nearest("slotz", &keys), Some("slots"));
        assert_eq!(nearest("prots", &keys), Some("ports"));
        assert_eq!(nearest("user", &keys), None);
        assert_eq!(nearest("s", &["a", "b"]), None, "a single letter may be anything");
        assert_eq!(nearest("slots", &[]), None);
    }
}
