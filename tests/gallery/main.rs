//! The gallery: kernels that the verifier must refuse, each at the stage that is there for it, and honest ones that
//! it must let pass. From outside, through the built program, on the emulator.
//!
//! Every folder here is an exhibit; `edits.rs`, `extremes.rs`, `counts.rs`, `ends.rs` and `ranges.rs` have more that are one
//! edit of a kernel of the repository. `docs/stages.md` and `POSTMORTEM.md` name them. Some try to get out of the worker
//! and the compiler: the text and the object's symbols tell of these before they are tried, and `tests/emulator.rs` tries
//! them past both. Without a C++ compiler nothing can be judged: that is said, and counted apart.

mod attack;
mod bench;
mod counts;
mod edits;
mod ends;
mod exhibits;
mod extremes;
mod ranges;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bench::{Verdict, judge};
use exhibits::{Exhibit, Expected, What, hung};

/// Edits that are judged only where there is time: each takes a core for four seconds or more.
const LONG: &[&str] = &[
    "chooses_among_8192_rows",
    "codes_of_a_q2_k_block_without_a_scale",
    "codes_of_an_iq2_xxs_block_without_a_scale",
    "down_of_128_experts",
    "eighth_element_of_an_aligned_last_row",
    "forty_nine_pairs_in_a_tile_of_48",
    "gate_up_of_128_experts",
    "halves_of_no_row_below_1e_15",
    "limbs_of_no_row_below_1e_15",
    "limbs_of_no_tiny_rows",
    "lists_of_1024_experts",
    "maximum_kept_beyond_f16",
    "merges_by_another_tile_than_was_split",
    "nine_pairs_in_a_tile_of_8",
    "no_block_for_the_last_row_alone",
    "norms_4096_rows",
    "product_of_8192_rows",
    "scale_of_another_block",
    "second_block_of_a_lane_unscaled",
    "seventeen_pairs_in_a_tile_of_16",
    "seventeen_tokens_in_a_tile_of_16",
    "sorts_128_experts",
    "stores_3000_rows",
    "stores_ties_upwards",
    "streams_8192_rows",
    "streams_of_4096_elements",
    "sum_against_an_older_maximum",
    "thirty_three_pairs_in_a_tile_of_32",
    "tile_of_no_heads",
    "tiles_of_63_pairs",
    "two_rows_behind_the_last_four",
    "works_without_tokens_where_heads_are_four",
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<_> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let hung = match hung(&bench::repository().join("tests/gallery")) {
        Ok(hung) => hung,
        Err(why) => {
            println!("{why}");
            return ExitCode::FAILURE;
        }
    };
    let all: Vec<&Exhibit> = hung
        .iter()
        .chain(edits::EDITS)
        .chain(extremes::EXTREMES)
        .chain(counts::COUNTS)
        .chain(ends::ENDS)
        .chain(ranges::RANGES)
        .filter(|e| filters.is_empty() || filters.iter().any(|f| e.name.contains(*f)))
        .collect();
    let has_time = std::env::var_os("ASSAY_GALLERY_LONG").is_some_and(|v| !v.is_empty());
    let (chosen, left): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|e| has_time || !filters.is_empty() || !LONG.contains(&e.name));
    if filters.is_empty() && !has_time && left.len() != LONG.len() {
        println!("LONG names {} exhibits, of which {} hang here", LONG.len(), left.len());
        return ExitCode::FAILURE;
    }
    if args.iter().any(|a| a == "--list") {
        chosen.iter().for_each(|e| println!("{}: test", e.name));
        return ExitCode::SUCCESS;
    }
    if let Err(why) = assay::backend::emulator::Builder::with_cache(&bench::cache()) {
        if why.code().id != "emulator-no-compiler" {
            println!("{why}");
            return ExitCode::FAILURE;
        }
        chosen.iter().for_each(|e| println!("test {} ... could not run: no C++ compiler", e.name));
        println!("\ntest result: ok. 0 passed; 0 failed; {} could not run: no C++ compiler", chosen.len());
        return ExitCode::SUCCESS;
    }
    if let Err(why) = examiner_is_strict() {
        println!("test examiner_is_strict ... FAILED\n{why}");
        return ExitCode::FAILURE;
    }
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(exhibit) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            let start = Instant::now();
            let outcome = judge(exhibit).and_then(|verdict| examine(exhibit, &verdict));
            let seconds = start.elapsed().as_secs_f64();
            match outcome {
                Ok(said) => println!("test {} ... ok ({seconds:.1} s: {said})", exhibit.name),
                Err(why) => {
                    println!("test {} ... FAILED ({seconds:.1} s)\n{why}", exhibit.name);
                    failed.lock().expect("no thread panics while it holds this").push(exhibit.name);
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(8);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().expect("no thread panicked");
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {} passed; {} failed; 0 could not run; {} left to ASSAY_GALLERY_LONG=1",
        chosen.len() - failed.len(),
        failed.len(),
        left.len()
    );
    failed.iter().for_each(|name| println!("    {name}"));
    ExitCode::from(u8::from(!failed.is_empty()))
}

/// Whether an exhibit that is refused by accident fails the test: at another stage than its card says, in other words, by a
/// verdict that is none, or although it is honest.
fn examiner_is_strict() -> Result<(), String> {
    let hung = |expected| {
        let change = What::Kernel { node: "swiglu", change: exhibits::Change::Files("zeros") };
        Exhibit { name: "zeros", what: change, expected }
    };
    let verdict = |exit, summary: &str, stage: &str, reason: &str| Verdict {
        exit,
        summary: summary.into(),
        stage: stage.into(),
        reason: reason.into(),
    };
    let broken = hung(Expected::Red("unit", "h is wrong"));
    let right = verdict(1, "red", "unit", "h is wrong at [0]");
    examine(&broken, &right).map_err(|why| format!("  what its card says is taken for a failure\n{why}"))?;
    let accidents = [
        verdict(1, "red", "build", "h is wrong at [0]"),
        verdict(1, "red", "source", "h is wrong at [0]"),
        verdict(1, "red", "", "h is wrong at [0]"),
        verdict(1, "red", "unit", "did not end"),
        verdict(3, "indeterminate", "unit", "h is wrong at [0]"),
        verdict(3, "red", "unit", "h is wrong at [0]"),
        verdict(0, "pass", "", ""),
    ];
    let honest = hung(Expected::Pass);
    let missed = accidents.iter().filter(|v| examine(&broken, v).is_ok());
    match missed.chain([&right].into_iter().filter(|v| examine(&honest, v).is_ok())).next() {
        None => Ok(()),
        Some(v) => Err(format!(
            "  exit {}, {}, stage {}: {} is taken for what a card says",
            v.exit, v.summary, v.stage, v.reason
        )),
    }
}

/// Whether the verdict is the one that the exhibit is here for; what was said, in short.
fn examine(exhibit: &Exhibit, verdict: &Verdict) -> Result<String, String> {
    let Verdict { exit, stage, summary, reason } = verdict;
    let found = format!("  exit {exit}, {summary}, stage {stage}: {reason}\n  seed {}", bench::seed());
    match exhibit.expected {
        Expected::Pass if *exit == 0 && summary == "pass" => Ok("passes".into()),
        Expected::Pass => Err(format!("  an honest kernel is to pass\n{found}")),
        Expected::Red(wanted, fragment) => {
            let refused = match exhibit.what {
                What::Kernel { .. } => *exit == 1,
                What::Attack(_) => matches!(*exit, 1 | 3 | 4),
            };
            if !refused || summary != "red" || !wanted.split(" or ").any(|w| stage == w) {
                return Err(format!("  to be refused by stage {wanted}\n{found}"));
            }
            if !fragment.split(" | ").any(|f| reason.contains(f)) {
                return Err(format!("  the reason is to contain `{fragment}`\n{found}"));
            }
            Ok(format!("{stage}: {}", reason.lines().next().unwrap_or_default().chars().take(100).collect::<String>()))
        }
    }
}
