//! Mutants of kernels on trial: each is judged on the emulator as if somebody had proposed it.
//!
//! A mutant whose object code is the honest kernel's is not judged: what it changes is not reached from the node's
//! entries here, or the compiler has proved that it changes nothing. One that does not compile is nobody's mistake.
//! Neither counts. What is left is killed by a stage, or survives, or is known to be equivalent.
//!
//! Compiling a mutant as a verdict does takes longer than most of them live. So each is first compiled with little
//! optimisation and asked the lightest cases; only who passes these is compiled and judged as any kernel is.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::super::judge::{entries, variants};
use super::super::places::EmulatorPlace;
use super::super::prefill::Baselines;
use super::super::questions::{Part, Shared};
use super::super::{Judge, Outcome, Place, Progress, Stage, Verdict, is_kernels_fault};
use super::known::Known;
use super::mutate::{self, Edit, Mistake};
use super::{DEMANDED, TEETH_KERNEL};
use crate::backend::Module;
use crate::backend::emulator::{Builder, codes, object};
use crate::error::{Error, Result};
use crate::files;
use crate::model::Model;
use crate::ops::Node;
use crate::ops::draw::Draw;
use crate::plan::kernels::KernelTree;
use crate::plan::source::{LARGEST, SourceSet};
use crate::plan::{Numerics, rules};

/// How a mutant fared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "fate")]
pub enum Fate {
    Killed {
        stage: Stage,
        reason: String,
    },
    Survived,
    /// It survived, and the kept file says why nothing could kill it.
    Equivalent {
        why: String,
    },
    /// Its object code is the honest kernel's.
    SameCode,
    DoesNotCompile,
    /// Something of this machine's failed.
    NotJudged {
        reason: String,
    },
}

#[derive(Clone, Debug, Serialize)]
pub struct Mutant {
    /// Below `kernels/`.
    pub file: String,
    pub line: u32,
    pub mistake: Mistake,
    pub before: String,
    pub after: String,
    #[serde(flatten)]
    pub fate: Fate,
    /// The kept file calls it equivalent, and a stage has told it from the kernel.
    pub refuted: bool,
    /// It survived, and the kept file says which case is missing.
    pub gap: Option<String>,
    pub seconds: f64,
}

/// All that came of one kernel's mutants.
#[derive(Clone, Debug, Serialize)]
pub struct KernelTeeth {
    pub node: Node,
    pub stem: String,
    /// Mutants that the text has.
    pub possible: usize,
    /// Those that were made, in the order of the text.
    pub mutants: Vec<Mutant>,
    /// Entries of the kept file whose lines are in no text any more.
    pub stale: Vec<String>,
    pub seconds: f64,
}

impl KernelTeeth {
    pub fn count(&self, of: impl Fn(&Fate) -> bool) -> usize {
        self.mutants.iter().filter(|m| of(&m.fate)).count()
    }

    pub fn killed(&self) -> usize {
        self.count(|f| matches!(f, Fate::Killed { .. }))
    }

    pub fn killed_by(&self, wanted: Stage) -> usize {
        self.count(|f| matches!(f, Fate::Killed { stage, .. } if *stage == wanted))
    }

    pub fn survivors(&self) -> impl Iterator<Item = &Mutant> {
        self.mutants.iter().filter(|m| m.fate == Fate::Survived)
    }

    /// Survivors of which the kept file says nothing.
    pub fn unexplained(&self) -> impl Iterator<Item = &Mutant> {
        self.survivors().filter(|m| m.gap.is_none())
    }

    pub fn refuted(&self) -> impl Iterator<Item = &Mutant> {
        self.mutants.iter().filter(|m| m.refuted)
    }

    /// Killed, of those that could be. `None`: there was none.
    pub fn rate(&self) -> Option<f64> {
        let (killed, survived) = (self.killed(), self.survivors().count());
        (killed + survived > 0).then(|| killed as f64 / (killed + survived) as f64)
    }

    pub fn suffices(&self) -> bool {
        self.rate().is_none_or(|r| r >= DEMANDED) && self.refuted().next().is_none() && self.stale.is_empty()
    }
}

pub struct Trial<'t> {
    pub model: &'t Model,
    pub tree: &'t KernelTree,
    pub numerics: Vec<Numerics>,
    pub baselines: &'t Baselines<'t>,
    pub thorough: bool,
    /// Of the sample, and of every case that is asked.
    pub seed: [u8; 32],
    /// Mutants per kernel that count; all there are if fewer.
    pub wanted: usize,
    pub known: &'t Known,
    pub stop: &'t AtomicBool,
    /// Told of each mutant that is done.
    pub tick: &'t (dyn Fn(usize) + Sync),
}

/// A mutant to come.
struct Drawn<'s> {
    file: &'s str,
    text: &'s str,
    edit: Edit,
}

/// One that was judged.
struct Done {
    /// Its place in the order.
    at: usize,
    fate: Fate,
    seconds: f64,
}

/// What mutants are compared with.
struct Honest<'p> {
    source: SourceSet,
    entries: Vec<String>,
    /// Where mutants are met first, if the kernel passes there.
    light: Option<Round<'p>>,
    /// Made for the first that passes that: of a small sample none may.
    whole: Mutex<Option<Arc<Round<'p>>>>,
}

/// One way to judge mutants, and how the kernel as it is fares there.
struct Round<'p> {
    place: &'p EmulatorPlace,
    through: Stage,
    shared: Shared,
    object: Vec<u8>,
    deadline: Duration,
}

/// The emulator, as verdicts use it and for what is to be had quickly.
pub struct Places {
    whole: EmulatorPlace,
    quick: EmulatorPlace,
}

impl Places {
    pub fn new(cache: &Path) -> Result<Places> {
        Ok(Places { whole: EmulatorPlace::apart(cache)?, quick: EmulatorPlace::quick(cache)? })
    }
}

/// A launch may take half of what the honest kernel's cases take, and in seconds no less and no more than these.
const LAUNCH: [f64; 2] = [3.0, 10.0];
/// And a mutant so many times as long as the honest kernel, and this beside.
const TIMES: u32 = 10;
const BESIDE: Duration = Duration::from_secs(20);

impl Trial<'_> {
    pub fn run(&self, places: &Places, node: &Node) -> Result<KernelTeeth> {
        let started = Instant::now();
        let kernel = self.tree.require(node)?;
        let source = self.tree.source(&kernel)?;
        let stem = kernel.stem.to_string();
        let entries = entries(&variants(&self.numerics, places.whole.arch(), node, &kernel));
        let mut honest = Honest { source, entries, light: None, whole: Mutex::default() };
        honest.light = match self.round(&places.quick, node, &honest, (Part::Light, Stage::Unit)) {
            Err(e) if e.code().id != TEETH_KERNEL.id => return Err(e),
            round => round.ok(),
        };
        if honest.light.is_none() {
            self.whole(places, node, &honest)?;
        }
        let mut drawn: Vec<Drawn<'_>> = Vec::new();
        for (file, text) in honest.source.files.iter().filter(|(file, text)| is_own(file, text)) {
            drawn.extend(mutate::mutants(text).into_iter().map(|edit| Drawn { file, text, edit }));
        }
        let texts: Vec<_> = drawn.iter().map(|d| (d.file, d.edit.before(d.text), d.edit.after(d.text))).collect();
        let stale = self.known.stale(&node.to_string(), &texts);
        let mut order: Vec<usize> = (0..drawn.len()).collect();
        if self.wanted < drawn.len() {
            let mut draw = Draw::new(&self.seed, &format!("mutants {node}"));
            (1..order.len()).rev().for_each(|i| order.swap(i, draw.below(i + 1)));
        }
        let mut fates = self.judge_all(places, node, &honest, &drawn, &order)?;
        // Who is refused in a prefill may be refused for what the kernel itself does there.
        if fates.iter().any(|done| matches!(done.fate, Fate::Killed { stage: Stage::Prefill, .. })) {
            let whole = self.whole(places, node, &honest)?;
            self.honest(whole.place, node, Stage::Prefill, &whole.shared)?;
        }
        // What is beyond the last one wanted is there because several were judged at once.
        let mut counted = 0;
        fates.retain(|done| {
            let keep = counted < self.wanted;
            counted += usize::from(counts(&done.fate));
            keep
        });
        fates.sort_by_key(|done| order[done.at]);
        let mutants = fates.into_iter().map(|done| self.mutant(node, &drawn[order[done.at]], done)).collect();
        let seconds = started.elapsed().as_secs_f64();
        Ok(KernelTeeth { node: node.clone(), stem, possible: drawn.len(), mutants, stale, seconds })
    }

    /// Judges the kernel as it is, and mutants as long as it took.
    fn round<'p>(
        &self,
        place: &'p EmulatorPlace,
        node: &Node,
        Honest { source, entries, .. }: &Honest<'p>,
        (part, through): (Part, Stage),
    ) -> Result<Round<'p>> {
        place.limit_launches(None);
        let shared = Shared::new(part);
        let verdict = self.honest(place, node, through, &shared)?;
        let unit: f64 = verdict.stages.iter().filter(|s| s.stage == Stage::Unit).map(|s| s.seconds).sum();
        // Every case runs twice, so that no launch of the kernel's takes more than half of all.
        place.limit_launches(Some(Duration::from_secs_f64((unit / 2.0).clamp(LAUNCH[0], LAUNCH[1]))));
        let object = read(&place.build(source, entries)?.module)?;
        let deadline = BESIDE + TIMES * Duration::from_secs_f64(verdict.seconds);
        Ok(Round { place, through, shared, object, deadline })
    }

    /// The round that decides.
    fn whole<'p>(&self, places: &'p Places, node: &Node, honest: &Honest<'p>) -> Result<Arc<Round<'p>>> {
        let mut whole = honest.whole.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(whole) = &*whole {
            return Ok(whole.clone());
        }
        let made = self.round(&places.whole, node, honest, (Part::All, Stage::Teeth))?;
        Ok(whole.insert(Arc::new(Round { through: Stage::Sanitizer, ..made })).clone())
    }

    /// The kernel as it is, which must pass what is asked of it.
    fn honest(&self, place: &EmulatorPlace, node: &Node, through: Stage, shared: &Shared) -> Result<Verdict> {
        let verdict = self.verdict(place, self.tree, node, through, Duration::MAX, shared)?;
        let passed = verdict.stages.iter().any(|s| s.stage == through && s.outcome == Outcome::Pass);
        match passed {
            true => Ok(verdict),
            false => Err(Error::new(&TEETH_KERNEL, format!("{node} does not pass as it is"))
                .found(verdict.reason().unwrap_or_default())
                .hint(format!("assay verify '{node}' --backend emulator"))),
        }
    }

    /// Judges in the order given until enough of them count.
    fn judge_all<'p>(
        &self,
        places: &'p Places,
        node: &Node,
        honest: &Honest<'p>,
        drawn: &[Drawn<'_>],
        order: &[usize],
    ) -> Result<Vec<Done>> {
        let (next, counted) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (fates, failed) = (Mutex::new(Vec::new()), Mutex::new(None));
        let work = || -> Result<()> {
            let scratch = Scratch::copy_of(self.tree.root())?;
            while counted.load(Ordering::Relaxed) < self.wanted {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(mutant) = order.get(at).map(|i| &drawn[*i]) else { break };
                let started = Instant::now();
                let fate = self.judge(places, &scratch, node, honest, mutant)?;
                counted.fetch_add(usize::from(counts(&fate)), Ordering::Relaxed);
                let done = Done { at, fate, seconds: started.elapsed().as_secs_f64() };
                fates.lock().unwrap_or_else(|e| e.into_inner()).push(done);
                (self.tick)(counted.load(Ordering::Relaxed));
            }
            Ok(())
        };
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(16);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    if let Err(e) = work() {
                        counted.store(usize::MAX, Ordering::Relaxed);
                        failed.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(e);
                    }
                });
            }
        });
        if let Some(e) = failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
            return Err(e);
        }
        let mut fates = fates.into_inner().unwrap_or_else(|e| e.into_inner());
        fates.sort_by_key(|done: &Done| done.at);
        Ok(fates)
    }

    fn judge<'p>(
        &self,
        places: &'p Places,
        scratch: &Scratch,
        node: &Node,
        honest: &Honest<'p>,
        mutant: &Drawn<'_>,
    ) -> Result<Fate> {
        let mutated = mutant.edit.apply(mutant.text);
        let mut source = honest.source.clone();
        source.files.insert(mutant.file.into(), mutated.clone());
        scratch.write(mutant.file, &mutated)?;
        let meet = |round: &Round<'_>| self.meet(scratch, node, (&source, &honest.entries), round);
        let light = honest.light.as_ref().map_or(Ok(Fate::Survived), meet);
        let fate = match light {
            Ok(Fate::Survived) => self.whole(places, node, honest).and_then(|whole| meet(&whole)),
            told => told,
        };
        scratch.write(mutant.file, mutant.text)?;
        fate
    }

    /// What comes of a mutant, which `scratch` and `source` hold, in one round.
    fn meet(
        &self,
        scratch: &Scratch,
        node: &Node,
        (source, entries): (&SourceSet, &[String]),
        round: &Round<'_>,
    ) -> Result<Fate> {
        let built = match round.place.build(source, entries) {
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
        let verdict = self.verdict(round.place, &tree, node, round.through, round.deadline, &round.shared);
        built.iter().for_each(forget);
        match verdict {
            Ok(verdict) => Ok(match verdict.red() {
                Some(red) => Fate::Killed { stage: red.stage, reason: reason(&red.outcome) },
                None => Fate::Survived,
            }),
            Err(e) if self.stop.load(Ordering::Relaxed) => Err(e),
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
        node: &Node,
        through: Stage,
        limit: Duration,
        shared: &Shared,
    ) -> Result<Verdict> {
        let late = AtomicBool::new(false);
        let watch = Watch { late: &late, stop: self.stop, started: Instant::now(), limit };
        let judge = Judge {
            model: self.model,
            tree,
            place,
            compilers: None,
            baselines: self.baselines,
            numerics: self.numerics.clone(),
            thorough: self.thorough,
            seed: self.seed,
            stop: &late,
            progress: &watch,
            through,
            sanitize: None,
            shared: Some(shared),
        };
        judge.judge(node, &[])
    }

    fn mutant(&self, node: &Node, drawn: &Drawn<'_>, done: Done) -> Mutant {
        let (before, after) = (drawn.edit.before(drawn.text), drawn.edit.after(drawn.text));
        let name = node.to_string();
        let entry = self.known.equivalent(&name, drawn.file, &before, &after);
        let refuted = entry.is_some() && matches!(done.fate, Fate::Killed { .. });
        let fate = match (done.fate, entry) {
            (Fate::Survived, Some(entry)) => Fate::Equivalent { why: entry.why.clone() },
            (fate, _) => fate,
        };
        let gap = self.known.gap(&name, drawn.file, &before).filter(|_| fate == Fate::Survived).map(|g| g.why.clone());
        let Edit { line, mistake, .. } = drawn.edit;
        Mutant { file: drawn.file.into(), line, mistake, before, after, fate, refuted, gap, seconds: done.seconds }
    }
}

/// Neither what is generated nor what is known by its content: a changed one is refused for that alone.
fn is_own(file: &str, text: &str) -> bool {
    !file.starts_with("args/") && !rules::is_free(file, text)
}

fn counts(fate: &Fate) -> bool {
    matches!(fate, Fate::Killed { .. } | Fate::Survived)
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
struct Scratch {
    folder: tempfile::TempDir,
}

impl Scratch {
    fn copy_of(kernels: &Path) -> Result<Scratch> {
        let folder = tempfile::tempdir().map_err(|e| Error::io("a folder for mutants", e))?;
        let scratch = Scratch { folder };
        copy(kernels, &scratch.kernels())?;
        Ok(scratch)
    }

    fn kernels(&self) -> PathBuf {
        self.folder.path().join("kernels")
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
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
