//! A bisect over commits: along first parents, and where a merge brought the turn in, along the branch that it merged.

use std::collections::HashMap;

use git2::Oid;
use serde::Serialize;

use super::path::Named;
use super::{Answer, Line, RANGE, SHALLOW, State, Turn, search};
use crate::error::{Error, Kind, Result};
use crate::history::Repo;

/// How an answer came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum By {
    /// There was nothing to judge: no kernel, or none that can be read.
    Source,
    /// A row of the ledger on the very same binding.
    Row { row: u64, on: String },
    /// Judged, now or before an interruption.
    Judged { on: String },
}

impl By {
    fn on(&self) -> Option<&str> {
        match self {
            By::Source => None,
            By::Row { on, .. } | By::Judged { on } => Some(on),
        }
    }
}

/// An answer with where it comes from.
#[derive(Clone, Debug)]
pub struct Known {
    pub answer: Answer,
    pub by: By,
    /// Verifications that it cost.
    pub cost: usize,
}

/// What is asked of commits.
pub trait Ask {
    /// What decides the answer at a commit: where it is the same, so is the answer.
    fn key(&mut self, commit: Oid) -> Result<String>;
    /// What can be said of it without judging.
    fn free(&mut self, key: &str, commit: Oid) -> Result<Option<Known>>;
    fn judge(&mut self, commit: Oid) -> Result<Known>;
    fn tell(&mut self, event: Event<'_>);
}

/// What happens, for whoever watches.
pub enum Event<'e> {
    Line { commits: usize, places: usize },
    Judging { commit: Oid },
    Answered { commit: Oid, known: &'e Known },
    Note(String),
}

/// A question that was answered.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    pub commit: String,
    #[serde(flatten)]
    pub answer: Answer,
    #[serde(flatten)]
    pub by: By,
}

/// How it ended.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    Found {
        first_bad: Named,
        last_good: Named,
        why: String,
        /// The merge that brought the branch of `first_bad` in, the last first.
        merged_by: Vec<Named>,
        /// It is a merge itself, of sides that are good.
        merge: bool,
        bad: By,
        /// `None`: taken at the user's word, as it could not be judged.
        good: Option<By>,
    },
    /// One of these; those that could not be judged, and why.
    CannotTell {
        candidates: Vec<Named>,
        unjudged: Vec<Unjudged>,
    },
    GoodIsBad {
        commit: Named,
        why: String,
        forked: bool,
    },
    BadIsGood {
        commit: Named,
    },
    NeverGood {
        judged: usize,
    },
    /// The whole line has one key.
    Same,
}

#[derive(Clone, Debug, Serialize)]
pub struct Unjudged {
    pub commit: String,
    #[serde(flatten)]
    pub answer: Answer,
}

/// Commits of one key that follow one another.
struct Place {
    key: String,
    first: Oid,
    last: Oid,
}

pub struct Hunt<'h> {
    repo: &'h Repo,
    state: &'h mut State,
    ask: &'h mut dyn Ask,
    seen: HashMap<String, Option<Known>>,
    pub steps: Vec<Step>,
    /// Commits on the lines that were searched, and places with another key than the one before.
    pub commits: usize,
    pub places: usize,
}

struct On<'o, 'h> {
    hunt: &'o mut Hunt<'h>,
    places: &'o [Place],
}

impl Line for On<'_, '_> {
    fn known(&mut self, at: usize) -> Result<Option<Answer>> {
        let place = &self.places[at];
        Ok(self.hunt.known(&place.key, place.first)?.map(|known| known.answer))
    }

    fn ask(&mut self, at: usize) -> Result<Answer> {
        let place = &self.places[at];
        Ok(self.hunt.judge(&place.key, place.first)?.answer)
    }
}

impl<'h> Hunt<'h> {
    pub fn new(repo: &'h Repo, state: &'h mut State, ask: &'h mut dyn Ask) -> Hunt<'h> {
        Hunt { repo, state, ask, seen: HashMap::new(), steps: Vec::new(), commits: 0, places: 0 }
    }

    pub fn run(&mut self, good: Option<Oid>, bad: Oid) -> Result<Outcome> {
        let between = self.repo.line(good, bad)?;
        let places = self.place(&between.commits)?;
        (self.commits, self.places) = (between.commits.len(), places.len());
        self.ask.tell(Event::Line { commits: self.commits, places: self.places });
        if places.len() == 1 && good.is_some() {
            return Ok(Outcome::Same);
        }
        let turn = search(places.len(), good.is_some(), &mut On { hunt: self, places: &places })?;
        self.outcome(turn, &places, between.forked)
    }

    /// The answer at one commit, judged if need be.
    pub fn at(&mut self, commit: Oid) -> Result<Known> {
        let key = self.ask.key(commit)?;
        match self.known(&key, commit)? {
            Some(known) => Ok(known),
            None => self.judge(&key, commit),
        }
    }

    fn place(&mut self, commits: &[Oid]) -> Result<Vec<Place>> {
        let mut places: Vec<Place> = Vec::new();
        for commit in commits {
            let key = self.ask.key(*commit)?;
            match places.last_mut() {
                Some(place) if place.key == key => place.last = *commit,
                _ => places.push(Place { key, first: *commit, last: *commit }),
            }
        }
        Ok(places)
    }

    fn known(&mut self, key: &str, commit: Oid) -> Result<Option<Known>> {
        if let Some(known) = self.seen.get(key) {
            return Ok(known.clone());
        }
        let kept = self.state.answers.get(key);
        let earlier =
            kept.map(|kept| Known { answer: kept.answer.clone(), by: By::Judged { on: kept.on.clone() }, cost: 0 });
        let known = match earlier {
            Some(known) => Some(known),
            None => self.ask.free(key, commit)?,
        };
        if let Some(known) = &known {
            self.step(commit, known);
        }
        self.seen.insert(key.into(), known.clone());
        Ok(known)
    }

    fn judge(&mut self, key: &str, commit: Oid) -> Result<Known> {
        self.ask.tell(Event::Judging { commit });
        let known = self.ask.judge(commit)?;
        self.state.keep(key, &known.answer, known.by.on().unwrap_or_default(), known.cost)?;
        self.ask.tell(Event::Answered { commit, known: &known });
        self.step(commit, &known);
        self.seen.insert(key.into(), Some(known.clone()));
        Ok(known)
    }

    fn step(&mut self, commit: Oid, known: &Known) {
        self.steps.push(Step { commit: commit.to_string(), answer: known.answer.clone(), by: known.by.clone() });
    }

    fn outcome(&mut self, turn: Turn, places: &[Place], forked: bool) -> Result<Outcome> {
        Ok(match turn {
            Turn::Found { good, bad } => self.found(&places[good], &places[bad])?,
            Turn::CannotTell { good, bad } => self.cannot_tell(&places[good + 1..=bad], Vec::new())?,
            Turn::GoodIsBad => {
                let commit = self.repo.named(places[0].last)?;
                Outcome::GoodIsBad { commit, why: self.why(&places[0]), forked }
            }
            Turn::BadIsGood => {
                let last = places.last().ok_or_else(|| Error::internal("a line without commits"))?;
                Outcome::BadIsGood { commit: self.repo.named(last.last)? }
            }
            Turn::NeverGood => Outcome::NeverGood { judged: self.steps.len() },
        })
    }

    fn seen(&self, place: &Place) -> Option<&Known> {
        self.seen.get(&place.key)?.as_ref()
    }

    fn why(&self, place: &Place) -> String {
        self.seen(place).and_then(|known| known.answer.why()).unwrap_or_default().to_string()
    }

    fn cannot_tell(&mut self, places: &[Place], mut candidates: Vec<Named>) -> Result<Outcome> {
        let mut unjudged = Vec::new();
        for place in places {
            candidates.push(self.repo.named(place.first)?);
            let answer = self.seen(place).map(|known| known.answer.clone());
            if let Some(answer @ (Answer::Skip { .. } | Answer::Flaky { .. })) = answer {
                unjudged.push(Unjudged { commit: place.first.to_string(), answer });
            }
        }
        Ok(Outcome::CannotTell { candidates, unjudged })
    }

    fn found(&mut self, good: &Place, bad: &Place) -> Result<Outcome> {
        if let Some(disagreement) = self.settle(good, bad)? {
            return Ok(disagreement);
        }
        let first_bad = self.repo.named(bad.first)?;
        let parents = self.repo.parents(bad.first)?;
        // A merge is bad and its first parent good: one of the other sides brought it in, or it is the merge itself.
        for side in parents.iter().skip(1) {
            let between = match self.repo.line(Some(good.last), *side) {
                Err(e) if [RANGE.id, SHALLOW.id].contains(&e.code().id) => continue,
                between => between?,
            };
            let places = self.place(&between.commits)?;
            self.commits += between.commits.len();
            self.places += places.len();
            if places.len() == 1 {
                continue;
            }
            match search(places.len(), true, &mut On { hunt: self, places: &places })? {
                Turn::Found { good, bad } => {
                    let mut outcome = self.found(&places[good], &places[bad])?;
                    match &mut outcome {
                        Outcome::Found { merged_by, .. } => merged_by.push(first_bad),
                        Outcome::CannotTell { candidates, .. } => candidates.push(first_bad),
                        _ => {}
                    }
                    return Ok(outcome);
                }
                Turn::CannotTell { good, bad } => return self.cannot_tell(&places[good + 1..=bad], vec![first_bad]),
                // The side is good, or where it began is bad, which this one's line had repaired.
                Turn::BadIsGood | Turn::GoodIsBad | Turn::NeverGood => {}
            }
        }
        let by = |known: Option<&Known>, wanted: &str| {
            known.filter(|known| known.answer.name() == wanted).map(|known| known.by.clone())
        };
        Ok(Outcome::Found {
            first_bad,
            last_good: self.repo.named(good.last)?,
            why: self.why(bad),
            merged_by: Vec::new(),
            merge: parents.len() > 1,
            bad: by(self.seen(bad), "bad").unwrap_or(By::Source),
            good: by(self.seen(good), "good"),
        })
    }

    /// Good in one place and bad in another is no turn: then both are asked in this one.
    fn settle(&mut self, good: &Place, bad: &Place) -> Result<Option<Outcome>> {
        let on = |known: Option<&Known>| known.and_then(|known| known.by.on()).map(String::from);
        let (here, there) = (on(self.seen(good)), on(self.seen(bad)));
        let (Some(here), Some(there)) = (here, there) else { return Ok(None) };
        if here == there {
            return Ok(None);
        }
        for place in [good, bad] {
            let Some(known) = self.seen(place).cloned() else { continue };
            let By::Row { row, on } = &known.by else { continue };
            self.ask.tell(Event::Judging { commit: place.first });
            let again = match self.ask.judge(place.first) {
                Err(e) if e.kind() == Kind::CouldNotRun => {
                    let note = format!("good on {here} and bad on {there}: not judged in one place, as {}", e.what());
                    self.ask.tell(Event::Note(note));
                    return Ok(None);
                }
                again => again?,
            };
            self.ask.tell(Event::Answered { commit: place.first, known: &again });
            self.state.keep(&place.key, &again.answer, again.by.on().unwrap_or_default(), again.cost)?;
            self.step(place.first, &again);
            if again.answer.name() != known.answer.name() {
                let said = |a: &Answer| a.why().map_or(a.name().into(), |why| format!("{}: {why}", a.name()));
                let why = format!(
                    "row {row} says {} on {on}, here on {} it is {}",
                    known.answer.name(),
                    again.by.on().unwrap_or("this machine"),
                    said(&again.answer)
                );
                let unjudged = vec![Unjudged { commit: place.first.to_string(), answer: Answer::Flaky { why } }];
                return Ok(Some(Outcome::CannotTell { candidates: vec![self.repo.named(bad.first)?], unjudged }));
            }
            self.seen.insert(place.key.clone(), Some(again));
        }
        Ok(None)
    }
}
