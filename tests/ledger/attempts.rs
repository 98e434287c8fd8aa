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

/// Keeps an attempt in a thread of its own: what hangs has failed.
fn soon(bench: &Workbench, i: u8) -> Result<String, String> {
    let evidence = sign(Verdict { node: "matmul[q8_0]".parse().unwrap(), ..red(i) }, &bench.key);
    let (root, (done, wait)) = (bench.root().to_path_buf(), std::sync::mpsc::channel());
    std::thread::spawn(move || {
        let kept = history::record_attempt(&root, &"matmul[q8_0]".parse().unwrap(), &evidence);
        done.send(kept.map(|kept| kept.unwrap().reference).map_err(|e| e.to_string()))
    });
    wait.recv_timeout(std::time::Duration::from_secs(60)).expect("keeping an attempt does not end")
}

/// A reference that git passes over was met again and again under the same number, for ever.
#[test]
fn a_broken_reference_in_the_place_of_an_attempt_hung_the_judge() {
    let bench = with_attempts(0, "ours");
    let place = bench.root().join(".git/refs/assay/attempts/matmul.q8_0");
    fs::create_dir_all(&place).unwrap();
    let head = git(bench.root(), &["rev-parse", "HEAD"]);
    let branch = git(bench.root(), &["symbolic-ref", "HEAD"]).trim().to_string();
    let outside = bench.root().join("outside");
    fs::write(place.join("1"), "").unwrap();
    fs::write(place.join("2"), "garbage\n").unwrap();
    fs::write(place.join("3"), format!("ref: {branch}\n")).unwrap();
    fs::write(place.join("4"), "ref: refs/heads/nowhere\n").unwrap();
    std::os::unix::fs::symlink(&outside, place.join("5")).unwrap();
    std::os::unix::fs::symlink(bench.root().join(".git").join(&branch), place.join("6")).unwrap();
    fs::write(place.join("7.lock"), "").unwrap();
    fs::create_dir_all(place.join("8/deep")).unwrap();
    fs::write(place.join("8/deep/file"), "").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, place.join("9"), rustix::fs::Mode::RWXU).unwrap();
    assert_eq!(soon(&bench, 1).unwrap(), "refs/assay/attempts/matmul.q8_0/10");
    assert_eq!(history::last_attempt(bench.root(), &"matmul[q8_0]".parse().unwrap()).unwrap(), 10);
    // Nothing was followed or written through, and nothing replaced.
    assert_eq!(git(bench.root(), &["rev-parse", "HEAD"]), head);
    assert!(!outside.exists() && fs::read(place.join("1")).unwrap().is_empty());
    assert!(!bench.root().join(".git/refs/heads/nowhere").exists());
    let kept = history::attempts(bench.root(), &"matmul[q8_0]".parse().unwrap()).unwrap();
    assert_eq!(kept.len(), 1, "what is followed is no attempt: {kept:?}");
    // Whoever looks is told, and told how to remove it.
    let (code, said) = assay(&bench, &["attempts"]);
    let notes: Vec<&str> = said.lines().filter(|l| l.contains("[attempt-ref]")).collect();
    assert!(code == 0 && notes.len() == 9, "{said}");
    for (n, why) in
        [(1, "it is empty"), (2, "names no object"), (3, "symbolic"), (5, "symlink"), (7, "lock"), (9, "no plain file")]
    {
        assert!(notes.iter().any(|l| l.contains(&format!("matmul.q8_0/{n}")) && l.contains(why)), "{n}: {said}");
    }
    let (_, audit) = assay(&bench, &["audit"]);
    assert_eq!(audit.matches("[attempt-ref]").count(), 9, "{audit}");
    let (_, listed) = assay(&bench, &["attempts", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    for broken in listed["broken"].as_array().unwrap() {
        let command = broken["remove"].as_str().unwrap();
        assert!(Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
    }
    let (_, said) = assay(&bench, &["attempts"]);
    assert!(!said.contains("[attempt-ref]") && said.contains("matmul.q8_0/10"), "{said}");
    assert_eq!(git(bench.root(), &["rev-parse", "HEAD"]), head);
}

/// What is in the way of the folder itself cannot be passed: it is named, and so is what removes it.
#[test]
fn a_file_or_a_link_in_the_place_of_the_attempts_folder_is_named() {
    let bench = with_attempts(0, "ours");
    let place = bench.root().join(".git/refs/assay/attempts/matmul.q8_0");
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(&place, "").unwrap();
    let error = soon(&bench, 1).unwrap_err();
    assert!(error.contains("[attempt-ref]") && error.contains(&format!("rm {}", place.display())), "{error}");
    fs::remove_file(&place).unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), &place).unwrap();
    let error = soon(&bench, 1).unwrap_err();
    assert!(error.contains("[attempt-ref]") && error.contains("symlink"), "{error}");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(assay(&bench, &["audit"]).1.contains("[attempt-ref]"));
    fs::remove_file(&place).unwrap();
    assert_eq!(soon(&bench, 1).unwrap(), "refs/assay/attempts/matmul.q8_0/1");
}

/// A command that removed another file, or none, was said of a name that is not UTF-8 or moves the cursor.
#[test]
fn a_name_that_cannot_be_shown_is_removed_by_what_is_said() {
    use std::os::unix::ffi::OsStrExt as _;
    let bench = with_attempts(0, "ours");
    let place = bench.root().join(".git/refs/assay/attempts/matmul.q8_0");
    fs::create_dir_all(&place).unwrap();
    for name in [&b"1\x1b[31mX\n"[..], b"\xff\xfe", b"it's $(id)"] {
        fs::write(place.join(std::ffi::OsStr::from_bytes(name)), "").unwrap();
    }
    let (_, listed) = assay(&bench, &["attempts", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["broken"].as_array().unwrap().len(), 3, "{listed}");
    for broken in listed["broken"].as_array().unwrap() {
        let command = broken["remove"].as_str().unwrap();
        assert!(Command::new("bash").args(["-c", command]).status().unwrap().success(), "{command}");
    }
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
}

/// git appends to the log of a reference wherever that leads.
#[test]
fn a_link_in_the_place_of_an_attempts_log_was_written_through() {
    let bench = with_attempts(0, "ours");
    let outside = tempfile::tempdir().unwrap();
    let mine = outside.path().join("mine");
    let log = bench.root().join(".git/logs/refs/assay/attempts/matmul.q8_0/1");
    fs::create_dir_all(log.parent().unwrap()).unwrap();
    type Plant = fn(&Path, &Path);
    let plant: [(&str, Plant); 3] = [
        ("symlink", |mine, log| std::os::unix::fs::symlink(mine, log).unwrap()),
        ("hard link", |mine, log| fs::hard_link(mine, log).unwrap()),
        ("no plain file", |_, log| rustix::fs::mkfifoat(rustix::fs::CWD, log, rustix::fs::Mode::RWXU).unwrap()),
    ];
    for (what, plant) in plant {
        fs::write(&mine, "mine\n").unwrap();
        plant(&mine, &log);
        let error = soon(&bench, 1).unwrap_err();
        assert!(error.contains("[attempt-ref]") && error.contains(what), "{error}");
        assert!(error.contains(&format!("rm {}", log.display())), "{error}");
        assert_eq!(fs::read_to_string(&mine).unwrap(), "mine\n");
        fs::remove_file(&log).unwrap();
    }
    // The folder of the logs too; and a log that is git's own is written.
    fs::remove_dir(log.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(outside.path(), log.parent().unwrap()).unwrap();
    let error = soon(&bench, 1).unwrap_err();
    assert!(error.contains("matmul.q8_0 is in the way") && error.contains("symlink"), "{error}");
    fs::remove_file(log.parent().unwrap()).unwrap();
    fs::create_dir(log.parent().unwrap()).unwrap();
    fs::write(&log, "").unwrap();
    assert_eq!(soon(&bench, 1).unwrap(), "refs/assay/attempts/matmul.q8_0/1");
    assert!(fs::read_to_string(&log).unwrap().contains("attempt at matmul"));
}

/// Every command that needs git waited for a pipe for ever, or read a device until there was no memory.
#[test]
fn packed_references_without_an_end_were_waited_for() {
    let bench = with_attempts(0, "ours");
    let packed = bench.root().join(".git/packed-refs");
    let own = bench.root().join(".git/packed-refs.own");
    git(bench.root(), &["pack-refs", "--all"]);
    fs::rename(&packed, &own).unwrap();
    let plant: [fn(&Path); 3] = [
        |packed| rustix::fs::mkfifoat(rustix::fs::CWD, packed, rustix::fs::Mode::RWXU).unwrap(),
        |packed| std::os::unix::fs::symlink("/dev/zero", packed).unwrap(),
        |packed| fs::File::create(packed).unwrap().set_len(2 << 30).unwrap(),
    ];
    for plant in plant {
        plant(&packed);
        let error = soon(&bench, 1).unwrap_err();
        assert!(error.contains("[git]") && error.contains("packed-refs"), "{error}");
        for args in [&["attempts"][..], &["audit"], &["agent", "status"]] {
            let (code, said) = assay(&bench, args);
            assert!(code == 3 && said.contains("packed-refs") && said.contains("mv "), "{args:?}: {said}");
        }
        fs::remove_file(&packed).unwrap();
    }
    // Work trees made by git-new-workdir have a link there.
    std::os::unix::fs::symlink(&own, &packed).unwrap();
    assert_eq!(soon(&bench, 1).unwrap(), "refs/assay/attempts/matmul.q8_0/1");
}

/// What others push cannot be filed where something broken stands, and is not written through it.
#[test]
fn adopting_goes_neither_through_nor_over_what_is_broken() {
    let bench = with_attempts(1, "ours");
    let theirs = git(bench.root(), &["commit-tree", "HEAD^{tree}", "-m", "theirs"]).trim().to_string();
    git(bench.root(), &["update-ref", "refs/assay/remotes/o/matmul.q8_0/2", &theirs]);
    let place = bench.root().join(".git/refs/assay/attempts/matmul.q8_0/2");
    let outside = bench.root().join("outside");
    std::os::unix::fs::symlink(&outside, &place).unwrap();
    let (code, said) = assay(&bench, &["attempts", "adopt", "o"]);
    assert!(code == 3 && said.contains("[attempt-ref]") && said.contains("rm "), "{said}");
    assert!(!outside.exists());
    fs::remove_file(&place).unwrap();
    let (code, said) = assay(&bench, &["attempts", "adopt", "o"]);
    assert!(code == 0 && said.contains("1 attempt filed"), "{said}");
}
