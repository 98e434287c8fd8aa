//! Secrets out of everything that is kept or shown: the exact value of a key, wherever it turns up.

use std::collections::HashSet;

use serde_json::Value;

use crate::files;
use crate::ledger::Config;

/// What stands in a secret's place.
pub const MARK: &str = "[redacted]";

/// A key. It prints as a mark, so that no `{:?}` can spill it.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Shorter ones are refused: a value like `none` cannot be taken out of a text without taking the text apart.
    pub const SHORTEST: usize = 8;

    /// `Err` says what is wrong with the value, without the value.
    pub fn new(value: &str) -> Result<Secret, &'static str> {
        let value = value.trim();
        if value.len() < Secret::SHORTEST {
            return Err("is shorter than 8 characters; a server that needs no key needs no variable either");
        }
        if !value.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("holds white space or characters that no HTTP header can carry");
        }
        Ok(Secret(value.into()))
    }

    /// The value, for the one header that it belongs in.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(MARK)
    }
}

/// Takes secrets out.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    secrets: Vec<Secret>,
}

impl Redactor {
    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Redactor {
        Redactor { secrets: secrets.into_iter().collect() }
    }

    /// The keys for language models that the user's environment holds, for what has none of its own: an agent that serves
    /// itself may still come across one.
    pub fn of_user() -> Redactor {
        const USUAL: &str = "ASSAY_AGENT_KEY";
        let settings = Config::of_user().ok().map(|config| config.dir().join("agent.toml"));
        let settings = settings.and_then(|path| files::read_text(&path, files::SETTINGS).ok());
        let settings = settings.and_then(|text| toml::from_str::<toml::Value>(&text).ok());
        let named = settings.and_then(|s| Some(s.get("endpoint")?.get("key")?.as_str()?.to_string()));
        let names = [Some(USUAL.to_string()), std::env::var("ASSAY_AGENT_KEY_NAME").ok(), named];
        let values = names.into_iter().flatten().filter_map(|name| std::env::var(name).ok());
        Redactor::new(values.filter_map(|value| Secret::new(&value).ok()))
    }

    pub fn text(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_string(), |text, secret| {
            let text = match text.contains(secret.reveal()) {
                true => text.replace(secret.reveal(), MARK),
                false => text,
            };
            without_beginnings(without_pieces(text, secret.reveal()), secret.reveal())
        })
    }

    /// Every string of a value, the keys of its objects too.
    pub fn value(&self, value: Value) -> Value {
        if self.secrets.is_empty() {
            return value;
        }
        match value {
            Value::String(s) => Value::String(self.text(&s)),
            Value::Array(items) => Value::Array(items.into_iter().map(|v| self.value(v)).collect()),
            Value::Object(map) => Value::Object(map.into_iter().map(|(k, v)| (self.text(&k), self.value(v))).collect()),
            other => other,
        }
    }
}

/// Shortest piece of a long secret that is taken out wherever it stands. Shorter ones, as in a server's `sk-…abcd`, tell
/// whose key it is and not what it is.
const PIECE: usize = 12;

/// A server that masks a key may leave most of it: `sk-proj-abcdefgh****wxyz`. Pieces are looked for of long secrets alone,
/// since a short one may be made of words.
fn without_pieces(text: String, secret: &str) -> String {
    if secret.len() < 2 * PIECE {
        return text;
    }
    let (bytes, key) = (text.as_bytes(), secret.as_bytes());
    let begins: HashSet<&[u8]> = key.windows(PIECE).collect();
    // A secret is ASCII, so that a piece ends between characters of the text.
    let (mut out, mut kept, mut at) = (String::new(), 0, 0);
    while let Some(piece) = bytes.get(at..at + PIECE) {
        if !begins.contains(piece) {
            at += 1;
            continue;
        }
        let mut end = at + PIECE;
        // As long as what follows goes on as the secret does somewhere.
        while end < bytes.len() && begins.contains(&bytes[end + 1 - PIECE..=end]) {
            end += 1;
        }
        out.push_str(&text[kept..at]);
        out.push_str(MARK);
        (kept, at) = (end, end);
    }
    match kept {
        0 => text,
        _ => out + &text[kept..],
    }
}

/// What a cut left of a secret: a beginning of it at the end of the text, or before the dots that stand for what was cut.
fn without_beginnings(text: String, secret: &str) -> String {
    // Most texts hold nothing that even begins like it.
    if !text.contains(&secret[..Secret::SHORTEST]) {
        return text;
    }
    let (mut out, mut rest) = (String::new(), text.as_str());
    loop {
        let dots = ["…", "..."].iter().filter_map(|dots| rest.find(dots).map(|at| (at, dots.len()))).min();
        let (end, mark) = dots.unwrap_or((rest.len(), 0));
        let part = &rest[..end];
        let longest = (Secret::SHORTEST..secret.len()).rev().find(|n| part.ends_with(&secret[..*n]));
        match longest {
            Some(n) => {
                out.push_str(&part[..end - n]);
                out.push_str(MARK);
            }
            None => out.push_str(part),
        }
        out.push_str(&rest[end..end + mark]);
        rest = &rest[end + mark..];
        if mark == 0 {
            return out;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_is_taken_out_of_keys_and_values() {
        let redactor = Redactor::new([Secret::new("sk-0123456789").unwrap()]);
        let value = json!({"a sk-0123456789": ["x", {"b": "sk-0123456789sk-0123456789"}], "n": 1});
        assert_eq!(redactor.value(value), json!({"a [redacted]": ["x", {"b": "[redacted][redacted]"}], "n": 1}));
        assert_eq!(format!("{redactor:?}"), "Redactor { secrets: [[redacted]] }");
        assert!(Secret::new("none").is_err() && Secret::new("with a blank").is_err());
    }

    /// A 401 that said which key it was showed most of it.
    #[test]
    fn a_masked_key_showed_most_of_itself() {
        let key = "sk-proj-abcdefgh-IJKLMNOP-0123456789-wxyz";
        let redactor = Redactor::new([Secret::new(key).unwrap()]);
        let said = redactor.text("Incorrect API key provided: sk-proj-abcdefgh-IJK****6789-wxyz. größe");
        assert_eq!(said, "Incorrect API key provided: [redacted]****6789-wxyz. größe");
        let said = redactor.text("****IJKLMNOP-0123456789-wxyz, and sk-p…wxyz");
        assert_eq!(said, "****[redacted], and sk-p…wxyz");
        for at in 1..key.len() - 12 {
            let said = redactor.text(&format!("ä{}ä{}", &key[at..at + 12], &key[at..at + 11]));
            assert_eq!(said, format!("ä[redacted]ä{}", &key[at..at + 11]));
        }
        // A short one may be made of words.
        let short = Redactor::new([Secret::new("local-model-key").unwrap()]);
        assert_eq!(short.text("the local-model-k of local-model-key"), "the local-model-k of [redacted]");
    }

    #[test]
    fn what_a_cut_left_of_a_key_is_taken_out_at_every_offset() {
        let key = "sk-0123456789-abcdefghij";
        let redactor = Redactor::new([Secret::new(key).unwrap()]);
        let text = format!("the key {key} and more");
        for end in 0..=text.len() {
            for cut in ["", "…", "...", "… [cut]"] {
                let shown = redactor.text(&format!("{}{cut}", &text[..end]));
                assert!(!shown.contains(&key[..8]), "{shown}");
            }
        }
        assert_eq!(redactor.text("sk-01234 is how keys begin… here"), "sk-01234 is how keys begin… here");
    }
}
