//! The status report: what is proved of a file's nodes, by which rows, and, where somebody claimed something, what the
//! rows say of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::chart::{Place, chart};
use super::cited::{Cited, Tally};
use super::graph::{Drawing, svg_in_page};
use super::page::{Block, Cell, Inline, Page, node_anchor, row_anchor};
use super::postmortem;
use super::proof::{Proof, State};
use super::reconcile::Reconciliation;
use super::status::{NodeStatus, Status};
use super::timeline::{Event, timeline};
use crate::history::Attempt;
use crate::ledger::{Class, Digest, Ledger, Outcome, Row, StageOutcome, Statement, Target, Trust};
use crate::ops;
use crate::plan::coverage::Written;
use crate::plan::graph::Graph;
use crate::verify::timing::PART;

/// What a report is made from.
pub struct Facts<'a> {
    pub status: &'a Status,
    pub graph: &'a Graph<'a>,
    pub numerics: &'static str,
    /// The model's path as people type it.
    pub model: String,
    pub ledger: &'a Ledger,
    pub trust: &'a Trust,
    /// The commits that landed evidence.
    pub landed: &'a HashMap<Digest, String>,
    pub attempts: &'a [Attempt],
    pub commit: Option<String>,
    /// The claim file's name and what became of its claims.
    pub claims: Option<(&'a str, &'a Reconciliation)>,
    /// Whether the skeleton of a postmortem is wanted.
    pub postmortem: bool,
}

pub(super) fn words(text: &'static str) -> Inline {
    Inline::Words(text)
}

/// The whole page.
pub fn report(facts: &Facts<'_>) -> Page {
    let name = std::path::Path::new(&facts.model).file_name();
    let name = name.map_or(facts.model.clone(), |n| n.to_string_lossy().into_owned());
    let mut page = Page { title: format!("assay: {}", crate::words::plain(&name, 120)), blocks: Vec::new() };
    page.heading(1, vec![words("What is proved of "), Inline::name(&name)], "top");
    lead(&mut page, facts);
    sources(&mut page, facts);
    if let Some((file, found)) = facts.claims {
        postmortem::claims(&mut page, file, found);
    }
    if facts.postmortem {
        postmortem::skeleton(&mut page, facts.claims.map(|(_, found)| found));
    }
    page.heading(2, vec![words("Graph")], "graph");
    picture(&mut page, facts);
    page.heading(2, vec![words("Nodes")], "nodes");
    nodes(&mut page, facts);
    page.heading(2, vec![words("Gates")], "gates");
    gates(&mut page, facts);
    page.heading(2, vec![words("Speeds")], "speeds");
    speeds(&mut page, facts);
    page.heading(2, vec![words("Kernels")], "kernels");
    for node in &facts.status.nodes {
        kernel(&mut page, facts, node);
    }
    page.heading(2, vec![words("Rows")], "rows");
    page.para(vec![words(
        "Every figure above links to the row that holds it. Here is what these rows say of themselves; assay show ROW has all of it.",
    )]);
    for seq in page.rows() {
        if let Some(row) = facts.ledger.rows().get(seq as usize) {
            details(&mut page, facts, row);
        }
    }
    page
}

/// How many nodes are proved, where, and whether prefill works.
fn lead(page: &mut Page, facts: &Facts<'_>) {
    let status = facts.status;
    let mut places: BTreeMap<(&str, &str), Tally> = BTreeMap::new();
    for node in status.nodes.iter().filter(|n| matches!(n.written, Written::Present { .. })) {
        for proof in &node.proofs {
            let how = match (proof.class, proof.counts(), proof.red.is_some(), proof.stale.is_some()) {
                (Class::Device, true, ..) if proof.outgrown.is_some() => "green, by an earlier judge, on",
                (Class::Device, true, ..) => "green on",
                (Class::Simulated, true, ..) => "simulated, which is no evidence of a device, on",
                (Class::Emulated, true, ..) => "passing on the CPU",
                _ if proof.void.is_some() => "proven by a row that counts no more, on",
                (_, _, _, true) => "stale on",
                (_, _, true, _) if proof.trusted => "red on",
                (_, false, false, false) if !proof.trusted => "proven by a key that is not trusted here on",
                _ => continue,
            };
            places.entry((how, &proof.arch)).or_default().add([proof.row]);
        }
    }
    if places.is_empty() {
        page.para(vec![
            words("Nothing is proved: no row speaks of one of the "),
            Inline::Plan(status.nodes.len()),
            words(" nodes that this file needs, as its kernels are now."),
        ]);
    }
    for ((how, arch), tally) in places {
        let what = vec![
            Inline::Tally(tally),
            words(" of "),
            Inline::Plan(status.nodes.len()),
            words(" nodes are "),
            words(how),
            words(" "),
            Inline::name(arch),
            words("."),
        ];
        page.para(what);
    }
    let works = status.prefill_works();
    let mut line = vec![match works.is_empty() {
        true => words("prefill_working: no. "),
        false => words("prefill_working: yes. "),
    }];
    match status.schedule.is_empty() {
        true => line.push(words("No row speaks of the whole schedule.")),
        false => line.extend(separated(status.schedule.iter().map(|p| vec![Inline::proof(p)]))),
    }
    page.para(line);
}

/// Cells one after another.
pub(super) fn separated(cells: impl Iterator<Item = Cell>) -> Cell {
    let mut out = Cell::new();
    for (i, cell) in cells.enumerate() {
        if i > 0 {
            out.push(words("; "));
        }
        out.extend(cell);
    }
    out
}

fn sources(page: &mut Page, facts: &Facts<'_>) {
    let mut rows: Vec<Vec<Cell>> = vec![vec![vec![words("model")], vec![Inline::name(&facts.model)]]];
    if let Some(note) = facts.status.weights {
        rows.push(vec![vec![words("weights")], vec![words(note)]]);
    }
    rows.push(vec![vec![words("numerics")], vec![words(facts.numerics)]]);
    if let Some(last) = facts.ledger.rows().last() {
        rows.push(vec![
            vec![words("ledger")],
            vec![words("up to "), Inline::Row(last.seq), words(", head "), Inline::name(&last.hash.to_string())],
        ]);
    }
    let mut signers = BTreeSet::new();
    for row in facts.ledger.rows().iter().filter(|r| r.statement().class().is_some()) {
        signers.insert(row.evidence.signer());
    }
    for id in signers {
        let name = facts.ledger.chain().ring.get(&id).map_or("?", |key| key.name());
        let trusted = match facts.trust.trusts(&id) {
            true => words(", trusted where this report was made"),
            false => words(", not trusted where this report was made"),
        };
        rows.push(vec![
            vec![words("signed by")],
            vec![Inline::name(name), words(" "), Inline::name(&id.short()), trusted],
        ]);
    }
    if let Some(commit) = &facts.commit {
        rows.push(vec![vec![words("commit")], vec![Inline::name(commit)]]);
    }
    page.table(vec!["", "made from"], rows);
}

fn picture(page: &mut Page, facts: &Facts<'_>) {
    let drawing = Drawing::of(facts.graph, String::new(), |node| facts.status.state(node));
    page.blocks.push(Block::Legend(drawing.states.clone()));
    let about = vec![
        words("A prefill of any length, op by op; layers that are alike are drawn once. "),
        words("Each box leads to its node."),
    ];
    page.blocks.push(Block::Picture { svg: svg_in_page(&drawing, &node_anchor), about });
}

/// The proof by which a node is in its state.
fn deciding(node: &NodeStatus) -> Option<&Proof> {
    let by = |class: Class| node.proofs.iter().find(move |p| p.counts() && p.class == class);
    match node.state {
        State::Green => by(Class::Device),
        State::Simulated => by(Class::Simulated),
        State::Emulated => by(Class::Emulated),
        State::Red => node.proofs.iter().find(|p| p.trusted && p.red.is_some() && p.stale.is_none()),
        State::Untrusted => node.proofs.iter().find(|p| p.untrusted()),
        State::Stale => node.proofs.iter().find(|p| p.stale.is_some()),
        State::Unproved | State::Broken | State::Absent => None,
    }
}

fn figure(cited: Option<Cited>) -> Cell {
    cited.map_or(vec![words("–")], |cited| vec![Inline::Figure(cited)])
}

fn nodes(page: &mut Page, facts: &Facts<'_>) {
    let rows = facts.status.nodes.iter().map(|node| {
        let row = deciding(node).and_then(|p| facts.ledger.rows().get(p.row as usize));
        vec![
            vec![Inline::Node(node.usage.node.clone())],
            vec![Inline::State(node.state)],
            vec![Inline::Plan(node.usage.instances.len())],
            vec![node.usage.span.describe().map_or(words("always"), |when| Inline::name(&when))],
            figure(row.and_then(Cited::error)),
            figure(row.and_then(Cited::time)),
            row.map_or(vec![words("no row")], |row| vec![Inline::Row(row.seq)]),
        ]
    });
    page.table(vec!["node", "state", "instances", "acts", "error, relative RMS", "time, µs", "by"], rows.collect());
}

fn gates(page: &mut Page, facts: &Facts<'_>) {
    let gates = facts.status.gates();
    if gates.is_empty() {
        page.para(vec![words("None: no node stands between this file and a prefill.")]);
        return;
    }
    page.para(vec![
        Inline::Plan(gates.len()),
        words(" of "),
        Inline::Plan(facts.status.nodes.len()),
        words(" nodes still stand between this file and a prefill, in the order in which they stop one."),
    ]);
    let items = gates.iter().map(|gate| {
        let node = &gate.usage.node;
        let mut item = vec![Inline::Node(node.clone()), words(" "), Inline::State(gate.state)];
        if events(facts, &Target::Node(node.clone())).is_empty() {
            item.push(words(", never attempted: neither a verdict nor an attempt is on record"));
        }
        item
    });
    page.blocks.push(Block::List(items.collect()));
}

fn events<'a>(facts: &Facts<'a>, target: &Target) -> Vec<Event<'a>> {
    timeline(facts.ledger.rows(), target, facts.landed, facts.attempts)
}

fn place(row: &Row, class: Class, arch: &str) -> Inline {
    Inline::said(row, &format!("{} {arch}", if class == Class::Simulated { "SIMULATED" } else { class.name() }))
}

fn speeds(page: &mut Page, facts: &Facts<'_>) {
    let mut rows = Vec::new();
    for row in facts.ledger.rows() {
        let Statement::Bench(bench) = row.statement() else { continue };
        // Where the time of a step went is for `show`: a table for each row.
        for (run, name, cited) in Cited::of_runs(row).into_iter().filter(|(run, ..)| !run.contains(PART)) {
            rows.push(vec![
                vec![Inline::name(&bench.node.to_string())],
                vec![Inline::name(run)],
                vec![Inline::name(name)],
                vec![Inline::Figure(cited)],
                vec![place(row, bench.class, &bench.binding.arch)],
            ]);
        }
    }
    match rows.is_empty() {
        true => page.para(vec![words("No row holds a speed, so none is given here.")]),
        false => page.table(vec!["of", "run", "figure", "value", "where"], rows),
    }
}

/// Everything on record of one node.
fn kernel(page: &mut Page, facts: &Facts<'_>, node: &NodeStatus) {
    let name = &node.usage.node;
    page.heading(3, vec![Inline::name(&name.to_string()), words(" "), Inline::State(node.state)], node_anchor(name));
    if let Some(op) = ops::find(&name.op) {
        let contract = op.contract();
        page.para(vec![words(contract.summary)]);
        let mut aliases = vec![words("Upstream: ")];
        aliases.extend(separated(contract.aliases.iter().map(|alias| vec![Inline::name(alias)])));
        if !contract.aliases.is_empty() {
            page.para(aliases);
        }
    }
    match &node.written {
        Written::Absent => page.para(vec![words("It has no kernel.")]),
        Written::Present { stem } => page.para(vec![words("Kernel: "), Inline::name(&format!("kernels/{stem}.cu"))]),
        Written::Broken { reason } => page.para(vec![words("Its kernel cannot be used: "), Inline::name(reason)]),
    }
    if !node.proofs.is_empty() {
        page.blocks.push(Block::List(node.proofs.iter().map(|p| vec![Inline::proof(p)]).collect()));
    }
    let events = events(facts, &Target::Node(name.clone()));
    if events.is_empty() {
        page.para(vec![words("No verdict on it and no attempt at it is on record.")]);
        return;
    }
    if let Some(svg) = chart(&name.to_string(), &events, Place::Page) {
        let about = vec![words("Error and time over its rows: a dot passed, a cross did not.")];
        page.blocks.push(Block::Picture { svg, about });
    }
    let rows = events.iter().map(event).collect();
    page.table(vec!["on record", "outcome", "where", "why", "error, relative RMS", "time, µs", "kept in"], rows);
}

fn event(event: &Event<'_>) -> Vec<Cell> {
    let why = match (event.row, event.stage) {
        _ if event.reason.is_empty() => vec![words("–")],
        (Some(row), Some(stage)) => vec![words(stage.name()), words(": "), Inline::said(row, &event.reason)],
        (Some(row), None) => vec![Inline::said(row, &event.reason)],
        (None, _) => vec![Inline::name(&event.reason)],
    };
    let kept = match (&event.landed, &event.attempt) {
        (Some(commit), _) => vec![words("commit "), Inline::name(commit.get(..12).unwrap_or(commit))],
        (None, Some(attempt)) => vec![Inline::name(&attempt.reference)],
        (None, None) => vec![words("–")],
    };
    vec![
        event.row.map_or(vec![words("no row")], |row| vec![Inline::Row(row.seq)]),
        vec![words(event.kind.name())],
        event.row.zip(event.class).map_or(vec![words("–")], |(row, class)| vec![place(row, class, &event.arch)]),
        why,
        figure(event.error.clone()),
        figure(event.time.clone()),
        kept,
    ]
}

/// A row as it stands in the ledger, figure by figure.
fn details(page: &mut Page, facts: &Facts<'_>, row: &Row) {
    let target = row.statement().target().map_or("key".to_string(), ToString::to_string);
    page.heading(3, vec![Inline::Row(row.seq), words(" "), Inline::name(&target)], row_anchor(row.seq));
    let mut about: Vec<Vec<Cell>> = Vec::new();
    let mut line = |name: &'static str, text: &str| {
        if !text.is_empty() {
            about.push(vec![vec![words(name)], vec![Inline::name(text)]]);
        }
    };
    let signer = row.evidence.signer();
    let name = facts.ledger.chain().ring.get(&signer).map_or("?", |key| key.name());
    line("signed by", &format!("{name} {}", signer.short()));
    line("evidence", &row.evidence.digest().to_string());
    line("counts for nothing", &facts.ledger.void(row, facts.trust).unwrap_or_default());
    let informative = match row.statement() {
        Statement::Verdict(v) => {
            line("class", &format!("{} {}", v.class.name(), v.binding.arch));
            match &v.outcome {
                Outcome::Pass => {
                    line("outcome", if v.complete() { "pass through stage 7" } else { "pass as far as it ran" })
                }
                Outcome::Red { stage, reason, first_bad } => {
                    line("outcome", &format!("red in stage {} ({})", stage.number(), stage.name()));
                    line("reason", reason);
                    line("first bad", first_bad);
                }
                Outcome::Indeterminate { reason } => line("outcome", &format!("indeterminate: {reason}")),
            }
            line("closure", &v.binding.closure.to_string());
            line("weights", &v.binding.weights.to_string());
            line("seed", &v.seed.to_string());
            Some(&v.informative)
        }
        Statement::Bench(b) => {
            line("class", &format!("{} {}", b.class.name(), b.binding.arch));
            Some(&b.informative)
        }
        Statement::Key(k) => {
            line("key", &k.key.to_string());
            None
        }
        Statement::Rotation(r) => {
            line("key", &r.from.to_string());
            line("successor", &r.to.to_string());
            None
        }
        Statement::Revocation(r) => {
            line("key", &r.key.to_string());
            line("revoked because", &r.why);
            None
        }
    };
    if let Some(i) = informative {
        for (name, text) in
            [("device", &i.device), ("model", &i.model), ("host", &i.host), ("time, as recorded", &i.time)]
        {
            line(name, text);
        }
    }
    page.table(vec!["", "as recorded"], about);
    let mut figures: Vec<Vec<Cell>> = Vec::new();
    for stage in row.statement().verdict().map_or(&[][..], |v| &v.stages) {
        let outcome = match stage.outcome {
            StageOutcome::Pass => "pass",
            StageOutcome::Red => "red",
            StageOutcome::Indeterminate => "indeterminate",
            StageOutcome::NotRun => "not run",
        };
        let all = Cited::of_stage(row, stage)
            .map(|(name, cited)| vec![Inline::name(name), words(" "), Inline::Figure(cited)]);
        figures.push(vec![vec![words(stage.name.name())], vec![words(outcome)], separated(all)]);
    }
    for (run, name, cited) in Cited::of_runs(row) {
        figures.push(vec![vec![Inline::name(run)], vec![Inline::name(name)], vec![Inline::Figure(cited)]]);
    }
    page.table(vec!["stage or run", "outcome", "figures"], figures);
}
