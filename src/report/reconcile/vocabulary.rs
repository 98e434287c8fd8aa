//! The words of claim files: which keys name kernels, which list them, which are speeds, and what a status says.

use serde_json::{Map, Value};

use super::claims::{Claimed, Of};
use super::names::tokens;

const NAME: &[&str] = &["name", "kernel", "function", "symbol", "op", "node", "func", "fn", "id"];
pub const STATUS: &[&str] = &["status", "state", "result", "verdict", "progress"];
pub const FLAG: &[&str] =
    &["done", "complete", "completed", "implemented", "working", "works", "passed", "finished", "verified", "ported"];
/// A key with one of these words lists kernels, whatever its others are: `cuda_kernels`.
pub const KERNELS: &str = "kernels functions ops nodes";
/// Words of a key whose value lists kernels if it has no others.
pub const LIST: &str =
    "kernel kernels function functions op ops node nodes item items task tasks progress status list all";
pub const DONE: &str = "done complete completed finished implemented working works work pass passed passing ok ready green \
    verified true yes success successful ported tested x";
pub const NOT_DONE: &str = "stub stubs stubbed todo pending missing not no false none wip in partial partially failed failing fails \
    fail broken red blocked skipped planned unimplemented unstarted started untested remaining open error \
    wrong never n";
/// Words of a key that make a number a count of kernels, beside those of [`LIST`] and [`DONE`].
pub const COUNT: &str = "count number num total n of";
pub const WORKS: &str = "working works ok done complete completed passing passed passes verified";
/// Words that may stand beside `prefill` and those of [`DONE`] in the key that says whether it works.
pub const OF_PREFILL: &str = "is status e2e end to full ran run runs";
/// Parts of a run that are no kernels and of which a file may say much.
pub const RUNS: &str = "prefill decode decoding generation prompt";
/// Keys of a whole file that say how it came about.
pub const ABOUT: &str = "project model file agent author host device gpu date time timestamp updated created version commit \
    branch phase stage target build tests notes note comment summary description title schema status state \
    current next last backend";

/// `prefill_tps`, `pp512`, `decode.speed`, `tg128`.
pub fn of(words: &[String]) -> Of {
    let has = |list: &[&str]| words.iter().any(|w| list.contains(&w.as_str()));
    let prefill = has(&["prefill", "prompt", "pp"]) || words.iter().any(|w| is_test(w, "pp"));
    let decode = has(&["decode", "decoding", "generation", "generate", "gen", "tg", "eval"]);
    match (prefill, decode || words.iter().any(|w| is_test(w, "tg"))) {
        (true, false) => Of::Prefill,
        (false, true) => Of::Decode,
        _ => Of::Any,
    }
}

/// `pp512`, as benchmarks call their tests.
pub fn is_test(word: &str, kind: &str) -> bool {
    word.strip_prefix(kind).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether a word is in a list, whose words are parted by blanks.
pub fn one_of(word: &str, list: &str) -> bool {
    list.split(' ').any(|w| w == word)
}

/// Whether a key consists of words of these lists.
pub fn made_of(words: &[String], lists: &[&str]) -> bool {
    !words.is_empty() && words.iter().all(|w| lists.iter().any(|list| one_of(w, list)))
}

/// Whether a key's value lists kernels, and as what.
pub fn listing(words: &[String]) -> Option<Claimed> {
    let names = words.iter().any(|w| one_of(w, KERNELS));
    if !names && !made_of(words, &[LIST, DONE, NOT_DONE]) {
        return None;
    }
    let not = words.iter().any(|w| one_of(w, NOT_DONE));
    Some(if not { Claimed::NotDone } else { Claimed::Done })
}

/// The kernel that an object is about.
pub fn name(map: &Map<String, Value>) -> Option<&str> {
    NAME.iter().find_map(|key| map.get(*key)?.as_str())
}

/// Whether an object holds a list of kernels of its own.
pub fn is_group(map: &Map<String, Value>) -> bool {
    map.iter().any(|(key, value)| match value {
        Value::Array(items) => !items.is_empty() && listing(&tokens(key)).is_some(),
        Value::Object(inner) => !inner.is_empty() && listing(&tokens(key)).is_some(),
        _ => false,
    })
}

pub fn about(words: &[String]) -> bool {
    made_of(words, &[ABOUT, DONE])
}

pub fn is_speeds(words: &[String]) -> bool {
    let speeds =
        ["speed", "speeds", "performance", "perf", "throughput", "benchmark", "benchmarks", "bench", "timings"];
    words.iter().any(|w| speeds.contains(&w.as_str())) || is_rate(words)
}

/// `prefill_tok_s`, `decode_tps`, `tokens_per_second`, `t/s`.
pub fn is_rate(words: &[String]) -> bool {
    let has = |list: &[&str]| words.iter().any(|w| list.contains(&w.as_str()));
    let second = has(&["s", "sec", "second", "seconds"]);
    let test = words.iter().any(|w| is_test(w, "pp") || is_test(w, "tg"));
    test || has(&["tps", "toks", "tokps", "throughput", "speed"]) || (second && has(&["tok", "token", "tokens", "t"]))
}

/// `latency`, `time_ms`, `prefill_seconds`.
pub fn is_time(words: &[String]) -> bool {
    let units = ["ms", "us", "ns", "latency", "seconds", "sec", "secs", "milliseconds", "microseconds"];
    words.iter().any(|w| units.contains(&w.as_str()))
}

/// What a status says; `None`: a word that says neither.
pub fn reading(status: &Value) -> Option<Claimed> {
    let yes = |yes: bool| Some(if yes { Claimed::Done } else { Claimed::NotDone });
    match status {
        Value::Bool(b) => yes(*b),
        Value::Null => yes(false),
        Value::Number(n) => yes(n.as_f64() != Some(0.0)),
        Value::String(text) => word(text),
        _ => None,
    }
}

/// `done`, `Done (fast)`, `not started`, `✓`: the first word decides.
pub fn word(text: &str) -> Option<Claimed> {
    match text.trim().chars().next()? {
        '✓' | '✔' | '✅' | '☑' => return Some(Claimed::Done),
        '✗' | '✘' | '❌' | '☐' => return Some(Claimed::NotDone),
        _ => {}
    }
    let words = tokens(text);
    let first = words.first()?.as_str();
    match (one_of(first, NOT_DONE), one_of(first, DONE)) {
        (true, _) => Some(Claimed::NotDone),
        (false, true) => Some(Claimed::Done),
        _ => None,
    }
}

/// A number, or a text that begins with one: `41.7 tok/s`.
pub fn numeric(value: &Value) -> bool {
    value.is_number()
        || value.as_str().is_some_and(|s| s.trim_start().starts_with(|c: char| c.is_ascii_digit() || c == '~'))
}

pub fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => {
            let text = text.trim_start().trim_start_matches(['~', ' ']);
            let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ',')).unwrap_or(text.len());
            text[..end].replace(',', "").parse().ok()
        }
        _ => None,
    }
}

pub fn written(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Whether a key says of something else than prefill that it works: `decode_working`.
pub fn works(words: &[String]) -> bool {
    words.len() > 1 && words.last().is_some_and(|w| one_of(w, WORKS))
}
