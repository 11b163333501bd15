//! `rcpctl history`: writers and forks of a volume.

use crate::api::HistoryLine;
use crate::cli::text::full_moment;

/// Draws all histories that the nodes know, as one tree; `who` follows which.
pub(super) fn draw(volume: &str, known: &[(String, Vec<HistoryLine>)]) -> String {
    let mut out = format!("volume {volume}\n");
    branch(known, 0, &mut out, 0);
    out
}

fn branch(known: &[(String, Vec<HistoryLine>)], depth: usize, out: &mut String, indent: usize) {
    let mut seen: Vec<&HistoryLine> = Vec::new();
    for (_, h) in known {
        let Some(line) = h.get(depth) else { continue };
        if seen.iter().any(|s| s.generation == line.generation) {
            continue;
        }
        seen.push(line);
    }
    let split = seen.len() > 1;
    for line in seen {
        let same = |h: &&(String, Vec<HistoryLine>)| {
            h.1.get(depth).is_some_and(|l| l.generation == line.generation)
        };
        let below: Vec<_> = known.iter().filter(same).cloned().collect();
        let mut at: Vec<&str> =
            below.iter().filter(|(_, h)| h.len() == depth + 1).map(|(n, _)| n.as_str()).collect();
        at.sort_unstable();
        at.dedup();
        let from = if depth == 0 {
            "from the beginning".to_owned()
        } else {
            format!("from set {}", line.forked_from)
        };
        out.push_str(&format!(
            "{:indent$}{} {from}, opened by {} at {}{}{}\n",
            "",
            if depth == 0 { "●" } else { "└─" },
            line.opened_by,
            full_moment(line.opened_at_us),
            format_args!(" ({})", line.generation),
            if at.is_empty() { String::new() } else { format!(": {}", at.join(", ")) },
        ));
        if split && depth > 0 {
            let text = "   another line begins here as well";
            out.push_str(&format!("{:indent$}{text}\n", ""));
        }
        branch(&below, depth + 1, out, indent + 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_has_two_lines_below_it() {
        let line = |g: &str, from, by: &str| HistoryLine {
            generation: g.into(),
            forked_from: from,
            opened_by: by.into(),
            opened_at_us: 1_700_000_000_000_000,
        };
        let first = line("1-aa", 0, "p");
        let known = [
            ("p".to_owned(), vec![first.clone()]),
            ("l1".to_owned(), vec![first.clone(), line("2-bb", 10, "l1")]),
            ("l2".to_owned(), vec![first.clone(), line("2-cc", 7, "l2")]),
            ("l3".to_owned(), vec![first, line("2-bb", 10, "l1")]),
        ];
        let t = full_moment(1_700_000_000_000_000);
        assert_eq!(
            draw("vol", &known),
            format!(
                "volume vol\n\
                 ● from the beginning, opened by p at {t} (1-aa): p\n\
                 \x20 └─ from set 10, opened by l1 at {t} (2-bb): l1, l3\n\
                 \x20    another line begins here as well\n\
                 \x20 └─ from set 7, opened by l2 at {t} (2-cc): l2\n\
                 \x20    another line begins here as well\n"
            )
        );
    }
}
