//! A claim file taken apart: what somebody says is done, whatever shape they said it in.
//!
//! Nothing here looks at evidence. The rules are few and stated in docs/reports.md; what none of them covers is kept as
//! [`Other`], so that nothing outside of a kernel's own entry is passed over.

use serde::de::DeserializeSeed;
use serde_json::{Map, Value};

use super::names::tokens;
use super::strict::Strict;
use super::vocabulary::{
    self, ABOUT, COUNT, DONE, FLAG, KERNELS, LIST, NOT_DONE, OF_PREFILL, RUNS, STATUS, about, is_group, is_rate,
    is_speeds, is_time, kind, listing, made_of, name, number, numeric, one_of, reading, works, written,
};
use crate::error::{Error, Result};
use crate::words::plain;

crate::codes! {
    CLAIM_FILE: "claim-file", CouldNotRun, "A claim file is JSON: a list of kernels, a map from kernel to status, or an object that holds \
        either under a key such as `kernels` or `completed`, with further keys such as `prefill_working` and speeds \
        (docs/reports.md). It must claim something, and no key may stand twice in one object.";
}

/// A file of more bytes is no list of kernels.
pub const MOST_BYTES: u64 = 16 << 20;
/// Leaves that are looked at.
const MOST_LEAVES: usize = 100_000;

/// What a status says of its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Claimed {
    Done,
    /// `stub`, `todo`, `failed`, `false`: nobody says that it works.
    NotDone,
}

/// A kernel that is named.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Where it stands in the file: `kernels[3]`, `completed.rope_tail`.
    pub at: String,
    pub name: String,
    /// As it is written; `None` where being listed is the whole claim.
    pub status: Option<String>,
    pub claimed: Claimed,
}

/// `prefill_working: true`.
#[derive(Clone, Debug)]
pub struct Prefill {
    pub at: String,
    pub said: String,
    pub claimed: Claimed,
}

/// What a speed is of, by the words of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    Prefill,
    Decode,
    /// The path says neither.
    Any,
}

/// A number that is a rate, or a time.
#[derive(Clone, Debug)]
pub struct Speed {
    pub at: String,
    /// As it is written, without quotes.
    pub said: String,
    /// `None`: there is no number in it that could be held against a row.
    pub value: Option<f64>,
    pub of: Of,
    /// Tokens a second; rows hold no other speed of a whole run.
    pub rate: bool,
    /// The kernel whose entry it stands in.
    pub kernel: Option<String>,
}

/// `kernels_done: 25`.
#[derive(Clone, Debug)]
pub struct Count {
    pub at: String,
    pub said: String,
    pub value: Option<u64>,
}

/// What no rule covers. A flag that says something works is a claim all the same.
#[derive(Clone, Debug)]
pub struct Other {
    pub at: String,
    pub said: String,
    pub claims: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Claims {
    pub kernels: Vec<Kernel>,
    pub prefill: Vec<Prefill>,
    pub speeds: Vec<Speed>,
    pub counts: Vec<Count>,
    pub others: Vec<Other>,
}

impl Claims {
    /// Takes the bytes of a claim file apart; `what` names it in errors. A key or text that is `known` as a kernel is one
    /// wherever it stands; what is not is one where the file says so.
    pub fn read(what: &str, bytes: &[u8], known: &dyn Fn(&str) -> bool) -> Result<Claims> {
        let fail =
            |why: String| Error::new(&CLAIM_FILE, format!("{what}: {why}")).hint("docs/reports.md has the shapes");
        let text = std::str::from_utf8(bytes).map_err(|e| fail(format!("not UTF-8 after byte {}", e.valid_up_to())))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut json = serde_json::Deserializer::from_str(text);
        let value = Strict.deserialize(&mut json).and_then(|value| json.end().map(|()| value));
        let value = value.map_err(|e| fail(format!("no claim file: {e}")))?;
        let mut walk = Walk { claims: Claims::default(), leaves: 0, known, fail: &fail };
        match &value {
            Value::Array(items) => walk.list("", items, Claimed::Done)?,
            Value::Object(map) => walk.map("", map, Context::default())?,
            other => return Err(fail(format!("it holds {}, and no list or object of claims", kind(other)))),
        }
        let claims = walk.claims;
        if claims.kernels.is_empty()
            && claims.prefill.is_empty()
            && claims.speeds.is_empty()
            && claims.counts.is_empty()
        {
            return Err(fail("it claims nothing: no kernel is named, no prefill, no speed".into())
                .expected("a list of kernels, a map from kernel to status, or an object that holds either"));
        }
        Ok(claims)
    }
}

/// Where in the file a value stands.
#[derive(Clone, Copy, Default)]
struct Context {
    /// Every key is a kernel, unless its value says otherwise; what being listed means.
    inside: Option<Claimed>,
    /// Every number is a speed.
    speeds: bool,
}

struct Walk<'f> {
    claims: Claims,
    leaves: usize,
    known: &'f dyn Fn(&str) -> bool,
    fail: &'f dyn Fn(String) -> Error,
}

impl Walk<'_> {
    fn step(&mut self) -> Result<()> {
        self.leaves += 1;
        match self.leaves > MOST_LEAVES {
            true => Err((self.fail)(format!("it holds more than {MOST_LEAVES} values"))),
            false => Ok(()),
        }
    }

    fn list(&mut self, at: &str, items: &[Value], listed: Claimed) -> Result<()> {
        for (i, item) in items.iter().enumerate() {
            self.step()?;
            let at = format!("{at}[{i}]");
            match item {
                Value::String(name) => self.kernel(at, name, None, listed),
                Value::Array(inner) => self.list(&at, inner, listed)?,
                // `{"name": "phase 1", "kernels": […]}` is no kernel.
                Value::Object(map) if is_group(map) && !name(map).is_some_and(self.known) => {
                    self.map(&at, map, Context::default())?
                }
                Value::Object(map) => match name(map) {
                    Some(name) => self.entry(at, name, map, listed)?,
                    // `[{"rope_tail": "done"}, …]`
                    None => self.map(&at, map, Context { inside: Some(listed), speeds: false })?,
                },
                other => {
                    let at = plain(&at, 200);
                    return Err((self.fail)(format!("{at} is {}, which names no kernel", kind(other))));
                }
            }
        }
        Ok(())
    }

    fn kernel(&mut self, at: String, name: &str, status: Option<&Value>, listed: Claimed) {
        let claimed = status.map_or(listed, |status| reading(status).unwrap_or(listed));
        self.claims.kernels.push(Kernel { at, name: name.into(), status: status.map(written), claimed });
    }

    /// `{"name": "rope_tail", "status": "done", "time_us": 12.5}`, or the value of the key `rope_tail`.
    fn entry(&mut self, at: String, name: &str, map: &Map<String, Value>, listed: Claimed) -> Result<()> {
        let leaf = |key: &str| map.get(key).filter(|v| !v.is_object() && !v.is_array());
        let stub = map.get("stub").or(map.get("is_stub")).and_then(Value::as_bool) == Some(true);
        let status = STATUS.iter().chain(FLAG).find_map(|key| leaf(key));
        match stub {
            true => self.kernel(at.clone(), name, Some(&Value::String("stub".into())), listed),
            false => self.kernel(at.clone(), name, status, listed),
        }
        for (key, value) in map {
            self.step()?;
            let at = format!("{at}.{key}");
            let words = tokens(key);
            if numeric(value) && (is_rate(&words) || is_time(&words)) {
                self.speed(at, value, Some(name));
            }
        }
        Ok(())
    }

    fn speed(&mut self, at: String, value: &Value, kernel: Option<&str>) {
        let words = tokens(&at);
        let of = vocabulary::of(&words);
        let said = written(value);
        let unit = tokens(said.trim_start_matches(|c: char| !c.is_alphabetic()));
        let rate = is_rate(&words) || is_rate(&unit) || !(is_time(&words) || is_time(&unit));
        let speed = Speed { at, value: number(value), said, of, rate, kernel: kernel.map(String::from) };
        self.claims.speeds.push(speed);
    }

    fn map(&mut self, at: &str, map: &Map<String, Value>, context: Context) -> Result<()> {
        for (key, value) in map {
            self.step()?;
            let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
            self.member(path, key, value, context)?;
        }
        Ok(())
    }

    fn member(&mut self, at: String, key: &str, value: &Value, context: Context) -> Result<()> {
        let words = tokens(key);
        let leaf = !value.is_array() && !value.is_object();
        let prefill = words.iter().any(|w| w == "prefill") && made_of(&words, &["prefill", DONE, OF_PREFILL]);
        if prefill && leaf && (words.len() > 1 || value.is_boolean() || reading(value).is_some() && !value.is_number())
        {
            self.prefill(at, value);
            return Ok(());
        }
        // `{"prefill": {"working": true, "tok_s": 343}}`, and the same of decoding.
        if let Value::Object(inner) = value
            && !context.speeds
            && !(self.known)(key)
            && made_of(&words, &[RUNS, DONE, OF_PREFILL])
        {
            return self.run(&at, words.iter().any(|w| w == "prefill"), inner);
        }
        let timed = context.inside.is_none()
            && is_time(&words)
            && (vocabulary::of(&words) != Of::Any || words.iter().any(|w| w == "latency"));
        let bare = context.inside.is_none() && made_of(&words, &[RUNS]);
        if numeric(value) && (context.speeds || is_rate(&words) || timed || bare) {
            self.speed(at, value, None);
            return Ok(());
        }
        let of_kernels = made_of(&words, &[LIST, DONE, NOT_DONE, COUNT]) || words.iter().any(|w| one_of(w, KERNELS));
        if value.is_number() && of_kernels && !(self.known)(key) {
            match listing(&words) != Some(Claimed::NotDone) && words.iter().any(|w| one_of(w, DONE)) {
                true => self.claims.counts.push(Count { at, said: written(value), value: value.as_u64() }),
                false => self.other(at, value, false),
            }
            return Ok(());
        }
        match value {
            Value::Array(items) => self.array(at, &words, items, context),
            Value::Object(inner) => self.object(at, key, &words, inner, context),
            leaf => {
                self.leaf(at, key, &words, leaf, context);
                Ok(())
            }
        }
    }

    fn prefill(&mut self, at: String, value: &Value) {
        let claimed = reading(value).unwrap_or(Claimed::Done);
        self.claims.prefill.push(Prefill { at, said: written(value), claimed });
    }

    /// What is said of prefill or of decoding as a whole.
    fn run(&mut self, at: &str, prefill: bool, map: &Map<String, Value>) -> Result<()> {
        for (key, value) in map {
            self.step()?;
            let (path, words) = (format!("{at}.{key}"), tokens(key));
            let leaf = !value.is_array() && !value.is_object();
            match leaf && made_of(&words, &[DONE, "status is"]) && reading(value).is_some() {
                true if prefill => self.prefill(path, value),
                true => self.other(path, value, reading(value) == Some(Claimed::Done)),
                false => self.member(path, key, value, Context::default())?,
            }
        }
        Ok(())
    }

    fn array(&mut self, at: String, words: &[String], items: &[Value], context: Context) -> Result<()> {
        let kernel = |item: &Value| match item {
            Value::String(name) => (self.known)(name),
            Value::Object(map) => name(map).is_some_and(self.known),
            _ => false,
        };
        if let Some(listed) = listing(words).or(context.inside) {
            return self.list(&at, items, listed);
        }
        if is_speeds(words) {
            for (i, item) in items.iter().enumerate() {
                let at = format!("{at}[{i}]");
                match item {
                    Value::Object(map) => self.map(&at, map, Context { inside: None, speeds: true })?,
                    other if numeric(other) => self.speed(at, other, None),
                    other => self.other(at, other, false),
                }
            }
            return Ok(());
        }
        // A list under some other key is one of kernels if it holds one.
        if items.iter().any(kernel) && items.iter().all(|item| item.is_string() || item.is_object()) {
            return self.list(&at, items, Claimed::Done);
        }
        for (i, item) in items.iter().enumerate() {
            self.step()?;
            match item {
                Value::Object(map) => self.map(&format!("{at}[{i}]"), map, context)?,
                other => self.other(format!("{at}[{i}]"), other, false),
            }
        }
        Ok(())
    }

    fn object(
        &mut self,
        at: String,
        key: &str,
        words: &[String],
        map: &Map<String, Value>,
        context: Context,
    ) -> Result<()> {
        let leaf = |key: &str| map.get(key).is_some_and(|v| !v.is_object() && !v.is_array());
        let has_status = STATUS.iter().chain(FLAG).chain(&["stub", "is_stub"]).any(|key| leaf(key));
        match listing(words) {
            _ if (self.known)(key) && !is_group(map) => {
                self.entry(at, key, map, context.inside.unwrap_or(Claimed::Done))
            }
            Some(listed) if !(has_status && context.inside.is_some()) => {
                self.map(&at, map, Context { inside: Some(listed), speeds: false })
            }
            _ if is_speeds(words) => self.map(&at, map, Context { inside: None, speeds: true }),
            _ if has_status && (context.inside.is_some() || !about(words)) => {
                self.entry(at, key, map, context.inside.unwrap_or(Claimed::Done))
            }
            // A group of kernels, or of anything else.
            _ => self.map(&at, map, context),
        }
    }

    fn leaf(&mut self, at: String, key: &str, words: &[String], value: &Value, context: Context) {
        if let Some(listed) = context.inside.or((self.known)(key).then_some(Claimed::Done)) {
            // `"kernels": {"notes": "…", "rope_tail": "done"}`
            if (self.known)(key) || !made_of(words, &[ABOUT]) {
                return self.kernel(at, key, Some(value), listed);
            }
        }
        let status = reading(value).is_some() && !value.is_number();
        let says_works = works(words);
        match () {
            () if context.speeds || about(words) => self.other(at, value, false),
            () if says_works => self.other(at, value, reading(value) == Some(Claimed::Done)),
            () if status => self.kernel(at, key, Some(value), Claimed::Done),
            () => self.other(at, value, false),
        }
    }

    fn other(&mut self, at: String, value: &Value, claims: bool) {
        self.claims.others.push(Other { at, said: written(value), claims });
    }
}
