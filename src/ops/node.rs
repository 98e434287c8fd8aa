//! Nodes: op × weight types that the opened file really has.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::quant::DType;

/// `matmul[q8_0]`, or `rms_norm` for an op whose weights have one type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    pub op: String,
    pub types: Vec<DType>,
}

impl Node {
    /// `matmul.q8_0`: the form in file and ref names.
    pub fn file_stem(&self) -> String {
        let mut out = self.op.clone();
        for (i, t) in self.types.iter().enumerate() {
            out.push(if i == 0 { '.' } else { '-' });
            out.push_str(t.name());
        }
        out
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.op)?;
        if !self.types.is_empty() {
            let names: Vec<_> = self.types.iter().map(|t| t.name()).collect();
            write!(f, "[{}]", names.join(","))?;
        }
        Ok(())
    }
}

impl FromStr for Node {
    type Err = String;

    /// Takes both `matmul[q8_0]` and `matmul.q8_0`.
    fn from_str(text: &str) -> Result<Node, String> {
        let (op, types) = match (text.split_once('['), text.split_once('.')) {
            (Some((op, rest)), _) => (op, rest.strip_suffix(']').ok_or_else(|| format!("`{text}` lacks its `]`"))?),
            (None, Some((op, rest))) => (op, rest),
            (None, None) => (text, ""),
        };
        if op.is_empty() || !op.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_') {
            return Err(format!("`{op}` is no op name"));
        }
        let types = types
            .split([',', '-'])
            .filter(|t| !t.is_empty())
            .map(|t| DType::parse(t).ok_or_else(|| format!("`{t}` is no tensor type")))
            .collect::<Result<_, _>>()?;
        Ok(Node { op: op.into(), types })
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Node, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}
