//! The MCP server from outside: as JSON lines to `assay mcp`, and with rmcp's own client.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use assay::agent::desk::{ANSWER, Desk, Options};
use assay::agent::mcp::Server;
use rmcp::ServiceExt as _;
use rmcp::model::{CallToolRequestParams, ReadResourceRequestParams};
use serde_json::{Value, json};

use crate::bench::Bench;

/// `assay mcp` in a workbench, spoken to line by line.
pub struct Client {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    next: u64,
    /// What came beside the answers.
    notes: Vec<Value>,
}

impl Client {
    fn start(bench: &Bench, options: &[&str]) -> Client {
        Client::speak(served(bench, &[env!("CARGO_BIN_EXE_assay")], options))
    }

    /// To a server that was started.
    pub fn speak(child: Child) -> Client {
        let mut client = Client::stranger(child);
        client.introduce();
        client
    }

    /// Who has said nothing yet.
    fn stranger(mut child: Child) -> Client {
        let (to, from) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Client { child, to, from, next: 0, notes: Vec::new() }
    }

    fn introduce(&mut self) {
        let hello = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } });
        let said = self.ask("initialize", hello);
        assert_eq!(said["result"]["serverInfo"]["name"], "assay", "{said}");
        self.line(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }).to_string());
    }

    /// What a line is answered.
    fn say(&mut self, line: &str) -> Value {
        self.line(line);
        let mut said = String::new();
        assert!(self.from.read_line(&mut said).unwrap() > 0, "the server is gone");
        serde_json::from_str(&said).unwrap()
    }

    fn line(&mut self, text: &str) {
        writeln!(self.to.as_mut().unwrap(), "{text}").unwrap();
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = self.next;
        self.line(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string());
        loop {
            let mut line = String::new();
            assert!(self.from.read_line(&mut line).unwrap() > 0, "the server is gone");
            let said: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
            if said["id"] == id {
                return said;
            }
            self.notes.push(said);
        }
    }

    /// A tool's result, which is small.
    pub fn call(&mut self, name: &str, arguments: Value) -> Value {
        let token = self.next;
        let params = json!({ "name": name, "arguments": arguments, "_meta": { "progressToken": token } });
        let said = self.ask("tools/call", params);
        let result = &said["result"];
        assert!(result.is_object(), "{name}: {said}");
        assert!(result.to_string().len() <= ANSWER, "{name}: {} bytes", result.to_string().len());
        result.clone()
    }
}

/// The server, by a command line that ends with the program's name.
fn served(bench: &Bench, program: &[&str], options: &[&str]) -> Child {
    Command::new(program[0])
        .current_dir(bench.path(""))
        .env("CUDA_VISIBLE_DEVICES", "")
        .args(&program[1..])
        .args(["mcp", "--backend", "emulator", "--no-record"])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.to.take());
        let _ = self.child.wait();
    }
}

fn bench() -> Bench {
    let bench = Bench::new();
    for folder in ["kernels/common", "kernels/quant", "kernels/args"] {
        bench.copy(folder);
    }
    bench
}

fn repository(name: &str) -> String {
    std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn text(result: &Value) -> &str {
    result["content"][0]["text"].as_str().unwrap()
}

#[test]
fn an_outside_agent_goes_from_next_to_a_verdict() {
    let bench = bench();
    let mut client = Client::start(&bench, &[]);
    let tools = client.ask("tools/list", json!({}))["result"]["tools"].clone();
    let names: Vec<_> = tools.as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    assert!(names.len() <= 12 && tools.to_string().len() < ANSWER, "{}", tools.to_string().len());
    assert_eq!(
        names,
        ["next", "status", "list", "read", "write_kernel", "build", "verify", "history", "job", "request_landing"]
    );

    assert!(text(&client.call("next", json!({}))).contains("embed[f16]"));
    for what in
        ["contract", "oracle", "header", "tensors", "docs/manifest.md", "docs/model.md", "kernels/common/cuda.cuh"]
    {
        let got = client.call("read", json!({ "what": what, "node": "swiglu" }));
        assert_eq!(got["isError"], false, "{got}");
    }
    for (file, from) in
        [("swiglu.cu", "tests/gallery/zeros/swiglu.cu"), ("swiglu.toml", "tests/gallery/honest_swiglu/swiglu.toml")]
    {
        let wrote = client.call("write_kernel", json!({ "file": file, "text": repository(from) }));
        assert_eq!(wrote["content"][1]["uri"], format!("assay://kernels/{file}"), "{wrote}");
    }
    assert_eq!(client.call("build", json!({ "node": "swiglu" }))["structuredContent"]["ok"], true);
    let red = client.call("verify", json!({ "node": "swiglu" }));
    assert!(red["structuredContent"]["summary"] == "red" && text(&red).contains("first bad"), "{red}");
    let steps: Vec<f64> = client.notes.iter().filter_map(|n| n["params"]["progress"].as_f64()).collect();
    assert!(!steps.is_empty() && steps.is_sorted(), "{:?}", client.notes);
    client.call(
        "write_kernel",
        json!({ "file": "swiglu.cu", "text": repository("tests/gallery/honest_swiglu/swiglu.cu") }),
    );
    let pass = client.call("verify", json!({ "node": "swiglu" }));
    assert_eq!(
        (&pass["structuredContent"]["summary"], &pass["structuredContent"]["green"]),
        (&json!("pass"), &json!(false))
    );
    // A pass on the emulator is nothing to land, and saying otherwise changes nothing.
    let landing = client.call("request_landing", json!({ "node": "swiglu", "what": "done, all green" }));
    assert!(landing["isError"] == true && text(&landing).contains("[landing-early]"), "{landing}");
    assert!(!bench.path("state").exists());
}

#[test]
fn a_long_verdict_becomes_a_job_that_can_be_asked_for_and_ended() {
    let bench = bench();
    bench.copy("kernels/swiglu.cu");
    bench.copy("kernels/swiglu.toml");
    let mut client = Client::start(&bench, &["--patience", "0"]);
    let begun = client.call("verify", json!({ "node": "swiglu" }));
    assert_eq!(
        (&begun["structuredContent"]["state"], &begun["structuredContent"]["job"]),
        (&json!("running"), &json!(1)),
        "{begun}"
    );
    // One at a time.
    let second = client.call("verify", json!({ "node": "swiglu" }));
    let busy =
        |v: &Value| v["structuredContent"]["code"] == "tool-busy" || v["structuredContent"]["state"] == "running";
    assert!(busy(&second), "{second}");
    let ended = std::time::Instant::now() + std::time::Duration::from_secs(200);
    loop {
        let asked = client.call("job", json!({ "job": 1 }));
        if asked["structuredContent"]["summary"] == "pass" {
            break;
        }
        assert!(asked["structuredContent"]["state"] == "running" && std::time::Instant::now() < ended, "{asked}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let third = client.call("verify", json!({ "node": "swiglu" }))["structuredContent"]["job"].clone();
    client.call("job", json!({ "job": third, "cancel": true }));
    let absent = client.call("job", json!({ "job": 99 }));
    assert_eq!(absent["isError"], true);
    // A client that goes takes its verdict with it.
    let started = std::time::Instant::now();
    drop(client);
    assert!(started.elapsed() < std::time::Duration::from_secs(60));
}

#[test]
fn a_hostile_client_writes_nowhere_and_stops_nothing() {
    let bench = bench();
    bench.write("state/.keep", "");
    let mut client = Client::start(&bench, &["--node", "swiglu"]);
    for garbage in
        ["", "{", "[]", "null", "{\"jsonrpc\":\"2.0\"}", "\u{1b}[2J", &"[".repeat(100_000), &"x".repeat(1 << 20)]
    {
        client.line(garbage);
    }
    for (name, arguments, code) in [
        ("write_kernel", json!({ "file": "../state/ledger.jsonl", "text": "{}" }), "tool-refused"),
        ("write_kernel", json!({ "file": "rms_norm.cu", "text": "" }), "tool-refused"),
        ("write_kernel", json!({ "file": "swiglu.cu", "text": "x".repeat((1 << 20) + 1) }), "tool-size"),
        ("write_kernel", json!({ "file": 1 }), "tool-arguments"),
        ("read", json!({ "what": "../../etc/passwd" }), "tool-refused"),
        ("read", json!({ "what": "kernels/../../etc/passwd" }), "tool-refused"),
        ("verify", json!({ "node": "rms_norm" }), "tool-refused"),
        ("verify", json!({ "seed": "00" }), "tool-arguments"),
        ("land", json!({ "node": "swiglu" }), "tool-unknown"),
        ("approve", json!({}), "tool-unknown"),
        ("request_landing", json!({ "node": "swiglu", "force": true }), "tool-arguments"),
    ] {
        let said = client.call(name, arguments);
        assert_eq!(
            (&said["isError"], &said["structuredContent"]["code"]),
            (&json!(true), &json!(code)),
            "{name}: {said}"
        );
    }
    for uri in [
        "file:///etc/passwd",
        "assay://../assay.toml",
        "assay://kernels/../assay.toml",
        "assay://state/ledger.jsonl",
        "assay://verdict/-1",
        "",
    ] {
        let said = client.ask("resources/read", json!({ "uri": uri }));
        assert!(said["error"]["code"].is_i64(), "{uri}: {said}");
    }
    assert!(!bench.path("kernels/swiglu.cu").exists() && !bench.path("state/ledger.jsonl").exists());
    assert!(text(&client.call("status", json!({}))).contains("27 of 27 nodes are not green"));
    drop(client);
    // Everything that it tried stands in a transcript, what it was refused by name, the long text by its digest.
    let log = bench.json(&["mcp", "log", "--json"]);
    let events: Vec<&Value> = log["events"].as_array().unwrap().iter().map(|e| &e["event"]).collect();
    let refused: Vec<&str> =
        events.iter().filter(|e| e["event"] == "refused").map(|e| e["code"].as_str().unwrap()).collect();
    let own = "tool-refused";
    let codes = [own, own, "tool-size", own, own, own, "tool-unknown", "tool-unknown", own, own];
    assert_eq!(refused, codes, "{log:#}");
    assert_eq!(log["refused"], refused.len());
    let called = |tool: &str| events.iter().filter(|e| e["event"] == "called" && e["tool"] == tool).count();
    assert_eq!((called("write_kernel"), called("land"), called("resources/read")), (4, 1, 6), "{log:#}");
    assert!(log.to_string().len() < 64 << 10 && log.to_string().contains("\"bytes\":1048579"), "{log:#}");
    assert_eq!((&events[0]["event"], &events.last().unwrap()["event"]), (&json!("opened"), &json!("closed")));
    let page = bench.run(&["mcp", "log"]);
    assert!(
        page.stdout.contains("REFUSED [tool-refused]") && page.stdout.contains("land(node: \"swiglu\")"),
        "{}",
        page.stdout
    );
    // It is a chain.
    let path = std::path::Path::new(log["folder"].as_str().unwrap()).join("transcript.jsonl");
    let changed = std::fs::read_to_string(&path).unwrap().replacen("../state/ledger.jsonl", "swiglu.cu", 1);
    std::fs::write(&path, changed).unwrap();
    let damaged = bench.run(&["mcp", "log"]);
    assert!(damaged.code == 4 && damaged.stderr.contains("transcript-damaged"), "{}", damaged.stderr);
}

/// What a key of the user's environment says is nothing to keep, wherever an agent came across it.
#[test]
fn a_transcript_of_an_outside_agent_holds_no_key_and_its_digest_is_in_the_row() {
    let (bench, home) = (bench(), tempfile::tempdir().unwrap());
    bench.copy("kernels/swiglu.cu");
    bench.copy("kernels/swiglu.toml");
    let key = "sk-0123456789-outside";
    let command = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_assay"));
        command.current_dir(bench.path("")).env("CUDA_VISIBLE_DEVICES", "").env("ASSAY_CONFIG_DIR", home.path());
        command.env("ASSAY_AGENT_KEY", key).args(args).stderr(Stdio::null());
        command
    };
    assert!(command(&["key", "new", "me"]).stdout(Stdio::null()).status().unwrap().success());
    let mut mcp = command(&["mcp", "--backend", "emulator"]);
    let mut client = Client::speak(mcp.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    client.call("read", json!({ "what": format!("kernels/{key}") }));
    let verdict = client.call("verify", json!({ "node": "swiglu" }));
    if verdict["structuredContent"]["code"] == "emulator-no-compiler" {
        eprintln!("could not run: no C++ compiler");
        return;
    }
    let row = verdict["structuredContent"]["row"].as_u64().unwrap();
    drop(client);
    let said = |args: &[&str]| -> Value { serde_json::from_slice(&command(args).output().unwrap().stdout).unwrap() };
    let log = said(&["mcp", "log", "--json"]);
    let text = std::fs::read_to_string(log["folder"].as_str().unwrap().to_string() + "/transcript.jsonl").unwrap();
    assert!(!text.contains(key) && text.contains("kernels/[redacted]"), "{text}");
    let events = log["events"].as_array().unwrap();
    let asked = events.iter().find(|e| e["event"]["event"] == "called" && e["event"]["tool"] == "verify").unwrap();
    let shown = said(&["show", &row.to_string(), "--json"]);
    let transcript = shown["statement"]["predicate"]["informative"]["transcript"].as_str().unwrap();
    assert_eq!(Some(transcript), asked["digest"].as_str(), "{shown:#}");
    // The row says how the kernel's compiler was confined, beside its worker.
    let build = &shown["statement"]["predicate"]["stages"][2];
    assert!(build["note"].as_str().unwrap().contains("compiler_sandbox"), "{build:#}");
    assert!(events.iter().any(|e| e["event"]["event"] == "verdict" && e["event"]["row"] == row), "{log:#}");
    // What is refused to somebody with a shell is kept as well.
    let mut tool = command(&["tool", "write_kernel", "{\"file\":\"../assay.toml\",\"text\":\"\"}"]);
    assert_eq!(tool.stdout(Stdio::null()).status().unwrap().code(), Some(4));
    let log = said(&["mcp", "log", "--json"]);
    assert_eq!((&log["events"][0]["event"]["by"], &log["refused"]), (&json!("assay tool"), &json!(1)));
}

/// The protocol's reference implementation in Rust, in this process.
#[test]
fn rmcps_own_client_finds_tools_and_resources() {
    let bench = bench();
    let desk = Desk::open(&bench.path(""), Options { any_node: true, ..Options::default() }).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let served = tokio::spawn(Server::new(desk, None).unwrap().serve_on(tokio::io::split(theirs)));
        let client = ().serve(tokio::io::split(ours)).await.unwrap();
        let server = served.await.unwrap().unwrap();
        assert_eq!(client.list_all_tools().await.unwrap().len(), 10);
        let resources = client.list_all_resources().await.unwrap();
        for uri in [
            "assay://contract/swiglu",
            "assay://oracle/rope_tail",
            "assay://docs/manifest.md",
            "assay://kernels/common/cuda.cuh",
        ] {
            assert!(resources.iter().any(|r| r.uri == uri), "{uri}");
            let read = client.read_resource(ReadResourceRequestParams::new(uri)).await.unwrap();
            assert!(serde_json::to_string(&read).unwrap().len() > 200, "{uri}");
        }
        let ask = CallToolRequestParams::new("read")
            .with_arguments(json!({ "what": "contract/swiglu" }).as_object().cloned().unwrap());
        let got = client.call_tool(ask).await.unwrap();
        assert!(serde_json::to_string(&got).unwrap().contains("shared expert"));
        client.cancel().await.unwrap();
        server.cancel().await.unwrap();
    });
}

/// The protocol's reference implementation in another language. Run by hand or by .ci/full: it is fetched from PyPI.
#[test]
#[ignore = "installs a client from PyPI"]
fn the_official_python_client_finds_the_same() {
    let venv = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/mcp");
    let quiet = |program: &std::path::Path, args: &[&str]| {
        Command::new(program).args(args).stdout(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    let python = venv.join("bin/python");
    let there = quiet(&python, &["-c", "import mcp"])
        || (quiet("python3".as_ref(), &["-m", "venv", venv.to_str().unwrap()])
            && quiet(&venv.join("bin/pip"), &["install", "--quiet", "--disable-pip-version-check", "mcp"]));
    if !there {
        eprintln!("could not run: the PyPI package mcp cannot be installed here");
        return;
    }
    let bench = bench();
    bench.copy("kernels/swiglu.cu");
    bench.copy("kernels/swiglu.toml");
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/mcp_client.py");
    let out = Command::new(python).arg(script).arg(env!("CARGO_BIN_EXE_assay")).arg(bench.path("")).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.contains("all as expected"), "{said}{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn what_to_paste_names_this_program_and_this_workbench() {
    let bench = bench();
    let root = bench.path("").canonicalize().unwrap();
    for client in ["claude-code", "claude-desktop", "codex", "cursor", "gemini", "vscode", "other"] {
        let doc = bench.json(&["mcp", "config", "--for", client, "--json"]);
        let paste = doc["paste"].as_str().unwrap();
        assert!(
            paste.contains(root.to_str().unwrap()) && paste.contains("assay") && paste.contains("\"mcp\""),
            "{client}: {paste}"
        );
        match client {
            "codex" => {
                assert!(toml::from_str::<toml::Value>(paste).unwrap()["mcp_servers"]["assay"]["args"].is_array())
            }
            _ => assert!(serde_json::from_str::<Value>(paste).is_ok()),
        }
    }
}

/// Clients waited for ever: for lines that were no requests there was no answer, or one without their id, and calls that
/// could not be read were unknown methods and left no trace.
#[test]
fn what_was_no_request_got_no_answer_and_left_no_trace() {
    let bench = bench();
    let mut client = Client::start(&bench, &["--node", "swiglu"]);
    let request = |id: u64, rest: &str| format!(r#"{{"jsonrpc":"2.0","id":{id}{rest}}}"#);
    let call = |id: u64, params: &str| request(id, &format!(r#","method":"tools/call","params":{params}"#));
    let long = "x".repeat(17 << 20);
    for (line, id, code) in [
        ("{bad json".to_string(), Value::Null, -32700),
        (request(99, ""), json!(99), -32600),
        (call(100, r#"{"nom":1}"#), json!(100), -32602),
        (call(101, r#"{"name":"read","arguments":[1]}"#), json!(101), -32602),
        (request(102, r#","method":"resources/read","params":{}"#), json!(102), -32602),
        (request(103, r#","method":"tools/explode""#), json!(103), -32601),
        (call(104, &format!(r#"{{"name":"read","arguments":{{"what":"{long}"}}}}"#)), json!(104), -32600),
    ] {
        let said = client.say(&line);
        let shown = line.get(..60).unwrap_or(&line);
        assert_eq!((&said["id"], &said["error"]["code"]), (&id, &json!(code)), "{shown}: {said}");
        assert!(said["error"]["message"].as_str().is_some_and(|text| text.len() > 10 || code == -32601), "{said}");
    }
    // A notification is answered by nobody, and the server goes on.
    client.line(r#"{"jsonrpc":"2.0","method":"tools/call","params":{"nom":1}}"#);
    assert!(text(&client.call("read", json!({ "what": "contract" }))).contains("swiglu"));
    drop(client);
    let log = bench.json(&["mcp", "log", "--json"]);
    let events = log["events"].as_array().unwrap().iter().map(|e| &e["event"]);
    let tried: Vec<_> = events.filter(|e| e["event"] == "called" && e["tool"] == "tools/call").collect();
    assert_eq!(tried.len(), 2, "{log:#}");
    assert!(tried[0]["arguments"]["nom"] == 1 && tried[1]["arguments"]["arguments"] == json!([1]), "{log:#}");
}

/// `"params": [1, 2]` was no request at all, and the call that it was to be stood in no log.
#[test]
fn parameters_that_are_no_object_were_no_request() {
    let bench = bench();
    let mut client = Client::start(&bench, &[]);
    for (method, params, code, says) in [
        ("tools/call", "[1,2]", -32602, "{\"name\": TOOL"),
        ("tools/call", "\"read\"", -32602, "{\"name\": TOOL"),
        ("resources/read", "[\"assay://contract/swiglu\"]", -32602, "{\"uri\": URI}"),
        ("tools/list", "[]", -32602, "cursor"),
        ("ping", "[1]", -32602, "an object, or none"),
        ("tools/explode", "[1]", -32601, "there is no method tools/explode"),
    ] {
        let line = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{params}}}"#);
        let said = client.say(&line);
        assert_eq!((&said["id"], &said["error"]["code"]), (&json!(7), &json!(code)), "{line}: {said}");
        assert!(said["error"]["message"].as_str().unwrap().contains(says), "{line}: {said}");
    }
    for line in
        [r#"{"id":7,"method":"tools/call","params":[1]}"#, r#"{"jsonrpc":"2.0","id":{},"method":"ping","params":[1]}"#]
    {
        assert_eq!(client.say(line)["error"]["code"], -32600, "{line}");
    }
    drop(client);
    let log = bench.json(&["mcp", "log", "--json"]);
    let events = log["events"].as_array().unwrap().iter().map(|e| &e["event"]);
    let tried: Vec<_> = events.filter(|e| e["event"] == "called").map(|e| (&e["tool"], &e["arguments"])).collect();
    assert_eq!(tried.len(), 3, "{log:#}");
    assert_eq!(tried[0], (&json!("tools/call"), &json!({ "no object": "[1,2]" })), "{log:#}");
}

/// A client that asked before it had said who it is was told of metadata that no client of its protocol has, and one that
/// sent a notification first was left alone.
#[test]
fn a_request_before_initialize_was_answered_with_something_else() {
    let bench = bench();
    let mut client = Client::stranger(served(&bench, &[env!("CARGO_BIN_EXE_assay")], &[]));
    client.line(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    client.line(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    assert_eq!(client.say(r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#)["result"], json!({}));
    for (id, method, params) in
        [(1, "tools/list", json!({})), (2, "tools/call", json!({ "name": "status" })), (3, "resources/list", json!({}))]
    {
        let line = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string();
        let said = client.say(&line);
        assert_eq!((&said["id"], &said["error"]["code"]), (&json!(id), &json!(-32600)), "{said}");
        let told = said["error"]["message"].as_str().unwrap();
        assert!(told.contains(&format!("{method} came before initialize")) && !told.contains("_meta"), "{told}");
    }
    client.introduce();
    assert_eq!(client.call("status", json!({}))["isError"], false);
    drop(client);
    let log = bench.run(&["mcp", "log"]).stdout;
    assert!(log.contains("came before initialize"), "{log}");
}

/// `resources/list` answered 9 KB at once, and more with each kernel.
#[test]
fn a_list_of_resources_was_longer_than_an_answer() {
    let bench = bench();
    for n in 0..200 {
        bench.write(&format!("kernels/common/header_{n}.cuh"), "");
    }
    let mut client = Client::start(&bench, &[]);
    let (mut seen, mut cursor, mut pages) = (Vec::new(), None, 0);
    loop {
        let params = cursor.map_or(json!({}), |cursor: String| json!({ "cursor": cursor }));
        let said = client.ask("resources/list", params);
        assert!(said.to_string().len() <= ANSWER, "{} bytes", said.to_string().len());
        pages += 1;
        let listed = said["result"]["resources"].as_array().unwrap();
        seen.extend(listed.iter().map(|r| r["uri"].as_str().unwrap().to_string()));
        match said["result"]["nextCursor"].as_str() {
            Some(next) => cursor = Some(next.to_string()),
            None => break,
        }
    }
    let every: std::collections::BTreeSet<_> = seen.iter().collect();
    assert!(pages > 2 && every.len() == seen.len() && seen.len() > 250, "{pages}: {seen:?}");
    assert!(seen.iter().any(|uri| uri.ends_with("header_199.cuh")), "{seen:?}");
    let wrong = client.ask("resources/list", json!({ "cursor": "assay://kernels/nowhere" }));
    assert_eq!(wrong["error"]["code"], -32602, "{wrong}");
}

/// What a full disk left of a line had the next one glued to it, and nobody could read the log again. What it then said was to
/// begin a run with `assay agent`.
#[test]
fn a_log_whose_line_was_cut_short_was_never_read_again() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let bench = bench();
    // A file that may not grow is as a full disk, where its signal is not taken.
    let program = ["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_assay")];
    let child = served(&bench, &program, &[]);
    let pid = Pid::from_child(&child);
    let mut client = Client::speak(child);
    let may_grow = |to: Option<u64>| {
        prlimit(Some(pid), Resource::Fsize, Rlimit { current: to, maximum: None }).unwrap();
    };
    let read = |what: &str| json!({ "name": "read", "arguments": { "what": what } });
    client.call("read", json!({ "what": "contract/swiglu" }));
    let log = || bench.json(&["mcp", "log", "--json"]);
    let path = std::path::Path::new(log()["folder"].as_str().unwrap()).join("transcript.jsonl");
    let length = || std::fs::metadata(&path).unwrap().len();
    let whole = length();
    may_grow(Some(whole + 100));
    let failed = client.ask("tools/call", read(&"x".repeat(1000)));
    assert!(failed["error"]["message"].as_str().unwrap().contains("the transcript cannot be written"), "{failed}");
    assert_eq!(length(), whole, "what was written of the line is taken back");
    may_grow(None);
    let told = client.ask("tools/call", read("contract/rope_tail"));
    assert_eq!(told["result"]["isError"], false, "{told}");
    drop(client);
    let read: Vec<_> = log()["events"].as_array().unwrap().iter().map(|e| e["event"]["event"].clone()).collect();
    assert_eq!(read, ["opened", "client", "called", "answered", "called", "answered", "closed"]);
    std::fs::write(&path, "{}\n").unwrap();
    let damaged = bench.run(&["mcp", "log"]);
    assert!(damaged.code == 4 && !damaged.stderr.contains("assay agent"), "{}", damaged.stderr);
    assert!(damaged.stderr.contains("assay mcp log NAME"), "{}", damaged.stderr);
}

/// Errors that said what is wrong in Rust's words, or named half of the tools.
#[test]
fn errors_over_mcp_did_not_say_what_to_do() {
    let bench = bench();
    bench.copy("kernels/swiglu.cu");
    bench.copy("kernels/swiglu.toml");
    let mut client = Client::start(&bench, &["--patience", "0"]);
    let read = client.call("read", json!({}));
    let told = &read["structuredContent"];
    assert!(told["expected"].as_str().unwrap().contains("what: string; node: string, if wanted"), "{read}");
    assert!(told["hint"].is_string() && told["code"] == "tool-arguments", "{read}");
    for (name, arguments) in [("job", json!({ "job": -1 })), ("read", json!({ "what": "oracle", "from_line": -1 }))] {
        let said = client.call(name, arguments);
        assert!(text(&said).contains("not negative") && !text(&said).contains("u64"), "{said}");
        assert!(!text(&said).contains("usize") && said["structuredContent"]["expected"].is_string(), "{said}");
    }
    let unknown = client.call("land", json!({}));
    let names = unknown["structuredContent"]["expected"].as_str().unwrap();
    assert!(names.contains("verify") && names.contains("job, request_landing"), "{unknown}");
    let tools = client.ask("tools/list", json!({}))["result"]["tools"].clone();
    let job = tools.as_array().unwrap().iter().find(|t| t["name"] == "job").unwrap();
    assert!(job["description"].as_str().unwrap().contains("Does not wait"), "{job}");
    // It may end a verdict.
    assert_eq!(job["annotations"]["readOnlyHint"], false, "{job}");
    let typo = client.call("read", json!({ "what": "contract", "node": "matmul[q9_0]" }));
    assert!(text(&typo).contains("`matmul[q9_0]` names no node"), "{typo}");
    let begun = client.call("verify", json!({ "node": "swiglu" }));
    assert!(!text(&begun).contains("at ."), "{begun}");
    drop(client);
    let out = bench.run(&["mcp", "--node", "nosuch"]);
    assert!(out.code == 2 && out.stderr.contains("assay next"), "{}: {}", out.code, out.stderr);
}

/// `assay mcp config` outside of a workbench was an error, so that its form could not be seen before there was one.
#[test]
fn what_to_paste_is_shown_without_a_workbench_too() {
    let elsewhere = tempfile::tempdir().unwrap();
    let at = |args: &[&str]| crate::bench::assay_with(elsewhere.path(), args, &[]);
    let out = at(&["mcp", "config", "--for", "codex"]);
    assert!(out.code == 0 && out.stdout.contains("\"/path/to/workbench\""), "{}{}", out.stdout, out.stderr);
    assert!(out.stderr.contains("there is no workbench here"), "{}", out.stderr);
    let doc: Value = serde_json::from_str(&at(&["mcp", "config", "--for", "other", "--json"]).stdout).unwrap();
    assert_eq!(doc["workbench"], Value::Null, "{doc}");
    // One that is there and cannot be read is no missing one.
    std::fs::write(elsewhere.path().join("assay.toml"), "model = 7").unwrap();
    let out = at(&["mcp", "config", "--for", "other"]);
    assert!(out.code != 0 && out.stderr.contains("workbench-config"), "{}", out.stderr);
}

/// `assay mcp -C DIR config` was no command: an option behind `mcp` was one of the server's.
#[test]
fn a_folder_may_be_named_behind_mcp_and_agent() {
    let bench = bench();
    let root = bench.path("").canonicalize().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let at = |args: &[&str]| crate::bench::assay_with(elsewhere.path(), args, &[]);
    let root = root.to_str().unwrap();
    for args in [["-C", root, "mcp", "config"], ["mcp", "-C", root, "config"], ["mcp", "config", "-C", root]] {
        let out = at(&[&args[..], &["--for", "other"]].concat());
        assert!(out.code == 0 && out.stdout.contains(root), "{args:?}: {}", out.stderr);
    }
    let served = at(&["mcp", "--node", "swiglu", "-C", root, "config", "--for", "other"]);
    assert!(served.code == 2 && served.stderr.contains("say nothing to `assay mcp config`"), "{}", served.stderr);
    #[cfg(feature = "agent")]
    {
        let none = at(&["agent", "-C", root, "status"]);
        assert!(none.stderr.contains("agent-run-none"), "{}", none.stderr);
        for args in [&["swiglu", "status"][..], &["--max-steps", "3", "status"]] {
            let out = at(&[&["-C", root, "agent"], args].concat());
            assert!(out.code == 2 && out.stderr.contains("begins none"), "{args:?}: {}", out.stderr);
        }
    }
}
