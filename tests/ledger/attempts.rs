//! Failed attempts on their way between repositories, by git itself: nothing is overwritten, nothing is lost.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use assay::history;
use assay::ledger::{Outcome, Target, Verdict};

use crate::fixture::*;
use crate::git::{commit, init};

/// A workbench in a repository with `n` attempts at matmul[q8_0], each of its own.
fn with_attempts(n: u8, mark: &str) -> Workbench {
    let bench = Workbench::new();
    let repo = init(&bench);
    fs::create_dir(bench.root().join("kernels")).unwrap();
    fs::write(bench.root().join("assay.toml"), "model = \"none.gguf\"\n").unwrap();
    commit(&repo, "base", &[]);
    for i in 1..=n {
        fs::write(bench.root().join("kernels/matmul.cu"), format!("{mark} {i}")).unwrap();
        attempt(&bench, "matmul[q8_0]", i, mark);
    }
    bench
}

fn attempt(bench: &Workbench, node: &str, i: u8, reason: &str) -> String {
    let target: Target = node.parse().unwrap();
    let mut verdict = Verdict { node: target.clone(), ..red(i) };
    if let Outcome::Red { reason: said, .. } = &mut verdict.outcome {
        *said = format!("{reason} {i}");
    }
    if target == Target::Schedule {
        verdict = Verdict { outcome: verdict.outcome, stages: verdict.stages, ..whole(&[]) };
    }
    history::record_attempt(bench.root(), &target, &sign(verdict, &bench.key)).unwrap().unwrap().reference
}

fn git(dir: &Path, args: &[&str]) -> String {
    let out = Command::new("git").current_dir(dir).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(out.status.success(), "git {args:?}: {said}");
    said
}

fn assay(bench: &Workbench, args: &[&str]) -> (i32, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_assay")).current_dir(bench.root()).args(args).output().unwrap();
    (out.status.code().unwrap(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

/// Commits by reference, as git says.
fn refs(bench: &Workbench, below: &str) -> Vec<(String, String)> {
    let said = git(bench.root(), &["for-each-ref", "--format=%(refname) %(objectname)", below]);
    let split = |l: &str| l.split_once(' ').map(|(a, b)| (a.to_string(), b.to_string())).unwrap();
    said.lines().map(split).collect()
}

const PUSH: &str = "refs/assay/attempts/*";
const FETCH: &str = "refs/assay/attempts/*:refs/assay/remotes/origin/*";

#[test]
fn attempts_of_two_repositories_meet_and_none_is_overwritten() {
    let (ours, theirs) = (with_attempts(2, "ours"), with_attempts(3, "theirs"));
    let hub = tempfile::tempdir().unwrap();
    git(hub.path(), &["init", "-q", "--bare"]);
    for bench in [&ours, &theirs] {
        git(bench.root(), &["remote", "add", "origin", hub.path().to_str().unwrap()]);
    }
    git(theirs.root(), &["push", "-q", "origin", PUSH]);
    let before: BTreeSet<String> = refs(&ours, "refs/assay").into_iter().map(|(_, id)| id).collect();
    git(ours.root(), &["fetch", "-q", "origin", FETCH]);
    let (code, said) = assay(&ours, &["history", "matmul.q8_0"]);
    assert!(code == 0 && said.contains("ours 2") && said.contains("theirs 3"), "{said}");

    // Both have a number 1: the plain push is refused, by git.
    let push = Command::new("git").current_dir(ours.root()).args(["push", "-q", "origin", PUSH]).output().unwrap();
    assert!(!push.status.success());
    let (code, said) = assay(&ours, &["attempts", "adopt", "origin"]);
    assert!(code == 0 && said.contains("(was refs/assay/attempts/matmul.q8_0/1)"), "{said}");
    let here = refs(&ours, "refs/assay/attempts");
    let kept: BTreeSet<String> = here.iter().map(|(_, id)| id.clone()).collect();
    assert_eq!(here.len(), 5, "{here:?}");
    assert!(before.is_subset(&kept), "an attempt of ours is gone");
    let there = refs(&theirs, "refs/assay/attempts");
    assert!(there.iter().all(|r| here.contains(r)), "theirs keep their numbers: {here:?}");
    let (_, again) = assay(&ours, &["attempts", "adopt", "origin"]);
    assert!(again.contains("0 attempts filed"), "{again}");
    git(ours.root(), &["push", "-q", "origin", PUSH]);
    git(theirs.root(), &["fetch", "-q", "origin", FETCH]);
    assay(&theirs, &["attempts", "adopt", "origin"]);
    assert_eq!(refs(&theirs, "refs/assay/attempts"), here);
    let (_, said) = assay(&theirs, &["attempts", "--json"]);
    let doc: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((doc["schema"].as_str(), doc["attempts"].as_array().unwrap().len()), (Some("assay.attempts/1"), 5));
}

#[test]
fn only_prune_removes_and_only_what_it_is_told() {
    let bench = with_attempts(3, "ours");
    attempt(&bench, "rms_norm", 1, "norm");
    assert_eq!(attempt(&bench, "*", 1, "whole"), "refs/assay/attempts/schedule/1");
    let all = refs(&bench, "refs/assay");
    let (code, said) = assay(&bench, &["attempts", "prune"]);
    assert!(code == 2 && said.contains("nothing says which"), "{said}");
    assert_eq!(assay(&bench, &["attempts", "prune", "nonsense"]).0, 2);
    assert_eq!(assay(&bench, &["attempts", "prune", "rms_norm", "--all"]).0, 2);
    let (_, said) = assay(&bench, &["attempts", "prune", "--all", "--dry-run"]);
    assert!(said.contains("5 references would be removed"), "{said}");
    assert_eq!(refs(&bench, "refs/assay"), all);
    let (_, said) = assay(&bench, &["attempts", "prune", "matmul[q8_0]", "--keep", "1"]);
    assert!(said.contains("2 references removed"), "{said}");
    let left = refs(&bench, "refs/assay");
    let names: Vec<_> = left.iter().map(|(name, _)| name.trim_start_matches("refs/assay/attempts/")).collect();
    assert_eq!(names, ["matmul.q8_0/3", "rms_norm/1", "schedule/1"]);
    // What is printed brings it back.
    let line = said.lines().next().unwrap();
    let (id, rest) = line.split_once("  ").unwrap();
    git(bench.root(), &["update-ref", rest.split_once("  ").unwrap().0, id]);
    assert_eq!(refs(&bench, "refs/assay").len(), 4);
    let (_, said) = assay(&bench, &["attempts", "prune", "--all"]);
    assert!(said.contains("4 references removed") && refs(&bench, "refs/assay").is_empty(), "{said}");
    assert!(assay(&bench, &["attempts"]).1.contains("no attempt is on record"));
}

/// Whoever can push can push anything below these references; `history` must not fail for it.
#[test]
fn references_that_are_no_attempts_stop_nothing() {
    let bench = with_attempts(1, "ours");
    let blob = {
        let path = bench.root().join("blob");
        fs::write(&path, "x").unwrap();
        git(bench.root(), &["hash-object", "-w", "blob"]).trim().to_string()
    };
    let head = git(bench.root(), &["rev-parse", "HEAD"]).trim().to_string();
    let other = git(bench.root(), &["commit-tree", "HEAD^{tree}", "-m", "mirrored"]).trim().to_string();
    for (name, id) in [
        ("refs/assay/attempts/matmul.q8_0/2", &blob),
        ("refs/assay/attempts/matmul.q8_0/18446744073709551615", &head),
        ("refs/assay/attempts/matmul.q8_0/zzz", &head),
        ("refs/assay/attempts/matmul.q8_0/007", &head),
        ("refs/assay/attempts/no-such-op!/1", &head),
        ("refs/assay/attempts/alone", &head),
        ("refs/assay/remotes/o/matmul.q8_0/99999999999999999999", &head),
        ("refs/assay/remotes/alone", &head),
        ("refs/assay/remotes/team/mirror/rms_norm/1", &other),
    ] {
        git(bench.root(), &["update-ref", name, id]);
    }
    for args in [&["history"][..], &["history", "matmul[q8_0]"], &["attempts"], &["attempts", "adopt", "o"]] {
        let (code, said) = assay(&bench, args);
        assert_eq!(code, 0, "{args:?}: {said}");
    }
    let (_, said) = assay(&bench, &["attempts"]);
    assert!(said.contains("refs/assay/remotes/team/mirror/rms_norm/1"), "{said}");
    assert!(said.contains("no commit") && said.contains("ours 1") && said.contains("/zzz"), "{said}");
    // The next one finds a number that is free.
    fs::write(bench.root().join("kernels/matmul.cu"), "next").unwrap();
    assert_eq!(attempt(&bench, "matmul[q8_0]", 9, "next"), "refs/assay/attempts/matmul.q8_0/3");
}
