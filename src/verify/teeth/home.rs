//! A kernel that holds mutants' texts: the cases by which it is judged, and what comes of a mutant that meets them.
//!
//! Compiling a mutant as a verdict does takes longer than most of them live. So each is first compiled with little
//! optimisation and asked the lightest cases; only who passes these is compiled and judged as any kernel is.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::super::judge::{entries, variants};
use super::super::places::EmulatorPlace;
use super::super::questions::{Part, Shared};
use super::super::{Judge, Outcome, Place, Progress, Stage, Verdict, is_kernels_fault};
use super::TEETH_KERNEL;
use super::fates::Fate;
use super::trial::Trial;
use crate::backend::Module;
use crate::backend::emulator::{Builder, codes, object};
use crate::error::{Error, Result};
use crate::files;
use crate::ops::Node;
use crate::plan::kernels::KernelTree;
use crate::plan::source::{LARGEST, SourceSet};

pub(super) struct Home<'t> {
    trial: &'t Trial<'t>,
    pub node: Node,
    pub stem: String,
    pub source: SourceSet,
    entries: Vec<String>,
    /// The emulator, as verdicts use it and for what is to be had quickly.
    whole: EmulatorPlace,
    quick: EmulatorPlace,
    /// Both made for the first mutant that meets them. That the kernel does not pass where mutants are met first says
    /// nothing against it: all are judged as it is, then.
    light: Mutex<Option<Option<Arc<Round>>>>,
    full: Mutex<Option<Arc<Round>>>,
}

/// One way to judge mutants, and how the kernel as it is fares there.
struct Round {
    through: Stage,
    shared: Shared,
    object: Vec<u8>,
    deadline: Duration,
}

/// A launch may take half of what the honest kernel's cases take, and in seconds no less and no more than these.
const LAUNCH: [f64; 2] = [3.0, 10.0];
/// And a mutant so many times as long as the honest kernel, and this beside.
const TIMES: u32 = 10;
const BESIDE: Duration = Duration::from_secs(20);

impl<'t> Home<'t> {
    pub fn new(trial: &'t Trial<'t>, node: &Node) -> Result<Home<'t>> {
        let kernel = trial.tree.require(node)?;
        let mut whole = EmulatorPlace::apart(trial.cache)?;
        let mut quick = EmulatorPlace::quick(trial.cache)?;
        for place in [&mut whole, &mut quick] {
            place.limit_threads(trial.blocks());
        }
        let entries = entries(&variants(&trial.numerics, whole.arch(), node, &kernel));
        Ok(Home {
            trial,
            node: node.clone(),
            stem: kernel.stem.to_string(),
            source: trial.tree.source(&kernel)?,
            entries,
            whole,
            quick,
            light: Mutex::default(),
            full: Mutex::default(),
        })
    }

    /// What comes of a mutant, which `scratch` has in `file`, in the first round: it survives where there is none.
    pub fn meets_lightly(&self, scratch: &Scratch, file: &str, text: &str) -> Result<Fate> {
        match self.light()? {
            Some(round) => self.meet(scratch, (file, text), &self.quick, &round),
            None => Ok(Fate::Survived),
        }
    }

    /// And in the one that decides.
    pub fn meets(&self, scratch: &Scratch, file: &str, text: &str) -> Result<Fate> {
        self.meet(scratch, (file, text), &self.whole, &*self.full()?)
    }

    /// Whether the kernel as it is passes inside the model, where mutants of it were refused.
    pub fn passes_in_a_prefill(&self) -> Result<()> {
        self.honest(&self.whole, Stage::Prefill, &self.full()?.shared).map(drop)
    }

    fn light(&self) -> Result<Option<Arc<Round>>> {
        let mut light = self.light.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(light) = &*light {
            return Ok(light.clone());
        }
        let made = match self.round(&self.quick, Part::Light, Stage::Unit) {
            Ok(round) => Some(Arc::new(round)),
            Err(e) if e.code().id == TEETH_KERNEL.id => {
                self.full()?;
                None
            }
            Err(e) => return Err(e),
        };
        Ok(light.insert(made).clone())
    }

    fn full(&self) -> Result<Arc<Round>> {
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(full) = &*full {
            return Ok(full.clone());
        }
        let made = self.round(&self.whole, Part::All, Stage::Teeth)?;
        Ok(full.insert(Arc::new(Round { through: Stage::Sanitizer, ..made })).clone())
    }

    /// Judges the kernel as it is, and mutants as long as it took.
    fn round(&self, place: &EmulatorPlace, part: Part, through: Stage) -> Result<Round> {
        place.limit_launches(None);
        let shared = Shared::new(part);
        let verdict = self.honest(place, through, &shared)?;
        let unit: f64 = verdict.stages.iter().filter(|s| s.stage == Stage::Unit).map(|s| s.seconds).sum();
        // Every case runs twice, so that no launch of the kernel's takes more than half of all.
        place.limit_launches(Some(Duration::from_secs_f64((unit / 2.0).clamp(LAUNCH[0], LAUNCH[1]))));
        let object = read(&place.build(&self.source, &self.entries)?.module)?;
        let deadline = BESIDE + TIMES * Duration::from_secs_f64(verdict.seconds);
        Ok(Round { through, shared, object, deadline })
    }

    /// The kernel as it is, which must pass what is asked of it.
    fn honest(&self, place: &EmulatorPlace, through: Stage, shared: &Shared) -> Result<Verdict> {
        let verdict = self.verdict(place, self.trial.tree, through, Duration::MAX, shared)?;
        let passed = verdict.stages.iter().any(|s| s.stage == through && s.outcome == Outcome::Pass);
        match passed {
            true => Ok(verdict),
            false => Err(Error::new(&TEETH_KERNEL, format!("{} does not pass as it is", self.node))
                .found(verdict.reason().unwrap_or_default())
                .hint(format!("assay verify '{}' --backend emulator", self.node))),
        }
    }

    fn meet(
        &self,
        scratch: &Scratch,
        (file, text): (&str, &str),
        place: &EmulatorPlace,
        round: &Round,
    ) -> Result<Fate> {
        let mut source = self.source.clone();
        source.files.insert(file.into(), text.into());
        let built = match place.build(&source, &self.entries) {
            Ok(built) => Some(built.module),
            Err(e) if [codes::COMPILE.id, codes::COMPILE_TIME.id].contains(&e.code().id) => {
                return Ok(Fate::DoesNotCompile);
            }
            // A rule or the object's symbols speak against it: the stage whose they are will say so.
            Err(e) if is_kernels_fault(&e) => None,
            Err(e) => return Ok(Fate::NotJudged { reason: line(&e.to_string()) }),
        };
        if let Some(module) = &built
            && object::same_code(&read(module)?, &round.object)
        {
            forget(module);
            return Ok(Fate::SameCode);
        }
        let tree = KernelTree::open(&scratch.kernels())?;
        let verdict = self.verdict(place, &tree, round.through, round.deadline, &round.shared);
        built.iter().for_each(forget);
        match verdict {
            Ok(verdict) => Ok(match verdict.red() {
                Some(red) => Fate::Killed { stage: red.stage, reason: reason(&red.outcome) },
                None => Fate::Survived,
            }),
            Err(e) if self.trial.stop.load(Ordering::Relaxed) => Err(e),
            Err(e) if e.code().id == crate::error::INTERRUPTED.id => Ok(Fate::Killed {
                stage: Stage::Unit,
                reason: format!("did not end within {:.0} s", round.deadline.as_secs_f64()),
            }),
            Err(e) if is_kernels_fault(&e) => Ok(Fate::Killed { stage: Stage::Unit, reason: line(&e.to_string()) }),
            Err(e) => Ok(Fate::NotJudged { reason: line(&e.to_string()) }),
        }
    }

    fn verdict(
        &self,
        place: &EmulatorPlace,
        tree: &KernelTree,
        through: Stage,
        limit: Duration,
        shared: &Shared,
    ) -> Result<Verdict> {
        let late = AtomicBool::new(false);
        let Trial { model, baselines, numerics, thorough, seed, stop, .. } = self.trial;
        let watch = Watch { late: &late, stop, started: Instant::now(), limit };
        let judge = Judge {
            model,
            tree,
            place,
            compilers: None,
            baselines,
            numerics: numerics.clone(),
            thorough: *thorough,
            seed: *seed,
            stop: &late,
            progress: &watch,
            through,
            sanitize: None,
            shared: Some(shared),
        };
        judge.judge(&self.node, &[])
    }
}

fn reason(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Red { reason, .. } => line(reason),
        _ => String::new(),
    }
}

/// The first line, if need be the beginning of it.
fn line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(160).collect()
}

fn path(module: &Module) -> Option<&Path> {
    match module {
        Module::SharedObject(path) => Some(path),
        _ => None,
    }
}

fn read(module: &Module) -> Result<Vec<u8>> {
    let path = path(module).ok_or_else(|| Error::internal("the emulator's builder gave no shared object"))?;
    std::fs::read(path).map_err(|e| Error::io(path, e))
}

/// Nobody asks for this mutant again, and there are thousands. What cannot be removed goes with the folder.
fn forget(module: &Module) {
    if let Some(path) = path(module) {
        Builder::forget(path);
    }
}

/// Stops a verdict that is late, or that nobody waits for any more.
struct Watch<'w> {
    late: &'w AtomicBool,
    stop: &'w AtomicBool,
    started: Instant,
    limit: Duration,
}

impl Progress for Watch<'_> {
    fn stage(&self, _: &Node, _: Stage) {
        self.tick(0, 0);
    }

    fn tick(&self, _: usize, _: usize) {
        if self.stop.load(Ordering::Relaxed) || self.started.elapsed() > self.limit {
            self.late.store(true, Ordering::Relaxed);
        }
    }
}

/// A copy of the kernels that a mistake can be made in.
pub(super) struct Scratch {
    folder: tempfile::TempDir,
}

impl Scratch {
    pub fn copy_of(kernels: &Path) -> Result<Scratch> {
        let folder = tempfile::tempdir().map_err(|e| Error::io("a folder for mutants", e))?;
        let scratch = Scratch { folder };
        copy(kernels, &scratch.kernels())?;
        Ok(scratch)
    }

    fn kernels(&self) -> PathBuf {
        self.folder.path().join("kernels")
    }

    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.kernels().join(file);
        std::fs::write(&path, text).map_err(|e| Error::io(&path, e))
    }
}

/// Files by their contents: a link may lead to what is not to be changed.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).map_err(|e| Error::io(to, e))?;
    for entry in std::fs::read_dir(from).map_err(|e| Error::io(from, e))? {
        let (path, target) = match entry {
            Ok(entry) => (entry.path(), to.join(entry.file_name())),
            Err(e) => return Err(Error::io(from, e)),
        };
        if path.is_dir() {
            copy(&path, &target)?;
        } else if path.is_file() {
            // A pipe or a device is none that a kernel can consist of.
            let text = files::read(&path, LARGEST)?;
            std::fs::write(&target, text).map_err(|e| Error::io(&target, e))?;
        }
    }
    Ok(())
}
