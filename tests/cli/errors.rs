use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bench::{Bench, Output, assay};

fn model() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/reference/tiny/model.gguf").into()
}

/// `next -m FILE` and `status -m FILE` outside of a clone looked as if the file were at fault.
#[test]
fn outside_of_a_workbench_every_command_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let model = model();
    let with_model = ["next", "status", "verify", "land"].map(|c| vec![c, "-m", &model]);
    let ledger = [
        &["show", "0"][..],
        &["diff", "0", "1"],
        &["history"],
        &["audit"],
        &["attempts"],
        &["reconcile", "x"],
        &["report"],
        &["import", "x"],
        &["ledger", "merge", "x"],
    ];
    let default = [
        &["inspect"][..],
        &["plan"],
        &["graph"],
        &["next"],
        &["run", "-p", "hi"],
        &["logits", "--tokens", "1", "--json"],
        &["compile"],
    ];
    for args in with_model.iter().map(Vec::as_slice).chain(ledger).chain(default) {
        let out = assay(dir.path(), args);
        let said = &out.stderr;
        assert_eq!(out.code, 3, "{args:?}: {said}");
        assert!(said.contains("there is no workbench here [workbench-missing]"), "{args:?}: {said}");
        assert!(said.contains("next: ") && said.contains("clone"), "{args:?}: {said}");
    }
    for args in [&["plan"][..], &["run", "-p", "hi"], &["inspect"]] {
        assert!(assay(dir.path(), args).stderr.contains("name a model with -m FILE"));
    }
    for args in [&["ops"][..], &["explain"], &["plan", "-m", &model], &["inspect", &model], &["inspect", "-m", &model]]
    {
        assert_eq!(assay(dir.path(), args).code, 0, "{args:?}");
    }
}

#[test]
fn a_prompt_of_no_tokens_is_a_usage_error() {
    let bench = Bench::new();
    for command in ["plan", "graph"] {
        for (n, said) in [
            ("0", "at least 1 token"),
            ("-3", "1 to "),
            ("x", "1 to "),
            ("9999999999", "at most"),
            ("99999999999999999999", "1 to "),
        ] {
            let out = bench.run(&[command, "--prompt-len", n]);
            assert_eq!(out.code, 2, "{}", out.stderr);
            assert!(out.stderr.contains("--prompt-len") && out.stderr.contains(said), "{n}: {}", out.stderr);
        }
    }
}

#[test]
fn a_folder_or_a_pipe_is_no_model() {
    let bench = Bench::new();
    bench.write("empty/readme.txt", "");
    bench.write("several/b.gguf", "");
    bench.write("several/a.gguf", "");
    rustix::fs::mkfifoat(rustix::fs::CWD, bench.path("pipe"), rustix::fs::Mode::RWXU).unwrap();
    for (path, said) in [
        ("empty", "without any .gguf file"),
        ("several", "name one of them: several/a.gguf"),
        (".", "name the file in it: ./model.gguf"),
        ("pipe", "pipe is no regular file"),
        ("/dev/null", "/dev/null is no regular file"),
    ] {
        for args in [&["inspect", path][..], &["plan", "-m", path], &["run", "-p", "hi", "-m", path]] {
            let out = bench.run(args);
            assert_eq!(out.code, 3, "{args:?}: {}", out.stderr);
            assert!(out.stderr.contains(said) && out.stderr.contains("next: "), "{args:?}: {}", out.stderr);
        }
    }
}

/// Evidence, checkpoints, tokens and trust files were waited for where a pipe has their name, and read without end where a
/// device has.
#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let bench = Bench::new();
    rustix::fs::mkfifoat(rustix::fs::CWD, bench.path("pipe"), rustix::fs::Mode::RWXU).unwrap();
    std::fs::File::create(bench.path("large")).unwrap().set_len(1 << 40).unwrap();
    for (path, said) in [
        ("pipe", "found:    a pipe"),
        (".", "found:    a directory"),
        ("/dev/zero", "found:    a device"),
        ("large", "found:    1099511627776 bytes"),
        ("nowhere", "No such file"),
    ] {
        for args in [
            &["import", path][..],
            &["audit", "--from", path],
            &["logits", "--out", "x.npy", "--tokens-file", path],
            &["reconcile", path],
        ] {
            let out = bench.run(args);
            assert_eq!(out.code, 3, "{args:?}: {}", out.stderr);
            assert!(out.stderr.contains(said), "{args:?}: {}", out.stderr);
        }
    }
    // A trust file lies outside the tree.
    let out = bench.run(&["audit", "--trust", "/dev/zero"]);
    assert!(out.code == 3 && out.stderr.contains("[file-unfit]"), "{}", out.stderr);
    // Nor do the workbench's own settings keep anybody waiting.
    std::fs::remove_file(bench.path("assay.toml")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", bench.path("assay.toml")).unwrap();
    assert_eq!(bench.run(&["status"]).code, 3);
}

/// Of several files at hand nobody could tell which vocabulary was meant.
#[test]
fn a_vocabulary_that_lacks_a_token_is_told_by_its_file() {
    let bench = Bench::new();
    let mut bytes = std::fs::read(bench.path("model.gguf")).unwrap();
    let literal = "<｜User｜>".as_bytes();
    let places: Vec<usize> =
        bytes.windows(literal.len()).enumerate().filter(|(_, w)| *w == literal).map(|(at, _)| at).collect();
    places.iter().for_each(|at| bytes[at + 4] = b'?');
    std::fs::write(bench.path("odd.gguf"), bytes).unwrap();
    let out = bench.run(&["run", "-m", "odd.gguf", "-p", "hi"]);
    assert!(out.code == 1 && out.stderr.contains("the vocabulary of odd.gguf lacks a special token"), "{}", out.stderr);
}

#[test]
fn inspect_without_a_model_takes_the_workbenchs() {
    let bench = Bench::new();
    let out = bench.stdout(&["inspect"]);
    assert!(out.lines().next().unwrap().ends_with("model.gguf: a deepseek4 model that fits"), "{out}");
    assert_eq!(out, bench.stdout(&["inspect", "-m", bench.path("model.gguf").to_str().unwrap()]));
    assert_eq!(bench.run(&["inspect", "model.gguf", "-m", "model.gguf"]).code, 2);
}

/// The document of a command with --json that failed, whose text is on stderr too.
fn failed(dir: &Path, args: &[&str]) -> Value {
    let Output { code, stdout, stderr } = assay(dir, args);
    let doc: Value = serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{args:?}: {e} in {stdout:?}; {stderr}"));
    assert_eq!(doc["schema"], "assay.error/1", "{args:?}: {doc}");
    assert_eq!(doc["exit_code"], code, "{args:?}: {doc}");
    let what = doc["what"].as_str().unwrap();
    assert!(code != 0 && !what.is_empty() && stderr.contains(what.lines().next().unwrap()), "{args:?}: {doc} {stderr}");
    doc
}

/// They printed text to stderr and nothing to stdout, where a program waited for a document.
#[test]
fn whoever_asks_for_json_gets_the_error_as_json() {
    let outside = tempfile::tempdir().unwrap();
    for args in [
        &["inspect", "--json"][..],
        &["plan", "--json"],
        &["graph", "--json"],
        &["graph", "--format", "json"],
        &["next", "--json"],
        &["status", "--json"],
        &["verify", "--json"],
        &["run", "-p", "hi", "--json"],
        &["logits", "--tokens", "1", "--json"],
        &["land", "--json"],
        &["import", "x", "--json"],
        &["show", "0", "--json"],
        &["diff", "0", "1", "--json"],
        &["history", "--json"],
        &["audit", "--json"],
        &["attempts", "--json"],
        &["reconcile", "x", "--json"],
        &["report", "--json"],
        &["ledger", "merge", "x", "--json"],
        &["compile", "--json"],
    ] {
        assert_eq!(failed(outside.path(), args)["code"], "workbench-missing");
    }
    let bench = Bench::new();
    let dir = bench.path("");
    for (args, code) in [
        (&["logits", "--tokens", "1", "--backend", "device", "--json"][..], 3),
        (&["run", "-p", "hi", "--backend", "device", "--json"], 3),
        (&["inspect", "nowhere.gguf", "--json"], 3),
        (&["synth", "/no/such/folder/m.gguf", "--shape", "small", "--json"], 3),
        (&["explain", "nonsense", "--json"], 2),
        (&["verify", "nonsense", "--json"], 2),
        (&["plan", "--prompt-len", "0", "--json"], 2),
        (&["status", "--nonsense", "--json"], 2),
        (&["nonsense", "--json"], 2),
        (&["key", "show", "nobody", "--json"], 2),
    ] {
        let doc = failed(&dir, args);
        assert_eq!(doc["exit_code"], code, "{args:?}: {doc}");
    }
    assert_eq!(
        failed(&dir, &["plan", "--prompt-len", "0", "--json"])["what"],
        "invalid value '0' for '--prompt-len <N>': a prompt has at least 1 token"
    );
    let out = bench.run(&["graph", "--format", "json", "--prompt-len", "3"]);
    assert!(out.code == 0 && !out.stdout.contains("assay.error"));
}

/// A shell variable that is not set came out as a page of noise.
#[test]
fn an_empty_prompt_is_a_usage_error() {
    let bench = Bench::new();
    for prompt in ["", " \n"] {
        let out = bench.run(&["run", "-p", prompt]);
        assert_eq!((out.code, out.stdout.as_str()), (2, ""), "{}", out.stderr);
        assert!(out.stderr.contains("the prompt is empty"), "{}", out.stderr);
    }
}

#[test]
fn numbers_out_of_range_are_refused_by_their_names() {
    let bench = Bench::new();
    for args in [
        &["run", "-p", "hi", "--chunk", "0"][..],
        &["logits", "--tokens", "1", "--json", "--chunk", "0"],
        &["run", "-p", "hi", "--temperature", "-1"],
        &["run", "-p", "hi", "--min-p", "-0.5"],
        &["history", "nonsense"],
    ] {
        let out = bench.run(args);
        assert_eq!(out.code, 2, "{args:?}: {}", out.stderr);
        let name = args.iter().rev().find(|a| a.starts_with("--") || **a == "nonsense").unwrap();
        assert!(out.stderr.contains(name), "{args:?}: {}", out.stderr);
    }
}

/// `status` and everything else that reads the ledger failed where there is no home, as in many containers.
#[test]
fn the_ledger_can_be_looked_at_without_a_home() {
    let bench = Bench::new();
    bench.ledger();
    let run = |args: &[&str]| {
        let mut command = assert_cmd::Command::cargo_bin("assay").unwrap();
        let command = command.current_dir(bench.path("")).args(args).env("CUDA_VISIBLE_DEVICES", "");
        for name in ["HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "ASSAY_CONFIG_DIR", "ASSAY_CACHE_DIR"] {
            command.env_remove(name);
        }
        let out = command.output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    for args in [&["status"][..], &["next"], &["graph"], &["history"], &["show", "5"], &["diff", "5", "6"], &["audit"]]
    {
        let (code, said) = run(args);
        assert_eq!(code, Some(0), "{args:?}: {said}");
        let looks_at_trust = args[0] != "diff";
        assert_eq!(said.contains("so no key is trusted here"), looks_at_trust, "{args:?}: {said}");
    }
    let (code, said) = run(&["key", "new", "me"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("ASSAY_CONFIG_DIR"), "{said}");
}

/// A write that was refused named a temporary file that nobody had asked for.
#[test]
fn a_folder_that_is_read_only_is_said_plainly() {
    let bench = Bench::new();
    bench.write("closed/.keep", "");
    let closed = bench.path("closed");
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o555)).unwrap();
    if std::fs::write(closed.join("probe"), "").is_ok() {
        return println!("could not run: root writes everywhere");
    }
    for args in
        [&["synth", "closed/m.gguf", "--shape", "small"][..], &["logits", "--tokens", "1", "--out", "closed/m.npy"]]
    {
        let out = bench.run(args);
        assert_eq!(out.code, 3, "{}", out.stderr);
        assert!(out.stderr.contains("closed/m.") && !out.stderr.contains(".tmp"), "{}", out.stderr);
    }
}

/// It said "entity not found" and not what was not there.
#[test]
fn a_missing_folder_to_write_to_is_named() {
    let bench = Bench::new();
    let out = bench.run(&["logits", "--tokens", "1", "--backend", "oracle", "--out", "/nonexist/q.npy"]);
    assert_eq!(out.code, 3, "{}", out.stderr);
    assert!(out.stderr.contains("/nonexist/q.npy cannot be written: there is no folder /nonexist"), "{}", out.stderr);
}

/// `land` advised to name a model, where no model would have helped.
#[test]
fn what_needs_a_clone_does_not_ask_for_a_model() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["land", "swiglu"][..], &["revert", "swiglu"]] {
        let out = assay(dir.path(), args);
        assert_eq!(out.code, 3, "{args:?}: {}", out.stderr);
        assert!(out.stderr.contains("cd into a clone") && !out.stderr.contains("-m FILE"), "{}", out.stderr);
    }
}

/// `assay run … | head -c 1` went on for all the tokens that it was asked for.
#[test]
fn a_run_ends_when_nobody_reads_it_any_more() {
    let args = ["run", "--backend", "oracle", "-p", "tell me", "-n", "3000", "--temperature", "3"];
    let mut run = Command::new(env!("CARGO_BIN_EXE_assay"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    run.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let started = Instant::now();
    loop {
        match run.try_wait().unwrap() {
            Some(status) => return assert!(status.success(), "{status}"),
            None if started.elapsed() < Duration::from_secs(60) => std::thread::sleep(Duration::from_millis(20)),
            None => {
                run.kill().unwrap();
                panic!("it goes on");
            }
        }
    }
}
