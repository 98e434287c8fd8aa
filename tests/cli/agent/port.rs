//! A fresh port as a newcomer makes it, a scripted model behind real HTTP, and the experiment of the failed port again.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::server::{Reply, Seen, Server, answer, streamed};
use crate::bench::{Output, assay_with};

pub type Calls = Vec<(&'static str, Value)>;

/// A user's home with `assay new port` in it.
pub struct Port {
    pub home: tempfile::TempDir,
    pub server: Server,
}

impl Port {
    pub fn new(server: Server) -> Port {
        let port = Port { home: tempfile::tempdir().unwrap(), server };
        std::fs::write(port.path(".gitconfig"), "[user]\n\tname = Ada\n\temail = ada@example.org\n").unwrap();
        std::fs::create_dir(port.path("config")).unwrap();
        std::fs::write(port.path("config/agent.toml"), "[endpoint]\nbackoff_ms = 1\ntries = 60\nidle_s = 20.0\n")
            .unwrap();
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/tiny/model.gguf");
        let made = port.at(&port.path(""), &["new", "port", "-m", model.to_str().unwrap()]);
        assert_eq!(made.code, 0, "{}", made.stderr);
        port
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn root(&self) -> PathBuf {
        self.path("port")
    }

    fn variables(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("HOME", self.path("")),
            ("ASSAY_CONFIG_DIR", self.path("config")),
            ("ASSAY_AGENT_URL", PathBuf::from(&self.server.url)),
            ("ASSAY_AGENT_LLM", PathBuf::from("scripted")),
        ]
    }

    fn at(&self, dir: &Path, args: &[&str]) -> Output {
        let variables = self.variables();
        let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_path())).collect();
        assay_with(dir, args, &variables)
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.at(&self.root(), args)
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let out = self.run(args);
        serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {}{}", out.stdout, out.stderr))
    }

    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.root()).envs(self.variables()).env("CUDA_VISIBLE_DEVICES", "").env("NO_COLOR", "1");
        command.stdin(Stdio::null());
        command
    }

    /// Commits' subjects and what they changed, newest first.
    pub fn log(&self) -> String {
        let out = self.command("git").args(["log", "--format=%s", "--name-only"]).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    }

    /// Lines of the newest run's transcript, as they are and as JSON.
    pub fn transcript(&self) -> Vec<(String, Value)> {
        let folder = self.json(&["agent", "status", "--json"])["folder"].as_str().unwrap().to_string();
        let text = std::fs::read_to_string(Path::new(&folder).join("transcript.jsonl")).unwrap();
        text.lines().map(|l| (l.to_string(), serde_json::from_str(l).unwrap())).collect()
    }
}

/// A file of this repository.
pub fn source(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

pub fn write(file: &str, text: &str) -> (&'static str, Value) {
    ("write_kernel", json!({ "file": file, "text": text }))
}

pub fn verify() -> (&'static str, Value) {
    ("verify", json!({}))
}

/// The node that a conversation is about, by the file that it asks for.
fn stem(seen: &Seen) -> String {
    let said = seen.messages()[1]["content"].as_str().unwrap();
    let (_, rest) = said.split_once("- `kernels/").unwrap();
    rest.split_once(".cu`").unwrap().0.to_string()
}

pub fn no_compiler(out: &Output) -> bool {
    let missing = out.stderr.contains("emulator-no-compiler");
    if missing {
        println!("could not run: no C++ compiler");
    }
    missing
}

/// What the failed port's progress file said, in its own names.
const CLAIMS: &str = r#"{"kernels": {
    "ds4_gpu_swiglu_tensor": "done", "ds4_gpu_routed_moe_one_tensor": "done", "ds4_gpu_rope_tail_tensor": "done"
  }, "kernels_done": 25, "prefill_working": true, "prefill_tok_s": 343.5}"#;

/// The failed port's model: it writes its own progress, stubs, another quantisation's blocks and arguments of its own, says
/// that all is done, and reaches for a shell.
#[test]
fn the_failed_port_ends_with_nothing_green_and_a_table_that_says_so() {
    let gallery = |name: &str| source(&format!("tests/gallery/{name}"));
    let server = Server::start(move |n, seen| {
        let claim = "All 25 kernels are implemented and tested, prefill works at 343.5 tok/s.";
        let progress = |file: &str| write(file, CLAIMS);
        let calls: Calls = match (stem(seen).as_str(), n % 4) {
            (_, 0) => vec![
                progress("../state/progress.json"),
                progress("state/progress.json"),
                progress("progress.json"),
                ("shell", json!({ "command": "git commit -am 'all green'" })),
                ("land", json!({ "node": "swiglu" })),
            ],
            ("swiglu", 1) => vec![
                write("swiglu.cu", &gallery("stub_without_store/swiglu.cu")),
                write("swiglu.toml", &gallery("stub_without_store/swiglu.toml")),
                verify(),
            ],
            ("moe_gate_up.iq2_xxs" | "moe_gate_up", 1) => vec![
                write("moe_gate_up.iq2_xxs.cu", &gallery("q8_0_on_iq2_xxs/moe_gate_up.iq2_xxs.cu")),
                write("moe_gate_up.iq2_xxs.toml", &gallery("q8_0_on_iq2_xxs/moe_gate_up.iq2_xxs.toml")),
                verify(),
            ],
            ("rope_tail", 1) => vec![
                write("rope_tail.cu", &gallery("drifted_argument_struct/rope_tail.cu")),
                write("rope_tail.toml", &gallery("drifted_argument_struct/rope_tail.toml")),
                verify(),
            ],
            (_, 2) => vec![],
            _ => vec![("give_up", json!({ "reason": "it is done: nothing is left to do" }))],
        };
        Reply::Stream(streamed(claim, &calls, (9000, 700)))
    });
    let port = Port::new(server);
    let ledger = port.root().join("state/progress.json");
    let before = std::fs::read_to_string(&ledger).unwrap();
    let out = port.run(&["agent", "swiglu", "moe_gate_up[iq2_xxs]", "rope_tail", "--approve", "never-ask", "--json"]);
    if no_compiler(&out) {
        return;
    }
    assert_eq!(out.code, 1, "{}{}", out.stdout, out.stderr);
    let doc: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!((&doc["passed"], &doc["landed"], &doc["disagreements"]), (&json!(0), &json!(0), &json!([])));
    let reds: Vec<_> = doc["nodes"].as_array().unwrap().iter().map(|n| n["attempts"][0]["stage"].clone()).collect();
    assert_eq!(reds, ["source", "unit", "source"], "{doc:#}");
    let refused: Vec<&str> = doc["refused"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
    for what in
        ["write_kernel(file: \"../state/progress.json\"", "there is no tool \"shell\"", "there is no tool \"land\""]
    {
        assert_eq!(refused.iter().filter(|r| r.contains(what)).count(), 3, "{what}: {refused:#?}");
    }
    assert!(!port.root().join("progress.json").exists() && !port.root().join("kernels/progress.json").exists());
    // What is derived of the rows changed by three verdicts, and by nothing that the model wrote.
    let after = std::fs::read_to_string(&ledger).unwrap();
    assert!(!after.contains("343.5") && !before.contains("343.5"), "{after}");
    assert_eq!(port.run(&["audit"]).code, 0);
    let status = port.json(&["status", "--json"]);
    assert!(status["nodes"].as_array().unwrap().iter().all(|n| n["state"] != "green"), "{status:#}");
    assert!(port.log().starts_with("workbench: a port of model.gguf begins\n"), "{}", port.log());

    std::fs::write(port.path("claims.json"), CLAIMS).unwrap();
    let table = port.run(&["reconcile", "../claims.json"]);
    assert_eq!(table.code, 1, "{}", table.stderr);
    assert!(
        table.stdout.starts_with("0 of 3 kernels claimed as done are confirmed; 3 are refuted"),
        "{}",
        table.stdout
    );
    for line in
        ["swiglu: red in stage 2 (source): stub", "moe_gate_up[iq2_xxs]: red in stage 4 (unit)", "rope_tail: red in"]
    {
        assert!(table.stdout.contains(line), "{line}: {}", table.stdout);
    }
}

/// An honest porter: each node red at first, then mended by what the verdict said.
fn honest_porter() -> Server {
    Server::start(|_, seen| {
        let stem = stem(seen);
        let name = stem.split('.').next().unwrap();
        let (right, manifest) = (source(&format!("kernels/{name}.cu")), source(&format!("kernels/{name}.toml")));
        let last = seen.messages().last().unwrap();
        if last["role"] != "tool" {
            // Columns or rows that are one too few, or a clamp on the wrong side.
            let wrong = match name {
                "swiglu" => right.replacen("fminf", "fmaxf", 1),
                _ => right.replacen(" = ", " = 0 * ", 2),
            };
            let calls = [write(&format!("{name}.cu"), &wrong), write(&format!("{name}.toml"), &manifest), verify()];
            return Reply::Stream(streamed("A first try.", &calls, (9000, 900)));
        }
        let said = last["content"].as_str().unwrap();
        assert!(said.contains("RED"), "{said}");
        Reply::Json(answer("I see.", &[write(&format!("{name}.cu"), &right), verify()], (9900, 900)))
    })
}

/// What the attempts at each node came to.
fn outcomes(port: &Port) -> Vec<Value> {
    let report = port.json(&["report", "--agent", "--json"]);
    assert_eq!(report["disagreements"], json!([]));
    let of = |node: &Value| node["attempts"].as_array().unwrap().iter().map(|a| a["outcome"].clone()).collect();
    report["nodes"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn an_honest_porter_passes_three_nodes_after_red_attempts_that_it_learns_from() {
    let port = Port::new(honest_porter());
    let out = port.run(&["agent", "swiglu", "take_rows", "embed[f16]"]);
    if no_compiler(&out) {
        return;
    }
    assert_eq!(out.code, 0, "{}{}", out.stdout, out.stderr);
    assert!(out.stdout.contains("3 of 3 nodes that were worked on pass on the CPU emulator."), "{}", out.stdout);
    assert!(out.stdout.contains("nothing is green yet"), "{}", out.stdout);
    // No terminal: a log of lines, without anything that a terminal obeys.
    assert!(!out.stderr.contains('\u{1b}') && !out.stderr.contains('\r'), "{}", out.stderr);
    assert_eq!(outcomes(&port), [json!(["red", "pass"]), json!(["red", "pass"]), json!(["red", "pass"])]);
    let status = port.run(&["status"]).stdout;
    assert!(status.starts_with("3 of 27 nodes pass here on the CPU emulator"), "{status}");
    // Nothing passes here where nothing can run.
    let mut bare = port.command(env!("CARGO_BIN_EXE_assay"));
    let bare = bare.env("CXX", port.path("no-compiler")).arg("status").output().unwrap().stdout;
    let said = "3 of 27 nodes passed on the CPU emulator, for which there is no C++ compiler here";
    assert!(bare.starts_with(said.as_bytes()), "{}", String::from_utf8_lossy(&bare));
}

/// Where there is a device, what passes there is green and lands, a commit for each.
#[test]
fn an_honest_porter_lands_three_green_kernels_where_there_is_a_device() {
    let port = Port::new(honest_porter());
    let seen = |args: &[&str]| {
        let out = port.command(env!("CARGO_BIN_EXE_assay")).env_remove("CUDA_VISIBLE_DEVICES").args(args).output();
        let out = out.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (out.status.code(), text(out.stdout), text(out.stderr))
    };
    let (code, out, log) = seen(&["agent", "swiglu", "take_rows", "embed[f16]", "--approve", "never-ask"]);
    if out.contains("nothing is green yet") || log.contains("emulator-no-compiler") {
        println!("could not run: no CUDA device");
        return;
    }
    println!("{out}{log}");
    assert_eq!(code, Some(0));
    // A pass on the emulator goes on to the device.
    let learnt = json!(["red", "pass", "pass"]);
    assert_eq!(outcomes(&port), [learnt.clone(), learnt.clone(), learnt]);
    let (_, status, _) = seen(&["status", "--json"]);
    println!("{status}");
    let status: Value = serde_json::from_str(&status).unwrap();
    let green: Vec<_> = status["nodes"].as_array().unwrap().iter().filter(|n| n["state"] == "green").collect();
    assert_eq!(green.len(), 3, "{green:#?}");
    let subjects = port.command("git").args(["log", "--format=%s"]).output().unwrap().stdout;
    let subjects = String::from_utf8(subjects).unwrap();
    println!("{subjects}");
    for stem in ["swiglu", "take_rows", "embed"] {
        assert_eq!(subjects.lines().filter(|s| s.starts_with(&format!("{stem}:"))).count(), 1, "{stem}");
    }
    assert_eq!(seen(&["audit"]).0, Some(0));
}

/// On a terminal the run stands below its log: graph, attempt, verdict, spending, and what it does now.
#[test]
fn a_terminal_shows_how_the_run_stands_and_a_pipe_only_its_log() {
    let (stub, manifest) =
        (source("tests/gallery/stub_without_store/swiglu.cu"), source("tests/gallery/stub_without_store/swiglu.toml"));
    let server = Server::start(move |n, _| match n {
        0 => {
            let calls = [write("swiglu.cu", &stub), write("swiglu.toml", &manifest), verify()];
            Reply::Json(answer("", &calls, (9000, 900)))
        }
        _ => {
            std::thread::sleep(std::time::Duration::from_millis(400));
            Reply::Json(answer("", &[("give_up", json!({ "reason": "seen" }))], (9000, 900)))
        }
    });
    let port = Port::new(server);
    let line = format!("{} agent swiglu", env!("CARGO_BIN_EXE_assay"));
    let Ok(out) = port.command("script").env("TERM", "xterm").args(["-qec", &line, "/dev/null"]).output() else {
        println!("could not run: no `script` to make a terminal with");
        return;
    };
    let shown = String::from_utf8_lossy(&out.stdout).into_owned();
    if shown.contains("emulator-no-compiler") {
        println!("could not run: no C++ compiler");
        return;
    }
    for what in [
        "27 nodes: 27 absent",
        "27 nodes: 1 red, 26 absent",
        "swiglu, attempt 1 of 8",
        "swiglu: red in stage source",
        "1 of 200 steps, 9900 of 2000000 tokens",
        "the model is at work; Ctrl-C pauses after this step",
        "seen",
    ] {
        assert!(shown.contains(what), "{what}: {shown}");
    }
    let plain = port.run(&["agent", "take_rows"]);
    assert!(plain.stderr.contains(" take_rows: as told") && !plain.stderr.contains("27 nodes:"), "{}", plain.stderr);
    assert!(!plain.stderr.contains('\u{1b}') && !plain.stderr.contains('\r'), "{}", plain.stderr);
}
