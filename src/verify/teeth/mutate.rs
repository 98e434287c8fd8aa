//! Mutants of a kernel's text: one small mistake each, of the kind that a hand makes.
//!
//! Lines stay where they are, and so does what stands behind the mistake wherever there is room for it, so that a
//! mutant whose object code is the honest kernel's can be known by that.

use std::ops::Range;

use serde::Serialize;

use super::code::Code;

/// What sort of mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mistake {
    /// `<` for `<=` and the like.
    Bound,
    /// A bound one less.
    OffByOne,
    /// One side of a sum is missing, or what was summed before.
    DroppedTerm,
    /// `+` for `-`.
    Sign,
    /// A factor, a divisor or a constant of a value.
    Scale,
    /// The same of an index.
    Stride,
    /// x for y, i for j.
    Index,
    /// A barrier or a wait for copies is missing.
    Barrier,
    /// `min` for `max`.
    MinMax,
    /// `&&` for `||`.
    Logic,
}

pub const MISTAKES: [Mistake; 10] = [
    Mistake::Bound,
    Mistake::OffByOne,
    Mistake::DroppedTerm,
    Mistake::Sign,
    Mistake::Scale,
    Mistake::Stride,
    Mistake::Index,
    Mistake::Barrier,
    Mistake::MinMax,
    Mistake::Logic,
];

impl Mistake {
    pub fn name(self) -> &'static str {
        match self {
            Mistake::Bound => "bound",
            Mistake::OffByOne => "off by one",
            Mistake::DroppedTerm => "dropped term",
            Mistake::Sign => "sign",
            Mistake::Scale => "scale",
            Mistake::Stride => "stride",
            Mistake::Index => "index",
            Mistake::Barrier => "barrier",
            Mistake::MinMax => "min and max",
            Mistake::Logic => "logic",
        }
    }
}

/// One mistake in one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    pub mistake: Mistake,
    pub line: u32,
    pub at: Range<usize>,
    pub text: String,
}

impl Edit {
    pub fn apply(&self, source: &str) -> String {
        let (head, tail) = (&source[..self.at.start], &source[self.at.end..]);
        let mut text = self.text.clone();
        let width = source[self.at.clone()].len();
        // What is shorter is filled up; what is longer takes the blanks behind it.
        let blanks = tail.len() - tail.trim_start_matches(' ').len();
        let taken = text.len().saturating_sub(width).min(blanks.saturating_sub(1));
        text.extend(std::iter::repeat_n(' ', width.saturating_sub(text.len())));
        format!("{head}{text}{}", &tail[taken..])
    }

    /// The lines that it touches, as they are.
    pub fn before(&self, source: &str) -> String {
        tidy(&source[self.lines(source)])
    }

    /// The same lines with the mistake in them.
    pub fn after(&self, source: &str) -> String {
        let lines = self.lines(source);
        let at = self.at.start - lines.start..self.at.end - lines.start;
        let mut text = source[lines].to_string();
        text.replace_range(at, &self.text);
        tidy(&text)
    }

    fn lines(&self, source: &str) -> Range<usize> {
        let start = source[..self.at.start].rfind('\n').map_or(0, |at| at + 1);
        let end = source[self.at.end..].find('\n').map_or(source.len(), |at| self.at.end + at);
        start..end
    }
}

/// Without the blanks that decide nothing, and comments are part of the line.
fn tidy(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Every mutant of a text, in its order; no two give the same.
pub fn mutants(text: &str) -> Vec<Edit> {
    let code = Code::read(text);
    let mut out = Vec::new();
    for i in (0..code.len()).filter(|i| !code.is_left_alone(*i)) {
        at(&code, i, &mut out);
    }
    let mut seen = std::collections::HashSet::new();
    out.retain(|edit| text[edit.at.clone()] != edit.text && seen.insert((edit.at.clone(), edit.text.clone())));
    out
}

/// The mistakes that begin at one token.
fn at(code: &Code<'_>, i: usize, out: &mut Vec<Edit>) {
    let mut edit = |mistake, at: Range<usize>, text: String| out.push(Edit { mistake, line: code.line(i), at, text });
    let here = code.at(i);
    if code.is_number(i) {
        number(code, i, &mut edit);
    }
    if let Some(other) = twin(code.word(i)).filter(|_| code.word(i + 1) == "(") {
        edit(Mistake::MinMax, here.clone(), other.into());
    }
    if let Some((first, close)) = barrier(code, i) {
        let call = code.at(first).start..code.at(close).end;
        edit(Mistake::Barrier, call.clone(), blank(code.text, call, "(void)0"));
    }
    if matches!(code.word(i), "." | "->") {
        member(code, i, &mut edit);
    }
    if code.word(i) == "[" {
        subscript(code, i, &mut edit);
    }
    match code.word(i) {
        _ if steps(code, i) => {}
        "+=" | "-=" => {
            edit(Mistake::DroppedTerm, here.clone(), "=".into());
            edit(Mistake::Sign, here.clone(), if code.word(i) == "+=" { "-=" } else { "+=" }.into());
        }
        "*=" | "/=" => edit(Mistake::Scale, here.clone(), "=".into()),
        _ => {}
    }
    if !code.is_binary(i) {
        return;
    }
    // From the operator to the end of what it takes, gone.
    let mut without = |mistake, factor| {
        if let Some(end) = code.operand_end(i, factor) {
            let at = here.start..code.at(end).end;
            edit(mistake, at.clone(), blank(code.text, at, ""));
        }
    };
    match code.word(i) {
        "+" => {
            without(Mistake::DroppedTerm, false);
            edit(Mistake::Sign, here, "-".into());
        }
        "-" => {
            without(Mistake::DroppedTerm, false);
            edit(Mistake::Sign, here, "+".into());
        }
        "*" | "/" | "%" => without(if indexes(code, i) { Mistake::Stride } else { Mistake::Scale }, true),
        "<" | "<=" | ">" | ">=" => {
            let (other, less) = match code.word(i) {
                "<" => ("<=", "< -1 +"),
                "<=" => ("<", "<= 1 +"),
                ">" => (">=", "> 1 +"),
                _ => (">", ">= -1 +"),
            };
            edit(Mistake::Bound, here.clone(), other.into());
            edit(Mistake::OffByOne, here, less.into());
        }
        "&&" => edit(Mistake::Logic, here, "||".into()),
        "||" => edit(Mistake::Logic, here, "&&".into()),
        _ => {}
    }
}

fn number(code: &Code<'_>, i: usize, edit: &mut impl FnMut(Mistake, Range<usize>, String)) {
    let text = code.word(i);
    let hex = text.starts_with("0x") || text.starts_with("0X");
    let float = text.contains('.') || (!hex && text.ends_with(['f', 'F'])) || (!hex && text.contains(['e', 'E']));
    let zero = text.trim_end_matches(['f', 'F']).bytes().all(|b| matches!(b, b'0' | b'.'));
    match (float, zero) {
        (true, true) => edit(Mistake::Scale, code.at(i), text.replacen('0', "1", 1)),
        (true, false) => edit(Mistake::Scale, code.at(i), format!("(2.0f * {text})")),
        (false, _) => {
            let scales = |at: usize| matches!(code.word(at), "*" | "/" | "%") && code.is_binary(at);
            let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            if let (true, Ok(n)) = ((i > 0 && scales(i - 1)) || scales(i + 1), digits.parse::<u64>()) {
                let mistake = if indexes(code, i) { Mistake::Stride } else { Mistake::Scale };
                edit(mistake, code.at(i), format!("{}{}", n.wrapping_add(1), &text[digits.len()..]));
            }
        }
    }
}

/// `a.x` for `a.y`.
fn member(code: &Code<'_>, i: usize, edit: &mut impl FnMut(Mistake, Range<usize>, String)) {
    let built_in = i > 0 && ["threadIdx", "blockIdx", "blockDim", "gridDim"].contains(&code.word(i - 1));
    let other = match code.word(i + 1) {
        "x" => "y",
        "y" => "x",
        "z" if built_in => "x",
        "z" => "w",
        "w" => "z",
        _ => return,
    };
    if code.word(i + 2) != "(" {
        edit(Mistake::Index, code.at(i + 1), other.into());
    }
}

/// `a[j][i]` for `a[i][j]`, `a[j * n + i]` for `a[i * n + j]`.
fn subscript(code: &Code<'_>, i: usize, edit: &mut impl FnMut(Mistake, Range<usize>, String)) {
    let Some(close) = code.pair(i) else { return };
    let text = |from: usize, to: usize| &code.text[code.at(from).end..code.at(to).start];
    if code.word(close + 1) == "["
        && let Some(end) = code.pair(close + 1)
    {
        let swapped = format!("[{}][{}]", text(close + 1, end), text(i, close));
        edit(Mistake::Index, code.at(i).start..code.at(end).end, swapped);
    }
    let plain = |j: &usize| {
        let follows = j.checked_sub(1).map_or("", |before| code.word(before));
        code.is_word(*j)
            && !matches!(follows, "." | "->" | "::")
            && !matches!(code.word(j + 1), "(" | "." | "->" | "::" | "[")
            && !code.is_angle(j + 1)
            && !code.is_angle(j - 1)
    };
    let names: Vec<usize> = (i + 1..close).filter(plain).collect();
    if let Some((a, b)) =
        names.first().and_then(|a| Some((*a, *names.iter().find(|b| code.word(**b) != code.word(*a))?)))
    {
        let between = &code.text[code.at(a).end..code.at(b).start];
        edit(Mistake::Index, code.at(a).start..code.at(b).end, format!("{}{between}{}", code.word(b), code.word(a)));
    }
}

/// Where a call begins and ends that makes threads or copies wait.
fn barrier(code: &Code<'_>, i: usize) -> Option<(usize, usize)> {
    let name = code.word(i);
    let method = name == "sync" && i > 1 && code.word(i - 1) == ".";
    let first = if method { i - 2 } else { i };
    let waits = ["__syncthreads", "__syncwarp", "__threadfence", "__threadfence_block", "__pipeline_commit"]
        .contains(&name)
        || ["cp_async_wait", "cp_async_commit", "__pipeline_wait"].iter().any(|n| name.starts_with(n))
        || method;
    // A statement of its own: what is declared has a type before it.
    let statement = first > 0 && matches!(code.word(first - 1), ";" | "{" | "}" | ")" | "else" | "," | ":");
    let open = code.angle(i + 1).unwrap_or(i) + 1;
    let close = (waits && statement && code.word(open) == "(").then(|| code.pair(open))??;
    Some((first, close))
}

fn twin(word: &str) -> Option<&'static str> {
    const TWINS: [(&str, &str); 8] = [
        ("min", "max"),
        ("fminf", "fmaxf"),
        ("fmin", "fmax"),
        ("umin", "umax"),
        ("__hmin", "__hmax"),
        ("__hmin2", "__hmax2"),
        ("atomicMin", "atomicMax"),
        ("__reduce_min_sync", "__reduce_max_sync"),
    ];
    TWINS.iter().find_map(|(a, b)| if *a == word { Some(*b) } else { (*b == word).then_some(*a) })
}

/// Whether a product at `i` counts elements: in a subscript, or where an index or a pointer is made.
fn indexes(code: &Code<'_>, i: usize) -> bool {
    if code.inside(i).is_some_and(|open| code.word(open) == "[") {
        return true;
    }
    const COUNTS: [&str; 12] =
        ["size_t", "int", "long", "u32", "u64", "i32", "i64", "threadIdx", "blockIdx", "blockDim", "gridDim", "for"];
    let mut statement = code.statement(i);
    statement.any(|j| COUNTS.contains(&code.word(j)) || (code.is_number(j) && j != i && is_index(code.word(j))))
}

/// A whole number that stands for nothing else.
fn is_index(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text != "0" && text != "1"
}

/// Whether an assignment is a loop's step: without it the loop would not end, which is found out and costs its time.
fn steps(code: &Code<'_>, i: usize) -> bool {
    code.inside(i).is_some_and(|open| open > 0 && code.word(open) == "(" && code.word(open - 1) == "for")
}

/// `text` in the place of a range, with the range's line ends kept.
fn blank(source: &str, at: Range<usize>, text: &str) -> String {
    let ends: String = source[at].chars().filter(|c| *c == '\n').collect();
    format!("{text}{ends}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mutants' lines, by the mistake.
    fn of(text: &str) -> Vec<(Mistake, String)> {
        mutants(text).iter().map(|e| (e.mistake, e.after(text))).collect()
    }

    #[test]
    fn a_loop_has_its_mistakes() {
        let found = of("for (int i = lane; i < n; i += 32) sum += x[i * d + k] * scale;");
        for wanted in [
            (Mistake::Bound, "for (int i = lane; i <= n; i += 32) sum += x[i * d + k] * scale;"),
            (Mistake::OffByOne, "for (int i = lane; i < -1 + n; i += 32) sum += x[i * d + k] * scale;"),
            (Mistake::DroppedTerm, "for (int i = lane; i < n; i += 32) sum = x[i * d + k] * scale;"),
            (Mistake::Sign, "for (int i = lane; i < n; i += 32) sum -= x[i * d + k] * scale;"),
            (Mistake::Stride, "for (int i = lane; i < n; i += 32) sum += x[i + k] * scale;"),
            (Mistake::DroppedTerm, "for (int i = lane; i < n; i += 32) sum += x[i * d ] * scale;"),
            (Mistake::Sign, "for (int i = lane; i < n; i += 32) sum += x[i * d - k] * scale;"),
            (Mistake::Index, "for (int i = lane; i < n; i += 32) sum += x[d * i + k] * scale;"),
            (Mistake::Stride, "for (int i = lane; i < n; i += 32) sum += x[i * d + k] ;"),
        ] {
            assert!(found.iter().any(|(m, t)| *m == wanted.0 && *t == wanted.1), "{wanted:?} in {found:#?}");
        }
        assert_eq!(found.len(), 9, "{found:#?}");
    }

    #[test]
    fn barriers_and_waits_go() {
        for call in ["__syncthreads();", "__syncwarp(0xffu);", "cp_async_wait<kStages - 2>();", "block.sync();"] {
            let text = format!("{{ a[0] = b; {call} }}");
            let gone: Vec<_> = of(&text).into_iter().filter(|(m, _)| *m == Mistake::Barrier).collect();
            assert_eq!(gone.len(), 1, "{call}: {gone:?}");
            assert!(!gone[0].1.contains("sync"), "{gone:?}");
        }
        assert!(of("__device__ inline void cp_async_wait() {}").is_empty());
    }

    #[test]
    fn what_is_no_code_stays() {
        for text in [
            "// a + b < c",
            "/* a + b */ const char* s = \"a + b < c\";",
            "#define F(a, b) a + b\n",
            "#if A < 3 && \\\n  B + 1 < 4\n#endif\n",
            "static_assert(sizeof(Shared) == 4 * 8, \"a + b\");",
            "template <class W, int N = 2 * 3> __global__ void __launch_bounds__(32 * 2) f(const W a);",
        ] {
            assert_eq!(of(text), [], "{text}");
        }
    }

    #[test]
    fn lines_stay_and_columns_where_they_can() {
        let text = "y = a +\n    b * c;\nz = fminf(x.x, 0.5f) ;\n";
        for edit in mutants(text) {
            let mutated = edit.apply(text);
            assert_eq!(mutated.matches('\n').count(), 3, "{edit:?}");
            assert_ne!(mutated, text);
        }
        let dropped = mutants(text).into_iter().find(|e| e.mistake == Mistake::DroppedTerm).unwrap();
        assert_eq!(dropped.before(text), "y = a + b * c;");
        assert_eq!(dropped.after(text), "y = a ;");
    }

    #[test]
    fn constants_are_wrong_by_a_factor() {
        let found = of("s = 1e-4f * fmaxf(v, 0.0f);");
        assert!(found.contains(&(Mistake::Scale, "s = (2.0f * 1e-4f) * fmaxf(v, 0.0f);".into())), "{found:?}");
        assert!(found.contains(&(Mistake::Scale, "s = 1e-4f * fmaxf(v, 1.0f);".into())), "{found:?}");
        assert!(found.contains(&(Mistake::MinMax, "s = 1e-4f * fminf(v, 0.0f);".into())), "{found:?}");
    }
}
