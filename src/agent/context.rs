//! What a model is told of a node before it begins: `prompts/*.md` of the workbench, filled with what is known.
//!
//! What others wrote is framed here and not in the templates: those are the workbench's to change, and a fence in one is
//! closed by whatever text holds a fence.

use minijinja::{Environment, UndefinedBehavior, context};
use serde::Serialize;

use super::codes::PROMPT;
use super::desk::{Desk, shelf, untrusted};
use super::endpoint::Message;
use super::state::Attempt;
use crate::error::{Error, Result};
use crate::ops::{self, Node};

/// What the loop knows and the workbench does not.
pub struct Brief<'b> {
    pub node: &'b Node,
    pub why: &'b str,
    pub attempts: &'b [Attempt],
    /// Of the next one.
    pub number: u64,
    pub attempts_left: u64,
    /// What is left of the budgets, in words.
    pub budget: String,
    pub place: &'b str,
    /// Whether a person can be asked.
    pub asks: bool,
}

/// Templates as they come with assay; a workbench's own stand before them.
const TEMPLATES: [(&str, &str); 2] =
    [("system.md", include_str!("../../prompts/system.md")), ("porter.md", include_str!("../../prompts/porter.md"))];
/// Bytes of a workbench's own template, and of all that one prompt may become.
const MOST_TEMPLATE: u64 = 256 << 10;
const MOST_PROMPT: usize = 512 << 10;
/// Steps that a template may take: one that loops for ever is an error.
const FUEL: u64 = 1_000_000;
/// Bytes of the reason for a node.
const MOST_REASON: usize = 600;
/// Attempts that a prompt tells of: the last ones.
const ATTEMPTS: usize = 6;

#[derive(Serialize)]
struct Text {
    path: String,
    text: String,
}

#[derive(Serialize)]
struct Section {
    number: String,
    title: String,
    text: String,
}

#[derive(Serialize)]
struct Tried {
    number: u64,
    said: String,
    change: String,
}

/// The first two messages of a conversation about a node.
pub fn render(desk: &Desk, brief: &Brief<'_>) -> Result<Vec<Message>> {
    let node = brief.node;
    let op = ops::find(&node.op).ok_or_else(|| Error::internal(format!("no op {node}")))?;
    let look = |what: &str| desk.look_up(what, Some(node));
    let stem = node.file_stem();
    let last = brief.attempts.len().saturating_sub(ATTEMPTS);
    let attempts: Vec<_> = brief.attempts[last..]
        .iter()
        .map(|a| Tried {
            number: a.number,
            said: untrusted("the judge's words, which may repeat what a compiler or a kernel wrote", &a.said),
            change: match a.change.is_empty() {
                true => String::new(),
                false => untrusted(&format!("what attempt {} changed", a.number), &a.change),
            },
        })
        .collect();
    let values = context! {
        node => node.to_string(),
        stem => stem,
        op => node.op,
        reason => reason(brief.why),
        arch => desk.bench().settings.architectures,
        contract => look("contract")?,
        header => look("header")?,
        oracle => look("oracle")?,
        sections => sections(node, &shelf::cited(op.contract())),
        headers => headers(desk, node),
        format => shelf::document("docs/manifest.md").unwrap_or_default(),
        files => files(desk, &[format!("{stem}.cu"), format!("{stem}.toml"), format!("{}.cu", node.op), format!("{}.toml", node.op)]),
        upstream => upstream(look("upstream")),
        tensors => look("tensors")?,
        attempts => attempts,
        attempt => brief.number,
        attempts_left => brief.attempts_left.saturating_sub(1),
        budget => brief.budget,
        place => brief.place,
        asks => brief.asks,
    };
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    let mut texts = Vec::new();
    for (name, own) in TEMPLATES {
        let template = template(desk, name, own)?;
        let rendered = environment.render_named_str(name, &template, &values);
        let text = rendered.map_err(|e| {
            Error::new(&PROMPT, format!("prompts/{name} cannot be rendered: {e}"))
                .hint("the file's head lists its values")
        })?;
        if text.len() > MOST_PROMPT {
            return Err(Error::new(&PROMPT, format!("prompts/{name} becomes a prompt of {} bytes", text.len()))
                .expected(format!("at most {MOST_PROMPT}")));
        }
        texts.push(text);
    }
    let user = texts.pop().unwrap_or_default();
    let system = texts.pop().unwrap_or_default();
    Ok(vec![Message::System { content: system }, Message::User { content: user }])
}

/// Why the node is next, in a line. It may quote a ledger's row or a manifest, whose text ends no line of assay's own.
fn reason(why: &str) -> String {
    let words: Vec<&str> = why.split_whitespace().collect();
    match words.join(" ") {
        why if why.len() <= MOST_REASON => super::desk::printable(&why),
        why => super::desk::cap(super::desk::printable(&why), MOST_REASON),
    }
}

/// A workbench without records of upstream has none to tell.
fn upstream(found: Result<String>) -> String {
    let text = found.unwrap_or_default();
    if text.is_empty() { text } else { untrusted("reference/port of this workbench", &text) }
}

/// The workbench's own template, where it has one.
fn template(desk: &Desk, name: &str, own: &str) -> Result<String> {
    let path = desk.bench().root.join("prompts").join(name);
    match path.symlink_metadata() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(own.into()),
        Ok(meta) if meta.is_file() && meta.len() <= MOST_TEMPLATE => {
            std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))
        }
        Ok(_) => Err(Error::new(&PROMPT, format!("{} is no template", path.display()))
            .expected(format!("a plain file of at most {MOST_TEMPLATE} bytes"))),
        Err(e) => Err(Error::io(&path, e)),
    }
}

/// What the contract cites of docs/model.md, and how the node's blocks are laid out.
fn sections(node: &Node, cited: &[String]) -> Vec<Section> {
    const FORMATS: &str = "2.4";
    let all = shelf::sections(shelf::document("docs/model.md").unwrap_or_default());
    let wanted = |number: &str| {
        cited.iter().any(|c| c == number) || (number == FORMATS && node.types.iter().any(|t| t.name().contains('_')))
    };
    let chosen = all.iter().filter(|s| !s.number.is_empty() && wanted(s.number));
    chosen
        .map(|s| Section {
            number: s.number.into(),
            title: s.title.into(),
            text: s.text.split_once('\n').map_or("", |(_, rest)| rest).trim().into(),
        })
        .collect()
}

/// Headers that the workbench has and that most kernels of such a node include.
fn headers(desk: &Desk, node: &Node) -> Vec<Text> {
    let mut paths: Vec<String> = ["cuda", "vec", "reduce"].map(|name| format!("common/{name}.cuh")).into();
    if node.op.starts_with("attention") {
        paths.push("common/attention.cuh".into());
    }
    for name in node.types.iter().map(|t| t.name()) {
        paths.push(match name {
            "f16" | "f32" | "bf16" => "quant/plain.cuh".into(),
            name => format!("quant/{name}.cuh"),
        });
    }
    paths.dedup();
    files(desk, &paths)
}

/// Those of `paths` below kernels/ that can be read.
fn files(desk: &Desk, paths: &[String]) -> Vec<Text> {
    let mut out: Vec<Text> = Vec::new();
    for path in paths {
        if let Ok(Some(text)) = desk.folder().read(path)
            && !out.iter().any(|t| t.path == *path)
        {
            let text = super::desk::cap(text, 64 << 10);
            out.push(Text { path: path.clone(), text: untrusted(&format!("the file kernels/{path}"), &text) });
        }
    }
    out
}
