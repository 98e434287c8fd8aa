//! Mermaid, for README files and anything else that renders Markdown.

use std::fmt::Write;

use super::{Drawing, colours};

pub fn mermaid(drawing: &Drawing) -> String {
    let mut out = format!("---\ntitle: \"{}\"\n---\nflowchart TB\n", quote(&drawing.title));
    for (c, cluster) in drawing.clusters.iter().enumerate() {
        let _ = writeln!(out, "  subgraph s{c} [\"{}\"]\n    direction TB", quote(&cluster.title));
        for (b, shape) in cluster.boxes.iter().enumerate() {
            let class = shape.state.map_or(String::new(), |s| format!(":::{}", s.name()));
            let _ = match shape.node {
                None => writeln!(out, "    s{c}b{b}([\"{}\"])", quote(&shape.label)),
                Some(_) => {
                    writeln!(out, "    s{c}b{b}[\"{}<br/>{}\"]{class}", quote(&shape.label), quote(&shape.detail()))
                }
            };
        }
        for (from, to) in &cluster.edges {
            let _ = writeln!(out, "    s{c}b{from} --> s{c}b{to}");
        }
        out.push_str("  end\n");
    }
    for (from, to) in &drawing.follows {
        // A section that follows itself needs no arrow; its title lists the layers.
        if from != to {
            let _ = writeln!(out, "  s{from} ==> s{to}");
        }
    }
    for state in &drawing.states {
        let (fill, stroke) = colours(*state);
        let _ = writeln!(out, "  classDef {} fill:{fill},stroke:{stroke},color:#000", state.name());
    }
    out
}

/// Within double quotes Mermaid takes everything but the quote itself, and entities begin with `#`.
fn quote(text: &str) -> String {
    text.replace('&', "#amp;")
        .replace('"', "#quot;")
        .replace('<', "#lt;")
        .replace('>', "#gt;")
        .replace(['\n', '\r'], " ")
}
