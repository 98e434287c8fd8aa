//! The text of a kernel as the preprocessor reads it: line splices, comments, digraphs and raw strings hide no token.
//!
//! The one reader of sources: the rules ask it what a text may not hold, stage 2 which entries it defines, a source set
//! which files it includes.

use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Word,
    /// String and character literals, with their quotes.
    Text,
    Number,
    Punctuation,
    EndOfLine,
}

#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub kind: Kind,
    pub text: String,
    pub line: u32,
    /// Where it stands in the text, in bytes; a token that a line splice divides has the splice inside.
    pub at: Range<usize>,
}

impl Token {
    pub fn is(&self, text: &str) -> bool {
        self.kind != Kind::Text && self.text == text
    }
}

/// The preprocessor's lines, without their `#`.
pub(crate) fn directives(tokens: &[Token]) -> impl Iterator<Item = &[Token]> {
    tokens.split(|t| t.kind == Kind::EndOfLine).filter_map(|line| match line.first() {
        Some(first) if first.is("#") && line.len() > 1 => Some(&line[1..]),
        _ => None,
    })
}

/// What is no preprocessor's line.
pub(crate) fn statements(tokens: &[Token]) -> Vec<&Token> {
    let lines = tokens.split(|t| t.kind == Kind::EndOfLine).filter(|line| line.first().is_none_or(|t| !t.is("#")));
    lines.flatten().collect()
}

/// The names in `#include "…"` lines.
pub(crate) fn quoted_includes(tokens: &[Token]) -> impl Iterator<Item = &str> {
    directives(tokens).filter_map(|line| match line {
        [include, name, ..] if include.is("include") && name.kind == Kind::Text => {
            name.text.strip_prefix('"')?.split('"').next()
        }
        _ => None,
    })
}

/// Preprocessing tokens, as far as a reader of kernels needs them.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let chars = splice(text);
    let mut out = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let (c, line, from) = chars[i];
        let next = chars.get(i + 1).map(|c| c.0);
        let start = i;
        let kind = match c {
            '\n' => {
                i += 1;
                Kind::EndOfLine
            }
            c if c.is_whitespace() => {
                i += 1;
                continue;
            }
            '/' if next == Some('/') => {
                while i < chars.len() && chars[i].0 != '\n' {
                    i += 1;
                }
                continue;
            }
            '/' if next == Some('*') => {
                i += 2;
                while i < chars.len() && !(chars[i].0 == '*' && chars.get(i + 1).is_some_and(|c| c.0 == '/')) {
                    i += 1;
                }
                i += 2;
                continue;
            }
            '"' | '\'' => {
                i = quoted(&chars, i, c);
                Kind::Text
            }
            c if c.is_ascii_digit() || (c == '.' && next.is_some_and(|n| n.is_ascii_digit())) => {
                // A digit separator belongs to the number, or it would open a character literal.
                while i < chars.len() && (is_word(chars[i].0) || matches!(chars[i].0, '.' | '\'')) {
                    i += 1;
                }
                Kind::Number
            }
            c if is_word(c) => {
                while i < chars.len() && is_word(chars[i].0) {
                    i += 1;
                }
                let word: String = chars[start..i].iter().map(|c| c.0).collect();
                if matches!(word.as_str(), "R" | "LR" | "uR" | "UR" | "u8R") && chars.get(i).is_some_and(|c| c.0 == '"')
                {
                    i = raw(&chars, i);
                    Kind::Text
                } else {
                    Kind::Word
                }
            }
            '#' if next == Some('#') => {
                i += 2;
                Kind::Punctuation
            }
            '%' if next == Some(':') => {
                i += 2;
                let twice = chars.get(i).is_some_and(|c| c.0 == '%') && chars.get(i + 1).is_some_and(|c| c.0 == ':');
                i += if twice { 2 } else { 0 };
                let text = if twice { "##" } else { "#" };
                out.push(Token { kind: Kind::Punctuation, text: text.into(), line, at: from..end_of(&chars, i) });
                continue;
            }
            _ => {
                i += 1;
                Kind::Punctuation
            }
        };
        let text = chars[start..i.min(chars.len())].iter().map(|c| c.0).collect();
        out.push(Token { kind, text, line, at: from..end_of(&chars, i) });
    }
    out
}

/// A character, its line's number and its place in the text.
type Char = (char, u32, usize);

/// Lines that end in a backslash are joined to the next.
fn splice(text: &str) -> Vec<Char> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    for (number, whole) in (1u32..).zip(text.split_inclusive('\n')) {
        let line = whole.strip_suffix('\n').map_or(whole, |line| line.strip_suffix('\r').unwrap_or(line));
        let kept = line.strip_suffix('\\');
        out.extend(kept.unwrap_or(line).char_indices().map(|(i, c)| (c, number, at + i)));
        if kept.is_none() {
            out.push(('\n', number, at + line.len()));
        }
        at += whole.len();
    }
    out
}

/// The byte behind the character before `i`.
fn end_of(chars: &[Char], i: usize) -> usize {
    chars[..i.min(chars.len())].last().map_or(0, |(c, _, at)| at + c.len_utf8())
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Past a literal; an unclosed one ends with its line.
fn quoted(chars: &[Char], mut i: usize, quote: char) -> usize {
    i += 1;
    while i < chars.len() && chars[i].0 != '\n' {
        match chars[i].0 {
            '\\' => i += 2,
            c if c == quote => return i + 1,
            _ => i += 1,
        }
    }
    i.min(chars.len())
}

/// Past a raw string whose opening quote is at `i`.
fn raw(chars: &[Char], i: usize) -> usize {
    let Some(open) = chars[i..].iter().position(|c| c.0 == '(') else { return chars.len() };
    let mut close: Vec<char> = vec![')'];
    close.extend(chars[i + 1..i + open].iter().map(|c| c.0));
    close.push('"');
    let body = i + open + 1;
    let found = chars[body..].windows(close.len()).position(|w| w.iter().map(|c| c.0).eq(close.iter().copied()));
    found.map_or(chars.len(), |at| body + at + close.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn includes_are_found_where_the_preprocessor_finds_them() {
        let text = "#include \"a.cuh\"\n #  include \"b/c.cuh\" // \"x\"\n#include <cuda_fp16.h>\n%:include \"d.cuh\"\n\
                    #inc\\\nlude \"e.cuh\"\n// #include \"x\"\n/*\n#include \"x\"\n*/\nconst char* s = R\"(\n#include \"x\"\n)\";\n";
        let all = tokens(text);
        assert_eq!(quoted_includes(&all).collect::<Vec<_>>(), ["a.cuh", "b/c.cuh", "d.cuh", "e.cuh"]);
    }

    #[test]
    fn a_token_knows_where_it_stands() {
        let text = "int é = 1'0;\r\n#define F \\\n  fo\\\no\n\"s\" x";
        for t in tokens(text).iter().filter(|t| t.kind != Kind::EndOfLine) {
            assert_eq!(text[t.at.clone()].replace("\\\n", ""), t.text);
        }
    }

    #[test]
    fn statements_are_what_is_no_preprocessors_line() {
        let all = tokens("#define F(x) \\\n  x; int hidden;\nint a; /* int\nb; */ int c;\n");
        let text: Vec<_> = statements(&all).iter().map(|t| t.text.as_str()).collect();
        assert_eq!(text, ["int", "a", ";", "int", "c", ";"]);
    }
}
