//! `assay run` and `assay logits` from outside.

use std::io::Read;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{last, relative, tiny};

struct Output {
    code: i32,
    stdout: String,
    stderr: String,
}

/// Runs assay in the repository, with no GPU to be seen.
fn assay(args: &[&str]) -> Output {
    let out = assert_cmd::Command::cargo_bin("assay")
        .unwrap()
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CUDA_VISIBLE_DEVICES", "")
        .env("NO_COLOR", "1")
        .args(args)
        .output()
        .unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    Output { code: out.status.code().unwrap(), stdout: text(out.stdout), stderr: text(out.stderr) }
}

fn json(args: &[&str]) -> Value {
    let out = assay(args);
    assert_eq!(out.code, 0, "{}", out.stderr);
    serde_json::from_str(&out.stdout).unwrap()
}

#[test]
fn text_is_all_there_is_on_stdout() {
    let out = assay(&["run", "-p", "@QX=47; @LM=03; @TB=88; What is LM?", "--backend", "oracle"]);
    assert_eq!((out.code, out.stdout.as_str()), (0, "03\n"), "{}", out.stderr);
    assert!(out.stderr.contains("everything on the oracle (") && out.stderr.contains("ds4 numerics"), "{}", out.stderr);
    assert!(out.stderr.contains("prefill 36 tokens") && out.stderr.contains("UNVERIFIED: no kernel took part"));
}

#[test]
fn run_as_json() {
    let doc = json(&["run", "-p", "38+45=", "--backend", "oracle", "--numerics", "exact", "--json"]);
    assert_eq!(doc["schema"], "assay.run/1");
    assert_eq!((&doc["text"], &doc["stop"], &doc["numerics"]), (&"83".into(), &"end_of_text".into(), &"exact".into()));
    assert_eq!(doc["placement"]["backend"], "oracle");
    assert_eq!(doc["placement"]["launches"], 0);
    assert_eq!(doc["prompt_tokens"], 10);
}

#[test]
fn auto_says_why_it_came_to_the_oracle() {
    let doc = json(&["run", "-p", "38+45=", "--json"]);
    assert_eq!(doc["placement"]["backend"], "oracle");
    assert!(doc["placement"]["why_oracle"].is_string(), "{doc}");
}

#[test]
fn a_seed_repeats_a_draw() {
    let run = |seed: &str| {
        let args =
            ["run", "-p", "hi", "--temperature", "3", "--seed", seed, "-n", "12", "--backend", "oracle", "--json"];
        json(&args)["tokens"].clone()
    };
    assert_eq!(run("5"), run("5"));
    assert_ne!(run("5"), run("6"));
}

#[test]
fn a_named_backend_that_cannot_run_is_no_other() {
    let out = assay(&["run", "-p", "hi", "--backend", "device"]);
    assert_eq!((out.code, out.stdout.as_str()), (3, ""), "{}", out.stderr);
    let out = assay(&["logits", "--tokens", "1", "--json", "--backend", "device"]);
    let doc: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(
        (out.code, &doc["schema"], &doc["exit_code"]),
        (3, &"assay.error/1".into(), &3.into()),
        "{}",
        out.stderr
    );
}

#[test]
fn nonsense_is_a_usage_error() {
    for args in [
        &["run"][..],
        &["run", "-p", "hi", "--top-p", "2"],
        &["run", "-p", "hi", "--ctx", "3"],
        &["run", "-p", "hi", "--layers", "0"],
        &["run", "-p", "hi", "--compare", "a=oracle", "b=nowhere"],
        &["run", "-p", "hi", "--compare", "a=oracle", "b=oracle", "--layers", "3-9"],
        &["run", "-p", "hi", "--compare", "a=oracle", "b=oracle", "--backend", "oracle"],
        &["logits", "--out", "x.npy"],
        &["logits", "--tokens", "1"],
        &["logits", "--tokens", "1", "-p", "hi", "--json"],
        &["logits", "--tokens", "512", "--json"],
    ] {
        let out = assay(args);
        assert_eq!(out.code, 2, "{args:?}: {}", out.stderr);
        let json = args.contains(&"--json");
        assert!(!out.stderr.is_empty() && out.stdout.starts_with('{') == json && (json || out.stdout.is_empty()));
    }
}

#[test]
fn the_oracle_does_not_differ_from_itself() {
    let args = ["run", "-p", "38+45=", "--compare", "a=oracle", "b=oracle", "--layers", "1-2"];
    let doc = json(&[&args[..], &["--json"]].concat());
    assert_eq!(doc["schema"], "assay.compare/1");
    let rows = doc["differences"].as_array().unwrap();
    assert!(rows.len() > 60 && rows.iter().all(|r| r["drift"] == 0.0 && r["alone"].is_null()));
    let layers: std::collections::BTreeSet<_> = rows.iter().map(|r| r["layer"].as_u64().unwrap()).collect();
    assert_eq!(layers, [1, 2].into());
    assert!(assay(&args).stdout.contains("blk.1.attn_q_a "));
}

#[test]
fn logits_of_text_begin_with_bos_and_have_no_turns() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.npy");
    let doc = json(&["logits", "-p", "38+45=", "--backend", "oracle", "--out", out.to_str().unwrap(), "--json"]);
    let tokens: Vec<u32> = serde_json::from_value(doc["tokens"].clone()).unwrap();
    assert_eq!(tokens[0], 0);
    let bytes = std::fs::read(&out).unwrap();
    let written: Vec<f32> = npyz::NpyFile::new(&bytes[..]).unwrap().into_vec().unwrap();
    assert_eq!(relative(&written, &last(crate::bundled(), assay::plan::Numerics::Exact, &tokens)), 0.0);
    let again = json(&["logits", "-p", "<｜begin▁of▁sentence｜>38+45=", "--backend", "oracle", "--json"]);
    assert_eq!(again["tokens"], doc["tokens"]);
    let model = tiny("model.gguf");
    let all = dir.path().join("all.npy");
    json(&[
        "logits",
        "-m",
        model.to_str().unwrap(),
        "--tokens",
        "0,5,6",
        "--all",
        "--out",
        all.to_str().unwrap(),
        "--json",
    ]);
    let bytes = std::fs::read(&all).unwrap();
    assert_eq!(npyz::NpyFile::new(&bytes[..]).unwrap().shape(), [3, 512]);
}

/// Whatever kernels the tree has: they run on the emulator, the rest on the oracle, and both are said.
#[test]
fn the_emulator_answers_too() {
    let out = assay(&["run", "-p", "38+45=", "--backend", "emulator", "--json"]);
    if out.code == 3 && out.stderr.contains("emulator-no-compiler") {
        return println!("could not run: no C++ compiler");
    }
    assert_eq!(out.code, 0, "{}", out.stderr);
    let doc: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!((&doc["text"], &doc["placement"]["backend"]), (&"83".into(), &"emulator".into()));
    let count = |key: &str| doc["placement"][key].as_array().unwrap().len();
    assert_eq!(count("nodes") + count("oracle_nodes"), 24);
    assert_eq!(count("nodes") > 0, doc["placement"]["launches"].as_u64().unwrap() > 0);
    assert!(doc["verified"].as_str().unwrap().starts_with("UNVERIFIED"));
}

/// Ctrl-C while text streams: what was generated stays, the account follows, and the exit code says so.
#[cfg(unix)]
#[test]
fn an_interrupt_is_130() {
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("assay"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["run", "-p", "hi", "--backend", "oracle", "-n", "100000", "--ctx", "110000"])
        .args(["--temperature", "100", "--seed", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut first = [0u8; 1];
    stdout.read_exact(&mut first).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    let out = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("stopped: interrupted"), "{stderr}");
}

/// Waits until a process handles Ctrl-C, which it does not from its first moment on.
#[cfg(target_os = "linux")]
fn handles_interrupts(child: &std::process::Child) {
    let status = format!("/proc/{}/status", child.id());
    for _ in 0..600 {
        let text = std::fs::read_to_string(&status).unwrap();
        let caught = text.lines().find_map(|l| l.strip_prefix("SigCgt:")).unwrap().trim();
        if u64::from_str_radix(caught, 16).unwrap() & (1 << 1) != 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("no handler after 12 s");
}

/// Ctrl-C while logits are computed: at once, and the file of an earlier run stays what it was.
#[cfg(target_os = "linux")]
#[test]
fn interrupted_logits_leave_no_file_behind() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.npy");
    std::fs::write(&out, "of before").unwrap();
    let tokens = vec!["5"; 20_000].join(",");
    std::fs::write(dir.path().join("tokens"), tokens).unwrap();
    let child = Command::new(assert_cmd::cargo::cargo_bin("assay"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["logits", "--backend", "oracle", "--all", "--json", "--out", out.to_str().unwrap()])
        .args(["--tokens-file", dir.path().join("tokens").to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    handles_interrupts(&child);
    std::thread::sleep(std::time::Duration::from_millis(500));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let done = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("[interrupted]"), "{stderr}");
    let doc: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&doc["schema"], &doc["exit_code"]), (&"assay.error/1".into(), &130.into()));
    assert_eq!(std::fs::read(&out).unwrap(), b"of before");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "something was left behind");
}

#[test]
fn logits_go_where_they_can_be_written_or_nothing_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let logits = |out: &str| assay(&["logits", "--tokens", "1,2", "--backend", "oracle", "--out", out]);
    for (out, code, said) in [(path(""), 2, "is a directory"), (path("no/x.npy"), 3, "[io]")] {
        let got = logits(&out);
        assert_eq!(got.code, code, "{}", got.stderr);
        assert!(got.stderr.contains(said), "{}", got.stderr);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    std::os::unix::fs::symlink(path("real.npy"), path("link.npy")).unwrap();
    std::fs::write(path("real.npy"), "").unwrap();
    assert_eq!(logits(&path("link.npy")).code, 0);
    assert!(std::fs::symlink_metadata(path("link.npy")).unwrap().is_symlink(), "the link is to stay");
    let read = |name: &str| npyz::NpyFile::new(&std::fs::read(path(name)).unwrap()[..]).unwrap().shape().to_vec();
    assert_eq!(read("real.npy"), [512]);
    assert_eq!(logits("/dev/null").code, 0);
    assert!(!std::fs::metadata("/dev/null").unwrap().is_file(), "/dev/null is a device and stays one");
}
