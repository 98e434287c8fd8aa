//! `assay bisect --kernels`: which kernels make one commit's prefill another's.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::json;

use super::nodes::files;
use super::{Scene, backend};
use crate::cli::output;
use crate::cli::seat::Backend;
use crate::error::{Error, Kind, Result};
use crate::history::bisect::{Answer, BAD_IS_GOOD, Cause, Checkout, GOOD_IS_BAD, SAME, Set, State, causes};
use crate::ledger::Digest;
use crate::model::Model;
use crate::ops::Node;
use crate::plan::kernels::KernelTree;
use crate::plan::{Numerics, Plan, rules};
use crate::verify::binding::nodes_of;
use crate::verify::prefill::{DS4_LIMIT, EXACT_LIMIT};
use crate::verify::swap::{Prefill, distance, prompts};
use crate::verify::{PROTOCOL, weights};
use crate::words::{agree, count};

/// Nodes whose kernels can only be swapped together, because they are in one file.
#[derive(Clone, Debug, Serialize)]
struct Unit {
    nodes: Vec<Node>,
    /// Their files that differ, headers too, from the workbench's root.
    files: Vec<String>,
    #[serde(skip)]
    stems: BTreeSet<String>,
}

impl Unit {
    fn name(&self) -> String {
        self.nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" + ")
    }
}

/// What a prefill is compared with, and how far from it is bad.
#[derive(Clone, Debug, Serialize)]
struct Measure {
    prompt: Vec<usize>,
    numerics: Numerics,
    /// `oracle`, or `good`: the good commit's own logits.
    against: &'static str,
    limit: f64,
    good: f64,
    /// `null`: its kernels cannot be run.
    bad: Option<f64>,
    #[serde(skip)]
    right: Vec<Vec<f32>>,
}

/// A mixture that was run.
#[derive(Serialize)]
struct Test {
    from_bad: Vec<String>,
    #[serde(flatten)]
    answer: Answer,
}

pub fn run(scene: &Scene, model: &Model, state: &mut State) -> Result<u8> {
    let request = state.request.clone();
    if backend(&request)? == Backend::Oracle {
        return Err(Error::usage("the oracle runs no kernels").expected("--backend auto, device or emulator"));
    }
    let good_id = scene.repo.resolve(request.good.as_deref().unwrap_or_default())?;
    let bad_id = scene.repo.resolve(&request.bad)?;
    let (mut at_good, mut at_bad) = (Checkout::new()?, Checkout::new()?);
    at_good.to(&scene.repo, good_id)?;
    at_bad.to(&scene.repo, bad_id)?;
    let (good, bad) = (KernelTree::open(&at_good.kernels())?, KernelTree::open(&at_bad.kernels())?);
    let (units, alike) = units(&nodes_of(model)?, &good, &bad);
    if units.is_empty() {
        let error = Error::new(&SAME, "no node's kernel differs between good and bad, but in comments");
        return Err(error.hint("assay bisect --cmd asks a command of your own"));
    }
    scene.say(format_args!("{} between good and bad:", count(units.len(), "difference")));
    for unit in &units {
        scene.say(format_args!("  {}: {}", unit.name(), unit.files.join(", ")));
    }
    if !alike.is_empty() {
        scene.say(format_args!("  in comments alone: {}", alike.join(", ")));
    }
    let place = backend(&request)?.place(&scene.bench)?;
    let context = format!("protocol {PROTOCOL}, weights {}, on {}", weights::digest(model)?, place.arch());
    if !state.hold_for(context) {
        anstream::eprintln!("note: the answers so far were of other weights, another verifier or place: asked again");
    }
    let nodes: BTreeSet<Node> = units.iter().flat_map(|u| u.nodes.iter().cloned()).collect();
    let seed: Digest = request.seed.parse().map_err(Error::internal)?;
    let numerics = match request.numerics {
        Some(numerics) => numerics,
        None => numerics_for(model, &nodes)?,
    };
    let new = |chunks: Vec<usize>| Prefill {
        model,
        place: &*place,
        nodes: &nodes,
        numerics,
        chunks,
        seed: seed.0,
        stop: &scene.stop,
    };
    let lists = match request.prompt_len {
        Some(n) => vec![vec![n]],
        None => prompts(model, &nodes, numerics)?,
    };
    let measure = measure(scene, lists, &new, [&good, &bad])?;
    let prefill = new(measure.prompt.clone());
    let mut tests: Vec<Test> = Vec::new();
    let mut seen: BTreeMap<Set, Answer> = BTreeMap::new();
    let mut test = |set: &Set| -> Result<Answer> {
        if let Some(answer) = seen.get(set) {
            return Ok(answer.clone());
        }
        let names: Vec<String> = set.iter().map(|u| units[*u].name()).collect();
        let question = format!("{} {:?} {:e}: {}", measure.against, measure.prompt, measure.limit, names.join(", "));
        let answer = match state.answers.get(&question) {
            Some(kept) => kept.answer.clone(),
            None => {
                let stems = set.iter().flat_map(|u| units[*u].stems.iter().cloned()).collect();
                let mixed = good.with(&bad, &stems);
                let mut answers: Vec<Answer> = Vec::new();
                for _ in 0..request.repeat {
                    answers.push(measure.judge(&prefill, &mixed)?);
                    if answers.last().map(Answer::name) != answers.first().map(Answer::name) {
                        break;
                    }
                }
                let answer = Answer::of(&answers);
                state.keep(&question, &answer, place.arch(), answers.len())?;
                answer
            }
        };
        let from = if names.is_empty() { "nothing".into() } else { names.join(", ") };
        let why = answer.why().map_or(String::new(), |why| format!(": {}", why.lines().next().unwrap_or_default()));
        scene.say(format_args!("from bad {from}: {}{why}", answer.name()));
        tests.push(Test { from_bad: names, answer: answer.clone() });
        seen.insert(set.clone(), answer.clone());
        Ok(answer)
    };
    let all: Set = (0..units.len()).collect();
    let cause = causes(&all, &mut test)?;
    // Good with all of them from bad: of one cause that is the test which found it.
    let mut proof = Vec::new();
    if let Cause::Found(sets) = &cause {
        let union: Set = sets.iter().flatten().copied().collect();
        proof.push(test(&union)?);
        proof.push(test(&all.difference(&union).copied().collect())?);
    }
    let judged = state.judged;
    Report { scene, units: &units, alike, measure: &measure, cause, proof, tests, judged, good: good_id, bad: bad_id }
        .print()
}

/// `exact`, where the plan for it has all of these nodes: its limit is strict.
fn numerics_for(model: &Model, nodes: &BTreeSet<Node>) -> Result<Numerics> {
    let plan = Plan::build(model, crate::plan::schedule::canonical(Numerics::Exact))?;
    let has = |node: &Node| plan.instances.iter().any(|i| i.node == *node);
    Ok(if nodes.iter().all(has) { Numerics::Exact } else { Numerics::Ds4 })
}

/// Whether both kernels of a node compile to the same, whatever their texts.
fn same_code(node: &Node, good: &KernelTree, bad: &KernelTree) -> bool {
    let look = |tree: &KernelTree| -> Result<_> {
        let kernel = tree.require(node)?;
        let set = tree.source(&kernel)?;
        // What the rules refuse is judged by its text.
        rules::check(&set)?;
        let variants: Vec<_> = kernel.manifest.variants.iter().map(|v| v.describe()).collect();
        Ok((set, variants))
    };
    match (look(good), look(bad)) {
        (Ok((a, of_a)), Ok((b, of_b))) => of_a == of_b && a.same_code(&b),
        _ => false,
    }
}

/// What differs between two trees, in pieces that can be swapped one by one; and nodes that differ in comments alone.
fn units(plan: &[Node], good: &KernelTree, bad: &KernelTree) -> (Vec<Unit>, Vec<String>) {
    let stems = |node: &Node| -> BTreeSet<String> {
        let both = [node.file_stem(), node.op.clone()].into_iter();
        both.filter(|stem| [good, bad].iter().any(|tree| tree.stems().any(|s| s == stem))).collect()
    };
    let closure = |tree: &KernelTree, node: &Node| {
        tree.require(node).and_then(|kernel| tree.closure(node, &kernel)).map_err(|e| e.what().to_string())
    };
    let (mut units, mut alike): (Vec<(Unit, bool)>, Vec<String>) = Default::default();
    for node in plan {
        let mut differs = closure(good, node) != closure(bad, node);
        if differs && same_code(node, good, bad) {
            alike.push(node.to_string());
            differs = false;
        }
        let mut unit = Unit { nodes: Vec::new(), files: Vec::new(), stems: stems(node) };
        let (mut files_differ, mut any) = (BTreeSet::new(), differs);
        if differs {
            unit.nodes.push(node.clone());
            let (a, b) = (files(good, node), files(bad, node));
            let names = a.keys().chain(b.keys()).filter(|name| a.get(*name) != b.get(*name));
            files_differ.extend(names.map(|name| format!("kernels/{name}")));
        }
        // Whatever shares a file with it is one with it.
        let (shared, rest): (Vec<_>, Vec<_>) =
            units.into_iter().partition(|(other, _)| !other.stems.is_disjoint(&unit.stems));
        for (other, differs) in shared {
            unit.nodes.splice(0..0, other.nodes);
            unit.stems.extend(other.stems);
            files_differ.extend(other.files);
            any |= differs;
        }
        unit.files = files_differ.into_iter().collect();
        units = rest;
        units.push((unit, any));
    }
    (units.into_iter().filter_map(|(unit, differs)| differs.then_some(unit)).collect(), alike)
}

/// A prompt on which good and bad can be told apart, and by what.
fn measure<'p, 'm: 'p>(
    scene: &Scene,
    lists: Vec<Vec<usize>>,
    new: &dyn Fn(Vec<usize>) -> Prefill<'p, 'm>,
    [good, bad]: [&KernelTree; 2],
) -> Result<Measure> {
    let mut best: Option<Measure> = None;
    for prompt in &lists {
        let prefill = new(prompt.clone());
        scene.say(format_args!("prefill of {}: oracle, good, bad …", count(prefill.tokens(), "token")));
        let oracle = prefill.oracle()?;
        let at_good = prefill
            .run(good)?
            .map_err(|fault| Error::new(&GOOD_IS_BAD, "the prefill of the good commit does not run").found(fault))?;
        let at_bad = prefill.run(bad)?.ok();
        let numerics = prefill.numerics;
        let limit = if numerics == Numerics::Exact { EXACT_LIMIT } else { DS4_LIMIT };
        let of_good = distance(&at_good, &oracle);
        let of_bad = at_bad.as_ref().map(|logits| distance(logits, &oracle));
        if of_good <= limit && of_bad.is_none_or(|d| d > limit) {
            let (against, good, bad, right) = ("oracle", of_good, of_bad, oracle);
            return Ok(Measure { prompt: prompt.clone(), numerics, against, limit, good, bad, right });
        }
        let apart = at_bad.as_ref().map(|logits| distance(logits, &at_good));
        if best.as_ref().is_none_or(|b| b.bad < apart) && apart != Some(0.0) {
            let limit = apart.map_or(limit, |d| d / 2.0);
            let (against, good, right) = ("good", 0.0, at_good);
            best = Some(Measure { prompt: prompt.clone(), numerics, against, limit, good, bad: apart, right });
        }
    }
    best.ok_or_else(|| {
        let lengths: Vec<String> = lists.iter().map(|l| l.iter().sum::<usize>().to_string()).collect();
        Error::new(&SAME, format!("the logits are the same, bit for bit, after {} tokens", lengths.join(", ")))
            .hint("--prompt-len N tries another length; --numerics ds4 the other numerics")
    })
}

impl Measure {
    fn judge(&self, prefill: &Prefill<'_, '_>, tree: &KernelTree) -> Result<Answer> {
        let whose = if self.against == "oracle" { "the oracle's" } else { "good's" };
        Ok(match prefill.run(tree) {
            Ok(Err(why)) => Answer::Bad { why },
            Ok(Ok(logits)) => match distance(&logits, &self.right) {
                d if d > self.limit => {
                    Answer::Bad { why: format!("logits differ from {whose} by {d:.2e}; {:.0e} is allowed", self.limit) }
                }
                _ => Answer::Good,
            },
            Err(e) if e.kind() == Kind::CouldNotRun => Answer::Skip { why: e.what().into() },
            Err(e) => return Err(e),
        })
    }
}

struct Report<'r> {
    scene: &'r Scene,
    units: &'r [Unit],
    /// Nodes that differ in comments alone.
    alike: Vec<String>,
    measure: &'r Measure,
    cause: Cause,
    proof: Vec<Answer>,
    tests: Vec<Test>,
    judged: usize,
    good: git2::Oid,
    bad: git2::Oid,
}

impl Report<'_> {
    fn print(self) -> Result<u8> {
        let m = self.measure;
        let figures = format!(
            "prefill of {} ({}) against {}: good {:.2e}, bad {}, allowed {:.0e}",
            count(m.prompt.iter().sum::<usize>(), "token"),
            m.numerics.name(),
            if m.against == "oracle" { "the oracle" } else { "the good commit" },
            m.good,
            m.bad.map_or("does not run".into(), |d| format!("{d:.2e}")),
            m.limit
        );
        let sets: Vec<&Set> =
            match &self.cause {
                Cause::Found(sets) => sets.iter().collect(),
                Cause::CannotTell { within, .. } => vec![within],
                Cause::GoodIsBad => {
                    return Err(Error::new(&GOOD_IS_BAD, "the good commit's prefill is bad when it is run again")
                        .found(figures));
                }
                Cause::BadIsGood => {
                    return Err(Error::new(&BAD_IS_GOOD, "the bad commit's prefill is good when it is run again")
                        .found(figures));
                }
            };
        let sets: Vec<Vec<&Unit>> = sets.iter().map(|set| set.iter().map(|u| &self.units[*u]).collect()).collect();
        // Asked once more, with all causes together: what was found one by one must hold.
        let proved = matches!(&self.cause, Cause::Found(_))
            && matches!(self.proof.as_slice(), [Answer::Bad { .. }, Answer::Good]);
        let code = if proved { 0 } else { Kind::CouldNotRun.exit_code() };
        let names = |units: &[&Unit]| units.iter().map(|u| u.name()).collect::<Vec<_>>();
        if self.scene.json {
            output::json(
                "assay.bisect/1",
                json!({
                    "mode": "kernels", "exit": code, "good": self.good.to_string(), "bad": self.bad.to_string(),
                    "outcome": if proved { "found" } else { "cannot_tell" }, "measure": m, "differences": self.units,
                    "in_comments_alone": self.alike,
                    "causes": if proved { json!(sets) } else { json!([]) },
                    "within": if proved { json!(null) } else { json!(sets) },
                    "proof": self.proof.first().zip(self.proof.get(1)).map(|(in_good, without)| {
                        json!({ "good_with_these_from_bad": in_good, "bad_with_these_from_good": without })
                    }),
                    "tests": self.tests, "verifications": self.judged,
                }),
            )?;
            return Ok(code);
        }
        let mut text = format!("{figures}\n\n");
        if proved {
            for units in &sets {
                let together = if units.len() > 1 { " together" } else { "" };
                text += &format!("cause: {}{together}\n", names(units).join(", "));
                for file in units.iter().flat_map(|u| &u.files).collect::<BTreeSet<_>>() {
                    text += &format!("  {file}\n");
                }
            }
            let which = if sets.len() > 1 { "these" } else { "this" };
            text += &format!("proof: good with {which} from bad is bad; bad with {which} from good is good\n");
        } else {
            let within: Vec<String> = sets.iter().flat_map(|units| names(units)).collect();
            text += &format!(
                "cannot tell: {} {} the difference\n",
                within.join(", "),
                agree(within.len(), "makes", "make, or some of them,")
            );
            if let Cause::CannotTell { tests, .. } = &self.cause {
                for (set, answer) in tests {
                    let from: Vec<&Unit> = set.iter().map(|u| &self.units[*u]).collect();
                    let why = answer.why().unwrap_or_default();
                    text += &format!("  from bad {}: {}: {why}\n", names(&from).join(", "), answer.name());
                }
            }
            for (answer, what) in self.proof.iter().zip(["good with them from bad", "bad with them from good"]) {
                text += &format!("  {what}: {}\n", answer.name());
            }
        }
        text += &format!("{} of {}", count(self.judged, "verification"), count(self.units.len(), "difference"));
        output::println(text)?;
        Ok(code)
    }
}
