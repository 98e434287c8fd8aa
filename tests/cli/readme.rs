use std::path::Path;
use std::process::Command;

/// The README's blocks of commands that begin with `assay`.
fn blocks(readme: &str) -> Vec<&str> {
    readme.split("```\n").skip(1).step_by(2).filter(|block| block.starts_with("assay ")).collect()
}

/// What a command of the README prints, run by a shell in the repository as a reader would.
fn shell(command: &str) -> String {
    let binary = assert_cmd::cargo::cargo_bin("assay");
    let path = format!("{}:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let out = Command::new("bash")
        .args(["-c", command])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PATH", path)
        .env("CUDA_VISIBLE_DEVICES", "")
        .output()
        .unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// `assay logits --tokens 1,2,3` stood there and was a usage error.
#[test]
fn the_readmes_commands_run() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let blocks = blocks(&readme);
    let [list, question] = blocks.as_slice() else { panic!("{blocks:?}") };
    let dir = tempfile::tempdir().unwrap();
    let npy = dir.path().join("x.npy");
    for line in list.lines() {
        let command = line.split("   ").next().unwrap().replace("[MODEL]", "").replace("TEXT", "'38+45='");
        assert!(!shell(&command.replace("x.npy", npy.to_str().unwrap())).is_empty());
    }
    assert!(npy.is_file());
    assert_eq!(shell(question), "47\n");
}

/// Tables and links cannot be broken, everything else can.
#[test]
fn the_readmes_lines_fit_a_screen() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let long = |l: &&str| l.chars().count() > 120 && !l.starts_with('|') && !l.contains("](");
    assert_eq!(readme.lines().filter(long).collect::<Vec<_>>(), Vec::<&str>::new());
}

/// It said that `verify` runs one prefill through the kernels; that one is the oracle's.
#[test]
fn the_readme_says_where_the_one_prefill_runs() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    assert!(readme.contains("runs one prefill on the oracle."));
}
