//! How results and errors reach the terminal.

use std::io::Write;

use owo_colors::OwoColorize;

use crate::error::{Error, Result};

/// Prints an error to stderr: code, what is wrong, expected and found, the next command.
pub fn error(e: &Error) {
    let mut out = anstream::stderr();
    let _ = write!(out, "{} {}", "error:".red().bold(), e.what());
    let _ = writeln!(out, " {}", format!("[{}]", e.code().id).dimmed());
    for (label, text) in [("expected", e.expected_text()), ("found", e.found_text()), ("next", e.hint_text())] {
        if let Some(text) = text {
            let _ = writeln!(out, "  {:<9} {text}", format!("{label}:"));
        }
    }
}

/// Writes to stdout; a closed pipe ends the command quietly, as for any Unix tool.
pub fn print(text: impl std::fmt::Display) -> Result<()> {
    piece(text).map(drop)
}

/// The same of a text that goes on: whether somebody still reads it.
pub fn piece(text: impl std::fmt::Display) -> Result<bool> {
    let mut out = anstream::stdout();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Error::io("stdout", e)),
    }
}

pub fn println(text: impl std::fmt::Display) -> Result<()> {
    print(format_args!("{text}\n"))
}

/// One JSON document with its schema id first.
pub fn json(schema: &str, body: serde_json::Value) -> Result<()> {
    let mut doc = serde_json::Map::new();
    doc.insert("schema".into(), schema.into());
    if let serde_json::Value::Object(map) = body {
        doc.extend(map);
    }
    let text = serde_json::to_string_pretty(&doc).map_err(|e| Error::internal(e.to_string()))?;
    println(text)
}

/// The answer of a command with `--json` that failed (schema assay.error/1). People read the same on stderr.
pub fn json_error(e: &Error) {
    let mut body = e.to_json();
    if let Some(map) = body.as_object_mut() {
        map.insert("exit_code".into(), e.kind().exit_code().into());
    }
    // Where stdout cannot be written either, stderr has said it.
    let _ = json("assay.error/1", body);
}

/// A table in the project's one style: no frame, two spaces between columns.
pub fn table(header: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(header.iter().map(comfy_table::Cell::new));
    table
}

/// A table as text, without the blanks that fill its last column.
pub fn rows(table: &comfy_table::Table) -> String {
    table.to_string().lines().map(|line| format!("{}\n", line.trim_end())).collect()
}
