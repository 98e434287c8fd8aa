//! Whether the commits of a history hold the kernels that they say they landed: computed anew from their files, by the
//! built program.

use std::fs;
use std::path::Path;
use std::process::Command;

use assay::ledger::{Target, Verdict};
use assay::ops::Node;
use assay::plan::kernels::KernelTree;
use git2::{Oid, Repository};

use crate::binary::{assay, says};
use crate::fixture::*;
use crate::git::{commit, init};

/// A workbench with one kernel of the repository, landed twice.
struct Landed {
    bench: Workbench,
    git: Repository,
    home: tempfile::TempDir,
    /// Before anything landed, then each landing.
    commits: [Oid; 3],
}

const SOURCE: &str = "kernels/swiglu.cu";

impl Landed {
    fn new() -> Landed {
        let bench = Workbench::new();
        let git = init(&bench);
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels"), &bench.root().join("kernels"));
        fs::write(bench.root().join("assay.toml"), "model = \"none.gguf\"\n").unwrap();
        let base = commit(&git, "base", &[]);
        let mut landed = Landed { bench, git, home: tempfile::tempdir().unwrap(), commits: [base; 3] };
        for i in 1..3 {
            landed.edit(SOURCE, &format!("// try {i}\n"));
            let message = landed.record(&["swiglu"], |_| {});
            landed.commits[i] = commit(&landed.git, &message, &[landed.commits[i - 1]]);
        }
        landed
    }

    /// Adds a line to a file.
    fn edit(&self, file: &str, line: &str) {
        let path = self.bench.root().join(file);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, line.to_string() + &text).unwrap();
    }

    fn verdict(&self, node: &str) -> Verdict {
        let tree = KernelTree::open(&self.bench.root().join("kernels")).unwrap();
        let named: Node = node.parse().unwrap();
        let closure = tree.closure(&named, &tree.require(&named).unwrap()).unwrap();
        let mut verdict = verdict(0);
        verdict.node = Target::Node(named);
        verdict.binding.closure = closure.parse().unwrap();
        verdict
    }

    /// Rows a proof of each node as it is, and gives the message of the commit that lands them.
    fn record(&self, nodes: &[&str], edit: impl Fn(&mut Verdict)) -> String {
        let (mut evidence, mut names) = (String::new(), String::new());
        for node in nodes {
            let mut verdict = self.verdict(node);
            edit(&mut verdict);
            let row = self.bench.append(verdict);
            let digest = self.bench.open().rows()[row as usize].evidence.digest();
            evidence += &format!("Assay-Evidence: {digest}\n");
            names += &format!("Assay-Node: {node}\n");
        }
        format!("kernels: landed\n\n{evidence}{names}")
    }

    fn message(&self, id: Oid) -> String {
        self.git.find_commit(id).unwrap().message().unwrap().into()
    }

    /// Writes the first landing anew with what `change` does to its files, and the second one as it was on top.
    fn forge(&self, change: impl Fn(&Landed)) -> Oid {
        let [base, first, second] = self.commits;
        self.check_out(first);
        change(self);
        let forged = commit(&self.git, &self.message(first), &[base]);
        self.check_out(second);
        commit(&self.git, &self.message(second), &[forged]);
        forged
    }

    fn check_out(&self, id: Oid) {
        let object = self.git.find_object(id, None).unwrap();
        self.git.reset(&object, git2::ResetType::Hard, None).unwrap();
    }

    #[track_caller]
    fn audit(&self, code: i32, text: &str) -> String {
        says(&assay(self.bench.root(), self.home.path(), &["audit"]), code, text)
    }

    /// The forged commit, and nothing else, is named.
    #[track_caller]
    fn caught(&self, forged: Oid, text: &str) {
        let said = self.audit(4, "[landed-otherwise]");
        assert!(said.contains(&format!("commit {} does not hold the swiglu that row 1", short(forged))), "{said}");
        assert!(said.contains(text) && said.contains("1 landing is not what"), "expected `{text}` in {said}");
    }
}

fn short(id: Oid) -> String {
    id.to_string()[..12].into()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

#[test]
fn landed_kernels_are_computed_anew_from_their_commits() {
    let landed = Landed::new();
    landed.audit(0, "2 landed kernels computed anew from their commits");
    // Edits that claim nothing are everybody's right, and so is a proof that is rowed and not landed.
    landed.edit(SOURCE, "// not judged\n");
    let head = commit(&landed.git, "an edit", &[landed.commits[2]]);
    landed.record(&["swiglu"], |_| {});
    landed.audit(0, "2 landed kernels");
    // A landing of new evidence for files that stay as they are.
    let message = landed.record(&["swiglu", "rms_norm"], |v| v.binding.cases = assay::ledger::Digest([8; 32]));
    commit(&landed.git, &message, &[head]);
    landed.audit(0, "4 landed kernels");
    let json = assay(landed.bench.root(), landed.home.path(), &["audit", "--json"]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((&json["landed"], &json["unchecked"]), (&4.into(), &serde_json::Value::Null));
}

#[test]
fn verdicts_of_commits_that_are_gone_are_said() {
    let landed = Landed::new();
    assert!(!landed.audit(0, "2 landed kernels").contains("this history does not have"));
    let message = landed.record(&["rms_norm"], |v| v.informative.commit = landed.commits[1].to_string());
    commit(&landed.git, &message, &[landed.commits[2]]);
    assert!(!landed.audit(0, "3 landed kernels").contains("this history does not have"));
    // The same files, evidence and messages in commits of other names.
    landed.check_out(landed.commits[0]);
    let mut at = commit(&landed.git, "base, reworded", &[]);
    for id in [landed.commits[1], landed.commits[2]] {
        landed.check_out(id);
        at = commit(&landed.git, &landed.message(id), &[at]);
    }
    landed.record(&["rms_norm"], |v| v.informative.commit = landed.commits[1].to_string());
    landed.audit(0, "note: 1 row was judged on commits that this history does not have");
}

/// The rows and every signature stayed good when a commit was amended after it had landed.
#[test]
fn a_landed_commit_that_was_amended_is_named() {
    type Edit<'e> = (&'e str, &'e dyn Fn(&Landed), &'e str);
    let edits: [Edit<'_>; 5] = [
        ("its source", &|l| l.edit(SOURCE, "// amended\n"), "its files come to the closure"),
        ("a header that it includes", &|l| l.edit("kernels/common/cuda.cuh", "// amended\n"), "its files come to"),
        ("its argument header", &|l| l.edit("kernels/args/swiglu.h", "// amended\n"), "its files come to"),
        (
            "its manifest",
            &|l| {
                let path = l.bench.root().join("kernels/swiglu.toml");
                let text = fs::read_to_string(&path).unwrap();
                fs::write(path, text.replacen("name = \"", "name = \"x", 1)).unwrap();
            },
            "its files come to",
        ),
        ("no kernel", &|l| fs::remove_file(l.bench.root().join("kernels/swiglu.toml")).unwrap(), "has no kernel"),
    ];
    for (what, change, says) in edits {
        let landed = Landed::new();
        let forged = landed.forge(change);
        println!("{what}");
        landed.caught(forged, says);
    }
    // What is no file of the kernel is not what was judged.
    let landed = Landed::new();
    landed.forge(|l| l.edit("kernels/rms_norm.cu", "// another kernel\n"));
    landed.audit(0, "2 landed kernels");
}

#[test]
fn a_filter_over_the_whole_history_is_seen_in_every_landing() {
    let landed = Landed::new();
    let mut parents = Vec::new();
    let mut filtered = Vec::new();
    for id in landed.commits {
        landed.check_out(id);
        landed.edit("kernels/common/cuda.cuh", "// everywhere\n");
        parents = vec![commit(&landed.git, &landed.message(id), &parents)];
        filtered.extend(parents.clone());
    }
    let said = landed.audit(4, "2 landings are not what");
    assert!(filtered[1..].iter().all(|id| said.contains(&short(*id))) && !said.contains(&short(filtered[0])), "{said}");
}

#[test]
fn a_commit_that_names_another_node_than_its_evidence_is_of() {
    let landed = Landed::new();
    let message = landed.message(landed.commits[2]) + "Assay-Node: rms_norm\n";
    let forged = commit(&landed.git, &message, &[landed.commits[1]]);
    landed.audit(4, &format!("commit {} names rms_norm, and no evidence that it claims is of it", short(forged)));
}

#[test]
fn a_red_verdict_is_no_landing() {
    let landed = Landed::new();
    let message =
        landed.record(&["swiglu"], |v| *v = Verdict { node: v.node.clone(), binding: v.binding.clone(), ..red(0) });
    let head = commit(&landed.git, &message, &[landed.commits[2]]);
    landed.audit(1, &format!("commit {} claims row 3, which is no pass on a device", short(head)));
}

#[test]
fn squashed_landings_are_history_rewritten_and_no_forgery() {
    let landed = Landed::new();
    let [base, first, second] = landed.commits;
    landed.check_out(second);
    let message = format!("{}\n{}", landed.message(first), landed.message(second));
    let squashed = commit(&landed.git, &message, &[base]);
    let text = format!("history was rewritten: commit {} claims swiglu in row 1 and in row 2", short(squashed));
    landed.audit(1, &text);
}

/// Whoever changes a contract has not forged what was landed under the one before.
#[test]
fn a_landing_under_another_contract_is_counted_apart() {
    let landed = Landed::new();
    // Another assay judged, and says so under its signature.
    landed.edit(SOURCE, "// try 3\n");
    let message = landed.record(&["swiglu"], |v| {
        v.binding.closure = assay::ledger::Digest([6; 32]);
        v.informative.assay = "0.0.1".into();
    });
    let head = commit(&landed.git, &message, &[landed.commits[2]]);
    landed.audit(0, "files not checked: 1 row (3), assay 0.0.1 judged them");
    // The header of another contract was there before the landing, which did not bring it.
    landed.edit("kernels/args/swiglu.h", "// another contract\n");
    let head = commit(&landed.git, "another contract", &[head]);
    landed.edit(SOURCE, "// try 4\n");
    let message = landed.record(&["swiglu"], |v| v.binding.closure = assay::ledger::Digest([7; 32]));
    commit(&landed.git, &message, &[head]);
    landed.audit(0, "files not checked: 1 row (4), they were judged by another contract of `swiglu`");
}

#[test]
fn a_shallow_clone_says_what_it_could_not_check() {
    let landed = Landed::new();
    let clone = tempfile::tempdir().unwrap();
    let url = format!("file://{}", landed.bench.root().display());
    let made = Command::new("git").args(["clone", "-q", "--depth", "1", &url]).arg(clone.path()).status();
    if !made.is_ok_and(|s| s.success()) {
        return println!("could not run: no git to make a shallow clone with");
    }
    let out = assay(clone.path(), landed.home.path(), &["audit"]);
    let said = says(&out, 0, "1 landed kernel computed anew from its commit");
    assert!(said.contains("files not checked: 1 row (1), the commits that landed them"), "{said}");
}

#[test]
fn this_repositorys_own_landings_hold_what_was_judged() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join(".git").exists() {
        return println!("could not run: the sources lie in no repository");
    }
    let home = tempfile::tempdir().unwrap();
    let out = assay(root, home.path(), &["audit", "--json"]);
    let said = String::from_utf8_lossy(&out.stderr);
    if said.contains("[git-owner]") {
        return println!("could not run: the repository is somebody else's");
    }
    assert_eq!(out.status.code(), Some(0), "{said}");
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(json["shallow"] == true || json["landed"].as_u64().is_some_and(|n| n >= 100), "{json}");
}

/// A link was followed: what it led to was judged, and no commit could hold it.
#[test]
fn a_link_in_the_place_of_kernels_is_refused() {
    let landed = Landed::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let kernels = landed.bench.root().join("kernels");
    let moved = elsewhere.path().join("kernels");
    copy(&kernels, &moved);
    fs::remove_dir_all(&kernels).unwrap();
    std::os::unix::fs::symlink(&moved, &kernels).unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/tiny/model.gguf");
    fs::write(landed.bench.root().join("assay.toml"), format!("model = {model:?}\n")).unwrap();
    let run = |args: &[&str]| assay(landed.bench.root(), landed.home.path(), args);
    for args in [&["verify", "swiglu", "--backend", "emulator"][..], &["verify"], &["status"], &["next"]] {
        let said = says(&run(args), 1, "[kernels-link]");
        assert!(said.contains(&format!("kernels is a symlink to {}", moved.display())), "{said}");
    }
    landed.audit(1, "[kernels-link]: what it leads to is in no commit");
    // Staged, and committed: git has a link there, and the files are gone.
    commit(&landed.git, "a link", &[landed.commits[2]]);
    says(&run(&["land", "swiglu"]), 4, "`kernels` is no folder in git");
    landed.audit(4, "[git-link]");
}

#[test]
fn a_linked_kernel_file_is_refused() {
    let landed = Landed::new();
    let source = landed.bench.root().join(SOURCE);
    fs::rename(&source, landed.bench.root().join("kernels/same.cu")).unwrap();
    std::os::unix::fs::symlink("same.cu", &source).unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/tiny/model.gguf");
    fs::write(landed.bench.root().join("assay.toml"), format!("model = {model:?}\n")).unwrap();
    let run = |args: &[&str]| assay(landed.bench.root(), landed.home.path(), args);
    says(&run(&["verify", "swiglu", "--backend", "emulator"]), 1, "swiglu.cu, a link to another file of kernels/");
    commit(&landed.git, "a link", &[landed.commits[2]]);
    says(&run(&["land", "swiglu"]), 4, "[git-link]");
    landed.audit(4, "`kernels/swiglu.cu` is no plain file in git");
}
