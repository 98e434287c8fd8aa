//! `assay verify --all`: the whole schedule, on the emulator in its small form.

use std::path::PathBuf;

use assay::ledger::{Config, Digest, Evidence, Ledger, SecretKey, Statement};
use serde_json::Value;

use crate::bench::{Bench, LIGHT, Output, WINDOWED, assay_with};

const SEED: &str = "00000000000000000000000000000000000000000000000000000000000000ab";

/// The repository's kernels over a light model, and a key.
struct Whole {
    bench: Bench,
    home: tempfile::TempDir,
    key: SecretKey,
}

impl Whole {
    fn new() -> Whole {
        Whole::over(LIGHT)
    }

    fn over(options: &[&str]) -> Whole {
        let (bench, home) = (Bench::small(options), tempfile::tempdir().unwrap());
        let key = Config::at(home.path()).new_key("me").unwrap();
        let whole = Whole { bench, home, key };
        let trusted = whole.run(&["key", "trust", &whole.key.public().to_string()]);
        assert_eq!(trusted.code, 0, "{}", trusted.stderr);
        whole
    }

    fn run(&self, args: &[&str]) -> Output {
        assay_with(&self.bench.path(""), args, &[("ASSAY_CONFIG_DIR", self.home.path())])
    }

    /// `verify --all` on the emulator; `None` where the host has no compiler for it.
    fn judge(&self, more: &[&str]) -> Option<(i32, Value)> {
        // What is recorded draws its own cases.
        let seed = if more.contains(&"--record") { &[][..] } else { &["--seed", SEED] };
        let args = ["verify", "--all", "--backend", "emulator", "--json"];
        let out = self.run(&[&args, seed, more].concat());
        if out.stderr.contains("emulator-no-compiler") {
            println!("could not run: no C++ compiler");
            return None;
        }
        Some((out.code, serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", out.stderr))))
    }

    fn edit(&self, kernel: &str, from: &str, to: &str) -> PathBuf {
        let path = self.bench.path(kernel);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{kernel} has no `{from}`");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        path
    }

    fn prefill_line(&self) -> String {
        let out = self.run(&["status"]);
        assert_eq!(out.code, 0, "{}", out.stderr);
        let mut lines = out.stdout.lines();
        lines.find(|l| l.starts_with("prefill_working")).map(String::from).unwrap()
    }

    /// What a run on the emulator says of itself, its last line.
    fn said_of_a_run(&self) -> String {
        let args = ["logits", "--tokens", "1,2,3", "--backend", "emulator", "--numerics", "ds4"];
        let out = self.run(&[&args[..], &["--out", "logits.npy"]].concat());
        assert_eq!(out.code, 0, "{}", out.stderr);
        let standing = |l: &&str| l.starts_with("UNVERIFIED") || l.starts_with("verified");
        out.stdout.lines().find(standing).unwrap_or_else(|| panic!("{}", out.stdout)).to_string()
    }
}

fn stage<'v>(doc: &'v Value, name: &str) -> &'v Value {
    let stages = doc["verdicts"][0]["stages"].as_array().unwrap();
    stages.iter().find(|s| s["stage"] == name).unwrap_or_else(|| panic!("no stage {name}: {doc}"))
}

#[test]
fn the_whole_schedule_is_judged_on_the_emulator_and_never_claimed_there() {
    let whole = Whole::new();
    let Some((code, doc)) = whole.judge(&["--record"]) else { return };
    let verdict = &doc["verdicts"][0];
    assert_eq!((verdict["node"].as_str(), verdict["summary"].as_str()), (Some("*"), Some("pass")), "{doc}");
    assert_eq!((code, &doc["prefill_working"], &doc["rows"]), (1, &Value::from(false), &serde_json::json!([1])));
    let ds4 = &stage(&doc, "prefill")["figures"]["ds4"];
    let checked = ds4["in_situ"].as_object().unwrap();
    let status = whole.run(&["status", "--json"]);
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    for node in status["nodes"].as_array().unwrap() {
        let checks = &checked[node["node"].as_str().unwrap()]["checks"];
        assert!(checks.as_u64().unwrap() >= 2, "{}: {checks}", node["node"]);
    }
    assert!(ds4["with_oracle"]["positions"].as_u64().unwrap() >= 6 && ds4["with_itself"]["positions"] == 1, "{ds4}");
    let graph = stage(&doc, "graph");
    assert_eq!(graph["outcome"], "not_run", "no driver gave a kernel back");
    assert!(graph["figures"]["ds4"]["steps_compared_byte_by_byte"].as_u64().unwrap() >= 2, "{graph}");

    let line = whole.prefill_line();
    assert!(line.contains("no: 27 of 27 nodes") || line.contains("not green"), "{line}");
    assert!(line.contains("the whole schedule: passes on the emulator (row 1"), "{line}");
    assert_eq!(whole.said_of_a_run(), "UNVERIFIED: the emulator proves nothing of a device (row 1)".to_string());
    let shown = whole.run(&["show", "1"]).stdout;
    assert!(shown.contains("synthetic"), "{shown}");

    let again = whole.run(&["audit", "--replay", "1"]);
    assert_eq!(again.code, 0, "{}{}", again.stdout, again.stderr);
    assert!(again.stdout.contains("row 1 judged again: it comes out as recorded"), "{}", again.stdout);
    // A row that nobody judged, signed by a key that is trusted: its signature is right, its outputs are not.
    let mut made_up = Ledger::read(&whole.bench.path("")).unwrap().rows()[1].statement().verdict().unwrap().clone();
    made_up.outputs.insert("ds4.outputs".into(), Digest([1; 32]));
    let evidence = Evidence::sign(Statement::Verdict(Box::new(made_up)), &whole.key).unwrap();
    Ledger::open(&whole.bench.path("")).unwrap().append(&[evidence], &whole.key).unwrap();
    let again = whole.run(&["audit", "--replay", "2"]);
    assert_eq!(again.code, 4, "{}{}", again.stdout, again.stderr);

    // Any kernel of it: the row speaks of other closures now.
    whole.edit("kernels/take_rows.cu", "//", "// ");
    let line = whole.prefill_line();
    assert!(line.contains("stale on emulator: closure, schedule_slice changed since row 2"), "{line}");
    assert!(whole.said_of_a_run().starts_with("UNVERIFIED: stale on emulator"), "{}", whole.said_of_a_run());
}

/// Every position but one is right, and the cases of a node's own verdict meet it in one of some hundred runs.
#[test]
fn a_kernel_that_is_wrong_where_a_chunk_begins_passes_alone_and_fails_as_part_of_the_whole() {
    let whole = Whole::over(WINDOWED);
    let scale = "Work{a}, a.scratch, a.scale)";
    whole.edit("kernels/attention_mixed.cu", scale, "Work{a}, a.scratch, *a.pos0 == 128 ? 0.5f * a.scale : a.scale)");
    let alone = ["verify", "attention_mixed", "--backend", "emulator", "--seed", SEED, "--json"];
    let Some((code, doc)) = whole.judge(&[]) else { return };
    let red = stage(&doc, "prefill");
    assert_eq!((code, red["outcome"].as_str()), (1, Some("red")), "{doc}");
    assert!(red["reason"].as_str().unwrap().ends_with("attention_mixed is wrong in place"), "{red}");
    assert!(red["first_bad"]["case"].as_str().unwrap().contains(" at 128"), "{red}");
    let alone = whole.run(&alone);
    assert_eq!(alone.code, 0, "{}{}", alone.stdout, alone.stderr);
}

/// What it reads is whatever the op before has left there; 0 times that is 0 in most runs.
#[test]
fn a_kernel_that_reads_scratch_which_it_has_not_written_fails_as_part_of_the_whole() {
    let whole = Whole::new();
    whole.edit("kernels/attention_mixed.toml", "T*H*32*(D+4)*4", "T*H*32*(D+4)*4+4");
    let merged = "attention::merge(keys_of(a, tile), tile, query, a.scratch);";
    let and_more = "{ attention::merge(keys_of(a, tile), tile, query, a.scratch); if (threadIdx.x == 0) \
                    tile.o[query * a.D] += 0.0f * ((const float*)a.scratch)[size_t(*a.T) * a.H * 32 * (a.D + 4)]; }";
    whole.edit("kernels/attention_mixed.cu", merged, and_more);
    let Some((code, doc)) = whole.judge(&[]) else { return };
    let red = stage(&doc, "prefill");
    assert_eq!((code, red["outcome"].as_str()), (1, Some("red")), "{doc}");
    assert!(red["reason"].as_str().unwrap().ends_with("attention_mixed is wrong in place"), "{red}");
}

#[test]
fn a_schedule_that_is_short_of_a_kernel_is_red_and_names_it() {
    let whole = Whole::new();
    std::fs::remove_file(whole.bench.path("kernels/take_rows.toml")).unwrap();
    let Some((code, doc)) = whole.judge(&["--record"]) else { return };
    let build = stage(&doc, "build");
    assert_eq!((code, build["outcome"].as_str()), (1, Some("red")), "{doc}");
    assert!(build["reason"].as_str().unwrap().contains("take_rows"), "{build}");
    assert_eq!(doc["rows"], serde_json::json!([]), "it binds nothing");
}
