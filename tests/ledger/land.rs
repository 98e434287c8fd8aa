//! Green commits: what may land, what is refused, and what the commit then holds.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use assay::history::{self, LandRequest, Landed};
use assay::ledger::{
    Binding, Class, ClosureSource, Closures, Config, Digest, Evidence, Revocation, SecretKey, Standing, Statement,
    Target, Trust, Verdict, closure_of,
};
use assay::ops::Node;
use assay::plan::Numerics;
use git2::Repository;

use crate::fixture::Workbench;
use crate::fixture::{binding, of_class, red, verdict, whole};
use crate::git::{audit, commit, init};

/// A node per `kernels/<stem>.cu`; its closure is that file and everything in `common/`. Its cases are a
/// contract's, which is no file of a kernel's.
#[derive(Default)]
pub struct Sources {
    cases: Cell<u8>,
}
struct Source(Vec<(PathBuf, Vec<u8>)>, Digest);

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
        Ok(Box::new(Source(files, Digest([self.cases.get(); 32]))))
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
        Ok(Binding { closure: Digest::of(&all), arch: arch.into(), numerics, cases: self.1, ..binding(0) })
    }

    fn schedule(&self, arch: &str) -> assay::Result<Option<(Binding, BTreeMap<String, Digest>)>> {
        let closure = |n: Node| Ok((n.to_string(), self.binding(&n, arch, Numerics::Ds4)?.closure));
        let parts = self.nodes().into_iter().map(closure).collect::<assay::Result<BTreeMap<_, _>>>()?;
        Ok(Some((Binding { closure: closure_of(&parts), arch: arch.into(), cases: self.1, ..binding(0) }, parts)))
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
    sources: Sources,
    config: tempfile::TempDir,
}

impl Repo {
    fn new() -> Repo {
        let config = tempfile::tempdir().unwrap();
        let key = Config::at(config.path()).new_key("host").unwrap();
        let bench = Workbench { key, ..Workbench::new() };
        let git = init(&bench);
        let mut trust = Trust::load(&Config::at(config.path()), None, bench.root()).unwrap();
        trust.trust(bench.key.public().clone(), false).unwrap();
        let repo = Repo { bench, git, trust, sources: Sources::default(), config };
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
        let source = self.sources.of(&self.bench.root().join("kernels")).unwrap();
        let binding = source.binding(&node, "sm_90", Numerics::Ds4).unwrap();
        let verdict = Verdict { node: Target::Node(node), binding, ..verdict(1) };
        self.bench.append(edit(verdict))
    }

    /// Records a verdict on the whole schedule as the work tree has it.
    fn record_whole(&self) -> u64 {
        let source = self.sources.of(&self.bench.root().join("kernels")).unwrap();
        let (binding, parts) = source.schedule("sm_90").unwrap().unwrap();
        self.bench.append(Verdict { binding, parts, ..whole(&[]) })
    }

    /// Lands as the holder of `writer`.
    fn land_as(
        &self,
        nodes: &[&str],
        what: Option<&str>,
        trust: &Trust,
        writer: &dyn Fn() -> assay::Result<SecretKey>,
    ) -> assay::Result<Vec<Landed>> {
        let nodes: Vec<Target> = nodes.iter().map(|n| n.parse().unwrap()).collect();
        let request = LandRequest { nodes: &nodes, what, numerics: Numerics::Ds4, arch: None, writer };
        history::land(self.bench.root(), &request, &self.sources, trust)
    }

    /// Lands as someone who holds no key, in one commit.
    fn land(&self, nodes: &[&str]) -> assay::Result<Landed> {
        let no_key = || Err(assay::Error::usage("a key was asked for"));
        let mut landed = self.land_as(nodes, None, &self.trust, &no_key)?;
        assert_eq!(landed.len(), 1);
        Ok(landed.pop().unwrap())
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
    repo.refused(&["matmul[q8_0]"], "land-nothing", "proved in HEAD's ledger as staged");

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

/// What a run of `assay agent` does by itself: a kernel that nobody staged is staged, lands, and is known to have landed;
/// what does not land is as unstaged as it was.
#[test]
fn a_run_stages_what_it_lands_and_takes_back_what_it_does_not() {
    let repo = Repo::new();
    let (file, node) = ("kernels/matmul.q8_0.cu".to_string(), "matmul[q8_0]".parse().unwrap());
    let root = repo.bench.root();
    let staged = ["matmul.q8_0.cu".to_string()];
    repo.write(&file, "good");
    let refused = history::with_staged(root, &staged, || repo.land(&["matmul[q8_0]"])).unwrap_err();
    assert_eq!(refused.code().id, "land-unproved");
    assert_eq!(repo.git.status_file(Path::new(&file)).unwrap(), git2::Status::WT_MODIFIED);

    let files = [(file.clone(), "good".to_string())];
    assert_eq!(history::landed_as(root, &node, &files).unwrap(), None);
    repo.record("matmul[q8_0]", |v| v);
    let landed = history::with_staged(root, &staged, || repo.land(&["matmul[q8_0]"])).unwrap();
    assert_eq!(repo.at_head(&file), b"good");
    assert_eq!(history::landed_as(root, &node, &files).unwrap(), Some(landed.commit));
    assert_eq!(history::landed_as(root, &node, &[(file, "other".into())]).unwrap(), None);
    assert_eq!(history::landed_as(root, &"rms_norm".parse().unwrap(), &files).unwrap(), None);
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
    let untrusting = repo.land_as(&[], None, &Trust::nobody(), &|| unreachable!());
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
    let source = repo.sources.of(&repo.bench.root().join("kernels")).unwrap();
    let node: Node = "rms_norm".parse().unwrap();
    let binding = source.binding(&node, "sm_90", Numerics::Ds4).unwrap();
    assert!(matches!(ledger.standing(&Target::Node(node), &binding, &repo.trust), Standing::Simulated(_)));
}

/// A repository in which both nodes are landed, and whose contracts then ask other cases.
fn stale() -> Repo {
    let repo = Repo::new();
    for node in ["matmul[q8_0]", "rms_norm"] {
        repo.record(node, |v| v);
        repo.land(&[node]).unwrap();
    }
    repo.sources.cases.set(77);
    repo
}

fn tree_of(repo: &Repo, commit: git2::Oid, path: &str) -> Option<git2::Oid> {
    let tree = repo.git.find_commit(commit).unwrap().tree().unwrap();
    tree.get_path(Path::new(path)).ok().map(|entry| entry.id())
}

#[test]
fn a_stale_node_lands_again_by_its_evidence_alone() {
    let repo = stale();
    repo.refused(&["matmul[q8_0]"], "land-unproved", "proved in row 1, but since changed: cases");
    repo.refused(&[], "land-nothing", "assay status");
    let row = repo.record("matmul[q8_0]", |v| v);
    repo.refused(&[], "land-nothing", "assay land 'matmul[q8_0]'");
    let base = repo.head();
    let landed = repo.land_as(&["matmul[q8_0]"], Some("asked for longer rows"), &repo.trust, &|| unreachable!());
    let landed = landed.unwrap();
    let head = repo.git.head().unwrap().peel_to_commit().unwrap();
    assert_eq!((landed[0].commit.clone(), head.parent_id(0).unwrap()), (head.id().to_string(), base));
    assert_eq!(landed[0].nodes, [("matmul[q8_0]".parse().unwrap(), row)]);
    let digest = repo.bench.open().rows()[row as usize].evidence.digest();
    assert_eq!(
        head.message().unwrap(),
        format!(
            "matmul: asked for longer rows\n\n\
             matmul[q8_0]: worst error 3.40e-7 relative RMS, 5.00e-1 absolute; 81.2 µs; NVIDIA H200 (sm_90)\n\
             matmul[q8_0]: its files in kernels/ are unchanged; changed since row 1: cases\n\n\
             Assay-Evidence: {digest}\nAssay-Node: matmul[q8_0]\n"
        )
    );
    assert_eq!(tree_of(&repo, head.id(), "kernels"), tree_of(&repo, base, "kernels"));
    assert_ne!(tree_of(&repo, head.id(), "state"), tree_of(&repo, base, "state"));
    assert_eq!(repo.git.statuses(None).unwrap().len(), 0);
    assert!(audit(repo.bench.root()).unwrap().findings.is_empty());
    repo.refused(&["matmul[q8_0]"], "land-nothing", "nothing to land for matmul[q8_0] (row 3)");
    repo.refused(&["matmul[q8_0]", "rms_norm"], "land-unproved", "rms_norm: sm_90: proved in row 2, but");

    // Without -w the subject says that it was green before.
    repo.record("rms_norm", |v| v);
    assert!(repo.land(&["rms_norm"]).unwrap().message.starts_with("rms_norm: rms_norm green on sm_90 again\n"));
}

#[test]
fn a_repeated_proof_of_what_is_landed_has_nothing_to_land() {
    let repo = Repo::new();
    repo.record("rms_norm", |v| v);
    repo.land(&["rms_norm"]).unwrap();
    repo.record("rms_norm", |mut v| {
        v.informative.time = "2026-01-01T00:00:00Z".into();
        v
    });
    repo.refused(&["rms_norm"], "land-nothing", "nothing to land for rms_norm");
}

#[test]
fn a_stale_node_does_not_land_by_evidence_that_is_red_untrusted_or_emulated() {
    let repo = stale();
    repo.record("rms_norm", |v| of_class(v, Class::Emulated));
    repo.refused(&["rms_norm"], "land-unproved", "since changed: cases");
    repo.record("rms_norm", |v| v);
    let untrusting = repo.land_as(&["rms_norm"], None, &Trust::nobody(), &|| unreachable!()).unwrap_err();
    assert_eq!(untrusting.code().id, "land-unproved");
    repo.record("rms_norm", |v| Verdict { binding: v.binding.clone(), node: v.node.clone(), ..red(1) });
    repo.refused(&["rms_norm"], "land-unproved", "red in row");
    repo.set("README.md", "staged too");
    repo.refused(&["rms_norm"], "land-outside", "README.md");
}

#[test]
fn several_stale_nodes_land_a_commit_each() {
    let repo = stale();
    // Both come home before either is landed, in another order than they are named in.
    let second = repo.record("rms_norm", |v| v);
    let first = repo.record("rms_norm", |v| Verdict { node: v.node.clone(), binding: v.binding.clone(), ..red(1) });
    assert_eq!(first, second + 1);
    let again = repo.record("rms_norm", |mut v| {
        v.informative.time = "2026-01-01T00:00:00Z".into();
        v
    });
    let last = repo.record("matmul[q8_0]", |v| v);
    let both = ["matmul[q8_0]", "rms_norm"];
    repo.refused(&["matmul[q8_0]"], "land-unclaimed", "assay land 'matmul[q8_0]' 'rms_norm'");
    let key = || Config::at(repo.config.path()).key(None);
    let stranger = || SecretKey::generate("stranger");
    let (head, before) = (repo.head(), repo.bench.snapshot());
    let refused = repo.land_as(&both, None, &repo.trust, &stranger).unwrap_err();
    assert!(refused.to_string().contains("key stranger has not joined the ledger"), "{refused}");
    assert_eq!((head, before), (repo.head(), repo.bench.snapshot()));

    let landed = repo.land_as(&both, Some("other cases"), &repo.trust, &key).unwrap();
    let rows: Vec<_> = landed.iter().flat_map(|l| &l.nodes).map(|(node, row)| (node.to_string(), *row)).collect();
    assert_eq!(rows, [("rms_norm".into(), again), ("matmul[q8_0]".into(), last)]);
    assert!(landed[0].message.starts_with("rms_norm: other cases\n"));
    let tip = repo.git.head().unwrap().peel_to_commit().unwrap();
    assert_eq!(
        (tip.id().to_string(), tip.parent_id(0).unwrap().to_string()),
        (landed[1].commit.clone(), landed[0].commit.clone())
    );
    let ledger = tree_of(&repo, tip.parent_id(0).unwrap(), "state/ledger.jsonl").unwrap();
    let lines = repo.bench.lines()[..last as usize].concat();
    assert_eq!(repo.git.find_blob(ledger).unwrap().content(), lines, "up to the row before the next commit's");
    let report = audit(repo.bench.root()).unwrap();
    assert_eq!((report.commits, report.findings.len()), (5, 0));
    assert_eq!(repo.git.statuses(None).unwrap().len(), 0);
}

#[test]
fn a_landing_leaves_what_proves_other_nodes_to_a_later_one() {
    let repo = stale();
    repo.record("rms_norm", |v| v);
    repo.record("matmul[q8_0]", |v| v);
    let key = || Config::at(repo.config.path()).key(None);
    repo.land_as(&["rms_norm"], None, &repo.trust, &key).unwrap();
    assert_ne!(repo.at_head("state/ledger.jsonl"), repo.bench.bytes("ledger.jsonl"));
    repo.land(&["matmul[q8_0]"]).unwrap();
    assert_eq!(repo.at_head("state/ledger.jsonl"), repo.bench.bytes("ledger.jsonl"));
    assert_eq!(audit(repo.bench.root()).unwrap().commits, 5);
}

/// A schedule's row is no node's: it is neither swept along by a node's commit nor landed while a node is unproved.
#[test]
fn the_whole_schedule_lands_alone_and_only_with_every_node_of_it() {
    let repo = Repo::new();
    let nodes = repo.sources.of(&repo.bench.root().join("kernels")).unwrap().nodes();
    let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    assert!(names.len() > 1, "{names:?}");
    let mine = |repo: &Repo| Config::at(repo.config.path()).key(None);
    let land_all = |repo: &Repo, names: &[&str]| repo.land_as(names, None, &repo.trust, &|| mine(repo)).unwrap();
    for name in &names[1..] {
        repo.record(name, |v| v);
    }
    repo.record_whole();
    repo.refused(&["*"], "land-unproved", &format!("but {}: not proved", names[0]));
    land_all(&repo, &names[1..].iter().map(String::as_str).collect::<Vec<_>>());
    repo.record(&names[0], |v| v);
    // Its row is before the node's, so it holds from that one on, and they land together.
    repo.refused(&[&names[0]], "land-unclaimed", "*");
    repo.refused(&["*"], "land-unclaimed", &names[0]);
    let landed = land_all(&repo, &[&names[0], "*"]);
    let [landed] = &landed[..] else { panic!("{landed:?}") };
    assert_eq!(landed.nodes.len(), 2);
    let subject = format!("{0}, state: {0}", names[0].split('[').next().unwrap());
    assert!(landed.message.starts_with(&subject), "{}", landed.message);
    assert!(landed.message.lines().next().unwrap().ends_with(": prefill works on sm_90"), "{}", landed.message);
    let progress = || String::from_utf8(repo.at_head("state/progress.json")).unwrap();
    assert!(progress().contains("\"prefill_working\": ["), "{}", progress());
    repo.refused(&["*"], "land-nothing", "proved in HEAD's ledger as staged");
    // A kernel changes: the schedule's proof is of other closures, until it is judged again.
    repo.set(&format!("kernels/{}.cu", nodes[0].file_stem()), "another");
    repo.record(&names[0], |v| v);
    repo.land(&[&names[0]]).unwrap();
    repo.refused(&["*"], "land-unproved", "since changed: closure");
    let row = repo.record_whole();
    let landed = repo.land(&["*"]).unwrap();
    assert_eq!(landed.nodes, [(Target::Schedule, row)]);
    assert!(landed.message.starts_with("state: prefill works on sm_90 again\n\n*: "), "{}", landed.message);
    assert!(landed.message.ends_with("Assay-Node: *\n"), "{}", landed.message);
    audit(repo.bench.root()).unwrap();
}

/// What a signature is worth, and what its kernel could have reached meanwhile: neither counts without the other.
#[test]
fn a_node_whose_proof_is_void_does_not_land() {
    let repo = Repo::new();
    let asks = "model = \"none.gguf\"\nsandbox = \"full\"\n";
    repo.write("assay.toml", asks);
    commit(&repo.git, "settings", &[]);
    repo.set("kernels/matmul.q8_0.cu", "good");
    let less = r#"{"level":"partial","landlock_abi":0,"seccomp":true,"namespaces":true}"#;
    repo.record("matmul[q8_0]", |mut v| {
        v.informative.sandbox = less.into();
        v
    });
    repo.refused(&["matmul[q8_0]"], "land-unproved", "proved in row 1, but its kernel ran under confinement `partial`");
    // Nor does an edit that nobody has committed take back what the tree asks for.
    repo.write("assay.toml", "model = \"none.gguf\"\nsandbox = \"none\"\n");
    let own = repo.config.path().join("trust.toml");
    fs::write(&own, format!("sandbox = \"none\"\n\n{}", fs::read_to_string(&own).unwrap())).unwrap();
    let trust = Trust::load(&Config::at(repo.config.path()), None, repo.bench.root()).unwrap();
    assert_eq!(trust.sandbox().name(), "none");
    let no_key = || Err(assay::Error::usage("a key was asked for"));
    let error = repo.land_as(&["matmul[q8_0]"], None, &trust, &no_key).unwrap_err();
    assert!(error.to_string().contains("and `full` is asked for"), "{error}");
    repo.write("assay.toml", asks);
    repo.record("matmul[q8_0]", |v| v);
    let ledger = repo.bench.open();
    let (key, first) = (repo.bench.key.public().clone(), ledger.rows()[0].hash);
    let revocation = Revocation { key, why: "lost".into(), ledger: first, keeps: Vec::new(), time: String::new() };
    let evidence = Evidence::sign(Statement::Revocation(Box::new(revocation)), &repo.bench.key).unwrap();
    repo.bench.open().append(&[evidence], &repo.bench.key).unwrap();
    repo.refused(&["matmul[q8_0]"], "land-unproved", "was revoked in row 3 (lost)");
}
