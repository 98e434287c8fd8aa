//! A verdict as evidence.

use std::collections::BTreeMap;

use super::{Outcome, StageReport, Summary, Verdict};
use crate::error::{Error, Result};
use crate::ledger::{self, Binding, Digest, Evidence, Informative, SecretKey, Statement, Target, clock, figure};

/// What a verdict says, as the ledger writes it. Errors: a verdict that never reached its kernel binds nothing.
pub fn statement(
    verdict: &Verdict,
    target: Target,
    binding: Binding,
    parts: BTreeMap<String, Digest>,
    about: &About,
) -> Result<ledger::Verdict> {
    let mut informative = Informative {
        assay: env!("CARGO_PKG_VERSION").into(),
        time: clock::now(),
        commit: about.commit.clone(),
        host: about.host.clone(),
        model: about.model.clone(),
        ..Informative::default()
    };
    let mut outputs = BTreeMap::new();
    for (variant, digests) in &verdict.digests {
        for (what, value) in digests.as_object().into_iter().flatten() {
            if let Some(Ok(digest)) = value.as_str().map(str::parse::<Digest>) {
                outputs.insert(format!("{variant}.{what}"), digest);
            }
        }
    }
    let mut stages = Vec::new();
    for report in &verdict.stages {
        for (name, value) in &report.figures {
            let text = || value.as_str().map_or_else(|| value.to_string(), str::to_string);
            match name.as_str() {
                "device" | "compiler" => informative.device = text(),
                "driver" => informative.driver = text(),
                "nvrtc" => informative.nvrtc = text(),
                "sandbox" => informative.sandbox = text(),
                "cubin_sha256" => {
                    if let (Ok(digest), Target::Node(node)) = (text().parse(), &target) {
                        informative.cubins.insert(node.file_stem(), digest);
                    }
                }
                "cubins" => {
                    for (stem, digest) in value.as_object().into_iter().flatten() {
                        if let Some(Ok(digest)) = digest.as_str().map(str::parse) {
                            informative.cubins.insert(stem.clone(), digest);
                        }
                    }
                }
                _ => {}
            }
        }
        stages.push(record(report));
    }
    Ok(ledger::Verdict {
        node: target,
        class: verdict.class,
        outcome: outcome(verdict),
        binding,
        stages,
        outputs,
        seed: verdict.seed.parse().map_err(Error::internal)?,
        informative,
        parts,
    })
}

pub fn evidence(verdict: ledger::Verdict, key: &SecretKey) -> Result<Evidence> {
    Evidence::sign(Statement::Verdict(Box::new(verdict)), key)
}

/// Where a verdict was made; informative.
#[derive(Clone, Debug, Default)]
pub struct About {
    pub commit: String,
    pub host: String,
    /// The model file's name, and what must be said of its weights.
    pub model: String,
}

fn record(report: &StageReport) -> ledger::StageRecord {
    let (figures, mut note) = figure::from_json(&report.figures);
    let (outcome, reason) = match &report.outcome {
        Outcome::Pass => (ledger::StageOutcome::Pass, None),
        Outcome::Red { reason, .. } => (ledger::StageOutcome::Red, Some(reason)),
        Outcome::Indeterminate { reason } => (ledger::StageOutcome::Indeterminate, Some(reason)),
        Outcome::NotRun { reason } => (ledger::StageOutcome::NotRun, Some(reason)),
    };
    if let Some(reason) = reason {
        note = if note.is_empty() { reason.clone() } else { format!("{reason}\n{note}") };
    }
    ledger::StageRecord { name: report.stage, outcome, figures, note }
}

/// The verdict in the ledger's words.
pub fn outcome(verdict: &Verdict) -> ledger::Outcome {
    match (verdict.summary(), verdict.red()) {
        (Summary::Pass, _) => ledger::Outcome::Pass,
        (Summary::Red, Some(report)) => {
            let (reason, first_bad) = match &report.outcome {
                Outcome::Red { reason, first_bad } => {
                    (reason.clone(), first_bad.as_ref().map_or(String::new(), ToString::to_string))
                }
                _ => Default::default(),
            };
            ledger::Outcome::Red { stage: report.stage, reason, first_bad }
        }
        _ => ledger::Outcome::Indeterminate { reason: verdict.reason().unwrap_or_default() },
    }
}
