//! SVG, drawn without any other program: one row of clusters per part of the model, arrows between the rows.

use std::fmt::Write;

use super::layout::{Laid, lay};
use super::{Cluster, Drawing, Shape, colours, meaning};
use crate::ops::Node;
use crate::plan::graph::Part;

const BETWEEN: f64 = 56.0;
const ASIDE: f64 = 28.0;
const HEAD: f64 = 40.0;
/// Left of the clusters, for the arrow from the last half of a layer to the next layer.
const LEFT: f64 = 64.0;

/// A file of its own.
pub fn svg(drawing: &Drawing) -> String {
    draw_all(drawing, None)
}

/// A part of a page, in whose colours it is drawn ([`PAGE_STYLE`]); each node links to where `link` says that it is
/// described. Title and legend are the page's.
pub fn svg_in_page(drawing: &Drawing, link: &dyn Fn(&Node) -> String) -> String {
    draw_all(drawing, Some(link))
}

/// Where a node is described.
type Link<'l> = Option<&'l dyn Fn(&Node) -> String>;

fn draw_all(drawing: &Drawing, link: Link<'_>) -> String {
    let laid: Vec<Laid> = drawing.clusters.iter().map(lay).collect();
    let mut at = vec![(0.0, 0.0); laid.len()];
    let head = if link.is_none() { HEAD } else { 12.0 };
    let (mut y, mut width) = (head, 0.0f64);
    let mut rows: Vec<(f64, f64)> = Vec::new();
    for part in [Part::Input, Part::Attention, Part::Experts, Part::Head] {
        let row: Vec<usize> = (0..laid.len()).filter(|c| drawing.clusters[*c].part == part).collect();
        let (mut x, mut height) = (LEFT, 0.0f64);
        for c in row {
            at[c] = (x, y);
            x += laid[c].size.0 + ASIDE;
            height = height.max(laid[c].size.1);
        }
        if height > 0.0 {
            rows.push((y, y + height));
            width = width.max(x);
            y += height + BETWEEN;
        }
    }
    let legend = if link.is_none() { drawing.states.len() as f64 * 18.0 } else { 0.0 };
    let title = if link.is_none() { drawing.title.chars().count() as f64 * 8.5 + 2.0 * LEFT } else { 0.0 };
    let (width, height) = (width.max(title), y - BETWEEN + 24.0 + legend);
    let kind = match link {
        None => "xmlns=\"http://www.w3.org/2000/svg\"",
        Some(_) => "class=\"graph\"",
    };
    let mut out = format!(
        "<svg {kind} width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">\n"
    );
    let _ = writeln!(out, "<title>{}</title>", escape(&drawing.title));
    if link.is_none() {
        let _ = writeln!(out, "<style>\n{STYLE}</style>");
    }
    out.push_str(TIP);
    if link.is_none() {
        let _ = writeln!(out, "<rect class=\"page\" width=\"100%\" height=\"100%\"/>");
        let _ = writeln!(out, "<text class=\"title\" x=\"{LEFT}\" y=\"26\">{}</text>", escape(&drawing.title));
    }
    for &(from, to) in &drawing.follows {
        arrow(&mut out, (at[from], laid[from].size), (at[to], laid[to].size), &rows);
    }
    for ((cluster, laid), (x, y)) in drawing.clusters.iter().zip(&laid).zip(&at) {
        let _ = writeln!(out, "<g transform=\"translate({x:.1} {y:.1})\">");
        draw(&mut out, cluster, laid, link);
        out.push_str("</g>\n");
    }
    for (i, state) in drawing.states.iter().enumerate().filter(|_| link.is_none()) {
        let y = height - legend + i as f64 * 18.0 - 8.0;
        let (fill, stroke) = colours(*state);
        let _ = writeln!(
            out,
            "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"14\" height=\"12\" rx=\"2\" fill=\"{fill}\" stroke=\"{stroke}\"/>"
        );
        let _ = writeln!(
            out,
            "<text class=\"legend\" x=\"{}\" y=\"{:.1}\">{}</text>",
            LEFT + 22.0,
            y + 10.0,
            meaning(*state)
        );
    }
    out.push_str("</svg>\n");
    out
}

const STYLE: &str =
    ".page { fill: #fff } .title { font: bold 14px sans-serif; fill: #222 } .legend, .when { fill: #444 }
.cluster { fill: #fafafa; stroke: #999 } .name { font: bold 12px sans-serif; fill: #222 }
.box { fill: #fff; stroke: #666 } text { font: 11px monospace } .label { fill: #000 }
.edge { fill: none; stroke: #888 } .flow { fill: none; stroke: #444; stroke-width: 2 } .tip { fill: #444 }
";

/// For the page that holds [`svg_in_page`]'s drawing, on its own colours `--ink`, `--soft`, `--line`, `--card`, `--paper`.
/// Boxes with a state are light in dark pages too, so their labels stay black.
pub const PAGE_STYLE: &str =
    "svg.graph text{font:11px ui-monospace,monospace}svg.graph .name{font:bold 12px sans-serif;fill:var(--ink)}
svg.graph .cluster{fill:var(--card);stroke:var(--line)}svg.graph .box{fill:var(--paper);stroke:var(--soft)}
svg.graph .label{fill:#000}svg.graph .entry{fill:var(--ink)}svg.graph .edge{fill:none;stroke:var(--soft)}
svg.graph .flow{fill:none;stroke:var(--ink);stroke-width:2}svg.graph .tip{fill:var(--ink)}";

const TIP: &str = "<defs>
<marker id=\"tip\" viewBox=\"0 0 6 6\" refX=\"6\" refY=\"3\" markerWidth=\"6\" markerHeight=\"6\" orient=\"auto\"><path class=\"tip\" d=\"M0 0L6 3L0 6z\"/></marker>
</defs>
";

fn draw(out: &mut String, cluster: &Cluster, laid: &Laid, link: Link<'_>) {
    let (w, h) = laid.size;
    let _ = writeln!(out, "<rect class=\"cluster\" width=\"{w:.1}\" height=\"{h:.1}\" rx=\"8\"/>");
    let _ = writeln!(out, "<text class=\"name\" x=\"14\" y=\"22\">{}</text>", escape(&cluster.title));
    for points in &laid.edges {
        let mut path = format!("M{:.1} {:.1}", points[0].0, points[0].1);
        for pair in points.windows(2) {
            let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
            let half = (y0 + y1) / 2.0;
            let _ = write!(path, "C{x0:.1} {half:.1} {x1:.1} {half:.1} {x1:.1} {y1:.1}");
        }
        let _ = writeln!(out, "<path class=\"edge\" marker-end=\"url(#tip)\" d=\"{path}\"/>");
    }
    for (shape, r) in cluster.boxes.iter().zip(&laid.boxes) {
        let style = shape.state.map_or(String::new(), |s| {
            let (fill, stroke) = colours(s);
            format!(" style=\"fill:{fill};stroke:{stroke}\"")
        });
        let round = if shape.node.is_none() { r.h / 2.0 } else { 3.0 };
        let anchor = shape.node.as_ref().zip(link).map(|(node, link)| link(node));
        if let Some(anchor) = &anchor {
            let _ = writeln!(out, "<a href=\"#{}\">", escape(anchor));
        }
        let _ = writeln!(out, "<g><title>{}</title>", escape(&tooltip(shape)));
        let _ = writeln!(
            out,
            "<rect class=\"box\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"{round:.0}\"{style}/>",
            r.x, r.y, r.w, r.h
        );
        let middle = r.x + r.w / 2.0;
        let detail = shape.detail();
        let first = if detail.is_empty() { r.y + r.h / 2.0 + 4.0 } else { r.y + 15.0 };
        // Black on the light colour of a state, the page's own ink on its own ground.
        let class = if link.is_some() && shape.state.is_none() { "label entry" } else { "label" };
        let mut line = |y: f64, text: &str| {
            let _ = writeln!(
                out,
                "<text class=\"{class}\" x=\"{middle:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>",
                escape(text)
            );
        };
        line(first, &shape.label);
        if !detail.is_empty() {
            line(r.y + 30.0, &detail);
        }
        out.push_str(if anchor.is_some() { "</g></a>\n" } else { "</g>\n" });
    }
}

fn tooltip(shape: &Shape) -> String {
    match (&shape.node, shape.state) {
        (None, _) => format!("{}, as the step has it before", shape.label),
        (Some(_), Some(state)) => format!("{}: {}; {}", shape.label, shape.detail(), meaning(state)),
        (Some(_), None) => format!("{}: {}", shape.label, shape.detail()),
    }
}

/// From one cluster down to another, or up along the left margin to an earlier row.
fn arrow(
    out: &mut String,
    (from, a): ((f64, f64), (f64, f64)),
    (to, b): ((f64, f64), (f64, f64)),
    rows: &[(f64, f64)],
) {
    let (x0, y0) = (from.0 + a.0 / 2.0, from.1 + a.1);
    let (x1, y1) = (to.0 + b.0 / 2.0, to.1);
    let end = rows.iter().find(|(top, _)| *top == from.1).map_or(y0, |(_, bottom)| *bottom);
    let path = if y1 > y0 {
        let half = (end + y1) / 2.0;
        format!("M{x0:.1} {y0:.1}L{x0:.1} {end:.1}C{x0:.1} {half:.1} {x1:.1} {half:.1} {x1:.1} {y1:.1}")
    } else {
        let (below, above) = (end + BETWEEN / 2.0, y1 - BETWEEN / 2.0);
        let left = LEFT / 2.0;
        format!(
            "M{x0:.1} {y0:.1}L{x0:.1} {below:.1}L{left:.1} {below:.1}L{left:.1} {above:.1}L{x1:.1} {above:.1}L{x1:.1} {y1:.1}"
        )
    };
    let _ = writeln!(out, "<path class=\"flow\" marker-end=\"url(#tip)\" d=\"{path}\"/>");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
