//! What a green commit says of itself.

use std::collections::BTreeSet;

use super::land::Proof;
use crate::ledger::{Ledger, Stage, StageRecord, Standing, Target, figure};
use crate::words::count;

/// `<op>: <what>`, a line of figures per node, what has changed for nodes whose kernels have not, and the trailers.
pub(super) fn message(ledger: &Ledger, proofs: &[Proof<'_>], what: Option<&str>) -> String {
    let op = |target: &'_ Target| match target {
        Target::Node(node) => node.op.clone(),
        Target::Schedule => "state".into(),
    };
    let ops: BTreeSet<String> = proofs.iter().map(|p| op(&p.node)).collect();
    let whole = proofs.iter().any(|p| p.node == Target::Schedule);
    let nodes = proofs.iter().filter(|p| p.node != Target::Schedule);
    let names: Vec<String> = nodes.map(|p| p.node.to_string()).collect();
    let archs: BTreeSet<&str> = proofs.iter().map(|p| p.verdict.binding.arch.as_str()).collect();
    let join = |set: BTreeSet<&str>| set.into_iter().collect::<Vec<_>>().join(", ");
    let simulated = if proofs.iter().any(|p| p.simulated) { "simulated, " } else { "" };
    let again = match proofs.iter().all(|p| !p.staged && matches!(p.before, Standing::Stale(..))) {
        true => " again",
        false => "",
    };
    let what = what.map_or_else(
        || match (names.is_empty(), whole) {
            (true, _) => format!("prefill works {simulated}on {}{again}", join(archs)),
            (false, true) => format!("{} {simulated}green{again}: prefill works on {}", names.join(", "), join(archs)),
            (false, false) => format!("{} {simulated}green on {}{again}", names.join(", "), join(archs)),
        },
        String::from,
    );
    let mut text = format!("{}: {what}\n\n", ops.into_iter().collect::<Vec<_>>().join(", "));
    for proof in proofs {
        text.push_str(&format!("{}: {}\n", proof.node, figures(ledger, proof)));
        if proof.node == Target::Schedule {
            text.push_str(&format!("*: {}\n", schedule(proof)));
        } else if !proof.staged {
            text.push_str(&format!("{}: its files in kernels/ are unchanged; {}\n", proof.node, since(proof)));
        }
    }
    text.push('\n');
    for proof in proofs {
        text.push_str(&format!("Assay-Evidence: {}\n", proof.row.evidence.digest()));
    }
    for proof in proofs {
        text.push_str(&format!("Assay-Node: {}\n", proof.node));
    }
    text
}

/// What a whole schedule's verdict was about.
fn schedule(proof: &Proof<'_>) -> String {
    let (verdict, node) = (proof.verdict, |stage| verdict_stage(proof, stage));
    let figure = |stage: Stage, name: &str| {
        let all = node(stage).into_iter().flat_map(|s| &s.figures);
        all.filter(|(key, _)| key.rsplit('.').next() == Some(name)).map(|(_, f)| f.as_f64()).sum::<f64>()
    };
    format!(
        "{} in {}; {} checks of op instances in place, {} steps, {} launches, {} replays of recorded graphs",
        count(verdict.parts.len(), "node"),
        verdict.informative.model,
        figure(Stage::Prefill, "checks"),
        figure(Stage::Graph, "steps"),
        figure(Stage::Graph, "launches"),
        figure(Stage::Graph, "replays"),
    )
}

fn verdict_stage<'p>(proof: &Proof<'p>, stage: Stage) -> Option<&'p StageRecord> {
    proof.verdict.stages.iter().find(|s| s.name == stage)
}

/// Why a node whose kernel is as it was has something to land.
fn since(proof: &Proof<'_>) -> String {
    match &proof.before {
        Standing::Stale(row, fields) => {
            format!("changed since row {}: {}", row.seq, fields.join(", ").replace('_', " "))
        }
        Standing::Red(row) => format!("it was red in row {}", row.seq),
        Standing::Untrusted(row, key) => format!("row {} proved it by key {}, untrusted", row.seq, key.short()),
        Standing::Void(row, why) => format!("row {} proved it, but {why}", row.seq),
        Standing::OtherWeights(row) => format!("row {} proved it for another file", row.seq),
        Standing::Green(row) | Standing::Simulated(row) => format!("row {} proved it before", row.seq),
        Standing::Emulated(_) | Standing::Unproved => "this is its first proof".into(),
    }
}

fn figures(ledger: &Ledger, proof: &Proof<'_>) -> String {
    let (verdict, binding) = (proof.verdict, &proof.verdict.binding);
    let mut parts = Vec::new();
    match (verdict.worst(figure::REL_RMS), verdict.worst(figure::MAX_ABS)) {
        (Some(rms), Some(max)) => parts.push(format!("worst error {rms:.2e} relative RMS, {max:.2e} absolute")),
        (Some(rms), None) => parts.push(format!("worst error {rms:.2e} relative RMS")),
        _ => parts.push("no error figure".into()),
    }
    if let Some(after) = verdict.worst(figure::TIME_US) {
        let earlier = ledger.proved(&proof.node, &binding.arch, binding.numerics).find_map(|row| {
            let old = row.statement().verdict()?;
            let comparable = row.seq < proof.row.seq
                && old.class == verdict.class
                && old.binding.closure != binding.closure
                && old.binding.weights == binding.weights
                && old.informative.device == verdict.informative.device;
            old.worst(figure::TIME_US).filter(|_| comparable)
        });
        parts.push(match earlier {
            Some(before) => format!("{before:.1} → {after:.1} µs"),
            None => format!("{after:.1} µs"),
        });
    }
    let class = if proof.simulated { "simulated " } else { "" };
    parts.push(format!("{class}{} ({})", verdict.informative.device, binding.arch));
    parts.join("; ")
}
