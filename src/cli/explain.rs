use serde_json::json;

use super::output;
use crate::error::{self, Code, Error, Result};

/// Explain an error code, or list all of them
#[derive(clap::Args)]
pub struct Explain {
    /// The word in brackets behind a message
    #[arg(value_name = "CODE")]
    code: Option<String>,
    /// Print one JSON object (schema assay.explain/1)
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub fn run(&self) -> Result<u8> {
        let codes: Vec<&Code> = match &self.code {
            Some(id) => vec![error::explain(id).ok_or_else(|| unknown(id))?],
            None => error::registry().collect(),
        };
        if self.json {
            let entry = |c: &&Code| json!({ "code": c.id, "kind": c.kind, "exit_code": c.kind.exit_code(), "explain": c.explain });
            let codes: Vec<_> = codes.iter().map(entry).collect();
            output::json("assay.explain/1", json!({ "codes": codes }))?;
            return Ok(0);
        }
        match codes.as_slice() {
            [code] => output::println(format_args!(
                "{}: {} (exit code {})\n\n{}",
                code.id,
                code.kind.describe(),
                code.kind.exit_code(),
                code.explain
            ))?,
            _ => {
                let mut table = output::table(&["code", "exit", "what it means"]);
                for c in codes {
                    let sentence = c.explain.split_inclusive(". ").next().unwrap_or_default().trim_end();
                    table.add_row([c.id.to_string(), c.kind.exit_code().to_string(), sentence.to_string()]);
                }
                output::print(output::rows(&table))?;
            }
        }
        Ok(0)
    }
}

/// A word that is no code: the closest ones, if any is close.
fn unknown(id: &str) -> Error {
    let part = |c: &&Code| c.id.split('-').any(|word| id.split('-').any(|w| w.len() > 2 && w == word));
    let close: Vec<_> = error::registry().filter(part).map(|c| c.id).collect();
    let e = Error::usage(format!("`{id}` is no error code"));
    if close.is_empty() {
        e.hint("assay explain lists all codes")
    } else {
        e.hint(format!("assay explain {}", close.join(" | ")))
    }
}
