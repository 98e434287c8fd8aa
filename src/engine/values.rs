//! A prefill op instance by op instance, looking at what each wrote: how the residual streams grow from layer to layer,
//! and the first value that is no number.

use serde::Serialize;

use super::Session;
use crate::backend::Placement;
use crate::backend::executor::POISON;
use crate::error::{Error, Result};
use crate::ops::cases::Values;
use crate::ops::{Access, Node};
use crate::plan::{Instance, StepState};
use crate::words::count;

crate::codes! {
    NOT_FINITE: "not-finite", No, "An op wrote a NaN or an infinity although all that it read was finite: the first of \
        this run. What comes after it is spoilt by it, so nothing after it was looked at. On the oracle that means weights \
        that are no numbers, with a kernel one that is wrong: `assay verify NODE` judges it.";
}

/// Ops whose outputs hold −∞ where there is nothing to select yet.
const MASKED: [&str; 1] = ["indexer_scores"];

/// The residual streams behind one op instance, over all tokens fed.
#[derive(Clone, Debug, Serialize)]
pub struct Residual {
    /// `blk.3.hc_ffn_expand`.
    pub instance: String,
    pub layer: Option<usize>,
    /// Root mean square of all streams, and of each.
    pub rms: f64,
    pub streams: Vec<f64>,
    /// Largest magnitude, with its token, stream and element.
    pub largest: f32,
    pub at: [usize; 3],
    /// `rms` over that of the instance before; 1 for the first.
    pub growth: f64,
}

/// Where an op instance first wrote what is no number.
#[derive(Clone, Debug, Serialize)]
pub struct NotFinite {
    pub instance: String,
    pub node: Node,
    pub layer: Option<usize>,
    pub placement: Placement,
    /// The written argument, by its contract's name.
    pub output: &'static str,
    /// `h[T=0, F=6]`, and the position of the step's first token.
    pub at: String,
    pub position: usize,
    /// `NaN`, `inf` or `-inf`; how many more of this output's values are none.
    pub value: String,
    pub count: usize,
    pub of: usize,
}

impl NotFinite {
    pub fn error(&self) -> Error {
        Error::new(&NOT_FINITE, format!("{} wrote what is no number, and all that it read was", self.instance))
            .expected("finite values")
            .found(format!(
                "{} = {} in the step from position {}: {} of {} of `{}`, which ran on {}",
                self.at,
                self.value,
                self.position,
                self.count,
                count(self.of, "value"),
                self.node,
                match self.placement {
                    Placement::Device => "the device",
                    Placement::Emulator => "the emulator",
                    Placement::Oracle => "the oracle",
                }
            ))
            .hint(format!("assay verify {}", self.node.file_stem()))
    }
}

/// What [`trace`] saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Trace {
    /// In the order of the plan; of the last instance that ran on, where something was not finite.
    pub residuals: Vec<Residual>,
    pub instances: usize,
    pub not_finite: Option<NotFinite>,
}

/// Sums over the tokens seen so far.
struct Sums {
    squares: Vec<f64>,
    tokens: usize,
    largest: f32,
    at: [usize; 3],
}

/// Feeds `tokens`, launch by launch, and looks at every output. Stops at the first that is not finite.
pub fn trace(session: &mut Session<'_>, tokens: &[u32]) -> Result<Trace> {
    let plan = session.executor.plan().clone();
    let mut out = Trace::default();
    // The residual streams are what the embedding writes first.
    let residual = plan.instances[0].args.last().copied().flatten();
    let mut sums: Vec<Option<Sums>> = plan.instances.iter().map(|_| None).collect();
    'chunks: for chunk in tokens.chunks(session.chunk()) {
        let position = session.position();
        let step = session.begin(chunk)?;
        for (i, instance) in plan.instances.iter().enumerate() {
            if !instance.guard.holds(&step, plan.top_k) {
                continue;
            }
            session.executor.run_range(&step, i..i + 1).map_err(|e| e.about(&instance.label))?;
            let placement = session.executor.take_trace().last().map_or(Placement::Oracle, |r| r.placement);
            out.instances += 1;
            let outputs = session.executor.outputs(i, &step)?;
            for (k, values) in outputs.iter().enumerate() {
                let Some(Values::F32(values)) = values else { continue };
                if let Some(bad) = look(instance, k, values, &step, placement, position) {
                    out.not_finite = Some(bad);
                    break 'chunks;
                }
                if instance.args[k] == residual && instance.contract().args[k].access != Access::Read {
                    let streams = session.model().config.streams;
                    add(sums[i].get_or_insert_with(|| Sums::new(streams)), values, chunk.len());
                }
            }
        }
        session.end(chunk.len());
    }
    let mut before: Option<f64> = None;
    for (instance, sums) in plan.instances.iter().zip(sums) {
        let Some(sums) = sums else { continue };
        let width = session.model().config.hidden as f64 * sums.tokens as f64;
        let streams: Vec<f64> = sums.squares.iter().map(|s| (s / width).sqrt()).collect();
        let rms = (sums.squares.iter().sum::<f64>() / (width * streams.len() as f64)).sqrt();
        out.residuals.push(Residual {
            instance: instance.label.clone(),
            layer: instance.layer,
            rms,
            streams,
            largest: sums.largest,
            at: sums.at,
            growth: before.map_or(1.0, |b| rms / b),
        });
        before = Some(rms);
    }
    Ok(out)
}

impl Sums {
    fn new(streams: usize) -> Sums {
        Sums { squares: vec![0.0; streams], tokens: 0, largest: 0.0, at: [0; 3] }
    }
}

/// `values` is [tokens, streams, hidden].
fn add(sums: &mut Sums, values: &[f32], tokens: usize) {
    let streams = sums.squares.len();
    let hidden = values.len() / (tokens * streams).max(1);
    for (row, values) in values.chunks_exact(hidden.max(1)).enumerate() {
        let (token, stream) = (sums.tokens + row / streams, row % streams);
        sums.squares[stream] += values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        for (i, v) in values.iter().enumerate() {
            if v.abs() > sums.largest {
                (sums.largest, sums.at) = (v.abs(), [token, stream, i]);
            }
        }
    }
    sums.tokens += tokens;
}

/// Whether what an op wrote is a NaN or an infinity that does not belong there.
pub fn is_no_number(op: &str, v: f32) -> bool {
    !v.is_finite() && v.to_bits() != POISON && !(v == f32::NEG_INFINITY && MASKED.contains(&op))
}

fn look(
    instance: &Instance,
    arg: usize,
    values: &[f32],
    step: &StepState,
    placement: Placement,
    position: usize,
) -> Option<NotFinite> {
    let contract = instance.contract();
    let bad = |v: &f32| is_no_number(contract.op, *v);
    let first = values.iter().position(bad)?;
    let symbol = |name: &str| match contract.dims.iter().position(|d| *d == name) {
        Some(i) => Some(instance.dims[i]),
        None => contract.steps.iter().position(|s| *s == name).map(|i| i64::from(step.get(instance.steps[i]))),
    };
    let arg = &contract.args[arg];
    Some(NotFinite {
        instance: instance.label.clone(),
        node: instance.node.clone(),
        layer: instance.layer,
        placement,
        output: arg.name,
        at: arg.coordinate(values.len(), first, &symbol),
        position,
        value: values[first].to_string(),
        count: values.iter().filter(|v| bad(v)).count(),
        of: values.len(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::engine::SessionOptions;
    use crate::model::{Gguf, Model};
    use crate::plan::Numerics;

    fn traced(model: &Model, chunk: usize) -> Trace {
        let options = SessionOptions { numerics: Numerics::Ds4, chunk, context: 12, all_logits: false };
        let mut session = Session::new(model, options).unwrap();
        let found = trace(&mut session, &[0, 5, 6, 7, 8, 9, 10, 11, 12]).unwrap();
        assert_eq!(session.position(), if found.not_finite.is_none() { 9 } else { session.position() });
        found
    }

    #[test]
    fn residuals_are_summed_over_chunks_and_a_nan_is_traced_to_its_op() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/tiny/model.gguf");
        let mut bytes = std::fs::read(&path).unwrap();
        let model = Model::from_gguf(Gguf::from_bytes(&path, bytes.clone()).unwrap()).unwrap();
        let (whole, parts) = (traced(&model, 9), traced(&model, 4));
        assert!(whole.not_finite.is_none() && parts.not_finite.is_none());
        // The embedding, then both halves of every layer.
        assert_eq!(whole.residuals.len(), 1 + 2 * model.config.layers);
        for (a, b) in whole.residuals.iter().zip(&parts.residuals) {
            assert!((a.rms - b.rms).abs() < 1e-3 * a.rms, "{a:?} {b:?}");
            assert_eq!((a.streams.len(), &a.instance), (4, &b.instance));
            assert!(a.growth > 0.0 && f64::from(a.largest) >= a.rms);
        }
        let norm = model.gguf.tensor("blk.2.ffn_norm.weight").unwrap().clone();
        bytes[norm.offset as usize + 4 * 7..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
        let spoilt = Model::from_gguf(Gguf::from_bytes(&path, bytes).unwrap()).unwrap();
        let found = traced(&spoilt, 4);
        let bad = found.not_finite.unwrap();
        assert_eq!((&*bad.instance, bad.layer, &*bad.at), ("blk.2.ffn_norm", Some(2), "y[R=0, D=7]"));
        assert_eq!((&*bad.value, bad.count, bad.placement), ("NaN", 4, Placement::Oracle));
        // Up to there the streams are known.
        assert_eq!(found.residuals.last().unwrap().instance, "blk.2.hc_attn_expand");
        let text = bad.error().to_string();
        assert!(text.contains("blk.2.ffn_norm wrote") && text.contains("y[R=0, D=7] = NaN"), "{text}");
    }
}
