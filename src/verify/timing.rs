//! A benchmark as evidence: what was measured of the whole schedule, bound to it.

use std::collections::BTreeMap;

use super::record::About;
use crate::engine::bench::Measured;
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

/// The statement of a device's timings. `binding` is the schedule's that was run.
pub fn statement(measured: &[Measured], setting: &Setting, binding: Binding, about: &About) -> ledger::Bench {
    ledger::Bench {
        node: Target::Schedule,
        class: Class::Device,
        binding,
        runs: measured.iter().map(|m| (m.test.name(), figures(m, setting))).collect(),
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

fn figures(m: &Measured, setting: &Setting) -> BTreeMap<String, Figure> {
    let (rate, deviation) = m.rate();
    let count = |n: usize| Figure::Count(i64::try_from(n).unwrap_or(i64::MAX));
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
    }
}
