//! Tool calls that a model wrote as text, because its server has no parser for them.
//!
//! A call begins at a mark that some family of models learned to write, and ends by its own syntax: a JSON document at its
//! last brace, a parameter at a closer that another part of the call follows. What stands in between is the model's text,
//! and a kernel may hold any mark. What is marked as a call and cannot be read is a call with something wrong, so that the
//! model is told what.

use serde_json::{Map, Value};

use super::MOST_ANSWERED;
use super::assemble::cut_off;

/// What a call is named whose tool cannot be made out.
pub const UNREADABLE: &str = "tool_call";

/// A tool and its arguments, or what is wrong with them.
pub type Written = (String, Result<Map<String, Value>, String>);

/// Parameters that are read of one call; no tool has so many.
const PARAMETERS: usize = 16;
/// Bytes that a tag's name, or the head of a message, may have.
const HEAD: usize = 256;

/// The calls in `content`, in its order. `cut`: the server stopped at its limit of tokens.
pub fn calls(content: &str, tools: &[&str], cut: bool) -> Vec<Written> {
    let text = after_thoughts(content);
    let mut scan = Scan { text, tools, cut, found: Vec::new(), fenced: Vec::new(), asides: 0, from: 0 };
    // Where all of it is JSON, a mark is a part of some string.
    let whole = scan.bare(text);
    if !whole.is_empty() {
        return whole;
    }
    scan.marks();
    match (scan.found.is_empty(), scan.fenced.is_empty()) {
        (false, _) => scan.found,
        (true, false) => scan.fenced,
        (true, true) => scan.bare(&text[scan.from..]),
    }
}

/// What a reasoning model thinks aloud first may hold calls that it then decides against.
fn after_thoughts(content: &str) -> &str {
    match content.trim_start().strip_prefix("<think>") {
        Some(thoughts) => thoughts.split_once("</think>").map_or("", |(_, rest)| rest),
        None => content,
    }
}

struct Scan<'t> {
    text: &'t str,
    tools: &'t [&'t str],
    cut: bool,
    found: Vec<Written>,
    /// Of Markdown's blocks: what counts where nothing is marked.
    fenced: Vec<Written>,
    /// Documents amid prose that were read.
    asides: usize,
    /// The end of thoughts that nothing opened: some templates do it in the prompt.
    from: usize,
}

impl Scan<'_> {
    fn marks(&mut self) {
        let mut at = 0;
        while let Some(found) = self.text[at..].find(['<', '[', '`', '{']) {
            at += found;
            if self.found.len().max(self.fenced.len()) > MOST_ANSWERED {
                return;
            }
            at = self.mark(at);
        }
    }

    /// Reads what begins at a bracket, a brace or a fence; gives where to go on.
    fn mark(&mut self, at: usize) -> usize {
        let after = |mark: &str| self.text[at..].starts_with(mark).then_some(at + mark.len());
        if let Some(body) = after("<tool_call>") {
            self.tool_call(body)
        } else if let Some(body) = after("<function=") {
            self.function(body)
        } else if let Some(body) = after("[TOOL_CALLS]") {
            self.mistral(body)
        } else if let Some(body) = after("<|python_tag|>") {
            self.python(body)
        } else if let Some(body) = after("<|start|>").or_else(|| after("<|channel|>")) {
            self.message(body)
        } else if let Some(body) = after("```") {
            self.fence(body)
        } else if let Some(body) = after("</think>") {
            self.found.clear();
            self.fenced.clear();
            self.from = body;
            body
        } else if self.text[at..].starts_with('{') {
            self.aside(at)
        } else {
            at + 1
        }
    }

    /// Where the next thing stands.
    fn skip(&self, at: usize) -> usize {
        self.text.len() - self.text[at..].trim_start().len()
    }

    fn past(&self, at: usize, closer: &str) -> usize {
        let next = self.skip(at);
        if self.text[next..].starts_with(closer) { next + closer.len() } else { at }
    }

    /// The next place of a closer; the end of the text if there is none.
    fn until(&self, at: usize, closer: &str) -> usize {
        self.text[at..].find(closer).map_or(self.text.len(), |found| at + found)
    }

    fn is_json(&self, at: usize) -> bool {
        self.text[at..].starts_with(['{', '['])
    }

    /// One document and where it ends.
    fn json(&self, at: usize) -> Result<(Value, usize), String> {
        let mut stream = serde_json::Deserializer::from_str(&self.text[at..]).into_iter::<Value>();
        match stream.next() {
            Some(Ok(value)) => Ok((value, at + stream.byte_offset())),
            // serde_json's message says where and what was expected, and quotes nothing.
            Some(Err(e)) if self.cut && e.is_eof() => Err(cut_off()),
            Some(Err(e)) => Err(format!("the call is not valid JSON ({e})")),
            None => Err("the call is empty".into()),
        }
    }

    /// Documents one after the other, each a call or a list of calls. What is no JSON ends at `closer`.
    fn documents(&mut self, at: usize, closer: &str) -> usize {
        let mut at = at;
        loop {
            match self.json(at) {
                Ok((value, end)) => {
                    self.found.extend(listed(&value).iter().map(call));
                    at = end;
                }
                Err(why) => {
                    let end = self.until(at, closer);
                    let name = named(&self.text[at..end], self.tools).unwrap_or(UNREADABLE.into());
                    self.found.push((name, Err(why)));
                    return end;
                }
            }
            let rest = self.text[at..].trim_start_matches(|c: char| c.is_whitespace() || c == ';' || c == ',');
            if !rest.starts_with('{') || self.found.len() > MOST_ANSWERED {
                return at;
            }
            at = self.text.len() - rest.len();
        }
    }

    /// A call amid prose is an example, and none; nor is what its strings hold.
    fn aside(&mut self, at: usize) -> usize {
        if self.asides == MOST_ANSWERED || named(head(&self.text[at..]), self.tools).is_none() {
            return at + 1;
        }
        self.asides += 1;
        match self.json(at) {
            Ok((value, end)) if self.is_call(&value) => end,
            _ => at + 1,
        }
    }

    /// Hermes, Qwen.
    fn tool_call(&mut self, at: usize) -> usize {
        const CLOSER: &str = "</tool_call>";
        let body = self.skip(at);
        if self.is_json(body) {
            let end = self.documents(body, CLOSER);
            return self.past(end, CLOSER);
        }
        if let Some(function) = self.text[body..].strip_prefix("<function=") {
            let end = self.function(self.text.len() - function.len());
            return self.past(end, CLOSER);
        }
        // The next tag of this name, whichever: an opener means that this was none.
        let end = self.until(at, "tool_call>");
        let inner = &self.text[at..end];
        if let Some(inner) = inner.strip_suffix("</")
            && !inner.trim().is_empty()
        {
            self.found.push((UNREADABLE.into(), Err("what stands in <tool_call> is not valid JSON".into())));
            return end;
        }
        at
    }

    /// `<function=NAME>` with JSON or `<parameter=KEY>` elements inside: Qwen, Llama.
    fn function(&mut self, at: usize) -> usize {
        const CLOSER: &str = "</function>";
        let Some((name, body)) = self.tag(at) else { return at };
        let body = self.skip(body);
        let (arguments, end) = match () {
            () if self.is_json(body) => match self.json(body) {
                Ok((value, end)) => (arguments(Some(&value)), end),
                Err(why) => (Err(why), self.until(body, CLOSER)),
            },
            () if self.text[body..].starts_with("<parameter=") => self.parameters(body),
            () => match self.text[body..].find(CLOSER) {
                Some(0) | None => (Ok(Map::new()), body),
                Some(n) => (Err("the arguments are neither JSON nor <parameter=…>".into()), body + n),
            },
        };
        self.found.push((name, arguments));
        self.past(end, CLOSER)
    }

    /// A tag's name, quoted or not, and where the tag ends.
    fn tag(&self, at: usize) -> Option<(String, usize)> {
        let (name, _) = head(&self.text[at..]).split_once('>')?;
        let plain = name.trim().trim_matches('"');
        let fits = !plain.is_empty() && !plain.contains(|c: char| c.is_whitespace() || c == '<');
        fits.then(|| (plain.to_string(), at + name.len() + 1))
    }

    fn parameters(&self, at: usize) -> (Result<Map<String, Value>, String>, usize) {
        let (mut at, mut arguments) = (at, Map::new());
        while arguments.len() < PARAMETERS {
            let next = self.skip(at);
            let Some(rest) = self.text[next..].strip_prefix("<parameter=") else { break };
            let Some((key, body)) = self.tag(self.text.len() - rest.len()) else { break };
            let (value, end) = match self.value(body) {
                Some(value) => value,
                None if self.cut => return (Err(cut_off()), self.text.len()),
                None => {
                    let end = self.until(body, "</function>");
                    (self.text[body..end].trim_end().trim_end_matches("</tool_call>"), end)
                }
            };
            let value = value.strip_prefix('\n').unwrap_or(value);
            arguments.insert(key, value.strip_suffix('\n').unwrap_or(value).into());
            at = end;
        }
        (Ok(arguments), at)
    }

    /// A parameter's text and where its closer ends. A closer is one that a part of a call follows, and of several the last
    /// one before another opener: the others are the text's. Where the text begins on a line of its own its closer stands
    /// on one, so that a line which only speaks of closers is no end.
    fn value(&self, at: usize) -> Option<(&str, usize)> {
        const CLOSER: &str = "</parameter>";
        const OPENERS: [&str; 3] = ["<parameter=", "<function=", "<tool_call>"];
        const ENDS: [&str; 2] = ["</function>", "</tool_call>"];
        let closes = |start: &usize| {
            let rest = self.text[start + CLOSER.len()..].trim_start();
            rest.is_empty() || OPENERS.iter().chain(&ENDS).any(|next| rest.starts_with(next))
        };
        let closers = || self.text[at..].match_indices(CLOSER).map(|(n, _)| at + n).filter(closes);
        let lines = self.text[at..].starts_with('\n');
        let last = |own: bool| {
            let mut closers = closers().filter(|start| !own || self.text[..*start].ends_with('\n'));
            let first = closers.next()?;
            let opens = |from: usize, to: usize| OPENERS.iter().any(|opener| self.text[from..to].contains(opener));
            Some(closers.try_fold(first, |from, to| if opens(from, to) { Err(from) } else { Ok(to) }))
        };
        let start = lines.then(|| last(true)).flatten().or_else(|| last(false))?;
        let start = start.unwrap_or_else(|start| start);
        Some((&self.text[at..start], start + CLOSER.len()))
    }

    /// `[TOOL_CALLS]`, then JSON or `NAME[ARGS]{…}`: Mistral.
    fn mistral(&mut self, at: usize) -> usize {
        let body = self.skip(at);
        if self.is_json(body) {
            return self.documents(body, "[TOOL_CALLS]");
        }
        let rest = head(&self.text[body..]);
        let Some((before, _)) = rest.split_once('{') else { return at };
        let name = before.split('[').next().unwrap_or(before).trim();
        if name.is_empty() || !name.bytes().all(is_name) {
            return at;
        }
        self.named_json(name.to_string(), body + before.len(), "[TOOL_CALLS]")
    }

    /// A name that stood before its arguments.
    fn named_json(&mut self, name: String, at: usize, closer: &str) -> usize {
        let (arguments, end) = match self.json(at) {
            Ok((value, end)) => (arguments(Some(&value)), end),
            Err(why) => (Err(why), self.until(at, closer)),
        };
        self.found.push((name, arguments));
        end
    }

    /// `<|python_tag|>`, then JSON: Llama.
    fn python(&mut self, at: usize) -> usize {
        let body = self.skip(at);
        if self.is_json(body) {
            return self.documents(body, "<|");
        }
        let end = self.until(body, "<|");
        if !self.text[body..end].trim().is_empty() {
            let why = "what stands after <|python_tag|> is not valid JSON";
            self.found.push((UNREADABLE.into(), Err(why.into())));
        }
        end
    }

    /// A message of the harmony format: `<|channel|>commentary to=functions.NAME<|message|>{…}<|call|>`. What stands in
    /// the channel `analysis` was thought and not said.
    fn message(&mut self, at: usize) -> usize {
        const MESSAGE: &str = "<|message|>";
        let rest = head(&self.text[at..]);
        let Some((header, _)) = rest.split_once(MESSAGE) else { return at };
        let body = at + header.len() + MESSAGE.len();
        if let Some((_, to)) = header.split_once("to=functions.") {
            let name: String = to.chars().take_while(|c| c.is_ascii() && is_name(*c as u8)).collect();
            let next = self.skip(body);
            if self.is_json(next) {
                return self.named_json(name, next, "<|");
            }
            let end = self.until(body, "<|");
            let empty = self.text[body..end].trim().is_empty();
            let no = || Err("the arguments are not valid JSON".to_string());
            self.found.push((name, if empty { Ok(Map::new()) } else { no() }));
            return end;
        }
        if !header.contains("analysis") {
            return body;
        }
        let ends = |at: &usize| ["<|end|>", "<|start|>", "<|channel|>"].iter().any(|m| self.text[*at..].starts_with(m));
        self.text[body..].match_indices("<|").map(|(n, _)| body + n).find(ends).unwrap_or(self.text.len())
    }

    /// A block of Markdown that JSON documents fill. Its end is theirs: a kernel in a string may hold fences.
    fn fence(&mut self, at: usize) -> usize {
        let line = head(&self.text[at..]).lines().next().unwrap_or_default();
        let body = if line.trim_start().starts_with(['{', '[']) { at } else { at + line.len() };
        let mut end = self.skip(body);
        let mut found = Vec::new();
        while self.is_json(end) && found.len() <= MOST_ANSWERED {
            match self.json(end) {
                Ok((value, next)) => {
                    found.extend(listed(&value).iter().filter(|v| self.is_call(v)).map(call));
                    end = self.skip(next);
                }
                Err(why) => {
                    let Some(name) = named(head(&self.text[end..]), self.tools) else { return at };
                    self.fenced.push((name, Err(why)));
                    return (self.until(end, "\n```") + 4).min(self.text.len());
                }
            }
        }
        if found.is_empty() || !(self.text[end..].is_empty() || self.text[end..].starts_with("```")) {
            return at;
        }
        self.fenced.append(&mut found);
        (end + 3).min(self.text.len())
    }

    /// JSON documents, one after the other, that fill `text`; text that holds anything else holds no call.
    fn bare(&self, text: &str) -> Vec<Written> {
        let text = text.trim();
        if !text.starts_with(['{', '[']) || text.starts_with("[TOOL_CALLS]") {
            return Vec::new();
        }
        let mut out = Vec::new();
        for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
            match value {
                Ok(value) => out.extend(listed(&value).iter().filter(|v| self.is_call(v)).map(call)),
                Err(_) if !out.is_empty() => return Vec::new(),
                Err(e) => {
                    let why = if self.cut { cut_off() } else { format!("the call is not valid JSON ({e})") };
                    return named(text, self.tools).map(|name| (name, Err(why))).into_iter().collect();
                }
            }
            if out.len() > MOST_ANSWERED {
                break;
            }
        }
        out
    }

    /// Whether a document that nothing marks is a call: it names a tool that there is, or has what only a call has.
    fn is_call(&self, value: &Value) -> bool {
        let (name, arguments) = parts(value);
        name.is_some_and(|name| self.tools.contains(&name) || arguments.is_some_and(Value::is_object))
    }
}

/// As much of a text as a tag or a header may have.
fn head(text: &str) -> &str {
    let end = (0..=HEAD.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' || byte == b'.'
}

/// The calls of a document that is one or has several.
fn listed(value: &Value) -> &[Value] {
    match value.get("tool_calls").unwrap_or(value) {
        Value::Array(items) => items,
        _ => std::slice::from_ref(value),
    }
}

fn parts(value: &Value) -> (Option<&str>, Option<&Value>) {
    let inner = value.get("function").filter(|f| f.is_object()).unwrap_or(value);
    let first = |names: &[&str]| names.iter().find_map(|n| inner.get(n));
    let name = first(&["name", "tool", "tool_name", "function"]).and_then(Value::as_str);
    (name, first(&["arguments", "parameters", "args", "input"]))
}

fn call(value: &Value) -> Written {
    match parts(value) {
        (Some(name), given) => (name.into(), arguments(given)),
        (None, _) => {
            (UNREADABLE.into(), Err("the call names no tool: it is to have \"name\" and \"arguments\"".into()))
        }
    }
}

fn arguments(given: Option<&Value>) -> Result<Map<String, Value>, String> {
    match given {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(map)) => Ok(map.clone()),
        Some(Value::String(text)) => {
            serde_json::from_str(text).map_err(|_| "the arguments are no JSON object".to_string())
        }
        Some(_) => Err("the arguments are no JSON object".into()),
    }
}

/// The tool that a call which is no JSON would have called.
fn named(text: &str, tools: &[&str]) -> Option<String> {
    let (_, rest) = text.split_once("\"name\"")?;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    let (name, _) = rest.split_once('"')?;
    tools.contains(&name).then(|| name.to_string())
}

#[cfg(test)]
mod tests;
