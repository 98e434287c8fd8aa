//! Canonical JSON: exactly one byte string for a value (docs/ledger.md §1).
//!
//! Digests and signatures are taken over bytes, so a value must have one spelling. Keys ascend by their UTF-8 bytes and
//! are unique, there is no white space, strings escape only what JSON makes them escape, and numbers are integers within
//! ±(2^53 − 1). Real numbers travel as strings (see [`super::Figure`]), which also lets a NaN be recorded.
//!
//! The reader takes nothing but this form: what it accepts, [`write`] reproduces byte for byte.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The largest integer that every JSON reader keeps exactly.
const MAX_INTEGER: i64 = (1 << 53) - 1;

/// Deeper nesting is refused before it can exhaust the stack. Evidence nests seven levels.
const MAX_DEPTH: usize = 32;

/// The canonical bytes of anything serialisable.
pub fn to_bytes<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    let value = serde_json::to_value(value).map_err(|e| Error::internal(format!("a record has no JSON form: {e}")))?;
    write(&value)
}

/// The canonical bytes of `value`; a float or an integer past 2^53 in it is our bug.
pub fn write(value: &Value) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    write_into(value, &mut out)?;
    Ok(out)
}

fn write_into(value: &Value, out: &mut Vec<u8>) -> Result<()> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(n) => match n.as_i64().filter(|n| n.abs() <= MAX_INTEGER) {
            Some(n) => out.extend_from_slice(n.to_string().as_bytes()),
            None => return Err(Error::internal(format!("the number {n} has no canonical form"))),
        },
        Value::String(s) => write_string(s, out)?,
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_into(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            out.push(b'{');
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_string(key, out)?;
                out.push(b':');
                write_into(&map[key], out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

/// serde_json escapes exactly the quote, the backslash and the controls, these as `\b \f \n \r \t` or `\u00xx`.
fn write_string(s: &str, out: &mut Vec<u8>) -> Result<()> {
    if s.contains('\0') {
        return Err(Error::internal("a string with a NUL has no canonical form"));
    }
    serde_json::to_writer(out, s).map_err(|e| Error::internal(format!("a string has no JSON form: {e}")))
}

/// Reads one canonical value that fills `bytes`; the error says what is wrong at which byte.
pub fn read(bytes: &[u8]) -> Result<Value, String> {
    if let Some(at) = bytes.iter().position(|b| *b == 0) {
        return Err(format!("a NUL at byte {at}"));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| format!("bad UTF-8 at byte {}", e.valid_up_to()))?;
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0)?;
    match text.as_bytes().get(reader.at) {
        None => Ok(value),
        Some(b'\r') => Err(format!("a carriage return at byte {}", reader.at)),
        Some(_) => Err(format!("bytes after the value, from byte {}", reader.at)),
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn flaw<T>(&self, what: &str) -> Result<T, String> {
        Err(format!("{what} at byte {}", self.at))
    }

    fn expect(&mut self, byte: u8) -> Result<(), String> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        self.flaw(&format!("no `{}`", char::from(byte)))
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, String> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            return Ok(value);
        }
        self.flaw("no JSON value")
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth == MAX_DEPTH {
            return self.flaw("nesting too deep");
        }
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.integer(),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(b' ' | b'\t' | b'\r' | b'\n') => self.flaw("white space"),
            _ => self.flaw("no JSON value"),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, String> {
        self.expect(b'{')?;
        let mut map = Map::new();
        let mut last: Option<String> = None;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(map));
        }
        loop {
            let key = self.string()?;
            if map.contains_key(&key) {
                return self.flaw(&format!("the key `{key}` twice, the second"));
            }
            if last.as_ref().is_some_and(|last| *last > key) {
                return self.flaw(&format!("the key `{key}` out of order"));
            }
            self.expect(b':')?;
            let value = self.value(depth + 1)?;
            last = Some(key.clone());
            map.insert(key, value);
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => {
                    self.expect(b'}')?;
                    return Ok(Value::Object(map));
                }
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, String> {
        self.expect(b'[')?;
        let mut items = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => {
                    self.expect(b']')?;
                    return Ok(Value::Array(items));
                }
            }
        }
    }

    fn integer(&mut self) -> Result<Value, String> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if matches!(self.peek(), Some(b'.' | b'e' | b'E' | b'+')) {
            return self.flaw("a number that is no integer");
        }
        let text = &self.text[start..self.at];
        match text.parse::<i64>() {
            Ok(n) if n.abs() <= MAX_INTEGER && n.to_string() == text => Ok(Value::from(n)),
            _ => self.flaw(&format!("`{text}` is no canonical integer, ending")),
        }
    }

    fn string(&mut self) -> Result<String, String> {
        self.expect(b'"')?;
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let Some(stop) = rest.find(|c: char| c == '"' || c == '\\' || c < ' ') else {
                return self.flaw("an unterminated string");
            };
            out.push_str(&rest[..stop]);
            self.at += stop;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => out.push(self.escape()?),
                _ => return self.flaw("a control character in a string"),
            }
        }
    }

    /// One escape, where the character has no other spelling.
    fn escape(&mut self) -> Result<char, String> {
        let rest = &self.text[self.at..];
        for (escape, c) in [
            ("\\\"", '"'),
            ("\\\\", '\\'),
            ("\\b", '\x08'),
            ("\\f", '\x0c'),
            ("\\n", '\n'),
            ("\\r", '\r'),
            ("\\t", '\t'),
        ] {
            if rest.starts_with(escape) {
                self.at += 2;
                return Ok(c);
            }
        }
        for code in (1..0x20u8).filter(|c| !matches!(c, 0x08 | 0x09 | 0x0a | 0x0c | 0x0d)) {
            if rest.starts_with(&format!("\\u{code:04x}")) {
                self.at += 6;
                return Ok(char::from(code));
            }
        }
        self.flaw("an escape that canonical JSON does not have")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_sorted_and_strings_minimal() {
        let value = json!({"b": [1, -2, true, null], "a": "é\"\\\n\u{1}", "": {}});
        let bytes = write(&value).unwrap();
        assert_eq!(std::str::from_utf8(&bytes).unwrap(), r#"{"":{},"a":"é\"\\\n\u0001","b":[1,-2,true,null]}"#);
        assert_eq!(read(&bytes).unwrap(), value);
    }

    #[test]
    fn other_spellings_are_refused() {
        for (text, says) in [
            (r#"{"a":1,"a":2}"#, "twice"),
            (r#"{"a":1,"b":2,"a":3}"#, "twice"),
            (r#"{"b":1,"a":2}"#, "out of order"),
            (r#"{ "a":1}"#, "no `\"`"),
            (r#"{"a": 1}"#, "white space"),
            ("{}\r", "carriage return"),
            ("{}{}", "after the value"),
            ("1.0", "no integer"),
            ("1e3", "no integer"),
            ("-0", "canonical integer"),
            ("01", "canonical integer"),
            ("9007199254740992", "canonical integer"),
            (r#""\u0041""#, "escape"),
            (r#""\u000A""#, "escape"),
            (r#""\/""#, "escape"),
            (r#""\u0000""#, "escape"),
            ("\"a\nb\"", "control"),
            ("\"a", "unterminated"),
            ("", "no JSON value"),
            ("nul", "no JSON value"),
            ("{\"a\":1,}", "no `\"`"),
            ("[1,]", "no JSON value"),
            ("\"a\0\"", "NUL"),
        ] {
            let flaw = read(text.as_bytes()).unwrap_err();
            assert!(flaw.contains(says), "{text:?}: {flaw}");
        }
        assert!(read(b"\"\xff\"").unwrap_err().contains("UTF-8"));
        assert!(read("[".repeat(100_000).as_bytes()).unwrap_err().contains("deep"));
        assert!(write(&json!(0.5)).is_err());
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_reproduced(text in r#"[\[\]{}:,"a-c0-9\\untr. -]{0,24}"#) {
            if let Ok(value) = read(text.as_bytes()) {
                prop_assert_eq!(write(&value).unwrap(), text.into_bytes());
            }
        }

        #[test]
        fn strings_survive(s in "[^\0]*") {
            let bytes = write(&Value::String(s.clone())).unwrap();
            prop_assert_eq!(read(&bytes).unwrap(), Value::String(s));
        }
    }
}
