//! `assay bisect --cmd`: a command is asked in a checkout of each commit.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use git2::Oid;

use super::report::Report;
use super::{Scene, bad_is_good, good_is_bad};
use crate::error::{Error, INTERRUPTED, Result};
use crate::history::bisect::{
    Answer, Ask, BUG, By, COMMAND, Event, Hunt, INTEGRITY, Known, NEVER_GOOD, Outcome, Request, SAME, State, short,
};

struct Runs<'s> {
    scene: &'s Scene,
    request: Request,
}

pub fn run(scene: &Scene, state: &mut State) -> Result<u8> {
    state.hold_for("a command".into());
    let request = state.request.clone();
    let (good, bad) =
        (request.good.as_deref().map(|g| scene.repo.resolve(g)).transpose()?, scene.repo.resolve(&request.bad)?);
    let mut ask = Runs { scene, request: request.clone() };
    let mut hunt = Hunt::new(&scene.repo, state, &mut ask);
    let outcome = hunt.run(good, bad)?;
    let (steps, commits, places) = (std::mem::take(&mut hunt.steps), hunt.commits, hunt.places);
    let what = "the command";
    match &outcome {
        Outcome::GoodIsBad { commit, why, forked } => return Err(good_is_bad(commit, why, *forked, what)),
        Outcome::BadIsGood { commit } => return Err(bad_is_good(commit, what)),
        Outcome::NeverGood { .. } => {
            return Err(Error::new(&NEVER_GOOD, "the command was good at no commit").hint("--good REVISION names one"));
        }
        Outcome::Same => {
            return Err(Error::new(&SAME, "good and bad are the same tree, and so is every commit between them"));
        }
        _ => {}
    }
    let mut report = Report::new(state, scene.json);
    report.add(None, outcome, steps, commits, places, Vec::new());
    report.print()
}

impl Ask for Runs<'_> {
    /// A command may look at any file.
    fn key(&mut self, commit: Oid) -> Result<String> {
        let tree = self.scene.repo.contents(commit, "")?;
        Ok(tree.map_or("no workbench".into(), |tree| format!("tree {tree}")))
    }

    fn free(&mut self, _: &str, _: Oid) -> Result<Option<Known>> {
        Ok(None)
    }

    fn judge(&mut self, commit: Oid) -> Result<Known> {
        let dir = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), e))?;
        self.scene.repo.check_out(commit, dir.path())?;
        self.lend_model(dir.path())?;
        let mut answers: Vec<Answer> = Vec::new();
        for _ in 0..self.request.repeat {
            answers.push(self.ask(commit, dir.path())?);
            if answers.last().map(Answer::name) != answers.first().map(Answer::name) {
                break;
            }
        }
        Ok(Known { answer: Answer::of(&answers), by: By::Judged { on: "this machine".into() }, cost: answers.len() })
    }

    fn tell(&mut self, event: Event<'_>) {
        super::report::tell(self.scene, "the command", &event);
    }
}

impl Runs<'_> {
    /// A model that is not in git is the work tree's.
    fn lend_model(&self, dir: &Path) -> Result<()> {
        let model = &self.scene.bench.settings.model;
        let (theirs, ours) = (dir.join(model), self.scene.bench.model());
        if model.is_absolute() || theirs.exists() || theirs.is_symlink() || !ours.exists() {
            return Ok(());
        }
        let parent = theirs.parent().unwrap_or(dir);
        std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        std::os::unix::fs::symlink(&ours, &theirs).map_err(|e| Error::io(&theirs, e))
    }

    fn ask(&self, commit: Oid, dir: &Path) -> Result<Answer> {
        let words = &self.request.command;
        let mut command = match words.as_slice() {
            [one] => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", one]);
                shell
            }
            [program, args @ ..] => {
                let mut command = Command::new(program);
                command.args(args);
                command
            }
            [] => return Err(Error::internal("no command")),
        };
        // `assay` is the program that runs, whatever commit is looked at.
        if let Ok(exe) = std::env::current_exe()
            && let Some(folder) = exe.parent()
        {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let all = std::iter::once(folder.to_path_buf()).chain(std::env::split_paths(&path));
            if let Ok(path) = std::env::join_paths(all) {
                command.env("PATH", path);
            }
            command.env("ASSAY", &exe);
        }
        command.current_dir(dir).env("ASSAY_BISECT_COMMIT", commit.to_string());
        // A group of its own, which is ended as a whole; what it prints is no part of the answer.
        command.process_group(0).stdin(Stdio::null());
        command.stdout(std::io::stderr());
        let named = || words.join(" ");
        let mut child = command.spawn().map_err(|e| {
            Error::new(&COMMAND, format!("`{}` could not be started: {e}", named()))
                .hint("a path from the workbench's root, or on PATH")
        })?;
        let status = self.wait(&mut child).map_err(|e| e.about(named()))?;
        self.read(status, commit)
    }

    fn wait(&self, child: &mut Child) -> Result<ExitStatus> {
        loop {
            if let Some(status) = child.try_wait().map_err(|e| Error::io("the command", e))? {
                return Ok(status);
            }
            if self.scene.stop.load(Ordering::Relaxed) {
                if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                }
                let _ = child.wait();
                return Err(Error::interrupted());
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    fn read(&self, status: ExitStatus, commit: Oid) -> Result<Answer> {
        let at = |what: &str| format!("the command {what} at {}", short(commit));
        let bad = |code: i32| Answer::Bad { why: format!("exit code {code}") };
        let skip = |code: i32| Answer::Skip { why: format!("exit code {code}") };
        let ended = |code: i32| {
            Error::new(&COMMAND, at(&format!("ended with exit code {code}"))).hint("assay explain bisect-command")
        };
        let Some(code) = status.code() else {
            let signal = status.signal().unwrap_or_default();
            return Err(Error::new(&COMMAND, at(&format!("was ended by signal {signal}"))));
        };
        match (code, self.request.git_exit_codes) {
            (0, _) => Ok(Answer::Good),
            (125, _) => Ok(skip(code)),
            (1..=127, true) => Ok(bad(code)),
            (3, false) => Ok(skip(code)),
            (4, false) => Err(Error::new(&INTEGRITY, at("found damage (exit code 4)")).hint("run it there by hand")),
            (70, false) => Err(Error::new(&BUG, at("met a bug of its own (exit code 70)"))),
            (126 | 127, false) => Err(ended(code).expected("a command that is there and can be run at every commit")),
            (130, false) => Err(Error::new(&INTERRUPTED, at("was interrupted"))),
            (1..=127, false) => Ok(bad(code)),
            _ => Err(ended(code)),
        }
    }
}
