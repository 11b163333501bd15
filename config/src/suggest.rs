//! "Did you mean": the closest known names to a mistyped one, and the list to choose from.

/// Names shown in a list before it is cut short.
const SHOWN: usize = 8;
/// Longest word that is compared; longer ones have no likeness to any name.
const LONGEST: usize = 64;

/// Up to three known names closest to `word`; none if all are too far off.
pub(crate) fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let word: Vec<char> = word.chars().flat_map(char::to_lowercase).take(LONGEST + 1).collect();
    if word.is_empty() || word.len() > LONGEST {
        return Vec::new();
    }
    let mut best = (word.len() / 3).clamp(1, 3);
    let mut found: Vec<&str> = Vec::new();
    // `hwm_mb` for `hwm`: far off by letters, but one begins with the other
    let mut begins: Vec<&str> = Vec::new();
    for name in known {
        let other: Vec<char> = name.chars().flat_map(char::to_lowercase).collect();
        if other.len().abs_diff(word.len()) > best {
            if word.len().min(other.len()) >= 3
                && (word.starts_with(&other) || other.starts_with(&word))
            {
                begins.push(name);
            }
            continue;
        }
        let d = distance(&word, &other);
        if d < best {
            found.clear();
        }
        if d <= best {
            best = d;
            found.push(name);
        }
    }
    if found.is_empty() {
        found = begins;
    }
    found.truncate(3);
    found
}

/// The hint for an unknown name: the closest ones, then what there is. `what` is a plural.
pub(crate) fn hint<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str> + Clone,
    what: &str,
) -> String {
    let list = listed(known.clone(), what);
    match closest(word, known).as_slice() {
        [] => list,
        near => {
            let near: Vec<_> = near.iter().map(|n| format!("`{n}`")).collect();
            format!("did you mean {}? {list}", near.join(" or "))
        }
    }
}

/// "`what` are: a, b, c", cut short when there are many.
pub(crate) fn listed<'a>(known: impl IntoIterator<Item = &'a str>, what: &str) -> String {
    let known: Vec<_> = known.into_iter().collect();
    if known.is_empty() {
        return format!("there are no {what}");
    }
    let mut out = format!("{what} are: {}", known[..known.len().min(SHOWN)].join(", "));
    if known.len() > SHOWN {
        out.push_str(&format!(" and {} more", known.len() - SHOWN));
    }
    out
}

/// Edit distance with transpositions (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found() {
        let known = ["listen", "data", "nbd", "memory"];
        assert_eq!(closest("listn", known), ["listen"]);
        assert_eq!(closest("LISTEN", known), ["listen"]);
        assert_eq!(closest("dtaa", known), ["data"]);
        assert_eq!(closest("memory_mb", known), ["memory"]);
        assert!(closest("zebra", known).is_empty());
        assert!(closest("", known).is_empty());
        assert_eq!(closest("cel2-ser1", ["cel1-ser1", "cel3-ser1", "x"]).len(), 2);
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..20).map(|i| format!("n{i}")).collect();
        let text = listed(names.iter().map(String::as_str), "nodes");
        assert!(text.ends_with("n7 and 12 more"), "{text}");
        assert_eq!(listed([], "nodes"), "there are no nodes");
    }
}
