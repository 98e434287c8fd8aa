//! C++ as far as a mutator needs it: whole operators, which `<` opens a template's arguments, where an operand ends.

use std::collections::HashMap;
use std::ops::Range;

use crate::plan::tokens::{Kind, Token, tokens};

/// Operators of more than one character, longest first.
const OPERATORS: [&str; 21] = [
    "<<=", ">>=", "...", "->", "::", "++", "--", "<<", ">>", "<=", ">=", "==", "!=", "&&", "||", "+=", "-=", "*=",
    "/=", "%=", "&=",
];
/// Words before which an operator is none of two operands, or which an operand cannot end with.
const NO_OPERAND: [&str; 36] = [
    "return",
    "case",
    "else",
    "do",
    "throw",
    "operator",
    "const",
    "volatile",
    "typename",
    "class",
    "struct",
    "goto",
    "new",
    "delete",
    "void",
    "bool",
    "char",
    "short",
    "int",
    "long",
    "unsigned",
    "signed",
    "float",
    "double",
    "auto",
    "size_t",
    "u8",
    "u16",
    "u32",
    "u64",
    "i8",
    "i16",
    "i32",
    "i64",
    "static",
    "constexpr",
];
/// Operators looser than `+`: an operand of it ends there.
const LOOSER: [&str; 26] = [
    "<<", ">>", "<", ">", "<=", ">=", "==", "!=", "&", "^", "|", "&&", "||", "?", ":", "=", ",", ";", "+=", "-=", "*=",
    "/=", "%=", "&=", "<<=", ">>=",
];

/// What a file says outside of preprocessor lines, `static_assert` and the lists that only compilers read.
pub(super) struct Code<'t> {
    pub text: &'t str,
    tokens: Vec<Token>,
    /// A template's `<` and its `>`, both ways.
    angles: HashMap<usize, usize>,
    /// Brackets, both ways.
    pairs: HashMap<usize, usize>,
    /// Tokens of declarations that no mistake is made in.
    left_alone: Vec<bool>,
}

impl<'t> Code<'t> {
    pub fn read(text: &'t str) -> Code<'t> {
        let raw = tokens(text);
        let lines = raw.split(|t| t.kind == Kind::EndOfLine).filter(|line| line.first().is_none_or(|t| !t.is("#")));
        let tokens = joined(lines.flatten());
        let mut code =
            Code { text, left_alone: vec![false; tokens.len()], tokens, angles: HashMap::new(), pairs: HashMap::new() };
        code.pair_brackets();
        code.pair_angles();
        code.leave_alone();
        code
    }

    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Nothing, where there is no such token.
    pub fn word(&self, i: usize) -> &str {
        self.tokens.get(i).filter(|t| t.kind != Kind::Text).map_or("", |t| &t.text)
    }

    pub fn line(&self, i: usize) -> u32 {
        self.tokens[i].line
    }

    pub fn at(&self, i: usize) -> Range<usize> {
        self.tokens[i].at.clone()
    }

    pub fn is_number(&self, i: usize) -> bool {
        self.tokens.get(i).is_some_and(|t| t.kind == Kind::Number)
    }

    pub fn is_word(&self, i: usize) -> bool {
        self.tokens.get(i).is_some_and(|t| t.kind == Kind::Word)
    }

    pub fn is_angle(&self, i: usize) -> bool {
        self.angles.contains_key(&i)
    }

    pub fn is_left_alone(&self, i: usize) -> bool {
        self.left_alone[i]
    }

    /// The bracket that goes with the one at `i`.
    pub fn pair(&self, i: usize) -> Option<usize> {
        self.pairs.get(&i).copied()
    }

    /// Where the template's arguments end that begin at `i`.
    pub fn angle(&self, i: usize) -> Option<usize> {
        self.angles.get(&i).copied()
    }

    /// The nearest bracket that is open at `i`.
    pub fn inside(&self, i: usize) -> Option<usize> {
        (0..i).rev().find(|j| matches!(self.word(*j), "(" | "[" | "{") && self.pair(*j).is_some_and(|close| close > i))
    }

    /// Whether the token at `i` stands between two operands. Pointers lean to one side: `float* p`.
    pub fn is_binary(&self, i: usize) -> bool {
        let Some(before) = i.checked_sub(1) else { return false };
        let ends = (self.is_word(before) && !NO_OPERAND.contains(&self.word(before)))
            || self.is_number(before)
            || matches!(self.word(before), ")" | "]");
        let begins = (self.is_word(i + 1) && !["const", "volatile", "__restrict__"].contains(&self.word(i + 1)))
            || self.is_number(i + 1)
            || matches!(self.word(i + 1), "(" | "-" | "+" | "!" | "*" | "~" | "&");
        let (left, right) = (self.tokens[before].at.end == self.at(i).start, self.follows_at_once(i));
        ends && begins && !self.is_angle(i) && (left == right || !matches!(self.word(i), "*" | "&" | "&&"))
    }

    fn follows_at_once(&self, i: usize) -> bool {
        self.tokens.get(i + 1).is_some_and(|next| next.at.start == self.tokens[i].at.end)
    }

    /// The last token of the operand behind the operator at `i`: a factor, or a term.
    pub fn operand_end(&self, i: usize, factor: bool) -> Option<usize> {
        let mut at = i + 1;
        while at < self.len() {
            let word = self.word(at);
            if let Some(close) = self.pair(at).filter(|close| *close > at && (word != "{" || self.is_word(at - 1))) {
                at = close + 1;
                continue;
            }
            if let Some(close) = self.angle(at).filter(|close| *close > at) {
                at = close + 1;
                continue;
            }
            let tight = factor && matches!(word, "*" | "/" | "%") || matches!(word, "+" | "-");
            if matches!(word, ")" | "]" | "}" | "{")
                || (LOOSER.contains(&word) && !self.is_angle(at) && (word != "&" || self.is_binary(at)))
                || (tight && self.is_binary(at) && at > i + 1)
            {
                break;
            }
            at += 1;
        }
        (at > i + 1).then(|| at - 1)
    }

    /// The tokens of the statement around `i`.
    pub fn statement(&self, i: usize) -> Range<usize> {
        let ends = |j: &usize| matches!(self.word(*j), ";" | "{" | "}");
        let start = (0..i).rev().find(ends).map_or(0, |j| j + 1);
        start..(i..self.len()).find(ends).unwrap_or(self.len())
    }

    fn pair_brackets(&mut self) {
        let mut open = Vec::new();
        for i in 0..self.len() {
            match self.word(i) {
                "(" | "[" | "{" => open.push(i),
                ")" | "]" | "}" => {
                    if let Some(from) = open.pop() {
                        self.pairs.insert(from, i);
                        self.pairs.insert(i, from);
                    }
                }
                _ => {}
            }
        }
    }

    fn pair_angles(&mut self) {
        for i in 0..self.len() {
            if self.word(i) != "<" || i == 0 || !self.is_word(i - 1) {
                continue;
            }
            let attached = self.tokens[i - 1].at.end == self.at(i).start;
            if self.word(i - 1) != "template" && !attached {
                continue;
            }
            if let Some(close) = self.closing_angle(i) {
                self.angles.insert(i, close);
                self.angles.entry(close).or_insert(i);
            }
        }
    }

    fn closing_angle(&self, open: usize) -> Option<usize> {
        let (mut depth, mut at) = (0, open);
        while at < self.len() {
            match self.word(at) {
                "<" => depth += 1,
                ">" => depth -= 1,
                ">>" => depth -= 2,
                "(" | "[" => at = self.pair(at)?,
                ";" | "{" | "}" | ")" | "]" | "&&" | "||" | "?" => return None,
                _ => {}
            }
            if depth <= 0 {
                return Some(at);
            }
            at += 1;
        }
        None
    }

    fn leave_alone(&mut self) {
        for i in 0..self.len() {
            let end = match self.word(i) {
                "static_assert" | "__launch_bounds__" | "__align__" | "alignas" => self.pair(i + 1),
                "template" => self.angle(i + 1),
                "using" | "typedef" => (i..self.len()).find(|j| self.word(*j) == ";"),
                _ => None,
            };
            if let Some(end) = end {
                self.left_alone[i..=end].fill(true);
            }
        }
    }
}

/// Tokens whose operators and numbers are whole: the preprocessor's reader gives them in pieces.
fn joined<'a>(tokens: impl Iterator<Item = &'a Token>) -> Vec<Token> {
    let mut out: Vec<Token> = Vec::new();
    for token in tokens {
        if let Some(last) = out.last_mut().filter(|last| last.at.end == token.at.start) {
            let both = format!("{}{}", last.text, token.text);
            let hex = last.text.starts_with("0x") || last.text.starts_with("0X");
            let exponent = if hex { ['p', 'P'] } else { ['e', 'E'] };
            let signed =
                last.kind == Kind::Number && last.text.ends_with(exponent) && matches!(&*token.text, "+" | "-");
            let digits = last.kind == Kind::Number && last.text.ends_with(['+', '-']);
            let operator = last.kind == Kind::Punctuation
                && token.kind == Kind::Punctuation
                && OPERATORS.iter().any(|o| *o == both || (o.len() == 3 && o.starts_with(&both) && both != ".."));
            if signed || digits || operator {
                last.text = both;
                last.at.end = token.at.end;
                continue;
            }
        }
        out.push(token.clone());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(code: &Code<'_>, word: &str) -> usize {
        (0..code.len()).find(|i| code.word(*i) == word).unwrap_or_else(|| panic!("{word} in {}", code.text))
    }

    #[test]
    fn templates_are_told_from_comparisons() {
        for (text, template) in [
            ("x = static_cast<float>(y);", true),
            ("matmul_few<F16, 4>(p);", true),
            ("ManyTile<F16, 1, kDense<2>>::run();", true),
            ("template <class W> void f();", true),
            ("for (i = 0; i<n; ++i) x[i>>1];", false),
            ("if (i < n && j > m) f();", false),
            ("while (a<b) c();", false),
        ] {
            let code = Code::read(text);
            assert_eq!(code.is_angle(find(&code, "<")), template, "{text}");
        }
    }

    #[test]
    fn binary_operators_are_told_from_pointers_and_signs() {
        for (text, op, binary) in [
            ("y = a * b;", "*", true),
            ("y = a*b;", "*", true),
            ("const float* p = q;", "*", false),
            ("float *p;", "*", false),
            ("f((const float4*)p);", "*", false),
            ("y = x[i] - 1;", "-", true),
            ("return -1;", "-", false),
            ("y = 1e-4f;", "-", false),
            ("p->x = 1;", "-", false),
            ("auto&& r = f();", "&&", false),
            ("if (a && !b) f();", "&&", true),
        ] {
            let code = Code::read(text);
            let found = (0..code.len()).any(|i| code.word(i) == op && code.is_binary(i));
            assert_eq!(found, binary, "{text}");
        }
    }

    #[test]
    fn operands_end_where_the_language_says() {
        for (text, op, factor, operand) in [
            ("y = a + b * c - d;", "+", false, "b * c"),
            ("y = a * b * c;", "*", true, "b"),
            ("y = a * -b[i + 1] + c;", "*", true, "-b[i + 1]"),
            ("y = a + static_cast<float>(r) * c;", "+", false, "static_cast<float>(r) * c"),
            ("f(a + g(b, c), d);", "+", false, "g(b, c)"),
            ("x = i + n < m ? 1 : 2;", "+", false, "n"),
        ] {
            let code = Code::read(text);
            let i = find(&code, op);
            let end = code.operand_end(i, factor).unwrap();
            assert_eq!(&text[code.at(i + 1).start..code.at(end).end], operand, "{text}");
        }
    }
}
