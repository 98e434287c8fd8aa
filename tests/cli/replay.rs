//! `assay audit --replay`: rows are judged again from their seeds, and what cannot run here is counted apart.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use assay::ledger::{
    Class, Config, Digest, Evidence, Figure, Ledger, Outcome, SecretKey, Stage, StageOutcome, StageRecord, Statement,
    Target, Verdict, figure,
};

use crate::bench::WINDOWED;

/// The kernels and a small model, and a ledger of the test's own.
struct Bench {
    dir: tempfile::TempDir,
    home: tempfile::TempDir,
    key: SecretKey,
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

impl Bench {
    fn new() -> Bench {
        let (dir, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        copy(&repository.join("kernels"), &dir.path().join("kernels"));
        let settings = "model = \"model.gguf\"\narchitectures = [\"sm_90a\"]\n";
        std::fs::write(dir.path().join("assay.toml"), settings).unwrap();
        let key = Config::at(home.path()).new_key("me").unwrap();
        let bench = Bench { dir, home, key };
        bench.says(&[&["synth", "model.gguf"], WINDOWED].concat(), 0, "model.gguf");
        bench
    }

    fn run(&self, args: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_assay"));
        command.current_dir(self.dir.path()).args(args);
        command.env("ASSAY_CONFIG_DIR", self.home.path()).env("CUDA_VISIBLE_DEVICES", "").env("NO_COLOR", "1");
        let out = command.output().unwrap();
        let text = [out.stdout, out.stderr].concat();
        (out.status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    #[track_caller]
    fn says(&self, args: &[&str], code: i32, text: &str) -> String {
        let (found, said) = self.run(args);
        assert_eq!(found, code, "{said}");
        assert!(said.contains(text), "expected `{text}` in:\n{said}");
        said
    }

    fn verdict(&self, row: usize) -> Verdict {
        Ledger::read(self.dir.path()).unwrap().rows()[row].statement().verdict().unwrap().clone()
    }

    fn append(&self, verdict: Verdict) {
        let evidence = Evidence::sign(Statement::Verdict(Box::new(verdict)), &self.key).unwrap();
        Ledger::open(self.dir.path()).unwrap().append(&[evidence], &self.key).unwrap();
    }
}

/// `verdict` as if a device had made it.
fn of_device(mut verdict: Verdict) -> Verdict {
    verdict.class = Class::Device;
    verdict.binding.arch = "sm_90".into();
    verdict
}

#[test]
fn emulator_rows_come_out_again_and_device_rows_are_counted_apart() {
    let bench = Bench::new();
    let verify = ["verify", "output_hc_weights", "router_hash", "--backend", "emulator", "--record"];
    bench.says(&verify, 0, "recorded as rows [1, 2]");
    bench.says(&["audit", "--replay", "2"], 0, "2 of 2 rows were replayed");
    for row in [1, 2] {
        bench.append(of_device(bench.verdict(row)));
    }
    let mut of_another_file = bench.verdict(1);
    of_another_file.node = "matmul[f32]".parse().unwrap();
    bench.append(of_another_file);
    let said = bench.says(&["audit", "--replay", "5"], 3, "2 of 5 rows were replayed");
    assert!(said.contains("not judged again: 2 rows (3 to 4), could not run: no CUDA device\n"), "{said}");
    assert!(said.contains("not judged again: 1 row (5), matmul[f32] is no node of this file"), "{said}");
    assert_eq!(said.matches("it comes out as recorded").count(), 2, "{said}");
    let (code, json) = bench.run(&["audit", "--replay", "5", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let counts = ["replayed", "not_replayed"].map(|list| json[list].as_array().unwrap().len());
    assert_eq!((code, counts), (3, [2, 3]));
}

#[test]
fn rows_of_one_numerics_or_of_a_thorough_judge_come_out_again() {
    for options in [["--numerics", "ds4"].as_slice(), &["--numerics", "exact"], &["--thorough"]] {
        let bench = Bench::new();
        bench.says(
            &[&["verify", "output_hc_weights", "--backend", "emulator", "--record"], options].concat(),
            0,
            "rows [1]",
        );
        bench.says(&["audit", "--replay", "1"], 0, "1 of 1 row was replayed");
    }
}

#[test]
fn a_made_up_row_does_not_come_out_again() {
    let bytes = |mut v: Verdict| {
        let name = v.outputs.keys().find(|name| name.ends_with(".outputs")).unwrap().clone();
        v.outputs.insert(name, Digest([1; 32]));
        v
    };
    let figures = |mut v: Verdict| {
        let unit = v.stages.iter_mut().find(|s| s.name == Stage::Unit).unwrap();
        for (name, figure) in &mut unit.figures {
            if name.ends_with(figure::REL_RMS) {
                *figure = Figure::Real(0.5);
            }
        }
        v
    };
    let red = |mut v: Verdict| {
        v.outcome = Outcome::Red { stage: Stage::Unit, reason: "wrong".into(), first_bad: String::new() };
        v.stages.retain(|s| s.name < Stage::Unit);
        let (name, outcome) = (Stage::Unit, StageOutcome::Red);
        v.stages.push(StageRecord { name, outcome, figures: BTreeMap::new(), note: String::new() });
        v
    };
    let edits: [(&dyn Fn(Verdict) -> Verdict, &str); 3] = [
        (&bytes, "the same build wrote other bytes"),
        (&figures, "recorded a relative RMS error of 5e-1"),
        (&red, "recorded red, now"),
    ];
    let honest = Bench::new();
    honest.says(&["verify", "output_hc_weights", "--backend", "emulator", "--record"], 0, "recorded as rows [1]");
    let honest = honest.verdict(1);
    assert_eq!(honest.node, Target::Node("output_hc_weights".parse().unwrap()));
    for (edit, says) in edits {
        let bench = Bench::new();
        bench.append(edit(honest.clone()));
        bench.says(&["audit", "--replay", "1"], 4, says);
    }
}
