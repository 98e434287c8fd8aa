//! Manifests: the launch geometry that stands beside a kernel (docs/manifest.md).
//!
//! `kernels/<op>.toml`, or `kernels/<op>.<types>.toml` where types need different code, lists variants; the first one
//! that matches node, numerics, architecture and token count is taken. There is no other choice of kernel anywhere.

use serde::{Deserialize, Serialize};

use super::Numerics;
use crate::error::{Error, Result};
use crate::model::quant::DType;
use crate::ops::expr::Expr;
use crate::ops::{Contract, Node, Rounding};

crate::codes! {
    MANIFEST: "manifest", No, "A kernel's manifest does not say what docs/manifest.md asks for. The message names the file and \
        the key; the kernel beside it counts as absent until the manifest is right.";
}

/// A manifest as it stands in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    op: String,
    #[serde(default, rename = "variant")]
    variants: Vec<RawVariant>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVariant {
    name: String,
    #[serde(default)]
    types: Vec<String>,
    numerics: Option<Numerics>,
    #[serde(default)]
    rounding: Option<Rounding>,
    tokens: Option<Tokens>,
    #[serde(default)]
    arch: Vec<String>,
    scratch: Option<String>,
    #[serde(default, rename = "launch")]
    launches: Vec<RawLaunch>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLaunch {
    entry: String,
    grid: [GridTerm; 3],
    block: [u32; 3],
    shared: Option<GridTerm>,
}

/// A grid term is an integer or an expression in quotes.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum GridTerm {
    Int(i64),
    Text(String),
}

/// Token counts that a variant is for: the most tokens that a step of its schedule can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    #[serde(default)]
    pub min: Option<usize>,
    #[serde(default)]
    pub max: Option<usize>,
}

impl Tokens {
    pub fn contains(self, tokens: usize) -> bool {
        self.min.is_none_or(|m| tokens >= m) && self.max.is_none_or(|m| tokens <= m)
    }
}

/// One way to compute a node: a short sequence of launches.
#[derive(Clone, Debug)]
pub struct Variant {
    pub name: String,
    /// Node types that it covers: one per typed weight slot, joined by `-`. Empty: the op has no typed slot.
    pub types: Vec<String>,
    /// Only in these numerics; `None`: in both.
    pub numerics: Option<Numerics>,
    /// How it rounds its operands; the tolerance follows.
    pub rounding: Rounding,
    pub tokens: Option<Tokens>,
    /// `sm_90` and the like; empty: any.
    pub arch: Vec<String>,
    /// Bytes of scratch memory.
    pub scratch: Option<Expr>,
    pub launches: Vec<LaunchSpec>,
}

/// Geometry of one launch, over the contract's symbols (step symbols at their worst case).
#[derive(Clone, Debug)]
pub struct LaunchSpec {
    pub entry: String,
    pub grid: [Expr; 3],
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared: Option<Expr>,
}

#[derive(Clone, Debug)]
pub struct Manifest {
    pub op: String,
    pub variants: Vec<Variant>,
}

/// The architecture name that stands for the CPU emulator: no `arch` filter excludes it, so that whatever runs on some
/// device can be tested anywhere.
pub const EMULATOR: &str = "emulator";

/// Variants of a manifest, and launches of them all. Each is judged, and may take seconds.
const MANY: usize = 64;

impl Variant {
    /// Whether the variant can be selected for this node, numerics and architecture at some token count.
    pub fn covers(&self, node: &Node, numerics: Numerics, arch: &str) -> bool {
        self.covers_types(node)
            && self.numerics.is_none_or(|n| n == numerics)
            && (arch == EMULATOR || self.arch.is_empty() || self.arch.iter().any(|a| a == arch))
    }

    pub fn covers_types(&self, node: &Node) -> bool {
        let wanted: Vec<_> = node.types.iter().map(|t| t.name()).collect();
        node.types.is_empty() || self.types.contains(&wanted.join("-"))
    }

    pub fn takes(&self, tokens: usize) -> bool {
        self.tokens.is_none_or(|t| t.contains(tokens))
    }

    /// The parts that decide what runs, for digests and `--json`.
    pub fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "name": self.name,
            "numerics": self.numerics,
            "rounding": self.rounding,
            "tokens": self.tokens,
            "arch": self.arch,
            "scratch": self.scratch.as_ref().map(Expr::to_string),
            "launches": self.launches.iter().map(LaunchSpec::describe).collect::<Vec<_>>(),
        })
    }
}

impl LaunchSpec {
    pub fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "entry": self.entry,
            "grid": self.grid.iter().map(Expr::to_string).collect::<Vec<_>>(),
            "block": self.block,
            "shared": self.shared.as_ref().map(Expr::to_string),
        })
    }
}

impl Manifest {
    /// Reads a manifest and checks it against the contract: op, types, roundings, symbols, block sizes.
    pub fn parse(path: &str, text: &str, contract: &Contract) -> Result<Manifest> {
        let fail =
            |what: String| Error::new(&MANIFEST, format!("{path}: {what}")).hint("docs/manifest.md has the format");
        let raw: RawManifest =
            toml::from_str(text).map_err(|e| fail(e.to_string().trim_end().replace('\n', "\n  ")))?;
        if raw.op != contract.op {
            return Err(fail("`op` is another than the file's name".into()).expected(contract.op).found(raw.op));
        }
        let launches: usize = raw.variants.iter().map(|v| v.launches.len()).sum();
        if raw.variants.len() > MANY || launches > MANY {
            return Err(fail(format!("more than {MANY} variants or launches"))
                .found(format!("{} and {launches}", raw.variants.len())));
        }
        if raw.variants.is_empty() {
            return Err(fail("no [[variant]]".into()));
        }
        let variants: Vec<Variant> =
            raw.variants.into_iter().map(|v| variant(v, contract).map_err(&fail)).collect::<Result<_>>()?;
        for (i, v) in variants.iter().enumerate() {
            if variants[..i].iter().any(|w| w.name == v.name) {
                return Err(fail(format!("two variants are named {}", v.name)));
            }
        }
        Ok(Manifest { op: raw.op, variants })
    }
}

fn variant(raw: RawVariant, contract: &Contract) -> Result<Variant, String> {
    let name = raw.name;
    let at = |what: String| format!("variant {name}: {what}");
    let slots: Vec<_> = contract.typed_slots().collect();
    if raw.types.is_empty() != slots.is_empty() {
        return Err(at(match slots.is_empty() {
            true => format!("`types` is given, but no weight of {} has more than one type", contract.op),
            false => "`types` is missing: which weight types does it read?".into(),
        }));
    }
    for types in &raw.types {
        let names: Vec<_> = types.split('-').collect();
        let fits = names.len() == slots.len()
            && names.iter().zip(&slots).all(|(n, (_, slot))| DType::parse(n).is_some_and(|t| slot.types.contains(&t)));
        if !fits {
            let allowed: Vec<_> =
                slots.iter().map(|(_, s)| s.types.iter().map(|t| t.name()).collect::<Vec<_>>().join("|")).collect();
            return Err(at(format!("type `{types}` is none of {}", allowed.join("-"))));
        }
    }
    let rounding = raw.rounding.unwrap_or(Rounding::None);
    if rounding != Rounding::None {
        if !contract.roundings.contains(&rounding) {
            return Err(at(format!("rounding {rounding:?} is not allowed by the contract of {}", contract.op)));
        }
        if raw.numerics != Some(Numerics::Ds4) {
            return Err(at("operands may be rounded in ds4 numerics only: add numerics = \"ds4\"".into()));
        }
    }
    if raw.launches.is_empty() {
        return Err(at("no [[variant.launch]]".into()));
    }
    let expr = |term: &GridTerm| -> Result<Expr, String> {
        let e = match term {
            GridTerm::Int(v) => Expr::Int(*v),
            GridTerm::Text(t) => Expr::parse(t).map_err(|e| at(e.to_string()))?,
        };
        for s in e.symbols() {
            if !contract.dims.contains(&s) && !contract.steps.contains(&s) {
                return Err(at(format!("`{e}` names `{s}`, which is no dim or step of {}", contract.op)));
            }
        }
        Ok(e)
    };
    let scratch = raw.scratch.map(|t| expr(&GridTerm::Text(t))).transpose()?;
    let mut launches = Vec::new();
    for l in raw.launches {
        let threads: u64 = l.block.iter().map(|b| u64::from(*b)).product();
        if !(1..=1024).contains(&threads) || l.block[2] > 64 {
            return Err(at(format!("block {:?} has not 1 to 1024 threads", l.block)));
        }
        if l.entry.is_empty() || !l.entry.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_') {
            return Err(at(format!("`{}` is no C name", l.entry)));
        }
        let grid = [expr(&l.grid[0])?, expr(&l.grid[1])?, expr(&l.grid[2])?];
        launches.push(LaunchSpec {
            entry: l.entry,
            grid,
            block: l.block,
            shared: l.shared.as_ref().map(expr).transpose()?,
        });
    }
    Ok(Variant {
        name,
        types: raw.types,
        numerics: raw.numerics,
        rounding,
        tokens: raw.tokens,
        arch: raw.arch,
        scratch,
        launches,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops;

    fn parse(op: &str, body: &str) -> Result<Manifest> {
        Manifest::parse("kernels/x.toml", body, ops::find(op).unwrap().contract())
    }

    const GOOD: &str = r#"
        op = "matmul"
        [[variant]]
        name = "gemv"
        types = ["q8_0"]
        numerics = "ds4"
        rounding = "q8_0"
        tokens = { max = 8 }
        [[variant.launch]]
        entry = "matmul_q8_0_gemv"
        grid = ["ceil_div(N, 8)", "T", 1]
        block = [256, 1, 1]
    "#;

    #[test]
    fn a_manifest_selects_by_type_numerics_and_tokens() {
        let m = parse("matmul", GOOD).unwrap();
        let v = &m.variants[0];
        let node: Node = "matmul[q8_0]".parse().unwrap();
        assert!(v.covers(&node, Numerics::Ds4, "sm_90") && !v.covers(&node, Numerics::Exact, "sm_90"));
        assert!(!v.covers(&"matmul[f16]".parse().unwrap(), Numerics::Ds4, "sm_90"));
        assert!(v.takes(8) && !v.takes(9));
    }

    #[test]
    fn what_a_manifest_may_not_say() {
        for (from, to, fragment) in [
            ("types = [\"q8_0\"]", "types = [\"q2_k\"]", "q2_k"),
            ("types = [\"q8_0\"]", "", "types"),
            ("rounding = \"q8_0\"", "rounding = \"q8_k\"", "not allowed"),
            ("numerics = \"ds4\"", "", "ds4"),
            ("ceil_div(N, 8)", "ceil_div(M, 8)", "`M`"),
            ("[256, 1, 1]", "[2048, 1, 1]", "1024"),
            ("matmul_q8_0_gemv", "a;b", "C name"),
            ("tokens =", "token =", "token"),
            ("op = \"matmul\"", "op = \"embed\"", "another"),
        ] {
            let e = parse("matmul", &GOOD.replace(from, to)).unwrap_err();
            assert!(e.to_string().contains(fragment), "{to}: {e}");
        }
    }
}
