//! One answer out of a whole message or the pieces of a stream.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::plain::{self, UNREADABLE};
use super::{Answer, Call, Failure, MOST_ANSWERED, MOST_CALLS, Trouble, UNKNOWN, Usage};
use crate::agent::budget::TOKEN_BYTES;
use crate::agent::redact::Redactor;

/// What marks the complaint that a conversation is too long, in the words of the servers there are.
const TOO_LONG: [&str; 10] = [
    "context_length",
    "context length",
    "context window",
    "context size",
    "available context",
    "maximum context",
    "too many tokens",
    "prompt is too long",
    "input is too long",
    "n_ctx",
];

/// Why an answer ended that was cut off.
const CUT: &str = "length";

/// A tool call in the making.
struct Draft {
    index: Option<i64>,
    id: String,
    /// One, or several that came before any argument did: pieces of one, or of calls without arguments.
    names: Vec<String>,
    arguments: String,
    /// Another name came in the middle of its arguments, and nobody can tell any more whose they are.
    mixed: bool,
}

impl Draft {
    fn name(&self) -> &str {
        self.names.last().map_or("", String::as_str)
    }

    /// Whether a piece that has come here by its id or index, and that has a name, is another call. It is if what is here
    /// is complete; servers that repeat the name with every piece have it before that, too.
    fn is_followed_by(&self, id: &str, index: Option<i64>, name: &str, arguments: &str) -> bool {
        let complete =
            || objects(&self.arguments, false).iter().all(Result::is_ok) && !self.arguments.trim().is_empty();
        match (name, self.name()) {
            ("", _) | (_, "") => false,
            (name, own) if name == own => {
                !arguments.is_empty() && (id.is_empty() || self.id != id) && is_object(&self.arguments)
            }
            _ => (index.is_some() && self.index.is_some() && index != self.index) || complete(),
        }
    }

    /// The calls that it holds; of more than one name the names, in so far as they are calls of `tools` one after the
    /// other, and one call where they are pieces of its name.
    fn calls(self, tools: &[&str], cut: bool) -> Vec<Drafted> {
        let Draft { id, mut names, arguments, mixed, .. } = self;
        let whole = names.concat();
        if mixed {
            let name = names.into_iter().next().unwrap_or_default();
            return vec![(id, name, Err(MIXED.into()))];
        }
        let mut out = Vec::new();
        let last = match names.len() > 1 && !tools.contains(&&*whole) && names.iter().all(|n| tools.contains(&&**n)) {
            true => names.pop().unwrap_or_default(),
            false => {
                names.clear();
                whole
            }
        };
        out.extend(names.into_iter().take(MOST_ANSWERED).map(|name| (id.clone(), name, Ok(Map::new()))));
        out.extend(objects(&arguments, cut).into_iter().map(|arguments| (id.clone(), last.clone(), arguments)));
        out
    }
}

/// Id, name, and the arguments or what is wrong with them.
type Drafted = (String, String, Result<Map<String, Value>, String>);

/// What is said of calls that a server has run together.
const MIXED: &str = "not carried out: another call's name came in the middle of these arguments, under the same id or index, \
                     so that nobody can tell which call they are of; make one call in an answer";

#[derive(Default)]
pub struct Assembler {
    content: String,
    reasoning: String,
    drafts: Vec<Draft>,
    usage: Option<Usage>,
    finish: Option<String>,
    seen: bool,
    /// Bytes of the names and arguments of calls.
    called: u64,
}

impl Assembler {
    /// One document: a whole completion or a piece of one.
    pub fn feed(&mut self, document: &Value) -> Result<(), Failure> {
        if let Some(error) = document.get("error").filter(|e| !e.is_null()) {
            return Err(complaint(200, error));
        }
        if let Some(usage) = document.get("usage").and_then(usage) {
            self.usage = Some(usage);
        }
        let choices = document.get("choices").and_then(Value::as_array).map_or(&[][..], |c| c);
        // Further choices were not asked for.
        let Some(choice) = choices.iter().find(|c| c.get("index").is_none_or(|i| *i == 0 || i.is_null())) else {
            return Ok(());
        };
        self.seen = true;
        if let Some(reason) = choice.get("finish_reason").and_then(Value::as_str).filter(|reason| is_reason(reason)) {
            self.finish = Some(reason.into());
        }
        for message in ["delta", "message"].iter().filter_map(|name| choice.get(name)) {
            push_text(&mut self.content, message.get("content"));
            for name in ["reasoning_content", "reasoning"] {
                push_text(&mut self.reasoning, message.get(name));
            }
            let calls = message.get("tool_calls").and_then(Value::as_array);
            // A whole message lists whole calls; only pieces are to be joined.
            let whole = choice.get("message").is_some();
            for call in calls.into_iter().flatten() {
                self.call(call, whole);
            }
            if let Some(function) = message.get("function_call").filter(|f| f.is_object()) {
                self.call(&serde_json::json!({"index": 0, "function": function}), whole);
            }
        }
        Ok(())
    }

    /// Whether the server has said that it is done.
    pub fn finished(&self) -> bool {
        self.finish.is_some()
    }

    /// Whether more has come than `tokens` tokens ever are, by what was said or by the server's own count.
    pub fn passes(&self, tokens: u64) -> bool {
        self.overflows(tokens) || self.usage.is_some_and(|usage| usage.completion > tokens)
    }

    /// Whether more was said than `tokens` tokens ever are.
    pub fn overflows(&self, tokens: u64) -> bool {
        self.said() > tokens.saturating_mul(TOKEN_BYTES)
    }

    /// Nothing more of it is read: an answer that was cut off at its limit.
    pub fn cut(&mut self) {
        self.finish = Some(CUT.into());
    }

    /// Bytes that the model wrote.
    pub fn said(&self) -> u64 {
        (self.content.len() + self.reasoning.len()) as u64 + self.called
    }

    /// Whether anything like an answer has come.
    pub fn seen(&self) -> bool {
        self.seen
    }

    /// What the server has counted so far.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// A piece of a call goes to the call that it continues. Servers differ in how they say which: a good `index`, the
    /// same one always, or none; an `id` in the first piece or in each.
    fn call(&mut self, piece: &Value, whole: bool) {
        let function = piece.get("function").unwrap_or(piece);
        let text = |v: Option<&Value>| v.and_then(Value::as_str).unwrap_or_default().to_string();
        let (id, name) = (text(piece.get("id")), text(function.get("name")));
        let arguments = match function.get("arguments") {
            Some(Value::String(text)) => text.clone(),
            None | Some(Value::Null) => String::new(),
            Some(value) => value.to_string(),
        };
        self.called += (name.len() + arguments.len()) as u64;
        let index = piece.get("index").and_then(Value::as_i64);
        let of = |d: &Draft| match (id.is_empty(), index) {
            (false, _) if !d.id.is_empty() => d.id == id,
            (_, Some(_)) => d.index == index,
            (_, None) => true,
        };
        // Where several calls have one id, the one with the same index is meant.
        let same = |d: &Draft| !id.is_empty() && index.is_some() && d.index == index;
        let both = self.drafts.iter().rposition(|d| of(d) && same(d));
        // A piece without a name goes on with the call of its index, also where each piece has an id of its own.
        let nameless = name.is_empty() && index.is_some();
        let indexed = || self.drafts.iter().rposition(|d| nameless && d.index == index);
        let known = both.or_else(|| self.drafts.iter().rposition(of)).or_else(indexed);
        let another = known.is_some_and(|at| self.drafts[at].is_followed_by(&id, index, &name, &arguments));
        match known.filter(|_| !whole && !another) {
            // One more than are answered, so that it is seen that there were more.
            None if self.drafts.len() > MOST_ANSWERED => {}
            None => self.drafts.push(Draft { index, id, names: vec![name], arguments, mixed: false }),
            Some(at) => {
                let draft = &mut self.drafts[at];
                if draft.id.is_empty() {
                    draft.id = id;
                }
                // The name comes once; some servers repeat it with every piece.
                match () {
                    () if name.is_empty() || name == draft.name() => {}
                    () if draft.name().is_empty() => draft.names = vec![name],
                    () if draft.arguments.is_empty() => draft.names.push(name),
                    () => draft.mixed = true,
                }
                draft.arguments.push_str(&arguments);
            }
        }
    }

    /// Secrets go before anything is looked at or cut: of half a key nobody can tell any more that it is one.
    pub fn answer(self, tools: &[&str], redactor: &Redactor) -> Answer {
        let cut = self.finish.as_deref() == Some(CUT);
        let said = self.said();
        let mut calls = Vec::new();
        for draft in self.drafts {
            calls.extend(draft.calls(tools, cut));
        }
        let mut written = false;
        if calls.is_empty() {
            let found = plain::calls(&self.content, tools, cut);
            written = !found.is_empty();
            calls.extend(found.into_iter().map(|(name, arguments)| (String::new(), name, arguments)));
        }
        let mut ids = HashSet::new();
        let more = calls.len() > MOST_ANSWERED;
        let calls = calls.into_iter().take(MOST_ANSWERED).enumerate().map(|(i, (id, name, arguments))| {
            let (id, name) = (redactor.text(&id), redactor.text(&name));
            let usable = (1..=64).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
                && ids.insert(id.clone());
            // Nine letters and digits: the one form that every server takes back.
            let id = if usable { id } else { format!("call{:05}", i + 1) };
            let (mut arguments, mut flaw) = match arguments {
                Ok(map) => (redacted(map, redactor), None),
                Err(why) => (Map::new(), Some(redactor.text(&why))),
            };
            let known = tools.contains(&name.as_str()) || written && flaw.is_some() && name == UNREADABLE;
            let mut called = String::new();
            if !known {
                called = name.chars().take(40).collect();
                flaw = Some(format!("there is no tool {called:?}; there are: {}", tools.join(", ")));
            } else if i >= MOST_CALLS {
                let rest =
                    if more && i + 1 == MOST_ANSWERED { ", and none of those after it was looked at" } else { "" };
                let why = format!("not carried out: at most {MOST_CALLS} calls of one answer are{rest}");
                (flaw, arguments) = (Some(why), Map::new());
            }
            Call { id, name: if known { name } else { UNKNOWN.into() }, arguments, flaw, called }
        });
        Answer {
            calls: calls.collect(),
            content: redactor.text(&self.content),
            reasoning: redactor.text(&self.reasoning),
            plain: written,
            cut,
            usage: self.usage,
            said,
            bytes: 0,
        }
    }
}

fn redacted(map: Map<String, Value>, redactor: &Redactor) -> Map<String, Value> {
    match redactor.value(Value::Object(map)) {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Text that is a string, or a list of parts with text.
fn push_text(out: &mut String, value: Option<&Value>) {
    match value {
        Some(Value::String(text)) => out.push_str(text),
        Some(Value::Array(parts)) => {
            for part in parts {
                out.push_str(part.get("text").and_then(Value::as_str).unwrap_or_default());
            }
        }
        _ => {}
    }
}

/// Some servers write an empty reason, or the word null, into every piece until there is one.
fn is_reason(text: &str) -> bool {
    !matches!(text.trim().to_ascii_lowercase().as_str(), "" | "null" | "none")
}

fn is_object(text: &str) -> bool {
    serde_json::from_str::<Map<String, Value>>(text).is_ok()
}

/// The arguments of one call, or of several whose pieces could not be told apart: `{…}{…}`. What is no object is told
/// in words, never handed on.
fn objects(text: &str, cut: bool) -> Vec<Result<Map<String, Value>, String>> {
    if text.trim().is_empty() {
        return vec![Ok(Map::new())];
    }
    let mut out = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        let value = match value {
            // Encoded twice.
            Ok(Value::String(inner)) => serde_json::from_str(&inner),
            value => value,
        };
        match value {
            Ok(Value::Object(map)) => out.push(Ok(map)),
            Ok(_) => return vec![Err("the arguments are no JSON object".into())],
            Err(_) if cut => return vec![Err(cut_off())],
            // serde_json's message says where and what was expected, and quotes nothing.
            Err(e) => return vec![Err(format!("the arguments are not valid JSON ({e})"))],
        }
        if out.len() > MOST_ANSWERED {
            break;
        }
    }
    out
}

/// What is said of a call whose end did not come.
pub fn cut_off() -> String {
    "the answer was cut off at its limit of tokens, in the middle of the arguments; write something shorter".into()
}

/// A count that is not there, or that is negative, is one of zero: whoever reports zero tokens for what has some has not
/// counted. A part of a token is one.
fn usage(value: &Value) -> Option<Usage> {
    let count = |name: &str| {
        let value = value.get(name)?;
        value.as_u64().or_else(|| value.as_f64().map(|f| f.ceil() as u64)).filter(|n| *n > 0)
    };
    let prompt = count("prompt_tokens").unwrap_or(0);
    let rest = || count("total_tokens").filter(|_| prompt > 0).map(|total| total.saturating_sub(prompt));
    let completion = count("completion_tokens").or_else(rest).unwrap_or(0);
    (prompt > 0 || completion > 0).then_some(Usage { prompt, completion })
}

/// What a server's error document means.
pub fn complaint(status: u16, error: &Value) -> Failure {
    let message = match error {
        Value::String(text) => text.clone(),
        error => ["message", "detail", "type", "code"]
            .iter()
            .find_map(|name| error.get(name).and_then(Value::as_str))
            .map_or_else(|| error.to_string(), String::from),
    };
    classify(status, &format!("{message} {error}"), &message)
}

/// What a status and the text that came with it mean. The words are whole: whoever shows them takes secrets out first and
/// cuts then.
pub fn classify(status: u16, text: &str, shown: &str) -> Failure {
    let lower = text.to_lowercase();
    let shown: String = shown.chars().filter(|c| !c.is_control()).collect();
    let what = match status {
        200 if shown.trim().is_empty() => "the server answered with an error and does not say which".into(),
        200 => format!("the server answered with an error: {shown}"),
        status if shown.is_empty() => format!("the server answered {status}"),
        status => format!("the server answered {status}: {shown}"),
    };
    let trouble = match status {
        _ if TOO_LONG.iter().any(|words| lower.contains(words)) && status != 429 => Trouble::Context,
        413 => Trouble::Context,
        429 => Trouble::Limited,
        400 | 422 if lower.contains("stream_options") || lower.contains("max_completion_tokens") => {
            Trouble::Unsupported
        }
        200 if lower.contains("rate_limit") || lower.contains("rate limit") => Trouble::Limited,
        200 | 408 | 409 | 425 | 500.. => Trouble::Server,
        _ => Trouble::Refused,
    };
    Failure::new(trouble, what)
}

/// An event whose JSON holds half of a surrogate pair, as servers send that cut text between UTF-16 units: the half
/// becomes U+FFFD. serde_json refuses the whole event.
pub fn mend(text: &str) -> String {
    let half = |at: usize| {
        let unit = u16::from_str_radix(text.get(at + 2..at + 6)?, 16).ok()?;
        (text[at..].starts_with("\\u") && (0xD800..0xE000).contains(&unit)).then_some(unit)
    };
    let (mut out, mut at) = (String::new(), 0);
    while let Some(found) = text[at..].find('\\') {
        let start = at + found;
        out.push_str(&text[at..start]);
        at = start;
        match half(start) {
            Some(0xD800..0xDC00) if matches!(half(start + 6), Some(0xDC00..)) => at += 12,
            Some(_) => {
                out.push_str("\\ufffd");
                at += 6;
                continue;
            }
            // An escape of two characters, which may be a backslash.
            None => at += 1 + text[start + 1..].chars().next().map_or(0, char::len_utf8),
        }
        out.push_str(&text[start..at]);
    }
    out.push_str(&text[at..]);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn streamed(pieces: &[Value]) -> Vec<(String, String)> {
        let mut assembler = Assembler::default();
        for piece in pieces {
            assembler.feed(&json!({"choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]})).unwrap();
        }
        let answer = assembler.answer(&["verify", "build"], &Redactor::default());
        let ids: HashSet<_> = answer.calls.iter().map(|c| &c.id).collect();
        assert_eq!(ids.len(), answer.calls.len(), "ids are told apart");
        answer.calls.iter().map(|c| (c.name.clone(), Value::from(c.arguments.clone()).to_string())).collect()
    }

    fn f(name: &str, arguments: &str) -> Value {
        json!({"name": name, "arguments": arguments})
    }

    #[test]
    fn calls_are_told_apart_however_a_server_numbers_them() {
        let want = [("verify".to_string(), r#"{"a":1}"#.to_string()), ("build".to_string(), r#"{"b":2}"#.to_string())];
        let same = [("verify".to_string(), r#"{"a":1}"#.to_string()), ("verify".to_string(), r#"{"b":2}"#.to_string())];
        let cases = [
            // As the specification has it.
            (
                &want,
                vec![
                    json!({"index": 0, "id": "x", "function": f("verify", "")}),
                    json!({"index": 0, "function": {"arguments": "{\"a\""}}),
                    json!({"index": 0, "function": {"arguments": ":1}"}}),
                    json!({"index": 1, "id": "y", "function": f("build", "")}),
                    json!({"index": 1, "function": {"arguments": "{\"b\":2}"}}),
                ],
            ),
            // No index.
            (
                &want,
                vec![
                    json!({"id": "x", "function": f("verify", "{\"a\"")}),
                    json!({"function": {"arguments": ":1}"}}),
                    json!({"id": "y", "function": f("build", "{\"b\":")}),
                    json!({"function": {"arguments": "2}"}}),
                ],
            ),
            // Always the same index, ids of their own.
            (
                &want,
                vec![
                    json!({"index": 0, "id": "x", "function": f("verify", "{\"a\":1}")}),
                    json!({"index": 0, "id": "y", "function": f("build", "")}),
                    json!({"index": 0, "function": {"arguments": "{\"b\":2}"}}),
                ],
            ),
            // Always the same index, no ids.
            (
                &want,
                vec![
                    json!({"index": 0, "function": f("verify", "{\"a\":1}")}),
                    json!({"index": 0, "function": f("build", "{\"b\"")}),
                    json!({"index": 0, "function": {"arguments": ":2}"}}),
                ],
            ),
            (
                &same,
                vec![
                    json!({"index": 0, "function": f("verify", "{\"a\":1}")}),
                    json!({"index": 0, "function": f("verify", "")}),
                    json!({"index": 0, "function": {"arguments": "{\"b\":2}"}}),
                ],
            ),
            // Name and id with every piece.
            (
                &want,
                vec![
                    json!({"index": 0, "id": "x", "function": f("verify", "{\"a\"")}),
                    json!({"index": 0, "id": "x", "function": f("verify", ":1}")}),
                    json!({"index": 1, "id": "y", "function": f("build", "{\"b\":")}),
                    json!({"index": 1, "id": "y", "function": f("build", "2}")}),
                ],
            ),
            // An id of its own for every piece.
            (
                &want,
                vec![
                    json!({"index": 0, "id": "p", "function": f("verify", "")}),
                    json!({"index": 0, "id": "q", "function": {"arguments": "{\"a\""}}),
                    json!({"index": 1, "id": "r", "function": f("build", "{\"b\":")}),
                    json!({"index": 0, "id": "s", "function": {"name": "", "arguments": ":1}"}}),
                    json!({"index": 1, "id": "t", "function": {"name": null, "arguments": "2}"}}),
                ],
            ),
            // Arguments as an object, ids the same.
            (
                &want,
                vec![
                    json!({"index": 0, "id": "", "function": {"name": "verify", "arguments": {"a": 1}}}),
                    json!({"index": 1, "id": "", "function": {"name": "build", "arguments": {"b": 2}}}),
                ],
            ),
        ];
        for (want, pieces) in cases {
            assert_eq!(streamed(&pieces), want.as_slice(), "{pieces:?}");
        }
    }

    /// `verify` was carried out with the arguments that were meant for `build`.
    #[test]
    fn calls_of_one_id_and_index_ran_under_the_name_of_the_first() {
        let piece = |name: &str, arguments: &str| json!({"index": 0, "id": "x", "function": f(name, arguments)});
        let bare = |name: &str, arguments: &str| json!({"index": 0, "function": f(name, arguments)});
        let more = |arguments: &str| json!({"index": 0, "id": "x", "function": {"arguments": arguments}});
        let at = |index: i64, name: &str, arguments: &str| json!({"index": index, "id": "x", "function": f(name, arguments)});
        let [verify, build] = ["verify", "build"].map(String::from);
        let [a, b, none] = [r#"{"a":1}"#, r#"{"b":2}"#, "{}"].map(String::from);
        for (pieces, want) in [
            (vec![piece("verify", &a), piece("build", &b)], vec![(&verify, &a), (&build, &b)]),
            (
                vec![piece("verify", &a), piece("build", ""), more("{\"b\""), more(":2}")],
                vec![(&verify, &a), (&build, &b)],
            ),
            // With every piece.
            (
                vec![
                    piece("verify", "{\"a\""),
                    piece("verify", ":1}"),
                    piece("build", "{\"b\":"),
                    piece("build", "2}"),
                ],
                vec![(&verify, &a), (&build, &b)],
            ),
            (
                vec![piece("verify", &a), piece("build", &b), piece("verify", &b)],
                vec![(&verify, &a), (&build, &b), (&verify, &b)],
            ),
            // Before any argument came: the name in pieces, or calls without arguments.
            (vec![piece("ver", ""), piece("ify", ""), more(&a)], vec![(&verify, &a)]),
            (vec![bare("ver", ""), bare("ify", &a)], vec![(&verify, &a)]),
            (vec![piece("verify", ""), piece("build", &b)], vec![(&verify, &none), (&build, &b)]),
            (vec![bare("verify", ""), bare("build", "")], vec![(&verify, &none), (&build, &none)]),
            // One id between several indices, also where the pieces take turns.
            (
                vec![at(0, "verify", "{\"a\""), at(1, "build", "{\"b\""), at(0, "", ":1}"), at(1, "", ":2}")],
                vec![(&verify, &a), (&build, &b)],
            ),
        ] {
            let want: Vec<_> = want.into_iter().map(|(name, arguments)| (name.clone(), arguments.clone())).collect();
            assert_eq!(streamed(&pieces), want, "{pieces:?}");
        }
        // Who cannot tell carries out nothing.
        for (pieces, says) in [
            (vec![piece("verify", "{\"a\""), piece("build", ":1}")], "nobody can tell which call"),
            (vec![bare("verify", "{\"a\""), bare("build", &b), bare("build", &b)], "nobody can tell which call"),
            (vec![piece("verify", ""), piece("_all", &a)], "there is no tool \"verify_all\""),
            (vec![piece("verify", ""), piece("verify_all", "")], "there is no tool"),
        ] {
            let mut assembler = Assembler::default();
            for piece in &pieces {
                assembler.feed(&json!({"choices": [{"delta": {"tool_calls": [piece]}}]})).unwrap();
            }
            let calls = assembler.answer(&["verify", "build"], &Redactor::default()).calls;
            assert_eq!(calls.len(), 1, "{pieces:?}");
            let flaw = calls[0].flaw.clone().unwrap_or_default();
            assert!(flaw.contains(says), "{pieces:?}: {flaw}");
        }
    }

    #[test]
    fn bad_arguments_become_words() {
        for (arguments, says) in [
            ("{\"source\": \"int main", "not valid JSON"),
            ("[1, 2]", "no JSON object"),
            ("{\"a\": 1} tail", "not valid JSON"),
            ("nonsense sk-secret", "not valid JSON"),
        ] {
            let mut assembler = Assembler::default();
            let call = json!({"id": "x", "function": f("verify", arguments)});
            assembler.feed(&json!({"choices": [{"message": {"tool_calls": [call]}}]})).unwrap();
            let answer = assembler.answer(&["verify"], &Redactor::default());
            let flaw = answer.calls[0].flaw.clone().unwrap();
            assert!(flaw.contains(says) && answer.calls[0].arguments.is_empty() && !flaw.contains("secret"), "{flaw}");
        }
        let twice = objects(r#""{\"a\":1}""#, false);
        assert_eq!(twice[0].clone().unwrap()["a"], 1);
        assert!(objects("{\"a", true)[0].clone().unwrap_err().contains("cut off"));
    }

    /// Half a token was none, and one and a half were one.
    #[test]
    fn parts_of_tokens_were_not_counted() {
        for (said, want) in [
            (json!({"prompt_tokens": 1.5, "completion_tokens": 0.1}), Some((2, 1))),
            (json!({"prompt_tokens": 7.0, "completion_tokens": 2}), Some((7, 2))),
            (json!({"prompt_tokens": 10.2, "total_tokens": 14.1}), Some((11, 4))),
            (json!({"prompt_tokens": -0.5, "completion_tokens": -3.5}), None),
            (json!({"prompt_tokens": "NaN", "completion_tokens": null}), None),
            (json!({"prompt_tokens": 1e300, "completion_tokens": 1}), Some((u64::MAX, 1))),
        ] {
            assert_eq!(usage(&said).map(|u| (u.prompt, u.completion)), want, "{said}");
        }
    }

    #[test]
    fn complaints_are_told_apart() {
        for (status, text, trouble) in [
            (400, "This model's maximum context length is 8192 tokens", Trouble::Context),
            (500, "the request exceeds the available context size", Trouble::Context),
            (429, "Rate limit", Trouble::Limited),
            (503, "overloaded", Trouble::Server),
            (400, "unknown field stream_options", Trouble::Unsupported),
            (401, "bad key", Trouble::Refused),
            (404, "no such model", Trouble::Refused),
        ] {
            assert_eq!(complaint(status, &json!({"message": text})).trouble, trouble, "{status} {text}");
        }
    }

    #[test]
    fn half_a_surrogate_pair_costs_one_character() {
        for (text, want) in [
            (r#""a\ud83d""#, "a\u{fffd}"),
            (r#""\ude00b""#, "\u{fffd}b"),
            (r#""\ud83d\ude00""#, "😀"),
            (r#""\\ud83d é\n""#, "\\ud83d é\n"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}😀"),
        ] {
            assert_eq!(serde_json::from_str::<String>(&mend(text)).unwrap(), want, "{text}");
        }
        for text in ["\\", "\\u", "\\uD8", "é\\é", "\\ud83d\\"] {
            mend(text);
        }
    }
}
