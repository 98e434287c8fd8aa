//! A workbench in a temporary directory, a key, and verdicts to record.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use assay::ledger::{
    Binding, Class, Digest, Evidence, Figure, Informative, Ledger, Outcome, SecretKey, Seed, Stage, StageOutcome,
    StageRecord, Statement, Target, Verdict, closure_of, figure,
};
use assay::plan::Numerics;

/// What a worker tells that is confined as much as can be.
pub const FULL: &str = r#"{"level":"full","landlock_abi":7,"seccomp":true,"namespaces":false}"#;

pub struct Workbench {
    pub dir: tempfile::TempDir,
    pub key: SecretKey,
    /// The ledger as it was opened before anything happened to it.
    pub held: std::cell::RefCell<Option<Ledger>>,
}

impl Workbench {
    pub fn new() -> Workbench {
        Workbench {
            dir: tempfile::tempdir().unwrap(),
            key: SecretKey::generate("host").unwrap(),
            held: Default::default(),
        }
    }

    /// A ledger of `rows` rows: the key's own, then verdicts with closures 1, 2, ….
    pub fn with_rows(rows: usize) -> Workbench {
        let bench = Workbench::new();
        for i in 1..rows {
            bench.append(verdict(i as u8));
        }
        let ledger = bench.open();
        assert_eq!(ledger.rows().len(), rows);
        *bench.held.borrow_mut() = Some(ledger);
        bench
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    pub fn open(&self) -> Ledger {
        Ledger::open(self.root()).unwrap()
    }

    pub fn append(&self, verdict: Verdict) -> u64 {
        self.open().append(&[sign(verdict, &self.key)], &self.key).unwrap()[0]
    }

    /// A verdict that `key` signs and writes.
    pub fn append_by(&self, key: &SecretKey, closure: u8) -> u64 {
        self.open().append(&[sign(verdict(closure), key)], key).unwrap()[0]
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join("state").join(name)
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// The ledger's lines, each with its newline.
    pub fn lines(&self) -> Vec<Vec<u8>> {
        self.bytes("ledger.jsonl").split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect()
    }

    pub fn put_lines(&self, lines: &[Vec<u8>]) {
        self.put("ledger.jsonl", lines.concat());
    }

    /// Every file of `state/`, to show that a refusal overwrites nothing.
    pub fn snapshot(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let Ok(entries) = fs::read_dir(self.root().join("state")) else { return Vec::new() };
        let entries = entries.map(|e| e.unwrap().path());
        let mut files: Vec<_> = entries.filter(|p| p.is_file()).map(|p| (p.clone(), fs::read(&p).unwrap())).collect();
        files.sort();
        files
    }
}

pub fn sign(verdict: Verdict, key: &SecretKey) -> Evidence {
    Evidence::sign(Statement::Verdict(Box::new(verdict)), key).unwrap()
}

pub fn binding(closure: u8) -> Binding {
    Binding {
        closure: Digest([closure; 32]),
        schedule_slice: Digest([2; 32]),
        numerics: Numerics::Ds4,
        weights: Digest([3; 32]),
        arch: "sm_90".into(),
        protocol: 1,
        cases: Digest([4; 32]),
        oracle_outputs: Digest([5; 32]),
    }
}

pub fn node() -> Target {
    "matmul[q8_0]".parse().unwrap()
}

fn stage(name: Stage, outcome: StageOutcome) -> StageRecord {
    let figures = match name {
        Stage::Unit => vec![(figure::REL_RMS, Figure::Real(3.4e-7)), (figure::MAX_ABS, Figure::Real(0.5))],
        Stage::Graph => vec![(figure::TIME_US, Figure::Real(81.25)), ("nodes", Figure::Count(43))],
        _ => vec![],
    };
    let figures = figures.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
    StageRecord { name, outcome, figures, note: String::new() }
}

/// A device's Pass through stage 7 on `matmul[q8_0]`.
pub fn verdict(closure: u8) -> Verdict {
    let stages = Stage::required(&node()).iter().map(|s| stage(*s, StageOutcome::Pass)).collect();
    Verdict {
        node: node(),
        class: Class::Device,
        outcome: Outcome::Pass,
        binding: binding(closure),
        stages,
        outputs: [("t=1".to_string(), Digest([9; 32]))].into(),
        seed: Seed([7; 32]),
        informative: Informative {
            device: "NVIDIA H200".into(),
            time: "2025-01-01T00:00:00Z".into(),
            sandbox: FULL.into(),
            ..Default::default()
        },
        parts: Default::default(),
    }
}

/// The same on a whole schedule that consists of `nodes`, each with the closure that [`verdict`] gives it.
pub fn whole(nodes: &[(&str, u8)]) -> Verdict {
    let parts: BTreeMap<String, Digest> = nodes.iter().map(|(n, c)| (n.to_string(), Digest([*c; 32]))).collect();
    let binding = Binding { closure: closure_of(&parts), ..binding(0) };
    let stages = Stage::required(&Target::Schedule).iter().map(|s| stage(*s, StageOutcome::Pass)).collect();
    Verdict { node: Target::Schedule, binding, stages, parts, ..verdict(0) }
}

pub fn red(closure: u8) -> Verdict {
    let mut verdict = verdict(closure);
    verdict.outcome = Outcome::Red { stage: Stage::Unit, reason: "wrong".into(), first_bad: "t=2: y[0, 3]".into() };
    verdict.stages.truncate(3);
    verdict.stages.push(stage(Stage::Unit, StageOutcome::Red));
    verdict
}

pub fn of_class(mut verdict: Verdict, class: Class) -> Verdict {
    verdict.class = class;
    if class == Class::Emulated {
        verdict.binding.arch = "emulator".into();
    }
    verdict
}
