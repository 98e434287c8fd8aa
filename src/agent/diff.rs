//! What a text changes against another, in lines, for people who are asked about it.

use std::fmt::Write as _;

/// Lines that stand around a change.
const AROUND: usize = 2;
/// Pairs of lines that are compared; longer texts are shown as one change.
const MOST_PAIRS: usize = 4_000_000;

#[derive(Clone, Copy, PartialEq)]
enum Edit {
    Same,
    Out,
    In,
}

/// The changes with their line numbers, at most `limit` lines of them; empty where nothing changes.
pub fn diff(before: &str, after: &str, limit: usize) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let edits = edits(&old, &new);
    let near = |at: usize| {
        let around = &edits[at.saturating_sub(AROUND)..(at + AROUND + 1).min(edits.len())];
        around.iter().any(|edit| *edit != Edit::Same)
    };
    let (mut out, mut shown, mut left_out, mut open) = (String::new(), 0, 0, false);
    let (mut a, mut b) = (0, 0);
    for (at, edit) in edits.iter().enumerate() {
        let (sign, line) = match edit {
            Edit::Same => (' ', new[b]),
            Edit::Out => ('-', old[a]),
            Edit::In => ('+', new[b]),
        };
        match near(at) {
            false => open = false,
            true if shown >= limit => left_out += usize::from(*edit != Edit::Same),
            true => {
                if !std::mem::replace(&mut open, true) {
                    let _ = writeln!(out, "@@ line {}", b + 1);
                }
                let _ = writeln!(out, "{sign} {line}");
                shown += 1;
            }
        }
        a += usize::from(*edit != Edit::In);
        b += usize::from(*edit != Edit::Out);
    }
    if left_out > 0 {
        let _ = writeln!(out, "… {left_out} changed lines more");
    }
    out
}

/// One edit for each line of the two, by their longest common sequence.
fn edits(old: &[&str], new: &[&str]) -> Vec<Edit> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - head;
    let tail = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let (o, n) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut out = vec![Edit::Same; head];
    if o.len().saturating_mul(n.len()) > MOST_PAIRS {
        out.extend(std::iter::repeat_n(Edit::Out, o.len()));
        out.extend(std::iter::repeat_n(Edit::In, n.len()));
    } else {
        // Longest common sequences of what is left from each pair on.
        let width = n.len() + 1;
        let mut common = vec![0u32; (o.len() + 1) * width];
        for i in (0..o.len()).rev() {
            for j in (0..n.len()).rev() {
                common[i * width + j] = match o[i] == n[j] {
                    true => common[(i + 1) * width + j + 1] + 1,
                    false => common[(i + 1) * width + j].max(common[i * width + j + 1]),
                };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < o.len() || j < n.len() {
            let edit = match (i < o.len(), j < n.len()) {
                (true, true) if o[i] == n[j] => Edit::Same,
                (true, true) if common[(i + 1) * width + j] >= common[i * width + j + 1] => Edit::Out,
                (true, false) => Edit::Out,
                _ => Edit::In,
            };
            i += usize::from(edit != Edit::In);
            j += usize::from(edit != Edit::Out);
            out.push(edit);
        }
    }
    out.extend(std::iter::repeat_n(Edit::Same, tail));
    out
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
        assert_eq!(diff(&before, &after, 100), want);
        assert_eq!(diff(&before, &before, 100), "");
        assert_eq!(diff("", "a\nb\n", 1), "@@ line 1\n+ a\n… 1 changed lines more\n");
        assert_eq!(diff("a\nb\n", "", 9), "@@ line 1\n- a\n- b\n");
    }

    #[test]
    fn long_texts_are_one_change() {
        let text = |word: &str| (0..3_000).map(|n| format!("{word} {n}\n")).collect::<String>();
        let out = diff(&text("a"), &text("b"), 10);
        assert!(out.lines().count() == 12 && out.ends_with("… 5990 changed lines more\n"), "{out}");
    }
}
