//! Graphviz.

use std::fmt::Write;

use super::{Drawing, colours};

pub fn dot(drawing: &Drawing) -> String {
    let mut out = format!("digraph assay {{\n  label=\"{}\";\n", quote(&drawing.title));
    out.push_str("  compound=true;\n  labelloc=t;\n  node [shape=box, fontname=\"monospace\", fontsize=10];\n");
    for (c, cluster) in drawing.clusters.iter().enumerate() {
        let _ =
            writeln!(out, "  subgraph cluster_{c} {{\n    label=\"{}\";\n    style=rounded;", quote(&cluster.title));
        for (b, shape) in cluster.boxes.iter().enumerate() {
            let style = shape.state.map_or(String::new(), |s| {
                let (fill, stroke) = colours(s);
                format!(", style=filled, fillcolor=\"{fill}\", color=\"{stroke}\"")
            });
            let _ = match shape.node {
                None => writeln!(out, "    s{c}b{b} [label=\"{}\", shape=oval];", quote(&shape.label)),
                Some(_) => {
                    writeln!(
                        out,
                        "    s{c}b{b} [label=\"{}\\n{}\"{style}];",
                        quote(&shape.label),
                        quote(&shape.detail())
                    )
                }
            };
        }
        for (from, to) in &cluster.edges {
            let _ = writeln!(out, "    s{c}b{from} -> s{c}b{to};");
        }
        out.push_str("  }\n");
    }
    for (from, to) in drawing.follows.iter().filter(|(from, to)| from != to) {
        let last = drawing.clusters[*from].boxes.len() - 1;
        // Layers repeat: an arrow back must not push the ranks apart.
        let back = if to < from { ", constraint=false" } else { "" };
        let _ =
            writeln!(out, "  s{from}b{last} -> s{to}b0 [ltail=cluster_{from}, lhead=cluster_{to}, penwidth=2{back}];");
    }
    out.push_str("}\n");
    out
}

fn quote(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ")
}
