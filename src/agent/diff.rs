//! What a text changes against another, in lines, for people who are asked about it.

use std::fmt::Write as _;

use git2::{DiffOptions, Patch};

/// Lines that stand around a change.
const AROUND: u32 = 2;

/// The changes with their line numbers, at most `limit` lines of them; empty where nothing changes. How a line ends is
/// no part of it.
pub fn diff(before: &str, after: &str, limit: usize) -> Result<String, git2::Error> {
    let ended = |text: &str| text.lines().flat_map(|line| [line, "\n"]).collect::<String>();
    let (before, after) = (ended(before), ended(after));
    let mut options = DiffOptions::new();
    // A NUL must not make a text of which nothing is shown.
    options.context_lines(AROUND).force_text(true);
    let patch = Patch::from_buffers(before.as_bytes(), None, after.as_bytes(), None, Some(&mut options))?;
    let (mut out, mut shown, mut left_out) = (String::new(), 0, 0);
    for number in 0..patch.num_hunks() {
        let (hunk, lines) = patch.hunk(number)?;
        if shown < limit {
            let _ = writeln!(out, "@@ line {}", hunk.new_start().max(1));
        }
        for line in 0..lines {
            let line = patch.line_in_hunk(number, line)?;
            if shown < limit {
                let _ = write!(out, "{} {}", line.origin(), String::from_utf8_lossy(line.content()));
                shown += 1;
            } else {
                left_out += usize::from(line.origin() != ' ');
            }
        }
    }
    if left_out > 0 {
        let _ = writeln!(out, "… {left_out} changed lines more");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_stand_with_their_lines_and_what_is_around_them() {
        let before: String = (1..=20).map(|n| format!("line {n}\n")).collect();
        let after =
            before.replace("line 3\n", "third\n").replace("line 17\n", "").replace("line 20\n", "line 20\nlast\n");
        let want = "@@ line 1\n  line 1\n  line 2\n- line 3\n+ third\n  line 4\n  line 5\n@@ line 15\n  line 15\n  line 16\n\
                    - line 17\n  line 18\n  line 19\n  line 20\n+ last\n";
        assert_eq!(diff(&before, &after, 100).unwrap(), want);
        assert_eq!(diff(&before, &before, 100).unwrap(), "");
        assert_eq!(diff("", "a\nb\n", 1).unwrap(), "@@ line 1\n+ a\n… 1 changed lines more\n");
        assert_eq!(diff("a\nb\n", "", 9).unwrap(), "@@ line 1\n- a\n- b\n");
    }

    #[test]
    fn long_texts_are_one_change() {
        let text = |word: &str| (0..3_000).map(|n| format!("{word} {n}\n")).collect::<String>();
        let out = diff(&text("a"), &text("b"), 10).unwrap();
        assert!(out.lines().count() == 12 && out.ends_with("… 5990 changed lines more\n"), "{out}");
    }

    /// Of what libgit2 takes for binary it shows nothing, and who is asked would be told that nothing changes.
    #[test]
    fn a_nul_hides_no_change() {
        assert_eq!(diff("a\n", "a\0b\n", 9).unwrap(), "@@ line 1\n- a\n+ a\0b\n");
        assert_eq!(diff("a\r\nb", "a\nb\n", 9).unwrap(), "");
    }
}
