//! Mutants of kernels on trial: each is judged on the emulator as if somebody had proposed it.
//!
//! A mutant whose object code is the honest kernel's is not judged: what it changes is not reached from the node's
//! entries here, or the compiler has proved that it changes nothing. One that does not compile is nobody's mistake.
//! Neither counts. What is left is killed by a stage, or survives, or is known to be equivalent.
//!
//! Several kernels include one header. Where several are on trial together, a mistake in it is made once and goes from
//! one of them to the next until a judge refuses it: whoever changes a header has all of them judged.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::super::Stage;
use super::super::prefill::Baselines;
use super::fates::{Fate, KernelTeeth, Mutant};
use super::home::{Home, Scratch};
use super::journal::{Journal, Key, Told};
use super::known::Known;
use super::mutate::{self, Edit};
use crate::error::{INTERRUPTED, Result};
use crate::model::Model;
use crate::ops::Node;
use crate::ops::draw::Draw;
use crate::plan::kernels::KernelTree;
use crate::plan::{Numerics, rules};

pub struct Trial<'t> {
    pub model: &'t Model,
    pub tree: &'t KernelTree,
    pub numerics: Vec<Numerics>,
    pub baselines: &'t Baselines<'t>,
    pub thorough: bool,
    /// Of the sample, and of every case that is asked.
    pub seed: [u8; 32],
    /// Mutants that count; all there are if fewer.
    pub wanted: usize,
    pub known: &'t Known,
    /// Of mutants that were judged before, and are not again.
    pub journal: Option<&'t Journal>,
    /// For what is compiled.
    pub cache: &'t Path,
    pub stop: &'t AtomicBool,
    /// Told how many are done, and of how many, if all are wanted.
    pub tick: &'t (dyn Fn(usize, Option<usize>) + Sync),
}

/// A mutant to come.
struct Drawn {
    file: String,
    edit: Edit,
    /// The kernels that have the file, as they are asked.
    homes: Vec<usize>,
}

impl Trial<'_> {
    /// Judges mutants of these kernels, in an order that the seed draws. What was not judged when `stop` was set says so.
    pub fn run(&self, nodes: &[Node]) -> Result<Vec<KernelTeeth>> {
        let started = Instant::now();
        let homes = nodes.iter().map(|node| Home::new(self, node)).collect::<Result<Vec<_>>>()?;
        let drawn = self.draw(&homes);
        let told = self.judge_all(&homes, &drawn)?;
        // Who is refused in a prefill may be refused for what the kernel itself does there.
        let in_prefill = |fate: &Fate| matches!(fate, Fate::Killed { stage: Stage::Prefill, .. });
        for home in &homes {
            let name = home.node.to_string();
            let refused = |(node, fate): &(String, Fate)| *node == name && in_prefill(fate);
            if told.iter().flatten().any(|t| t.fates.iter().any(refused)) && !self.stop.load(Ordering::Relaxed) {
                home.passes_in_a_prefill()?;
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        Ok(homes.iter().enumerate().map(|(i, home)| self.kernel(i, home, &drawn, &told, seconds)).collect())
    }

    /// Every mutant of the texts, in the order in which they are judged.
    fn draw(&self, homes: &[Home<'_>]) -> Vec<Drawn> {
        let mut texts: BTreeMap<&str, (&str, Vec<usize>)> = BTreeMap::new();
        for (i, home) in homes.iter().enumerate() {
            for (file, text) in home.source.files.iter().filter(|(file, text)| is_own(file, text)) {
                texts.entry(file).or_insert((text, Vec::new())).1.push(i);
            }
        }
        let mut drawn = Vec::new();
        for (file, (text, homes)) in texts {
            for (n, edit) in mutate::mutants(text).into_iter().enumerate() {
                // Each in its turn is the first, so that all have a part.
                let mut homes = homes.clone();
                let turn = n % homes.len();
                homes.rotate_left(turn);
                drawn.push(Drawn { file: file.into(), edit, homes });
            }
        }
        let label = match homes {
            [home] => format!("mutants {}", home.node),
            _ => "mutants".into(),
        };
        let mut draw = Draw::new(&self.seed, &label);
        (1..drawn.len()).rev().for_each(|i| drawn.swap(i, draw.below(i + 1)));
        drawn
    }

    /// Judges in the order given until enough of them count.
    fn judge_all(&self, homes: &[Home<'_>], drawn: &[Drawn]) -> Result<Vec<Option<Told>>> {
        let (next, counted) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let all = (self.wanted >= drawn.len()).then_some(drawn.len());
        // What is known is told even where the run ends before its turn.
        let recall = |d: &Drawn| all.and(self.journal)?.told(&Key::of(&d.file, &d.edit)).cloned();
        let told: Mutex<Vec<Option<Told>>> = Mutex::new(drawn.iter().map(recall).collect());
        let failed = Mutex::new(None);
        let work = || -> Result<()> {
            let scratch = Scratch::copy_of(self.tree.root())?;
            while counted.load(Ordering::Relaxed) < self.wanted {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(mutant) = drawn.get(at) else { break };
                let told_now = self.judge_or_recall(homes, &scratch, mutant)?;
                let counts = told_now.fates.iter().any(|(_, fate)| fate.counts());
                counted.fetch_add(usize::from(counts), Ordering::Relaxed);
                told.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(told_now);
                let done = if all.is_some() { at + 1 } else { counted.load(Ordering::Relaxed) };
                (self.tick)(done, all);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            for _ in 0..self.judges() {
                scope.spawn(|| {
                    if let Err(e) = work() {
                        counted.store(usize::MAX, Ordering::Relaxed);
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                    }
                });
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(e) if e.code().id != INTERRUPTED.id => return Err(e),
            _ => {}
        }
        let mut told = told.into_inner().unwrap_or_else(PoisonError::into_inner);
        // What is beyond the last one wanted is there because several were judged at once.
        let mut counted = 0;
        for told in &mut told {
            if counted >= self.wanted {
                *told = None;
            }
            counted += usize::from(told.iter().any(|t| t.fates.iter().any(|(_, fate)| fate.counts())));
        }
        Ok(told)
    }

    /// How many mutants are judged at once: more would be more than are wanted.
    fn judges(&self) -> usize {
        processors().min(JUDGES).min(self.wanted)
    }

    /// How many blocks each of them may have in flight: threads that wait for a processor only cost.
    pub(super) fn blocks(&self) -> usize {
        processors() / self.judges()
    }

    fn judge_or_recall(&self, homes: &[Home<'_>], scratch: &Scratch, mutant: &Drawn) -> Result<Told> {
        let key = Key::of(&mutant.file, &mutant.edit);
        if let Some(told) = self.journal.and_then(|j| j.told(&key)) {
            return Ok(told.clone());
        }
        let started = Instant::now();
        let text = &homes[mutant.homes[0]].source.files[&mutant.file];
        let mutated = mutant.edit.apply(text);
        scratch.write(&mutant.file, &mutated)?;
        let fates = self.judge(homes, scratch, mutant, &mutated);
        scratch.write(&mutant.file, text)?;
        let told = Told { fates: fates?, seconds: started.elapsed().as_secs_f64() };
        if let Some(journal) = self.journal {
            journal.tell(key, &told)?;
        }
        Ok(told)
    }

    /// The lightest cases of every kernel that has the text come before all cases of any.
    fn judge(&self, homes: &[Home<'_>], scratch: &Scratch, mutant: &Drawn, text: &str) -> Result<Vec<(String, Fate)>> {
        let mut fates = Vec::new();
        let mut passed = Vec::new();
        for home in mutant.homes.iter().map(|i| &homes[*i]) {
            match home.meets_lightly(scratch, &mutant.file, text)? {
                Fate::Survived => passed.push(home),
                fate => {
                    let killed = fate.is_killed();
                    fates.push((home.node.to_string(), fate));
                    if killed {
                        return Ok(fates);
                    }
                }
            }
        }
        for home in passed {
            let fate = home.meets(scratch, &mutant.file, text)?;
            let ends = fate.counts();
            fates.push((home.node.to_string(), fate));
            if ends {
                break;
            }
        }
        Ok(fates)
    }

    fn kernel(
        &self,
        index: usize,
        home: &Home<'_>,
        drawn: &[Drawn],
        told: &[Option<Told>],
        seconds: f64,
    ) -> KernelTeeth {
        let mine = |d: &Drawn| d.homes.contains(&index);
        let texts: Vec<_> = drawn
            .iter()
            .filter(|d| mine(d))
            .map(|d| {
                let text = &home.source.files[&d.file];
                (d.file.as_str(), d.edit.before(text), d.edit.after(text))
            })
            .collect();
        let stale = self.known.stale(&home.node.to_string(), &texts);
        let interrupted = self.stop.load(Ordering::Relaxed);
        let mut made: Vec<_> = drawn
            .iter()
            .zip(told)
            .filter(|(d, told)| mine(d) && (told.is_some() || interrupted))
            .map(|(d, told)| (d, self.mutant(home, d, told.as_ref())))
            .collect();
        made.sort_by_key(|(d, _)| (&d.file, d.edit.at.start, d.edit.at.end, &d.edit.text));
        let mutants = made.into_iter().map(|(_, mutant)| mutant).collect();
        KernelTeeth { node: home.node.clone(), stem: home.stem.clone(), possible: texts.len(), mutants, stale, seconds }
    }

    fn mutant(&self, home: &Home<'_>, drawn: &Drawn, told: Option<&Told>) -> Mutant {
        let text = &home.source.files[&drawn.file];
        let (before, after) = (drawn.edit.before(text), drawn.edit.after(text));
        let name = home.node.to_string();
        let entry = |node: &str| self.known.equivalent(node, &drawn.file, &before, &after);
        let fate = told.map_or_else(|| not_judged("nobody waited"), |told| seen_by(&name, &told.fates));
        let refuted = entry(&name).is_some() && matches!(fate, Fate::Killed { .. });
        let fate = match (fate, entry(&name)) {
            (Fate::Survived, Some(e)) => Fate::Equivalent { why: e.why.clone() },
            // It speaks of this kernel, and not of the one that told.
            (Fate::KilledElsewhere { by, .. }, Some(e)) if entry(&by).is_none() => {
                Fate::Equivalent { why: e.why.clone() }
            }
            (fate, _) => fate,
        };
        let gap = self.known.gap(&name, &drawn.file, &before).filter(|_| fate == Fate::Survived).map(|g| g.why.clone());
        let Edit { line, mistake, .. } = drawn.edit;
        let seconds = told.map_or(0.0, |t| t.seconds);
        Mutant { file: drawn.file.clone(), line, mistake, before, after, fate, refuted, gap, seconds }
    }
}

/// Each judges one mutant at a time, in as much memory as its cases need.
const JUDGES: usize = 32;

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// What one kernel can say of a mutant, by what became of it in each that was asked.
fn seen_by(node: &str, fates: &[(String, Fate)]) -> Fate {
    let own = fates.iter().find(|(n, _)| n == node).map(|(_, fate)| fate);
    if let Some(fate @ (Fate::Killed { .. } | Fate::SameCode | Fate::DoesNotCompile)) = own {
        return fate.clone();
    }
    let killer = fates.iter().find_map(|(by, fate)| match fate {
        Fate::Killed { reason, .. } => Some(Fate::KilledElsewhere { by: by.clone(), reason: reason.clone() }),
        _ => None,
    });
    let survived = || fates.iter().find(|(_, fate)| *fate == Fate::Survived).map(|(_, fate)| fate.clone());
    let last = || fates.last().map(|(_, fate)| fate.clone());
    killer.or_else(|| own.cloned()).or_else(survived).or_else(last).unwrap_or_else(|| not_judged("nobody was asked"))
}

fn not_judged(reason: &str) -> Fate {
    Fate::NotJudged { reason: reason.into() }
}

/// Neither what is generated nor what is known by its content: a changed one is refused for that alone.
fn is_own(file: &str, text: &str) -> bool {
    !file.starts_with("args/") && !rules::is_free(file, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_counts_what_its_neighbours_killed_and_not_what_it_does_not_hold() {
        let killed = || Fate::Killed { stage: Stage::Unit, reason: "wrong".into() };
        let elsewhere = Fate::KilledElsewhere { by: "c".into(), reason: "wrong".into() };
        let fates = [("a".to_string(), Fate::SameCode), ("c".to_string(), killed())];
        // a's code is the same; b has passed its lightest cases and was asked no more; c killed it.
        assert_eq!(seen_by("a", &fates), Fate::SameCode);
        assert_eq!(seen_by("b", &fates), elsewhere);
        assert_eq!(seen_by("c", &fates), killed());
        let fates = [("a".to_string(), Fate::SameCode), ("c".to_string(), Fate::Survived)];
        assert_eq!(["a", "b", "c"].map(|n| seen_by(n, &fates)), [Fate::SameCode, Fate::Survived, Fate::Survived]);
        let fates = [("a".to_string(), not_judged("no memory")), ("c".to_string(), killed())];
        assert_eq!(seen_by("a", &fates), elsewhere);
        assert!(matches!(seen_by("a", &[]), Fate::NotJudged { .. }));
    }
}
