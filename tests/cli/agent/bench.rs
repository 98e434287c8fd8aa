//! `assay agent` as a newcomer runs it: the binary, a workbench in git, a scripted model.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use assay::ledger::Digest;
use serde_json::{Value, json};

use super::server::{Reply, Server, answer, streamed};
use crate::bench::{Bench, Output, assay_with};

const KEY: &str = "sk-newcomer-0123456789";

/// A workbench with every kernel but one, a key and a trust file.
pub struct Home {
    pub bench: Bench,
    config: tempfile::TempDir,
    pub server: Server,
}

impl Home {
    pub fn new(server: Server) -> Home {
        let (bench, config) = (Bench::new(), tempfile::tempdir().unwrap());
        bench.copy("kernels");
        for name in ["kernels/swiglu.cu", "kernels/swiglu.toml"] {
            std::fs::remove_file(bench.path(name)).unwrap();
        }
        bench.synth("small.gguf", &["--shape", "small"]);
        bench.write("assay.toml", "model = \"small.gguf\"\narchitectures = [\"sm_90a\"]\n");
        let home = Home { bench, config, server };
        assert_eq!(home.run(&["key", "new", "me"]).code, 0);
        let key = home.run(&["key", "show", "--json"]);
        let public = serde_json::from_str::<Value>(&key.stdout).unwrap()["key"].as_str().unwrap().to_string();
        assert_eq!(home.run(&["key", "trust", &public]).code, 0);
        home
    }

    pub fn run(&self, args: &[&str]) -> Output {
        let key = PathBuf::from(KEY);
        let url = PathBuf::from(&self.server.url);
        let llm = PathBuf::from("scripted");
        assay_with(
            &self.bench.path(""),
            args,
            &[
                ("ASSAY_CONFIG_DIR", self.config.path()),
                ("ASSAY_AGENT_KEY", &key),
                ("ASSAY_AGENT_URL", &url),
                ("ASSAY_AGENT_LLM", &llm),
            ],
        )
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let out = self.run(args);
        serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", out.stdout, out.stderr))
    }

    /// `assay` with `args` in the background.
    pub fn start(&self, args: &[&str]) -> std::process::Child {
        std::process::Command::new(assert_cmd::cargo::cargo_bin("assay"))
            .current_dir(self.bench.path(""))
            .args(args)
            .env("ASSAY_CONFIG_DIR", self.config.path())
            .env("CUDA_VISIBLE_DEVICES", "")
            .env("ASSAY_AGENT_KEY", KEY)
            .env("ASSAY_AGENT_URL", &self.server.url)
            .env("ASSAY_AGENT_LLM", "scripted")
            .stdin(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// A run in the background, once the model has been asked; `None` without a C++ compiler.
    pub fn spawn(&self) -> Option<std::process::Child> {
        let mut child = self.start(&["agent", "swiglu", "--plain"]);
        let began = Instant::now();
        while self.server.seen().is_empty() {
            if began.elapsed() > Duration::from_secs(60) || child.try_wait().unwrap().is_some() {
                let _ = child.kill();
                let out = child.wait_with_output().unwrap();
                let text = String::from_utf8_lossy(&out.stderr).into_owned();
                assert!(text.contains("emulator-no-compiler"), "{text}");
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(child)
    }

    /// Every file that the run left, for what must not be in them.
    fn everything(&self) -> String {
        fn all(dir: &std::path::Path, out: &mut String) {
            for entry in std::fs::read_dir(dir).unwrap().flatten() {
                match entry.path() {
                    path if path.is_dir() && !path.is_symlink() => all(&path, out),
                    path if path.extension().is_none_or(|e| e != "gguf") => {
                        out.push_str(&String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()));
                    }
                    _ => {}
                }
            }
        }
        let mut out = String::new();
        all(&self.bench.path(""), &mut out);
        out
    }
}

pub fn no_compiler(out: &Output) -> bool {
    let missing = out.stderr.contains("emulator-no-compiler");
    if missing {
        println!("could not run: no C++ compiler");
    }
    missing
}

#[test]
fn a_model_ports_a_kernel_and_nothing_is_green_without_a_device() {
    let source =
        |name: &str| std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let (right, manifest) = (source("kernels/swiglu.cu"), source("kernels/swiglu.toml"));
    let server = Server::start(move |n, seen| {
        let wrong = right.replacen("fminf", "fmaxf", 1);
        let write = |text: &str| {
            vec![
                ("write_kernel", json!({"file": "swiglu.cu", "text": text})),
                ("write_kernel", json!({"file": "swiglu.toml", "text": manifest})),
                ("verify", json!({})),
            ]
        };
        match n {
            0 => {
                let said = seen.body["messages"].to_string();
                for what in ["fn oracle", "struct SwigluArgs", "ffn", "The manifest"] {
                    assert!(said.contains(what), "the prompt lacks {what}: {said}");
                }
                Reply::Stream(streamed(&format!("with {KEY}"), &write(&wrong), (9000, 900)))
            }
            1 => {
                let said = seen.messages().last().unwrap()["content"].as_str().unwrap().to_string();
                assert!(said.contains("RED") && said.contains("first bad: "), "{said}");
                Reply::Json(answer("", &write(&right), (9500, 900)))
            }
            _ => panic!("asked after the pass"),
        }
    });
    let home = Home::new(server);
    let out = home.run(&["agent", "swiglu", "--json"]);
    if no_compiler(&out) {
        return;
    }
    assert_eq!(out.code, 0, "{}{}", out.stdout, out.stderr);
    let doc: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!((&doc["schema"], &doc["passed"], &doc["landed"]), (&json!("assay.agent/1"), &json!(1), &json!(0)));
    assert_eq!((&doc["green_possible"], &doc["disagreements"]), (&json!(false), &json!([])));
    let tried = doc["nodes"][0]["attempts"].as_array().unwrap();
    assert_eq!((&tried[0]["outcome"], &tried[0]["stage"]), (&json!("red"), &json!("unit")), "{doc}");
    assert_eq!((&tried[1]["outcome"], &tried[1]["class"]), (&json!("pass"), &json!("emulated")));
    assert!(doc["nodes"][0]["why"].as_str().unwrap().contains("not green"), "{doc}");
    assert_eq!((&doc["prompt_tokens"], &doc["completion_tokens"]), (&json!(18500), &json!(1800)));

    // Rows hold the transcript that led to them, and nothing holds the key.
    let row = tried[1]["row"].as_u64().unwrap().to_string();
    let shown = home.json(&["show", &row, "--json"]);
    let transcript = shown["statement"]["predicate"]["informative"]["transcript"].as_str().unwrap().to_string();
    assert_eq!(transcript.len(), 64, "{shown}");
    assert!(!home.everything().contains(KEY) && !out.stderr.contains(KEY) && !out.stdout.contains(KEY));

    let report = home.run(&["report", "--agent"]);
    assert_eq!(report.code, 0, "{}", report.stderr);
    assert!(
        report.stdout.contains("| swiglu | passes on the emulator, not green | 2 | 2 | 20300 |"),
        "{}",
        report.stdout
    );
    assert!(report.stdout.contains("Verdicts by stage: pass 1, unit 1."), "{}", report.stdout);
    let atif = home.json(&["agent", "export"]);
    assert_eq!(atif["final_metrics"]["total_prompt_tokens"], 18500);
    // No price is known: that is not a price of nothing.
    assert!(!atif.to_string().contains("cost_usd"), "{atif:#}");
    let status = home.json(&["status", "--json"]);
    assert!(status["nodes"].as_array().unwrap().iter().all(|n| n["state"] != "green"), "{status}");
    let over = home.run(&["agent", "resume"]);
    assert_eq!(over.code, 1, "{}", over.stderr);
    assert!(over.stderr.contains("agent-run-over"), "{}", over.stderr);

    // Of who rewrites a transcript with all that holds it together, the rows tell.
    assert_eq!(home.json(&["report", "--agent", "--json"])["unclaimed"], json!([]));
    let folder = PathBuf::from(home.json(&["agent", "status", "--json"])["folder"].as_str().unwrap());
    let text = std::fs::read_to_string(folder.join("transcript.jsonl")).unwrap();
    let first = text.lines().next().unwrap();
    std::fs::write(folder.join("transcript.jsonl"), format!("{first}\n")).unwrap();
    std::fs::write(folder.join("head"), format!("{:020} {}\n", 1, Digest::of(first.as_bytes()))).unwrap();
    let report = home.json(&["report", "--agent", "--json"]);
    assert!(report["unclaimed"].as_array().unwrap().len() == 2, "{report}");
    assert!(home.run(&["report", "--agent"]).stdout.contains(&format!("row {row} of swiglu")));
}

/// The last line is held by no line after it: one that said something else, and a transcript without its end, were taken
/// for whole, and the attempts of the lines that were gone were given back.
#[test]
fn a_transcript_whose_end_was_edited_or_removed_is_refused() {
    let give_up = || Reply::Json(answer("", &[("give_up", json!({"reason": "seen enough"}))], (100, 10)));
    let home = Home::new(Server::with(vec![give_up]));
    let out = home.run(&["agent", "swiglu"]);
    if no_compiler(&out) {
        return;
    }
    assert_eq!(home.run(&["report", "--agent"]).code, 0);
    let folder = PathBuf::from(home.json(&["agent", "status", "--json"])["folder"].as_str().unwrap());
    let path = folder.join("transcript.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let edited = text.replace("every node that was named", "EVERYTHING IS GREEN AND LANDED, every node that was named");
    assert!(edited != text && text.lines().last().unwrap().contains("every node that was named"), "{text}");
    for damaged in [edited, lines[..lines.len() - 1].concat(), lines[..3].concat(), String::new()] {
        std::fs::write(&path, &damaged).unwrap();
        for args in [&["report", "--agent"][..], &["agent", "resume"], &["agent", "status"], &["agent", "export"]] {
            let out = home.run(args);
            assert!(
                out.code == 4 && out.stderr.contains("transcript-damaged"),
                "{args:?}: {}{}",
                out.stdout,
                out.stderr
            );
        }
    }
    std::fs::write(&path, &text).unwrap();
    assert_eq!(home.run(&["report", "--agent"]).code, 0);
    std::fs::remove_file(folder.join("head")).unwrap();
    // As versions before there were heads left them: which one it was, and what is still to be had.
    for args in [&["report", "--agent"][..], &["agent", "resume"]] {
        let out = home.run(args);
        assert_eq!(out.code, 4, "{args:?}: {}", out.stderr);
        for said in [concat!("written by assay ", env!("CARGO_PKG_VERSION")), "assay history", "transcript-damaged"] {
            assert!(out.stderr.contains(said), "{args:?}: {}", out.stderr);
        }
    }
}

/// kill -9 while the model is at work; then another terminal looks, and the run goes on.
#[test]
fn a_killed_run_is_resumed_by_another_process() {
    let server = Server::start(|n, _| match n {
        0 => Reply::Silence,
        _ => Reply::Json(answer("", &[("give_up", json!({"reason": "seen enough"}))], (9_000, 10))),
    });
    let home = Home::new(server);
    let Some(mut child) = home.spawn() else { return };
    let alive = home.json(&["agent", "status", "--json"]);
    assert_eq!((&alive["alive"], &alive["state"], &alive["node"]), (&json!(true), &json!("at work"), &json!("swiglu")));
    let busy = home.run(&["agent", "swiglu"]);
    assert!(busy.code == 3 && busy.stderr.contains("agent-run-busy"), "{}", busy.stderr);
    let nothing = home.run(&["agent", "approve"]);
    assert!(nothing.code == 1 && nothing.stderr.contains("asks nothing"), "{}", nothing.stderr);
    assert_eq!(home.run(&["agent", "pause"]).code, 0);
    assert_eq!(home.run(&["agent", "say", "mind the stride"]).code, 0);
    // Nobody has looked after the killed one yet: its number is still there.
    child.kill().unwrap();
    let dead = home.json(&["agent", "status", "--json"]);
    assert_eq!(dead["alive"], false);
    let reserved = dead["spent"]["tokens"].as_u64().unwrap();
    assert!(reserved > 1000, "what was set aside is spent: {dead}");

    let out = home.run(&["agent", "resume", "--json"]);
    child.wait().unwrap();
    assert_eq!(out.code, 1, "a node was given up: {}{}", out.stdout, out.stderr);
    let doc: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(doc["nodes"][0]["end"], "given up");
    let spent = doc["prompt_tokens"].as_u64().unwrap() + doc["completion_tokens"].as_u64().unwrap();
    assert_eq!(spent, reserved + 9_010, "the lost call stays spent, once");
    let said = home.server.seen().last().unwrap().body["messages"].to_string();
    assert!(said.contains("mind the stride"), "{said}");
}

/// The report and the export told of the model that the run had begun with.
#[test]
fn a_run_that_is_resumed_with_another_model_says_so_everywhere() {
    let server = Server::start(|n, _| match n {
        0 => Reply::Json(answer("", &[("read", json!({"what": "contract"}))], (1_000, 10))),
        _ => Reply::Json(answer("", &[("give_up", json!({"reason": "seen enough"}))], (20_000, 10))),
    });
    let home = Home::new(server);
    let prices = "[[price]]\nmodel = \"other\"\ninput = 5.0\noutput = 1.0\n";
    std::fs::write(home.config.path().join("agent.toml"), prices).unwrap();
    let out = home.run(&["agent", "swiglu", "--max-steps", "1"]);
    if no_compiler(&out) {
        return;
    }
    let out = home.run(&["agent", "resume", "--llm", "other", "--max-steps", "9", "--wait", "7s"]);
    assert!(out.code == 1 && out.stderr.contains("other on http://127.0.0.1"), "{}", out.stderr);
    assert_eq!(home.server.seen()[1].body["model"], "other");
    let report = home.json(&["report", "--agent", "--json"]);
    let named: Vec<_> = report["servers"].as_array().unwrap().iter().map(|s| (&s["llm"], &s["priced"])).collect();
    assert_eq!(named, [(&json!("scripted"), &json!(false)), (&json!("other"), &json!(true))], "{report}");
    assert_eq!((&report["llm"], &report["cost"]), (&json!("other"), &json!("0.1000")), "{report}");
    let text = home.run(&["report", "--agent"]).stdout;
    assert!(text.contains("scripted on http") && text.contains(", then other on http"), "{text}");
    assert!(text.contains("0.1000 USD without scripted, whose price is not known"), "{text}");
    let atif = home.json(&["agent", "export"]);
    let steps = atif["steps"].as_array().unwrap().iter().filter(|s| s["source"] == "agent");
    assert_eq!(steps.map(|s| &s["model_name"]).collect::<Vec<_>>(), ["scripted", "other"]);
    assert_eq!(atif["extra"]["models"], json!(["scripted", "other"]));
    let status = home.json(&["agent", "status", "--json"]);
    let again = home.run(&["agent", "status"]).stdout;
    assert!(again.contains("0.1000 USD"), "{again}");
    // So it does of how long it waits for a person, which `resume` did not listen to.
    let transcript = Path::new(status["folder"].as_str().unwrap()).join("transcript.jsonl");
    let transcript = std::fs::read_to_string(transcript).unwrap();
    let waits = |event: &str| {
        let line = transcript.lines().find(|line| line.contains(&format!("\"event\":\"{event}\""))).unwrap();
        serde_json::from_str::<Value>(line).unwrap()["wait_s"].clone()
    };
    assert_eq!((waits("started"), waits("resumed")), (json!(600), json!(7)), "{transcript}");
}

/// What is printed as the next command is typed as it stands: a run that had begun with --url could not be gone on with,
/// and `--max-…` was no flag.
#[test]
fn the_command_that_a_run_prints_goes_on_with_it() {
    let server = Server::start(|n, _| match n {
        0 => Reply::Json(answer("", &[("read", json!({"what": "contract"}))], (10, 10))),
        1 | 2 => Reply::Status(401, "", "who are you?".into()),
        _ => Reply::Json(answer("", &[("give_up", json!({"reason": "seen enough"}))], (10, 10))),
    });
    let home = Home::new(server);
    let own = [("ASSAY_CONFIG_DIR", home.config.path())];
    let bare = |args: &[&str]| assay_with(&home.bench.path(""), args, &own);
    let next = |out: &Output| -> Vec<String> {
        let line =
            out.stderr.lines().find_map(|l| l.trim().strip_prefix("next:")).unwrap_or_else(|| panic!("{}", out.stderr));
        let words: Vec<_> = line.split_whitespace().map(|w| w.trim_matches('\'').to_string()).collect();
        assert_eq!((words[0].as_str(), words[1].as_str()), ("assay", "agent"), "{line}");
        words[1..].to_vec()
    };
    let follow = |out: &Output| bare(&next(out).iter().map(String::as_str).collect::<Vec<_>>());
    let out = bare(&["agent", "swiglu", "--url", &home.server.url, "--llm", "m", "--max-steps", "1"]);
    if no_compiler(&out) {
        return;
    }
    assert_eq!(out.code, 1, "{}", out.stderr);
    assert!(next(&out).join(" ").ends_with(&format!("--url {} --max-steps 11", home.server.url)), "{}", out.stderr);
    // Who does not say where the server is, is told where it was.
    let nowhere = bare(&["agent", "resume"]);
    assert!(nowhere.code == 2 && nowhere.stderr.contains("endpoint-none"), "{}", nowhere.stderr);
    let short = follow(&nowhere);
    assert!(short.code == 1 && short.stderr.contains("the budget of steps ends the run"), "{}", short.stderr);
    assert_eq!(home.server.seen().len(), 1);
    let refused = follow(&short);
    assert_eq!((refused.code, home.server.seen().len()), (3, 2), "{}", refused.stderr);
    let said = "401 to a request without a key, since the variable ASSAY_AGENT_KEY is not set: who are you?";
    assert!(refused.stderr.contains(said), "{}", refused.stderr);
    let wrong = home.run(&next(&refused).iter().map(String::as_str).collect::<Vec<_>>());
    assert!(
        wrong.code == 3 && wrong.stderr.contains("401 to the key in the variable ASSAY_AGENT_KEY"),
        "{}",
        wrong.stderr
    );
    let done = follow(&wrong);
    assert!(done.code == 2, "it was in the environment: {}", done.stderr);
    let done = home.run(&next(&wrong).iter().map(String::as_str).collect::<Vec<_>>());
    assert!(done.code == 1 && done.stderr.contains("not every node passed"), "{}", done.stderr);
}

#[test]
fn ctrl_c_twice_stops_and_says_how_to_go_on() {
    let home = Home::new(Server::with(vec![|| Reply::Silence]));
    let Some(child) = home.spawn() else { return };
    for _ in 0..2 {
        std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        std::thread::sleep(Duration::from_millis(150));
    }
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(130), "{said}");
    for words in ["pauses after this step", "stops", "agent-stopped", "assay agent resume --run"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let status = home.json(&["agent", "status", "--json"]);
    assert_eq!((&status["alive"], &status["over"]["how"]), (&json!(false), &json!("stopped")), "{status}");
}

/// It paused, and waited for nobody with the run's lock in its hand.
#[test]
fn a_run_that_is_terminated_stops() {
    let home = Home::new(Server::with(vec![|| Reply::Silence]));
    let Some(child) = home.spawn() else { return };
    std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(130), "{said}");
    assert!(said.contains("agent-stopped") && said.contains("assay agent resume --run"), "{said}");
}

#[test]
fn a_newcomer_is_told_what_is_missing() {
    let home = Home::new(Server::with(vec![|| Reply::Silence]));
    let bare = |args: &[&str], more: &[(&str, &std::path::Path)]| {
        let own = [("ASSAY_CONFIG_DIR", home.config.path())];
        assay_with(&home.bench.path(""), args, &[&own[..], more].concat())
    };
    let none = bare(&["agent"], &[]);
    assert!(none.code == 2 && none.stderr.contains("--url http://localhost:8080/v1"), "{}", none.stderr);
    let none = bare(&["agent", "--url", "http://localhost:1/v1"], &[]);
    assert!(none.code == 2 && none.stderr.contains("--llm NAME"), "{}", none.stderr);
    let here = ["agent", "--url", "http://localhost:1/v1", "--llm", "m"];
    let key = bare(&[&here[..], &["--key-name", "NO_SUCH_KEY"]].concat(), &[]);
    assert!(key.code == 2 && key.stderr.contains("NO_SUCH_KEY is not set"), "{}", key.stderr);
    let pasted = bare(&[&here[..], &["--key-name", KEY]].concat(), &[]);
    assert!(pasted.code == 2 && !pasted.stderr.contains(KEY), "{}", pasted.stderr);
    let price = bare(&[&here[..], &["--max-cost", "1"]].concat(), &[]);
    assert!(price.code == 2 && price.stderr.contains("agent-no-price"), "{}", price.stderr);
    let node = bare(&[&here[..], &["matmul[q4_k]"]].concat(), &[]);
    assert!(node.code == 2 && node.stderr.contains("no node of"), "{}", node.stderr);
    assert!(node.stderr.contains("expected: matmul["), "the op with the types that the file has: {}", node.stderr);
    let tree = [("ASSAY_CONFIG_DIR", home.bench.path("config"))];
    let inside = assay_with(&home.bench.path(""), &here, &[(tree[0].0, tree[0].1.as_path())]);
    assert!(inside.code == 2 && inside.stderr.contains("key-in-tree"), "{}", inside.stderr);
    let status = bare(&["agent", "status"], &[]);
    assert!(status.code == 2 || status.stderr.contains("agent-run-none"), "{}", status.stderr);
}
