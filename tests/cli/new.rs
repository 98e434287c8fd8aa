//! A fresh workbench, and what each command says there. Git's and assay's configuration are the test's own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::bench::Output;

/// A user with a name, no key, and nothing else.
struct Home {
    dir: tempfile::TempDir,
}

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/tiny/model.gguf")
}

impl Home {
    fn new() -> Home {
        let home = Home { dir: tempfile::tempdir().unwrap() };
        std::fs::write(home.path(".gitconfig"), "[user]\n\tname = Ada\n\temail = ada@example.org\n").unwrap();
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs in `dir`, by default at home, far from any clone.
    fn run(&self, dir: &str, args: &[&str]) -> Output {
        let out = assert_cmd::Command::cargo_bin("assay")
            .unwrap()
            .current_dir(self.path(dir))
            .env("HOME", self.dir.path())
            .env("NO_COLOR", "1")
            .env("CUDA_VISIBLE_DEVICES", "")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("ASSAY_CONFIG_DIR")
            .args(args)
            .timeout(Duration::from_secs(300))
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Output { code: out.status.code().unwrap(), stdout: text(out.stdout), stderr: text(out.stderr) }
    }

    fn ok(&self, dir: &str, args: &[&str]) -> String {
        let out = self.run(dir, args);
        assert_eq!(out.code, 0, "{args:?}: {}{}", out.stdout, out.stderr);
        out.stdout
    }

    fn make(&self, options: &[&str]) -> String {
        let model = model();
        self.ok("", &[&["new", "port", "-m", model.to_str().unwrap()], options].concat())
    }

    fn git(&self, args: &[&str]) -> String {
        let out = std::process::Command::new("git").current_dir(self.path("port")).args(args).output().unwrap();
        assert!(out.status.success(), "{args:?}");
        String::from_utf8(out.stdout).unwrap()
    }
}

/// `cd my port && assay next` goes into another folder, or none.
#[test]
fn the_command_to_go_on_with_was_not_quoted() {
    let (home, model) = (Home::new(), model());
    let said = home.ok("", &["new", "my port", "-m", model.to_str().unwrap()]);
    assert!(said.contains("\nNext: cd 'my port' && assay next\n"), "{said}");
    std::fs::create_dir(home.path("two words")).unwrap();
    std::fs::copy(&model, home.path("two words/a model.gguf")).unwrap();
    let out = home.run("my port", &["inspect", "../two words"]);
    assert!(out.stderr.contains("name the file in it: '../two words/a model.gguf'"), "{}", out.stderr);
}

#[test]
fn a_fresh_port_has_everything_but_kernels() {
    let home = Home::new();
    let said = home.make(&[]);
    assert!(said.contains("It holds no kernel.") && said.contains("cd port && assay next"), "{said}");
    assert!(said.contains("You had no key"), "{said}");
    let port = |name: &str| home.path("port").join(name);
    for name in [
        "assay.toml",
        "README.md",
        "AGENTS.md",
        "kernels/args/swiglu.h",
        "kernels/common/cuda.cuh",
        "kernels/quant/q8_0.cuh",
        "kernels/emu/cuda.h",
        "kernels/many/tile.cuh",
        "prompts/porter.md",
        "docs/oracle/swiglu.rs",
        "docs/manifest.md",
        "reference/port/swiglu.toml",
        "state/ledger.jsonl",
        "state/checkpoint",
        "state/progress.json",
    ] {
        assert!(port(name).is_file(), "{name}");
    }
    let kernels = std::fs::read_dir(port("kernels")).unwrap().flatten().filter(|e| e.path().is_file()).count();
    assert_eq!(kernels, 0);
    assert!(home.git(&["status", "--porcelain"]).is_empty());
    assert_eq!(home.git(&["log", "--format=%an %s"]).trim(), "Ada workbench: a port of model.gguf begins");
    // Each command, far from a clone.
    let status = home.ok("port", &["status"]);
    assert!(
        status.starts_with("Nothing is proved: none of the 27 nodes")
            && status.contains("gates            0 of 27 are green"),
        "{status}"
    );
    let next = home.ok("port", &["next"]);
    assert!(
        next.contains("27 of the 27 nodes") && next.contains("next, port embed[f16]") && next.contains("upstream  ds4"),
        "{next}"
    );
    home.ok("port", &["audit"]);
    // It can be filled, and judged.
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/swiglu.cu"), port("kernels/swiglu.cu")).unwrap();
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/swiglu.toml"), port("kernels/swiglu.toml"))
        .unwrap();
    let verdict = home.ok("port", &["verify", "swiglu", "--backend", "emulator", "--record"]);
    assert!(verdict.contains("pass  swiglu") && verdict.contains("recorded as rows [1]"), "{verdict}");
    home.ok("port", &["audit"]);
}

#[test]
fn a_fresh_port_takes_no_place_that_is_taken_and_leaves_nothing_behind() {
    let home = Home::new();
    let model = model();
    let model = model.to_str().unwrap();
    let refused = |args: &[&str], code: i32, id: &str| {
        let out = home.run("", args);
        assert!(out.code == code && out.stderr.contains(&format!("[{id}]")), "{args:?}: {} {}", out.code, out.stderr);
    };
    std::fs::create_dir(home.path("full")).unwrap();
    std::fs::write(home.path("full/mine"), "mine").unwrap();
    std::fs::write(home.path("file"), "").unwrap();
    std::os::unix::fs::symlink(home.path("elsewhere"), home.path("link")).unwrap();
    for dir in ["full", "file", "link", "."] {
        refused(&["new", dir, "-m", model], 2, "new-not-empty");
    }
    refused(&["new", "port", "-m", model, "--ops", "sofmax"], 2, "new-op");
    // The folder behind the ops was taken for one of them.
    refused(&["new", "--ops", "swiglu,sofmax", "port", "-m", model], 2, "new-op");
    refused(&["new", "port", "-m", model, "--upto", "swiglu"], 2, "new-upto");
    refused(&["new", "port", "-m", "absent.gguf"], 3, "io");
    refused(&["new", "port"], 3, "workbench-missing");
    std::fs::write(home.path(".gitconfig"), "[user]\n\tname = Ada\n").unwrap();
    let out = home.run("", &["new", "port", "-m", model, "--json"]);
    let error: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!((&error["code"], out.code), (&"git-author".into(), 3), "{}", out.stdout);
    assert!(error["hint"].as_str().unwrap().contains("git config --global user.email"));
    let mut left: Vec<_> =
        std::fs::read_dir(home.path("")).unwrap().flatten().map(|e| e.file_name().into_string().unwrap()).collect();
    left.retain(|name| !name.starts_with(".git") && name != ".cache");
    left.sort();
    assert_eq!(left, ["file", "full", "link"]);
}

#[test]
fn a_fresh_port_up_to_a_node_brings_what_is_proved_before_it() {
    let home = Home::new();
    let clone = env!("CARGO_MANIFEST_DIR");
    let said = home.make(&["--upto", "rope_tail", "--from", clone, "--json"]);
    let made: Value = serde_json::from_str(&said).unwrap();
    let carried: Vec<_> = made["carried"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    let left = made["left"].as_array().unwrap();
    assert_eq!(carried.len() + left.len(), 7, "{said}");
    let kernels = home.path("port/kernels");
    for (stem, there) in [("embed", true), ("matmul.q8_0", true), ("rope_tail", false), ("swiglu", false)] {
        // What the clone's ledger no longer proves is left behind, and named.
        let stale = left.iter().any(|l| l["node"].as_str().unwrap().starts_with(stem.split('.').next().unwrap()));
        assert!(stale || kernels.join(format!("{stem}.cu")).exists() == there, "{stem}: {said}");
    }
    let status: Value = serde_json::from_str(&home.ok("port", &["status", "--json"])).unwrap();
    for node in status["nodes"].as_array().unwrap() {
        let proved = !node["proofs"].as_array().unwrap().is_empty();
        assert_eq!(proved, carried.contains(&node["node"].as_str().unwrap()), "{node}");
    }
    home.ok("port", &["audit"]);
}

/// A proof of an earlier judge stands by today's row of the emulator alone. That stayed behind, and `new` said of stale
/// kernels that they were proven.
#[test]
fn new_upto_carried_kernels_whose_proofs_were_stale_there() {
    let home = Home::new();
    let clone = env!("CARGO_MANIFEST_DIR");
    let made: Value = serde_json::from_str(&home.make(&["--upto", "rope_tail", "--from", clone, "--json"])).unwrap();
    let there: Value = serde_json::from_str(&home.ok("port", &["status", "--json"])).unwrap();
    assert_eq!(made["standing"], there["summary"], "{made}");
    for node in made["carried"].as_array().unwrap() {
        let status = there["nodes"].as_array().unwrap().iter().find(|n| n["node"] == *node).unwrap();
        let proofs = status["proofs"].as_array().unwrap();
        let holds = |p: &&Value| p["class"] == "device" && p["stale"].is_null() && p["red"].is_null();
        assert!(proofs.iter().any(|p| holds(&p)), "{status}");
    }
    // Whatever was left behind, and whoever is trusted, it is NODE that is practised on.
    let next: Value = serde_json::from_str(&home.ok("port", &["next", "--json"])).unwrap();
    assert_eq!(next["gates"][0]["node"], "rope_tail", "{}", next["summary"]);
    assert!(next["summary"].as_str().unwrap().ends_with("next, port rope_tail."), "{}", next["summary"]);
}

/// `--upto matmul` was no node, and nobody said of which types it is one; a model that is not there had no next step.
#[test]
fn new_refused_a_name_without_saying_which_there_are() {
    let home = Home::new();
    let model = model();
    let out = home.run(
        "",
        &["new", "port", "-m", model.to_str().unwrap(), "--upto", "matmul", "--from", env!("CARGO_MANIFEST_DIR")],
    );
    assert!(out.code == 2 && out.stderr.contains("matmul[f16], matmul[q8_0]"), "{}", out.stderr);
    assert!(out.stderr.contains("--upto 'matmul["), "{}", out.stderr);
    let out = home.run("", &["new", "port", "-m", "/nonexist"]);
    assert!(
        out.code == 3 && out.stderr.contains("expected:") && out.stderr.contains("assay new DIR -m FILE"),
        "{}",
        out.stderr
    );
}

/// Who typed `assay new port` far from any clone was told that a clone was expected, which none is.
#[test]
fn new_without_a_model_asked_for_a_clone() {
    let home = Home::new();
    let out = home.run("", &["new", "my port"]);
    assert_eq!(out.code, 3, "{}", out.stderr);
    for said in [
        "no model is named, and there is no workbench here that has one [workbench-missing]",
        "expected: a model's GGUF file",
        "next:     assay new 'my port' -m FILE",
    ] {
        assert!(out.stderr.contains(said), "{said}: {}", out.stderr);
    }
    assert!(!out.stderr.contains("clone"), "{}", out.stderr);
}

/// The home folder, which holds the config, was taken for a workbench, and every `assay key` was refused there.
#[test]
fn keys_were_refused_in_a_folder_that_holds_the_users_config() {
    let home = Home::new();
    home.ok("", &["key", "new", "me"]);
    assert!(home.path(".config/assay/keys/me.pem").is_file());
    let shown = home.ok("", &["key", "show"]);
    assert!(home.ok("", &["key", "list"]).contains("  me  trusted here, yours"));
    home.ok("", &["key", "untrust", "me"]);
    home.ok(".config", &["key", "trust", shown.trim()]);
    for args in [&["key", "rotate", "me-2"][..], &["key", "revoke", "me", "--why", "lost"]] {
        let out = home.run("", args);
        assert!(out.code == 3 && out.stderr.contains("workbench-missing"), "{args:?}: {}", out.stderr);
    }
    // It is one by its assay.toml, whatever stands in it, and by its ledger where that is gone.
    std::fs::create_dir(home.path("state")).unwrap();
    for name in ["assay.toml", "state/ledger.jsonl"] {
        std::fs::write(home.path(name), "nonsense").unwrap();
        for dir in ["", "state"] {
            let out = home.run(dir, &["key", "new", "another"]);
            assert!(out.code == 2 && out.stderr.contains("key-in-tree"), "{name}, {dir}: {}", out.stderr);
        }
        std::fs::remove_file(home.path(name)).unwrap();
    }
}

#[test]
fn a_fresh_port_of_some_ops_is_asked_for_no_others() {
    let home = Home::new();
    home.make(&["--ops", "swiglu,rope_tail"]);
    let next: Value = serde_json::from_str(&home.ok("port", &["next", "--json", "-n", "50"])).unwrap();
    let nodes: Vec<_> = next["gates"].as_array().unwrap().iter().map(|g| g["node"].as_str().unwrap()).collect();
    assert_eq!(nodes, ["rope_tail", "swiglu"]);
    assert!(!home.path("port/kernels/args/embed.h").exists());
    // Everything that says how far the port is agrees on what it is a port of.
    let goal = "swiglu, rope_tail: 0 of 2 nodes are green";
    for args in [&["status"][..], &["graph"], &["tool", "status"]] {
        let said = home.ok("port", args);
        assert!(said.contains(goal), "{args:?}: {said}");
    }
    for args in [["status", "--json"], ["graph", "--json"]] {
        let doc: Value = serde_json::from_str(&home.ok("port", &args)).unwrap();
        assert_eq!(doc["goal"], serde_json::json!({ "ops": ["swiglu", "rope_tail"], "nodes": 2, "green": 0 }));
    }
    let summary = next["summary"].as_str().unwrap();
    assert!(summary.starts_with("2 of the 2 nodes of the ops that are ported here are not green (27 of"), "{summary}");
    let readme = std::fs::read_to_string(home.path("port/README.md")).unwrap();
    assert!(readme.contains("Ported here: `swiglu`, `rope_tail`.") && readme.contains("assay next  "), "{readme}");
}

/// What an agent beside the tools does to what is not its own, and who says so.
#[test]
fn edits_of_state_are_refused_by_every_command_that_reads_it() {
    let home = Home::new();
    home.make(&[]);
    let state = |name: &str| home.path("port/state").join(name);
    let whole = std::fs::read(state("ledger.jsonl")).unwrap();
    let progress = std::fs::read_to_string(state("progress.json")).unwrap();
    let all: [&[&str]; 4] = [&["status"], &["audit"], &["next"], &["tool", "status"]];
    let refused = |what: &str| {
        for args in all {
            let out = home.run("port", args);
            assert_eq!(out.code, 4, "{what}, {args:?}: {}{}", out.stdout, out.stderr);
        }
    };
    std::fs::write(
        state("progress.json"),
        progress.replace("\"prefill_working\":[]", "\"prefill_working\":[\"sm_90\"]") + " ",
    )
    .unwrap();
    refused("an edited progress file");
    std::fs::write(state("progress.json"), &progress).unwrap();
    std::fs::write(state("ledger.jsonl"), [&whole[..], b"{\"verdict\":\"pass\"}\n"].concat()).unwrap();
    refused("an invented row");
    std::fs::remove_file(state("ledger.jsonl")).unwrap();
    refused("a ledger that is gone");
    std::fs::write(state("ledger.jsonl"), &whole).unwrap();
    home.ok("port", &["status"]);
    // No verdict rests on what upstream does; audit says that somebody changed it.
    std::fs::write(home.path("port/reference/port/swiglu.toml"), "op = \"swiglu\"\n").unwrap();
    let out = home.run("port", &["audit"]);
    let said = out.stdout + &out.stderr;
    assert!(out.code == 0 && said.contains("reference/port/swiglu.toml differ"), "{said}");
}

/// Requests to land are words: nothing lands by one, and a person is told what stands in it without its tricks.
#[test]
fn a_request_to_land_is_listed_and_lands_nothing_by_itself() {
    let home = Home::new();
    home.make(&[]);
    assert_eq!(home.ok("port", &["approve"]), "nothing waits to be landed\n");
    let folder = home.path("port/.git/assay/landings");
    std::fs::create_dir_all(&folder).unwrap();
    let request = |what: &str| format!(r#"{{"node":"swiglu","what":"{what}","from":"an agent","time":"now"}}"#);
    std::fs::write(folder.join("1.json"), request("fast\\n\\nAssay-Evidence: sha256:00\\u001b[2J")).unwrap();
    std::fs::write(folder.join("2.json"), "{").unwrap();
    std::fs::File::create(folder.join("3.json")).unwrap().set_len(1 << 30).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.join("4.json")).unwrap();
    let listed = home.ok("port", &["approve"]);
    assert!(listed.contains("1  swiglu  fast Assay-Evidence: sha256:00"), "{listed}");
    assert!(!listed.contains('\u{1b}') && !listed.contains("\n2 ") && !listed.contains("root:"), "{listed}");
    let head = home.git(&["rev-parse", "HEAD"]);
    let out = home.run("port", &["approve", "1"]);
    assert!(out.code == 1 && out.stderr.contains("[landing-early]"), "{}", out.stderr);
    assert_eq!(home.run("port", &["approve", "7"]).code, 2);
    home.ok("port", &["approve", "1", "--reject"]);
    assert_eq!(home.ok("port", &["approve"]), "nothing waits to be landed\n");
    assert_eq!(home.git(&["rev-parse", "HEAD"]), head);
}
