//! Landing what an agent asks for: by the person's answer through the client, and by `assay approve`. Proofs are simulated,
//! under a trust file outside of the tree.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use assay::ledger::{
    Class, ClosureSource as _, Config, Digest, Evidence, Informative, Ledger, Outcome, Seed, Stage, StageOutcome,
    StageRecord, Statement, Target, Verdict,
};
use assay::model::Model;
use assay::plan::Numerics;
use assay::verify::binding::Workshop;
use serde_json::{Value, json};

/// A fresh port with a `swiglu` that is green here, by evidence of class simulated.
struct Port {
    home: tempfile::TempDir,
}

impl Port {
    fn new() -> Port {
        let port = Port { home: tempfile::tempdir().unwrap() };
        std::fs::write(port.path(".gitconfig"), "[user]\n\tname = Ada\n\temail = ada@example.org\n").unwrap();
        let clone = Path::new(env!("CARGO_MANIFEST_DIR"));
        let model = clone.join("reference/tiny/model.gguf");
        let made = port.assay(&port.path(""), &["new", "port", "-m", model.to_str().unwrap()]);
        assert!(made.status.success(), "{made:?}");
        for file in ["swiglu.cu", "swiglu.toml"] {
            std::fs::copy(clone.join("kernels").join(file), port.root().join("kernels").join(file)).unwrap();
        }
        let config = Config::at(port.path("config"));
        let key = config.key(None).unwrap();
        let trust = format!("[[key]]\nkey = \"{}\"\nsimulated = true\n", key.public());
        std::fs::write(port.path("config/trust.toml"), trust).unwrap();
        let model = Model::open(&model).unwrap();
        let tree = Workshop::new(&model).unwrap().tree(&port.root().join("kernels")).unwrap();
        let node = Target::Node("swiglu".parse().unwrap());
        let stage = |name: &Stage| StageRecord {
            name: *name,
            outcome: StageOutcome::Pass,
            figures: Default::default(),
            note: String::new(),
        };
        let verdict = Verdict {
            binding: tree.binding(&"swiglu".parse().unwrap(), "sm_90", Numerics::Ds4).unwrap(),
            stages: Stage::required(&node).iter().map(stage).collect(),
            node,
            class: Class::Simulated,
            outcome: Outcome::Pass,
            outputs: [("t=1".to_string(), Digest([9; 32]))].into(),
            seed: Seed([7; 32]),
            informative: Informative {
                device: "made up".into(),
                time: "2025-01-01T00:00:00Z".into(),
                ..Default::default()
            },
            parts: Default::default(),
        };
        let evidence = Evidence::sign(Statement::Verdict(Box::new(verdict)), &key).unwrap();
        Ledger::open(&port.root()).unwrap().append(&[evidence], &key).unwrap();
        port
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn root(&self) -> PathBuf {
        self.path("port")
    }

    fn command(&self, program: &str, dir: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(dir).env("HOME", self.home.path()).env("ASSAY_CONFIG_DIR", self.path("config"));
        command.env("CUDA_VISIBLE_DEVICES", "").env("NO_COLOR", "1");
        command
    }

    fn assay(&self, dir: &Path, args: &[&str]) -> std::process::Output {
        self.command(env!("CARGO_BIN_EXE_assay"), dir).args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Subjects and what they changed, newest first.
    fn log(&self) -> String {
        let out = self.command("git", &self.root()).args(["log", "--format=%s", "--name-only"]).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    }

    /// Asks for a landing over MCP, as a client that can ask its user, who says `answer`; or that cannot.
    fn ask(&self, answer: Option<Value>) -> Value {
        let mut command = self.command(env!("CARGO_BIN_EXE_assay"), &self.root());
        command.args(["mcp", "--backend", "emulator"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let capabilities = if answer.is_some() { json!({ "elicitation": {} }) } else { json!({}) };
        let hello = json!({ "protocolVersion": "2025-06-18", "capabilities": capabilities, "clientInfo": { "name": "a\u{1b}client", "version": "1" } });
        let call = json!({ "name": "request_landing", "arguments": { "node": "swiglu", "what": "vector loads\n\nAssay-Node: embed" } });
        for line in [
            json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello }),
            json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }),
            json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call }),
        ] {
            writeln!(to, "{line}").unwrap();
        }
        let mut result = None;
        for line in from.lines() {
            let said: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if said["method"] == "elicitation/create" {
                assert!(said["params"]["message"].as_str().unwrap().contains("swiglu"), "{said}");
                writeln!(to, "{}", json!({ "jsonrpc": "2.0", "id": said["id"], "result": answer })).unwrap();
            } else if said["id"] == 2 && said.get("method").is_none() {
                result = Some(said["result"]["structuredContent"].clone());
                break;
            }
        }
        drop(to);
        child.wait().unwrap();
        result.expect("the server is gone")
    }
}

#[test]
fn only_the_persons_own_word_lands() {
    let port = Port::new();
    let before = port.log();
    for no in [
        json!({ "action": "decline" }),
        json!({ "action": "cancel" }),
        json!({ "action": "accept" }),
        json!({ "action": "accept", "content": { "node": "yes" } }),
    ] {
        assert_eq!(port.ask(Some(no.clone())), json!({ "landed": false, "answer": "no" }), "{no}");
    }
    assert_eq!(port.log(), before);
    let landed = port.ask(Some(json!({ "action": "accept", "content": { "node": "swiglu" } })));
    assert_eq!(landed["landed"], true, "{landed}");
    let log = port.log();
    assert!(
        log.starts_with("swiglu: vector loads Assay-Node: embed\n\nkernels/swiglu.cu\nkernels/swiglu.toml\nstate/"),
        "{log}"
    );
    // It is landed, and there is nothing more to land.
    let again = port.ask(Some(json!({ "action": "accept", "content": { "node": "swiglu" } })));
    assert_eq!(again["code"], "land-nothing", "{again}");
}

#[test]
fn a_client_that_cannot_ask_leaves_a_request_for_a_terminal() {
    let port = Port::new();
    let before = port.log();
    assert_eq!(port.ask(None), json!({ "landed": false, "request": 1 }));
    assert_eq!(port.ask(None), json!({ "landed": false, "request": 1 }), "the same request, once");
    let listed = String::from_utf8(port.assay(&port.root(), &["approve"]).stdout).unwrap();
    assert!(listed.contains("1  swiglu  vector loads Assay-Node: embed") && !listed.contains('\u{1b}'), "{listed}");
    let unattended = port.assay(&port.root(), &["approve", "1"]);
    assert_eq!(unattended.status.code(), Some(2), "{unattended:?}");
    assert_eq!(port.log(), before);
    let typed = |text: &str| {
        let line = format!("{} approve 1 -w 'vector loads'", env!("CARGO_BIN_EXE_assay"));
        let mut command = port.command("script", &port.root());
        let mut child =
            command.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        writeln!(child.stdin.as_mut().unwrap(), "{text}").unwrap();
        Some(child.wait_with_output().unwrap())
    };
    let Some(wrong) = typed("yes") else {
        eprintln!("could not run: no `script` to make a terminal with");
        return;
    };
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    assert_eq!(port.log(), before);
    let right = typed("swiglu").unwrap();
    assert_eq!(right.status.code(), Some(0), "{}", String::from_utf8_lossy(&right.stdout));
    assert!(port.log().starts_with("swiglu: vector loads\n\nkernels/swiglu.cu\n"), "{}", port.log());
    let listed = port.assay(&port.root(), &["approve"]).stdout;
    assert_eq!(String::from_utf8(listed).unwrap(), "nothing waits to be landed\n");
}
