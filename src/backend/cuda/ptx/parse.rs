//! PTX text to functions and instructions: only the structure, no meaning.

use std::collections::{BTreeMap, BTreeSet};

use super::super::PTX_SYNTAX;
use crate::error::{Error, Result};

/// A `.entry` or `.func` with a body.
#[derive(Debug, Default)]
pub struct Function {
    pub entry: bool,
    /// Names of the declared parameters, in order.
    pub parameters: Vec<String>,
    pub body: Vec<Instruction>,
    /// Label → index of the instruction behind it (the body's length at its end).
    pub labels: BTreeMap<String, usize>,
    /// Label of a `.branchtargets` list → its labels.
    pub targets: BTreeMap<String, Vec<String>>,
}

#[derive(Debug)]
pub struct Instruction {
    pub guarded: bool,
    /// The opcode's parts: `st.global.v2.f32` → `st`, `global`, `v2`, `f32`.
    pub op: Vec<String>,
    pub operands: Vec<Operand>,
    /// Counted from 1.
    pub line: u32,
}

/// One operand: the words in it, and what held them together.
#[derive(Debug, Default)]
pub struct Operand {
    /// Inside `[…]`.
    pub address: bool,
    /// Inside `{…}`: a vector.
    pub vector: bool,
    /// Registers, symbols and numbers, in order.
    pub words: Vec<String>,
}

impl Instruction {
    pub fn is(&self, part: &str) -> bool {
        self.op.iter().any(|p| p == part)
    }

    pub fn name(&self) -> &str {
        self.op.first().map_or("", String::as_str)
    }
}

#[derive(Debug)]
struct Token {
    text: String,
    line: u32,
}

impl Token {
    fn is(&self, text: &str) -> bool {
        self.text == text
    }
}

/// All functions with a body, by name.
pub fn parse(ptx: &str) -> Result<BTreeMap<String, Function>> {
    let mut parser = Parser { tokens: tokens(ptx), at: 0 };
    let mut out = BTreeMap::new();
    let mut kind = None;
    while let Some(token) = parser.next() {
        match token.text.as_str() {
            ".entry" | ".func" => kind = Some(token.is(".entry")),
            ".section" => parser.skip_block()?,
            "{" => parser.skip_rest_of_block()?,
            ";" => kind = None,
            _ => {}
        }
        if let Some(entry) = kind.take()
            && let Some((name, function)) = parser.function(entry)?
        {
            out.insert(name, function);
        }
    }
    Ok(out)
}

/// Names of the variables in global memory: they live as long as the module.
pub fn globals(ptx: &str) -> BTreeSet<String> {
    let tokens = tokens(ptx);
    let name = |i: usize| {
        let mut rest = tokens[i + 1..].iter().take_while(|t| !matches!(t.text.as_str(), ";" | "=" | "{"));
        rest.find(|t| t.text.starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '$'))
    };
    (0..tokens.len()).filter(|i| tokens[*i].is(".global")).filter_map(name).map(|t| t.text.clone()).collect()
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<&Token> {
        self.at += 1;
        self.tokens.get(self.at - 1)
    }

    fn bad(&self, what: &str) -> Error {
        let line = self.tokens.get(self.at.saturating_sub(1)).or(self.tokens.last()).map_or(0, |t| t.line);
        Error::new(&PTX_SYNTAX, format!("PTX line {line}: {what}"))
    }

    fn expect(&mut self) -> Result<&Token> {
        match self.at < self.tokens.len() {
            true => {
                self.at += 1;
                Ok(&self.tokens[self.at - 1])
            }
            false => Err(self.bad("it ends too early")),
        }
    }

    /// Past the next `{…}`.
    fn skip_block(&mut self) -> Result<()> {
        while !self.expect()?.is("{") {}
        self.skip_rest_of_block()
    }

    fn skip_rest_of_block(&mut self) -> Result<()> {
        let mut depth = 1;
        while depth > 0 {
            let token = self.expect()?;
            depth += i32::from(token.is("{")) - i32::from(token.is("}"));
        }
        Ok(())
    }

    /// Past the next `;`, whatever braces come before it (initialisers have some).
    fn skip_statement(&mut self) -> Result<Vec<String>> {
        let mut words = Vec::new();
        loop {
            let token = self.expect()?;
            if token.is(";") {
                return Ok(words);
            }
            words.push(token.text.clone());
        }
    }

    /// `(…)` if that comes next: the names declared in it, each the last word before a comma or an array's bracket.
    fn parameters(&mut self) -> Result<Vec<String>> {
        let mut out = Vec::new();
        if !self.peek().is_some_and(|t| t.is("(")) {
            return Ok(out);
        }
        self.at += 1;
        let mut name = String::new();
        loop {
            let token = self.expect()?;
            match token.text.as_str() {
                ")" | "," => {
                    let last = token.is(")");
                    if !name.is_empty() {
                        out.push(std::mem::take(&mut name));
                    }
                    if last {
                        return Ok(out);
                    }
                }
                "[" => while !self.expect()?.is("]") {},
                text => name = text.to_owned(),
            }
        }
    }

    /// Behind `.entry` or `.func`. `None` for a declaration without a body.
    fn function(&mut self, entry: bool) -> Result<Option<(String, Function)>> {
        self.parameters()?; // a function's return values
        let name = self.expect()?.text.clone();
        let mut out = Function { entry, parameters: self.parameters()?, ..Function::default() };
        loop {
            let token = self.expect()?;
            if token.is(";") {
                return Ok(None);
            }
            if token.is("{") {
                break;
            }
        }
        self.body(&mut out)?;
        Ok(Some((name, out)))
    }

    fn body(&mut self, out: &mut Function) -> Result<()> {
        let mut depth = 1;
        let mut label = None;
        while depth > 0 {
            let token = self.expect()?;
            let (text, line) = (token.text.clone(), token.line);
            match text.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                ";" => {}
                ".branchtargets" => {
                    let words = self.skip_statement()?;
                    let list = words.into_iter().filter(|w| w != ",").collect();
                    out.targets.insert(label.take().unwrap_or_default(), list);
                }
                _ if text.starts_with('.') => {
                    self.skip_statement()?;
                }
                _ if self.peek().is_some_and(|t| t.is(":")) => {
                    self.at += 1;
                    out.labels.insert(text.clone(), out.body.len());
                    label = Some(text);
                }
                _ => {
                    self.at -= 1;
                    let instruction = self.instruction(line)?;
                    out.body.push(instruction);
                }
            }
        }
        Ok(())
    }

    fn instruction(&mut self, line: u32) -> Result<Instruction> {
        let mut guarded = false;
        let mut word = self.expect()?.text.clone();
        if word == "@" {
            guarded = true;
            if self.expect()?.is("!") {
                self.expect()?;
            }
            word = self.expect()?.text.clone();
        }
        if !word.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(self.bad(&format!("an instruction was expected, not `{word}`")));
        }
        let op = word.split('.').map(str::to_owned).collect();
        let mut operands: Vec<Operand> = Vec::new();
        let mut current = Operand::default();
        let (mut depth, mut any) = (0, false);
        loop {
            let token = self.expect()?;
            match token.text.as_str() {
                ";" if depth == 0 => break,
                ";" => return Err(self.bad("a bracket is not closed")),
                "," if depth == 0 => operands.push(std::mem::take(&mut current)),
                "[" | "{" | "(" => {
                    current.address |= token.is("[");
                    current.vector |= token.is("{");
                    depth += 1;
                }
                "]" | "}" | ")" => depth -= 1,
                text if text.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '%' | '$')) => {
                    current.words.push(text.to_owned());
                }
                // A sign belongs to the offset behind it.
                "-" => current.words.push("-".to_owned()),
                _ => {}
            }
            any = true;
        }
        if any {
            operands.push(current);
        }
        Ok(Instruction { guarded, op, operands, line })
    }
}

/// Words (opcodes with their dots, registers, labels, numbers) and single punctuation marks. Comments, strings and the
/// line-bound directives of debug information are left out.
fn tokens(ptx: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut in_comment = false;
    for (number, line) in (1u32..).zip(ptx.lines()) {
        let start = line.trim_start();
        if !in_comment && (start.starts_with(".loc") || start.starts_with(".file")) {
            continue;
        }
        let mut rest = line;
        while let Some(c) = rest.chars().next() {
            if in_comment {
                match rest.find("*/") {
                    Some(end) => rest = &rest[end + 2..],
                    None => break,
                }
                in_comment = false;
                continue;
            }
            let length = match c {
                '/' if rest.starts_with("//") => break,
                '/' if rest.starts_with("/*") => {
                    in_comment = true;
                    rest = &rest[2..];
                    continue;
                }
                '"' => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
                c if is_word(c) => word_length(rest),
                c => c.len_utf8(),
            };
            let (text, tail) = rest.split_at(length);
            rest = tail;
            if !c.is_whitespace() && c != '"' {
                out.push(Token { text: text.to_owned(), line: number });
            }
        }
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$' | '%' | '.')
}

/// `shared::cta` is one word, `label:` is a word and a colon.
fn word_length(text: &str) -> usize {
    let mut length = 0;
    while let Some(c) = text[length..].chars().next() {
        let rest = &text[length..];
        if is_word(c) {
            length += c.len_utf8();
        } else if rest.starts_with("::") && rest[2..].starts_with(is_word) {
            length += 2;
        } else {
            break;
        }
    }
    length
}
