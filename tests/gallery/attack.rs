//! Attacks on what happens around a verdict. The steps of an exhibit are taken in a workbench of their own, under git; all
//! but the last must succeed, and the last is what must be refused, with nothing written.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use assay::ledger::{
    Class, ClosureSource as _, Config, Evidence, Informative, Ledger, Outcome, SecretKey, Seed, Stage, StageOutcome,
    StageRecord, Statement, Target, Trust, Verdict as Judged,
};
use assay::model::Model;
use assay::plan::Numerics;
use assay::verify::binding::Workshop;
use git2::{IndexAddOption, Repository, Signature};
use serde::Deserialize;

use crate::bench::{Verdict, cache, copy, edit, repository};

type Done<T> = Result<T, String>;

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// One edit of one file of the work tree.
    Edit(Edit),
    /// A verdict that would land is on record, of these nodes as the work tree has them: of class simulated, which counts by a
    /// trust file outside, since no device is needed to see what is refused.
    Judge(Vec<String>),
    /// `git add` of this folder.
    Stage(String),
    /// Another file takes the model's name.
    AnotherModel {},
    /// A command.
    Run(Vec<String>),
    /// A command during which, while it compiles a kernel, the model's file is written to in place.
    RunWhileTheModelChanges(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    pub file: String,
    pub from: String,
    pub to: String,
}

struct Scene {
    root: tempfile::TempDir,
    home: tempfile::TempDir,
    key: SecretKey,
    git: Repository,
    evidence: Vec<Evidence>,
}

/// What became of the last step.
pub fn attack(steps: &[Step]) -> Done<Verdict> {
    let mut scene = Scene::new()?;
    let Some((last, before)) = steps.split_last() else { return Err("  it has no steps".into()) };
    for step in before {
        if let Some((name, output)) = scene.take(step)?
            && !output.status.success()
        {
            return Err(format!("  `{name}` is not the step that is to be refused:\n{}", said(&output)));
        }
    }
    let ledger = scene.ledger();
    let Some((name, output)) = scene.take(last)? else { return Err("  its last step is no command".into()) };
    let refused = !output.status.success();
    if refused && scene.ledger() != ledger {
        return Err(format!("  it is refused, and the ledger changed all the same:\n{}", said(&output)));
    }
    Ok(Verdict {
        exit: output.status.code().unwrap_or(-1),
        summary: if refused { "red" } else { "pass" }.into(),
        stage: if refused { name } else { String::new() },
        reason: said(&output),
    })
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn text(e: impl std::fmt::Display) -> String {
    format!("  the workbench: {e}")
}

impl Scene {
    fn new() -> Done<Scene> {
        let (root, home) = (tempfile::tempdir().map_err(text)?, tempfile::tempdir().map_err(text)?);
        copy(&repository().join("kernels"), &root.path().join("kernels")).map_err(text)?;
        fs::write(root.path().join("assay.toml"), "model = \"model.gguf\"\n").map_err(text)?;
        let key = Config::at(home.path()).new_key("judge").map_err(text)?;
        let mut trust = Trust::load(&Config::at(home.path()), None, root.path()).map_err(text)?;
        trust.trust(key.public().clone(), true).map_err(text)?;
        let git = Repository::init(root.path()).map_err(text)?;
        let mut config = git.config().map_err(text)?;
        config.set_str("user.name", "somebody").map_err(text)?;
        config.set_str("user.email", "somebody@example.org").map_err(text)?;
        fs::write(git.path().join("info/exclude"), "*.gguf\n").map_err(text)?;
        let scene = Scene { root, home, key, git, evidence: Vec::new() };
        scene.synth("model.gguf", "1")?;
        scene.stage("*")?;
        let tree = scene.git.index().and_then(|mut index| index.write_tree()).map_err(text)?;
        let author = Signature::now("somebody", "somebody@example.org").map_err(text)?;
        let tree = scene.git.find_tree(tree).map_err(text)?;
        scene.git.commit(Some("HEAD"), &author, &author, "as it was", &tree, &[]).map_err(text)?;
        drop(tree);
        Ok(scene)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn ledger(&self) -> Option<Vec<u8>> {
        fs::read(self.path("state/ledger.jsonl")).ok()
    }

    fn command(&self, args: &[String], cache: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_assay"));
        command.args(args).current_dir(self.root.path());
        command.env("ASSAY_CONFIG_DIR", self.home.path()).env("ASSAY_CACHE_DIR", cache);
        command
    }

    fn synth(&self, name: &str, seed: &str) -> Done<()> {
        let args = ["synth", name, "--shape", "small", "--seed", seed].map(String::from);
        let output = self.command(&args, &cache()).output().map_err(text)?;
        output.status.success().then_some(()).ok_or_else(|| text(said(&output)))
    }

    fn stage(&self, folder: &str) -> Done<()> {
        let mut index = self.git.index().map_err(text)?;
        index.add_all([folder], IndexAddOption::DEFAULT, None).map_err(text)?;
        index.write().map_err(text)
    }

    /// The command that it ran, if it is one, and what came of it.
    fn take(&mut self, step: &Step) -> Done<Option<(String, Output)>> {
        let (args, output) = match step {
            Step::Edit(Edit { file, from, to }) => {
                return edit(&self.path(file), from, to).map(|()| None).map_err(text);
            }
            Step::Judge(nodes) => return self.judge(nodes).map(|()| None),
            Step::Stage(folder) => return self.stage(folder).map(|()| None),
            Step::AnotherModel {} => {
                self.synth("other.gguf", "2")?;
                return fs::rename(self.path("other.gguf"), self.path("model.gguf")).map(|()| None).map_err(text);
            }
            Step::Run(args) => (args, self.command(args, &cache()).output().map_err(text)?),
            Step::RunWhileTheModelChanges(args) => (args, self.run_while_the_model_changes(args)?),
        };
        Ok(Some((args.first().cloned().unwrap_or_default(), output)))
    }

    fn judge(&mut self, nodes: &[String]) -> Done<()> {
        let model = Model::open(&self.path("model.gguf")).map_err(text)?;
        let tree = Workshop::new(&model).and_then(|shop| shop.tree(&self.path("kernels"))).map_err(text)?;
        for name in nodes {
            let node = name.parse().map_err(text)?;
            let binding = tree.binding(&node, "sm_90", Numerics::Ds4).map_err(text)?;
            let target = Target::Node(node);
            let stage = |name: &Stage| StageRecord {
                name: *name,
                outcome: StageOutcome::Pass,
                figures: Default::default(),
                note: String::new(),
            };
            let verdict = Judged {
                stages: Stage::required(&target).iter().map(stage).collect(),
                node: target,
                class: Class::Simulated,
                outcome: Outcome::Pass,
                binding,
                outputs: Default::default(),
                seed: Seed([7; 32]),
                informative: Informative::default(),
                parts: Default::default(),
            };
            let evidence = Evidence::sign(Statement::Verdict(Box::new(verdict)), &self.key).map_err(text)?;
            self.evidence.push(evidence);
        }
        let mut ledger = Ledger::open(self.root.path()).map_err(text)?;
        ledger.append(&self.evidence, &self.key).map(drop).map_err(text)
    }

    fn run_while_the_model_changes(&self, args: &[String]) -> Done<Output> {
        // A cache of its own, so that there is something to compile, and the moment can be seen.
        let cache = tempfile::tempdir().map_err(text)?;
        let mut command = self.command(args, cache.path());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(text)?;
        while !compiling(cache.path()) {
            if child.try_wait().map_err(text)?.is_some() {
                let output = child.wait_with_output().map_err(text)?;
                return Err(format!("  it ended before it compiled anything:\n{}", said(&output)));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut model = fs::OpenOptions::new().write(true).open(self.path("model.gguf")).map_err(text)?;
        model.seek(SeekFrom::End(-64)).and_then(|_| model.write_all(&[0x11; 64])).map_err(text)?;
        drop(model);
        child.wait_with_output().map_err(text)
    }
}

/// Whether a compiler has been started below this folder.
fn compiling(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => compiling(&entry.path()),
        _ => entry.path().extension().is_some_and(|e| e == "lock"),
    })
}
