//! Samples, medians, tables and JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use comfy_table::{CellAlignment, Table};
use serde::Serialize;

/// What one contestant reached in one row, over the runs.
#[derive(Clone, Debug, Default, Serialize)]
struct Samples {
    values: Vec<f64>,
}

impl Samples {
    fn sorted(&self) -> Vec<f64> {
        let mut v = self.values.clone();
        v.sort_by(f64::total_cmp);
        v
    }

    fn median(&self) -> f64 {
        let v = self.sorted();
        match v.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => v[n / 2],
            n => f64::midpoint(v[n / 2 - 1], v[n / 2]),
        }
    }

    fn shown(&self) -> String {
        let v = self.sorted();
        match v.as_slice() {
            [] => "-".to_owned(),
            [one] => number(*one),
            [low, .., high] => {
                format!("{} ({}–{})", number(self.median()), number(*low), number(*high))
            }
        }
    }
}

fn number(x: f64) -> String {
    match x.abs() {
        a if a >= 1000.0 => format!("{x:.0}"),
        a if a >= 100.0 => format!("{x:.1}"),
        a if a >= 1.0 => format!("{x:.2}"),
        _ => format!("{x:.3}"),
    }
}

/// A target: one contestant's figure against another's.
#[derive(Clone, Debug, Serialize)]
struct Ratio {
    title: String,
    row: String,
    text: String,
    ratio: f64,
    target: f64,
    /// The ratio should be at least the target; else at most.
    at_least: bool,
    met: bool,
}

/// One table.
#[derive(Clone, Debug, Default, Serialize)]
struct Section {
    title: String,
    unit: String,
    columns: Vec<String>,
    rows: Vec<String>,
    /// row → column → samples.
    cells: BTreeMap<String, BTreeMap<String, Samples>>,
}

/// Everything of one call.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    facts: BTreeMap<String, String>,
    sections: Vec<Section>,
    ratios: Vec<Ratio>,
    missing: BTreeSet<String>,
    notes: Vec<String>,
    #[serde(skip)]
    printed: (usize, usize, usize),
}

impl Report {
    pub(super) fn new(facts: BTreeMap<String, String>) -> Self {
        Self {
            facts,
            sections: Vec::new(),
            ratios: Vec::new(),
            missing: BTreeSet::new(),
            notes: Vec::new(),
            printed: (0, 0, 0),
        }
    }

    /// Adds one sample; tables, rows and columns come up in the order of their first sample.
    pub(super) fn add(&mut self, title: &str, unit: &str, row: &str, column: &str, value: f64) {
        let at = self.sections.iter().position(|s| s.title == title).unwrap_or_else(|| {
            self.sections.push(Section {
                title: title.to_owned(),
                unit: unit.to_owned(),
                ..Section::default()
            });
            self.sections.len() - 1
        });
        let s = &mut self.sections[at];
        if !s.columns.iter().any(|c| c == column) {
            s.columns.push(column.to_owned());
        }
        if !s.rows.iter().any(|r| r == row) {
            s.rows.push(row.to_owned());
        }
        let cell = s.cells.entry(row.to_owned()).or_default().entry(column.to_owned());
        cell.or_default().values.push(value);
    }

    fn median(&self, title: &str, row: &str, column: &str) -> Option<f64> {
        let s = self.sections.iter().find(|s| s.title == title)?;
        Some(s.cells.get(row)?.get(column)?.median())
    }

    /// Compares the medians of two columns of a row with a target, if both are there.
    pub(super) fn ratio(
        &mut self,
        title: &str,
        row: &str,
        (a, b): (&str, &str),
        target: f64,
        at_least: bool,
    ) {
        let (Some(x), Some(y)) = (self.median(title, row, a), self.median(title, row, b)) else {
            return;
        };
        let ratio = x / y;
        self.ratios.push(Ratio {
            title: title.to_owned(),
            row: row.to_owned(),
            text: format!("{a} / {b}"),
            ratio,
            target,
            at_least,
            met: if at_least { ratio >= target } else { ratio <= target },
        });
    }

    /// Compares a figure with a target.
    pub(super) fn bound(&mut self, title: &str, row: &str, column: &str, target: f64) {
        let Some(x) = self.median(title, row, column) else { return };
        self.ratios.push(Ratio {
            title: title.to_owned(),
            row: row.to_owned(),
            text: column.to_owned(),
            ratio: x,
            target,
            at_least: false,
            met: x <= target,
        });
    }

    /// A program that is not there.
    pub(super) fn lacks(&mut self, text: String) {
        if self.missing.insert(text.clone()) {
            eprintln!("NOT MEASURED: {text}");
        }
    }

    /// Something a reader of the figures must know.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    pub(super) fn print_facts(&self) {
        for (k, v) in &self.facts {
            println!("{k:20} {v}");
        }
    }

    /// Prints what was added since the last call.
    pub(super) fn print_new(&mut self) {
        let (sections, ratios, notes) = self.printed;
        for s in &self.sections[sections..] {
            let mut t = Table::new();
            t.load_style(comfy_table::presets::ASCII_MARKDOWN);
            t.set_header([""].into_iter().chain(s.columns.iter().map(String::as_str)));
            for row in &s.rows {
                let empty = BTreeMap::new();
                let cells = s.cells.get(row).unwrap_or(&empty);
                let shown =
                    s.columns.iter().map(|c| cells.get(c).map_or("-".to_owned(), Samples::shown));
                t.add_row([row.clone()].into_iter().chain(shown));
            }
            for i in 1..=s.columns.len() {
                if let Some(c) = t.column_mut(i) {
                    c.set_cell_alignment(CellAlignment::Right);
                }
            }
            println!("\n## {} ({}); median (smallest–largest)\n\n{t}", s.title, s.unit);
        }
        if self.ratios.len() > ratios {
            let mut t = Table::new();
            t.load_style(comfy_table::presets::ASCII_MARKDOWN);
            t.set_header(["", "row", "ratio", "is", "target", ""]);
            for r in &self.ratios[ratios..] {
                let sign = if r.at_least { "≥" } else { "≤" };
                t.add_row([
                    r.title.clone(),
                    r.row.clone(),
                    r.text.clone(),
                    format!("{:.2}", r.ratio),
                    format!("{sign} {:.2}", r.target),
                    if r.met { "met" } else { "MISSED" }.to_owned(),
                ]);
            }
            println!("\n## Targets\n\n{t}");
        }
        for n in &self.notes[notes..] {
            println!("\nNote: {n}");
        }
        self.printed = (self.sections.len(), self.ratios.len(), self.notes.len());
    }

    pub(super) fn print_missing(&self) {
        for m in &self.missing {
            println!("\nNOT MEASURED: {m}");
        }
    }

    pub(super) fn store(&self, file: Option<&Path>) -> anyhow::Result<()> {
        if let Some(file) = file {
            std::fs::write(file, serde_json::to_vec_pretty(self)?)?;
        }
        Ok(())
    }
}
