//! A desk: one workbench as an agent finds it, and the tools that lie on it.
//!
//! An agent reads contracts, oracles, documents and kernels; it writes the two files of the node that it works on; it asks
//! for a build and for a verdict. It has no shell and no path of the file system: names are looked up in tables, or below
//! `kernels/` by [`folder`]. Nothing here signs, lands or writes to `state/` for it. What the judge says is recorded by the
//! desk's owner, with the owner's key, if it has one.

pub mod away;
pub mod folder;
mod judge;
mod look;
mod read;
pub mod shelf;
mod tool;
mod watch;
mod write;

pub use judge::{Judged, Provenance, unkept};
pub use tool::is_planted;
pub use tool::{
    ANSWER, CODES, EXCERPT, Ruling, SOURCE, Tool, ToolError, ToolResult, cap, json_len, printable, short, untrusted,
};

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::model::Model;
use crate::ops::{self, Node};
use crate::plan::Numerics;
use crate::verify::binding::nodes_of;
use crate::verify::{Progress, Stage};
use crate::workbench::Workbench;
use folder::Folder;
use tool::{TOOL_ARGUMENTS, TOOL_REFUSED, TOOL_UNKNOWN, object};

/// Where verdicts are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Where {
    /// A CUDA device if there is one, else the emulator.
    #[default]
    Auto,
    Device,
    Emulator,
}

/// What lies on a desk, and what its agent may do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Another model than the workbench's own.
    pub model: Option<PathBuf>,
    /// The node to work on.
    pub node: Option<Node>,
    /// It may work on any other node of the plan too, by naming it.
    pub any_node: bool,
    /// It may write shared headers in kernels/common, kernels/quant and kernels/many.
    pub shared: bool,
    pub place: Where,
    /// Verdicts are signed and appended to the ledger, red ones kept as attempts too.
    pub record: Option<Recorder>,
    /// Hosts that the tool `verify` asks about what passed on the emulator.
    pub away: Option<away::Away>,
}

/// With which of the user's keys; `None`: the only one.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    pub key: Option<String>,
}

/// What accompanies one call.
#[derive(Clone, Copy)]
pub struct Hands<'h> {
    pub progress: &'h dyn Progress,
    /// Set from elsewhere to end a verdict early.
    pub stop: &'h AtomicBool,
    /// When it is to have ended.
    pub until: Option<Instant>,
    /// What led to the call, for the row.
    pub provenance: &'h Provenance,
}

pub struct Desk {
    bench: Workbench,
    folder: Folder,
    model: Model,
    /// Every node of the plan, in either numerics.
    nodes: Vec<Node>,
    options: Options,
    /// One verdict at a time.
    judging: Mutex<()>,
}

/// Nobody watches.
pub struct Quiet;

impl Progress for Quiet {
    fn stage(&self, _: &Node, _: Stage) {}
    fn tick(&self, _: usize, _: usize) {}
}

impl Desk {
    pub fn open(dir: &Path, options: Options) -> Result<Desk> {
        let bench = Workbench::find(dir)?;
        let model = match &options.model {
            Some(path) => Model::open(path)?,
            None => bench.open_model()?,
        };
        let nodes = nodes_of(&model)?;
        let folder = Folder::open(&bench.root)?;
        let mut desk = Desk { bench, folder, model, nodes, options, judging: Mutex::new(()) };
        if let Some(node) = desk.options.node.take() {
            // Whoever opens a desk has a shell, unlike who sits at it.
            desk.choose(node).map_err(|e| e.hint("assay next -n 50 lists nodes to port, assay plan all"))?;
        }
        Ok(desk)
    }

    /// Puts another node on the desk.
    pub fn choose(&mut self, node: Node) -> Result<()> {
        self.known(&node)?;
        self.options.node = Some(node);
        Ok(())
    }

    /// Where verdicts are made from here on.
    pub fn move_to(&mut self, place: Where) {
        self.options.place = place;
    }

    pub fn bench(&self) -> &Workbench {
        &self.bench
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    pub fn node(&self) -> Option<&Node> {
        self.options.node.as_ref()
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Nodes of the plan, in its order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn tools(&self) -> &'static [Tool] {
        TOOLS
    }

    /// Calls a tool that nobody watches.
    pub fn call(&self, name: &str, arguments: &Value) -> Result<ToolResult, ToolError> {
        let (stop, provenance) = (AtomicBool::new(false), Provenance::default());
        let hands = Hands { progress: &Quiet, stop: &stop, until: None, provenance: &provenance };
        self.call_with(name, arguments, &hands)
    }

    pub fn call_with(&self, name: &str, arguments: &Value, hands: &Hands<'_>) -> Result<ToolResult, ToolError> {
        match name {
            "list" => self.list(parse(name, arguments)?),
            "read" => self.read(parse(name, arguments)?),
            "write_kernel" => self.write(parse(name, arguments)?),
            "build" => self.build(parse(name, arguments)?, hands),
            "verify" => self.verify(parse(name, arguments)?, hands),
            "history" => self.history(parse(name, arguments)?),
            "next" => self.next(parse(name, arguments)?),
            "status" => self.status(parse(name, arguments)?),
            other => {
                let names: Vec<_> = TOOLS.iter().map(|t| t.name).collect();
                Err(unknown_tool(other, &names.join(", ")).into())
            }
        }
    }

    /// The node that a call is about: the one it names, or the one on the desk.
    pub(in crate::agent) fn about(&self, named: Option<&str>) -> Result<Node> {
        match (named, &self.options.node) {
            (Some(text), _) => {
                let unread = |e: String| {
                    let what = format!("`{}` names no node: {}", folder::shown(text), tool::cap(e, 200));
                    Error::new(&TOOL_ARGUMENTS, what).hint("`next` lists nodes")
                };
                let node = text.parse().map_err(unread)?;
                self.known(&node)?;
                Ok(node)
            }
            (None, Some(node)) => Ok(node.clone()),
            (None, None) => {
                Err(Error::new(&TOOL_ARGUMENTS, "`node` is missing, and no node is chosen").hint("`next` says which"))
            }
        }
    }

    /// The node that a call works on: only the one on the desk, unless any may be worked on.
    fn own(&self, named: Option<&str>) -> Result<Node> {
        let node = self.about(named)?;
        if self.options.any_node || self.options.node.as_ref() == Some(&node) {
            return Ok(node);
        }
        let own = self.options.node.as_ref().map_or("none".into(), ToString::to_string);
        Err(Error::new(&TOOL_REFUSED, format!("{node} is not the node that is worked on here")).expected(own))
    }

    fn known(&self, node: &Node) -> Result<()> {
        if ops::find(&node.op).is_none() {
            let what = format!("there is no op `{}`", folder::shown(&node.op));
            return Err(Error::new(&TOOL_ARGUMENTS, what).hint("`next` lists nodes"));
        }
        if !self.nodes.contains(node) {
            let near: Vec<_> = self.nodes.iter().filter(|n| n.op == node.op).map(ToString::to_string).collect();
            return Err(Error::new(
                &TOOL_ARGUMENTS,
                format!("{} is no node of this model: it holds other weight types", folder::shown(&node.to_string())),
            )
            .expected(if near.is_empty() {
                "a node that `next` or `status` lists".into()
            } else {
                near.join(", ")
            }));
        }
        Ok(())
    }
}

/// A tool that is not among `names`.
pub fn unknown_tool(name: &str, names: &str) -> Error {
    Error::new(&TOOL_UNKNOWN, format!("there is no tool `{}`", folder::shown(name))).expected(names)
}

/// Arguments as the tool's own type. `null` is no arguments.
fn parse<T: DeserializeOwned>(tool: &str, given: &Value) -> Result<T, ToolError> {
    let given = if given.is_null() { json!({}) } else { given.clone() };
    arguments(given, &TOOLS.iter().find(|t| t.name == tool).map_or(String::new(), Tool::takes))
}

/// The same of any tool; `expected` says what it takes.
pub fn arguments<T: DeserializeOwned>(given: Value, expected: &str) -> Result<T, ToolError> {
    serde_json::from_value(given).map_err(|e| {
        // Rust's names of types say nothing to whoever writes JSON.
        let why = e.to_string().replace("u64", "a whole number that is not negative");
        let why = tool::cap(why.replace("usize", "a whole number that is not negative"), 400);
        Error::new(&TOOL_ARGUMENTS, why)
            .expected(expected)
            .hint("call it again with arguments as its schema has them")
            .into()
    })
}

/// The arguments of a tool that needs none but a node.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Of {
    #[serde(default)]
    node: Option<String>,
}

fn node_property() -> Value {
    json!({ "type": "string", "description": "e.g. swiglu or matmul[q8_0]; default: the node being worked on" })
}

/// Every tool. There is none that lands, signs, runs a command or reaches another folder.
static TOOLS: &[Tool] = &[
    Tool::new(
        "next",
        true,
        "Which nodes to port next, and why. A node is an operation with the weight types that the model file has.",
        || object(json!({ "count": { "type": "integer", "minimum": 1, "maximum": 20 } }), &[]),
    ),
    Tool::new("status", true, "What is proved of every node, on what, and what is not.", || object(json!({}), &[])),
    Tool::new("list", true, "Names of what can be read: kernels, contracts, oracles, document sections.", || {
        object(
            json!({ "what": { "type": "string", "enum": ["all", "kernels", "ops", "docs"], "description": "default: all" } }),
            &[],
        )
    }),
    Tool::new(
        "read",
        true,
        "Read one text. `contract`, `oracle`, `header`, `tensors`, `upstream`, `kernel` or `manifest` of the node (or \
         `contract/OP` and so on), `docs/model.md#9` (a section; `#` alone for the table of contents), `docs/manifest.md`, or \
         a file of `kernels/`. Long texts come in pieces: from_line.",
        || {
            object(
                json!({
                    "what": { "type": "string" },
                    "node": node_property(),
                    "from_line": { "type": "integer", "minimum": 1 },
                }),
                &["what"],
            )
        },
    ),
    Tool::new(
        "write_kernel",
        false,
        "Write a whole file of the node: <op>.cu or <op>.toml, or <op>.<types>.cu or .toml, e.g. matmul.q8_0.cu. At most \
         1 MiB. Nothing else can be written.",
        || {
            object(
                json!({
                    "file": { "type": "string", "description": "below kernels/, e.g. swiglu.cu" },
                    "text": { "type": "string", "description": "the whole new content" },
                    "node": node_property(),
                }),
                &["file", "text"],
            )
        },
    ),
    Tool::new("build", false, "Compile the node's kernel and check its text and manifest, without running it.", || {
        object(json!({ "node": node_property() }), &[])
    }),
    Tool::new(
        "verify",
        false,
        "Judge the node's kernel in a process of its own: source, build, unit cases from a secret seed, prefill. The verdict is \
         the only thing that counts; a pass on the emulator is not green. Takes seconds to minutes.",
        || {
            object(
                json!({
                    "node": node_property(),
                    "thorough": { "type": "boolean", "description": "every size and every length" },
                }),
                &[],
            )
        },
    ),
    Tool::new(
        "history",
        true,
        "Earlier verdicts on the node and the attempts that were red; with `attempt`, the source of that one.",
        || object(json!({ "node": node_property(), "attempt": { "type": "integer", "minimum": 1 } }), &[]),
    ),
];

/// Numerics that a verdict covers.
const NUMERICS: [Numerics; 2] = [Numerics::Exact, Numerics::Ds4];
