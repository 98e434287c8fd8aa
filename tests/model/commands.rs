//! `assay inspect` and `assay synth` as a user meets them.

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

fn assay(args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("assay").unwrap();
    command.args(args).env("NO_COLOR", "1");
    command
}

fn synth(path: &Path, options: &[&str]) {
    let mut args = vec!["synth", path.to_str().unwrap(), "--shape", "small"];
    args.extend(options);
    assay(&args).assert().success();
}

fn inspect(path: &Path, code: i32) -> (String, Value) {
    let path = path.to_str().unwrap();
    let text = assay(&["inspect", path]).assert().code(code).get_output().stdout.clone();
    let json = assay(&["inspect", path, "--json"]).assert().code(code).get_output().stdout.clone();
    (String::from_utf8(text).unwrap(), serde_json::from_slice(&json).unwrap())
}

#[test]
fn a_model_that_fits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    synth(&path, &["--q4-layers", "1", "--type", "token_embd=q8_0", "--ratios", "0,4,128", "--layers", "5"]);
    let (text, json) = inspect(&path, 0);
    assert!(text.contains("a deepseek4 model that fits"), "{text}");
    for part in ["ratios", "0 4 128 0 4", "iq2_xxs", "q4_k", "Aliases:", "synthetic, aliased"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert_eq!(
        (&json["schema"], &json["fits"], &json["kind"]),
        (&"assay.inspect/1".into(), &true.into(), &"model".into())
    );
    assert_eq!(json["config"]["ratios"], serde_json::json!([0, 4, 128, 0, 4]));
    let uses = json["tensors"]["uses"].as_array().unwrap();
    let gate: Vec<_> = uses.iter().filter(|u| u["role"] == "ffn_gate_exps").collect();
    assert_eq!(gate.len(), 2);
    assert_eq!((&gate[1]["type"], &gate[1]["layers"]), (&"q4_k".into(), &serde_json::json!([[4, 4]])));
    assert_eq!(gate[1]["bytes"], 4 * 256 * 144);
    assert_eq!(json["misfits"], serde_json::json!([]));
}

#[test]
fn misfits_drafts_and_malformed_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    synth(&path, &[]);
    let mut bytes = std::fs::read(&path).unwrap();
    // The value of a key of type u32 stands right behind the key and its type.
    let mut set = |key: &str, value: u32| {
        let at = bytes.windows(key.len()).position(|w| w == key.as_bytes()).unwrap() + key.len() + 4;
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    };
    set("deepseek4.attention.sliding_window", 256);
    set("deepseek4.attention.key_length", 576);
    std::fs::write(&path, &bytes).unwrap();
    let (text, json) = inspect(&path, 1);
    assert!(text.contains("does not fit: 2 misfits"), "{text}");
    assert!(text.contains("deepseek4.attention.sliding_window: expected 128, found 256"), "{text}");
    assert!(text.contains("\nMetadata\n") && text.contains("deepseek4.vocab_size"), "{text}");
    assert_eq!(json["metadata"]["deepseek4.attention.key_length"], "576");
    assert_eq!(json["misfits"][0]["subject"], "deepseek4.attention.key_length");
    assert_eq!(json["fits"], false);

    let rename = |from: &str, to: &str| {
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut other = bytes.clone();
        other[at..at + to.len()].copy_from_slice(to.as_bytes());
        other
    };
    std::fs::write(&path, rename("deepseek4", "deepseekX")).unwrap();
    let (text, json) = inspect(&path, 1);
    assert!(text.contains("another kind of model"), "{text}");
    assert_eq!(json["kind"], "other");

    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let output = assay(&["inspect", path.to_str().unwrap()]).assert().code(3).get_output().clone();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("gguf-truncated") && error.contains("file size"), "{error}");
    assert!(output.stdout.is_empty());
    assay(&["inspect", "no-such-file.gguf"]).assert().code(3);
}

#[test]
fn wrong_options_of_synth() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.gguf");
    let out = out.to_str().unwrap();
    for options in [
        &["--type", "attn_kv"][..],
        &["--type", "attn_kv=q9_z"],
        &["--type", "attn_kv@x=f16"],
        &["--type", "nothing=f16"],
        &["--vocab", "10"],
        &["--q4-layers", "9"],
        &["--ratios", "0,5"],
        &["--layers", "99999999999"],
        &["--hidden", "300"],
    ] {
        assay(&[&["synth", out, "--shape", "small"], options].concat()).assert().code(2);
    }
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "a refused file was left behind");
    assay(&["synth", "/no/such/folder/m.gguf", "--shape", "small"]).assert().code(3);
}

/// `attn_*=f16` made no model: norms and sinks have one type.
#[test]
fn every_rule_that_the_help_gives_as_an_example_makes_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let help = String::from_utf8(assay(&["synth", "--help"]).assert().success().get_output().stdout.clone()).unwrap();
    let rules: Vec<&str> = help.split('`').skip(1).step_by(2).filter(|w| w.contains('=')).collect();
    assert!(rules.len() > 2, "{help}");
    // Seven layers, as a rule names the last of them.
    let all: Vec<&str> = rules.iter().flat_map(|rule| ["--type", rule]).chain(["--layers", "7"]).collect();
    let path = dir.path().join("m.gguf");
    synth(&path, &all);
    inspect(&path, 0);
}

/// What the help says of sizes is what comes out.
#[test]
fn the_sizes_that_the_help_states() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let help = String::from_utf8(assay(&["synth", "--help"]).assert().success().get_output().stdout.clone()).unwrap();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let says = |size: &str| assert!(help.contains(size), "{size} is not in\n{help}");
    synth(&path, &[]);
    says(&format!("{:.1} MB", std::fs::metadata(&path).unwrap().len() as f64 / 1e6));
    assay(&["synth", path.to_str().unwrap(), "--data", "sparse", "--force"]).assert().success();
    says(&format!("{:.1} GB with --data full", std::fs::metadata(&path).unwrap().len() as f64 / 1e9));
}

/// Ctrl-C left gigabytes in a file without a name that anyone knows.
#[cfg(target_os = "linux")]
#[test]
fn an_interrupted_synth_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let child = std::process::Command::new(assert_cmd::cargo::cargo_bin("assay"))
        .args(["synth", dir.path().join("flash.gguf").to_str().unwrap()])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let begun = || std::fs::read_dir(dir.path()).unwrap().next().is_some();
    while !begun() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(130), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(!begun(), "something was left behind");
}

/// `assay synth reference/tiny/model.gguf` replaced the bundled model without a word.
#[test]
fn an_existing_file_is_not_replaced_without_force() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, "mine").unwrap();
    let out = path.to_str().unwrap();
    let refused = assay(&["synth", out, "--shape", "small"]).assert().code(2).get_output().stderr.clone();
    let said = String::from_utf8(refused).unwrap();
    assert!(said.contains("m.gguf exists already") && said.contains("--force"), "{said}");
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    synth(&path, &["--force"]);
    inspect(&path, 0);
}
