//! Where the port's source is: upstream files, symbols and argument counts (`reference/port/README.md`).

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;
use crate::model::quant::DType;
use crate::ops::{Contract, Node};

crate::codes! {
    PORT_RECORD: "port-record", CouldNotRun, "A file of reference/port/ does not say what its README describes. A wrong record would \
        send a porter to the wrong function, so that it is refused as a whole.";
}

/// Files that records may name, in the order in which a porter reads them.
pub const FILES: [&str; 3] = ["ds4_gpu.h", "ds4_cuda.cu", "ds4.c"];
/// More parameters than any function upstream has by far; a larger count is a slip.
const MOST_ARGUMENTS: u32 = 99;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    op: String,
    upstream: Vec<Upstream>,
}

/// A function or kernel upstream that computes the op, or a part or a superset of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    pub file: String,
    pub symbol: String,
    /// Parameters in its declaration.
    pub arguments: u32,
    /// The commit that it was read at.
    pub commit: String,
    /// Weight types of the nodes that it concerns; empty: all.
    #[serde(default)]
    pub types: Vec<String>,
    pub note: Option<String>,
}

impl Upstream {
    fn concerns(&self, node: &Node) -> bool {
        self.types.is_empty() || self.types.contains(&type_name(&node.types))
    }
}

/// Weight types as manifests and records write them: one per typed slot, joined by `-`.
pub fn type_name(types: &[DType]) -> String {
    types.iter().map(|t| t.name()).collect::<Vec<_>>().join("-")
}

/// Everything on record for a node, in [`FILES`]' order; `None`: there is no record of its op.
pub fn read(folder: &Path, node: &Node, contract: &Contract) -> Result<Option<Vec<Upstream>>> {
    let Some(mut found) = record(folder, contract)? else { return Ok(None) };
    found.retain(|u| u.concerns(node));
    found.sort_by_key(|u| FILES.iter().position(|f| *f == u.file));
    Ok(Some(found))
}

/// Everything on record for an op, whatever the types; nothing where there is no record of it.
pub fn records(folder: &Path, contract: &Contract) -> Result<Vec<Upstream>> {
    record(folder, contract).map(Option::unwrap_or_default)
}

fn record(folder: &Path, contract: &Contract) -> Result<Option<Vec<Upstream>>> {
    let path = folder.join(format!("{}.toml", contract.op));
    let Some(text) = files::read_text_if_any(&path, files::SETTINGS)? else { return Ok(None) };
    parse(&format!("reference/port/{}.toml", contract.op), &text, contract).map(Some)
}

fn parse(path: &str, text: &str, contract: &Contract) -> Result<Vec<Upstream>> {
    let fail = |what: String| {
        Error::new(&PORT_RECORD, format!("{path}: {what}")).hint("reference/port/README.md has the format")
    };
    let record: Record = toml::from_str(text).map_err(|e| fail(e.to_string().trim_end().replace('\n', "\n  ")))?;
    if record.op != contract.op {
        return Err(fail("`op` is another than the file's name".into()).expected(contract.op).found(record.op));
    }
    if record.upstream.is_empty() {
        return Err(fail("no [[upstream]]".into()));
    }
    let slots: Vec<_> = contract.typed_slots().collect();
    for (i, u) in record.upstream.iter().enumerate() {
        let at = |what: String| fail(format!("{}: {what}", u.symbol));
        let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !u.symbol.chars().all(name) || !u.symbol.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            return Err(fail(format!("`{}` is no C identifier", u.symbol)));
        }
        if !FILES.contains(&u.file.as_str()) {
            return Err(at("the file is none that the README lists".into()).expected(FILES.join(", ")).found(&u.file));
        }
        if u.arguments > MOST_ARGUMENTS {
            return Err(at("too many arguments to be true".into())
                .expected(format!("0 to {MOST_ARGUMENTS}"))
                .found(u.arguments));
        }
        if u.commit.len() != 40 || !u.commit.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(at("the commit is not named in full".into())
                .expected("40 lower-case hex digits")
                .found(&u.commit));
        }
        for types in &u.types {
            let names: Vec<_> = types.split('-').collect();
            let fits = names.len() == slots.len()
                && names.iter().zip(&slots).all(|(n, (_, s))| DType::parse(n).is_some_and(|t| s.types.contains(&t)));
            if !fits {
                return Err(at(format!("no node of {} has the type `{types}`", contract.op)));
            }
        }
        if record.upstream[..i].iter().any(|v| v.file == u.file && v.symbol == u.symbol) {
            return Err(at(format!("is listed twice for {}", u.file)));
        }
    }
    Ok(record.upstream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{self, OPS};

    fn port() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/port")
    }

    /// POSTMORTEM.md §6.
    #[test]
    fn every_op_has_a_record_and_rope_tail_has_fourteen_arguments() {
        for op in OPS {
            let c = op.contract();
            let text = std::fs::read_to_string(port().join(format!("{}.toml", c.op))).unwrap();
            parse(c.op, &text, c).unwrap();
        }
        let op = ops::find("rope_tail").unwrap();
        let found = read(&port(), &"rope_tail".parse().unwrap(), op.contract()).unwrap().unwrap();
        assert_eq!((found[0].symbol.as_str(), found[0].arguments), ("ds4_gpu_rope_tail_tensor", 14));
    }

    #[test]
    fn a_record_is_shown_for_the_types_that_it_concerns() {
        let op = ops::find("matmul").unwrap();
        let symbols = |node: &str| {
            let found = read(&port(), &node.parse().unwrap(), op.contract()).unwrap().unwrap();
            found.into_iter().map(|u| u.symbol).collect::<Vec<_>>()
        };
        assert!(symbols("matmul[q8_0]").contains(&"ds4_gpu_matmul_q8_0_tensor".to_string()));
        assert!(!symbols("matmul[f32]").iter().any(|s| s.contains("q8_0")));
        assert!(read(Path::new("/nonexistent"), &"matmul[f32]".parse().unwrap(), op.contract()).unwrap().is_none());
    }

    #[test]
    fn what_a_record_may_not_say() {
        let good = format!(
            "op = \"matmul\"\n[[upstream]]\nfile = \"ds4.c\"\nsymbol = \"f\"\narguments = 4\ncommit = \"{}\"\ntypes = [\"f16\"]\n",
            "0a".repeat(20)
        );
        let contract = ops::find("matmul").unwrap().contract();
        assert_eq!(parse("x.toml", &good, contract).unwrap().len(), 1);
        let twice = format!("{good}{}", good.split_once('\n').unwrap().1);
        for (text, fragment) in [
            (good.replace("\"matmul\"", "\"embed\""), "another"),
            (good.replace("ds4.c", "../ds4.c"), "README"),
            (good.replace("\"f\"", "\"f()\""), "identifier"),
            (good.replace("\"f\"", "\"\""), "identifier"),
            (good.replace("= 4", "= -4"), "arguments"),
            (good.replace("= 4", "= 140"), "too many"),
            (good.replace("0a0a", "0a"), "in full"),
            (good.replace("f16", "q2_k"), "q2_k"),
            (good.replace("arguments", "args"), "args"),
            ("op = \"matmul\"\nupstream = []\n".into(), "no [[upstream]]"),
            (twice, "twice"),
        ] {
            let e = parse("reference/port/matmul.toml", &text, contract).unwrap_err().to_string();
            assert!(e.contains(fragment) && e.contains("reference/port/matmul.toml"), "{fragment}: {e}");
        }
    }
}
