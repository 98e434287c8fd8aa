//! Which of many changes make the difference: delta debugging over a set.
//!
//! A test is asked of a set of units that are taken from the bad side, all others from the good one. ddmin finds a
//! least set that is bad; what is left is asked again without it, until nothing bad is left. So several causes, each of
//! which suffices alone, are all found, and the last test is the proof by swapping back.

use std::collections::BTreeSet;

use super::Answer;
use crate::error::Result;

/// Units taken from the bad side.
pub type Set = BTreeSet<usize>;

/// What a search came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Each set alone makes good bad, none of its units can be left out, and bad without all of them is good.
    Found(Vec<Set>),
    /// The difference lies in this set, and no less can be said: these tests gave no answer.
    CannotTell { within: Set, tests: Vec<(Set, Answer)> },
    /// All of them together are good.
    BadIsGood,
    /// None of them is bad already.
    GoodIsBad,
}

/// Finds the causes among `units`.
pub fn causes(units: &Set, test: &mut dyn FnMut(&Set) -> Result<Answer>) -> Result<Cause> {
    let cannot =
        |within: &Set, set: Set, answer| Ok(Cause::CannotTell { within: within.clone(), tests: vec![(set, answer)] });
    match test(&Set::new())? {
        Answer::Good => {}
        Answer::Bad { .. } => return Ok(Cause::GoodIsBad),
        answer => return cannot(units, Set::new(), answer),
    }
    let (mut found, mut rest): (Vec<Set>, Set) = (Vec::new(), units.clone());
    loop {
        match test(&rest)? {
            Answer::Good if found.is_empty() => return Ok(Cause::BadIsGood),
            Answer::Good => return Ok(Cause::Found(found)),
            Answer::Bad { .. } => {}
            answer => return cannot(units, rest, answer),
        }
        let least = least(&rest, test)?;
        // A unit that only an answerless test keeps in may be innocent.
        let mut unknown = Vec::new();
        for unit in &least {
            let without: Set = least.iter().copied().filter(|u| u != unit).collect();
            match test(&without)? {
                Answer::Good | Answer::Bad { .. } => {}
                answer => unknown.push((without, answer)),
            }
        }
        if !unknown.is_empty() {
            return Ok(Cause::CannotTell { within: least, tests: unknown });
        }
        rest = rest.difference(&least).copied().collect();
        found.push(least);
    }
}

/// A bad subset of `units`, which is bad, from which no unit can be left out.
fn least(units: &Set, test: &mut dyn FnMut(&Set) -> Result<Answer>) -> Result<Set> {
    let mut left: Vec<usize> = units.iter().copied().collect();
    let mut pieces = 2;
    while left.len() > 1 {
        let size = left.len().div_ceil(pieces);
        let parts: Vec<Set> = left.chunks(size).map(|part| part.iter().copied().collect()).collect();
        let mut smaller = None;
        for part in &parts {
            if matches!(test(part)?, Answer::Bad { .. }) {
                smaller = Some((part.clone(), 2));
                break;
            }
        }
        // Of two parts each is the other's complement.
        for part in parts.iter().filter(|_| smaller.is_none() && parts.len() > 2) {
            let others: Set = left.iter().copied().filter(|u| !part.contains(u)).collect();
            if matches!(test(&others)?, Answer::Bad { .. }) {
                smaller = Some((others, (pieces - 1).max(2)));
                break;
            }
        }
        match smaller {
            Some((set, next)) => (left, pieces) = (set.into_iter().collect(), next),
            None if size == 1 => break,
            None => pieces = (2 * pieces).min(left.len()),
        }
    }
    Ok(left.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(n: usize, bad: impl Fn(&Set) -> Option<bool>) -> (Cause, usize) {
        let mut seen: std::collections::BTreeMap<Set, Answer> = Default::default();
        let mut asked = 0;
        let found = causes(&(0..n).collect(), &mut |set| {
            let answer = seen.entry(set.clone()).or_insert_with(|| {
                asked += 1;
                match bad(set) {
                    Some(true) => Answer::Bad { why: String::new() },
                    Some(false) => Answer::Good,
                    None => Answer::Skip { why: "no".into() },
                }
            });
            Ok(answer.clone())
        });
        (found.unwrap(), asked)
    }

    fn set<const N: usize>(units: [usize; N]) -> Set {
        units.into()
    }

    #[test]
    fn one_cause_of_many_is_found_in_a_few_tests() {
        for guilty in 0..27 {
            let (cause, asked) = run(27, |s| Some(s.contains(&guilty)));
            assert_eq!(cause, Cause::Found(vec![set([guilty])]));
            assert!(asked <= 13, "{asked}");
        }
    }

    #[test]
    fn what_is_bad_only_together_is_found_together() {
        assert_eq!(run(20, |s| Some(s.contains(&3) && s.contains(&17))).0, Cause::Found(vec![set([3, 17])]));
        assert_eq!(run(2, |s| Some(s.len() == 2)).0, Cause::Found(vec![set([0, 1])]));
    }

    #[test]
    fn causes_of_which_each_suffices_are_all_found() {
        let Cause::Found(found) = run(9, |s| Some(s.contains(&2) || s.contains(&7))).0 else { panic!() };
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), [set([2]), set([7])].into());
    }

    #[test]
    fn ends_that_are_not_what_was_said_are_refused() {
        assert_eq!(run(5, |_| Some(true)).0, Cause::GoodIsBad);
        assert_eq!(run(5, |_| Some(false)).0, Cause::BadIsGood);
    }

    #[test]
    fn tests_without_an_answer_are_no_proof() {
        let (cause, _) =
            run(4, |s| if s.len() == 1 && (s.contains(&1)) { None } else { Some(s.contains(&1) && s.contains(&2)) });
        assert!(matches!(&cause, Cause::CannotTell { within, .. } if *within == set([1, 2])), "{cause:?}");
        assert!(matches!(run(4, |s| if s.len() == 4 { None } else { Some(false) }).0, Cause::CannotTell { .. }));
    }
}
