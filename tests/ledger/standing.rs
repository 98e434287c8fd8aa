//! What rows are worth: classes, trust, staleness, and Reds that take a proof back.

use assay::ledger::{Class, Config, Digest, Ledger, Outcome, SecretKey, Stage, StageOutcome, Standing, Trust, Verdict};
use assay::plan::Numerics;

use crate::fixture::*;

fn trusting(key: &SecretKey, simulated: bool) -> (tempfile::TempDir, Trust) {
    let dir = tempfile::tempdir().unwrap();
    let mut trust = Trust::load(&Config::at(dir.path()), None, tempfile::tempdir().unwrap().path()).unwrap();
    trust.trust(key.public().clone(), simulated).unwrap();
    (dir, trust)
}

fn standing(bench: &Workbench, closure: u8, trust: &Trust) -> String {
    let ledger = bench.open();
    match ledger.standing(&node(), &binding(closure), trust) {
        Standing::Green(row) => format!("green {}", row.seq),
        Standing::Simulated(row) => format!("simulated {}", row.seq),
        Standing::Emulated(row) => format!("emulated {}", row.seq),
        Standing::Red(row) => format!("red {}", row.seq),
        Standing::Untrusted(row, key) => format!("untrusted {} {}", row.seq, key == bench.key.public().id()),
        Standing::Void(row, why) => format!("void {}: {why}", row.seq),
        Standing::Stale(row, fields) => format!("stale {} {}", row.seq, fields.join(",")),
        Standing::OtherWeights(row) => format!("other weights {}", row.seq),
        Standing::Unproved => "unproved".into(),
    }
}

/// POSTMORTEM.md §2.
#[test]
fn green_needs_a_device_every_stage_and_trust() {
    let bench = Workbench::with_rows(2);
    let (_dir, trust) = trusting(&bench.key, false);
    assert_eq!(standing(&bench, 1, &trust), "green 1");
    assert_eq!(standing(&bench, 1, &Trust::nobody()), "untrusted 1 true");
    assert_eq!(standing(&bench, 2, &trust), "stale 1 closure");

    let mut partial = verdict(3);
    partial.stages[6].outcome = StageOutcome::NotRun;
    assert_eq!(partial.stages[6].name, Stage::Graph);
    bench.append(partial);
    assert_eq!(standing(&bench, 3, &trust), "stale 1 closure", "a Pass without stage 7 is not green");

    let mut other = verdict(1);
    other.binding.weights = Digest([77; 32]);
    let other_weights = Workbench::new();
    other_weights.append(other);
    let (_dir, trust) = trusting(&other_weights.key, false);
    assert_eq!(standing(&other_weights, 1, &trust), "other weights 1");
}

#[test]
fn a_later_red_on_the_same_binding_takes_the_proof_back() {
    let bench = Workbench::with_rows(3);
    let (_dir, trust) = trusting(&bench.key, false);
    assert_eq!(bench.open().progress().proved.len(), 2);
    bench.append(red(1));
    assert_eq!(standing(&bench, 1, &trust), "red 3");
    assert_eq!(standing(&bench, 2, &trust), "green 2");
    assert_eq!(bench.open().progress().proved.len(), 1);
    let mut unsure = verdict(2);
    unsure.outcome = Outcome::Indeterminate { reason: "weak cases".into() };
    unsure.stages[4].outcome = StageOutcome::Indeterminate;
    bench.append(unsure);
    assert_eq!(standing(&bench, 2, &trust), "green 2", "what could not be decided takes nothing back");
}

/// POSTMORTEM.md §2.
#[test]
fn the_emulator_proves_but_never_greens() {
    let bench = Workbench::new();
    bench.append(of_class(verdict(1), Class::Emulated));
    let (_dir, trust) = trusting(&bench.key, false);
    assert_eq!(standing(&bench, 1, &trust), "unproved", "nothing is known on sm_90");
    let ledger = bench.open();
    let emulated = of_class(verdict(1), Class::Emulated).binding;
    assert!(matches!(ledger.standing(&node(), &emulated, &trust), Standing::Emulated(_)));
    assert_eq!(ledger.proved(&node(), "emulator", Numerics::Ds4).count(), 1);
    assert_eq!(ledger.proved(&node(), "sm_90", Numerics::Ds4).count(), 0);
}

#[test]
fn simulated_counts_only_where_a_trust_file_says_so() {
    let bench = Workbench::new();
    bench.append(of_class(verdict(1), Class::Simulated));
    let (_plain_dir, plain) = trusting(&bench.key, false);
    let (_simulated_dir, simulated) = trusting(&bench.key, true);
    assert_eq!(standing(&bench, 1, &plain), "unproved");
    assert_eq!(standing(&bench, 1, &Trust::nobody()), "unproved");
    assert_eq!(standing(&bench, 1, &simulated), "simulated 1");
    assert_eq!(standing(&bench, 2, &plain), "unproved");
    assert_eq!(bench.open().progress().proved[0].class, Class::Simulated, "progress names the class");
}

#[test]
fn trust_and_keys_inside_the_tree_are_refused() {
    let bench = Workbench::new();
    let inside = bench.root().join("trust.toml");
    std::fs::write(&inside, "").unwrap();
    let outside = tempfile::tempdir().unwrap();
    let config = Config::at(outside.path());
    let refused = |result: assay::Result<()>| assert_eq!(result.unwrap_err().code().id, "key-in-tree");
    refused(Trust::load(&config, Some(&inside), bench.root()).map(|_| ()));
    refused(Trust::load(&Config::at(bench.root().join(".config")), None, bench.root()).map(|_| ()));
    refused(Config::at(bench.root().join("a/b")).outside(bench.root()).map(|_| ()));
    let link = outside.path().join("link.toml");
    std::os::unix::fs::symlink(&inside, &link).unwrap();
    refused(Trust::load(&config, Some(&link), bench.root()).map(|_| ()));
    let missing = outside.path().join("none.toml");
    assert_eq!(Trust::load(&config, Some(&missing), bench.root()).unwrap_err().code().id, "io");
}

#[test]
fn keys_proposed_by_the_tree_may_sign_but_are_not_trusted() {
    let bench = Workbench::new();
    let text = format!("model = \"x\"\nverifiers = [\"{}\"]\n", bench.key.public());
    std::fs::write(bench.root().join("assay.toml"), text).unwrap();
    assert_eq!(bench.append(verdict(1)), 0, "no key row is needed");
    assert_eq!(standing(&bench, 1, &Trust::nobody()), "untrusted 0 true");
    std::fs::write(bench.root().join("assay.toml"), "model = \"x\"\nverifiers = [\"nonsense\"]\n").unwrap();
    assert_eq!(assay::ledger::Ledger::open(bench.root()).unwrap_err().code().id, "ledger-proposed-keys");
    std::fs::remove_file(bench.root().join("assay.toml")).unwrap();
    let error = assay::ledger::Ledger::open(bench.root()).unwrap_err();
    assert!(error.what().contains("row 0") && error.kind().exit_code() == 4, "{error}");
}

#[test]
fn a_private_key_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let config = Config::at(dir.path().join("assay"));
    let key = config.new_key("host").unwrap();
    let path = config.dir().join("keys/host.pem");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(config.key(None).unwrap().public(), key.public());
    assert_eq!(config.new_key("host").map(|_| ()).unwrap_err().code().id, "key-exists");
    for name in ["", "../host", "a b", "a+b", ".hidden", &"x".repeat(65)] {
        assert_eq!(config.new_key(name).map(|_| ()).unwrap_err().code().id, "key-name", "{name}");
    }
    config.new_key("second").unwrap();
    assert_eq!(config.key(None).map(|_| ()).unwrap_err().code().id, "key-many");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(config.key(Some("host")).map(|_| ()).unwrap_err().code().id, "key-exposed");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&path, "-----BEGIN NOTHING-----\n").unwrap();
    assert_eq!(config.key(Some("host")).map(|_| ()).unwrap_err().code().id, "key-unreadable");
}

/// What `progress.json` says of prefill_working.
fn works(bench: &Workbench) -> Vec<(u64, Vec<u64>)> {
    bench.open().progress().prefill_working.iter().map(|w| (w.row, w.node_rows.clone())).collect()
}

fn of_node(node: &str, closure: u8) -> Verdict {
    Verdict { node: node.parse().unwrap(), ..verdict(closure) }
}

#[test]
fn prefill_works_where_the_schedule_and_every_node_of_it_is_proved() {
    let bench = Workbench::new();
    bench.append(of_node("matmul[q8_0]", 1));
    bench.append(whole(&[("matmul[q8_0]", 1), ("rms_norm", 2)]));
    assert_eq!(works(&bench), [], "rms_norm was never judged");
    bench.append(of_node("rms_norm", 3));
    assert_eq!(works(&bench), [], "another rms_norm was");
    bench.append(of_node("rms_norm", 2));
    assert_eq!(works(&bench), [(2, vec![1, 4])]);
    let text = String::from_utf8(bench.bytes("progress.json")).unwrap();
    assert!(text.contains("\"prefill_working\": ["), "{text}");
    bench.append(Verdict { node: "rms_norm".parse().unwrap(), ..red(2) });
    assert_eq!(works(&bench), [], "a node's Red takes it back");
}

#[test]
fn neither_emulator_nor_other_weights_nor_half_a_verdict_make_prefill_work() {
    let parts = [("matmul[q8_0]", 1)];
    let mut half = whole(&parts);
    half.stages.pop();
    let mut other = whole(&parts);
    other.binding.weights = Digest([77; 32]);
    for verdict in [of_class(whole(&parts), Class::Emulated), half, other] {
        let bench = Workbench::new();
        bench.append(of_node("matmul[q8_0]", 1));
        bench.append(verdict);
        assert_eq!(works(&bench), []);
        let text = String::from_utf8(bench.bytes("progress.json")).unwrap();
        assert!(!text.contains("prefill_working"), "{text}");
    }
}

/// A tool that marks its own work: the claim without the rows.
#[test]
fn prefill_working_written_by_hand_is_refused() {
    let bench = Workbench::new();
    bench.append(of_node("matmul[q8_0]", 1));
    bench.append(whole(&[("matmul[q8_0]", 1)]));
    let claimed = bench.bytes("progress.json");
    let without = Workbench { key: bench.key, ..Workbench::new() };
    without.append(of_node("matmul[q8_0]", 1));
    without.put("progress.json", claimed);
    assert!(Ledger::open(without.root()).is_err());
}
