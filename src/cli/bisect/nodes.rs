//! `assay bisect NODE…`: the first commit at which a node is red.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeSet, HashMap};

use git2::Oid;

use super::report::{Report, tell};
use super::{Scene, backend, bad_is_good, good_is_bad};
use crate::cli::ledger;
use crate::cli::seat::Backend;
use crate::error::{Error, Kind, Result};
use crate::history::bisect::{
    Answer, Ask, BAD_IS_GOOD, By, Checkout, Event, Hunt, Known, NEVER_GOOD, Outcome, Request, SAME, State,
};
use crate::ledger::{ClosureSource, Digest, Ledger, Outcome as Said, Row, Standing, Target};
use crate::model::Model;
use crate::ops::{self, Node};
use crate::plan::Numerics;
use crate::plan::kernels::KernelTree;
use crate::verify::binding::{Workshop, nodes_of};
use crate::verify::places::NvrtcCompilers;
use crate::verify::prefill::Baselines;
use crate::verify::{Compilers, Judge, PROTOCOL, Place, Progress, Stage, Summary};

/// What a node is at a commit.
#[derive(Clone)]
enum Kernel {
    Closure(Digest),
    /// None, or none that can be read.
    Unusable(String),
}

/// Judges nodes at commits, or finds what the ledger says of them.
struct Nodes<'s, 'm> {
    scene: &'s Scene,
    request: Request,
    model: &'m Model,
    workshop: Workshop<'m>,
    ledger: Ledger,
    checkout: Checkout,
    kernels: HashMap<(Option<Oid>, Node), Kernel>,
    place: OnceCell<Box<dyn Place>>,
    nvrtc: OnceCell<Option<NvrtcCompilers>>,
    /// Of each round; the oracle's prefills are shared by all commits.
    baselines: Vec<Baselines<'m>>,
    seeds: Vec<[u8; 32]>,
    said: RefCell<BTreeSet<String>>,
}

struct OfNode<'n, 's, 'm> {
    all: &'n mut Nodes<'s, 'm>,
    node: Node,
}

pub fn run(scene: &Scene, model: &Model, state: &mut State) -> Result<u8> {
    let request = state.request.clone();
    if backend(&request)? == Backend::Oracle {
        return Err(Error::usage("the oracle is never a subject").expected("--backend auto, device or emulator"));
    }
    let mut all = Nodes::new(scene, model, &request)?;
    let weights = crate::verify::weights::digest(model)?;
    if !state.hold_for(format!("protocol {PROTOCOL}, weights {weights}")) {
        anstream::eprintln!("note: the answers so far were of other weights or another verifier: they are asked again");
    }
    let good = request.good.as_deref().map(|g| scene.repo.resolve(g)).transpose()?;
    let bad = scene.repo.resolve(&request.bad)?;
    let plan = nodes_of(model)?;
    let named = named(&request.nodes, &plan)?;
    let mut report = Vec::new();
    let mut innocent = Vec::new();
    let asked = match named.is_empty() {
        false => named,
        true => {
            let (guilty, others) = all.guilty(plan, good, bad, state)?;
            innocent = others;
            guilty
        }
    };
    let alone = asked.len() == 1;
    for node in asked {
        let mut ask = OfNode { all: &mut all, node: node.clone() };
        let mut hunt = Hunt::new(&scene.repo, state, &mut ask);
        let outcome = hunt.run(good, bad)?;
        let (steps, commits, places) = (std::mem::take(&mut hunt.steps), hunt.commits, hunt.places);
        let changed = match &outcome {
            Outcome::Found { first_bad, last_good, .. } => all.changed(&node, &last_good.commit, &first_bad.commit)?,
            _ => Vec::new(),
        };
        if alone {
            refuse(&node, &outcome)?;
        }
        report.push((node, outcome, steps, commits, places, changed));
    }
    let mut out = Report::new(state, scene.json);
    for (node, outcome, steps, commits, places, changed) in report {
        out.add(Some(node), outcome, steps, commits, places, changed);
    }
    out.innocent(innocent);
    out.print()
}

/// What was said of the ends was wrong: of a single node that is all there is to say.
fn refuse(node: &Node, outcome: &Outcome) -> Result<()> {
    let what = node.to_string();
    Err(match outcome {
        Outcome::GoodIsBad { commit, why, forked } => good_is_bad(commit, why, *forked, &what),
        Outcome::BadIsGood { commit } => bad_is_good(commit, &what),
        Outcome::NeverGood { .. } => Error::new(&NEVER_GOOD, format!("{what} was good at no commit that was judged"))
            .hint("--good REVISION names one"),
        Outcome::Same => {
            Error::new(&SAME, format!("the kernel of {what} is the same at every commit between good and bad"))
                .hint("assay bisect --cmd judges by other things than a node's kernel")
        }
        Outcome::Found { .. } | Outcome::CannotTell { .. } => return Ok(()),
    })
}

/// Nodes by their names; an op's name stands for all its nodes.
fn named(names: &[String], plan: &[Node]) -> Result<Vec<Node>> {
    let mut out: Vec<Node> = Vec::new();
    for name in names {
        let node: Node = name.parse().map_err(|e: String| Error::usage(e).hint("assay plan lists the nodes"))?;
        if ops::find(&node.op).is_none() {
            return Err(Error::usage(format!("there is no op `{}`", node.op)).hint("assay ops lists them"));
        }
        let of_op = |n: &&Node| **n == node || (node.types.is_empty() && n.op == node.op);
        let found: Vec<Node> = plan.iter().filter(of_op).cloned().collect();
        if found.is_empty() {
            return Err(Error::usage(format!("{node} is no node of this file")).hint("assay plan lists its nodes"));
        }
        out.extend(found.into_iter().filter(|n| !out.contains(n)).collect::<Vec<_>>());
    }
    Ok(out)
}

impl<'s, 'm> Nodes<'s, 'm> {
    fn new(scene: &'s Scene, model: &'m Model, request: &Request) -> Result<Nodes<'s, 'm>> {
        let seed: Digest = request.seed.parse().map_err(Error::internal)?;
        // The first round is by the seed itself, so that `assay verify --seed` repeats it.
        let round = |n: u32| if n == 0 { seed.0 } else { Digest::of(format!("{seed} {n}").as_bytes()).0 };
        let seeds: Vec<[u8; 32]> = (0..request.repeat).map(round).collect();
        Ok(Nodes {
            scene,
            request: request.clone(),
            model,
            workshop: Workshop::new(model)?,
            ledger: ledger::open(&scene.bench.root)?,
            checkout: Checkout::new()?,
            kernels: HashMap::new(),
            place: OnceCell::new(),
            nvrtc: OnceCell::new(),
            baselines: seeds.iter().map(|seed| Baselines::new(model, *seed)).collect(),
            seeds,
            said: RefCell::default(),
        })
    }

    fn numerics(&self) -> Numerics {
        self.request.numerics.unwrap_or(Numerics::Ds4)
    }

    fn note(&self, text: String) {
        if self.said.borrow_mut().insert(text.clone()) {
            anstream::eprintln!("note: {text}");
        }
    }

    fn kernel(&mut self, commit: Oid, node: &Node) -> Result<Kernel> {
        let tree = self.scene.repo.contents(commit, "kernels")?;
        if let Some(kernel) = self.kernels.get(&(tree, node.clone())) {
            return Ok(kernel.clone());
        }
        self.checkout.to(&self.scene.repo, commit)?;
        let kernels = KernelTree::open(&self.checkout.kernels())?;
        let found = kernels.require(node).and_then(|kernel| kernels.closure(node, &kernel));
        let kernel = match found {
            Ok(closure) => Kernel::Closure(closure.parse().map_err(Error::internal)?),
            Err(e) if e.kind() == Kind::No => Kernel::Unusable(e.what().into()),
            // What a source set cannot be read from, text that is not UTF-8 say, no verdict passes either.
            Err(e) if e.kind() == Kind::CouldNotRun => Kernel::Unusable(e.what().into()),
            Err(e) => return Err(e),
        };
        self.kernels.insert((tree, node.clone()), kernel.clone());
        Ok(kernel)
    }

    /// Nodes whose kernel differs between the ends and that are bad at the bad one; and those that are good there.
    fn guilty(
        &mut self,
        plan: Vec<Node>,
        good: Option<Oid>,
        bad: Oid,
        state: &mut State,
    ) -> Result<(Vec<Node>, Vec<String>)> {
        let (mut guilty, mut innocent) = (Vec::new(), Vec::new());
        // What no commit changed none can have turned.
        let touched = self.scene.repo.touched(&self.scene.repo.line(good, bad)?.commits)?;
        self.checkout.to(&self.scene.repo, bad)?;
        let tree = KernelTree::open(&self.checkout.kernels())?;
        // Read now: the checkout moves on to other commits.
        let candidates: Vec<Node> = plan
            .into_iter()
            .filter(|node| {
                let files = files(&tree, node);
                files.is_empty() || files.keys().any(|file| touched.contains(file))
            })
            .collect();
        for node in candidates {
            let at_bad = key(&node, &self.kernel(bad, &node)?);
            if let Some(good) = good
                && key(&node, &self.kernel(good, &node)?) == at_bad
            {
                continue;
            }
            let scene = self.scene;
            let mut ask = OfNode { all: self, node: node.clone() };
            let known = Hunt::new(&scene.repo, state, &mut ask).at(bad)?;
            match known.answer {
                Answer::Good => innocent.push(node.to_string()),
                _ => guilty.push(node),
            }
        }
        if guilty.is_empty() {
            return Err(match innocent.is_empty() {
                true => Error::new(&SAME, "no node's kernel differs between good and bad"),
                false => {
                    let said = format!("every node whose kernel changed is good at {}", &bad.to_string()[..12]);
                    Error::new(&BAD_IS_GOOD, said).found(innocent.join(", "))
                }
            }
            .hint("assay bisect --kernels compares the two commits' prefills; --cmd asks a command of your own"));
        }
        Ok((guilty, innocent))
    }

    /// The files of a node's kernel that differ between two commits, from the workbench's root.
    fn changed(&mut self, node: &Node, good: &str, bad: &str) -> Result<Vec<String>> {
        let mut sides = Vec::new();
        for commit in [good, bad] {
            let commit = self.scene.repo.resolve(commit)?;
            self.checkout.to(&self.scene.repo, commit)?;
            let root = self.checkout.kernels();
            let tree = KernelTree::open(&root)?;
            sides.push(files(&tree, node));
        }
        let names: BTreeSet<&String> = sides.iter().flat_map(|side| side.keys()).collect();
        let differs = |name: &&&String| sides[0].get(**name) != sides[1].get(**name);
        Ok(names.iter().filter(differs).map(|name| format!("kernels/{name}")).collect())
    }

    /// What the ledger says of this very kernel, on any architecture that was not ruled out.
    fn recorded(&mut self, node: &Node, closure: Digest, commit: Oid) -> Result<Option<Known>> {
        let target = Target::Node(node.clone());
        let numerics = self.numerics();
        let of_closure = |row: &&Row| {
            let verdict = row.statement().verdict();
            verdict.is_some_and(|v| v.binding.closure == closure && v.binding.numerics == numerics)
        };
        let wanted = |arch: &str| self.request.arch.as_deref().is_none_or(|only| only == arch);
        let rows: Vec<&Row> = self.ledger.verdicts(&target).filter(of_closure).collect();
        let archs: BTreeSet<String> = rows
            .iter()
            .filter_map(|r| r.statement().verdict())
            .map(|v| v.binding.arch.clone())
            .filter(|a| wanted(a))
            .collect();
        if archs.is_empty() {
            return Ok(None);
        }
        self.checkout.to(&self.scene.repo, commit)?;
        let tree = self.workshop.tree(&self.checkout.kernels())?;
        let mut found: Vec<Known> = Vec::new();
        for arch in archs {
            let binding = match tree.binding(node, &arch, numerics) {
                Err(e) if e.kind() == Kind::No => continue,
                binding => binding?,
            };
            let standing = self.ledger.standing(&target, &binding, &self.scene.trust);
            let (row, answer) = match &standing {
                Standing::Green(row) | Standing::Simulated(row) | Standing::Emulated(row) => (row, Answer::Good),
                Standing::Red(row) => {
                    let why = row.statement().verdict().map(|v| match &v.outcome {
                        Said::Red { stage, reason, .. } => {
                            format!("stage {} ({}): {reason}", stage.number(), stage.name())
                        }
                        other => other.name().to_string(),
                    });
                    (row, Answer::Bad { why: why.unwrap_or_default() })
                }
                Standing::Untrusted(_, key) => {
                    self.note(format!(
                        "rows of key {} are not taken: you do not trust it (assay key trust {})",
                        key.short(),
                        key.short()
                    ));
                    continue;
                }
                Standing::Void(row, why) => {
                    self.note(format!("row {} is not taken: {why}", row.seq));
                    continue;
                }
                Standing::Stale(..) | Standing::OtherWeights(_) | Standing::Unproved => continue,
            };
            let other = rows.iter().find(|other| {
                let verdict = other.statement().verdict();
                let trusted = self.ledger.counts(other, &self.scene.trust);
                let named = if answer == Answer::Good { "red" } else { "pass" };
                trusted && verdict.is_some_and(|v| v.binding == binding && v.outcome.name() == named)
            });
            if let Some(other) = other {
                self.note(format!(
                    "rows {} and {} disagree on one kernel of {node}: neither is taken",
                    other.seq, row.seq
                ));
                return Ok(None);
            }
            let simulated = if matches!(standing, Standing::Simulated(_)) { "SIMULATED " } else { "" };
            let by = By::Row { row: row.seq, on: format!("{simulated}{arch}") };
            found.push(Known { answer, by, cost: 0 });
        }
        match found.iter().find(|k| k.answer.name() != found[0].answer.name()) {
            None => Ok(found.into_iter().next()),
            Some(_) => {
                self.note(format!("architectures disagree on a kernel of {node}: --arch says which rows to take"));
                Ok(None)
            }
        }
    }

    fn judge(&mut self, node: &Node, commit: Oid) -> Result<Known> {
        if self.place.get().is_none() {
            // Opened for the first verdict that no row gives.
            let _ = self.place.set(backend(&self.request)?.place(&self.scene.bench)?);
        }
        let place = self.place.get().ok_or_else(|| Error::internal("no place to judge in"))?;
        let nvrtc = self.nvrtc.get_or_init(|| NvrtcCompilers::new(&self.scene.bench.settings.architectures).ok());
        self.checkout.to(&self.scene.repo, commit)?;
        let tree = KernelTree::open(&self.checkout.kernels())?;
        let numerics = self.request.numerics.map_or(vec![Numerics::Exact, Numerics::Ds4], |n| vec![n]);
        let mut answers: Vec<Answer> = Vec::new();
        for (seed, baselines) in self.seeds.iter().zip(&self.baselines) {
            let judge = Judge {
                model: self.model,
                tree: &tree,
                place: &**place,
                compilers: nvrtc.as_ref().map(|c| c as &dyn Compilers),
                baselines,
                numerics: numerics.clone(),
                thorough: false,
                seed: *seed,
                stop: &self.scene.stop,
                progress: &Silent,
                sanitize: None,
                shared: None,
                through: crate::verify::Stage::Sanitizer,
            };
            let answer = match judge.judge(node, &[]) {
                Ok(verdict) => {
                    let why = verdict.reason().unwrap_or_default();
                    match verdict.summary() {
                        Summary::Pass => Answer::Good,
                        Summary::Red => Answer::Bad { why },
                        Summary::Indeterminate => Answer::Skip { why },
                    }
                }
                Err(e) if e.kind() == Kind::CouldNotRun => Answer::Skip { why: e.what().into() },
                Err(e) => return Err(e),
            };
            answers.push(answer);
            if answers.last().map(Answer::name) != answers.first().map(Answer::name) {
                break;
            }
        }
        let by = By::Judged { on: place.arch().into() };
        Ok(Known { answer: Answer::of(&answers), by, cost: answers.len() })
    }
}

/// The text of every file that a node's kernel consists of.
pub fn files(tree: &KernelTree, node: &Node) -> std::collections::BTreeMap<String, String> {
    let Some(Ok(kernel)) = tree.kernel(node) else { return Default::default() };
    let mut files = tree.source(&kernel).map(|set| set.files).unwrap_or_default();
    let manifest = format!("{}.toml", kernel.stem);
    if let Ok(text) = std::fs::read_to_string(tree.root().join(&manifest)) {
        files.insert(manifest, text);
    }
    files
}

fn key(node: &Node, kernel: &Kernel) -> String {
    match kernel {
        Kernel::Closure(closure) => format!("{node} {closure}"),
        Kernel::Unusable(why) => format!("{node} unusable {}", Digest::of(why.as_bytes())),
    }
}

impl Ask for OfNode<'_, '_, '_> {
    fn key(&mut self, commit: Oid) -> Result<String> {
        Ok(key(&self.node, &self.all.kernel(commit, &self.node)?))
    }

    fn free(&mut self, _: &str, commit: Oid) -> Result<Option<Known>> {
        match self.all.kernel(commit, &self.node)? {
            Kernel::Unusable(why) => Ok(Some(Known { answer: Answer::Bad { why }, by: By::Source, cost: 0 })),
            Kernel::Closure(closure) => self.all.recorded(&self.node, closure, commit),
        }
    }

    fn judge(&mut self, commit: Oid) -> Result<Known> {
        self.all.judge(&self.node, commit)
    }

    fn tell(&mut self, event: Event<'_>) {
        tell(self.all.scene, &self.node.to_string(), &event);
    }
}

struct Silent;

impl Progress for Silent {
    fn stage(&self, _: &Node, _: Stage) {}
    fn tick(&self, _: usize, _: usize) {}
}
