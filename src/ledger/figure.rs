//! Figures: measured numbers in a form that has one spelling.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// A measured number. Whole numbers are JSON integers; reals are strings like `"3.4e-7"`, `"NaN"` or `"inf"`: the
/// shortest decimal digits that give the same f64 back, always with an exponent.
#[derive(Clone, Copy, Debug)]
pub enum Figure {
    Count(i64),
    Real(f64),
}

impl Figure {
    pub fn as_f64(self) -> f64 {
        match self {
            Figure::Count(n) => n as f64,
            Figure::Real(x) => x,
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Figure::Count(n) => n.fmt(f),
            Figure::Real(x) => write!(f, "{x:e}"),
        }
    }
}

/// Equal when they are written alike: a NaN equals itself, and 0 is not −0.
impl PartialEq for Figure {
    fn eq(&self, other: &Figure) -> bool {
        match (self, other) {
            (Figure::Count(a), Figure::Count(b)) => a == b,
            (Figure::Real(a), Figure::Real(b)) => a.to_string() == b.to_string(),
            _ => false,
        }
    }
}

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Figure::Count(n) => s.serialize_i64(*n),
            Figure::Real(_) => s.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Figure {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Figure, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Count(i64),
            Real(String),
        }
        match Either::deserialize(d)? {
            Either::Count(n) => Ok(Figure::Count(n)),
            Either::Real(text) => text.parse().map(Figure::Real).map_err(serde::de::Error::custom),
        }
    }
}

// Names that readers of figures look for; a stage may have any others.

/// Largest absolute difference from the oracle.
pub const MAX_ABS: &str = "max_abs";
/// Root mean square of the difference over that of the oracle's values.
pub const REL_RMS: &str = "relative_rms";
/// Device time of the node in one step, µs.
pub const TIME_US: &str = "time_us";
/// Of stage 3, above the parts of a [`Sandbox`](crate::backend::worker::Sandbox): what confined the compiler of what was
/// judged.
pub const COMPILER: &str = "compiler_sandbox";

/// Takes the numbers out of a JSON object, nested ones under dotted names; a `null` is a NaN, as serde_json writes one.
/// Texts and lists are no figures: they come back as one line each, for a stage's note.
pub fn from_json(object: &Map<String, Value>) -> (BTreeMap<String, Figure>, String) {
    let (mut figures, mut notes) = (BTreeMap::new(), Vec::new());
    gather("", object, &mut figures, &mut notes);
    (figures, notes.join("\n"))
}

fn gather(above: &str, object: &Map<String, Value>, figures: &mut BTreeMap<String, Figure>, notes: &mut Vec<String>) {
    for (name, value) in object {
        let name = format!("{above}{name}");
        let figure = match value {
            Value::Object(inner) => {
                gather(&format!("{name}."), inner, figures, notes);
                continue;
            }
            Value::Null => Figure::Real(f64::NAN),
            Value::Bool(b) => Figure::Count(i64::from(*b)),
            Value::Number(n) => match n.as_i64().filter(|n| n.unsigned_abs() < 1 << 53) {
                Some(n) => Figure::Count(n),
                None => Figure::Real(n.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => {
                notes.push(format!("{name}: {}", text.replace('\0', "\u{fffd}")));
                continue;
            }
            Value::Array(_) => {
                notes.push(format!("{name}: {}", value.to_string().replace("\\u0000", "\u{fffd}")));
                continue;
            }
        };
        figures.insert(name, figure);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_become_figures_and_texts_a_note() {
        let object = json!({"a": 1, "b": {"c": 0.5, "d": null}, "e": true, "f": "text", "g": 1e300, "h": [1, "x"]});
        let (figures, note) = from_json(object.as_object().unwrap());
        let text: Vec<_> = figures.iter().map(|(name, figure)| format!("{name} {figure}")).collect();
        assert_eq!(text, ["a 1", "b.c 5e-1", "b.d NaN", "e 1", "g 1e300"]);
        assert_eq!(note, "f: text\nh: [1,\"x\"]");
    }
}
