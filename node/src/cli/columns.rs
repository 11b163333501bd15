//! Plain aligned columns: no borders, so that `grep` and `awk` work on them.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// Lines under a heading. Columns whose heading begins with `>` are aligned to the right.
pub(super) fn columns(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|h| h.trim_start_matches('>')).collect::<Vec<_>>());
    table.add_rows(rows.iter().cloned());
    let count = headings.len();
    for (i, heading) in headings.iter().enumerate() {
        if let Some(column) = table.column_mut(i) {
            column.set_padding((0, if i + 1 == count { 0 } else { 2 }));
            if heading.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    let mut out = String::new();
    for line in table.lines() {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
