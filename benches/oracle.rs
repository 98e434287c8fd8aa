//! How fast the oracle is on the bundled model: `assay verify` waits for it more than for anything else.
//!
//! `cargo bench --bench oracle`. The bound that the project holds itself to: a prefill of 256 tokens in less than 2 s on
//! two cores, within 1 GB of memory. The peak is printed at the end.

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use assay::engine::{Session, SessionOptions};
use assay::model::Model;
use assay::plan::Numerics;
use criterion::Criterion;

const PREFILL: usize = 256;

fn session(model: &Model, numerics: Numerics, context: usize) -> Session<'_> {
    Session::new(model, SessionOptions { numerics, chunk: PREFILL, context, all_logits: false }).expect("a session")
}

/// Most memory that this process ever had resident, in MB; `None` where the system does not say.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? / 1000)
}

fn main() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/tiny/model.gguf");
    let model = Model::open(&path).expect("the bundled model");
    let tokens: Vec<u32> = (0..PREFILL).map(|i| (i * 7 % model.config.vocab) as u32).collect();
    let mut c = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(8))
        .configure_from_args();
    for numerics in [Numerics::Exact, Numerics::Ds4] {
        let mut s = session(&model, numerics, PREFILL);
        c.bench_function(&format!("prefill of {PREFILL}, {}", numerics.name()), |b| {
            b.iter(|| {
                s.reset();
                black_box(s.feed(&tokens).expect("logits"))
            });
        });
    }
    let mut s = session(&model, Numerics::Ds4, PREFILL + 4096);
    s.feed(&tokens).expect("logits");
    c.bench_function(&format!("decode behind {PREFILL}, ds4"), |b| {
        b.iter(|| {
            // The caches are full long before a measurement ends.
            if s.position() == s.context() {
                s.reset();
                s.feed(&tokens).expect("logits");
            }
            black_box(s.feed(&tokens[..1]).expect("logits"))
        });
    });
    c.final_summary();
    if let Some(mb) = peak() {
        println!("peak resident memory {mb} MB");
    }
}
