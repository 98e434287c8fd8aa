//! The search along a line: which of its places is the first that is bad, in as few questions as can be.

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// What was found of one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    Good,
    Bad {
        why: String,
    },
    /// Could not be judged.
    Skip {
        why: String,
    },
    /// Judged several times, and not alike.
    Flaky {
        why: String,
    },
}

impl Answer {
    pub fn name(&self) -> &'static str {
        match self {
            Answer::Good => "good",
            Answer::Bad { .. } => "bad",
            Answer::Skip { .. } => "skip",
            Answer::Flaky { .. } => "flaky",
        }
    }

    pub fn why(&self) -> Option<&str> {
        match self {
            Answer::Good => None,
            Answer::Bad { why } | Answer::Skip { why } | Answer::Flaky { why } => Some(why),
        }
    }

    /// Several answers to one question as one.
    pub fn of(answers: &[Answer]) -> Answer {
        let first = answers.first().cloned().unwrap_or(Answer::Skip { why: "it was never asked".into() });
        match answers.iter().find(|a| a.name() != first.name()) {
            None => first,
            Some(other) => {
                let say = |a: &Answer| a.why().map_or(a.name().into(), |why| format!("{} ({why})", a.name()));
                Answer::Flaky { why: format!("of {} times once {}, once {}", answers.len(), say(&first), say(other)) }
            }
        }
    }
}

/// A line of places, oldest first, that are asked one by one.
pub trait Line {
    /// What is known of a place without asking.
    fn known(&mut self, at: usize) -> Result<Option<Answer>>;
    fn ask(&mut self, at: usize) -> Result<Answer>;
}

/// How a search ended. `good` and `bad` are places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Neighbours.
    Found { good: usize, bad: usize },
    /// Every place between could not be judged.
    CannotTell { good: usize, bad: usize },
    /// The first place was to be good.
    GoodIsBad,
    /// The last place was to be bad.
    BadIsGood,
    /// Nobody said which is good, and none that could be judged is.
    NeverGood,
}

/// Searches `n` places of which the last is said to be bad and, where `claimed`, the first to be good.
///
/// Both are the user's words and no more: they are judged only where the answer rests on them, so that n places cost at
/// most ⌈log₂(n + 1)⌉ questions, ends included. Where an end cannot be judged, the user's word is taken.
pub fn search(n: usize, claimed: bool, line: &mut dyn Line) -> Result<Turn> {
    if claimed && matches!(line.known(0)?, Some(Answer::Bad { .. })) {
        return Ok(Turn::GoodIsBad);
    }
    if line.known(n - 1)? == Some(Answer::Good) {
        return Ok(Turn::BadIsGood);
    }
    // Everything before `from` is taken for good, `to` and after it for bad.
    let (mut from, mut to) = (0, n);
    if !claimed {
        match last_good(n, line)? {
            Ok(good) => from = good + 1,
            Err(turn) => return Ok(turn),
        }
    }
    let middle = |from: usize, to: usize| (from + to) / 2;
    loop {
        let (mut free, mut open) = (None, None);
        for at in by_distance(from, to, middle(from, to)) {
            match line.known(at)? {
                Some(answer @ (Answer::Good | Answer::Bad { .. })) => free = free.or(Some((at, answer))),
                Some(_) => {}
                None => open = open.or(Some(at)),
            }
            if free.is_some() {
                break;
            }
        }
        let (at, answer) = match (free, open) {
            (Some(known), _) => known,
            (None, Some(at)) => (at, line.ask(at)?),
            (None, None) => break,
        };
        match answer {
            Answer::Good => from = at + 1,
            Answer::Bad { .. } => to = at,
            Answer::Skip { .. } | Answer::Flaky { .. } => {}
        }
    }
    if to == 0 {
        return Ok(Turn::GoodIsBad);
    }
    if from == n {
        return Ok(Turn::BadIsGood);
    }
    // What is left could not be judged; an end among it is what the user says it is.
    let (good, bad) = (from.saturating_sub(1), to.min(n - 1));
    Ok(if good + 1 >= bad { Turn::Found { good, bad: good + 1 } } else { Turn::CannotTell { good, bad } })
}

/// A good place, near the end: the last that is known, or one found by ever longer steps back.
fn last_good(n: usize, line: &mut dyn Line) -> Result<std::result::Result<usize, Turn>> {
    for at in (0..n).rev() {
        if line.known(at)? == Some(Answer::Good) {
            return Ok(Ok(at));
        }
    }
    let (mut at, mut step) = (n - 1, 1);
    loop {
        let answer = match line.known(at)? {
            Some(answer) => answer,
            None => line.ask(at)?,
        };
        match answer {
            Answer::Good if at == n - 1 => return Ok(Err(Turn::BadIsGood)),
            Answer::Good => return Ok(Ok(at)),
            _ if at == 0 => return Ok(Err(Turn::NeverGood)),
            _ => at = at.saturating_sub(step),
        }
        step *= 2;
    }
}

/// The places of `from..to`, those nearest to `middle` first.
fn by_distance(from: usize, to: usize, middle: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (from..to).collect();
    places.sort_by_key(|at| at.abs_diff(middle));
    places
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// `g`ood, `b`ad, `s`kip, `f`laky; upper case: known from the start.
    struct Text {
        places: Vec<u8>,
        seen: HashMap<usize, Answer>,
        asked: usize,
    }

    impl Text {
        fn new(text: &str) -> Text {
            Text { places: text.bytes().collect(), seen: HashMap::new(), asked: 0 }
        }

        fn answer(&self, at: usize) -> Answer {
            let why = String::new();
            match self.places[at].to_ascii_lowercase() {
                b'g' => Answer::Good,
                b'b' => Answer::Bad { why },
                b's' => Answer::Skip { why },
                _ => Answer::Flaky { why },
            }
        }
    }

    impl Line for Text {
        fn known(&mut self, at: usize) -> Result<Option<Answer>> {
            Ok(match self.places[at].is_ascii_uppercase() {
                true => Some(self.answer(at)),
                false => self.seen.get(&at).cloned(),
            })
        }

        fn ask(&mut self, at: usize) -> Result<Answer> {
            assert!(self.known(at)?.is_none(), "place {at} was asked twice");
            self.asked += 1;
            let answer = self.answer(at);
            self.seen.insert(at, answer.clone());
            Ok(answer)
        }
    }

    fn turn(text: &str, claimed: bool) -> (Turn, usize) {
        let mut line = Text::new(text);
        (search(text.len(), claimed, &mut line).unwrap(), line.asked)
    }

    #[test]
    fn every_turn_is_found_in_as_many_questions_as_there_are_bits() {
        for n in [2usize, 3, 7, 100, 200, 256] {
            let most = (n as f64 + 1.0).log2().ceil() as usize;
            assert!(most as f64 <= (n as f64).log2() + 1.0);
            for bad in 0..=n {
                let (found, asked) = turn(&("g".repeat(bad) + &"b".repeat(n - bad)), true);
                assert!(asked <= most, "{n} places, {bad}: {asked} of {most}");
                assert_eq!(
                    found,
                    match bad {
                        0 => Turn::GoodIsBad,
                        bad if bad == n => Turn::BadIsGood,
                        bad => Turn::Found { good: bad - 1, bad },
                    }
                );
            }
        }
    }

    #[test]
    fn what_is_known_costs_nothing() {
        assert_eq!(turn("GGGGBBB", true), (Turn::Found { good: 3, bad: 4 }, 0));
        assert_eq!(turn("ggGggBbb", true).0, Turn::Found { good: 4, bad: 5 });
        assert!(turn("gggggggggGbBbbbbbbbb", true).1 <= 1);
        assert_eq!(turn("Bggggb", true), (Turn::GoodIsBad, 0));
        assert_eq!(turn("ggggG", true), (Turn::BadIsGood, 0));
    }

    #[test]
    fn what_cannot_be_judged_is_gone_around() {
        assert_eq!(turn("ggsgbb", true).0, Turn::Found { good: 3, bad: 4 });
        assert_eq!(turn("gggsssbb", true).0, Turn::CannotTell { good: 2, bad: 6 });
        assert_eq!(turn("ggfb", true).0, Turn::CannotTell { good: 1, bad: 3 });
        assert_eq!(turn("ssss", true).0, Turn::CannotTell { good: 0, bad: 3 });
        // An end is taken at the user's word where it cannot be judged.
        assert_eq!(turn("sb", true).0, Turn::Found { good: 0, bad: 1 });
        assert_eq!(turn("gs", true).0, Turn::Found { good: 0, bad: 1 });
    }

    #[test]
    fn a_line_that_turns_more_than_once_still_gives_a_turn() {
        for text in ["gbgbgb", "bgggbbgb", "gbbbbggb"] {
            let Turn::Found { good, bad } = turn(text, true).0 else { panic!("{text}") };
            assert_eq!((good + 1, &text[good..=bad]), (bad, "gb"), "{text}");
        }
    }

    #[test]
    fn nobody_need_know_a_good_place() {
        assert_eq!(turn("bbbgggggbbbbb", false).0, Turn::Found { good: 7, bad: 8 });
        let (found, asked) = turn(&("g".repeat(190) + &"b".repeat(10)), false);
        assert_eq!(found, Turn::Found { good: 189, bad: 190 });
        assert!(asked <= 9, "{asked}");
        assert_eq!(turn("bbbbbbb", false).0, Turn::NeverGood);
        assert_eq!(turn("ggg", false).0, Turn::BadIsGood);
        assert_eq!(turn("bbGbb", false).0, Turn::Found { good: 2, bad: 3 });
    }

    #[test]
    fn unlike_answers_are_flaky() {
        let bad = || Answer::Bad { why: "x".into() };
        assert_eq!(Answer::of(&[Answer::Good, Answer::Good]), Answer::Good);
        assert_eq!(Answer::of(&[bad(), bad()]).name(), "bad");
        assert_eq!(Answer::of(&[Answer::Good, bad()]).why(), Some("of 2 times once good, once bad (x)"));
    }
}
