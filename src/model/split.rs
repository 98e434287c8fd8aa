//! The joyai-llm split: text → the pieces that byte pairs are merged within (docs/model.md §16.2).
//!
//! The original tokenizer splits three times, each time within the pieces of the time before: runs of up to three
//! digits, runs of CJK and kana, and then the main pattern. This is that, over Unicode's classes, and not the ASCII
//! approximation that upstream's C scanner is: on text of ASCII and letters with accents the two agree. The patterns
//! run on a linear-time engine; the one look-ahead among them (`\s+(?!\S)`) is done by hand.

use regex::Regex;

use crate::{Error, Result};

const DIGITS: &str = r"\p{N}{1,3}";
const CJK: &str = r"[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+";
const MAIN: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    r"| ?[\p{P}\p{S}]+[\r\n]*",
    r"|\s*[\r\n]+",
    r"|\s+",
);

/// The compiled patterns.
pub struct Split {
    digits: Regex,
    cjk: Regex,
    main: Regex,
}

impl Split {
    pub fn new() -> Result<Split> {
        let compile = |pattern: &str| {
            Regex::new(pattern).map_err(|e| Error::internal(format!("the pattern {pattern} does not compile: {e}")))
        };
        Ok(Split { digits: compile(DIGITS)?, cjk: compile(CJK)?, main: compile(MAIN)? })
    }

    /// Calls `piece` for each piece in order. The pieces join up to `text` exactly; none is empty.
    pub fn pieces<'t>(&self, text: &'t str, piece: &mut impl FnMut(&'t str)) {
        isolate(&self.digits, text, whole_match, &mut |part| {
            isolate(&self.cjk, part, whole_match, &mut |part| isolate(&self.main, part, main_match, piece));
        });
    }
}

/// Cuts `text` into the matches of `pattern` and what lies between them. `end_of` may shorten a match.
fn isolate<'t>(
    pattern: &Regex,
    text: &'t str,
    end_of: fn(&str, usize, usize) -> usize,
    piece: &mut impl FnMut(&'t str),
) {
    let (mut done, mut at) = (0, 0);
    while let Some(found) = pattern.find_at(text, at) {
        if done < found.start() {
            piece(&text[done..found.start()]);
        }
        at = end_of(text, found.start(), found.end());
        piece(&text[found.start()..at]);
        done = at;
    }
    if done < text.len() {
        piece(&text[done..]);
    }
}

fn whole_match(_: &str, _: usize, end: usize) -> usize {
    end
}

/// Where a match of [`MAIN`] ends. White space that more text follows gives up its last character, if it has another:
/// that is what `\s+(?!\S)` before `\s+` says. Runs with a line break were matched by the alternative before and end in
/// one.
fn main_match(text: &str, start: usize, end: usize) -> usize {
    let run = &text[start..end];
    match run.chars().next_back() {
        Some(last) if end < text.len() && last.is_whitespace() && !matches!(last, '\r' | '\n') => {
            let shorter = end - last.len_utf8();
            if shorter > start { shorter } else { end }
        }
        _ => end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<&str> {
        let mut out = Vec::new();
        Split::new().unwrap().pieces(text, &mut |p| out.push(p));
        assert_eq!(out.concat(), text);
        out
    }

    #[test]
    fn every_alternative() {
        assert_eq!(pieces("12345"), ["123", "45"]);
        assert_eq!(pieces("if x>=10:\n"), ["if", " x", ">=", "10", ":\n"]);
        assert_eq!(pieces("a  b\t c"), ["a", " ", " b", "\t", " c"]);
        assert_eq!(pieces("a   1"), ["a", "   ", "1"]);
        assert_eq!(pieces("x \n\n  y"), ["x", " \n\n", " ", " y"]);
        assert_eq!(pieces("don't"), ["don", "'t"]);
        assert_eq!(pieces("漢字かなカナabc"), ["漢字かなカナ", "abc"]);
        assert_eq!(pieces("naïve café"), ["naïve", " café"]);
        assert_eq!(pieces("  "), ["  "]);
        assert_eq!(pieces("\0\u{1}"), ["\0\u{1}"]);
        assert_eq!(pieces(""), [""; 0]);
    }
}
