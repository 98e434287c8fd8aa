//! `assay diff`: in what two rows differ.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::ledger::{self, answer, find_row, summary};
use super::output;
use crate::error::Result;
use crate::ledger::{Row, Statement};

/// Compares two rows field by field. Figures also get their ratio.
#[derive(clap::Args)]
pub struct Diff {
    /// Row number, or the first digits of a digest.
    old: String,
    new: String,
    #[arg(long)]
    json: bool,
}

impl Diff {
    pub fn run(&self, root: &Path) -> Result<u8> {
        let ledger = ledger::open(root)?;
        let (old, new) = (find_row(&ledger, &self.old)?, find_row(&ledger, &self.new)?);
        let (before, after) = (fields(old)?, fields(new)?);
        let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
        names.sort();
        names.dedup();
        names.retain(|name| before.get(*name) != after.get(*name));
        if self.json {
            let changed: Vec<_> = names
                .iter()
                .map(|name| json!({ "field": name, "old": before.get(*name), "new": after.get(*name) }))
                .collect();
            return answer(
                "assay.diff/1",
                json!({ "old": old.seq, "new": new.seq, "changed": changed,
                }),
            );
        }
        output::println(format_args!("- row {}  {}", old.seq, summary(old)))?;
        output::println(format_args!("+ row {}  {}", new.seq, summary(new)))?;
        for name in names {
            let show = |value: Option<&Value>| match value {
                None => "–".to_string(),
                Some(Value::String(s)) => s.clone(),
                Some(other) => other.to_string(),
            };
            let (b, a) = (before.get(name), after.get(name));
            let number = |value: Option<&Value>| match value? {
                Value::String(s) => s.parse::<f64>().ok(),
                value => value.as_f64(),
            };
            let ratio = match (number(b), number(a)) {
                (Some(b), Some(a)) if name.contains(".figures.") && b != 0.0 => format!("  (×{:.3})", a / b),
                _ => String::new(),
            };
            output::println(format_args!("  {name}: {} → {}{ratio}", show(b), show(a)))?;
        }
        Ok(0)
    }
}

/// The predicate's leaves by dotted path; stages go by their names.
fn fields(row: &Row) -> Result<BTreeMap<String, Value>> {
    let mut statement = row.statement().to_value()?;
    let mut out = BTreeMap::new();
    if let Statement::Verdict(_) = row.statement()
        && let Some(stages) = statement["predicate"]["stages"].as_array_mut()
    {
        let named = stages.iter().map(|s| (s["name"].as_str().unwrap_or_default().to_string(), s.clone())).collect();
        statement["predicate"]["stages"] = Value::Object(named);
    }
    flatten("", &statement["predicate"], &mut out);
    out.insert("signer".into(), row.evidence.signer().to_string().into());
    Ok(out)
}

fn flatten(path: &str, value: &Value, out: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, out);
            }
        }
        leaf => drop(out.insert(path.into(), leaf.clone())),
    }
}
