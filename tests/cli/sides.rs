//! `run --compare`: two placements side by side, and the first op that is wrong.

use serde_json::Value;

use crate::bench::{Bench, Output};
use crate::faults::with_kernels;

const EMULATOR: &[&str] = &["run", "-p", "38+45=", "--compare", "a=emulator", "b=oracle"];

/// The document of a comparison that ends with `code`.
fn compared(bench: &Bench, args: &[&str], code: i32) -> Value {
    let out = bench.run(&[args, &["--json"]].concat());
    assert_eq!(out.code, code, "{}{}", out.stdout, out.stderr);
    let doc: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!((&doc["schema"], doc["first_beyond"].is_object()), (&"assay.compare/1".into(), code == 1));
    let rows = rows(&doc);
    let first = rows.iter().find(|r| r["beyond"] == true).cloned().unwrap_or_default();
    assert_eq!(first, doc["first_beyond"]);
    for row in rows {
        assert_eq!(row["beyond"] == true, row["first_bad"].is_object(), "{row}");
        assert_eq!(row["alone"].is_number() || row["beyond"] == true, row["judged"].is_string(), "{row}");
    }
    doc
}

fn rows(doc: &Value) -> &Vec<Value> {
    doc["differences"].as_array().unwrap()
}

fn last_line(out: &Output) -> &str {
    out.stdout.lines().last().unwrap()
}

/// Puts `new` for the only `old` of a kernel's text.
fn replace(bench: &Bench, stem: &str, old: &str, new: &str) {
    let path = format!("kernels/{stem}.cu");
    let text = std::fs::read_to_string(bench.path(&path)).unwrap();
    assert_eq!(text.matches(old).count(), 1, "{old}");
    bench.write(&path, &text.replace(old, new));
}

#[test]
fn right_kernels_drift_and_are_not_beyond_tolerance() {
    let Some(bench) = with_kernels() else { return };
    let doc = compared(&bench, EMULATOR, 0);
    let drift = |r: &Value| r["drift"].as_f64().unwrap();
    assert!(rows(&doc).len() > 80 && rows(&doc).iter().any(|r| drift(r) > r["tolerance"].as_f64().unwrap()));
    for row in rows(&doc) {
        assert_eq!(
            (&row["judged"], &row["a"], &row["position"]),
            (&"a".into(), &"emulator".into(), &0.into()),
            "{row}"
        );
        assert!(row["alone"].as_f64() <= row["tolerance"].as_f64(), "{row}");
    }
    // The other way round, in chunks: the side on kernels is judged, whichever it is.
    let other = ["run", "-p", "38+45=", "--compare", "a=oracle", "b=emulator", "--chunk", "4", "--layers", "1"];
    let doc = compared(&bench, &other, 0);
    assert!(rows(&doc).iter().all(|r| r["judged"] == "b" && r["layer"] == 1));
    let positions: std::collections::BTreeSet<_> = rows(&doc).iter().map(|r| r["position"].as_u64().unwrap()).collect();
    assert_eq!(positions, [0, 4, 8].into());
    let out = bench.run(&other);
    assert!(out.code == 0 && out.stdout.contains("blk.1.attn_q_a @ 8 "), "{}{}", out.stdout, out.stderr);
    assert!(last_line(&out).starts_with("Nothing is beyond tolerance: "), "{}", out.stdout);
}

#[test]
fn the_first_wrong_column_is_named_and_what_follows_it_is_not_blamed() {
    let Some(bench) = with_kernels() else { return };
    replace(
        &bench,
        "swiglu",
        "    const float4 g = *(const float4*)(a.g + at), u",
        "    float4 g = *(const float4*)(a.g + at), u",
    );
    replace(
        &bench,
        "swiglu",
        "    *(float4*)(a.h + at) =",
        "    if (at == size_t(3) * a.F + 16) u.y += 0.5f;\n    *(float4*)(a.h + at) =",
    );
    let doc = compared(&bench, EMULATOR, 1);
    let first = &doc["first_beyond"];
    assert_eq!((&first["node"], &first["layer"], &first["output"]), (&"swiglu".into(), &0.into(), &"h".into()));
    let bad = &first["first_bad"];
    assert_eq!((&bad["at"], &bad["why"], &first["judged"]), (&"h[T=3, F=17]".into(), &"value".into(), &"a".into()));
    assert!(bad["expected"].is_number() && bad["found"].is_number() && bad["expected"] != bad["found"], "{bad}");
    let beyond: Vec<&Value> = rows(&doc).iter().filter(|r| r["beyond"] == true).collect();
    assert!(beyond.len() == 2 && beyond.iter().all(|r| r["node"] == "swiglu"), "{beyond:#?}");
    // The same of the other side, and of other layers alone.
    let doc = compared(&bench, &["run", "-p", "38+45=", "--compare", "a=oracle", "b=emulator", "--layers", "1"], 1);
    assert_eq!((&doc["first_beyond"]["judged"], &doc["first_beyond"]["layer"]), (&"b".into(), &1.into()));
    let out = bench.run(EMULATOR);
    assert_eq!(out.code, 1, "{}", out.stderr);
    assert!(out.stdout.contains("\nFirst beyond tolerance: blk.0."), "{}", out.stdout);
    for part in ["(swiglu, layer 0, side a on the emulator, ", "h[T=3, F=17] should be ", " 2 of "] {
        assert!(out.stdout.contains(part), "{part}: {}", out.stdout);
    }
    assert_eq!(last_line(&out), "next: assay verify swiglu --backend emulator");
}

/// No single value is farther off than any may be.
#[test]
fn a_small_error_everywhere_is_beyond_on_average() {
    let Some(bench) = with_kernels() else { return };
    replace(&bench, "rms_norm", "scale = 1.0f / sqrtf", "scale = (1.0f + 8e-6f) / sqrtf");
    let first = &compared(&bench, &[EMULATOR, &["--layers", "0"]].concat(), 1)["first_beyond"];
    assert_eq!(first["instance"], "blk.0.hc_attn_norm");
    assert_eq!(first["first_bad"]["why"], "average", "{first}");
    assert!(first["alone"].as_f64() > first["tolerance"].as_f64(), "{first}");
}

#[test]
fn a_kernels_nan_is_beyond_where_it_was_written_first() {
    let Some(bench) = with_kernels() else { return };
    replace(
        &bench,
        "swiglu",
        "activate(g.w, u.w, a.clamp)};",
        "activate(g.w, u.w, a.clamp)};\n    if (at == 4) a.h[6] = sqrtf(-1.0f);",
    );
    let doc = compared(&bench, &[EMULATOR, &["--layers", "1"]].concat(), 1);
    // Its layer's: what came before is not compared. There something was no number before.
    assert_eq!((&doc["first_beyond"]["layer"], &doc["first_beyond"]["first_bad"]["why"]), (&1.into(), &"read".into()));
    let doc = compared(&bench, &[EMULATOR, &["--layers", "0-1"]].concat(), 1);
    let first = &doc["first_beyond"];
    assert_eq!((&first["node"], &first["layer"]), (&"swiglu".into(), &0.into()));
    let bad = &first["first_bad"];
    assert_eq!((&bad["at"], &bad["found"], &bad["why"]), (&"h[T=0, F=6]".into(), &"NaN".into(), &"value".into()));
}

/// `logits-nan` pointed at a comparison that took a NaN of both sides for no difference.
#[test]
fn a_nan_that_both_sides_have_is_traced_to_the_weights() {
    let bench = Bench::new();
    let mut bytes = std::fs::read(bench.path("model.gguf")).unwrap();
    let model = assay::model::Model::open(&bench.path("model.gguf")).unwrap();
    let norm = model.gguf.tensor("blk.2.ffn_norm.weight").unwrap().clone();
    bytes[norm.offset as usize + 4 * 7..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(bench.path("nan.gguf"), bytes).unwrap();
    let args = ["run", "-m", "nan.gguf", "-p", "38+45=", "--backend", "oracle"];
    let out = bench.run(&args);
    assert!(out.code == 1 && out.stderr.contains("[logits-nan]") && out.stderr.contains("a=oracle"), "{}", out.stderr);
    let args = [&args[..5], &["--compare", "a=oracle", "b=oracle"]].concat();
    let doc = compared(&bench, &args, 1);
    let (first, bad) = (&doc["first_beyond"], &doc["first_beyond"]["first_bad"]);
    assert_eq!((&first["instance"], &first["judged"]), (&"blk.2.ffn_norm".into(), &"a".into()));
    assert_eq!((&bad["at"], &bad["found"], &bad["why"]), (&"y[R=0, D=7]".into(), &"NaN".into(), &"no_number".into()));
    let out = bench.run(&args);
    assert!(out.code == 1 && last_line(&out).contains("so it is in the weights"), "{}", out.stdout);
    let out = bench.run(&[&args[..], &["--layers", "3-4"]].concat());
    assert!(out.code == 1 && last_line(&out).contains("look at what comes before it"), "{}", out.stdout);
}

/// A node without a kernel was the oracle's in silence, and the comparison of the oracle with itself was "within tolerance".
#[test]
fn a_side_without_a_kernel_is_refused_unless_the_oracle_is_allowed() {
    let Some(bench) = with_kernels() else { return };
    std::fs::remove_file(bench.path("kernels/swiglu.cu")).unwrap();
    std::fs::remove_file(bench.path("kernels/swiglu.toml")).unwrap();
    let args = [EMULATOR, &["--layers", "0"]].concat();
    let out = bench.run(&args);
    assert!(out.code == 1 && out.stderr.contains("[no-kernel]") && out.stderr.contains("swiglu"), "{}", out.stderr);
    compared(&bench, &[&args[..], &["--allow-oracle"]].concat(), 0);
}
