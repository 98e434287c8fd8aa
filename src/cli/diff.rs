//! `assay diff`: in what two rows differ.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::ledger::{self, answer, find_row, summary};
use super::{fields as telling, output};
use crate::error::Result;
use crate::ledger::{Row, Statement};
use crate::words::{harmless, plain};

/// Compare two rows of the ledger field by field; figures also get their ratio
#[derive(clap::Args)]
pub struct Diff {
    /// Row number, or the first digits of a digest.
    old: String,
    new: String,
    /// Print one JSON object (schema assay.diff/1)
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
        output::print(format_args!(
            "- row {}  {}\n+ row {}  {}\n{}",
            old.seq,
            plain(&summary(old), 400),
            new.seq,
            plain(&summary(new), 400),
            harmless(&text(&before, &after))
        ))?;
        Ok(0)
    }
}

/// The widest that a column of old values becomes; what is longer stands out of it.
const WIDEST: usize = 32;

/// A line for every field that differs.
fn text(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) -> String {
    let (before, after) = (told(before), told(after));
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    names.retain(|name| before.get(*name) != after.get(*name));
    let show = |value: Option<&String>| value.map_or("–".into(), |text| digits(text));
    let lines: Vec<_> = names.iter().map(|n| (n, show(before.get(*n)), show(after.get(*n)))).collect();
    let width = |len: &dyn Fn(&(&&String, String, String)) -> usize| lines.iter().map(len).max().unwrap_or(0);
    let wide = width(&|(name, ..)| name.chars().count());
    let old_wide = width(&|(_, old, _)| old.chars().count()).min(WIDEST);
    let mut out = String::new();
    if lines.is_empty() {
        out.push_str("  no field differs\n");
    }
    for (name, old, new) in &lines {
        let ratio = match (old.parse::<f64>(), new.parse::<f64>()) {
            (Ok(b), Ok(a)) if (name.contains(".figures.") || name.starts_with("runs.")) && b != 0.0 => {
                format!("  (×{:.3})", a / b)
            }
            _ => String::new(),
        };
        out.push_str(&format!("  {name:<wide$}  {old:<old_wide$} → {new}{ratio}\n"));
    }
    out
}

/// Fields as people read them: notes are taken apart.
fn told(fields: &BTreeMap<String, Value>) -> BTreeMap<String, String> {
    let mut out = Vec::new();
    for (name, value) in fields {
        match (value, name.strip_suffix(".note")) {
            (Value::String(text), Some(stage)) => {
                let mut note = Vec::new();
                telling::note(text, &mut note);
                out.extend(note.into_iter().map(|(field, text)| (format!("{stage}.{field}"), text)));
            }
            _ => telling::flatten(name, value, &mut out),
        }
    }
    out.into_iter().collect()
}

/// The first digits of a digest, which tell as much to people as all 64; `assay show` prints them all.
fn digits(text: &str) -> String {
    match text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => format!("{}…", &text[..12]),
        false => text.to_string(),
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
