//! Green commits: what may land, what is refused, and what the commit then holds.

use std::fs;
use std::path::{Path, PathBuf};

use assay::history::{self, LandRequest, Landed};
use assay::ledger::{Binding, Class, ClosureSource, Closures, Config, Digest, Standing, Target, Trust, Verdict};
use assay::ops::Node;
use assay::plan::Numerics;
use git2::Repository;

use crate::fixture::Workbench;
use crate::fixture::{binding, of_class, red, verdict};
use crate::git::{audit, commit, init};

/// A node per `kernels/<stem>.cu`; its closure is that file and everything in `common/`.
struct Sources;
struct Source(Vec<(PathBuf, Vec<u8>)>);

fn read(dir: &Path, below: &Path, out: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(dir).unwrap().map(|e| e.unwrap()) {
        let path = below.join(entry.file_name());
        match entry.path().is_dir() {
            true => read(&entry.path(), &path, out),
            false => out.push((path, fs::read(entry.path()).unwrap())),
        }
    }
}

impl Closures for Sources {
    fn of(&self, kernels: &Path) -> assay::Result<Box<dyn ClosureSource + '_>> {
        let mut files = Vec::new();
        read(kernels, Path::new(""), &mut files);
        files.sort();
        Ok(Box::new(Source(files)))
    }
}

impl ClosureSource for Source {
    fn nodes(&self) -> Vec<Node> {
        let stems = self.0.iter().filter(|(p, _)| p.extension().is_some_and(|e| e == "cu"));
        stems.map(|(p, _)| p.file_stem().unwrap().to_str().unwrap().parse().unwrap()).collect()
    }

    fn binding(&self, node: &Node, arch: &str, numerics: Numerics) -> assay::Result<Binding> {
        let mut all = Vec::new();
        for (path, bytes) in &self.0 {
            if path.starts_with("common") || path.file_stem().unwrap().to_str().unwrap() == node.file_stem() {
                all.extend_from_slice(bytes);
            }
        }
        Ok(Binding { closure: Digest::of(&all), arch: arch.into(), numerics, ..binding(0) })
    }

    fn touched(&self, changed: &[PathBuf]) -> Vec<Node> {
        let all = changed.iter().any(|p| p.starts_with("common"));
        let named = |n: &Node| changed.iter().any(|p| p.file_stem().unwrap().to_str().unwrap() == n.file_stem());
        self.nodes().into_iter().filter(|n| all || named(n)).collect()
    }
}

struct Repo {
    bench: Workbench,
    git: Repository,
    trust: Trust,
    _config: tempfile::TempDir,
}

impl Repo {
    fn new() -> Repo {
        let bench = Workbench::new();
        let git = init(&bench);
        let config = tempfile::tempdir().unwrap();
        let mut trust = Trust::load(&Config::at(config.path()), None, bench.root()).unwrap();
        trust.trust(bench.key.public().clone(), false).unwrap();
        let repo = Repo { bench, git, trust, _config: config };
        fs::create_dir_all(repo.bench.root().join("kernels/common")).unwrap();
        repo.write("README.md", "a workbench");
        repo.write("kernels/common/cuda.cuh", "v1");
        repo.write("kernels/matmul.q8_0.cu", "draft");
        repo.write("kernels/rms_norm.cu", "draft");
        commit(&repo.git, "base", &[]);
        repo
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.bench.root().join(path), text).unwrap();
    }

    fn stage(&self, path: &str) {
        let mut index = self.git.index().unwrap();
        match self.bench.root().join(path).exists() {
            true => index.add_path(Path::new(path)).unwrap(),
            false => index.remove_path(Path::new(path)).unwrap(),
        }
        index.write().unwrap();
    }

    fn set(&self, path: &str, text: &str) {
        self.write(path, text);
        self.stage(path);
    }

    /// Records a verdict on `node` as the work tree has it.
    fn record(&self, node: &str, edit: impl Fn(Verdict) -> Verdict) -> u64 {
        let node: Node = node.parse().unwrap();
        let source = Sources.of(&self.bench.root().join("kernels")).unwrap();
        let binding = source.binding(&node, "sm_90", Numerics::Ds4).unwrap();
        let verdict = Verdict { node: Target::Node(node), binding, ..verdict(1) };
        self.bench.append(edit(verdict))
    }

    fn land(&self, nodes: &[&str]) -> assay::Result<Landed> {
        let nodes: Vec<Node> = nodes.iter().map(|n| n.parse().unwrap()).collect();
        let request = LandRequest { nodes: &nodes, what: None, numerics: Numerics::Ds4, arch: None };
        history::land(self.bench.root(), &request, &Sources, &self.trust)
    }

    fn refused(&self, nodes: &[&str], id: &str, says: &str) {
        let (head, before) = (self.head(), self.bench.snapshot());
        let error = self.land(nodes).unwrap_err();
        assert_eq!(error.code().id, id, "{error}");
        assert!(error.to_string().contains(says), "expected `{says}` in {error}");
        assert_eq!((head, before), (self.head(), self.bench.snapshot()));
    }

    fn head(&self) -> git2::Oid {
        self.git.head().unwrap().target().unwrap()
    }

    fn at_head(&self, path: &str) -> Vec<u8> {
        let tree = self.git.head().unwrap().peel_to_tree().unwrap();
        let entry = tree.get_path(Path::new(path)).unwrap();
        self.git.find_blob(entry.id()).unwrap().content().to_vec()
    }
}

/// POSTMORTEM.md §7.
#[test]
fn a_proved_node_lands_with_its_evidence() {
    let repo = Repo::new();
    repo.set("kernels/matmul.q8_0.cu", "good");
    repo.record("matmul[q8_0]", |v| v);
    let base = repo.head();
    let landed = repo.land(&["matmul[q8_0]"]).unwrap();
    let head = repo.git.head().unwrap().peel_to_commit().unwrap();
    assert_eq!((head.id().to_string(), head.parent_id(0).unwrap()), (landed.commit, base));
    let digest = repo.bench.open().rows()[1].evidence.digest();
    assert_eq!(
        head.message().unwrap(),
        format!(
            "matmul: matmul[q8_0] green on sm_90\n\n\
             matmul[q8_0]: worst error 3.40e-7 relative RMS, 5.00e-1 absolute; 81.2 µs; NVIDIA H200 (sm_90)\n\n\
             Assay-Evidence: {digest}\nAssay-Node: matmul[q8_0]\n"
        )
    );
    assert_eq!(repo.at_head("kernels/matmul.q8_0.cu"), b"good");
    for name in ["ledger.jsonl", "checkpoint", "progress.json"] {
        assert_eq!(repo.at_head(&format!("state/{name}")), repo.bench.bytes(name));
    }
    let statuses = repo.git.statuses(None).unwrap();
    assert_eq!(statuses.len(), 0, "the work tree is clean afterwards");
    let report = audit(repo.bench.root()).unwrap();
    assert!(report.findings.is_empty() && report.commits == 2);
    assert_eq!(history::landed(repo.bench.root()).unwrap(), [(digest, head.id().to_string())]);
    repo.refused(&["matmul[q8_0]"], "land-nothing", "differ from HEAD");

    // A faster version later: the message says by how much.
    repo.set("kernels/matmul.q8_0.cu", "faster");
    repo.record("matmul[q8_0]", |mut v| {
        v.stages[6].figures.insert("time_us".into(), assay::ledger::Figure::Real(40.0));
        v
    });
    let landed = repo.land(&[]).unwrap();
    assert!(landed.message.contains("81.2 → 40.0 µs"), "{}", landed.message);
    audit(repo.bench.root()).unwrap();
}

#[test]
fn evidence_that_arrives_later_lands_alone() {
    let repo = Repo::new();
    repo.record("rms_norm", |v| v);
    let landed = repo.land(&["rms_norm"]).unwrap();
    assert_eq!(landed.nodes.len(), 1);
    repo.record("matmul[q8_0]", |v| v);
    repo.land(&["matmul[q8_0]"]).unwrap();
    assert_eq!(audit(repo.bench.root()).unwrap().commits, 3);
}

#[test]
fn what_is_not_proved_as_staged_does_not_land() {
    let repo = Repo::new();
    repo.refused(&["matmul[q8_0]"], "land-unproved", "matmul[q8_0]: never judged on a device");
    repo.refused(&["embed[f16]"], "land-unproved", "no kernel of it is staged");
    repo.refused(&[], "land-nothing", "no node is named");
    repo.record("matmul[q8_0]", |v| of_class(v, Class::Emulated));
    repo.refused(&["matmul[q8_0]"], "land-unproved", "never judged on a device");
    repo.record("matmul[q8_0]", |v| of_class(v, Class::Simulated));
    repo.refused(&["matmul[q8_0]"], "land-unproved", "sm_90: not proved");
    repo.record("matmul[q8_0]", |v| v);
    repo.set("kernels/matmul.q8_0.cu", "changed after it was judged");
    repo.refused(&["matmul[q8_0]"], "land-unproved", "since changed: closure");
    repo.record("matmul[q8_0]", |v| Verdict { binding: v.binding.clone(), node: v.node.clone(), ..red(1) });
    repo.refused(&["matmul[q8_0]"], "land-unproved", "red in row");
    repo.record("matmul[q8_0]", |v| v);
    let untrusting = history::land(
        repo.bench.root(),
        &LandRequest { nodes: &[], what: None, numerics: Numerics::Ds4, arch: None },
        &Sources,
        &Trust::nobody(),
    );
    assert!(untrusting.unwrap_err().to_string().contains("which is not trusted here"));
    // Proved as the work tree has it, but another text is staged.
    repo.set("kernels/matmul.q8_0.cu", "staged");
    repo.write("kernels/matmul.q8_0.cu", "changed after it was judged");
    repo.refused(&["matmul[q8_0]"], "land-unproved", "since changed: closure");
}

#[test]
fn every_node_that_a_change_touches_must_be_proved() {
    let repo = Repo::new();
    repo.set("kernels/common/cuda.cuh", "v2");
    repo.record("matmul[q8_0]", |v| v);
    repo.refused(&["matmul[q8_0]"], "land-unproved", "rms_norm: never judged");
    repo.record("rms_norm", |v| v);
    let landed = repo.land(&["matmul[q8_0]"]).unwrap();
    assert_eq!(landed.nodes.len(), 2, "both are taken");
    assert_eq!(landed.message.matches("Assay-Node: ").count(), 2);
    fs::remove_file(repo.bench.root().join("kernels/rms_norm.cu")).unwrap();
    repo.stage("kernels/rms_norm.cu");
    repo.refused(&["matmul[q8_0]"], "land-unproved", "rms_norm: no kernel of it is staged");
}

/// POSTMORTEM.md §7.
#[test]
fn only_kernels_and_state_land() {
    let repo = Repo::new();
    repo.set("kernels/rms_norm.cu", "good");
    repo.record("rms_norm", |v| v);
    repo.set("README.md", "changed too");
    repo.refused(&["rms_norm"], "land-outside", "README.md");
    repo.git
        .reset_default(Some(repo.git.head().unwrap().peel_to_commit().unwrap().as_object()), ["README.md"])
        .unwrap();
    repo.land(&["rms_norm"]).unwrap();
    assert_eq!(repo.at_head("README.md"), b"a workbench");
    assert_eq!(fs::read(repo.bench.root().join("README.md")).unwrap(), b"changed too", "the work tree is left alone");
}

#[test]
fn hooks_filters_and_git_variables_have_no_say() {
    let repo = Repo::new();
    let hooks = repo.git.path().join("hooks");
    fs::create_dir_all(&hooks).unwrap();
    for hook in ["pre-commit", "commit-msg", "post-commit", "reference-transaction", "prepare-commit-msg"] {
        use std::os::unix::fs::PermissionsExt as _;
        let path = hooks.join(hook);
        fs::write(&path, format!("#!/bin/sh\ntouch {}\nexit 1\n", repo.bench.root().join("hook-ran").display()))
            .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    repo.write(".gitattributes", "* text eol=crlf ident\n");
    repo.git.config().unwrap().set_bool("core.autocrlf", true).unwrap();
    repo.set("kernels/rms_norm.cu", "good");
    repo.record("rms_norm", |v| v);
    repo.land(&["rms_norm"]).unwrap();
    assert!(!repo.bench.root().join("hook-ran").exists());
    assert_eq!(repo.at_head("state/ledger.jsonl"), repo.bench.bytes("ledger.jsonl"));
    // A symlink among the kernels is refused: what it points at is not in the tree.
    fs::remove_file(repo.bench.root().join("kernels/rms_norm.cu")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", repo.bench.root().join("kernels/rms_norm.cu")).unwrap();
    repo.stage("kernels/rms_norm.cu");
    let error = repo.land(&["rms_norm"]).unwrap_err();
    assert_eq!(error.code().id, "git-link");
}

#[test]
fn simulated_lands_only_with_a_trust_file_and_says_so() {
    let mut repo = Repo::new();
    repo.record("rms_norm", |v| of_class(v, Class::Simulated));
    repo.refused(&["rms_norm"], "land-unproved", "rms_norm");
    repo.trust.trust(repo.bench.key.public().clone(), true).unwrap();
    let landed = repo.land(&["rms_norm"]).unwrap();
    assert!(landed.simulated);
    assert!(landed.message.contains("simulated"), "{}", landed.message);
    assert!(!audit(repo.bench.root()).unwrap().findings.is_empty());
    let ledger = repo.bench.open();
    let source = Sources.of(&repo.bench.root().join("kernels")).unwrap();
    let node: Node = "rms_norm".parse().unwrap();
    let binding = source.binding(&node, "sm_90", Numerics::Ds4).unwrap();
    assert!(matches!(ledger.standing(&Target::Node(node), &binding, &repo.trust), Standing::Simulated(_)));
}
