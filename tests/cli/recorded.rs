//! A workbench with the repository's kernels and a ledger made for a test: rows of class simulated, which count only by a
//! trust file outside of it, with the bindings of the tree and file at hand.

use std::collections::BTreeMap;
use std::path::Path;

use assay::ledger::{
    self, Binding, Class, ClosureSource, Config, Evidence, Figure, Informative, Ledger, Outcome, SecretKey, Seed,
    Stage, StageOutcome, StageRecord, Statement, Target, Verdict, figure,
};
use assay::model::Model;
use assay::plan::Numerics;
use assay::plan::manifest::EMULATOR;
use assay::verify::binding::Workshop;

use crate::bench::{Bench, Output, assay_with};

pub struct Recorded {
    pub bench: Bench,
    pub home: tempfile::TempDir,
    pub key: SecretKey,
    evidence: Vec<Evidence>,
}

impl Recorded {
    /// A small file of four layers: a plan of the bundled model's kind, and weights that are hashed at once.
    pub fn new() -> Recorded {
        let (bench, home) = (Bench::new(), tempfile::tempdir().unwrap());
        bench.copy("kernels");
        bench.synth("small.gguf", &["--shape", "small"]);
        bench.write("assay.toml", "model = \"small.gguf\"\narchitectures = [\"sm_90a\"]\n");
        let key = Config::at(home.path()).new_key("me").unwrap();
        let recorded = Recorded { bench, home, key, evidence: Vec::new() };
        let trusted = recorded.run(&["key", "trust", &recorded.key.public().to_string(), "--simulated"]);
        assert_eq!(trusted.code, 0, "{}", trusted.stderr);
        recorded
    }

    pub fn run(&self, args: &[&str]) -> Output {
        assay_with(&self.bench.path(""), args, &[("ASSAY_CONFIG_DIR", self.home.path())])
    }

    pub fn root(&self) -> std::path::PathBuf {
        self.bench.path("")
    }

    /// A pass of every node named, as the tree has it now.
    pub fn pass(&mut self, nodes: &[&str]) {
        let model = Model::open(&self.bench.path("small.gguf")).unwrap();
        let tree = Workshop::new(&model).unwrap().tree(&self.bench.path("kernels")).unwrap();
        for node in nodes {
            let verdict = passed_in(&tree, node, "sm_90");
            self.sign(Statement::Verdict(Box::new(verdict)));
        }
    }

    /// A pass, changed into something else.
    pub fn verdict(&mut self, node: &str, edit: impl FnOnce(&mut Verdict)) {
        self.verdict_on("sm_90", node, edit);
    }

    /// A pass on the emulator, changed into something else.
    pub fn emulated(&mut self, node: &str, edit: impl FnOnce(&mut Verdict)) {
        self.verdict_on(EMULATOR, node, |v| {
            v.class = Class::Emulated;
            edit(v);
        });
    }

    fn verdict_on(&mut self, arch: &str, node: &str, edit: impl FnOnce(&mut Verdict)) {
        let model = Model::open(&self.bench.path("small.gguf")).unwrap();
        let tree = Workshop::new(&model).unwrap().tree(&self.bench.path("kernels")).unwrap();
        let mut verdict = passed_in(&tree, node, arch);
        edit(&mut verdict);
        self.sign(Statement::Verdict(Box::new(verdict)));
    }

    pub fn red(&mut self, node: &str, stage: Stage, reason: &str) {
        self.verdict(node, |v| turn_red(v, stage, reason));
    }

    /// A bench row on the whole schedule.
    pub fn bench(&mut self, run: &str, rate: f64) {
        let model = Model::open(&self.bench.path("small.gguf")).unwrap();
        let tree = Workshop::new(&model).unwrap().tree(&self.bench.path("kernels")).unwrap();
        let (binding, _) = tree.schedule("sm_90").unwrap().unwrap();
        let runs = [(run.to_string(), [("tokens_per_s".to_string(), Figure::Real(rate))].into())].into();
        let bench = ledger::Bench {
            node: Target::Schedule,
            class: Class::Simulated,
            binding,
            runs,
            informative: Informative::default(),
        };
        self.sign(Statement::Bench(Box::new(bench)));
    }

    fn sign(&mut self, statement: Statement) {
        self.evidence.push(Evidence::sign(statement, &self.key).unwrap());
    }

    pub fn last(&self) -> &Evidence {
        self.evidence.last().unwrap()
    }

    /// Writes what was signed so far as rows; row 0 is the key's.
    pub fn append(&self) -> Vec<u64> {
        Ledger::open(&self.root()).unwrap().append(&self.evidence, &self.key).unwrap()
    }
}

pub fn turn_red(verdict: &mut Verdict, stage: Stage, reason: &str) {
    verdict.outcome = Outcome::Red { stage, reason: reason.into(), first_bad: "T=1: y[0, 3]".into() };
    verdict.stages.retain(|s| s.name <= stage);
    for record in verdict.stages.iter_mut().filter(|s| s.name == stage) {
        record.outcome = StageOutcome::Red;
    }
}

fn passed_in(tree: &dyn ClosureSource, node: &str, arch: &str) -> Verdict {
    let target: Target = node.parse().unwrap();
    let (binding, parts) = match &target {
        Target::Node(node) => (tree.binding(node, arch, Numerics::Ds4).unwrap(), BTreeMap::new()),
        Target::Schedule => tree.schedule(arch).unwrap().unwrap(),
    };
    Verdict { parts, ..passed(target, binding) }
}

fn passed(node: Target, binding: Binding) -> Verdict {
    let stage = |name: &Stage| {
        let figures = match name {
            Stage::Unit => vec![(figure::REL_RMS, Figure::Real(3.4e-7)), (figure::MAX_ABS, Figure::Real(0.5))],
            Stage::Graph => vec![(figure::TIME_US, Figure::Real(81.25))],
            _ => vec![],
        };
        let figures = figures.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
        StageRecord { name: *name, outcome: StageOutcome::Pass, figures, note: String::new() }
    };
    Verdict {
        stages: Stage::required(&node).iter().map(stage).collect(),
        node,
        class: Class::Simulated,
        outcome: Outcome::Pass,
        binding,
        outputs: BTreeMap::new(),
        seed: Seed([7; 32]),
        informative: Informative {
            time: "2026-01-01T00:00:00Z".into(),
            sandbox: r#"{"level":"full","landlock_abi":7,"seccomp":true,"namespaces":false}"#.into(),
            ..Default::default()
        },
        parts: BTreeMap::new(),
    }
}

/// git, without any configuration but a name to commit under.
pub fn git(dir: &Path, args: &[&str]) -> (bool, String) {
    let name = ["-c", "user.name=tester", "-c", "user.email=tester@example.org"];
    let out = std::process::Command::new("git")
        .current_dir(dir)
        .args(name)
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .output()
        .unwrap();
    (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}
