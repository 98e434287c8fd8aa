//! Whether a model moves, from what it did: never from what it says.

use super::state::Attempt;
use crate::ledger::{Digest, Outcome};

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

/// What the failure in a verdict is called; `None`: it passed. A verdict made here, one found in the ledger and one that
/// came from another host are called the same for the same mistake.
pub fn failure_of(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Pass => None,
        Outcome::Red { stage, reason, .. } => Some(failure(stage.name(), reason)),
        Outcome::Indeterminate { reason } => Some(failure("", reason)),
    }
}

/// What a failure is called: equal for failures that differ only in what every verdict draws anew, which are its figures
/// and the case that was met first. A kernel that fails as it runs is called by the error's code: in which thread it
/// does, and of which launch, is one of many.
pub fn failure(stage: &str, reason: &str) -> String {
    let (first, rest) = reason.split_once('\n').unwrap_or((reason, ""));
    let parts: Vec<&str> = first.split(": ").filter(|part| !is_case(part)).collect();
    let code = first.rsplit_once(" [").and_then(|(_, end)| end.strip_suffix(']'));
    let name = match (code, &parts[..]) {
        (Some(code), [variant, ..]) if stage == UNIT => format!("{variant}: {code}"),
        _ => format!("{}\n{rest}", parts.join(": ")),
    };
    Digest::of(format!("{stage}: {}", without_figures(&name)).as_bytes()).short()
}

/// The stage that runs a variant case by case.
const UNIT: &str = "unit";

/// Whether a part of a reason names a case: `K=256 N=4 T=3 large scales`.
fn is_case(part: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    part.split_whitespace().any(|word| word.strip_prefix("T=").is_some_and(digits))
}

/// Every number a `#`, with its sign, its fraction and its exponent; addresses too.
fn without_figures(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, number) = rest.split_at(at);
        let signed = before.strip_suffix(['-', '+']).filter(|b| !b.ends_with(|c: char| c.is_alphanumeric()));
        out.push_str(signed.unwrap_or(before));
        out.push('#');
        rest = after_number(number);
    }
    out.push_str(rest);
    out
}

/// What follows a number that a text begins with.
fn after_number(text: &str) -> &str {
    if let Some(hex) = text.strip_prefix("0x") {
        return hex.trim_start_matches(|c: char| c.is_ascii_hexdigit());
    }
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let exponent = rest.strip_prefix(['e', 'E']).map(|e| e.strip_prefix(['-', '+']).unwrap_or(e));
    match exponent.filter(|e| e.starts_with(|c: char| c.is_ascii_digit())) {
        Some(exponent) => exponent.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    }
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

    /// The case's name stood in it, so that a kernel which hangs always hung in another way each time.
    #[test]
    fn a_failure_had_another_name_in_another_case() {
        let hang = |case: &str, at: u32| {
            format!(
                "scalar: {case}: kernels/x.cu: block ({at},0,0) does not end [emulator-hang]\n  found:    thread {at}"
            )
        };
        let a = failure("unit", &hang("K=256 N=4 T=1 large scales", 0));
        assert_eq!(a, failure("unit", &hang("K=512 N=8 T=3 subnormal scales", 17)));
        assert_ne!(a, failure("unit", &hang("K=256 N=4 T=1 ", 0).replace("scalar", "float4")));
        assert_ne!(a, failure("unit", &hang("K=256 N=4 T=1 ", 0).replace("hang", "out-of-bounds")));
        // What a compiler says is told apart by what it says.
        let build = |line: u32, what: &str| {
            format!("kernels/x.cu does not compile [emulator-compile]\n  found:    x.cu:{line}: {what}")
        };
        assert_eq!(failure("build", &build(3, "no member n")), failure("build", &build(4, "no member n")));
        assert_ne!(failure("build", &build(3, "no member n")), failure("build", &build(3, "no member m")));
        assert_eq!(without_figures("-3.2e-1 at +7 of q8_0, 0xfe: e1"), "# at # of q#_#, #: e#");
    }
}
