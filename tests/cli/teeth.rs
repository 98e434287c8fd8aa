//! `assay verify --teeth`: what the judge would have seen.

use serde_json::Value;

use crate::bench::{Bench, Output};

/// What `.ci/teeth.md` was drawn by.
const SAMPLE: &str = "7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e";
const SEED: &str = "7465657468000000000000000000000000000000000000000000000000000001";

fn document(out: &Output) -> Value {
    serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", out.stdout, out.stderr))
}

/// Mutants of kernels on the emulator; nothing where there is no compiler.
fn mutants(bench: &Bench, seed: &str, args: &[&str]) -> Option<(i32, Value)> {
    let out = bench.run(&[&["verify", "--teeth", "--seed", seed, "--json", "--mutants"], args].concat());
    if out.stderr.contains("emulator-no-compiler") {
        println!("could not run: no C++ compiler");
        return None;
    }
    Some((out.code, document(&out)))
}

fn fates<'d>(doc: &'d Value, fate: &str) -> Vec<&'d Value> {
    let all = doc["kernels"].as_array().unwrap_or_else(|| panic!("{doc}"));
    let all = all.iter().flat_map(|k| k["mutants"].as_array().unwrap());
    all.filter(|m| m["fate"] == fate).collect()
}

#[test]
fn every_mutant_of_an_answer_is_killed_by_two_cases() {
    let bench = Bench::light();
    let doc = bench.json(&["verify", "--teeth", "--backend", "emulator", "--seed", SEED, "--json"]);
    assert_eq!((doc["schema"].as_str(), doc["weak"].as_u64()), (Some("assay.teeth/1"), Some(0)));
    let nodes = doc["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 27);
    for node in nodes {
        for total in node["totals"].as_array().unwrap() {
            let means = total["left_out"].is_null();
            assert!(!means || total["killed"].as_u64() >= Some(2), "{}: {total}", node["node"]);
        }
        for variant in node["variants"].as_array().unwrap() {
            let cases = variant["cases"].as_array().unwrap().len() as u64;
            for mutant in variant["mutants"].as_array().unwrap() {
                let (applies, killed) = (mutant["applies"].as_array().unwrap(), mutant["killed"].as_array().unwrap());
                assert!(applies.iter().all(|i| i.as_u64().unwrap() < cases), "{mutant}");
                assert!(killed.iter().all(|i| applies.contains(i)), "{mutant}");
            }
        }
    }
    let text = bench.stdout(&["verify", "--teeth", "swiglu", "--backend", "emulator", "--seed", SEED]);
    assert!(text.contains("head swapped is left out: its outputs have no heads"), "{text}");
    assert!(text.lines().any(|l| l.contains("F=101 T=3 ") && l.ends_with("killed")), "{text}");
}

/// What the sample finds and nobody has explained is a hole in the cases, or a new kernel's.
#[test]
fn a_sample_of_every_kernels_mutants_is_killed_or_explained() {
    let bench = Bench::light();
    bench.copy("tests/teeth");
    let Some((_, doc)) = mutants(&bench, SAMPLE, &["1"]) else { return };
    let kernels = doc["kernels"].as_array().unwrap_or_else(|| panic!("{doc}"));
    assert_eq!(kernels.len(), 27);
    for kernel in kernels {
        let name = &kernel["node"];
        assert_eq!(kernel["unexplained"], 0, "{name}: {kernel:#}");
        assert!(kernel["stale"].as_array().unwrap().is_empty(), "{name}: {}", kernel["stale"]);
    }
    assert_eq!(fates(&doc, "not_judged"), Vec::<&Value>::new());
    let refuted = |m: &&Value| m["refuted"] == true;
    assert!(fates(&doc, "killed").into_iter().find(refuted).is_none());
    assert!(fates(&doc, "killed").len() > 20);
}

/// A kernel with code that no case needs, code that is never called, and a bound whose mutant is the same.
#[test]
fn survivors_are_named_and_what_does_not_count_is_counted_apart() {
    let bench = Bench::light();
    let source = std::fs::read_to_string(bench.path("kernels/output_hc_weights.cu")).unwrap();
    let source = source
        .replace("extern \"C\"", "__device__ inline float unused(float a, float b) { return a * b; }\n\nextern \"C\"")
        .replace(
            "  const float x = ",
            "  if (a.S > 12345678) return;\n  if (*a.R > 23456789) return;\n  const float x = ",
        );
    bench.write("kernels/output_hc_weights.cu", &source);
    // A survivor is declared equivalent, wrongly; a mutant that dies is too; and one that is not there.
    let entry = |before: &str, after: &str| {
        let file = "output_hc_weights.cu";
        format!("[[equivalent]]\nfile = {file:?}\nbefore = {before:?}\nafter = {after:?}\nwhy = \"because\"\n")
    };
    let known = [
        entry("if (a.S > 12345678) return;", "if (a.S > 1 + 12345678) return;"),
        entry("if (i >= *a.R * a.S) return;", "if (i > *a.R * a.S) return;"),
        entry("if (gone) return;", "if (!gone) return;"),
        "[[gap]]\nfile = \"output_hc_weights.cu\"\nlines = [\"if (*a.R > 23456789) return;\"]\nwhy = \"no such count\"\n".into(),
    ];
    bench.write("tests/teeth/known.toml", &known.concat());
    let args = ["all", "output_hc_weights", "--journal", "journal"];
    let Some((code, doc)) = mutants(&bench, SEED, &args) else { return };
    assert_eq!(code, 1);
    // What the journal has is not judged again, and nothing that is about another kernel is taken from it.
    let journal = std::fs::read_to_string(bench.path("journal")).unwrap();
    let (code, again) = mutants(&bench, SEED, &args).unwrap();
    assert_eq!((code, &again["kernels"][0]["mutants"]), (1, &doc["kernels"][0]["mutants"]));
    assert_eq!(std::fs::read_to_string(bench.path("journal")).unwrap(), journal);
    bench.write("kernels/output_hc_weights.cu", &source.replace("12345678", "12345679"));
    let (code, refused) = mutants(&bench, SEED, &args).unwrap();
    assert_eq!((code, refused["code"].as_str()), (3, Some("teeth-journal")), "{refused}");
    let kernel = &doc["kernels"][0];
    let survived = fates(&doc, "survived");
    let named =
        |m: &&&Value| m["after"] == "if (a.S >= 12345678) return;" && m["before"] == "if (a.S > 12345678) return;";
    assert_eq!(survived.iter().filter(named).count(), 1, "{doc:#}");
    assert!(survived.iter().any(|m| m["gap"] == "no such count"), "{doc:#}");
    assert!(kernel["unexplained"].as_u64() < kernel["survived"].as_u64());
    assert!(fates(&doc, "same_code").iter().any(|m| m["after"].as_str().unwrap().contains("unused")), "{doc:#}");
    // One that writes nothing is a stub, which is the source's fault.
    assert!(fates(&doc, "killed").iter().all(|m| ["source", "unit", "prefill"].iter().any(|s| m["stage"] == *s)));
    assert_eq!(kernel["possible"], kernel["mutants"].as_array().unwrap().len());
    let (killed, survived) = (kernel["killed"].as_f64().unwrap(), kernel["survived"].as_f64().unwrap());
    assert_eq!(kernel["rate"].as_f64().unwrap(), killed / (killed + survived));
    let equivalent = fates(&doc, "equivalent");
    assert!(equivalent.len() == 1 && equivalent[0]["why"] == "because", "{equivalent:?}");
    let refuted: Vec<_> = fates(&doc, "killed").into_iter().filter(|m| m["refuted"] == true).collect();
    assert!(refuted.len() == 1 && refuted[0]["after"] == "if (i > *a.R * a.S) return;", "{refuted:?}");
    assert_eq!(doc["kernels"][0]["stale"], serde_json::json!(["output_hc_weights.cu: if (!gone) return;"]));
}

#[test]
fn a_red_kernel_has_no_mutants_and_a_broken_file_is_said() {
    let bench = Bench::light();
    bench.write("tests/teeth/known.toml", "[[equivalent]]\nfile = \"x\"\n");
    let out = bench.run(&["verify", "--teeth", "take_rows", "--mutants", "1"]);
    assert!(out.code == 3 && out.stderr.contains("[teeth-known]"), "{}{}", out.stdout, out.stderr);
    std::fs::remove_file(bench.path("tests/teeth/known.toml")).unwrap();
    let source = std::fs::read_to_string(bench.path("kernels/take_rows.cu")).unwrap();
    bench.write("kernels/take_rows.cu", &source.replace("* a.D + d", "* a.D"));
    let Some((code, doc)) = mutants(&bench, SEED, &["1", "take_rows"]) else { return };
    assert_eq!((code, doc["code"].as_str()), (1, Some("teeth-kernel")), "{doc}");
    for args in [["--mutants", "1"].as_slice(), &["--teeth", "--mutants", "0"], &["--teeth", "--all"]] {
        assert_eq!(bench.run(&[&["verify"], args].concat()).code, 2, "{args:?}");
    }
    let device = bench.run(&["verify", "--teeth", "--mutants", "1", "--backend", "device"]);
    assert_eq!(device.code, 2, "{}", device.stderr);
}
