//! Figures that may be shown: each with the row that holds it.
//!
//! The fields are private and rows are the only things that make one, so that a page cannot show a measured number
//! without saying where it was measured: there is no other way to spell it.

use std::collections::BTreeSet;

use crate::ledger::{Figure, Row, StageRecord, Statement, figure};

/// A measured number, and its row.
#[derive(Clone, Debug)]
pub struct Cited {
    figure: Figure,
    row: u64,
}

impl Cited {
    /// The largest figure of this name in a verdict or in the runs of a bench row; a NaN is larger than everything.
    pub fn worst(row: &Row, name: &str) -> Option<Cited> {
        let of_name = |key: &str| key.rsplit('.').next() == Some(name);
        let figure = match row.statement() {
            Statement::Verdict(v) => v.worst(name).map(Figure::Real)?,
            Statement::Bench(b) => {
                let all = b.runs.values().flatten().filter(|(key, _)| of_name(key)).map(|(_, f)| f.as_f64());
                Figure::Real(all.reduce(|a, b| if a.is_nan() || a > b { a } else { b })?)
            }
            _ => return None,
        };
        Some(Cited { figure, row: row.seq })
    }

    /// Error of a verdict: relative RMS, or where there is none the largest difference.
    pub fn error(row: &Row) -> Option<Cited> {
        Cited::worst(row, figure::REL_RMS)
    }

    /// Device time in one step, µs.
    pub fn time(row: &Row) -> Option<Cited> {
        Cited::worst(row, figure::TIME_US)
    }

    /// Every figure of a stage, by name.
    pub fn of_stage<'r>(row: &'r Row, stage: &'r StageRecord) -> impl Iterator<Item = (&'r str, Cited)> {
        let mine =
            |row: &Row| row.statement().verdict().is_some_and(|v| v.stages.iter().any(|s| std::ptr::eq(s, stage)));
        let seq = mine(row).then_some(row.seq);
        stage.figures.iter().filter_map(move |(name, f)| Some((name.as_str(), Cited { figure: *f, row: seq? })))
    }

    /// Every figure of a bench row: run, name, figure.
    pub fn of_runs(row: &Row) -> Vec<(&str, &str, Cited)> {
        let Statement::Bench(bench) = row.statement() else { return Vec::new() };
        let runs = bench.runs.iter().flat_map(|(run, figures)| figures.iter().map(move |f| (run, f)));
        runs.map(|(run, (name, f))| (run.as_str(), name.as_str(), Cited { figure: *f, row: row.seq })).collect()
    }

    pub fn row(&self) -> u64 {
        self.row
    }

    /// For a place in a chart, which shows the row as well.
    pub fn value(&self) -> f64 {
        self.figure.as_f64()
    }

    /// Few digits for people; the row has them all.
    pub fn text(&self) -> String {
        match self.figure {
            Figure::Count(n) => n.to_string(),
            Figure::Real(0.0) => "0".into(),
            Figure::Real(x) if (1e-2..1e6).contains(&x.abs()) => {
                let text = format!("{x:.3}");
                text.trim_end_matches('0').trim_end_matches('.').to_string()
            }
            Figure::Real(x) => format!("{x:.2e}"),
        }
    }
}

/// How many rows say something: a number that is made of rows, and names them.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    rows: BTreeSet<u64>,
    things: usize,
}

impl Tally {
    /// One more thing that these rows, at least one, say.
    pub fn add(&mut self, rows: impl IntoIterator<Item = u64>) {
        let rows: Vec<u64> = rows.into_iter().collect();
        self.things += usize::from(!rows.is_empty());
        self.rows.extend(rows);
    }

    pub fn things(&self) -> usize {
        self.things
    }

    pub fn rows(&self) -> impl Iterator<Item = u64> {
        self.rows.iter().copied()
    }

    /// First and last of each run of rows.
    pub fn runs(&self) -> Vec<(u64, u64)> {
        let rows: Vec<u64> = self.rows().collect();
        rows.chunk_by(|a, b| a + 1 == *b).filter_map(|run| Some((*run.first()?, *run.last()?))).collect()
    }
}
