//! `assay inspect MODEL`: what a file holds, and everything that keeps it from being run.

use std::fmt::Write as _;
use std::path::PathBuf;

use comfy_table::{CellAlignment, Table};
use serde_json::json;

use super::{ModelArg, output};
use crate::Result;
use crate::model::census::Census;
use crate::model::{FileKind, Gguf, Survey, Tokenizer, weights_note};
use crate::words::{count, size};

/// Print a model file's config, tensor types and bytes by role, and every misfit
///
/// Exits with 0 if the model can be run, 1 if the file is well-formed but holds something else or does not fit, and 3
/// if it is malformed or cannot be read.
#[derive(clap::Args)]
pub struct Inspect {
    /// A GGUF file [default: the model of assay.toml]
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    file: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArg,
    /// Print one JSON object (schema assay.inspect/1)
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub fn run(&self) -> Result<u8> {
        let path = match &self.file {
            Some(path) => path.clone(),
            None => self.model.path()?,
        };
        let mut survey = Survey::of(Gguf::open(&path)?)?;
        if survey.kind == FileKind::Model
            && let Ok(tokenizer) = Tokenizer::from_gguf(&survey.gguf)
        {
            survey.notes.extend(tokenizer.notes());
        }
        let census = Census::of(&survey.gguf);
        let fits = survey.kind == FileKind::Model && survey.misfits.is_empty();
        match self.json {
            true => output::json("assay.inspect/1", as_json(&survey, &census, fits))?,
            false => output::print(as_text(&survey, &census, fits))?,
        }
        Ok(u8::from(!fits))
    }
}

fn as_json(s: &Survey, census: &Census, fits: bool) -> serde_json::Value {
    let names = |group: &Vec<usize>| group.iter().map(|&i| s.gguf.tensors()[i].name.as_str()).collect::<Vec<_>>();
    let metadata: serde_json::Map<_, _> = s.gguf.kv().iter().map(|(k, v)| (k.clone(), v.to_string().into())).collect();
    json!({
        "file": s.gguf.path(),
        "file_bytes": s.gguf.file_len(),
        "gguf_version": s.gguf.version(),
        "alignment": s.gguf.alignment(),
        "kind": s.kind,
        "fits": fits,
        "weights": weights_note(&s.gguf),
        "config": s.config,
        "metadata": metadata,
        "tensors": census,
        "aliases": s.gguf.aliases().iter().map(names).collect::<Vec<_>>(),
        "misfits": s.misfits,
        "notes": s.notes,
    })
}

fn as_text(s: &Survey, census: &Census, fits: bool) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{}: {}", s.gguf.path().display(), verdict(s, fits));
    let _ = writeln!(
        out,
        "GGUF v{}, {}, alignment {}, {}{}",
        s.gguf.version(),
        size(s.gguf.file_len()),
        s.gguf.alignment(),
        count(census.tensors, "tensor"),
        weights_note(&s.gguf).map_or(String::new(), |n| format!(", weights {n}")),
    );
    match &s.config {
        Some(config) => section(&mut out, "Config", config_table(config)),
        // What the file says is of use even where it makes no config.
        None => section(&mut out, "Metadata", metadata_table(&s.gguf)),
    }
    if !census.uses.is_empty() {
        section(&mut out, "Tensors by role", roles_table(census));
        section(&mut out, "Bytes by type", types_table(census));
    }
    let aliased: usize = s.gguf.aliases().iter().map(Vec::len).sum();
    if aliased > 0 {
        let groups = s.gguf.aliases().len();
        let _ = writeln!(
            out,
            "\nAliases: {aliased} tensors share their bytes in {}; {} of {} are stored",
            count(groups, "group"),
            size(census.stored),
            size(census.bytes),
        );
        for group in s.gguf.aliases().iter().take(8) {
            let name = |i: &usize| s.gguf.tensors()[*i].name.escape_debug().to_string();
            let first: Vec<_> = group.iter().take(3).map(name).collect();
            let more = if group.len() > 3 { format!(" and {} more", group.len() - 3) } else { String::new() };
            let _ = writeln!(out, "  {}{more}", first.join(", "));
        }
        if groups > 8 {
            let _ = writeln!(out, "  … and {} (--json lists all)", count(groups - 8, "more group"));
        }
    }
    for note in &s.notes {
        let _ = writeln!(out, "\nnote: {note}");
    }
    if !s.misfits.is_empty() {
        let _ = writeln!(out, "\nMisfits ({})", s.misfits.len());
        for misfit in &s.misfits {
            let _ = writeln!(out, "  {misfit}");
        }
    }
    out
}

fn verdict(s: &Survey, fits: bool) -> String {
    let misfits = count(s.misfits.len(), "misfit");
    match s.kind {
        FileKind::Model if fits => "a deepseek4 model that fits".into(),
        FileKind::Model => format!("a deepseek4 model that does not fit: {misfits}"),
        FileKind::Draft if s.misfits.is_empty() => "a draft (MTP) file, complete; assay does not run it".into(),
        FileKind::Draft => format!("a draft (MTP) file with {misfits}; assay does not run it"),
        FileKind::Other => "another kind of model".into(),
    }
}

fn section(out: &mut String, title: &str, table: Table) {
    let _ = writeln!(out, "\n{title}");
    for line in table.lines() {
        let _ = writeln!(out, " {}", line.trim_end());
    }
}

fn table(header: &[&str], right: &[usize]) -> Table {
    let mut table = output::table(header);
    for &column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn config_table(config: &crate::model::Config) -> Table {
    let mut t = table(&["key", "value"], &[]);
    if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(config) {
        for (name, value) in fields {
            let text = match &value {
                serde_json::Value::Array(items) => repeats(items),
                serde_json::Value::Null => "not given".into(),
                // The config's floats are f32; as such they print short.
                serde_json::Value::Number(n) if n.is_f64() => (n.as_f64().unwrap_or_default() as f32).to_string(),
                other => other.to_string(),
            };
            t.add_row([name, text]);
        }
    }
    t
}

fn metadata_table(gguf: &Gguf) -> Table {
    let mut t = table(&["key", "value"], &[]);
    for (key, value) in gguf.kv() {
        t.add_row([key.escape_debug().to_string(), value.to_string()]);
    }
    t
}

/// `0 0 4 128 4 128` with runs of one value as `10.0 × 43`.
fn repeats(items: &[serde_json::Value]) -> String {
    let runs = items.chunk_by(|a, b| a == b).map(|run| match run.len() {
        0..=3 => run.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        n => format!("{} × {n}", run[0]),
    });
    runs.collect::<Vec<_>>().join(" ")
}

fn roles_table(census: &Census) -> Table {
    let mut t = table(&["role", "layers", "type", "tensors", "bytes"], &[3, 4]);
    for u in &census.uses {
        let run = |&(a, b): &(u64, u64)| if a == b { a.to_string() } else { format!("{a}-{b}") };
        let layers = layer_list(&u.layers).unwrap_or_else(|| u.layers.iter().map(run).collect::<Vec<_>>().join(","));
        t.add_row([u.role.to_owned(), layers, u.type_name.to_owned(), u.tensors.to_string(), size(u.bytes)]);
    }
    t
}

/// Every second layer, as `2-42/2`, where that is what they are.
fn layer_list(runs: &[(u64, u64)]) -> Option<String> {
    let alternate = runs.len() > 3 && runs.iter().all(|(a, b)| a == b) && runs.windows(2).all(|w| w[1].0 - w[0].0 == 2);
    match (alternate, runs) {
        (true, [(first, _), .., (last, _)]) => Some(format!("{first}-{last}/2")),
        _ => None,
    }
}

fn types_table(census: &Census) -> Table {
    let mut t = table(&["type", "tensors", "bytes"], &[1, 2]);
    for total in &census.types {
        t.add_row([total.type_name.to_owned(), total.tensors.to_string(), size(total.bytes)]);
    }
    t.add_row(["all".to_owned(), census.tensors.to_string(), size(census.bytes)]);
    t
}
