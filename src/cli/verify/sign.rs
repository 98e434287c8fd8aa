//! `verify --record` and `--evidence`: verdicts become evidence.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::ledger::{self, TrustArgs};
use super::Verify;
use crate::backend::worker::Level;
use crate::error::{Error, Kind, Result};
use crate::history;
use crate::ledger::{self as records, ClosureSource, bundle, confined};
use crate::model::Model;
use crate::ops::Node;
use crate::plan::Numerics;
use crate::plan::kernels::is_begun;
use crate::verify::binding::{Tree, Workshop};
use crate::verify::{Place, Stage, Verdict, record};
use crate::workbench::Workbench;

/// Signs each verdict once, as it comes, and files them where the command line says.
pub(super) struct Signer<'m> {
    key: records::SecretKey,
    tree: Tree<'m>,
    numerics: Numerics,
    about: record::About,
    evidence: Vec<records::Evidence>,
    kernels: PathBuf,
    /// Nodes whose kernel was refused before there was anything to bind, with stage and reason.
    refused: Vec<(Node, Stage, String)>,
    /// The confinement that policy asks for.
    asked: Level,
}

impl<'m> Signer<'m> {
    /// Refuses, before anything is judged, a place that confines kernels less than policy asks, and a key that signs here
    /// no more.
    pub fn new(verify: &Verify, bench: &Workbench, model: &'m Model, place: &dyn Place) -> Result<Signer<'m>> {
        let asked = TrustArgs::default().load(&bench.root)?.sandbox();
        confined::demand_of(place.sandbox().as_ref(), asked)?;
        let key = ledger::writer(&bench.root, verify.key.as_deref())?;
        ledger::open(&bench.root)?.may_sign(&key)?;
        Ok(Signer {
            asked,
            key,
            tree: Workshop::new(model)?.tree(&bench.kernels())?,
            // A verdict over both numerics is the production numerics' word.
            numerics: verify.numerics.unwrap_or(Numerics::Ds4),
            about: about(bench, model),
            evidence: Vec::new(),
            kernels: bench.kernels(),
            refused: Vec::new(),
        })
    }

    pub fn sign(&mut self, node: &Node, verdict: &Verdict) -> Result<()> {
        let binding = match self.tree.binding(node, &verdict.arch, self.numerics) {
            Ok(binding) => binding,
            // What has no usable kernel binds nothing; what nobody has written is no attempt.
            Err(_) => {
                if let Some(red) = verdict.red().filter(|_| is_begun(&self.kernels, node)) {
                    self.refused.push((node.clone(), red.stage, verdict.reason().unwrap_or_default()));
                }
                return Ok(());
            }
        };
        if verdict.closure.as_ref().is_some_and(|judged| *judged != binding.closure.to_string()) {
            return Err(Error::new(&records::MOVED, format!("the kernel of {node} changed while it was judged"))
                .expected(format!("closure {}, which was judged", verdict.closure.as_deref().unwrap_or_default()))
                .found(format!("closure {}", binding.closure))
                .hint("let nobody write to kernels/ and verify again"));
        }
        let target = records::Target::Node(node.clone());
        let statement = record::statement(verdict, target, binding, BTreeMap::new(), &self.about)?;
        self.push(statement)
    }

    fn push(&mut self, statement: records::Verdict) -> Result<()> {
        let evidence = record::evidence(statement, &self.key)?;
        confined::demand_all(&evidence, self.asked)?;
        self.evidence.push(evidence);
        Ok(())
    }

    /// The verdict on the whole schedule.
    pub fn sign_schedule(&mut self, verdict: &Verdict) -> Result<()> {
        // A schedule that is short of a kernel binds nothing.
        let Some((binding, parts)) = self.tree.schedule(&verdict.arch)? else { return Ok(()) };
        self.push(record::statement(verdict, records::Target::Schedule, binding, parts, &self.about)?)
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, bundle(&self.key, &self.evidence)?).map_err(|e| Error::io(path, e))
    }

    /// Appends the verdicts to the ledger; red ones are kept as attempts too.
    pub fn record(&self, root: &Path) -> Result<Vec<u64>> {
        let rows = ledger::open(root)?.append(&self.evidence, &self.key)?;
        for e in &self.evidence {
            if let Some(v) = e.statement().verdict()
                && let records::Outcome::Red { .. } = &v.outcome
            {
                attempt(root, &v.node, e)?;
            }
        }
        for (node, stage, reason) in &self.refused {
            let kept = history::record_refusal(root, root, node, (*stage, reason), "", None);
            anstream::eprintln!("note: {node} was refused before a binding, so it has no row");
            noted(&records::Target::Node(node.clone()), kept.map(drop))?;
        }
        Ok(rows)
    }
}

/// Keeps a red verdict's kernels as a commit under a ref of its own. The row stands without: this is a convenience, which
/// needs an author, and a place in git.
pub(super) fn attempt(root: &Path, node: &records::Target, red: &records::Evidence) -> Result<()> {
    noted(node, history::record_attempt(root, node, red).map(drop))
}

fn noted(node: &records::Target, kept: Result<()>) -> Result<()> {
    match kept {
        Err(e) if e.kind() == Kind::CouldNotRun => {
            let hint = e.hint_text().map_or(String::new(), |hint| format!("; {hint}"));
            anstream::eprintln!("note: the attempt at {node} is no commit: {} [{}]{hint}", e.what(), e.code().id);
            Ok(())
        }
        kept => kept,
    }
}

/// Where verdicts are made, for the informative part of their rows.
pub(in crate::cli) fn about(bench: &Workbench, model: &Model) -> record::About {
    let file = model.path().file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    let note = model.weights_note().map_or(String::new(), |n| format!(", weights {n}"));
    let commit = history::Repo::find(&bench.root).ok().flatten().and_then(|r| r.head_id().ok().flatten());
    record::About {
        commit: commit.unwrap_or_default(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        model: format!("{file}{note}"),
    }
}
