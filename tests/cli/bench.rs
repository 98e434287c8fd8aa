//! A workbench in a temporary folder, and the binary run in it.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// Options of `synth` for a file whose prefill needs every node, in two layers and some megabytes: a step of it on the emulator takes
/// a fifth of the time that one of the bundled model takes.
pub const LIGHT: &[&str] =
    &["--shape", "small", "--layers", "2", "--ratios", "0,4", "--hash-layers", "1", "--no-alias"];

/// The same with the window of ratio 128, and without the indexer.
pub const WINDOWED: &[&str] = &["--shape", "small", "--layers", "2", "--ratios", "0,128", "--hash-layers", "1"];

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
    assay_with(dir, args, &[])
}

/// The same with variables of the environment.
pub fn assay_with(dir: &Path, args: &[&str], variables: &[(&str, &Path)]) -> Output {
    let out = assert_cmd::Command::cargo_bin("assay")
        .unwrap()
        .current_dir(dir)
        .env("CUDA_VISIBLE_DEVICES", "")
        .env("NO_COLOR", "1")
        .envs(variables.iter().copied())
        .args(args)
        // What hangs has failed.
        .timeout(std::time::Duration::from_secs(300))
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Output {
        code: out.status.code().unwrap_or_else(|| panic!("{args:?} was killed")),
        stdout: machineless(&text(out.stdout)),
        stderr: text(out.stderr),
    }
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

    /// The repository's kernels, over a light model instead of the bundled one.
    pub fn light() -> Bench {
        Bench::small(LIGHT)
    }

    /// The same over a model of these options.
    pub fn small(options: &[&str]) -> Bench {
        let bench = Bench::new();
        bench.copy("kernels");
        std::fs::remove_file(bench.path("model.gguf")).unwrap();
        bench.synth("model.gguf", options);
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

    /// A file or a folder of the repository, copied.
    pub fn copy(&self, name: &str) {
        fn all(from: &Path, to: &Path) {
            if !from.is_dir() {
                std::fs::copy(from, to).unwrap();
                return;
            }
            std::fs::create_dir_all(to).unwrap();
            for entry in std::fs::read_dir(from).unwrap().flatten() {
                all(&entry.path(), &to.join(entry.file_name()));
            }
        }
        all(&repository().join(name), &self.path(name));
    }

    /// The repository's own ledger, and the keys that wrote it.
    pub fn ledger(&self) {
        self.copy("state");
        let settings = std::fs::read_to_string(repository().join("assay.toml")).unwrap();
        let verifiers = &settings[settings.find("verifiers = [").unwrap()..];
        let own = std::fs::read_to_string(self.path("assay.toml")).unwrap();
        self.write("assay.toml", &format!("{own}{verifiers}"));
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
