//! Ledgers in git: the work tree's extends HEAD's, a commit's its parents', and an audit reads what is really there.

use std::fs;
use std::path::Path;

use assay::history::{self, AuditOptions, Report};
use assay::ledger::{Class, Evidence, Judge, SecretKey, Target, Trust, Verdict};
use git2::{IndexAddOption, Oid, Repository, Signature};

use crate::fixture::*;

/// Makes the workbench a repository.
pub fn init(bench: &Workbench) -> Repository {
    let repo = Repository::init(bench.root()).unwrap();
    let mut config = repo.config().unwrap();
    config.set_str("user.name", "tester").unwrap();
    config.set_str("user.email", "tester@example.org").unwrap();
    repo
}

/// Commits the whole work tree on top of `parents`, and moves HEAD there.
pub fn commit(repo: &Repository, message: &str, parents: &[Oid]) -> Oid {
    let mut index = repo.index().unwrap();
    index.add_all(["*"], IndexAddOption::DEFAULT, None).unwrap();
    index.update_all(["*"], None).unwrap();
    index.write().unwrap();
    let tree = repo.find_tree(index.write_tree().unwrap()).unwrap();
    let author = Signature::now("tester", "tester@example.org").unwrap();
    let parents: Vec<_> = parents.iter().map(|id| repo.find_commit(*id).unwrap()).collect();
    let parents: Vec<_> = parents.iter().collect();
    let id = repo.commit(None, &author, &author, message, &tree, &parents).unwrap();
    match repo.find_reference("HEAD").unwrap().symbolic_target().unwrap() {
        Some(branch) => drop(repo.reference(branch, id, true, "test").unwrap()),
        None => repo.set_head_detached(id).unwrap(),
    }
    id
}

pub fn audit(root: &Path) -> assay::Result<Report> {
    history::audit(root, &AuditOptions { replay: 0, judge: None, from: None, closures: None, trust: &Trust::nobody() })
}

fn refused(bench: &Workbench, id: &str, says: &str) {
    let before = bench.snapshot();
    for error in [history::open(bench.root()).unwrap_err(), audit(bench.root()).unwrap_err()] {
        assert_eq!((error.code().id, error.kind().exit_code()), (id, 4), "{error}");
        assert!(error.to_string().contains(says), "expected `{says}` in {error}");
    }
    assert_eq!(before, bench.snapshot(), "a refusal changed state/");
}

/// Puts the files of `state/` back as they were.
fn restore(bench: &Workbench, files: &[(std::path::PathBuf, Vec<u8>)]) {
    fs::remove_dir_all(bench.root().join("state")).unwrap();
    fs::create_dir(bench.root().join("state")).unwrap();
    for (path, bytes) in files {
        fs::write(path, bytes).unwrap();
    }
}

/// POSTMORTEM.md §1.
#[test]
fn a_rolled_back_state_is_refused_although_it_is_consistent() {
    let bench = Workbench::with_rows(3);
    let repo = init(&bench);
    let old = bench.snapshot();
    commit(&repo, "first", &[]);
    bench.append(verdict(9));
    let head = repo.head().unwrap().target().unwrap();
    commit(&repo, "second", &[head]);
    history::open(bench.root()).unwrap();
    restore(&bench, &old);
    refused(&bench, "ledger-not-extended", "row 3, which commit");
    // Also where the progress file would be derived anew otherwise.
    fs::remove_file(bench.path("progress.json")).unwrap();
    refused(&bench, "ledger-not-extended", "row 3, which commit");
    fs::remove_dir_all(bench.root().join("state")).unwrap();
    fs::create_dir(bench.root().join("state")).unwrap();
    refused(&bench, "ledger-not-extended", "row 0, which commit");
    fs::remove_dir(bench.root().join("state")).unwrap();
    assert_eq!(history::open(bench.root()).unwrap_err().code().id, "ledger-not-extended");
}

#[test]
fn a_work_tree_with_other_rows_than_head_is_refused() {
    let bench = Workbench::with_rows(3);
    let repo = init(&bench);
    let old = bench.snapshot();
    bench.append(verdict(8));
    commit(&repo, "with row 3", &[]);
    restore(&bench, &old);
    bench.append(verdict(9));
    bench.append(verdict(10));
    refused(&bench, "ledger-not-extended", "row 3 of the work tree's ledger is not the row 3 that commit");
}

#[test]
fn a_commit_that_drops_or_replaces_rows_fails_the_audit() {
    let bench = Workbench::with_rows(3);
    let repo = init(&bench);
    let old = bench.snapshot();
    bench.append(verdict(8));
    let first = commit(&repo, "four rows", &[]);
    restore(&bench, &old);
    let second = commit(&repo, "three rows", &[first]);
    let error = audit(bench.root()).unwrap_err();
    assert_eq!((error.code().id, error.kind().exit_code()), ("ledger-not-extended", 4));
    assert!(error.what().contains(&format!("missing from commit {}'s ledger", &second.to_string()[..12])), "{error}");
    // Rows regrown later do not hide it.
    bench.append(verdict(9));
    commit(&repo, "four rows again", &[second]);
    assert_eq!(audit(bench.root()).unwrap_err().code().id, "ledger-not-extended");
}

#[test]
fn a_merge_must_hold_the_other_parents_evidence() {
    let bench = Workbench::with_rows(2);
    let repo = init(&bench);
    let base = commit(&repo, "base", &[]);
    let old = bench.snapshot();
    bench.append(verdict(20));
    let theirs = commit(&repo, "theirs", &[base]);
    restore(&bench, &old);
    repo.set_head_detached(base).unwrap();
    bench.append(verdict(30));
    let ours = commit(&repo, "ours", &[base]);
    audit(bench.root()).unwrap();

    let lost = commit(&repo, "merge that loses a row", &[ours, theirs]);
    let error = audit(bench.root()).unwrap_err();
    assert_eq!((error.code().id, error.kind().exit_code()), ("ledger-lost-evidence", 4), "{error}");
    assert_ne!(lost, ours);

    // What `assay ledger merge` does: the same evidence, rowed again here.
    repo.set_head_detached(ours).unwrap();
    let evidence = history::evidence_of(bench.root(), &theirs.to_string()).unwrap();
    bench.open().append(&evidence, &bench.key).unwrap();
    commit(&repo, "merge", &[ours, theirs]);
    let report = audit(bench.root()).unwrap();
    assert_eq!((report.rows, report.commits), (4, 4));
}

#[test]
fn a_commit_with_an_edited_progress_file_or_checkpoint_fails_the_audit() {
    for (name, id) in [("progress.json", "progress-edited"), ("checkpoint", "ledger-checkpoint")] {
        let bench = Workbench::with_rows(3);
        let repo = init(&bench);
        let first = commit(&repo, "as it was", &[]);
        let good = bench.bytes(name);
        bench.put(name, String::from_utf8(good.clone()).unwrap().replacen('3', "4", 1));
        let edited = commit(&repo, "edited", &[first]);
        bench.put(name, good);
        commit(&repo, "put back", &[edited]);
        history::open(bench.root()).unwrap();
        let error = audit(bench.root()).unwrap_err();
        assert_eq!((error.code().id, error.kind().exit_code()), (id, 4), "{error}");
        assert!(error.what().contains(&format!("in commit {}", &edited.to_string()[..12])), "{error}");
    }
}

#[test]
fn replace_refs_and_grafts_hide_nothing() {
    let bench = Workbench::with_rows(3);
    let repo = init(&bench);
    let old = bench.snapshot();
    bench.append(verdict(8));
    let first = commit(&repo, "four rows", &[]);
    restore(&bench, &old);
    let second = commit(&repo, "three rows", &[first]);
    let orphan = commit(&repo, "three rows, no parent", &[]);
    let branch = repo.find_reference("HEAD").unwrap().symbolic_target().unwrap().unwrap().to_string();
    repo.reference(&branch, second, true, "test").unwrap();
    repo.reference(&format!("refs/replace/{second}"), orphan, true, "test").unwrap();
    assert_eq!(audit(bench.root()).unwrap_err().code().id, "ledger-not-extended", "a replace ref");
    fs::create_dir_all(repo.path().join("info")).unwrap();
    fs::write(repo.path().join("info/grafts"), format!("{second}\n")).unwrap();
    assert_eq!(audit(bench.root()).unwrap_err().code().id, "ledger-not-extended", "a graft");
}

#[test]
fn a_workbench_below_the_top_of_its_repository() {
    let outer = tempfile::tempdir().unwrap();
    let repo = Repository::init(outer.path()).unwrap();
    let root = outer.path().join("deep/bench");
    fs::create_dir_all(&root).unwrap();
    let key = SecretKey::generate("host").unwrap();
    let mut ledger = history::open(&root).unwrap();
    ledger.append(&[sign(verdict(1), &key), sign(verdict(2), &key)], &key).unwrap();
    commit(&repo, "state", &[]);
    history::open(&root).unwrap();
    fs::remove_dir_all(root.join("state")).unwrap();
    assert_eq!(history::open(&root).unwrap_err().code().id, "ledger-not-extended");
}

#[test]
fn evidence_that_a_commit_claims_must_be_in_its_ledger() {
    let bench = Workbench::with_rows(2);
    let repo = init(&bench);
    let first = commit(&repo, "base", &[]);
    let digest = bench.open().rows()[1].evidence.digest();
    let honest = commit(&repo, &format!("op: real\n\nAssay-Evidence: {digest}\n"), &[first]);
    assert!(audit(bench.root()).unwrap().findings.is_empty());
    fs::write(bench.root().join("README.md"), "more than kernels/").unwrap();
    let broad = commit(&repo, &format!("op: too much\n\nAssay-Evidence: {digest}\n"), &[honest]);
    let findings = audit(bench.root()).unwrap().findings;
    assert!(findings[0].contains("changes README.md too"), "{findings:?}");
    commit(&repo, &format!("op: invented\n\nAssay-Evidence: {}\n", "ab".repeat(32)), &[broad]);
    assert_eq!(audit(bench.root()).unwrap_err().code().id, "ledger-lost-evidence");
}

#[test]
fn simulated_rows_fail_the_audit_and_untrusted_signers_do_not() {
    let bench = Workbench::with_rows(2);
    let report = audit(bench.root()).unwrap();
    assert!(report.findings.is_empty() && !report.signers[0].trusted);
    assert_eq!((report.signers[0].evidence, report.signers[0].rows), (1, 2));
    bench.append(of_class(verdict(5), Class::Simulated));
    let report = audit(bench.root()).unwrap();
    assert!(report.findings[0].contains("row 2 is of class simulated"), "{:?}", report.findings);
}

#[test]
fn an_audit_from_a_checkpoint_that_was_kept() {
    let bench = Workbench::with_rows(3);
    let kept = tempfile::NamedTempFile::new().unwrap();
    fs::write(kept.path(), bench.bytes("checkpoint")).unwrap();
    bench.append(verdict(8));
    let from = |bench: &Workbench| {
        let trust = Trust::nobody();
        history::audit(
            bench.root(),
            &AuditOptions { replay: 0, judge: None, from: Some(kept.path()), closures: None, trust: &trust },
        )
    };
    from(&bench).unwrap();
    // The key's holder rewrites everything: consistent in itself, but not an extension of what was kept.
    fs::remove_dir_all(bench.root().join("state")).unwrap();
    for closure in [7, 8, 9, 10] {
        bench.append(verdict(closure));
    }
    audit(bench.root()).unwrap();
    let error = from(&bench).unwrap_err();
    assert_eq!((error.code().id, error.kind().exit_code()), ("ledger-checkpoint", 4), "{error}");
}

/// Judges by giving back what it is told, but for one change.
struct Again<F>(Vec<Verdict>, F);

impl<F: Fn(&mut Verdict) -> assay::Result<()>> Judge for Again<F> {
    fn judge_again(&self, recorded: &Verdict) -> assay::Result<Verdict> {
        let mut verdict = self.0.iter().find(|v| v.binding == recorded.binding).unwrap().clone();
        verdict.seed = recorded.seed;
        self.1(&mut verdict).map(|()| verdict)
    }
}

#[test]
fn replay_judges_rows_again() {
    let bench = Workbench::with_rows(4);
    let verdicts: Vec<_> = (1..4).map(verdict).collect();
    let replay = |n: usize, edit: fn(&mut Verdict) -> assay::Result<()>| {
        let judge = Again(verdicts.clone(), edit);
        let trust = Trust::nobody();
        history::audit(
            bench.root(),
            &AuditOptions { replay: n, judge: Some(&judge), from: None, closures: None, trust: &trust },
        )
    };
    let mut rows = replay(3, |_| Ok(())).unwrap().replayed;
    rows.sort();
    assert_eq!(rows, [1, 2, 3]);
    assert_eq!(replay(9, |_| Ok(())).unwrap().replayed.len(), 3);
    let disagrees: [fn(&mut Verdict) -> assay::Result<()>; 4] = [
        |v| {
            *v = red(v.binding.closure.0[0]);
            Ok(())
        },
        |v| {
            v.outputs.insert("t=1".into(), assay::ledger::Digest([1; 32]));
            Ok(())
        },
        |v| {
            v.informative.device = "another".into();
            v.stages[3].figures.insert("relative_rms".into(), assay::ledger::Figure::Real(3e-3));
            Ok(())
        },
        |v| {
            v.stages.truncate(6);
            Ok(())
        },
    ];
    for edit in disagrees {
        let error = replay(1, edit).unwrap_err();
        assert_eq!((error.code().id, error.kind().exit_code()), ("audit-disagrees", 4), "{error}");
    }
    let unable = replay(2, |_| Err(assay::Error::io("device", std::io::Error::other("no CUDA device")))).unwrap();
    assert_eq!((unable.replayed.len(), unable.not_replayed.len()), (0, 3));
    let none = AuditOptions { replay: 1, judge: None, from: None, closures: None, trust: &Trust::nobody() };
    assert_eq!(history::audit(bench.root(), &none).unwrap_err().kind().exit_code(), 3);
}

#[test]
fn attempts_are_kept_under_their_own_refs() {
    let bench = Workbench::new();
    let repo = init(&bench);
    fs::create_dir(bench.root().join("kernels")).unwrap();
    fs::write(bench.root().join("kernels/matmul.cu"), "good").unwrap();
    let head = commit(&repo, "base", &[]);
    let node: Target = "matmul[q8_0]".parse().unwrap();
    for n in 1..=11 {
        fs::write(bench.root().join("kernels/matmul.cu"), format!("bad {n}")).unwrap();
        let evidence: Evidence = sign(red(n), &bench.key);
        let attempt = history::record_attempt(bench.root(), &node, &evidence).unwrap().unwrap();
        assert_eq!(attempt.reference, format!("refs/assay/attempts/matmul.q8_0/{n}"));
    }
    let all = history::attempts(bench.root(), &node).unwrap();
    assert_eq!(all.len(), 11);
    assert!(all[10].reference.ends_with("/11") && all[10].summary.contains("red in unit: wrong"), "{:?}", all[10]);
    assert_eq!(all[10].evidence, Some(sign(red(11), &bench.key).digest()));
    let kept = repo.find_commit(all[0].commit.parse().unwrap()).unwrap();
    assert_eq!(kept.parent_id(0).unwrap(), head);
    let entry = kept.tree().unwrap().get_path(Path::new("kernels/matmul.cu")).unwrap();
    assert_eq!(repo.find_blob(entry.id()).unwrap().content(), b"bad 1");
    assert_eq!(repo.head().unwrap().target().unwrap(), head, "the branch does not move");
    let outside = Workbench::new();
    assert!(history::record_attempt(outside.root(), &node, &sign(red(1), &outside.key)).unwrap().is_none());
}

/// Only a HEAD that has a ledger was compared with its parents: `git rm -r state`, committed, began a new one.
#[test]
fn a_commit_that_removed_the_ledger_was_not_seen() {
    for renamed in [false, true] {
        let bench = Workbench::with_rows(3);
        let repo = init(&bench);
        let good = commit(&repo, "three rows", &[]);
        let (state, other) = (bench.root().join("state"), bench.root().join("state2"));
        if renamed {
            fs::rename(&state, &other).unwrap()
        } else {
            fs::remove_dir_all(&state).unwrap()
        }
        let bad = commit(&repo, "no rows", &[good]);
        commit(&repo, "work on top of it", &[bad]);
        for error in [
            history::open(bench.root()).unwrap_err(),
            history::read(bench.root()).unwrap_err(),
            audit(bench.root()).unwrap_err(),
        ] {
            assert_eq!((error.code().id, error.kind().exit_code()), ("ledger-not-extended", 4), "{error}");
            let named = |id: Oid| error.to_string().contains(&id.to_string()[..12]);
            assert!(error.what().contains("row 0") && named(bad) && named(good), "{error}");
        }
        assert!(!state.exists(), "nothing is begun anew");
    }
}

/// The hint was to check out HEAD's state, which is the one that was rolled back.
#[test]
fn a_committed_roll_back_names_the_last_good_commit() {
    let bench = Workbench::with_rows(3);
    let repo = init(&bench);
    let old = bench.snapshot();
    let first = commit(&repo, "three rows", &[]);
    bench.append(verdict(7));
    let good = commit(&repo, "four rows", &[first]);
    restore(&bench, &old);
    let bad = commit(&repo, "rolled back", &[good]);
    let head = commit(&repo, "work on top of it", &[bad]);
    // Who only asks for the state is told so too.
    for error in [history::open(bench.root()).unwrap_err(), audit(bench.root()).unwrap_err()] {
        assert_eq!((error.code().id, error.kind().exit_code()), ("ledger-not-extended", 4));
        let hint = error.hint_text().unwrap();
        let short = |id: Oid| id.to_string()[..12].to_string();
        assert!(hint.contains(&format!("git reset --keep {}", short(good))) && hint.contains(&short(bad)), "{hint}");
        assert!(!hint.contains("checkout HEAD") && !hint.contains(&short(head)), "{hint}");
    }
}
