//! `assay reconcile`: somebody's claimed progress against the rows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::ledger::TrustArgs;
use super::standing::{self, short};
use super::{ModelArg, output};
use crate::error::Result;
use crate::files;
use crate::history;
use crate::ledger::Target;
use crate::model::Model;
use crate::ops::Node;
use crate::plan::graph::Graph;
use crate::plan::schedule::canonical;
use crate::plan::{Numerics, Plan};
use crate::report::reconcile::claims::{CLAIM_FILE, Claims, MOST_BYTES};
use crate::report::reconcile::{Against, Line, Names, Outcome, Reconciliation, Totals};
use crate::report::standing::Known;
use crate::report::status::Status;
use crate::words::{agree, count, plain};
use crate::workbench::Workbench;

/// Hold somebody's claimed progress against the ledger, line by line
///
/// The file is JSON: a list of kernels, a map from kernel to status, or an object that holds either, with keys such as
/// `prefill_working` and speeds. Names are resolved through the ops' upstream names (docs/reports.md). Exit code 0 means
/// that everything which is claimed is confirmed, 1 that something is not.
#[derive(clap::Args)]
pub struct Reconcile {
    /// The claim file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    model: ModelArg,
    /// Which of the model's own roundings are applied
    #[arg(long, value_enum, default_value_t = Numerics::Ds4)]
    numerics: Numerics,
    #[command(flatten)]
    trust: TrustArgs,
    /// Print one JSON object (schema assay.reconcile/1)
    #[arg(long)]
    json: bool,
}

impl Reconcile {
    pub fn run(&self) -> Result<u8> {
        let bench = standing::ledgered()?;
        let names = Names::read(&bench.root.join("reference/port"))?;
        let claims = read(&self.file, &names)?;
        let model = self.model.open()?;
        let plan = Plan::build(&model, canonical(self.numerics))?;
        let graph = Graph::of(&plan, None);
        let known = self.trust.known(&bench, &model)?;
        let status = known.status(&bench, &model, &graph, plan.numerics)?;
        let found = against(&bench, &known, &status, &names, &claims)?;
        if self.json {
            let mut body = json!({
                "file": self.file,
                "model": model.path(),
                "numerics": self.numerics,
                "rows": known.ledger.rows().len(),
                "all_confirmed": found.holds(),
            });
            super::ledger::extend(&mut body, &found);
            output::json("assay.reconcile/1", body)?;
        } else {
            output::print(self.text(&found, &model, known.ledger.rows().len()))?;
        }
        Ok(u8::from(!found.holds()))
    }

    fn text(&self, found: &Reconciliation, model: &Model, rows: usize) -> String {
        let totals = &found.totals;
        let mut out = format!("{}\n", sentence(found));
        let _ = writeln!(
            out,
            "{} against {} ({}) and a ledger of {}\n",
            plain(&self.file.display().to_string(), 200),
            short(model.path()).display(),
            count(totals.nodes, "node"),
            count(rows, "row")
        );
        out.push_str(&table("kernel", &found.kernels));
        for (title, lines) in [
            ("prefill", &found.prefill),
            ("speed", &found.speeds),
            ("count", &found.counts),
            ("also claimed", &found.others),
        ] {
            if !lines.is_empty() {
                let _ = write!(out, "\n{}", table(title, lines));
            }
        }
        if !found.unread.is_empty() {
            let names: Vec<_> = found.unread.iter().take(20).map(|(at, _)| plain(at, 60)).collect();
            let more = if found.unread.len() > names.len() { ", …" } else { "" };
            let _ = writeln!(out, "\nnot held against rows: {}{more}", names.join(", "));
        }
        if !found.gates_never_attempted.is_empty() {
            out.push_str("\ngates never attempted: neither green nor a verdict or attempt on record\n");
            for gate in &found.gates_never_attempted {
                let mut names: Vec<_> = gate.claimed_as.iter().take(4).map(|n| plain(n, 80)).collect();
                names.extend((gate.claimed_as.len() > names.len()).then(|| "…".to_string()));
                let claimed =
                    if names.is_empty() { String::new() } else { format!("  claimed as {}", names.join(", ")) };
                let _ = writeln!(out, "{}", format!("  {:<24}{claimed}", gate.node.to_string()).trim_end());
            }
        }
        let _ = write!(out, "\ntotals\n{}", totals_table(totals));
        out
    }
}

/// The claims of a file, which must be a plain one of bearable size.
pub fn read(path: &Path, names: &Names) -> Result<Claims> {
    let what = plain(&path.display().to_string(), 200);
    let bytes = files::read_as(path, MOST_BYTES, &CLAIM_FILE)?;
    Claims::read(&what, &bytes, &|name| names.knows(name))
}

/// Claims against everything that is on record here.
pub fn against(
    bench: &Workbench,
    known: &Known<'_>,
    status: &Status,
    names: &Names,
    claims: &Claims,
) -> Result<Reconciliation> {
    let mut attempts: BTreeMap<Node, usize> = BTreeMap::new();
    for attempt in history::all_attempts(&bench.root)? {
        if let Target::Node(node) = attempt.node {
            *attempts.entry(node).or_default() += 1;
        }
    }
    let changes = |target: &_, binding: &_| known.changes(target, binding);
    let ledger = &known.ledger;
    let against = Against { status, ledger, trust: &known.trust, attempts: &attempts, changes: &changes, names };
    Ok(Reconciliation::of(claims, &against))
}

/// The one plain sentence before the tables.
fn sentence(found: &Reconciliation) -> String {
    let t = &found.totals;
    let mut parts = vec![format!(
        "{} of {} claimed as done {} confirmed",
        t.confirmed,
        count(t.kernels_claimed, "kernel"),
        agree(t.confirmed, "is", "are")
    )];
    let are = |n: usize, what: &str| format!("{n} {} {what}", agree(n, "is", "are"));
    for (n, what) in [(t.refuted, "refuted"), (t.no_evidence, "without evidence")] {
        parts.extend((n > 0).then(|| are(n, what)));
    }
    if t.unknown_name > 0 {
        parts.push(format!("{} {} unknown", count(t.unknown_name, "name"), agree(t.unknown_name, "is", "are")));
    }
    for line in &found.prefill {
        parts.push(match line.outcome {
            Outcome::Confirmed => "its prefill works".into(),
            Outcome::NotClaimed => "no working prefill is claimed".into(),
            Outcome::Refuted => "its prefill is refuted".into(),
            _ => "no row says that its prefill works".into(),
        });
    }
    if t.speeds_without_a_row > 0 {
        let n = t.speeds_without_a_row;
        parts.push(format!("{} {} no row", count(n, "speed"), agree(n, "has", "have")));
    }
    format!("{}.", parts.join("; "))
}

fn table(title: &str, lines: &[Line]) -> String {
    if lines.is_empty() {
        return format!("no {title} is named\n");
    }
    let mut table = output::table(&[title, "claimed", "verdict", "what the rows say"]);
    for line in lines {
        let mut head = [plain(&line.name, 72), plain(&line.claimed, 32), line.outcome.name().to_string()];
        if line.words.is_empty() {
            let [name, claimed, outcome] = head;
            table.add_row([
                name,
                claimed,
                outcome,
                "no op, node or upstream function of this name is on record".into(),
            ]);
            continue;
        }
        for word in &line.words {
            let [name, claimed, outcome] = std::mem::take(&mut head);
            let node = word.node.as_ref().map_or(String::new(), |n| format!("{n}: "));
            table.add_row([name, claimed, outcome, format!("{node}{}", plain(&word.text, 240))]);
        }
    }
    output::rows(&table)
}

/// The last table: how many of each.
fn totals_table(t: &Totals) -> String {
    let mut out = String::new();
    let mut line = |what: &str, n: usize, note: String| {
        let _ = writeln!(out, "  {what:<28} {n:>4}{note}");
    };
    line(
        "kernels claimed as done",
        t.kernels_claimed,
        format!("  which stand for {} of the plan", count(t.nodes_claimed, "node")),
    );
    line("  confirmed", t.confirmed, String::new());
    line("  refuted", t.refuted, String::new());
    line("  without evidence", t.no_evidence, String::new());
    line("  unknown names", t.unknown_name, String::new());
    line("listed as not done", t.not_claimed, String::new());
    line("speeds claimed", t.speeds, String::new());
    line("  without a row", t.speeds_without_a_row, String::new());
    line("nodes of the plan", t.nodes, format!("  {} green", t.nodes_green));
    line("gates", t.gates, String::new());
    line("  never attempted", t.gates_never_attempted, String::new());
    out
}
