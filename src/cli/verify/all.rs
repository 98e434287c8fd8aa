//! `assay verify --all`: the verdict on the whole schedule.

use std::time::Instant;

use serde_json::json;

use super::super::{output, standing};
use super::report::{document, print_verdict};
use super::sign::Signer;
use super::{Verify, stop_at_interrupt};
use crate::backend::Placement;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::plan::graph::Graph;
use crate::plan::kernels::KernelTree;
use crate::plan::schedule::canonical;
use crate::plan::{Numerics, Plan};
use crate::report::status::Status;
use crate::verify::whole::{Whole, numerics_of};
use crate::verify::{Stage, Summary, Verdict};
use crate::words::{agree, count};
use crate::workbench::Workbench;

/// Judges, records and says what is still missing for prefill_working. The exit code is 0 where nothing is.
pub(super) fn run(verify: &Verify, bench: &Workbench, model: &Model, tree: &KernelTree) -> Result<u8> {
    let started = Instant::now();
    let mut left_out = Vec::new();
    let place = verify.place(bench, &mut left_out)?;
    let place = place.ok_or_else(|| Error::internal("a whole schedule is judged somewhere or not at all"))?;
    let on_device = place.placement() == Placement::Device;
    if !verify.json {
        let status = status(bench, model)?;
        let whereabouts = match on_device {
            true => format!("on this machine's {}", place.arch()),
            false => "on the CPU emulator, in a small form that is never green".into(),
        };
        output::println(format_args!("{}\nJudging the whole schedule {whereabouts}.\n", status.sentence()))?;
    }
    let mut signer =
        (verify.record || verify.evidence.is_some()).then(|| Signer::new(verify, bench, model, &*place)).transpose()?;
    let numerics = match (verify.numerics, on_device || verify.thorough) {
        (Some(numerics), _) => vec![numerics],
        (None, true) => numerics_of(model, tree, place.arch())?,
        (None, false) => vec![Numerics::Ds4],
    };
    let stop = stop_at_interrupt();
    let bar = verify.bar(0);
    let tick = |text: &str| bar.set_message(text.to_string());
    let whole = Whole {
        model,
        tree,
        place: &*place,
        numerics,
        thorough: verify.thorough,
        seed: verify.seed()?,
        stop: &stop,
        tick: &tick,
    };
    let verdict = whole.judge();
    bar.finish_and_clear();
    let verdict = verdict?;
    let mut rows = Vec::new();
    if let Some(signer) = &mut signer {
        signer.sign_schedule(&verdict)?;
        if let Some(path) = &verify.evidence {
            signer.write(path)?;
        }
    }
    if let Some(signer) = signer.filter(|_| verify.record) {
        rows = signer.record(&bench.root)?;
    }
    let status = status(bench, model)?;
    let missing: Vec<String> =
        status.nodes.iter().filter(|n| !n.passes_on(place.arch())).map(|n| n.usage.node.to_string()).collect();
    let works = verdict.is_green() && missing.is_empty();
    if verify.json {
        output::json(
            "assay.verify/1",
            json!({
                "model": model.path(),
                "placement": place.placement(),
                "verdicts": [document(&verdict)],
                "not_green": missing,
                "prefill_working": works,
                "left_out": left_out,
                "rows": rows,
                "seconds": started.elapsed().as_secs_f64(),
            }),
        )?;
        return Ok(u8::from(!works));
    }
    print_verdict(&verdict, &verify.asked(bench))?;
    let mut text = figures(&verdict);
    if !rows.is_empty() {
        text += &format!("recorded as rows {rows:?}\n");
    }
    let total = status.nodes.len();
    text += &match (works, verdict.is_green(), on_device) {
        (true, ..) if rows.is_empty() => {
            format!("\nprefill works on {}; a row would say so: --record, or --evidence FILE\n", place.arch())
        }
        (true, ..) => format!("\nprefill works on {}\n", place.arch()),
        (false, true, _) => format!(
            "\nprefill_working is not claimed: {} of {} {} not proved green here for {}: {}\n",
            missing.len(),
            count(total, "node"),
            agree(missing.len(), "is", "are"),
            place.arch(),
            missing.join(" ")
        ),
        (false, false, false) if verdict.summary() == Summary::Pass => {
            "\nprefill_working is not claimed: a pass on the emulator is never green\n".into()
        }
        _ => "\nprefill_working is not claimed\n".into(),
    };
    if !left_out.is_empty() {
        text += &format!("\nCould not run here:\n  {}\n", left_out.join("\n  "));
    }
    text += &format!("\n{:.0} s. Next: assay status\n", started.elapsed().as_secs_f64());
    output::print(text)?;
    Ok(u8::from(!works))
}

fn status(bench: &Workbench, model: &Model) -> Result<Status> {
    let plan = Plan::build(model, canonical(Numerics::Ds4))?;
    standing::status(bench, model, &Graph::of(&plan, None), Numerics::Ds4)
}

/// The figures that a reader asks for first, a line per numerics.
fn figures(verdict: &Verdict) -> String {
    let mut text = String::new();
    let of = |stage: Stage| verdict.stages.iter().find(|s| s.stage == stage);
    for numerics in [Numerics::Ds4, Numerics::Exact] {
        let name = numerics.name();
        let Some(prefill) = of(Stage::Prefill).and_then(|s| s.figures.get(name)) else { continue };
        let checks: u64 = prefill["in_situ"]
            .as_object()
            .into_iter()
            .flat_map(|nodes| nodes.values())
            .filter_map(|n| n["checks"].as_u64())
            .sum();
        text += &format!("      {name:<6} {} in place", count(checks, "check"));
        for (with, what) in [("with_oracle", "the oracle"), ("with_itself", "itself")] {
            if let Some(all) = prefill.get(with) {
                text += &format!(
                    "; {} positions against {what}: relative RMS {:.1e}, worst {:.1e}",
                    all["positions"],
                    all["relative_rms"].as_f64().unwrap_or(f64::NAN),
                    all["worst"].as_f64().unwrap_or(f64::NAN)
                );
            }
        }
        if let Some(graph) = of(Stage::Graph).and_then(|s| s.figures.get(name)) {
            text += &format!(
                "; {} steps of {} kinds, {} launches, {} replays",
                graph["steps"], graph["kinds_of_step"], graph["launches"], graph["replays"]
            );
        }
        text.push('\n');
    }
    if let Some(left_out) = of(Stage::Prefill).and_then(|s| s.figures.get("left_out")).and_then(|l| l.as_array()) {
        for what in left_out.iter().filter_map(|l| l.as_str()) {
            text += &format!("      left out: {what}\n");
        }
    }
    text
}
