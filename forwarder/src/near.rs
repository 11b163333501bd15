//! "Did you mean": the known name that is nearest to one that is not known.

/// The candidate with the smallest edit distance, if that is small enough to be a slip: at most a
/// third of the name, and at least one.
pub(crate) fn nearest<'a, T>(
    wanted: &str,
    candidates: impl IntoIterator<Item = &'a T>,
    as_str: impl Fn(&T) -> &str,
) -> Option<&'a T> {
    let most = (wanted.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|c| (distance(wanted, as_str(c)), c))
        .filter(|(d, _)| *d <= most)
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// Insertions, deletions, replacements and swaps of neighbours that lead from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    let mut previous = None;
    for (i, x) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut d = (row[j] + usize::from(x != *y)).min(row[j + 1] + 1).min(next[j] + 1);
            if j > 0 && previous == Some(*y) && b[j - 1] == x {
                d = d.min(before[j - 1] + 1);
            }
            next.push(d);
        }
        before = std::mem::replace(&mut row, next);
        previous = Some(x);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, d) in [
            ("", "", 0),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("cel2-ser3", "cel2-sre3", 1),
            ("ab", "ba", 1),
            ("same", "same", 0),
        ] {
            assert_eq!((distance(a, b), distance(b, a)), (d, d), "{a} {b}");
        }
    }

    #[test]
    fn only_slips_are_offered() {
        let known = ["cel1-ser2", "cel9-ser1"];
        let near = |wanted| nearest(wanted, &known, |k| *k).copied();
        assert_eq!(near("cell1-ser2"), Some(known[0]));
        assert_eq!(near("primary"), None);
        assert_eq!(near(""), None);
    }
}
