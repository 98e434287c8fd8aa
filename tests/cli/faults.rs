//! What goes wrong in a run: each a clear error with the op or the tensor, the right exit code, and no hang.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bench::{Bench, Output};

/// A workbench with the repository's kernels and a light model. `None`, said, without a C++ compiler.
pub fn with_kernels() -> Option<Bench> {
    match assay::backend::emulator::Builder::new() {
        Ok(_) => Some(Bench::light()),
        Err(e) if e.code().id == "emulator-no-compiler" => {
            println!("could not run: no C++ compiler");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

/// The first statement of an entry becomes this.
pub fn edit(bench: &Bench, stem: &str, statement: &str) {
    let path = bench.path(&format!("kernels/{stem}.cu"));
    let text = std::fs::read_to_string(&path).unwrap();
    let entry = text.find("__global__").unwrap();
    let body = entry + text[entry..].find("{\n").unwrap() + 2;
    std::fs::write(&path, format!("{}{statement}\n{}", &text[..body], &text[body..])).unwrap();
}

fn refused(out: &Output, code: i32, id: &str, parts: &[&str]) {
    assert_eq!(out.code, code, "{}", out.stderr);
    for part in [&[id], parts].concat() {
        assert!(out.stderr.contains(part), "{part} is missing in: {}", out.stderr);
    }
}

#[test]
fn a_manifest_whose_source_is_gone_is_told_by_its_node_and_place() {
    let Some(bench) = with_kernels() else { return };
    std::fs::remove_file(bench.path("kernels/moe_down.q2_k.cu")).unwrap();
    let out = bench.run(&["logits", "--backend", "emulator", "--tokens", "1,2", "--json"]);
    refused(&out, 1, "[source-missing]", &["moe_down[q2_k]", "blk.0.ffn_down_exps", "moe_down.q2_k.cu"]);
}

/// A broken link to a repository was taken for no repository, and a ledger without its rows for a whole one.
#[test]
fn a_repository_that_cannot_be_opened_is_not_none() {
    let bench = Bench::new();
    bench.stdout(&["audit"]);
    bench.write(".git", "gitdir: nowhere\n");
    let out = bench.run(&["audit"]);
    refused(&out, 3, "[git]", &["does not keep the history of this workbench", "it names no repository", "git status"]);
}

#[test]
fn a_node_without_a_kernel_stops_at_load_unless_the_oracle_is_allowed() {
    let Some(bench) = with_kernels() else { return };
    for file in ["cu", "toml"] {
        std::fs::remove_file(bench.path(&format!("kernels/moe_down.q2_k.{file}"))).unwrap();
    }
    let args = ["logits", "--backend", "emulator", "--tokens", "1,2", "--json"];
    let out = bench.run(&args);
    refused(&out, 1, "[no-kernel]", &["moe_down[q2_k]", "blk.0.ffn_down_exps.weight (q2_k)", "next:     assay next"]);
    assert!(!out.stderr.contains("loaded "), "nothing is loaded before: {}", out.stderr);
    let out = bench.run(&[&args[..], &["--allow-oracle"]].concat());
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(
        out.stderr.contains("note: 1 node without a kernel here runs on the oracle: moe_down[q2_k]"),
        "{}",
        out.stderr
    );
    let doc: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(doc["placement"]["oracle_nodes"], serde_json::json!(["moe_down[q2_k]"]));
    assert!(doc["verified"].as_str().unwrap().starts_with("UNVERIFIED"), "{doc}");
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers_before_anything_is_loaded() {
    let Some(bench) = with_kernels() else { return };
    let run = |memory: &str, ctx: &str| {
        bench.run(&["run", "--backend", "emulator", "-p", "38+45=", "--memory", memory, "--ctx", ctx, "-n", "1"])
    };
    let out = run("400M", "250000");
    refused(
        &out,
        3,
        "[device-budget]",
        &["weights 3.5 MB", "caches ", "temporaries ", "margin ", "at most 400.0 MB", "--ctx "],
    );
    assert!(!out.stderr.contains("loaded "), "{}", out.stderr);
    let ctx = out.stderr.split_once("--ctx ").unwrap().1.split(')').next().unwrap();
    let out = run("400M", ctx);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(out.stderr.contains(" MB of weights in "), "{}", out.stderr);
    refused(&run("1M", "64"), 3, "[device-budget]", &["use a larger device"]);
    refused(&run("lots", "64"), 2, "--memory", &["K, M or G"]);
    refused(&run("400M", "5"), 2, "[usage]", &["--ctx"]);
}

/// A context of 3 for a prompt of 6 tokens, and `--ctx` for `logits`, which has no such option.
#[test]
fn no_context_that_is_too_short_for_the_tokens_is_given_as_a_hint() {
    let Some(bench) = with_kernels() else { return };
    bench.write("many.txt", &"7,".repeat(2000));
    for args in
        [&["run", "-p", "38+45=", "--ctx", "11", "-n", "1"][..], &["logits", "--tokens-file", "many.txt", "--json"]]
    {
        let refusal = |memory: &str| {
            let out = bench.run(&[args, &["--backend", "emulator", "--memory", memory]].concat());
            refused(&out, 3, "[device-budget]", &["= "]);
            out.stderr
        };
        // All that it needs but for half a megabyte: a much shorter context would do.
        let needs = refusal("1M");
        let needs = needs.split_once("= ").unwrap().1.split(" MB").next().unwrap();
        let less = format!("{}M", needs.parse::<f64>().unwrap() - 0.5);
        let said = refusal(&less);
        assert!(!said.contains("--ctx"), "{said}");
    }
}

#[test]
fn a_kernel_that_traps_is_named() {
    let Some(bench) = with_kernels() else { return };
    edit(&bench, "swiglu", "  if (blockIdx.x == 0 && threadIdx.x == 3) __trap();");
    let out = bench.run(&["run", "--backend", "emulator", "-p", "38+45=", "-n", "3"]);
    refused(&out, 1, "[kernel-trap]", &["at position 0", "blk.0.", "swiglu"]);
    assert_eq!(out.stdout, "");
}

#[test]
fn a_kernel_that_never_ends_is_named_in_time() {
    let Some(bench) = with_kernels() else { return };
    // Endless in a decode step alone, which is replayed as a graph from the second one on.
    edit(&bench, "swiglu", "  for (volatile int i = 0; *a.T == 1; i = i + 1) {}");
    let started = Instant::now();
    let args = ["run", "--backend", "emulator", "-p", "38+45=", "-n", "3", "--time-limit", "3"];
    let out = bench.run(&args);
    refused(&out, 1, "[kernel-time-limit]", &["1 token at position", "blk.0.", "swiglu"]);
    assert!(started.elapsed() < Duration::from_secs(120), "{:?}", started.elapsed());
}

/// The process with this parent and `worker` as its first argument.
fn worker_of(parent: u32) -> Option<i32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(|p| p.file_name().to_str()?.parse::<i32>().ok()).find(|pid| {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let stat = read("stat");
        let of = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        of == Some(parent) && read("cmdline").split('\0').nth(1) == Some("worker")
    })
}

fn start(bench: &Bench, args: &[&str]) -> Child {
    Command::new(assert_cmd::cargo::cargo_bin("assay"))
        .current_dir(bench.path(""))
        .env("CUDA_VISIBLE_DEVICES", "")
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until text streams.
fn first_byte(child: &mut Child) {
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
}

fn end(mut child: Child) -> Output {
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("it did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let out = child.wait_with_output().unwrap();
    // What a light model says is any bytes, and the first of them is read already.
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Output { code: out.status.code().unwrap_or(-1), stdout: text(out.stdout), stderr: text(out.stderr) }
}

/// A prompt whose answer is long, so that there is time to do harm.
const LONG: &[&str] = &["run", "-p", "38+45=", "--temperature", "100", "--seed", "3", "-n", "3000"];

#[test]
fn a_worker_that_vanishes_ends_the_run_with_its_position() {
    let Some(bench) = with_kernels() else { return };
    let mut child = start(&bench, &[LONG, &["--backend", "emulator"]].concat());
    first_byte(&mut child);
    let worker = worker_of(child.id()).expect("a worker");
    let killed = Command::new("kill").args(["-9", &worker.to_string()]).status().unwrap();
    assert!(killed.success());
    refused(&end(child), 1, "[worker-crash]", &["1 token at position", "signal 9 (SIGKILL"]);
    // Nothing is left that keeps the next run from its work.
    assert_eq!(bench.run(&["logits", "--backend", "emulator", "--tokens", "1", "--json"]).code, 0);
}

/// A model of its own, that a test may spoil.
fn own_model(bench: &Bench) -> std::path::PathBuf {
    let path = bench.path("own.gguf");
    std::fs::copy(bench.path("model.gguf"), &path).unwrap();
    path
}

/// A file that was cut was one without a name.
#[test]
fn a_model_that_changes_under_the_oracle_ends_the_run() {
    for cut in [false, true] {
        let bench = Bench::new();
        let model = own_model(&bench);
        let mut child = start(&bench, &[LONG, &["--backend", "oracle", "-m", "own.gguf"]].concat());
        first_byte(&mut child);
        let file = std::fs::File::options().append(true).open(&model).unwrap();
        if cut {
            // The next read of a weight meets no page.
            file.set_len(4096).unwrap();
        } else {
            std::io::Write::write_all(&mut &file, b"more").unwrap();
        }
        refused(&end(child), 3, "[gguf-changed]", &["own.gguf", "start again"]);
    }
}

/// A run went on with what was loaded, and ended with exit code 0 and text of weights that no file held any more.
#[test]
fn a_model_that_changes_after_loading_ends_the_run_and_one_that_takes_its_name_does_not() {
    let Some(bench) = with_kernels() else { return };
    for replaced in [false, true] {
        let model = own_model(&bench);
        let most = if replaced { "4" } else { "12" };
        let rest = &LONG[..LONG.len() - 1];
        let mut child = start(&bench, &[rest, &[most, "--backend", "emulator", "-m", "own.gguf"]].concat());
        first_byte(&mut child);
        if replaced {
            bench.write("other", "another model");
            std::fs::rename(bench.path("other"), &model).unwrap();
            let out = end(child);
            assert_eq!(out.code, 0, "{}", out.stderr);
        } else {
            std::fs::write(&model, "gone").unwrap();
            refused(&end(child), 3, "[gguf-changed]", &["own.gguf", "start again"]);
        }
    }
}

#[test]
fn tokens_that_no_model_has_and_prompts_of_nothing_are_usage_errors() {
    let bench = Bench::new();
    let run = |args: &[&str]| bench.run(args);
    refused(
        &run(&["logits", "--tokens", "1,99999", "--json"]),
        2,
        "[token-range]",
        &["this model has no token 99999", "ids below 512", "99999, behind 1 token"],
    );
    refused(&run(&["run", "-p", " "]), 2, "[usage]", &["the prompt is empty"]);
    std::fs::write(bench.path("none.txt"), "").unwrap();
    refused(&run(&["logits", "--tokens-file", "none.txt", "--json"]), 2, "[no-tokens]", &["no tokens were given"]);
}

/// A context that no plan has was told as a model that does not fit: exit code 1.
#[test]
fn a_size_that_no_plan_has_is_a_usage_error() {
    let bench = Bench::new();
    bench.write("many.txt", &"1,".repeat((1 << 20) + 1));
    let out = bench.run(&["logits", "--tokens-file", "many.txt", "--backend", "oracle", "--json"]);
    refused(&out, 2, "[plan-size]", &["1048576", "context 1048577"]);
}

/// `run` named an option that it does not have.
#[test]
fn a_text_that_cannot_be_tokens_is_told_with_a_command_that_takes_tokens() {
    let bench = Bench::new();
    let text = std::fs::read(bench.path("model.gguf")).unwrap();
    // Of the same length, so that everything stays where it is.
    let (marker, other) = ("<｜User｜>".as_bytes(), "<｜Uzer｜>".as_bytes());
    let at = text.windows(marker.len()).position(|w| w == marker).unwrap();
    let spoilt = [&text[..at], other, &text[at + marker.len()..]].concat();
    std::fs::write(bench.path("own.gguf"), spoilt).unwrap();
    let out = bench.run(&["run", "-m", "own.gguf", "-p", "hi"]);
    refused(&out, 1, "[tokenizer-special]", &["<｜User｜>", "assay logits --tokens"]);
    let out = bench.run(&["logits", "-m", "own.gguf", "--tokens", "1,2", "--backend", "oracle", "--json"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
}

/// A limit that nothing kept was not mentioned; and one of a kilobyte was "0.0 MB".
#[test]
fn a_memory_limit_that_limits_nothing_is_said() {
    let bench = Bench::new();
    for backend in ["auto", "oracle"] {
        let args = ["run", "-p", "38+45=", "-n", "1", "--backend", backend];
        let out = bench.run(&[&args[..], &["--memory", "1K"]].concat());
        refused(&out, 0, "note: --memory limits a device's memory", &["oracle"]);
        assert!(!bench.run(&args).stderr.contains("--memory"));
    }
    let Some(bench) = with_kernels() else { return };
    let out = bench.run(&["run", "-p", "38+45=", "-n", "1", "--backend", "emulator", "--memory", "1K"]);
    refused(&out, 3, "[device-budget]", &["at most 1.0 kB (of "]);
}
