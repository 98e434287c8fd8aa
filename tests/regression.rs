//! The incident of POSTMORTEM.md, from outside: what was claimed then must not be claimable now. And the page itself:
//! a failure whose test is gone is a failure that can come back.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use assay::backend::executor::Executor;
use assay::model::Model;
use assay::plan::{Numerics, Plan, PlanOptions};
use regex::Regex;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A workbench over the bundled model, without a kernel and without a row.
fn fresh() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let model = repository().join("reference/tiny/model.gguf");
    std::fs::write(dir.path().join("assay.toml"), format!("model = {:?}\n", model.to_string_lossy())).unwrap();
    std::fs::create_dir_all(dir.path().join("kernels/args")).unwrap();
    dir
}

fn assay(dir: &Path, args: &[&str]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_assay"));
    command.current_dir(dir).env("CUDA_VISIBLE_DEVICES", "").args(args).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What the port's progress file said.
const CLAIM: &str = "{ \"kernels_done\": 25, \"prefill_working\": true, \"tokens_per_second\": 41.7 }\n";

/// POSTMORTEM.md §1: whoever writes the file does not keep the score.
#[test]
fn progress_written_by_hand() {
    let bench = fresh();
    let file = bench.path().join("state/progress.json");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, CLAIM).unwrap();
    let status = assay(bench.path(), &["status"]);
    assert_eq!(status.status.code(), Some(4), "{}", text(&status));
    assert!(text(&status).contains("progress.json"), "{}", text(&status));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), CLAIM, "it is evidence, and stays as it was found");
}

/// POSTMORTEM.md §8: what nobody measured is not printed, wherever it was written down.
#[test]
fn figure_without_a_row() {
    let bench = fresh();
    for name in ["progress.json", "kernels/progress.json", "PROGRESS.md"] {
        std::fs::write(bench.path().join(name), CLAIM).unwrap();
    }
    let status = assay(bench.path(), &["status"]);
    assert_eq!(status.status.code(), Some(0), "{}", text(&status));
    let said = text(&status);
    assert!(said.contains("Nothing is proved") && said.contains("prefill_working  no"), "{said}");
    assert!(!said.contains("41.7"), "{said}");
}

/// POSTMORTEM.md §8: text that streams by proves nothing, and whoever runs an unproved schedule is told so.
#[test]
fn unverified_is_said() {
    let bench = fresh();
    let run = assay(bench.path(), &["run", "-p", "Where is the key?", "-n", "2"]);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run));
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(said.contains("UNVERIFIED: "), "{said}");
}

/// POSTMORTEM.md §2: a schedule whose kernels could be left out without anyone noticing has not run them.
#[test]
fn no_op_replay_must_change_the_result() {
    let model = Model::open(&repository().join("reference/tiny/model.gguf")).unwrap();
    let n = 23;
    let options = PlanOptions { numerics: Numerics::Exact, max_tokens: n, max_outputs: 1, context: n };
    let plan = Arc::new(Plan::build(&model, options).unwrap());
    let step = plan.step(n, 0, 1).unwrap();
    let tokens: Vec<i32> = (0..n as i32).map(|i| 5 + i * 11 % 400).collect();
    let mut executor = Executor::new(&model, plan.clone());
    let mut logits = |noop| {
        executor.reset();
        executor.set_noop(noop);
        executor.run(&step, &tokens).unwrap();
        executor.logits(&step).unwrap().to_vec()
    };
    let right = logits(None);
    assert_eq!(right, logits(None), "the same schedule twice");
    let mut nodes: Vec<_> = plan.active(&step).map(|(_, i)| i.node.clone()).collect();
    nodes.dedup();
    nodes.sort_by_key(|n| n.to_string());
    nodes.dedup();
    // Only a later chunk reads what this one leaves behind.
    nodes.retain(|n| n.op != "compressor_state");
    assert!(nodes.len() > 15, "{nodes:?}");
    for node in nodes {
        assert_ne!(right, logits(Some(node.clone())), "nobody would miss {node}");
    }
}

/// Every test that POSTMORTEM.md or docs/stages.md names is there, and says which failure it answers.
#[test]
fn every_named_test_exists_and_answers() {
    let page = std::fs::read_to_string(repository().join("POSTMORTEM.md")).unwrap();
    let link = Regex::new(r"\[`([a-z0-9_]+)`\]\(([a-z0-9_./]+)\)").unwrap();
    let mut section = "since".to_string();
    let mut linked = 0;
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = heading.split('.').next().filter(|n| n.parse::<u8>().is_ok()).unwrap_or("since").to_string();
        }
        for found in link.captures_iter(line) {
            let (name, file) = (&found[1], repository().join(&found[2]));
            let source = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{name}: {}: {e}", file.display()));
            let mark = if section == "since" { "POSTMORTEM.md".into() } else { format!("POSTMORTEM.md §{section}") };
            let about = match file.extension().is_some_and(|e| e == "rs") {
                true => comment_of(&source, name),
                false => exhibit(name).then(|| source.clone()),
            };
            let about = about.unwrap_or_else(|| panic!("{} has no test {name}", file.display()));
            assert!(about.contains(&mark), "{name} in {} does not name {mark}", file.display());
            linked += 1;
        }
    }
    assert!(linked >= 30, "only {linked} links were found");
    let stages = std::fs::read_to_string(repository().join("docs/stages.md")).unwrap();
    let name = Regex::new(r"`([a-z0-9_]+)`").unwrap();
    let promises = Regex::new(r"(?s)\*(?:Says no to|Lets pass)\*(.*?)(?:\n\n|$)").unwrap();
    for promise in promises.captures_iter(&stages) {
        for found in name.captures_iter(&promise[1]) {
            assert!(exhibit(&found[1]), "docs/stages.md names {}, which is not in tests/gallery", &found[1]);
        }
    }
}

/// The comment above a test function.
fn comment_of(source: &str, name: &str) -> Option<String> {
    let at = source.find(&format!("fn {name}("))?;
    let above = source[..at].rsplit("\n\n").next()?;
    Some(above.to_string())
}

/// Whether an exhibit of this name hangs in the gallery.
fn exhibit(name: &str) -> bool {
    let gallery = repository().join("tests/gallery");
    let edits = std::fs::read_to_string(gallery.join("edits.rs")).unwrap();
    gallery.join(name).join("exhibit.toml").is_file() || edits.contains(&format!("\"{name}\""))
}
