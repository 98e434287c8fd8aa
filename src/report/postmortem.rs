//! The part of a report that is about claims: the table, and the skeleton of a postmortem that a person fills in.

use super::document::{separated, words};
use super::page::{Block, Cell, Inline, Page};
use super::reconcile::{Line, Outcome, Reconciliation};

/// What was claimed, and what the rows say.
pub fn claims(page: &mut Page, file: &str, found: &Reconciliation) {
    page.heading(2, vec![words("Claims")], "claims");
    page.para(vec![
        words("What "),
        Inline::name(file),
        words(" claims, line by line. Words in quotation marks are the file's own and were not measured."),
    ]);
    for (title, lines) in [
        ("kernel", &found.kernels),
        ("prefill", &found.prefill),
        ("speed", &found.speeds),
        ("count", &found.counts),
        ("also claimed", &found.others),
    ] {
        page.table(vec![title, "claimed", "verdict", "what the rows say"], lines.iter().map(line).collect());
    }
    if !found.gates_never_attempted.is_empty() {
        page.para(vec![words("Gates never attempted: neither green nor a verdict or attempt on record.")]);
        let items = found.gates_never_attempted.iter().map(|gate| {
            let mut item = vec![Inline::Node(gate.node.clone())];
            if !gate.claimed_as.is_empty() {
                item.push(words(", claimed as "));
                item.extend(separated(gate.claimed_as.iter().map(|name| vec![Inline::quote(name)])));
            }
            item
        });
        page.blocks.push(Block::List(items.collect()));
    }
    let t = &found.totals;
    let total = |name: &'static str, n: usize| vec![vec![words(name)], vec![Inline::Claims(n)]];
    page.table(
        vec!["totals", "number"],
        vec![
            total("kernels claimed as done", t.kernels_claimed),
            total("nodes of the plan that they stand for", t.nodes_claimed),
            total("confirmed", t.confirmed),
            total("refuted", t.refuted),
            total("without evidence", t.no_evidence),
            total("unknown names", t.unknown_name),
            total("listed as not done", t.not_claimed),
            total("speeds claimed", t.speeds),
            total("speeds without a row", t.speeds_without_a_row),
            total("nodes of the plan", t.nodes),
            total("gates", t.gates),
            total("gates never attempted", t.gates_never_attempted),
        ],
    );
}

fn line(line: &Line) -> Vec<Cell> {
    let said = match line.words.is_empty() {
        true => vec![words("no op, node or upstream function of this name is on record")],
        false => separated(line.words.iter().map(|word| {
            let mut cell: Cell = word.node.iter().flat_map(|n| [Inline::name(&n.to_string()), words(": ")]).collect();
            cell.push(Inline::word(word));
            cell
        })),
    };
    vec![vec![Inline::quote(&line.name)], vec![Inline::quote(&line.claimed)], vec![Inline::Outcome(line.outcome)], said]
}

/// Headings for what no row can know: what happened, and why nobody noticed.
pub fn skeleton(page: &mut Page, found: Option<&Reconciliation>) {
    page.heading(2, vec![words("Postmortem")], "postmortem");
    page.para(vec![words(
        "A skeleton. What the rows say stands in it already; the rest is for those who were there. Write no figure that has no row.",
    )]);
    page.heading(3, vec![words("What was claimed")], "was-claimed");
    match found {
        Some(_) => page.para(vec![words("The table of claims above.")]),
        None => {
            page.blocks.push(Block::Blank("No claim file was given: assay report --claims FILE puts its table here."))
        }
    }
    page.heading(3, vec![words("What happened")], "happened");
    page.blocks.push(Block::Blank("To be written: in which order, by whom, and how it was found out."));
    let wrong =
        |l: &&Line| matches!(l.outcome, Outcome::Refuted | Outcome::NoEvidence | Outcome::NoRow | Outcome::UnknownName);
    let lines = found
        .into_iter()
        .flat_map(|f| [&f.prefill, &f.kernels, &f.speeds, &f.counts, &f.others].into_iter().flatten().filter(wrong));
    for (i, claim) in lines.enumerate() {
        page.heading(
            3,
            vec![Inline::quote(&claim.name), words(": "), Inline::Outcome(claim.outcome)],
            format!("claim-{}", i + 1),
        );
        let mut said = vec![words("The rows say: ")];
        said.extend(line(claim).pop().unwrap_or_default());
        page.para(said);
        page.blocks.push(Block::Blank("What happened: to be written."));
        page.blocks.push(Block::Blank(
            "What let it pass: to be written; the mechanism that was missing, no guess at anyone's mind.",
        ));
        page.blocks.push(Block::Blank(
            "Now: to be written; what stands in its place, and the test that refuses the same today.",
        ));
    }
}
