//! Over two hundred steps of a model that does everything, behind a server at which everything goes wrong.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::port::{Calls, Port, source, verify, write};
use super::server::{Reply, Server, answer, streamed};

/// Resident memory of a process, in KiB.
fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?.trim().trim_end_matches(" kB").parse().ok()
}

/// The run is killed twice as well, once while the model is at work and once right after an answer.
#[test]
fn a_mixed_run_of_two_hundred_steps_keeps_its_memory_and_its_transcript() {
    let stub = source("tests/gallery/stub_without_store/swiglu.cu");
    let manifest = source("tests/gallery/stub_without_store/swiglu.toml");
    let (pid, seen_memory) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (of, memory) = (pid.clone(), seen_memory.clone());
    let server = Server::start(move |n, seen| {
        let pid = of.load(Ordering::Relaxed);
        if let Some(kib) = resident(pid) {
            memory.lock().unwrap().push((pid, n, kib));
        }
        if n == 290 || n == 300 {
            let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
            return if n == 290 { Reply::Silence } else { Reply::Json(answer("", &[("next", json!({}))], (50, 5))) };
        }
        let calls = |calls: Calls| Reply::Stream(streamed("größe 🦀", &calls, (4000, 50)));
        match n % 19 {
            0 => Reply::Status(429, "Retry-After: 0\r\n", String::new()),
            1 => Reply::Reset,
            2 => Reply::Json(answer("", &[], (50, 5))),
            3 => Reply::Stream(vec![b"data: {\"choices\"".to_vec()]),
            4 => Reply::Json(
                json!({"choices": [{"message": {"tool_calls": [{"function": {"name": "verify", "arguments": "{\"a"}}]}}]}),
            ),
            5 => Reply::Status(200, "", "<html>".into()),
            6 => Reply::Json(answer(&"long ".repeat(200_000), &[("read", json!({ "what": "oracle" }))], (50, 5))),
            7 => Reply::Status(400, "", "maximum context length".into()),
            8 => calls(vec![("read", json!({ "what": "../../etc/passwd" })), ("nothing", json!({ "x": "\u{0}" }))]),
            9 => calls(vec![write("/etc/passwd", "x"), write("../assay.toml", ""), write("rms_norm.cu", "")]),
            10 => Reply::Json(answer(
                "<tool_call>{\"name\":\"status\",\"arguments\":{}}</tool_call> and land it",
                &[],
                (50, 5),
            )),
            11 => calls(vec![("read", json!({ "what": "docs/model.md" })), ("history", json!({}))]),
            12 => {
                let text = seen.messages()[1]["content"].as_str().unwrap();
                let stem = text.split_once("- `kernels/").unwrap().1.split_once(".cu`").unwrap().0.to_string();
                calls(vec![
                    write(&format!("{stem}.cu"), &format!("// {n}\n{stub}")),
                    write(&format!("{stem}.toml"), &manifest),
                    verify(),
                ])
            }
            13 => Reply::Status(503, "", "busy".into()),
            14 => calls(vec![("ask_human", json!({ "question": "is it done?" }))]),
            15 => Reply::Huge(9),
            16 => calls(vec![("list", json!({})), ("next", json!({ "count": 99 })), ("status", json!({}))]),
            17 => Reply::Stream(
                streamed("ä", &[("read", json!({ "what": "contract" }))], (1, 1))
                    .concat()
                    .chunks(7)
                    .map(<[u8]>::to_vec)
                    .collect(),
            ),
            _ => calls((0..20).map(|i| ("read", json!({ "what": "header", "from_line": i }))).collect()),
        }
    });
    let port = Port::new(server);
    let run = |args: &[&str]| {
        let mut command = port.command(env!("CARGO_BIN_EXE_assay"));
        command.args(args).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let child = command.spawn().unwrap();
        pid.store(child.id(), Ordering::Relaxed);
        child.wait_with_output().unwrap()
    };
    // A stream that breaks off costs what its prompt can have had: the usual budget would end before the kills.
    let budgets = ["--max-steps", "230", "--max-tokens", "20000000"];
    let first = run(&[&["agent", "--approve", "never-ask", "--json"][..], &budgets].concat());
    let said = String::from_utf8_lossy(&first.stderr).into_owned();
    if said.contains("emulator-no-compiler") {
        println!("could not run: no C++ compiler");
        return;
    }
    assert_eq!(first.status.code(), None, "killed: {said}");
    let spent = |v: &Value| (v["spent"]["steps"].as_u64().unwrap(), v["spent"]["tokens"].as_u64().unwrap());
    let before = spent(&port.json(&["agent", "status", "--json"]));
    let second = run(&["agent", "resume", "--json"]);
    assert_eq!(second.status.code(), None, "killed again: {}", String::from_utf8_lossy(&second.stderr));
    let between = spent(&port.json(&["agent", "status", "--json"]));
    assert!(between.0 >= before.0 && between.1 > before.1, "{before:?} {between:?}");
    let last = run(&["agent", "resume", "--json"]);
    let doc: Value = serde_json::from_slice(&last.stdout).unwrap_or_else(|e| panic!("{e}: {last:?}"));
    assert_eq!((last.status.code(), &doc["over"], &doc["steps"]), (Some(1), &json!("budget"), &json!(230)), "{doc:#}");
    assert_eq!((&doc["passed"], &doc["landed"], &doc["disagreements"]), (&json!(0), &json!(0), &json!([])));

    // Flat: what a process holds late in the run it held early, but for what the allocator keeps.
    let memory = seen_memory.lock().unwrap().clone();
    let whole: Vec<_> = memory.iter().filter(|(p, ..)| *p == memory[0].0).collect();
    let at = |n: usize| whole.iter().filter(|(_, at, _)| (n..n + 40).contains(at)).map(|(.., kib)| *kib).max().unwrap();
    let (early, late) = (at(40), at(249));
    assert!(late < early + (24 << 10), "{early} KiB, then {late} KiB");

    // Intact: a chain, in which each thing that was refused stands, and nothing green.
    let transcript = port.transcript();
    let count = |event: &str| transcript.iter().filter(|(_, e)| e["event"] == event).count();
    assert!(count("refused") > 20 && count("failed") > 60 && count("resumed") == 2, "{}", transcript.len());
    let rows = count("verdict");
    assert!(rows >= 3, "{rows}");
    assert_eq!(port.run(&["audit"]).code, 0);
    assert!(port.json(&["status", "--json"])["nodes"].as_array().unwrap().iter().all(|n| n["state"] != "green"));
    // Outside of kernels/ and state/ nothing differs from the first commit.
    let changed = port.command("git").args(["status", "--porcelain"]).output().unwrap();
    for line in String::from_utf8(changed.stdout).unwrap().lines() {
        assert!(line[3..].starts_with("kernels/") || line[3..].starts_with("state/"), "{line}");
    }
}
