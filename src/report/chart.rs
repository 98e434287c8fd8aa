//! The history of a node as a picture: error and time over its rows, in SVG that needs nothing else.
//!
//! Scales are given by the figures themselves, each with its row; there is no number in a chart that no row holds.

use std::fmt::Write as _;

use super::cited::Cited;
use super::page::row_anchor;
use super::timeline::{Event, Kind};
use crate::words::plain;

/// Where a chart stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In a file of its own, which brings its colours.
    File,
    /// In a page that has them and whose rows can be linked to.
    Page,
}

const STEP: f64 = 34.0;
const LEFT: f64 = 84.0;
const PANEL: f64 = 120.0;
/// Between panels, and between the last one and the labels.
const GAP: f64 = 30.0;
/// For labels of a row and a commit, written aslant.
const BELOW: f64 = 92.0;

/// Colours and fonts; a page has them once for all its charts.
pub const STYLE: &str = "svg.chart{--c-ink:#222;--c-soft:#667;--c-line:#bbc;--c-ok:#2f7d32;--c-red:#b3261e;--c-some:#1f6f8b;--c-back:#fff}
@media (prefers-color-scheme:dark){svg.chart{--c-ink:#e8e8ea;--c-soft:#a5a8b5;--c-line:#4a4d5a;--c-ok:#7fd083;--c-red:#ff8a80;--c-some:#7cc7e0;--c-back:#16171d}}
svg.chart text{font:11px ui-monospace,monospace;fill:var(--c-soft)}svg.chart .title{font:bold 13px sans-serif;fill:var(--c-ink)}
svg.chart .back{fill:var(--c-back)}svg.chart .axis{stroke:var(--c-line);fill:none}svg.chart .curve{stroke:var(--c-line);fill:none}
svg.chart .pass{fill:var(--c-ok)}svg.chart .some{fill:var(--c-some)}svg.chart .red{stroke:var(--c-red);stroke-width:2.5;fill:none}";

/// A panel for each sort of figure that some event has; `None` without an event.
pub fn chart(title: &str, events: &[Event<'_>], place: Place) -> Option<String> {
    if events.is_empty() {
        return None;
    }
    let error: Vec<Option<&Cited>> = events.iter().map(|e| e.error.as_ref()).collect();
    let time: Vec<Option<&Cited>> = events.iter().map(|e| e.time.as_ref()).collect();
    let mut panels = vec![("error, relative RMS", error)];
    if time.iter().any(Option::is_some) {
        panels.push(("time, µs", time));
    }
    let width = (LEFT + STEP * events.len() as f64 + 24.0).max(360.0);
    let head = if place == Place::File { 52.0 } else { 26.0 };
    let height = head + panels.len() as f64 * (PANEL + GAP) + BELOW;
    let namespace = if place == Place::File { " xmlns=\"http://www.w3.org/2000/svg\"" } else { "" };
    let mut out = format!(
        "<svg{namespace} class=\"chart\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">\n"
    );
    let _ = writeln!(out, "<title>{}</title>", escape(title));
    if place == Place::File {
        let _ = writeln!(out, "<style>{STYLE}</style>\n<rect class=\"back\" width=\"100%\" height=\"100%\"/>");
        let _ = writeln!(out, "<text class=\"title\" x=\"12\" y=\"20\">{}</text>", escape(title));
    }
    for (i, (name, figures)) in panels.iter().enumerate() {
        let top = head + i as f64 * (PANEL + GAP);
        panel(&mut out, name, figures, events, top, width, place);
    }
    let bottom = height - BELOW;
    for (i, event) in events.iter().enumerate() {
        let (x, y) = (x_of(i), bottom - GAP + 16.0);
        let label = match (event.row, &event.landed) {
            (Some(row), Some(commit)) => format!("row {} {}", row.seq, short(commit)),
            (Some(row), None) => format!("row {}", row.seq),
            (None, _) => event.attempt.as_ref().map_or(String::new(), |a| short(&a.commit).to_string()),
        };
        let text =
            format!("<text x=\"{x:.1}\" y=\"{y:.1}\" transform=\"rotate(45 {x:.1} {y:.1})\">{}</text>", escape(&label));
        let _ = writeln!(out, "{}", linked(&text, event.row.map(|r| r.seq), place));
    }
    out.push_str("</svg>\n");
    Some(out)
}

fn x_of(i: usize) -> f64 {
    LEFT + STEP * (i as f64 + 0.5)
}

/// One sort of figure over the events, on a logarithmic scale where they spread over more than a decade.
fn panel(
    out: &mut String,
    name: &str,
    figures: &[Option<&Cited>],
    events: &[Event<'_>],
    top: f64,
    width: f64,
    place: Place,
) {
    let bottom = top + PANEL;
    let _ = writeln!(out, "<path class=\"axis\" d=\"M{LEFT} {top:.1}V{bottom:.1}H{:.1}\"/>", width - 12.0);
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"{:.1}\">{}</text>", top - 6.0, escape(name));
    let usual = |c: &&Cited| c.value().is_finite() && c.value() > 0.0;
    let by = |a: &&Cited, b: &&Cited| a.value().total_cmp(&b.value());
    let finite = || figures.iter().flatten().copied().filter(usual);
    let (least, most) = (finite().min_by(by), finite().max_by(by));
    // Without a scale there may still be zeros.
    let zero = figures.iter().flatten().copied().find(|c| least.is_none() && c.value() == 0.0);
    let place_of = |c: &Cited| match (least, most) {
        _ if c.value() <= 0.0 => bottom,
        (Some(least), Some(most)) if usual(&c) => {
            let (a, b) = (least.value(), most.value());
            let share = match () {
                () if a == b => 0.5,
                () if b / a > 10.0 => (c.value() / a).ln() / (b / a).ln(),
                () => (c.value() - a) / (b - a),
            };
            bottom - 12.0 - share * (PANEL - 24.0)
        }
        // NaN and infinity are beyond every scale.
        _ => top,
    };
    for (end, cited) in [("least", least.or(zero)), ("most", most)] {
        let Some(cited) = cited.filter(|_| end == "least" || least.map(Cited::row) != most.map(Cited::row)) else {
            continue;
        };
        let y = place_of(cited) + 4.0;
        let text =
            format!("<text x=\"{:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>", LEFT - 6.0, escape(&cited.text()));
        let _ = writeln!(out, "{}", linked(&text, Some(cited.row()), place));
    }
    let points: Vec<(usize, f64)> =
        figures.iter().enumerate().filter_map(|(i, c)| Some((i, place_of((*c)?)))).collect();
    let path: Vec<_> = points.iter().map(|(i, y)| format!("{:.1} {y:.1}", x_of(*i))).collect();
    if path.len() > 1 {
        let _ = writeln!(out, "<path class=\"curve\" d=\"M{}\"/>", path.join("L"));
    }
    for (i, event) in events.iter().enumerate() {
        let at = points.iter().find(|(j, _)| *j == i).map(|(_, y)| *y);
        // What has no figure stands on the axis, so that no attempt is missing; bench rows are of time alone.
        let Some(y) = at.or((event.kind != Kind::Bench).then_some(bottom)) else { continue };
        let x = x_of(i);
        let figure = figures[i].map_or(String::new(), |c| format!(", {}", c.text()));
        let row = event.row.map_or(String::new(), |row| format!("row {}: ", row.seq));
        let about = format!("{row}{}{figure} {}", event.kind.name(), plain(&event.reason, 160));
        let mark = match event.kind {
            Kind::Red | Kind::Attempt | Kind::Refused => {
                format!("<path class=\"red\" d=\"M{:.1} {:.1}l9 9m0 -9l-9 9\"/>", x - 4.5, y - 4.5)
            }
            kind => {
                let class = if kind == Kind::Pass { "pass" } else { "some" };
                format!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"/>")
            }
        };
        let mark = format!("<g><title>{}</title>{mark}</g>", escape(about.trim_end()));
        let _ = writeln!(out, "{}", linked(&mark, event.row.map(|r| r.seq), place));
    }
}

fn linked(svg: &str, row: Option<u64>, place: Place) -> String {
    match (row, place) {
        (Some(row), Place::Page) => format!("<a href=\"#{}\">{svg}</a>", row_anchor(row)),
        _ => svg.to_string(),
    }
}

fn short(commit: &str) -> &str {
    commit.get(..8).unwrap_or(commit)
}

fn escape(text: &str) -> String {
    plain(text, 400).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
