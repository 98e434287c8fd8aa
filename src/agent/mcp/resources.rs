//! Texts that a client can attach: contracts, oracles, documents, kernels and verdicts, whole.

use rmcp::model::{ListResourcesResult, ReadResourceResult, Resource, ResourceContents};

use crate::agent::desk::{ANSWER, Desk, shelf, untrusted};
use crate::error::{Error, Result};
use crate::ledger::Row;
use crate::ops::OPS;
use crate::report::standing;

const SCHEME: &str = "assay://";

pub const TEMPLATES: [(&str, &str); 4] = [
    ("assay://verdict/{row}", "a row of the ledger"),
    ("assay://contract/{op}", "what an op must do"),
    ("assay://oracle/{op}", "the op in plain Rust"),
    ("assay://kernels/{file}", "a file below kernels/"),
];

/// Rows that are listed: the latest. Every row can be read.
const ROWS: usize = 20;

pub fn link(name: &str) -> Resource {
    Resource::new(format!("{SCHEME}{name}"), name)
}

pub fn list(desk: &Desk) -> Result<Vec<Resource>> {
    let mut out: Vec<Resource> = Vec::new();
    for op in OPS.iter().map(|op| op.contract().op).filter(|op| desk.nodes().iter().any(|n| n.op == *op)) {
        out.push(link(&format!("contract/{op}")));
        out.push(link(&format!("oracle/{op}")));
    }
    out.extend(shelf::DOCS.iter().map(|(name, _)| link(name)));
    out.extend(
        desk.folder().list()?.iter().filter(|e| e.problem.is_none()).map(|e| link(&format!("kernels/{}", e.path))),
    );
    let ledger = standing::ledger(desk.bench(), &mut Vec::new())?;
    let verdicts = ledger.rows().iter().rev().filter(|row| row.statement().kind() == "verdict");
    out.extend(verdicts.take(ROWS).map(|row| link(&format!("verdict/{}", row.seq))));
    Ok(out)
}

/// Bytes of an answer around the list in it, its cursor among them.
const AROUND: usize = 512;

/// As many as one answer holds, from the one behind that which `cursor` names; `None`: it names none.
pub fn page(all: Vec<Resource>, cursor: Option<&str>) -> Option<ListResourcesResult> {
    let from = match cursor {
        None => 0,
        Some(last) => all.iter().position(|r| r.uri == last)? + 1,
    };
    let (mut page, mut size, mut more) = (Vec::<Resource>::new(), AROUND, false);
    for resource in all.into_iter().skip(from) {
        size += serde_json::to_vec(&resource).map_or(0, |bytes| bytes.len() + 1);
        more = size > ANSWER && !page.is_empty();
        if more {
            break;
        }
        page.push(resource);
    }
    let next = page.last().filter(|_| more).map(|r| r.uri.clone());
    let mut result = ListResourcesResult::with_all_items(page);
    result.next_cursor = next;
    Some(result)
}

pub fn read(desk: &Desk, uri: &str) -> Result<ReadResourceResult> {
    let name = uri.strip_prefix(SCHEME).ok_or_else(|| Error::usage("resources here begin with assay://"))?;
    let text = match name.strip_prefix("verdict/") {
        Some(row) => verdict(desk, row)?,
        None => {
            let text = desk.look_up(name, None)?;
            if name.starts_with("kernels/") { untrusted(&format!("the file {name}"), &text) } else { text }
        }
    };
    Ok(ReadResourceResult::new(vec![ResourceContents::text(text, uri)]))
}

/// What a row says, as it was signed.
fn verdict(desk: &Desk, number: &str) -> Result<String> {
    let ledger = standing::ledger(desk.bench(), &mut Vec::new())?;
    let row: Option<&Row> = number.parse::<usize>().ok().and_then(|n| ledger.rows().get(n));
    let row = row.ok_or_else(|| Error::usage("there is no such row").hint("`history` lists a node's rows"))?;
    let bytes = row.statement().to_bytes()?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| Error::internal(e.to_string()))?;
    let text = serde_json::to_string_pretty(&value).map_err(|e| Error::internal(e.to_string()))?;
    Ok(untrusted("a signed statement, which may repeat what a compiler or a kernel wrote", &text))
}
