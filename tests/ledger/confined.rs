//! The confinement that a kernel had while it was judged, and the policy that asks for one.

use std::fs;

use assay::backend::worker::{Level, Sandbox};
use assay::history::{self, AuditOptions};
use assay::ledger::{Class, Config, Figure, Ledger, Outcome, SecretKey, Stage, Standing, Trust, bundle, confined};

use crate::binary::{assay, says};
use crate::fixture::*;

const PARTIAL: &str = r#"{"level":"partial","landlock_abi":0,"seccomp":true,"namespaces":true}"#;
const NONE: &str = r#"{"level":"none","landlock_abi":0,"seccomp":false,"namespaces":false}"#;

/// A verdict on closure `n` that tells this of its kernel's confinement.
fn told(n: u8, sandbox: &str) -> assay::ledger::Verdict {
    let mut verdict = verdict(n);
    verdict.informative.sandbox = sandbox.into();
    verdict
}

/// The user's trust in `key`, with `more` above it in the trust file.
fn trusting(bench: &Workbench, key: &SecretKey, more: &str) -> Trust {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("{more}\n[[key]]\nkey = \"{}\"\nsimulated = true\n", key.public());
    fs::write(dir.path().join("trust.toml"), text).unwrap();
    Trust::load(&Config::at(dir.path()), None, bench.root()).unwrap()
}

fn asks(bench: &Workbench, level: &str) {
    fs::write(bench.root().join("assay.toml"), format!("model = \"none.gguf\"\nsandbox = \"{level}\"\n")).unwrap();
}

fn standing(bench: &Workbench, closure: u8, trust: &Trust) -> String {
    match bench.open().standing(&node(), &binding(closure), trust) {
        Standing::Green(row) => format!("green {}", row.seq),
        Standing::Simulated(row) => format!("simulated {}", row.seq),
        Standing::Void(row, why) => format!("void {}: {why}", row.seq),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_row_that_was_confined_less_than_asked_counts_for_nothing() {
    let bench = Workbench::new();
    for (n, sandbox) in [(1, FULL), (2, PARTIAL), (3, NONE)] {
        bench.append(told(n, sandbox));
    }
    let trust = trusting(&bench, &bench.key, "");
    assert_eq!(standing(&bench, 1, &trust), "green 1");
    assert!(standing(&bench, 2, &trust).contains("under confinement `partial`, and `full` is asked for"));
    assert!(standing(&bench, 3, &trust).contains("under confinement `none`, and `full` is asked for"));
    let partial = trusting(&bench, &bench.key, "sandbox = \"partial\"");
    assert_eq!(["green 1", "green 2"], [1, 2].map(|n| standing(&bench, n, &partial)));
    assert!(standing(&bench, 3, &partial).contains("`partial` is asked for"));
    assert_eq!(standing(&bench, 3, &trusting(&bench, &bench.key, "sandbox = \"none\"")), "green 3");
    // The tree may ask for more than the user.
    asks(&bench, "full");
    assert!(standing(&bench, 2, &trusting(&bench, &bench.key, "sandbox = \"none\"")).starts_with("void 2"));
    asks(&bench, "most");
    let error = Trust::load(&Config::at("/nowhere"), None, bench.root()).unwrap_err();
    assert_eq!(error.code().id, "workbench-config", "{error}");
}

/// Who edits a kernel can edit the tree's settings: `sandbox = "none"` there made every unconfined verdict count.
#[test]
fn a_tree_that_asks_for_less_lowers_nothing() {
    let bench = Workbench::new();
    for (n, sandbox) in [(1, PARTIAL), (2, NONE)] {
        bench.append(told(n, sandbox));
    }
    for level in ["partial", "none"] {
        asks(&bench, level);
        for (own, enough) in [("", "full"), ("sandbox = \"full\"", "full"), ("sandbox = \"partial\"", "partial")] {
            let trust = trusting(&bench, &bench.key, own);
            assert_eq!(trust.sandbox().name(), enough, "the tree asks for {level}");
            assert!(standing(&bench, 2, &trust).starts_with("void 2"), "the tree asks for {level}");
            assert_eq!(standing(&bench, 1, &trust).starts_with("green"), enough == "partial");
            assert_eq!(trust.overruled().is_some(), level != enough);
        }
    }
    // It is said to whoever may think that it holds.
    let home = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| assay(bench.root(), home.path(), args);
    let refused = "`sandbox = \"none\"` in assay.toml has no effect";
    says(&run(&["audit"]), 1, refused);
    says(&run(&["doctor"]), 0, refused);
}

/// A verdict on closure `n` whose stage 3 has these figures below `compiler_sandbox`.
fn compiled(n: u8, parts: &[(&str, Figure)]) -> assay::ledger::Verdict {
    let mut verdict = verdict(n);
    let build = verdict.stages.iter_mut().find(|s| s.name == Stage::Build).unwrap();
    build.figures.extend(parts.iter().map(|(part, f)| (format!("compiler_sandbox.{part}"), *f)));
    verdict
}

fn parts(abi: i64, seccomp: i64, namespaces: i64) -> [(&'static str, Figure); 3] {
    [("landlock_abi", abi), ("seccomp", seccomp), ("namespaces", namespaces)].map(|(n, v)| (n, Figure::Count(v)))
}

/// The compiler has the kernel's text before any worker has the kernel, and nobody asked how it was confined.
#[test]
fn a_compiler_that_was_confined_less_than_asked_makes_no_proof() {
    let bench = Workbench::new();
    let half = &parts(7, 1, 0)[..2];
    let strange =
        [("landlock_abi", Figure::Real(7.0)), ("seccomp", Figure::Count(1)), ("namespaces", Figure::Count(0))];
    let told: [&[_]; 8] = [
        &parts(7, 1, 0),
        &parts(0, 1, 1),
        &parts(0, 0, 0),
        // From before it was asked: nothing was compiled for the row, or it did not say.
        &[],
        half,
        &strange,
        &parts(-7, 1, 0),
        &parts(7, 2, 0),
    ];
    for (n, parts) in told.iter().enumerate() {
        bench.append(compiled(n as u8, parts));
    }
    let trust = trusting(&bench, &bench.key, "");
    assert_eq!(["green 1", "green 4"], [0, 3].map(|n| standing(&bench, n, &trust)));
    let less = "its kernel was compiled under confinement `partial`, and `full` is asked for";
    assert!(standing(&bench, 1, &trust).contains(less), "{}", standing(&bench, 1, &trust));
    assert!(standing(&bench, 2, &trust).contains("compiled under confinement `none`"));
    let none = trusting(&bench, &bench.key, "sandbox = \"none\"");
    assert_eq!(["green 2", "green 3"], [1, 2].map(|n| standing(&bench, n, &none)));
    for n in 4..8 {
        let found = standing(&bench, n, &none);
        assert!(found.starts_with("void") && found.contains("of its compiler's confinement is nothing"), "{found}");
    }
    asks(&bench, "full");
    assert!(standing(&bench, 1, &trusting(&bench, &bench.key, "sandbox = \"none\"")).contains(less));
}

#[test]
fn what_is_recorded_now_says_how_its_compiler_was_confined() {
    let bench = Workbench::new();
    let all = |verdict, asked| confined::demand_all(&sign(verdict, &bench.key), asked);
    all(compiled(1, &parts(7, 1, 0)), Level::Full).unwrap();
    for (verdict, why) in [
        (verdict(1), "does not say how its compiler was confined"),
        (compiled(1, &parts(0, 1, 0)), "compiled under confinement `partial`"),
    ] {
        let error = all(verdict, Level::Full).unwrap_err();
        assert!(error.code().id == "sandbox-level" && error.what().contains(why), "{error}");
    }
    all(compiled(1, &parts(0, 1, 0)), Level::Partial).unwrap();
    // Nothing was compiled for these.
    all(of_class(verdict(1), Class::Simulated), Level::Full).unwrap();
    let mut early = told(1, "");
    early.stages.truncate(3);
    early.stages[2].outcome = assay::ledger::StageOutcome::Red;
    early.outcome = Outcome::Red { stage: Stage::Build, reason: "no".into(), first_bad: String::new() };
    all(early, Level::Full).unwrap();
}

#[test]
fn a_forged_or_missing_level_counts_for_nothing_whatever_is_asked() {
    let forged = [
        ("", "does not say how"),
        ("full", "nothing that assay writes"),
        ("{\"level\":\"full\"}", "nothing that assay writes"),
        (r#"{"level":"fuller","landlock_abi":7,"seccomp":true,"namespaces":false}"#, "nothing that assay writes"),
        (r#"{"level":"full","landlock_abi":7,"seccomp":true,"namespaces":false,"x":1}"#, "nothing that assay writes"),
        (r#"{"level":"full","landlock_abi":-7,"seccomp":true,"namespaces":false}"#, "nothing that assay writes"),
        (r#"{"level":"full","landlock_abi":0,"seccomp":true,"namespaces":true}"#, "claims confinement `full`"),
        (r#"{"level":"full","landlock_abi":7,"seccomp":false,"namespaces":true}"#, "claims confinement `full`"),
        (r#"{"level":"partial","landlock_abi":0,"seccomp":false,"namespaces":false}"#, "claims confinement `partial`"),
        (r#"{"level":"full","level":"full","landlock_abi":7,"seccomp":true,"namespaces":false}"#, "nothing that assay"),
    ];
    let bench = Workbench::new();
    for (n, (sandbox, _)) in forged.iter().enumerate() {
        bench.append(told(n as u8, sandbox));
    }
    for level in ["full", "none"] {
        let trust = trusting(&bench, &bench.key, &format!("sandbox = \"{level}\""));
        for (n, (sandbox, why)) in forged.iter().enumerate() {
            let found = standing(&bench, n as u8, &trust);
            assert!(found.starts_with("void") && found.contains(why), "{level}, {sandbox}: {found}");
        }
        let options = AuditOptions { replay: 0, judge: None, from: None, closures: None, trust: &trust };
        let findings = history::audit(bench.root(), &options).unwrap().findings;
        assert_eq!(findings.len(), forged.len());
        assert!(findings.iter().all(|f| f.contains("counts for nothing [sandbox-level]")), "{findings:?}");
    }
}

#[test]
fn what_ran_nothing_need_not_say_how_it_was_confined() {
    let bench = Workbench::new();
    let trust = trusting(&bench, &bench.key, "");
    let mut early = told(1, "");
    early.stages.truncate(2);
    early.stages[1].outcome = assay::ledger::StageOutcome::Red;
    early.outcome = Outcome::Red { stage: Stage::Source, reason: "stub".into(), first_bad: String::new() };
    bench.append(early);
    bench.append(of_class(told(2, ""), Class::Simulated));
    bench.append(of_class(told(3, PARTIAL), Class::Simulated));
    assert!(matches!(bench.open().standing(&node(), &binding(1), &trust), Standing::Red(_)));
    assert_eq!(standing(&bench, 2, &trust), "simulated 2");
    let ledger: Ledger = bench.open();
    assert!(!ledger.counts(&ledger.rows()[3], &trust), "what it does say is held against it");
    let mut late = red(4);
    late.informative.sandbox = String::new();
    bench.append(late);
    let ledger = bench.open();
    assert!(!ledger.counts(&ledger.rows()[4], &trust), "a kernel ran, confined by who knows what");
}

#[test]
fn a_place_that_confines_less_records_nothing() {
    let less = Sandbox::new(0, true, true);
    let error = confined::demand_of(Some(&less), Level::Full).unwrap_err();
    assert_eq!((error.code().id, error.kind().exit_code()), ("sandbox-level", 1), "{error}");
    assert!(error.to_string().contains("what is judged here cannot be recorded"), "{error}");
    confined::demand_of(Some(&less), Level::Partial).unwrap();
    assert!(confined::demand_of(None, Level::None).is_err(), "nor one that does not say");
}

#[test]
fn evidence_from_a_host_that_confines_less_is_not_imported() {
    let (bench, home) = (Workbench::new(), tempfile::tempdir().unwrap());
    let run = |args: &[&str]| assay(bench.root(), home.path(), args);
    says(&run(&["key", "new", "me"]), 0, "me");
    let host = SecretKey::generate("gpu").unwrap();
    says(&run(&["key", "trust", &host.public().to_string()]), 0, "trusted here");
    let file = home.path().join("evidence.jsonl");
    let put = |verdict| fs::write(&file, bundle(&host, &[sign(verdict, &host)]).unwrap()).unwrap();
    let path = file.to_str().unwrap();
    for sandbox in [PARTIAL, "", r#"{"level":"full","landlock_abi":0,"seccomp":true,"namespaces":true}"#] {
        put(told(1, sandbox));
        let said = says(&run(&["import", path]), 1, "sandbox-level");
        assert!(said.contains("expected: confinement `full`"), "{said}");
        assert!(!bench.path("ledger.jsonl").exists(), "a refusal wrote something");
    }
    asks(&bench, "partial");
    put(told(1, PARTIAL));
    says(&run(&["import", path]), 1, "expected: confinement `full`");
    let file = home.path().join("trust.toml");
    let keys = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("sandbox = \"partial\"\n\n{keys}")).unwrap();
    says(&run(&["import", path]), 0, "2 of 2 pieces of evidence were new");
    says(&run(&["audit"]), 0, "the ledger holds together");
    // Raised later: the row stays, and is named.
    asks(&bench, "full");
    says(&run(&["audit"]), 1, "FAILED: row 2 counts for nothing [sandbox-level]: its kernel ran under confinement");
    says(&run(&["show", "2"]), 0, "counts for nothing: its kernel ran under confinement");
    let said = says(&run(&["doctor"]), 0, "a row needs sandbox full");
    assert!(said.contains("record policy"), "{said}");
    // Another way in: somebody else's whole ledger.
    let other = Workbench::new();
    other.open().append(&[sign(told(5, NONE), &host)], &host).unwrap();
    let ledger = other.path("ledger.jsonl");
    says(&run(&["import", ledger.to_str().unwrap()]), 1, "sandbox-level");
}
