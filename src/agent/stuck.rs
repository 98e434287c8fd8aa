//! Whether a model moves, from what it did: never from what it says.

use super::state::Attempt;
use crate::ledger::Digest;

/// Attempts without a better error that are too many.
const NO_PROGRESS: usize = 4;
/// Edits in a row without a verdict that are too many.
const EDITS: u64 = 4;
/// Steps in a row without a new verdict that are too many.
const IDLE: u64 = 12;

/// Why the work on a node does not move, if it does not. `attempts` are those since the strategy changed last.
pub fn why(attempts: &[Attempt], edits: u64, idle: u64) -> Option<String> {
    let failures: Vec<_> = attempts.iter().filter_map(|a| a.failure.as_deref()).collect();
    if let [.., a, b, c] = failures[..]
        && a == b
        && b == c
    {
        return Some("the same failure three times in a row".into());
    }
    if let [.., a, b, c] = attempts
        && a.source == c.source
        && a.source != b.source
    {
        return Some(format!("attempt {} is attempt {} again: it goes back and forth", c.number, a.number));
    }
    if attempts.len() >= NO_PROGRESS {
        let last = &attempts[attempts.len() - NO_PROGRESS..];
        let errors: Vec<f64> = last.iter().filter_map(|a| a.error).collect();
        if let [first, later @ ..] = &errors[..]
            && errors.len() == NO_PROGRESS
            // A NaN is no better than anything.
            && later.iter().all(|e| e.is_nan() || *e >= 0.9 * first)
        {
            return Some(format!("the error has not become smaller over {NO_PROGRESS} attempts"));
        }
    }
    if edits >= EDITS {
        return Some(format!("{edits} edits in a row without a verdict"));
    }
    (idle >= IDLE).then(|| format!("{idle} steps in a row without a new verdict"))
}

/// What a failure is called: equal for failures that differ only in figures, which every verdict draws anew.
pub fn failure(stage: &str, reason: &str) -> String {
    let mut plain = String::new();
    for word in reason.split_whitespace() {
        let figure =
            word.bytes().any(|b| b.is_ascii_digit()) && !word.bytes().any(|b| b.is_ascii_alphabetic() && b != b'e');
        plain.push_str(if figure { "#" } else { word });
        plain.push(' ');
    }
    Digest::of(format!("{stage}: {plain}").as_bytes()).short()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(of: &[(&str, &str, f64)]) -> Vec<Attempt> {
        let attempt = |(i, (source, failure, error)): (usize, &(&str, &str, f64))| Attempt {
            number: i as u64 + 1,
            source: source.to_string(),
            failure: Some(failure.to_string()),
            error: Some(*error),
            ..Attempt::default()
        };
        of.iter().enumerate().map(attempt).collect()
    }

    #[test]
    fn each_way_of_not_moving_is_seen() {
        for (list, edits, idle, says) in [
            (&[("a", "x", 1.0), ("b", "x", 0.5), ("c", "x", 0.1)][..], 0, 0, "same failure"),
            (&[("a", "x", 1.0), ("b", "y", 0.5), ("a", "z", 1.0)], 0, 0, "attempt 3 is attempt 1"),
            (&[("a", "x", 1.0), ("b", "y", 2.0), ("c", "z", f64::NAN), ("d", "w", 0.95)], 0, 0, "smaller"),
            (&[], 4, 0, "edits"),
            (&[], 0, 12, "steps"),
        ] {
            let why = why(&attempts(list), edits, idle).unwrap();
            assert!(why.contains(says), "{why}");
        }
        for list in [
            &[][..],
            &[("a", "x", 1.0), ("b", "x", 0.5)],
            &[("a", "x", 1.0), ("b", "y", 0.5), ("c", "x", 0.2), ("d", "y", 0.05)],
        ] {
            assert_eq!(why(&attempts(list), 3, 11), None);
        }
    }

    #[test]
    fn figures_do_not_make_a_failure_another() {
        let a = failure("unit", "float4: h is wrong by 3.2e-1 at 17");
        assert_eq!(a, failure("unit", "float4: h is wrong by 9.9e+2 at 3"));
        assert_ne!(a, failure("unit", "float4: g is wrong by 3.2e-1 at 17"));
        assert_ne!(a, failure("build", "float4: h is wrong by 3.2e-1 at 17"));
    }
}
