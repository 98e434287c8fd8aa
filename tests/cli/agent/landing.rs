//! Landing by the loop after a green: a host that is played signs evidence of class device, under a key that the test's own
//! configuration trusts. Nothing of it leaves the test's folder.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use assay::ledger::{
    Class, ClosureSource as _, Config, Digest, Evidence, Informative, Outcome, SecretKey, Seed, Stage, StageOutcome,
    StageRecord, Statement, Target, Verdict,
};
use assay::model::Model;
use assay::plan::Numerics;
use assay::verify::PROTOCOL;
use assay::verify::binding::Workshop;
use assay::verify::remote::{Ask, Bundle, Hello, REMOTE, Say, lay_out};
use serde_json::{Value, json};

use super::port::{Port, source, verify, write};
use super::server::{Reply, Server, answer};

/// What the host does to its verdict before it signs.
type Twist = fn(&mut Verdict);

/// A host with an sm_90 behind the command that this gives.
fn host(port: &Port, name: &str, twist: Twist) -> String {
    let dir = port.path(name);
    std::fs::create_dir(&dir).unwrap();
    let pipes = std::process::Command::new("mkfifo").args([dir.join("in"), dir.join("out")]).status().unwrap();
    assert!(pipes.success());
    let script = format!("#!/bin/sh\nexec 3<&0\ncat <&3 >{0}/in &\ncat {0}/out\n", dir.display());
    std::fs::write(dir.join("host"), script).unwrap();
    let key = Config::at(&dir).new_key(name).unwrap();
    let trusted = port.run(&["key", "trust", &key.public().to_string()]);
    assert_eq!(trusted.code, 0, "{}", trusted.stderr);
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/tiny/model.gguf");
    let command = format!("sh {}/host", dir.display());
    std::thread::spawn(move || {
        loop {
            serve(&dir, &model, &key, twist);
        }
    });
    command
}

/// One conversation with whoever asks.
fn serve(dir: &Path, model: &Path, key: &SecretKey, twist: Twist) {
    let mut lines = BufReader::new(File::open(dir.join("in")).unwrap()).lines();
    let mut out = File::options().write(true).open(dir.join("out")).unwrap();
    let mut say = |say: &Say| drop(writeln!(out, "{}", serde_json::to_string(say).unwrap()));
    let Some(Ok(first)) = lines.next() else { return };
    let bundle: Bundle = serde_json::from_str(&first).unwrap();
    std::fs::write(dir.join("thorough"), bundle.thorough.to_string()).unwrap();
    let root = tempfile::tempdir().unwrap();
    lay_out(&bundle, model, root.path()).unwrap();
    let opened = Model::open(model).unwrap();
    let tree = Workshop::new(&opened).unwrap().tree(&root.path().join("kernels")).unwrap();
    say(&Say::Hello(Box::new(Hello {
        remote: REMOTE,
        verifier: PROTOCOL,
        nonce: bundle.nonce.clone(),
        assay: "0".into(),
        host: "made-up".into(),
        weights: bundle.weights,
        arch: "sm_90".into(),
        key: key.public().clone(),
    })));
    for line in lines {
        let ask: Ask = serde_json::from_str(&line.unwrap()).unwrap();
        let (share, node) = (Seed([3; 32]), Target::Node(ask.node.clone()));
        let passed = |name: &Stage| StageRecord {
            name: *name,
            outcome: StageOutcome::Pass,
            figures: Default::default(),
            note: String::new(),
        };
        let mut verdict = Verdict {
            binding: tree.binding(&ask.node, "sm_90", Numerics::Ds4).unwrap(),
            stages: Stage::required(&node).iter().map(passed).collect(),
            node,
            class: Class::Device,
            outcome: Outcome::Pass,
            outputs: [("t=1".to_string(), Digest([9; 32]))].into(),
            seed: ask.seed_with(&share),
            informative: Informative {
                device: "a device that a test plays".into(),
                sandbox: r#"{"level":"full","landlock_abi":7,"seccomp":true,"namespaces":false}"#.into(),
                time: "2025-01-01T00:00:00Z".into(),
                prompt: ask.prompt.clone(),
                transcript: ask.transcript.clone(),
                ..Default::default()
            },
            parts: Default::default(),
        };
        twist(&mut verdict);
        let evidence =
            [Evidence::join(key).unwrap(), Evidence::sign(Statement::Verdict(Box::new(verdict)), key).unwrap()];
        let evidence = evidence.iter().map(|e| e.to_value().unwrap()).collect();
        say(&Say::Evidence { share, evidence });
    }
}

/// A model that writes a right kernel at once, another one in each run.
fn porter() -> Server {
    let (right, manifest) = (source("kernels/swiglu.cu"), source("kernels/swiglu.toml"));
    Server::start(move |n, _| {
        let text = format!("// written by request {n}\n{right}");
        Reply::Json(answer("", &[write("swiglu.cu", &text), write("swiglu.toml", &manifest), verify()], (9000, 900)))
    })
}

/// A run in the background, and the folder that its words go to.
fn begin(port: &Port, args: &[&str]) -> Child {
    let mut command = port.command(env!("CARGO_BIN_EXE_assay"));
    command
        .args(["agent", "swiglu", "--plain"])
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Answers each question with `words`, until the run is over; gives what was asked.
fn answer_all(port: &Port, child: &mut Child, words: &dyn Fn(&str) -> Vec<&'static str>) -> Vec<String> {
    let (began, mut asked) = (Instant::now(), Vec::new());
    while child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(120));
        let out = port.run(&["agent", "status", "--json"]);
        // Before its first event a run is not there.
        let said: Value = serde_json::from_str(&out.stdout).unwrap_or_default();
        if let (Some(about), Some(true)) = (said["asks"]["about"].as_str(), said["alive"].as_bool()) {
            let id = said["asks"]["id"].to_string();
            if asked.last().is_none_or(|(last, _)| *last != id) {
                asked.push((id, about.to_string()));
                // The question may have been answered in between by the end of its time.
                port.run(&[&["agent"], &words(about)[..]].concat());
            }
        }
        std::thread::sleep(Duration::from_millis(60));
    }
    asked.into_iter().map(|(_, about)| about).collect()
}

#[test]
fn the_loop_lands_what_a_host_proved_as_its_approval_mode_says() {
    let port = Port::new(porter());
    let command = host(&port, "gpu", |_| ());
    let before = port.log();
    let never = port.run(&["agent", "swiglu", "--runner", &command, "--approve", "never-ask", "--json"]);
    if super::port::no_compiler(&never) {
        return;
    }
    assert_eq!(never.code, 0, "{}{}", never.stdout, never.stderr);
    let doc: Value = serde_json::from_str(&never.stdout).unwrap();
    assert_eq!(
        (&doc["passed"], &doc["landed"], &doc["green_possible"]),
        (&json!(1), &json!(1), &json!(true)),
        "{doc:#}"
    );
    let tried = &doc["nodes"][0]["attempts"];
    assert_eq!((&tried[0]["class"], &tried[1]["class"]), (&json!("emulated"), &json!("device")), "{doc:#}");
    let log = port.log();
    let landed = "swiglu: emulated";
    assert!(log.starts_with("swiglu: ") && !log.starts_with(landed), "{log}");
    // A log that names a commit names it as git does.
    let head = port.command("git").args(["rev-parse", "--short=12", "HEAD"]).output().unwrap().stdout;
    let named = format!("green and landed. commit {}", String::from_utf8_lossy(&head));
    assert!(never.stderr.contains(&named), "{named}: {}", never.stderr);
    assert!(log.ends_with(&before) && log.contains("kernels/swiglu.cu\nkernels/swiglu.toml\nstate/"), "{log}");
    // The row holds the digest of the event that sent the kernel there, the commit names the row's evidence.
    let transcript = port.transcript();
    let sent = transcript.iter().filter(|(_, e)| e["event"] == "judging" && e["place"] == "device");
    let digests: Vec<String> = sent.map(|(line, _)| Digest::of(line.as_bytes()).to_string()).collect();
    let row = tried[1]["row"].to_string();
    let shown = port.json(&["show", &row, "--json"]);
    let informative = &shown["statement"]["predicate"]["informative"];
    assert_eq!((digests.len(), &informative["transcript"]), (1, &json!(digests[0])), "{shown:#}");
    assert_eq!(informative["prompt"].as_str().unwrap().len(), 64);
    let message = port.command("git").args(["log", "-1", "--format=%B"]).output().unwrap();
    let message = String::from_utf8(message.stdout).unwrap();
    assert!(message.contains("Assay-Evidence: ") && message.contains("Assay-Node: swiglu"), "{message}");
    assert_eq!(port.run(&["audit"]).code, 0);
    let status = port.run(&["status"]).stdout;
    assert!(status.contains("1 of 27 nodes is proven on sm_90") || status.contains("1 is proven on sm_90"), "{status}");

    // A person says no, and then yes, from another terminal.
    let mut no = begin(&port, &["--runner", &command]);
    let asked = answer_all(&port, &mut no, &|_| vec!["reject", "not yet"]);
    let out = no.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!((asked, out.status.code()), (vec!["landing".to_string()], Some(0)), "{said}");
    assert!(said.contains("green, not landed") && port.log() == log, "{said}");
    let mut yes = begin(&port, &["--runner", &command, "--approve", "green"]);
    let asked = answer_all(&port, &mut yes, &|_| vec!["approve"]);
    let out = yes.wait_with_output().unwrap();
    assert_eq!((asked, out.status.code()), (vec!["landing".to_string()], Some(0)), "{out:?}");
    assert_eq!(port.log().matches("kernels/swiglu.cu").count(), 2, "{}", port.log());
    // Each step: the calls, and then the landing.
    let mut each = begin(&port, &["--runner", &command, "--approve", "each-step"]);
    let asked = answer_all(&port, &mut each, &|_| vec!["approve"]);
    let out = each.wait_with_output().unwrap();
    assert_eq!((asked, out.status.code()), (vec!["step".to_string(), "landing".to_string()], Some(0)), "{out:?}");
    assert_eq!(port.log().matches("kernels/swiglu.cu").count(), 3, "{}", port.log());
}

#[test]
fn a_host_that_signs_for_something_else_lands_nothing() {
    let port = Port::new(porter());
    let before = port.log();
    let twists: [(&str, Twist, i32, &str); 3] = [
        ("other", |v| v.informative.transcript = Digest([1; 32]).to_string(), 4, "names another transcript"),
        ("seed", |v| v.seed = Seed([0; 32]), 4, "another seed"),
        ("emulator", |v| v.class = Class::Simulated, 1, "class simulated"),
    ];
    for (name, twist, code, says) in twists {
        let command = host(&port, name, twist);
        let out = port.run(&["agent", "swiglu", "--runner", &command, "--approve", "never-ask"]);
        if super::port::no_compiler(&out) {
            return;
        }
        assert_eq!(out.code, code, "{name}: {}{}", out.stdout, out.stderr);
        assert!(out.stderr.contains(says), "{name}: {}", out.stderr);
        assert_eq!(port.log(), before, "{name}");
    }
    // One that cannot be reached, and one that is not trusted, are said before the model is asked.
    let asked = port.server.seen().len();
    let gone = port.run(&["agent", "swiglu", "--runner", "false"]);
    assert!(gone.code == 3 && gone.stderr.contains("runner-died"), "{}", gone.stderr);
    std::fs::write(port.path("config/trust.toml"), "").unwrap();
    let dir = port.path("other");
    let command = format!("sh {}/host", dir.display());
    let stranger = port.run(&["agent", "swiglu", "--runner", &command]);
    assert!(stranger.code == 1 && stranger.stderr.contains("evidence-untrusted"), "{}", stranger.stderr);
    assert_eq!(port.server.seen().len(), asked);
}

/// An outside agent's kernels were judged on the emulator alone, whatever hosts its user has.
#[test]
#[cfg(feature = "mcp")]
fn an_outside_agents_kernel_is_judged_by_the_host_that_its_user_named() {
    let port = Port::new(porter());
    let command = host(&port, "gpu", |_| ());
    let serve = |command: &str| {
        let mut mcp = port.command(env!("CARGO_BIN_EXE_assay"));
        mcp.args(["mcp", "--runner", command]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        crate::mcp::Client::speak(mcp.spawn().unwrap())
    };
    let mut client = serve(&command);
    let judge = |client: &mut crate::mcp::Client, text: &str| {
        for (file, text) in [("swiglu.cu", text), ("swiglu.toml", &source("kernels/swiglu.toml"))] {
            client.call("write_kernel", json!({ "file": file, "text": text, "node": "swiglu" }));
        }
        client.call("verify", json!({ "node": "swiglu" }))
    };
    let right = source("kernels/swiglu.cu");
    let said = judge(&mut client, &right);
    let data = &said["structuredContent"];
    if data["code"] == "emulator-no-compiler" {
        return println!("could not run: no C++ compiler");
    }
    assert_eq!((&data["summary"], &data["green"], &data["class"]), (&json!("pass"), &json!(true), &json!("device")));
    assert_eq!((&data["runner"], &data["emulated"]["summary"]), (&json!(command), &json!("pass")), "{said:#}");
    let rows = [&data["emulated"]["row"], &data["row"]].map(|row| row.as_u64().unwrap());
    assert!(said["content"][0]["text"].as_str().unwrap().contains("swiglu: GREEN on sm_90; judged by"), "{said:#}");
    // It can be asked for now, and stands in the transcript with the call that led to it.
    assert_eq!(client.call("request_landing", json!({ "node": "swiglu" }))["structuredContent"]["request"], 1);
    // What is red on the emulator is not sent to a host.
    let wrong = right.replace("fminf", "fmaxf");
    assert_ne!(wrong, right);
    let red = judge(&mut client, &wrong);
    let red = &red["structuredContent"];
    assert_eq!((&red["summary"], &red["class"]), (&json!("red"), &json!("emulated")), "{red:#}");
    drop(client);
    let log = port.json(&["mcp", "log", "--json"]);
    let events = log["events"].as_array().unwrap();
    let verdicts: Vec<_> = events.iter().map(|e| &e["event"]).filter(|e| e["event"] == "verdict").collect();
    let told: Vec<_> = verdicts.iter().map(|v| (v["row"].as_u64(), v["green"].as_bool())).collect();
    assert_eq!(told[..2], [(Some(rows[0]), Some(false)), (Some(rows[1]), Some(true))], "{log:#}");
    let called = events.iter().find(|e| e["event"]["tool"] == "verify").unwrap();
    let shown = port.json(&["show", &rows[1].to_string(), "--json"]);
    assert_eq!(shown["statement"]["predicate"]["informative"]["transcript"], called["digest"], "{shown:#}");

    // A host that signs for another call is refused; one that cannot be reached is said before any client works.
    let lies = host(&port, "liar", |v| v.informative.transcript = Digest([1; 32]).to_string());
    let mut client = serve(&lies);
    let refused = judge(&mut client, &format!("// again\n{right}"));
    assert_eq!(
        (&refused["isError"], &refused["structuredContent"]["code"]),
        (&json!(true), &json!("runner-answer")),
        "{refused:#}"
    );
    drop(client);
    let gone = port.run(&["mcp", "--runner", "false"]);
    assert!(gone.code == 3 && gone.stderr.contains("runner-died"), "{}", gone.stderr);
    assert_eq!(port.run(&["mcp", "--runner", "false", "--backend", "device"]).code, 2);
}

/// A host was asked for the usual cases, whatever the call had asked for.
#[test]
fn a_call_for_every_size_did_not_reach_the_host() {
    let port = Port::new(porter());
    let command = host(&port, "gpu", |_| ());
    for (name, text) in [("swiglu.cu", source("kernels/swiglu.cu")), ("swiglu.toml", source("kernels/swiglu.toml"))] {
        std::fs::write(port.root().join("kernels").join(name), text).unwrap();
    }
    for thorough in [true, false] {
        let ask = json!({ "node": "swiglu", "thorough": thorough }).to_string();
        let mut tool = port.command(env!("CARGO_BIN_EXE_assay"));
        tool.args(["tool", "verify", &ask, "--runner", &command, "--no-record"]);
        // The emulator's word on every size takes minutes.
        let out = tool.env("CXX", port.path("no-compiler")).output().unwrap();
        assert!(String::from_utf8_lossy(&out.stdout).contains("GREEN on sm_90"), "{out:?}");
        assert_eq!(std::fs::read_to_string(port.path("gpu/thorough")).unwrap(), thorough.to_string());
    }
}

/// Without a compiler here a kernel that no host can judge was no attempt, and after three of them the node was left.
#[test]
fn a_kernel_that_cannot_be_read_was_a_hosts_fault() {
    let (right, manifest) = (source("kernels/swiglu.cu"), source("kernels/swiglu.toml"));
    let port = Port::new(Server::start(move |n, _| {
        let manifest = if n == 0 { "[[variant]\nnot toml" } else { &manifest };
        Reply::Json(answer("", &[write("swiglu.cu", &right), write("swiglu.toml", manifest), verify()], (9000, 900)))
    }));
    let command = host(&port, "gpu", |_| ());
    let mut agent = port.command(env!("CARGO_BIN_EXE_assay"));
    agent.args(["agent", "swiglu", "--runner", &command, "--approve", "never-ask", "--json"]);
    let out = agent.env("CXX", port.path("no-compiler")).output().unwrap();
    let doc: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    let tried = doc["nodes"][0]["attempts"].as_array().unwrap();
    let told: Vec<_> = tried.iter().map(|a| (&a["attempt"], &a["outcome"], &a["unbound"])).collect();
    let no = json!(false);
    assert_eq!(told, [(&json!(1), &json!("red"), &json!(true)), (&json!(2), &json!("pass"), &no)], "{doc:#}");
    let history = port.json(&["history", "swiglu", "--json"]);
    assert_eq!(history["attempts"][0]["unbound"], true, "{history:#}");
}
