//! A workbench for one exhibit, and the program run in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::attack::attack;
use crate::exhibits::{CARD, Change, Exhibit, What};

/// The same cases in every run: a test that fails today and passes tomorrow helps nobody. `ASSAY_GALLERY_SEED` draws
/// others.
const SEED: &str = "67616c6c65727900000000000000000000000000000000000000000000000001";

pub fn seed() -> String {
    std::env::var("ASSAY_GALLERY_SEED").unwrap_or_else(|_| SEED.into())
}

/// What the program said of the exhibit's node.
pub struct Verdict {
    pub exit: i32,
    pub summary: String,
    /// The red stage, or nothing; of an attack the command that refused it.
    pub stage: String,
    pub reason: String,
}

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Compiled kernels of all exhibits and runs: an unchanged one is compiled once.
pub fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("gallery-cache")
}

/// Judges an exhibit in a workbench of its own.
pub fn judge(exhibit: &Exhibit) -> Result<Verdict, String> {
    let (node, change) = match &exhibit.what {
        What::Attack(steps) => return attack(steps),
        What::Kernel { node, change } => (*node, change),
    };
    let bench = tempfile::tempdir().map_err(|e| e.to_string())?;
    lay_out(change, bench.path()).map_err(|e| format!("  the workbench: {e}"))?;
    let output = Command::new(env!("CARGO_BIN_EXE_assay"))
        .args(["verify", node, "--backend", "emulator", "--json", "--seed", &seed()])
        .current_dir(bench.path())
        .env("ASSAY_CACHE_DIR", cache())
        .output()
        .map_err(|e| format!("  assay: {e}"))?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let exit = output.status.code().unwrap_or(-1);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|e| format!("  exit {exit}, and no JSON on standard output ({e}):\n{said}"))?;
    let verdict = match report["verdicts"].as_array().map(Vec::as_slice) {
        Some([one]) => one,
        _ => return Err(format!("  exit {exit}, and not one verdict:\n{said}")),
    };
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_string();
    let stages = verdict["stages"].as_array().cloned().unwrap_or_default();
    let red = stages.iter().find(|s| s["outcome"] == "red");
    Ok(Verdict {
        exit,
        summary: text(&verdict["summary"]),
        stage: red.map_or(String::new(), |s| text(&s["stage"])),
        reason: text(&verdict["reason"]),
    })
}

/// `assay.toml` and a copy of `kernels/`, with the exhibit's change made.
fn lay_out(change: &Change, root: &Path) -> std::io::Result<()> {
    let model = repository().join("reference/tiny/model.gguf");
    fs::write(root.join("assay.toml"), format!("model = {:?}\n", model.to_string_lossy()))?;
    let kernels = root.join("kernels");
    copy(&repository().join("kernels"), &kernels)?;
    match change {
        Change::Files(folder) => {
            for entry in fs::read_dir(repository().join("tests/gallery").join(folder))? {
                let entry = entry?;
                if entry.file_name() != CARD {
                    fs::copy(entry.path(), kernels.join(entry.file_name()))?;
                }
            }
            Ok(())
        }
        Change::Edit { file, from, to } => edit(&kernels.join(file), from, to),
    }
}

/// What is to be changed must be there, and once.
pub fn edit(path: &Path, from: &str, to: &str) -> std::io::Result<()> {
    let honest = fs::read_to_string(path)?;
    if honest.matches(from).count() != 1 {
        return Err(std::io::Error::other(format!("{} does not hold `{from}` once: mend the exhibit", path.display())));
    }
    fs::write(path, honest.replace(from, to))
}

pub fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
