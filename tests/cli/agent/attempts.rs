//! What counts as an attempt, and what it is called.

use assay::agent::budget::Limits;
use assay::agent::events::{Approve, Event};
use assay::agent::run::Run;
use assay::agent::supervise::Signals;
use serde_json::{Value, json};

use super::fake::{Fake, Watch, client, limits, run_with, started};
use super::port::{Calls, Port, no_compiler, source, verify, write};
use super::server::{Reply, Server, answer};

fn script(steps: Vec<Calls>) -> Server {
    Server::start(move |n, _| match steps.get(n) {
        Some(calls) => Reply::Json(answer("", calls, (900, 90))),
        None => Reply::Json(answer("", &[("give_up", json!({"reason": "the script is over"}))], (900, 9))),
    })
}

/// A manifest that could not be read, and a source with an include that is not there, spent attempts of the loop, which
/// `history` knew nothing of; so the third attempt was the first on record.
#[test]
fn a_refusal_in_the_source_stage_was_an_attempt_in_the_loop_and_nowhere_else() {
    let (right, manifest) = (source("kernels/swiglu.cu"), source("kernels/swiglu.toml"));
    let lost = format!("#include \"common/nowhere.cuh\"\n{right}");
    let wrong = right.replacen("fminf", "fmaxf", 1);
    let both = |cu: &str, toml: &str| vec![write("swiglu.cu", cu), write("swiglu.toml", toml), verify()];
    let again = format!("// again\n{wrong}");
    let port = Port::new(script(vec![
        both(&right, "[[variant]\nnot toml"),
        both(&lost, &manifest),
        both(&wrong, &manifest),
        both(&right, &manifest),
        // Another run.
        vec![],
        both(&again, "[[variant]\nnot toml either"),
    ]));
    let out = port.run(&["agent", "swiglu", "--approve", "never-ask", "--json"]);
    if no_compiler(&out) {
        return;
    }
    assert_eq!(out.code, 0, "{}{}", out.stdout, out.stderr);
    let told = |doc: &Value| -> Vec<(u64, String, bool, bool)> {
        let attempts = doc["nodes"][0]["attempts"].as_array().unwrap().iter();
        let one = |a: &Value| {
            let stage = a["stage"].as_str().unwrap_or("pass").to_string();
            (a["attempt"].as_u64().unwrap(), stage, a["row"].is_u64(), a["unbound"] == true)
        };
        attempts.map(one).collect()
    };
    let source_stage = |n| (n, "source".to_string(), false, true);
    let want = [source_stage(1), source_stage(2), (3, "unit".into(), true, false), (4, "pass".into(), true, false)];
    assert_eq!(told(&port.json(&["report", "--agent", "--json"])), want);
    let page = port.run(&["report", "--agent"]).stdout;
    assert!(page.contains("| swiglu | passes on the emulator, not green | 4 |"), "{page}");
    assert_eq!(page.matches("(refused before a binding: no row)").count(), 2, "{page}");
    assert!(page.contains("Verdicts by stage: pass 1, source 2, unit 1."), "{page}");
    // By the same numbers.
    let history = port.json(&["history", "swiglu", "--json"]);
    let kept = |history: &Value| -> Vec<(String, bool, bool)> {
        let attempts = history["attempts"].as_array().unwrap().iter();
        let one = |a: &Value| {
            let number = a["reference"].as_str().unwrap().rsplit('/').next().unwrap().to_string();
            (number, a["unbound"] == true, a["evidence"].is_string())
        };
        attempts.map(one).collect()
    };
    let refused = |n: &str| (n.to_string(), true, false);
    assert_eq!(kept(&history), [refused("1"), refused("2"), ("3".into(), false, true)], "{history:#}");
    assert_eq!(history["rows"].as_array().unwrap().len(), 2, "{history:#}");
    let text = port.run(&["history", "swiglu"]).stdout;
    assert_eq!(text.matches("no row: refused before a binding").count(), 2, "{text}");
    let tool = port.run(&["tool", "history", "{\"node\":\"swiglu\"}"]).stdout;
    assert!(tool.contains("2 verdicts and 3 red attempts on record"), "{tool}");
    let second = port.run(&["tool", "history", "{\"node\":\"swiglu\",\"attempt\":2}"]).stdout;
    assert!(second.contains("common/nowhere.cuh"), "{second}");
    assert_eq!(port.run(&["audit"]).code, 0);
    // Another run counts on from there, and its budget from nothing.
    let out = port.run(&["agent", "swiglu", "--approve", "never-ask", "--max-attempts", "1", "--json"]);
    assert_eq!(out.code, 1, "{}{}", out.stdout, out.stderr);
    let doc: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(told(&doc), [source_stage(4)]);
    assert!(out.stderr.contains("budget of attempts at swiglu: 1 of 1"), "{}", out.stderr);
    assert_eq!(kept(&port.json(&["history", "swiglu", "--json"]))[3], refused("4"));
    // So does whoever judges by hand: there was no word of it.
    let out = port.run(&["verify", "swiglu", "--backend", "emulator", "--record"]);
    assert!(out.code == 1 && out.stderr.contains("refused before a binding"), "{}{}", out.stdout, out.stderr);
    assert_eq!(kept(&port.json(&["history", "swiglu", "--json"]))[4], refused("5"));
}

#[test]
fn an_attempts_number_counts_on_and_its_budget_does_not() {
    let wrong = |n: u32| vec![write("swiglu.cu", &format!("wrong {}", "x".repeat(n as usize))), verify()];
    let server = script((0..5).map(wrong).collect());
    let shop = Fake::default();
    shop.0.before.set(7);
    let out = run_with(&server, &shop, Approve::NeverAsk, Limits { attempts: 2, ..limits() }, |_| {});
    assert_eq!(shop.0.judged.get(), 2);
    assert!(out.has("attempt: 8") && out.has("attempt: 9") && !out.has("attempt: 10"), "{:?}", out.log);
    assert!(out.has("BudgetStop { what: \"attempts at swiglu\", spent: \"2\""), "{:?}", out.log);
}

/// The device was asked for the usual cases, whatever the call had asked for.
#[test]
fn a_call_for_every_size_ended_on_the_emulator() {
    let server = script(vec![vec![write("swiglu.cu", "right"), ("verify", json!({"thorough": true}))]]);
    let shop = Fake::default();
    shop.0.device.set(true);
    run_with(&server, &shop, Approve::NeverAsk, limits(), |_| {});
    assert_eq!((shop.0.judged.get(), shop.0.thorough.get()), (2, true));
}

/// `--approve each-step` named the calls and their sizes, and nobody could see what was to be written.
#[test]
fn a_step_was_asked_about_unseen() {
    let shop = Fake::default();
    let old: String = (0..40).map(|n| format!("line {n}\n")).collect();
    let new = old.replace("line 20\n", "wrong \u{1b}[2J line\n");
    shop.0.files.borrow_mut().insert("swiglu.cu".into(), old);
    let server = script(vec![
        vec![write("kernels/swiglu.cu", &new), write("swiglu.toml", "a manifest\n"), verify()],
        vec![write("swiglu.cu", &"x\n".repeat(100_000))],
    ]);
    let client = client(&server, |_| {});
    let (dir, signals) = (tempfile::tempdir().unwrap(), Signals::default());
    let answers = (0..3).map(|_| (Some(true), String::new())).collect();
    let mut view = Watch { answers, ..Watch::default() };
    let mut handle = shop.clone();
    let event = started(&client, Approve::EachStep, limits(), &["swiglu"]);
    Run::begin(dir.path(), &mut handle, &client, &signals, &mut view, event).unwrap().work().unwrap();
    let mut asked = Vec::new();
    assay::agent::transcript::read(
        &dir.path().join(assay::agent::transcript::FILE),
        |r: assay::agent::events::Record| {
            if let Event::Asked { shown, .. } = r.event {
                asked.push(shown);
            }
        },
    )
    .unwrap();
    assert_eq!(
        asked[0],
        "kernels/swiglu.cu changes\n@@ line 19\n  line 18\n  line 19\n- line 20\n+ wrong \u{fffd}[2J line\n  line 21\n  line 22\n\
         kernels/swiglu.toml is new\n@@ line 1\n+ a manifest\n\
         verify judges the kernel as it is then; the last verdict: none yet\n"
    );
    assert!(asked[1].len() <= 12 << 10 && asked[1].contains("changed lines more"), "{}", asked[1]);
    assert_eq!(asked.len(), 3);
}

/// Whoever had no user.name learned it when a green kernel was to land, and no attempt of the run was kept.
#[test]
fn a_run_without_a_git_identity_said_so_when_all_was_spent() {
    let port = Port::new(script(vec![]));
    for name in ["user.name", "user.email"] {
        // An empty one is as none, and hides the machine's.
        assert!(port.command("git").args(["config", name, ""]).status().unwrap().success());
    }
    let out = port.run(&["agent", "swiglu", "--approve", "never-ask", "--plain"]);
    if no_compiler(&out) {
        return;
    }
    let (said, asked) = (out.stderr.find("[git-author]"), out.stderr.find("model ("));
    assert!(said.is_some_and(|said| asked.is_some_and(|asked| said < asked)), "{}", out.stderr);
    assert!(out.stderr.contains("nothing can land; git config user.name NAME"), "{}", out.stderr);
}

/// The model was told that its red attempt could not be kept, the person was not; and `verify --record` ended in an error.
#[test]
fn an_attempt_that_could_not_be_kept_was_not_in_the_log() {
    let manifest = source("kernels/swiglu.toml");
    let stub = source("tests/gallery/stub_without_store/swiglu.cu");
    let port = Port::new(script(vec![
        vec![write("swiglu.cu", &stub), write("swiglu.toml", &manifest), verify()],
        vec![write("swiglu.toml", "[[variant]\nnot toml"), verify()],
    ]));
    // A lock is passed; a file in the place of the folder cannot be.
    let attempts = port.root().join(".git/refs/assay/attempts");
    std::fs::create_dir_all(&attempts).unwrap();
    std::fs::write(attempts.join("swiglu"), "").unwrap();
    let out = port.run(&["agent", "swiglu", "--approve", "never-ask", "--plain"]);
    if no_compiler(&out) {
        return;
    }
    let says = "the attempt's source was not kept: refs/assay/attempts/swiglu is in the way of an attempt";
    assert_eq!(out.stderr.matches(says).count(), 2, "{}", out.stderr);
    assert!(out.stderr.contains(&format!("rm {}", attempts.join("swiglu").display())), "{}", out.stderr);
    let story = port.json(&["report", "--agent", "--json"])["nodes"][0]["story"].to_string();
    assert_eq!(story.matches(says).count(), 2, "{story}");
    let out = port.run(&["verify", "swiglu", "--backend", "emulator", "--record"]);
    assert!(out.code == 1 && out.stderr.contains("the attempt at swiglu is no commit"), "{}{}", out.stdout, out.stderr);
    std::fs::remove_file(attempts.join("swiglu")).unwrap();
    std::fs::create_dir(attempts.join("swiglu")).unwrap();
    std::fs::write(attempts.join("swiglu/1.lock"), "").unwrap();
    let out = port.run(&["tool", "verify", "{\"node\":\"swiglu\"}"]);
    assert!(out.stdout.contains("the attempt is kept as refs/assay/attempts/swiglu/2"), "{}{}", out.stdout, out.stderr);
}
