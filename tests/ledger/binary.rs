//! The commands, through the binary: what they print and how they exit.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use assay::ledger::{Class, Config, Ledger, bundle};

use crate::fixture::*;

/// Runs `assay` in `root` with a config directory of its own.
pub fn assay(root: &Path, config: &Path, args: &[&str]) -> Output {
    let settings = root.join("assay.toml");
    if !settings.exists() {
        fs::write(settings, "model = \"none.gguf\"\n").unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_assay"));
    command.current_dir(root).args(args).env("ASSAY_CONFIG_DIR", config);
    command.output().unwrap()
}

#[track_caller]
pub fn says(output: &Output, code: i32, text: &str) -> String {
    let all = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{all}");
    assert!(all.contains(text), "expected `{text}` in:\n{all}");
    all
}

#[test]
fn evidence_travels_from_a_host_to_a_workbench() {
    let (host, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bench = Workbench::new();
    let run = |args: &[&str]| assay(bench.root(), home.path(), args);
    says(&run(&["key", "new", "me"]), 0, "trusted here");
    let host_key = Config::at(host.path()).new_key("gpu-host").unwrap();
    let file = host.path().join("evidence.jsonl");
    fs::write(&file, bundle(&host_key, &[sign(verdict(1), &host_key), sign(red(2), &host_key)]).unwrap()).unwrap();
    let file = file.to_str().unwrap();

    let said = says(&run(&["import", file]), 1, "whom you do not trust");
    assert!(said.contains(&format!("assay key trust '{}'", host_key.public())));
    assert!(!bench.root().join("state").exists());
    says(&run(&["key", "trust", &host_key.public().to_string()]), 0, "trusted here");
    says(&run(&["import", file]), 0, "3 of 3 pieces of evidence were new");
    says(&run(&["import", file]), 0, "0 of 3");
    says(&run(&["history"]), 0, "red in unit: wrong");
    says(&run(&["history", "matmul.q8_0"]), 0, "pass through stage 7");
    let said = says(&run(&["show", "2"]), 0, "relative_rms 3.4e-7");
    assert!(
        said.contains("gpu-host") && said.contains("trusted here") && said.contains("rowed by         me"),
        "{said}"
    );
    says(&run(&["diff", "2", "3"]), 0, "outcome.verdict               pass          → red\n");
    says(&run(&["audit"]), 0, "the ledger holds together: 4 rows");
    says(&run(&["key", "untrust", "gpu-host"]), 0, "not trusted here");
    says(&run(&["audit"]), 0, "not trusted here: assay key trust");
    says(&run(&["show", "2"]), 0, "not trusted here");
    for (args, schema) in [
        (vec!["audit", "--json"], "assay.audit/1"),
        (vec!["show", "2", "--json"], "assay.show/1"),
        (vec!["diff", "2", "3", "--json"], "assay.diff/1"),
        (vec!["history", "--json"], "assay.history/1"),
        (vec!["key", "list", "--json"], "assay.keys/1"),
        (vec!["import", file, "--json"], "assay.import/1"),
    ] {
        let json: serde_json::Value = serde_json::from_slice(&run(&args).stdout).unwrap();
        assert_eq!(json["schema"], schema);
    }
    says(&run(&["show", "9"]), 2, "there is no row 9");
    says(&run(&["show", "zzzzzz"]), 2, "is no row");
    says(&run(&["audit", "--replay", "1"]), 3, "not judged again: 2 rows (2 to 3)");
}

#[test]
fn damage_exits_4_and_names_the_row() {
    let bench = Workbench::with_rows(4);
    let home = tempfile::tempdir().unwrap();
    let good = bench.bytes("ledger.jsonl");
    let text = String::from_utf8(good.clone()).unwrap();
    bench.put("ledger.jsonl", text.replacen("\"seq\":2", "\"seq\":3", 1));
    let before = bench.snapshot();
    for args in [vec!["audit"], vec!["history"], vec!["show", "1"], vec!["diff", "1", "2"], vec!["key", "list"]] {
        says(&assay(bench.root(), home.path(), &args), 4, "row 2 of the ledger is damaged");
    }
    assert_eq!(before, bench.snapshot());
    bench.put("ledger.jsonl", &good);
    says(&assay(bench.root(), home.path(), &["audit"]), 0, "4 rows");
    bench.put("progress.json", "{\"prefill_working\": true}");
    says(&assay(bench.root(), home.path(), &["audit"]), 4, "progress.json");
}

#[test]
fn an_interrupted_append_is_said() {
    let bench = Workbench::with_rows(3);
    let home = tempfile::tempdir().unwrap();
    bench.put("ledger.jsonl", [bench.bytes("ledger.jsonl"), b"{\"evidence".to_vec()].concat());
    let torn = bench.snapshot();
    says(&assay(bench.root(), home.path(), &["audit"]), 0, "row 3 was cut short");
    assert_eq!(torn, bench.snapshot(), "an audit writes nothing");
    says(&assay(bench.root(), home.path(), &["history"]), 0, "moved to state/torn-");
    let said = says(&assay(bench.root(), home.path(), &["history"]), 0, "row 2");
    assert!(!said.contains("note:"), "{said}");
}

#[test]
fn tampered_or_malformed_evidence_is_not_imported() {
    let home = tempfile::tempdir().unwrap();
    let bench = Workbench::new();
    let run = |args: &[&str]| assay(bench.root(), home.path(), args);
    says(&run(&["key", "new", "me"]), 0, "me");
    says(&run(&["key", "trust", &bench.key.public().to_string()]), 0, "trusted");
    let file = home.path().join("evidence.jsonl");
    let good = String::from_utf8(bundle(&bench.key, &[sign(verdict(1), &bench.key)]).unwrap()).unwrap();
    let other = String::from_utf8(sign(verdict(2), &bench.key).to_line().unwrap()).unwrap();
    let payload = |line: &str| line.split('"').nth(3).unwrap().to_string();
    let line = good.lines().nth(1).unwrap();
    let swapped = good.replace(&payload(line), &payload(&other));
    for (text, code, says_) in [
        (swapped, 4, "signature by host"),
        (other.clone(), 4, "never joined"),
        (good.replace('\n', "\r\n"), 3, "line 1: a carriage return"),
        (good.replacen("keyid", "keyID", 1), 3, "line 1"),
        (format!("{good}\n"), 3, "line 3"),
        ("not json".into(), 3, "line 1"),
        (String::new(), 3, "line 1"),
    ] {
        fs::write(&file, text).unwrap();
        says(&run(&["import", file.to_str().unwrap()]), code, says_);
        assert!(!bench.root().join("state").exists());
    }
    let simulated = bundle(&bench.key, &[sign(of_class(verdict(1), Class::Simulated), &bench.key)]).unwrap();
    fs::write(&file, simulated).unwrap();
    says(&run(&["import", file.to_str().unwrap()]), 1, "of class simulated: it is made up");
    says(&run(&["key", "trust", &bench.key.public().to_string(), "--simulated"]), 0, "trusted");
    says(&run(&["import", file.to_str().unwrap()]), 0, "SIMULATED sm_90");
    says(&run(&["audit"]), 1, "row 2 is of class simulated");
}

#[test]
fn a_ledger_can_be_imported_whole() {
    let home = tempfile::tempdir().unwrap();
    let (from, to) = (Workbench::with_rows(4), Workbench::new());
    let run = |args: &[&str]| assay(to.root(), home.path(), args);
    says(&run(&["key", "new", "me"]), 0, "me");
    says(&run(&["key", "trust", &from.key.public().to_string()]), 0, "trusted");
    let path = from.path("ledger.jsonl");
    says(&run(&["import", path.to_str().unwrap()]), 0, "4 of 4");
    assert_eq!(Ledger::read(to.root()).unwrap().rows().len(), 5, "our own key and theirs, then the verdicts");
    from.put("ledger.jsonl", from.lines()[1..].concat());
    says(&run(&["import", path.to_str().unwrap()]), 4, "row 0 of the ledger is damaged");
}

#[test]
fn keys_in_the_tree_are_refused() {
    let bench = Workbench::new();
    let config = bench.root().join(".config");
    says(&assay(bench.root(), &config, &["key", "new", "me"]), 2, "lies in the workbench");
    assert!(!config.exists());
    let trust = bench.root().join("trust.toml");
    fs::write(&trust, "").unwrap();
    let home = tempfile::tempdir().unwrap();
    says(&assay(bench.root(), home.path(), &["audit", "--trust", "trust.toml"]), 2, "outside the tree");
}
