//! A benchmark as evidence: what was measured of the whole schedule, bound to it.

use std::collections::BTreeMap;

use super::record::About;
use crate::engine::bench::Measured;
use crate::engine::breakdown::Breakdown;
use crate::ledger::{self, Binding, Class, Figure, Informative, Target, clock};

/// What the runs have in common.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Most tokens of one step.
    pub chunk: usize,
    /// Name of the device, and its driver's version.
    pub device: String,
    pub driver: String,
    /// Bytes a second that the device copies, measured in the same run.
    pub copy: Option<f64>,
    /// Floating-point operations a second of its tensor cores, by its data sheet.
    pub tensor: Option<f64>,
}

/// The statement of a device's timings, and of where the time of a step went for each test that was broken down.
/// `binding` is the schedule's that was run.
pub fn statement(
    measured: &[Measured],
    steps: &[Breakdown],
    setting: &Setting,
    binding: Binding,
    about: &About,
) -> ledger::Bench {
    let whole = measured.iter().map(|m| (m.test.name(), figures(m, setting)));
    ledger::Bench {
        node: Target::Schedule,
        class: Class::Device,
        binding,
        runs: whole.chain(steps.iter().flat_map(parts)).collect(),
        informative: Informative {
            assay: env!("CARGO_PKG_VERSION").into(),
            time: clock::now(),
            commit: about.commit.clone(),
            host: about.host.clone(),
            model: about.model.clone(),
            device: setting.device.clone(),
            driver: setting.driver.clone(),
            ..Informative::default()
        },
    }
}

/// Of one step: `tg128@d2048 step`, and `tg128@d2048 rms_norm` for all instances of a node together or `… attn_q_b` for
/// each of the products that are told by themselves.
fn parts(b: &Breakdown) -> Vec<(String, BTreeMap<String, Figure>)> {
    let part = |name: &str, instances: Option<usize>, figures: &[(&str, f64)]| {
        let count = instances.map(|n| ("instances", count(n)));
        let all = figures.iter().map(|(name, v)| (*name, Figure::Real(*v))).chain(count);
        (format!("{}{PART}{name}", b.test.name()), all.map(|(name, v)| (name.to_string(), v)).collect())
    };
    let step = part(
        "step",
        None,
        &[("ms", b.step_ms), ("steps", b.steps as f64), ("between_ms", b.between_ms), ("clock_ms", b.clock_ms)],
    );
    let shares = b
        .shares
        .iter()
        .map(|s| part(&s.node.to_string(), Some(s.instances), &[("ms", s.ms), ("bytes", s.bytes), ("flops", s.flops)]));
    let large = b.large.iter().map(|l| part(&l.name, Some(l.instances), &[("ms", l.ms), ("bytes", l.bytes)]));
    std::iter::once(step).chain(shares).chain(large).collect()
}

/// Stands between a test's name and that of a part of its step.
pub const PART: char = ' ';

fn count(n: usize) -> Figure {
    Figure::Count(i64::try_from(n).unwrap_or(i64::MAX))
}

fn figures(m: &Measured, setting: &Setting) -> BTreeMap<String, Figure> {
    let (rate, deviation) = m.rate();
    let mut out = BTreeMap::from([
        ("tokens".to_string(), count(m.test.tokens())),
        ("depth".to_string(), count(m.test.depth())),
        ("chunk".to_string(), count(setting.chunk)),
        ("repetitions".to_string(), count(m.seconds.len())),
        ("tokens_per_second".to_string(), Figure::Real(rate)),
        ("deviation".to_string(), Figure::Real(deviation)),
        ("bytes_per_token".to_string(), Figure::Real(m.bytes_per_token)),
        ("flops_per_token".to_string(), Figure::Real(m.flops_per_token)),
    ]);
    let told = [
        ("device_ms", m.mean_device_ms()),
        ("copy_bytes_per_second", setting.copy),
        ("tensor_flops_per_second", setting.tensor),
    ];
    out.extend(told.into_iter().filter_map(|(name, v)| Some((name.to_string(), Figure::Real(v?)))));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::bench::Test;
    use crate::engine::breakdown::{Large, Share};

    #[test]
    fn a_run_is_named_as_the_ledger_names_it_and_its_figures_are_the_benchmarks() {
        let test = Test::Decode { tokens: 32, depth: 2048 };
        let m = Measured {
            test,
            seconds: vec![0.32, 0.32],
            device_ms: vec![310.0, 312.0],
            bytes_per_token: 1e9,
            flops_per_token: 2e10,
        };
        let setting =
            Setting { chunk: 2048, device: "d".into(), driver: "13.0".into(), copy: Some(4e12), tensor: None };
        assert_eq!(test.name(), "tg32@d2048");
        let figures = figures(&m, &setting);
        assert_eq!(figures["tokens_per_second"], Figure::Real(100.0));
        assert_eq!((figures["device_ms"], figures["depth"]), (Figure::Real(311.0), Figure::Count(2048)));
        assert!(figures.contains_key("copy_bytes_per_second") && !figures.contains_key("tensor_flops_per_second"));
        let (node, large) = ("matmul[q8_0]".parse().unwrap(), "attn_q_b".to_string());
        let step = Breakdown {
            test,
            steps: 4,
            step_ms: 9.5,
            clock_ms: 0.003,
            between_ms: 0.5,
            shares: vec![Share { node, instances: 43, ms: 9.0, bytes: 1e9, flops: 2e10 }],
            large: vec![Large {
                name: large,
                node: "matmul[q8_0]".parse().unwrap(),
                instances: 43,
                bytes: 3e7,
                ms: 0.1,
            }],
            launches: Vec::new(),
        };
        let parts: BTreeMap<_, _> = parts(&step).into_iter().collect();
        assert_eq!(
            parts.keys().collect::<Vec<_>>(),
            ["tg32@d2048 attn_q_b", "tg32@d2048 matmul[q8_0]", "tg32@d2048 step"]
        );
        assert_eq!(parts["tg32@d2048 matmul[q8_0]"]["ms"], Figure::Real(9.0));
        assert_eq!(parts["tg32@d2048 attn_q_b"]["instances"], Figure::Count(43));
        assert_eq!(parts["tg32@d2048 step"]["ms"], Figure::Real(9.5));
    }
}
