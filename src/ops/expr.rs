//! The small language of shapes and launch geometry: products and sums of integers and symbols, `ceil_div` and `min`.
//!
//! There are no conditionals on purpose: whatever needs one is a variant of its own.

use std::fmt;

/// A parsed expression over contract symbols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    Int(i64),
    Symbol(String),
    Mul(Box<Expr>, Box<Expr>),
    Add(Box<Expr>, Box<Expr>),
    CeilDiv(Box<Expr>, Box<Expr>),
    Min(Box<Expr>, Box<Expr>),
}

/// Why a text is no expression, or an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExprError {
    #[error("`{text}` is no expression: {what} at byte {at}")]
    Syntax { text: String, at: usize, what: &'static str },
    #[error("symbol `{0}` has no value here")]
    Unbound(String),
    #[error("`{0}` overflows 64 bits or divides by zero")]
    Range(String),
}

/// What an expression over sizes comes to, if it is a number of elements. `symbol` is what a name in it stands for.
pub fn size(text: &str, symbol: &dyn Fn(&str) -> Option<i64>) -> Option<usize> {
    Expr::parse(text).ok()?.eval(symbol).ok()?.try_into().ok()
}

impl Expr {
    pub fn parse(text: &str) -> Result<Expr, ExprError> {
        if text.len() > 512 {
            return Err(ExprError::Syntax {
                text: text.chars().take(32).collect(),
                at: 512,
                what: "longer than 512 bytes",
            });
        }
        let mut p = Parser { text, at: 0, depth: 0 };
        let e = p.sum()?;
        p.space();
        if p.at != text.len() { Err(p.fail("unexpected text")) } else { Ok(e) }
    }

    /// Value under `lookup`; every intermediate result must fit in an `i64` and be ≥ 0 or the error says so.
    pub fn eval(&self, lookup: &dyn Fn(&str) -> Option<i64>) -> Result<i64, ExprError> {
        let range = || ExprError::Range(self.to_string());
        Ok(match self {
            Expr::Int(v) => *v,
            Expr::Symbol(s) => lookup(s).ok_or_else(|| ExprError::Unbound(s.clone()))?,
            Expr::Mul(a, b) => a.eval(lookup)?.checked_mul(b.eval(lookup)?).ok_or_else(range)?,
            Expr::Add(a, b) => a.eval(lookup)?.checked_add(b.eval(lookup)?).ok_or_else(range)?,
            Expr::Min(a, b) => a.eval(lookup)?.min(b.eval(lookup)?),
            Expr::CeilDiv(a, b) => {
                let (a, b) = (a.eval(lookup)?, b.eval(lookup)?);
                if b <= 0 || a < 0 {
                    return Err(range());
                }
                a.checked_add(b - 1).ok_or_else(range)? / b
            }
        })
    }

    /// Every symbol that occurs, in order of first appearance.
    pub fn symbols(&self) -> Vec<&str> {
        fn walk<'e>(e: &'e Expr, out: &mut Vec<&'e str>) {
            match e {
                Expr::Int(_) => {}
                Expr::Symbol(s) => {
                    if !out.contains(&s.as_str()) {
                        out.push(s)
                    }
                }
                Expr::Mul(a, b) | Expr::Add(a, b) | Expr::CeilDiv(a, b) | Expr::Min(a, b) => {
                    walk(a, out);
                    walk(b, out);
                }
            }
        }
        let mut out = Vec::new();
        walk(self, &mut out);
        out
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let factor = |e: &Expr| match e {
            Expr::Add(..) => format!("({e})"),
            _ => e.to_string(),
        };
        match self {
            Expr::Int(v) => write!(f, "{v}"),
            Expr::Symbol(s) => f.write_str(s),
            Expr::Mul(a, b) => write!(f, "{}*{}", factor(a), factor(b)),
            Expr::Add(a, b) => write!(f, "{a}+{b}"),
            Expr::CeilDiv(a, b) => write!(f, "ceil_div({a}, {b})"),
            Expr::Min(a, b) => write!(f, "min({a}, {b})"),
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn fail(&self, what: &'static str) -> ExprError {
        ExprError::Syntax { text: self.text.into(), at: self.at, what }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|c| c == b' ') {
            self.at += 1;
        }
    }

    fn eat(&mut self, c: u8) -> bool {
        self.space();
        let hit = self.peek() == Some(c);
        self.at += usize::from(hit);
        hit
    }

    fn sum(&mut self) -> Result<Expr, ExprError> {
        let mut e = self.product()?;
        while self.eat(b'+') {
            e = Expr::Add(e.into(), self.product()?.into());
        }
        Ok(e)
    }

    fn product(&mut self) -> Result<Expr, ExprError> {
        let mut e = self.atom()?;
        while self.eat(b'*') {
            e = Expr::Mul(e.into(), self.atom()?.into());
        }
        Ok(e)
    }

    fn atom(&mut self) -> Result<Expr, ExprError> {
        self.depth += 1;
        if self.depth > 32 {
            return Err(self.fail("nested deeper than 32"));
        }
        self.space();
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || c == b'_') {
            self.at += 1;
        }
        let word = &self.text[start..self.at];
        let e = if word.is_empty() {
            if !self.eat(b'(') {
                return Err(self.fail("a number, symbol or `(` must stand here"));
            }
            let e = self.sum()?;
            if !self.eat(b')') {
                return Err(self.fail("`)` is missing"));
            }
            e
        } else if word.as_bytes()[0].is_ascii_digit() {
            Expr::Int(word.parse().map_err(|_| self.fail("not a 64-bit integer"))?)
        } else if (word == "ceil_div" || word == "min") && self.eat(b'(') {
            let a = self.sum()?;
            if !self.eat(b',') {
                return Err(self.fail("`,` is missing"));
            }
            let b = self.sum()?;
            if !self.eat(b')') {
                return Err(self.fail("`)` is missing"));
            }
            if word == "min" { Expr::Min(a.into(), b.into()) } else { Expr::CeilDiv(a.into(), b.into()) }
        } else {
            Expr::Symbol(word.into())
        };
        self.depth -= 1;
        Ok(e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(text: &str) -> Result<i64, ExprError> {
        Expr::parse(text)?.eval(&|s| match s {
            "T" => Some(5),
            "N" => Some(4096),
            _ => None,
        })
    }

    #[test]
    fn values() {
        assert_eq!(eval("ceil_div(N, 64)*T + 1"), Ok(321));
        assert_eq!(eval("min(T*(2+1), 12)"), Ok(12));
        assert_eq!(Expr::parse("2*(T+1)").unwrap().to_string(), "2*(T+1)");
    }

    #[test]
    fn refusals() {
        assert!(matches!(eval("K"), Err(ExprError::Unbound(s)) if s == "K"));
        assert!(matches!(eval("T >"), Err(ExprError::Syntax { .. })));
        assert!(matches!(eval("9223372036854775807*N"), Err(ExprError::Range(_))));
        assert!(matches!(eval("ceil_div(T, 0)"), Err(ExprError::Range(_))));
        assert!(matches!(eval(&"(".repeat(100)), Err(ExprError::Syntax { .. })));
        // The 32nd byte is inside of a letter.
        assert!(matches!(eval(&format!("a{}", "é".repeat(400))), Err(ExprError::Syntax { .. })));
    }
}
