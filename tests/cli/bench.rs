//! A workbench in a temporary folder, and the binary run in it.

use std::path::{Path, PathBuf};

use serde_json::Value;

pub struct Bench {
    dir: tempfile::TempDir,
}

/// What a command printed, with its exit code.
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs `assay` in `dir`. No GPU is visible and nothing is coloured, so that every machine prints the same.
pub fn assay(dir: &Path, args: &[&str]) -> Output {
    let out = assert_cmd::Command::cargo_bin("assay")
        .unwrap()
        .current_dir(dir)
        .env("CUDA_VISIBLE_DEVICES", "")
        .env("NO_COLOR", "1")
        .args(args)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Output { code: out.status.code().unwrap(), stdout: machineless(&text(out.stdout)), stderr: text(out.stderr) }
}

/// Whether a driver is installed is the one thing that differs without a GPU.
fn machineless(text: &str) -> String {
    let line = |l: &str| match l.strip_prefix("this machine     ") {
        Some(_) => "this machine     [no device]\n".to_string(),
        None => format!("{l}\n"),
    };
    text.lines().map(line).collect()
}

impl Bench {
    /// A workbench without kernels, over the bundled model.
    pub fn new() -> Bench {
        let bench = Bench { dir: tempfile::tempdir().unwrap() };
        bench.write("assay.toml", "model = \"model.gguf\"\narchitectures = [\"sm_90a\"]\n");
        std::os::unix::fs::symlink(repository().join("reference/tiny/model.gguf"), bench.path("model.gguf")).unwrap();
        bench.write("kernels/args/.keep", "");
        bench.write("reference/.keep", "");
        std::os::unix::fs::symlink(repository().join("reference/port"), bench.path("reference/port")).unwrap();
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn run(&self, args: &[&str]) -> Output {
        assay(self.dir.path(), args)
    }

    /// Output of a command that must succeed.
    pub fn stdout(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert_eq!(out.code, 0, "{args:?}: {}", out.stderr);
        out.stdout
    }

    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.stdout(args)).unwrap()
    }

    /// A synthetic model beside the bundled one.
    pub fn synth(&self, name: &str, options: &[&str]) {
        self.stdout(&[&["synth", name], options].concat());
    }

    /// A kernel that a workbench may hold; nothing here runs it.
    pub fn kernel(&self, stem: &str, types: &[&str]) {
        let op = stem.split('.').next().unwrap();
        let types = if types.is_empty() { String::new() } else { format!("types = {types:?}\n") };
        self.write(&format!("kernels/{stem}.cu"), "");
        self.write(
            &format!("kernels/{stem}.toml"),
            &format!(
                "op = \"{op}\"\n[[variant]]\nname = \"plain\"\n{types}[[variant.launch]]\nentry = \"{op}\"\n\
                 grid = [1, 1, 1]\nblock = [32, 1, 1]\n"
            ),
        );
    }
}
