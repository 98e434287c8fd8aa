//! Repositories in odd states: reverted, stashed, shallow, somebody else's, without an author. Each is told by its own
//! code, and no row is lost.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use assay::history::{self, LandRequest, RevertWhat};
use assay::ledger::{Config, Ledger, Target, Trust};
use assay::plan::Numerics;
use git2::{Oid, Repository, Signature, StashFlags};

use crate::fixture::*;
use crate::git::{audit, commit, init};
use crate::land::Sources;

/// A repository in which two kernels of a node were landed, one after the other.
struct Landed {
    bench: Workbench,
    git: Repository,
    trust: Trust,
    sources: Sources,
    first: Oid,
    second: Oid,
    _config: tempfile::TempDir,
}

fn landed() -> Landed {
    let config = tempfile::tempdir().unwrap();
    let key = Config::at(config.path()).new_key("host").unwrap();
    let bench = Workbench { key, ..Workbench::new() };
    let git = init(&bench);
    let mut trust = Trust::load(&Config::at(config.path()), None, bench.root()).unwrap();
    trust.trust(bench.key.public().clone(), false).unwrap();
    fs::create_dir_all(bench.root().join("kernels/common")).unwrap();
    fs::write(bench.root().join("kernels/common/cuda.cuh"), "v1").unwrap();
    fs::write(bench.root().join("kernels/rms_norm.cu"), "draft").unwrap();
    fs::write(bench.root().join("notes.txt"), "notes").unwrap();
    let base = commit(&git, "base", &[]);
    let mut landed =
        Landed { bench, git, trust, sources: Sources::default(), first: base, second: base, _config: config };
    landed.first = landed.land("slow");
    landed.second = landed.land("fast");
    landed
}

impl Landed {
    fn write(&self, text: &str) {
        fs::write(self.bench.root().join("kernels/rms_norm.cu"), text).unwrap();
    }

    fn text(&self) -> String {
        fs::read_to_string(self.bench.root().join("kernels/rms_norm.cu")).unwrap()
    }

    fn record(&self) -> u64 {
        use assay::ledger::Closures as _;
        let source = self.sources.of(&self.bench.root().join("kernels")).unwrap();
        let node = "rms_norm".parse().unwrap();
        let binding = source.binding(&node, "sm_90", Numerics::Ds4).unwrap();
        self.bench.append(assay::ledger::Verdict { node: Target::Node(node), binding, ..verdict(1) })
    }

    fn land(&self, text: &str) -> Oid {
        self.write(text);
        self.record();
        let mut index = self.git.index().unwrap();
        index.add_path(Path::new("kernels/rms_norm.cu")).unwrap();
        index.write().unwrap();
        self.land_staged().unwrap();
        self.head()
    }

    fn land_staged(&self) -> assay::Result<Vec<history::Landed>> {
        let nodes = ["rms_norm".parse().unwrap()];
        let writer = || Err(assay::Error::usage("a key was asked for"));
        let request = LandRequest { nodes: &nodes, what: None, numerics: Numerics::Ds4, arch: None, writer: &writer };
        history::land(self.bench.root(), &request, &self.sources, &self.trust)
    }

    fn revert(&self, what: RevertWhat) -> assay::Result<history::Reverted> {
        history::revert(self.bench.root(), &what, &self.sources, &self.trust)
    }

    fn head(&self) -> Oid {
        self.git.head().unwrap().target().unwrap()
    }

    #[track_caller]
    fn refused(&self, what: &str, id: &str, says: &str) {
        let (head, before, text) = (self.head(), self.bench.snapshot(), self.text());
        let error = self.revert(RevertWhat::Commit(what.into())).unwrap_err();
        assert!(error.code().id == id && error.to_string().contains(says), "{error}");
        assert!(error.hint_text().is_some(), "{error}");
        assert_eq!((head, before, text), (self.head(), self.bench.snapshot(), self.text()));
    }
}

#[test]
fn a_reverted_kernel_keeps_its_rows() {
    let repo = landed();
    let rows = repo.bench.bytes("ledger.jsonl");
    let done = repo.revert(RevertWhat::Commit(repo.second.to_string())).unwrap();
    assert_eq!(repo.text(), "slow");
    assert_eq!(repo.bench.bytes("ledger.jsonl"), rows);
    assert_eq!(repo.git.statuses(None).unwrap().len(), 0, "index and work tree go with the commit");
    let head = repo.git.head().unwrap().peel_to_commit().unwrap();
    assert_eq!((head.id().to_string(), head.parent_id(0).unwrap()), (done.commit.clone(), repo.second));
    let message = head.message().unwrap();
    assert!(message.starts_with("rms_norm: revert \"rms_norm: rms_norm green on sm_90\"\n"), "{message}");
    assert!(message.contains("rms_norm: green on sm_90 by row 1\n"), "{message}");
    assert!(message.ends_with(&format!("\nAssay-Reverts: {}\n", repo.second)), "{message}");
    assert_eq!(done.files, ["kernels/rms_norm.cu"]);
    let report = audit(repo.bench.root()).unwrap();
    assert!(report.findings.is_empty() && report.rows == 3, "{report:?}");

    // By the node's name: the last landing that still stands.
    let again = repo.revert(RevertWhat::Node("rms_norm".parse().unwrap())).unwrap();
    assert_eq!((again.reverts, repo.text()), (repo.first.to_string(), "draft".into()));
    assert!(again.message.contains("rms_norm: no row is about this kernel of it\n"), "{}", again.message);
    let none = repo.revert(RevertWhat::Node("rms_norm".parse().unwrap())).unwrap_err();
    assert!(none.code().id == "revert" && none.what().contains("no commit landed"), "{none}");
    audit(repo.bench.root()).unwrap();
    // And it can be landed again.
    repo.land("fast");
}

#[test]
fn what_cannot_be_taken_back_is_left_alone() {
    let repo = landed();
    let second = repo.second.to_string();
    repo.refused(&repo.first.to_string(), "revert", &format!("changed again by {}", &second[..12]));
    repo.refused("no-such-thing", "git-revision", "names no commit");
    repo.write("edited");
    repo.refused(&second, "revert-dirty", "kernels/rms_norm.cu");
    repo.write("fast");
    fs::write(repo.bench.root().join("notes.txt"), "staged").unwrap();
    let mut index = repo.git.index().unwrap();
    index.add_path(Path::new("notes.txt")).unwrap();
    index.write().unwrap();
    repo.refused(&second, "revert-dirty", "notes.txt");
    let notes = commit(&repo.git, "notes", &[repo.second]);
    repo.refused(&notes.to_string(), "revert", "changes no kernel");
    let merge = commit(&repo.git, "merge", &[notes, repo.first]);
    repo.refused(&merge.to_string(), "revert", "is a merge");
}

/// The kernel goes back, and with it the row that says it was measured.
#[test]
fn a_plain_git_revert_of_a_green_commit_is_told_with_what_to_do_instead() {
    let repo = landed();
    // What it leaves: every file of the commit as it was before, the ledger's too.
    let before = repo.git.find_commit(repo.first).unwrap().tree().unwrap();
    for path in ["kernels/rms_norm.cu", "state/ledger.jsonl", "state/checkpoint", "state/progress.json"] {
        let blob = before.get_path(Path::new(path)).unwrap().id();
        fs::write(repo.bench.root().join(path), repo.git.find_blob(blob).unwrap().content()).unwrap();
    }
    let state = repo.bench.root().join("state");
    assert_eq!(Ledger::read(repo.bench.root()).unwrap().rows().len(), 2, "git took the row back");
    // Not committed yet: the work tree's ledger does not extend HEAD's.
    assert_eq!(history::open(repo.bench.root()).unwrap_err().code().id, "ledger-not-extended");
    let message = format!("Revert \"fast\"\n\nThis reverts commit {}.\n", repo.second);
    commit(&repo.git, &message, &[repo.second]);
    let error = audit(repo.bench.root()).unwrap_err();
    assert_eq!((error.code().id, error.kind().exit_code()), ("ledger-reverted", 4), "{error}");
    let hint = error.hint_text().unwrap();
    assert!(hint.contains(&format!("assay revert {}", repo.second)), "{hint}");
    repo.write("other");
    repo.record();
    let mut index = repo.git.index().unwrap();
    index.add_path(Path::new("kernels/rms_norm.cu")).unwrap();
    index.write().unwrap();
    assert_eq!(repo.land_staged().unwrap_err().code().id, "ledger-reverted", "nothing is built on it");
    assert!(state.exists());
}

#[test]
fn rows_in_a_stash_are_not_forgotten() {
    let mut repo = landed();
    let head = repo.head();
    repo.write("third");
    repo.record();
    let author = Signature::now("tester", "tester@example.org").unwrap();
    repo.git.stash_save(&author, "wip", None).unwrap();
    let ledger = history::open(repo.bench.root()).unwrap();
    assert_eq!(ledger.rows().len(), 3);
    let note = ledger.notes().iter().find(|n| n.contains("[ledger-stashed]")).expect("a note");
    assert!(note.contains("1 row of a git stash is not in the ledger") && note.contains("stash@{0}"), "{note}");
    assert!(audit(repo.bench.root()).unwrap().notes.contains(note));
    repo.write("fourth");
    repo.record();
    let mut index = repo.git.index().unwrap();
    index.add_path(Path::new("kernels/rms_norm.cu")).unwrap();
    index.write().unwrap();
    let error = repo.land_staged().unwrap_err();
    assert_eq!((error.code().id, repo.head()), ("ledger-stashed", head), "{error}");
    // As the hint says: the evidence comes back under a row of its own.
    let evidence = history::evidence_of(repo.bench.root(), "stash@{0}").unwrap();
    repo.bench.open().append(&evidence, &repo.bench.key).unwrap();
    assert!(history::open(repo.bench.root()).unwrap().notes().is_empty());
    repo.land_staged().unwrap();
    repo.git.stash_drop(0).unwrap();
    // Untracked state, stashed with -u.
    let fresh = Workbench::new();
    let mut git = init(&fresh);
    fs::write(fresh.root().join("notes.txt"), "x").unwrap();
    commit(&git, "no state yet", &[]);
    fresh.append(verdict(1));
    git.stash_save(&author, "all", Some(StashFlags::INCLUDE_UNTRACKED)).unwrap();
    let ledger = history::open(fresh.root()).unwrap();
    assert!(ledger.rows().is_empty());
    assert!(ledger.notes().iter().any(|n| n.contains("2 rows of a git stash") && n.contains("stash@{0}^3")));
    let evidence = history::evidence_of(fresh.root(), "stash@{0}^3").unwrap();
    assert_eq!(evidence.len(), 2);
}

/// Runs `assay` with no configuration of git but the repository's own.
fn assay(root: &Path, home: &Path, args: &[&str]) -> Output {
    let settings = root.join("assay.toml");
    if !settings.exists() {
        fs::write(settings, "model = \"none.gguf\"\n").unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_assay"));
    command.current_dir(root).args(args).env("ASSAY_CONFIG_DIR", home).env("HOME", home);
    command.env("XDG_CONFIG_HOME", home).output().unwrap()
}

#[test]
fn a_shallow_clone_is_checked_as_far_as_it_goes() {
    let repo = landed();
    let clone = tempfile::tempdir().unwrap();
    let url = format!("file://{}", repo.bench.root().display());
    let made = Command::new("git").args(["clone", "-q", "--depth", "1", &url]).arg(clone.path()).status();
    if !made.is_ok_and(|s| s.success()) {
        return println!("could not run: no git to make a shallow clone with");
    }
    let report = audit(clone.path()).unwrap();
    assert!(report.shallow && report.commits == 1 && report.rows == 3, "{report:?}");
    assert!(report.notes.iter().any(|n| n.contains("[git-shallow]") && n.contains("git fetch --unshallow")));
    assert_eq!(history::open(clone.path()).unwrap().rows().len(), 3);
    for what in [RevertWhat::Commit("HEAD".into()), RevertWhat::Node("rms_norm".parse().unwrap())] {
        let git = Repository::open(clone.path()).unwrap();
        let mut config = git.config().unwrap();
        config.set_str("user.name", "tester").unwrap();
        config.set_str("user.email", "tester@example.org").unwrap();
        let error = history::revert(clone.path(), &what, &repo.sources, &repo.trust).unwrap_err();
        assert_eq!((error.code().id, error.kind().exit_code()), ("git-shallow", 3), "{error}");
    }
    let home = tempfile::tempdir().unwrap();
    let bisect = assay(clone.path(), home.path(), &["bisect", "--good", &repo.first.to_string(), "--cmd", "true"]);
    assert_eq!(bisect.status.code(), Some(2), "a commit that is not here: {}", String::from_utf8_lossy(&bisect.stderr));
    let bisect = assay(clone.path(), home.path(), &["bisect", "--cmd", "true"]);
    let said = String::from_utf8_lossy(&bisect.stderr);
    assert!(bisect.status.code() == Some(3) && said.contains("[bisect-shallow]"), "{said}");
}

#[test]
fn somebody_elses_repository_is_not_opened() {
    let bench = Workbench::with_rows(2);
    let repo = init(&bench);
    commit(&repo, "state", &[]);
    let home = tempfile::tempdir().unwrap();
    assay(bench.root(), home.path(), &["audit"]);
    for path in [bench.root().to_path_buf(), bench.root().join(".git")] {
        if std::os::unix::fs::chown(path, Some(12345), Some(12345)).is_err() {
            return println!("could not run: only root can give a folder away");
        }
    }
    for args in [&["audit"][..], &["history"], &["bisect", "--cmd", "true"]] {
        let out = assay(bench.root(), home.path(), args);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(3) && said.contains("[git-owner]"), "{args:?}: {said}");
        assert!(said.contains("git config --global --add safe.directory"), "{said}");
    }
    let config = format!("[safe]\n\tdirectory = {}\n", bench.root().canonicalize().unwrap().display());
    fs::write(home.path().join(".gitconfig"), config).unwrap();
    let out = assay(bench.root(), home.path(), &["audit"]);
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn who_has_no_name_makes_no_commit_and_loses_no_row() {
    let repo = landed();
    let mut config = repo.git.config().unwrap();
    // An empty name is as none, and hides the machine's.
    config.set_str("user.name", "").unwrap();
    config.set_str("user.email", "").unwrap();
    repo.refused("HEAD", "git-author", "git does not know who you are");
    let evidence = sign(red(1), &repo.bench.key);
    let error = history::record_attempt(repo.bench.root(), &"rms_norm".parse().unwrap(), &evidence).unwrap_err();
    assert_eq!((error.code().id, error.kind().exit_code()), ("git-author", 3), "{error}");
    repo.write("fifth");
    repo.record();
    let mut index = repo.git.index().unwrap();
    index.add_path(Path::new("kernels/rms_norm.cu")).unwrap();
    index.write().unwrap();
    let (head, rows) = (repo.head(), repo.bench.bytes("ledger.jsonl"));
    assert_eq!(repo.land_staged().unwrap_err().code().id, "git-author");
    assert_eq!((head, rows), (repo.head(), repo.bench.bytes("ledger.jsonl")));
}
