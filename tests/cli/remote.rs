//! `assay verify --runner`: other hosts judge, and nothing that they say is believed unchecked.

use std::path::PathBuf;

use serde_json::Value;

use crate::bench::{Bench, Output, assay_with};
use crate::faults::with_kernels;

/// A workbench, its owner, and a host that is reached by `env`.
struct Site {
    bench: Bench,
    home: tempfile::TempDir,
    there: tempfile::TempDir,
}

impl Site {
    fn new() -> Option<Site> {
        let site =
            Site { bench: with_kernels()?, home: tempfile::tempdir().unwrap(), there: tempfile::tempdir().unwrap() };
        assert_eq!(site.run(&["key", "new", "me"]).code, 0);
        Some(site)
    }

    /// With the host's key made and trusted.
    fn trusting() -> Option<Site> {
        let site = Site::new()?;
        let key = assay::ledger::Config::at(site.there.path()).new_key("gpu-host").unwrap();
        assert_eq!(site.run(&["key", "trust", &key.public().to_string()]).code, 0);
        Some(site)
    }

    fn run(&self, args: &[&str]) -> Output {
        assay_with(&self.bench.path(""), args, &[("ASSAY_CONFIG_DIR", self.home.path())])
    }

    fn host(&self) -> String {
        format!("env ASSAY_CONFIG_DIR={}", self.there.path().display())
    }

    /// A runner that is a script around the honest one, whose command is `"$@"`.
    fn script(&self, name: &str, text: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path: PathBuf = self.there.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        format!("{} {}", path.display(), self.host())
    }

    fn ask(&self, nodes: &[&str], runners: &[&str], more: &[&str]) -> (Output, Value) {
        let program = assert_cmd::cargo::cargo_bin("assay");
        let mut args = vec!["verify", "--backend", "emulator", "--json", "--remote-assay", program.to_str().unwrap()];
        args.extend(nodes);
        args.extend(runners.iter().flat_map(|runner| ["--runner", runner]));
        args.extend(more);
        let out = self.run(&args);
        let said = serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", out.stdout, out.stderr));
        (out, said)
    }

    fn rows(&self) -> usize {
        assay::ledger::Ledger::read(&self.bench.path("")).unwrap().rows().len()
    }
}

#[test]
fn evidence_comes_home_is_recorded_and_is_not_asked_for_twice() {
    let Some(site) = Site::new() else { return };
    let host = site.host();
    let record = ["--record"];
    // The host makes its key when it is first asked; whether to believe it is the user's word.
    let (out, said) = site.ask(&["output_hc_weights"], &[&host], &record);
    assert_eq!((out.code, &said["code"]), (1, &"evidence-untrusted".into()), "{}", out.stderr);
    let hint = said["hint"].as_str().unwrap();
    let key = hint.split('\'').nth(1).unwrap();
    assert!(hint.contains("assay key trust"), "{hint}");
    assert_eq!(site.rows(), 0);
    assert_eq!(site.run(&["key", "trust", key]).code, 0);
    // One that dies at once costs nothing but itself.
    let other = format!("{host} SECOND=1");
    let nodes = ["output_hc_weights", "router_hash", "swiglu"];
    let (out, said) = site.ask(&nodes, &[&host, "false", &other], &record);
    assert_eq!(out.code, 0, "{}{}", out.stdout, out.stderr);
    assert!(out.stderr.contains("note: false: false ended without an answer [runner-died]"), "{}", out.stderr);
    let verdicts = said["verdicts"].as_array().unwrap();
    let order: Vec<&str> = verdicts.iter().map(|v| v["node"].as_str().unwrap()).collect();
    assert_eq!(order, nodes, "{said:#}");
    assert!(verdicts.iter().all(|v| v["outcome"] == "pass" && v["class"] == "emulated" && v["arch"] == "emulator"));
    let judged: u64 = said["hosts"].as_array().unwrap().iter().map(|h| h["judged"].as_u64().unwrap()).sum();
    assert_eq!((judged, said["unanswered"].as_array().unwrap().len()), (3, 0), "{said:#}");
    assert_eq!(site.rows(), 2 + 3, "two keys and three verdicts");
    assert_eq!(site.run(&["audit", "--replay", "1"]).code, 0);
    // Once more: the rows answer, and no host is asked. A new node is.
    let (out, said) = site.ask(&[&nodes[..], &["hc_split"]].concat(), &[&host], &record);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let earlier = said["verdicts"].as_array().unwrap().iter().filter(|v| v["earlier"] == true).count();
    assert_eq!((earlier, &said["hosts"][0]["judged"], site.rows()), (3, &1.into(), 6), "{said:#}");
}

#[test]
fn what_a_host_says_of_something_else_is_refused_with_the_difference() {
    let Some(site) = Site::trusting() else { return };
    let me = assay::ledger::Config::at(site.home.path()).key(None).unwrap().public().to_string();
    assert_eq!(site.run(&["key", "trust", &me]).code, 0);
    let out = |edit: &str| format!("\"$@\" | sed -u '{edit}'");
    let into = |edit: &str| format!("sed -u '{edit}' | \"$@\"");
    let lies = [
        ("messages", out("s/\"remote\":3/\"remote\":4/"), 4, "runner-protocol", "messages 4"),
        ("verifier", out("s/\"verifier\":[0-9]*/\"verifier\":99/"), 4, "runner-protocol", "verifier protocol 99"),
        ("old", into("s/\"verifier\":[0-9]*/\"verifier\":0/"), 4, "runner-protocol", "another version of assay"),
        ("nonce", into("s/\"nonce\":\"[0-9a-f]*\"/\"nonce\":\"00\"/"), 4, "runner-protocol", "not to this request"),
        ("model", out("s/\"weights\":\"..../\"weights\":\"0000/"), 4, "runner-answer", "another model"),
        ("none", into("s/\"weights\":\"..../\"weights\":\"0000/"), 3, "runner-failed", "no model with these weights"),
        (
            "tree",
            into("s/constexpr int THREADS = 128;/constexpr int THREADS = 128 ;/g"),
            4,
            "runner-answer",
            "another tree",
        ),
        ("seed", into("s/\"seed\":\"..../\"seed\":\"0000/"), 4, "runner-answer", "another seed"),
        (
            "node",
            into("s/\"node\":\"output_hc_weights\"/\"node\":\"router_hash\"/"),
            4,
            "runner-answer",
            "another node",
        ),
        ("key", out(&format!("s#\"key\":\"[^\"]*\"#\"key\":\"{me}\"#")), 4, "runner-answer", "another key signed it"),
        ("signature", out("s/\"sig\":\"..../\"sig\":\"AAAA/g"), 4, "evidence-signature", "is wrong"),
        ("noise", out("s/.*evidence.*/{\"say\":\"all is well\"}/"), 4, "runner-protocol", "no message"),
        (
            "silent",
            "\"$@\" | grep --line-buffered -m1 hello; exec sleep 60".into(),
            3,
            "runner-deadline",
            "for too long",
        ),
        ("dies", "\"$@\" | grep --line-buffered -m1 hello".into(), 3, "runner-died", "ended without an answer"),
    ];
    for (name, script, code, id, says) in &lies {
        let runner = site.script(name, script);
        let (out, said) = site.ask(&["output_hc_weights"], &[&runner], &["--record", "--runner-timeout", "6"]);
        assert_eq!((out.code, said["code"].as_str()), (*code, Some(*id)), "{name}: {said:#}{}", out.stderr);
        assert!(said.to_string().contains(says), "{name}: {said:#}");
        assert_eq!(site.rows(), 0, "{name}: nothing of it is recorded");
    }
    // What a liar was asked goes to an honest host; that somebody lied is still the answer.
    let (liar, honest) = (site.script("liar", &lies[6].1), site.host());
    let (out, said) = site.ask(&["output_hc_weights", "router_hash"], &[&liar, &honest], &["--record"]);
    assert_eq!((out.code, said["verdicts"].as_array().unwrap().len()), (4, 2), "{said:#}{}", out.stderr);
    assert_eq!(said["hosts"][0]["error"]["code"], "runner-answer");
    assert_eq!(said["hosts"][1]["judged"], 2);
    let mute = site.script("mute", &lies[12].1);
    let again = ["--record", "--again", "--runner-timeout", "6"];
    let (out, said) = site.ask(&["output_hc_weights"], &[&mute, &honest], &again);
    assert_eq!((out.code, said["verdicts"].as_array().unwrap().len()), (0, 1), "{said:#}{}", out.stderr);
}

#[test]
fn a_host_whose_key_was_revoked_is_not_asked() {
    let Some(site) = Site::trusting() else { return };
    let (out, said) = site.ask(&["output_hc_weights"], &[&site.host()], &["--record"]);
    assert_eq!((out.code, &said["verdicts"][0]["outcome"]), (0, &"pass".into()), "{said:#}{}", out.stderr);
    let revoked = site.run(&["key", "revoke", "gpu-host", "--why", "stolen", "--from", "0", "--key", "me"]);
    assert_eq!(revoked.code, 0, "{}", revoked.stderr);
    let rows = site.rows();
    let (out, said) = site.ask(&["output_hc_weights"], &[&site.host()], &["--record"]);
    assert_eq!((out.code, &said["code"]), (1, &"evidence-void".into()), "{said:#}{}", out.stderr);
    assert!(said.to_string().contains("was revoked in row"), "{said:#}");
    assert_eq!(site.rows(), rows, "and its row from before answers no more");
    // With a new key, which the host makes when it is asked, it is a host like any other.
    std::fs::remove_file(site.there.path().join("keys/gpu-host.pem")).unwrap();
    let (_, said) = site.ask(&["output_hc_weights"], &[&site.host()], &["--record"]);
    let key = said["hint"].as_str().unwrap().split('\'').nth(1).unwrap().to_string();
    assert_eq!(site.run(&["key", "trust", &key]).code, 0);
    let (out, said) = site.ask(&["output_hc_weights"], &[&site.host()], &["--record"]);
    assert_eq!((out.code, &said["verdicts"][0]["outcome"]), (0, &"pass".into()), "{said:#}{}", out.stderr);
}

#[test]
fn a_runners_command_is_the_users_word() {
    let Some(site) = Site::trusting() else { return };
    let settings = std::fs::read_to_string(site.bench.path("assay.toml")).unwrap();
    site.bench.write("assay.toml", &format!("{settings}runners = [\"gpu1\"]\n"));
    let (out, said) = site.ask(&["output_hc_weights"], &["gpu1"], &[]);
    assert_eq!((out.code, &said["code"]), (2, &"runner-unknown".into()), "{said:#}");
    let file = format!("[[runner]]\nname = \"gpu1\"\ncommand = \"{}\"\n", site.host());
    std::fs::write(site.home.path().join("runners.toml"), file).unwrap();
    let (out, said) = site.ask(&["output_hc_weights"], &["gpu1"], &[]);
    assert_eq!((out.code, &said["hosts"][0]["runner"]), (0, &"gpu1".into()), "{}", out.stderr);
    assert_eq!(site.rows(), 0, "without --record nothing is");
    // A red verdict is an answer too.
    let text = std::fs::read_to_string(site.bench.path("kernels/output_hc_weights.cu")).unwrap();
    site.bench.write("kernels/output_hc_weights.cu", &text.replace(" + a.eps", ""));
    let (out, said) = site.ask(&["output_hc_weights"], &["gpu1"], &["--record"]);
    assert_eq!((out.code, &said["verdicts"][0]["outcome"]), (1, &"red".into()), "{said:#}{}", out.stderr);
    assert!(said["verdicts"][0]["reason"].as_str().unwrap().starts_with("stage 4 (unit): "), "{said:#}");
}
