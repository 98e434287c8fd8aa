//! A page as one HTML file that needs nothing else: no script, no font, no picture, no request.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::graph::PAGE_STYLE;
use super::page::{Block, Cell, Inline, Page, around_row, node_anchor, row_anchor};
use super::proof::State;
use super::reconcile::Outcome;
use super::{chart, graph};

/// Says to the browser what is true anyway: that this page asks for nothing.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

const STYLE: &str = ":root{color-scheme:light dark;--ink:#1d1f24;--soft:#5c606b;--line:#d5d8df;--card:#f6f7f9;--paper:#fff;--link:#1a5fb4;--bad:#b3261e;--good:#23692a}
@media (prefers-color-scheme:dark){:root{--ink:#e8e8ea;--soft:#a5a8b5;--line:#3b3e49;--card:#20222a;--paper:#16171d;--link:#8ab4f8;--bad:#ff8a80;--good:#7fd083}}
*{box-sizing:border-box}body{margin:0 auto;padding:1.2rem 1rem 4rem;max-width:78rem;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.7rem;line-height:1.2}h2{margin-top:2.4rem;border-bottom:1px solid var(--line);padding-bottom:.2rem}h3{margin-top:1.8rem}
a{color:var(--link)}code,.said{font-size:.93em}code{font-family:ui-monospace,monospace;background:var(--card);padding:.05em .3em;border-radius:3px;white-space:pre-wrap}
q{quotes:'\\201c' '\\201d'}.wide{overflow-x:auto;margin:1rem 0;padding:.4rem;border:1px solid var(--line);border-radius:6px}svg{display:block}
table{border-collapse:collapse;width:100%;margin:.8rem 0}th,td{text-align:left;vertical-align:top;padding:.35rem .6rem;border-bottom:1px solid var(--line)}th{color:var(--soft);font-weight:600;font-size:.9em;overflow-wrap:normal}td:first-child{min-width:10rem}
.state{color:#000;padding:.05em .45em;border-radius:9px;border:1px solid;font-size:.88em;white-space:nowrap}.bad{color:var(--bad);font-weight:600}.good{color:var(--good);font-weight:600}.blank{color:var(--soft);font-style:italic}
nav ul,.legend{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.3rem .9rem}figure{margin:1rem 0}figcaption{color:var(--soft);font-size:.92em}
@media (max-width:44rem){body{font-size:15px}thead{position:absolute;left:-9999px}tr,td{display:block;border:0}tr{border-bottom:1px solid var(--line);padding:.5rem 0}td{padding:.12rem 0}td[data-of]::before{content:attr(data-of) ' ';color:var(--soft);font-size:.85em}}
@media print{.wide{overflow:visible}}";

pub fn html(page: &Page) -> String {
    let contents = page.blocks.iter().filter_map(|block| match block {
        Block::Heading(2, text, anchor) => Some((text, anchor)),
        _ => None,
    });
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="referrer" content="no-referrer";
                link rel="icon" href="data:,";
                title { (page.title) }
                style { (PreEscaped(STYLE)) (PreEscaped(PAGE_STYLE)) (PreEscaped(chart::STYLE)) }
            }
            body {
                main {
                    @for (i, block) in page.blocks.iter().enumerate() {
                        @if i == 1 {
                            nav aria-label="Contents" {
                                ul { @for (text, anchor) in contents.clone() { li { a href={ "#" (anchor) } { (cell(text)) } } } }
                            }
                        }
                        (self::block(block))
                    }
                }
            }
        }
    };
    let mut text = document.into_string();
    text.push('\n');
    text
}

fn block(block: &Block) -> Markup {
    match block {
        Block::Heading(1, text, anchor) => html! { h1 id=(anchor) { (cell(text)) } },
        Block::Heading(2, text, anchor) => html! { h2 id=(anchor) { (cell(text)) } },
        Block::Heading(3, text, anchor) => html! { h3 id=(anchor) { (cell(text)) } },
        Block::Heading(_, text, anchor) => html! { h4 id=(anchor) { (cell(text)) } },
        Block::Para(text) => html! { p { (cell(text)) } },
        Block::List(items) => html! { ul { @for item in items { li { (cell(item)) } } } },
        Block::Table { head, rows } => html! {
            table {
                thead { tr { @for name in head { th scope="col" { (name) } } } }
                tbody {
                    @for row in rows {
                        tr { @for (i, text) in row.iter().enumerate() { td data-of=[head.get(i)] { (cell(text)) } } }
                    }
                }
            }
        },
        Block::Picture { svg, about } => html! {
            figure {
                div.wide tabindex="0" { (PreEscaped(svg)) }
                figcaption { (cell(about)) }
            }
        },
        Block::Legend(states) => html! {
            ul.legend { @for state in states { li { (pill(*state)) " " (graph::meaning(*state)) } } }
        },
        Block::Blank(text) => html! { p.blank { (text) } },
    }
}

fn cell(inlines: &Cell) -> Markup {
    html! { @for inline in inlines { (self::inline(inline)) } }
}

fn row(row: u64, text: &str) -> Markup {
    html! { a href={ "#" (row_anchor(row)) } { (text) } }
}

fn inline(inline: &Inline) -> Markup {
    match inline {
        Inline::Words(text) => html! { (text) },
        Inline::Silence(text) => html! { (text.as_str()) },
        Inline::Name(text) => html! { code { (text.as_str()) } },
        Inline::Quote(text) => html! { q { (text.as_str()) } },
        Inline::Said { text, row: n } => {
            let link = row(*n, &format!("row {n}"));
            match around_row(text.as_str(), *n) {
                Some((before, behind)) => html! { span.said { (before) (link) (behind) } },
                None => html! { span.said { (text.as_str()) " (" (link) ")" } },
            }
        }
        Inline::Figure(cited) => html! { (row(cited.row(), &cited.text())) },
        Inline::Tally(tally) => html! {
            (tally.things())
            @for (i, (first, last)) in tally.runs().into_iter().enumerate() {
                @if i == 0 { " (rows " } @else { ", " }
                (row(first, &first.to_string()))
                @if last > first { "–" (row(last, &last.to_string())) }
            }
            @if tally.rows().next().is_some() { ")" }
        },
        Inline::Plan(n) | Inline::Claims(n) => html! { (n) },
        Inline::Row(n) => row(*n, &format!("row {n}")),
        Inline::Node(node) => html! { a href={ "#" (node_anchor(node)) } { code { (node.to_string()) } } },
        Inline::State(state) => pill(*state),
        Inline::Outcome(outcome) => {
            let class = match outcome {
                Outcome::Confirmed => "good",
                Outcome::NotClaimed => "",
                _ => "bad",
            };
            html! { span class=(class) { (outcome.name()) } }
        }
    }
}

fn pill(state: State) -> Markup {
    let (fill, stroke) = graph::colours(state);
    html! { span.state style={ "background:" (fill) ";border-color:" (stroke) } { (state.name()) } }
}
