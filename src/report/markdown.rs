//! A page as Markdown.

use std::fmt::Write as _;

use super::page::{Block, Cell, Inline, Page, around_row, node_anchor, row_anchor};

pub fn markdown(page: &Page) -> String {
    let mut out = String::new();
    for block in &page.blocks {
        match block {
            Block::Heading(level, text, anchor) => {
                let _ = writeln!(out, "<a id=\"{anchor}\"></a>\n\n{} {}\n", "#".repeat(*level), cell(text));
            }
            Block::Para(text) => {
                let _ = writeln!(out, "{}\n", cell(text));
            }
            Block::List(items) => {
                for item in items {
                    let _ = writeln!(out, "- {}", cell(item));
                }
                out.push('\n');
            }
            Block::Table { head, rows } => {
                let _ = writeln!(out, "| {} |\n|{}", head.join(" | "), "---|".repeat(head.len()));
                for row in rows {
                    let cells: Vec<_> = row.iter().map(cell).collect();
                    let _ = writeln!(out, "| {} |", cells.join(" | "));
                }
                out.push('\n');
            }
            Block::Picture { about, .. } => {
                let _ = writeln!(out, "{}\n", cell(about));
            }
            Block::Legend(_) => {}
            Block::Blank(text) => {
                let _ = writeln!(out, "*{text}*\n");
            }
        }
    }
    out
}

fn cell(inlines: &Cell) -> String {
    inlines.iter().map(inline).collect()
}

fn inline(inline: &Inline) -> String {
    let link = |text: &str, row: u64| format!("[{text}](#{})", row_anchor(row));
    match inline {
        Inline::Words(text) => (*text).into(),
        Inline::Silence(text) => escape(text.as_str()),
        Inline::Name(text) | Inline::Quote(text) => code(text.as_str()),
        Inline::Said { text, row } => {
            let link = link(&format!("row {row}"), *row);
            match around_row(text.as_str(), *row) {
                Some((before, behind)) => format!("{}{link}{}", escape(before), escape(behind)),
                None => format!("{} ({link})", escape(text.as_str())),
            }
        }
        Inline::Figure(cited) => link(&cited.text(), cited.row()),
        Inline::Tally(tally) => {
            let run = |(first, last): (u64, u64)| match first == last {
                true => link(&first.to_string(), first),
                false => format!("{}–{}", link(&first.to_string(), first), link(&last.to_string(), last)),
            };
            let rows: Vec<_> = tally.runs().into_iter().map(run).collect();
            match rows.is_empty() {
                true => tally.things().to_string(),
                false => format!("{} (rows {})", tally.things(), rows.join(", ")),
            }
        }
        Inline::Plan(n) | Inline::Claims(n) => n.to_string(),
        Inline::Row(row) => link(&format!("row {row}"), *row),
        Inline::Node(node) => format!("[{}](#{})", escape(&node.to_string()), node_anchor(node)),
        Inline::State(state) => state.name().into(),
        Inline::Outcome(outcome) => outcome.name().into(),
    }
}

/// Text in which nothing is Markdown or HTML.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            // A scheme alone makes some readers link.
            ':' => out.push_str("&#58;"),
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '(' | ')' | '#' | '!' | '|' | '~' | '@' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out.replace("www.", "www&#46;")
}

/// A text as it is, in more backquotes than it holds.
fn code(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    // A bar would end a table's cell even here.
    let text = text.replace('|', "\u{2502}");
    let pad = if text.starts_with('`') || text.ends_with('`') || text.trim().is_empty() { " " } else { "" };
    format!("{fence}{pad}{text}{pad}{fence}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_text_is_no_markdown() {
        assert_eq!(escape("<img src=http://x> [a](b) |"), "&lt;img src=http&#58;//x&gt; \\[a\\]\\(b\\) \\|");
        assert_eq!(code("a``b"), "```a``b```");
        assert_eq!(code("`a|"), "`` `a\u{2502} ``");
    }
}
