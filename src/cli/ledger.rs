//! `assay ledger merge`, and what the commands that read or extend the ledger share.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::output;
use super::standing::said;
use crate::error::{Error, Result};
use crate::history;
use crate::ledger::{Class, Config, KEY_MANY, Ledger, Outcome, Row, SecretKey, Statement, Trust};
use crate::model::Model;
use crate::report::standing::{self, Known};
use crate::words::{agree, count, plain};
use crate::workbench::Workbench;

/// Bring another branch's evidence into this ledger
///
/// In a merge, resolve state/ to your own side (git checkout --ours state/), then run this with the other branch.
#[derive(clap::Args)]
pub struct LedgerCommand {
    #[command(subcommand)]
    action: Action,
    /// Private key to sign rows with.
    #[arg(long, global = true, value_name = "NAME")]
    key: Option<String>,
    /// Print one JSON object (schema assay.ledger-merge/1)
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Row the evidence of REVISION's ledger that this one lacks again, under your signature.
    Merge { revision: String },
}

impl LedgerCommand {
    pub fn run(&self, root: &Path) -> Result<u8> {
        let Action::Merge { revision } = &self.action;
        let mut ledger = open(root)?;
        let trust = said(|notes| standing::trust(root, None, notes))?;
        let evidence = history::evidence_of(root, revision)?;
        let (total, before) = (evidence.len(), ledger.rows().len());
        // Its keys came by key rows of their own, which are part of the evidence: nothing is dropped.
        let new: Vec<_> = evidence.into_iter().filter(|e| ledger.chain().find(&e.digest()).is_none()).collect();
        if !new.is_empty() {
            ledger.adopt(&new, &writer(root, self.key.as_deref())?)?;
        }
        let (void, idle) = held(&ledger, &trust, before);
        if self.json {
            return answer(
                "assay.ledger-merge/1",
                json!({ "revision": revision, "evidence": total, "new": new.len(),
                    "rows": ledger.rows().len(), "void": void, "without_force": idle,
                }),
            );
        }
        output::println(format_args!(
            "{} of {} {} new: the ledger went from {before} to {}",
            new.len(),
            count(total, "piece of evidence"),
            agree(new.len(), "was", "were"),
            count(ledger.rows().len(), "row")
        ))?;
        for line in void.iter().chain(&idle) {
            output::println(plain(line, 400))?;
        }
        Ok(0)
    }
}

/// Of the rows from `before` on, those that are held and count for nothing, and those that would end a key and have no
/// force.
fn held(ledger: &Ledger, trust: &Trust, before: usize) -> (Vec<String>, Vec<String>) {
    let new = &ledger.rows()[before..];
    let judged = new.iter().filter(|row| row.statement().class().is_some());
    let void =
        judged.filter_map(|row| Some(format!("row {} counts for nothing: {}", row.seq, ledger.void(row, trust)?)));
    let idle = ledger.chain().roll.idle().range(before as u64..);
    let idle = idle.map(|(row, why)| format!("row {row} rotates or revokes a key and has no force: {why}"));
    (void.collect(), idle.collect())
}

/// Where trust comes from.
#[derive(Default, clap::Args)]
pub struct TrustArgs {
    /// Keys to trust, instead of those in your config directory. Must lie outside the workbench.
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
}

impl TrustArgs {
    /// The file that was named.
    #[cfg(feature = "agent")]
    pub fn path(&self) -> Option<&Path> {
        self.trust.as_deref()
    }

    pub fn load(&self, root: &Path) -> Result<Trust> {
        said(|notes| standing::trust(root, self.trust.as_deref(), notes))
    }

    /// All that is known of the tree and the file at hand, under this trust.
    pub fn known<'m>(&self, bench: &Workbench, model: &'m Model) -> Result<Known<'m>> {
        said(|notes| Known::of(bench, model, self.trust.as_deref(), notes))
    }
}

/// The work tree's ledger, checked against git; what happened to it is said on stderr.
pub fn open(root: &Path) -> Result<Ledger> {
    let ledger = history::open(root)?;
    for note in ledger.notes() {
        anstream::eprintln!("note: {note}");
    }
    Ok(ledger)
}

/// The private key to sign with, from outside the workbench: of several the only one that no row has ended.
pub fn writer(root: &Path, name: Option<&str>) -> Result<SecretKey> {
    let config = Config::of_user()?.outside(root)?;
    match config.key(name) {
        Err(e) if e.code().id == KEY_MANY.id => {
            let ledger = Ledger::read(root)?;
            let keys = config.key_names()?.into_iter().map(|name| config.key(Some(&name)));
            let mut keys = keys.collect::<Result<Vec<_>>>()?;
            keys.retain(|key| ledger.may_sign(key).is_ok());
            match (keys.pop(), keys.is_empty()) {
                (Some(only), true) => Ok(only),
                _ => Err(e),
            }
        }
        key => key,
    }
}

/// Prints a JSON answer; the command has succeeded.
pub fn answer(schema: &str, body: serde_json::Value) -> Result<u8> {
    output::json(schema, body).map(|()| 0)
}

/// Adds the fields of `from` to a JSON object.
pub fn extend(body: &mut serde_json::Value, from: &impl serde::Serialize) {
    if let (Some(body), Ok(serde_json::Value::Object(from))) = (body.as_object_mut(), serde_json::to_value(from)) {
        body.extend(from);
    }
}

/// A row by its number, or by the first digits of its hash or its evidence's digest.
pub fn find_row<'l>(ledger: &'l Ledger, text: &str) -> Result<&'l Row> {
    let rows = ledger.rows();
    if let Ok(seq) = text.parse::<usize>()
        && text.len() < 10
    {
        let last = rows.len().checked_sub(1).map_or("an empty ledger".into(), |last| format!("rows 0 to {last}"));
        return rows.get(seq).ok_or_else(|| Error::usage(format!("there is no row {seq}")).found(last));
    }
    let named =
        |row: &&Row| row.hash.to_string().starts_with(text) || row.evidence.digest().to_string().starts_with(text);
    let mut found = rows.iter().filter(named);
    match (found.next(), found.next()) {
        (Some(row), None) if text.len() >= 6 => Ok(row),
        (Some(_), Some(_)) => Err(Error::usage(format!("`{text}` begins more than one row's digest"))),
        _ => Err(Error::usage(format!("`{text}` is no row"))
            .expected("a row number, or at least 6 digits of a row's or its evidence's digest")
            .hint("assay history")),
    }
}

/// One line on what a row says, without its number.
pub fn summary(row: &Row) -> String {
    let place = |class: Class, arch: &str| match class {
        Class::Simulated => format!("SIMULATED {arch}"),
        class => format!("{} {arch}", class.name()),
    };
    match row.statement() {
        Statement::Verdict(v) => {
            let outcome = match &v.outcome {
                Outcome::Red { stage, reason, .. } => format!("red in {}: {reason}", stage.name()),
                Outcome::Indeterminate { reason } => format!("indeterminate: {reason}"),
                Outcome::Pass if v.complete() => "pass through stage 7".into(),
                Outcome::Pass => "pass as far as it ran".into(),
            };
            format!("{}  {}  {}  {outcome}", v.node, place(v.class, &v.binding.arch), v.binding.numerics.name())
        }
        Statement::Bench(b) => format!("{}  {}  bench", b.node, place(b.class, &b.binding.arch)),
        Statement::Key(k) => format!("key {} ({}) joins", k.key.name(), k.key.id().short()),
        Statement::Rotation(r) => format!(
            "key {} ({}) hands over to {} ({})",
            r.from.name(),
            r.from.id().short(),
            r.to.name(),
            r.to.id().short()
        ),
        Statement::Revocation(r) => format!("key {} ({}) is revoked: {}", r.key.name(), r.key.id().short(), r.why),
    }
}

/// Who signed, and whether the user believes them.
pub fn signer(ledger: &Ledger, row: &Row, trust: &Trust) -> String {
    let id = row.evidence.signer();
    let name = ledger.chain().ring.get(&id).map_or("?", |key| key.name());
    let void = ledger.void(row, trust).map_or(String::new(), |why| format!("; counts for nothing: {why}"));
    match trust.trusts(&id) {
        true => format!("{name} ({}), trusted here{void}", id.short()),
        false => format!("{name} ({}), not trusted here: assay key trust {}{void}", id.short(), id.short()),
    }
}
