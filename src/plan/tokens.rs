//! The text of a kernel as the preprocessor reads it: line splices, comments, digraphs and raw strings hide no token.
//!
//! The one reader of sources: the rules ask it what a text may not hold, stage 2 which entries it defines, a source set
//! which files it includes.

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
        let (c, line) = chars[i];
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
                out.push(Token { kind: Kind::Punctuation, text: text.into(), line });
                continue;
            }
            _ => {
                i += 1;
                Kind::Punctuation
            }
        };
        let text = chars[start..i.min(chars.len())].iter().map(|c| c.0).collect();
        out.push(Token { kind, text, line });
    }
    out
}

/// Characters with their line numbers, lines that end in a backslash joined to the next.
fn splice(text: &str) -> Vec<(char, u32)> {
    let mut out = Vec::with_capacity(text.len());
    for (number, line) in (1u32..).zip(text.lines()) {
        match line.strip_suffix('\\') {
            Some(joined) => out.extend(joined.chars().map(|c| (c, number))),
            None => {
                out.extend(line.chars().map(|c| (c, number)));
                out.push(('\n', number));
            }
        }
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Past a literal; an unclosed one ends with its line.
fn quoted(chars: &[(char, u32)], mut i: usize, quote: char) -> usize {
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
fn raw(chars: &[(char, u32)], i: usize) -> usize {
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
    fn statements_are_what_is_no_preprocessors_line() {
        let all = tokens("#define F(x) \\\n  x; int hidden;\nint a; /* int\nb; */ int c;\n");
        let text: Vec<_> = statements(&all).iter().map(|t| t.text.as_str()).collect();
        assert_eq!(text, ["int", "a", ";", "int", "c", ";"]);
    }
}
