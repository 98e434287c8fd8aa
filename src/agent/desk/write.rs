//! `write_kernel`: the one tool that changes a file.

use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::folder::shown;
use super::tool::{TOOL_ARGUMENTS, TOOL_REFUSED, cap};
use super::{Desk, ToolError, ToolResult};
use crate::error::{Error, Result};
use crate::ops::{self, Node};
use crate::plan::kernels::KernelTree;
use crate::plan::manifest::Manifest;
use crate::plan::source::hex;
use crate::words::count;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Write {
    file: String,
    text: String,
    #[serde(default)]
    node: Option<String>,
}

/// Folders of headers that kernels share. `args/` is generated, `emu/` is the verifier's.
const SHARED: [&str; 3] = ["common/", "quant/", "many/"];

impl Desk {
    pub(super) fn write(&self, ask: Write) -> Result<ToolResult, ToolError> {
        let file = ask.file.strip_prefix("kernels/").unwrap_or(&ask.file);
        let node = self.writer_of(file, ask.node.as_deref())?;
        if ask.text.contains('\0') {
            return Err(Error::new(&TOOL_ARGUMENTS, format!("kernels/{file} would hold a NUL")).into());
        }
        self.folder().write(file, &ask.text)?;
        let lines = ask.text.lines().count();
        let mut text = format!("wrote kernels/{file}: {}, {}", count(lines, "line"), count(ask.text.len(), "byte"));
        let problem =
            node.as_ref().filter(|_| file.ends_with(".toml")).and_then(|n| manifest_problem(n, file, &ask.text));
        if let Some(problem) = &problem {
            text += &format!("\nIt is no valid manifest yet: {problem}");
        }
        let digest = hex(&Sha256::digest(ask.text.as_bytes()));
        let data = json!({ "file": format!("kernels/{file}"), "bytes": ask.text.len(), "lines": lines, "sha256": digest, "problem": problem });
        let mut result = ToolResult::new(text, data);
        result.written.push(format!("kernels/{file}"));
        Ok(result)
    }

    /// The node whose file this is; `None` for a shared header, where those may be written. Everything else is refused.
    fn writer_of(&self, file: &str, named: Option<&str>) -> Result<Option<Node>> {
        let shared = SHARED.iter().any(|dir| file.strip_prefix(dir).is_some_and(|rest| !rest.contains('/')));
        if shared && self.options.shared && (file.ends_with(".cuh") || file.ends_with(".h")) {
            return Ok(None);
        }
        let mine = |n: &Node| {
            [n.file_stem(), n.op.clone()].iter().any(|s| file == format!("{s}.cu") || file == format!("{s}.toml"))
        };
        let named = match (named, &self.options.node) {
            // Which node a file is of can be read off its name.
            (None, None) if self.options.any_node => self.nodes.iter().find(|n| mine(n)).cloned(),
            (None, Some(node)) if self.options.any_node && !mine(node) => self.nodes.iter().find(|n| mine(n)).cloned(),
            _ => Some(self.own(named)?),
        };
        if let Some(node) = named.filter(|n| mine(n)) {
            return match self.leaning_on(&node, file)? {
                Some(other) => Err(Error::new(
                    &TOOL_REFUSED,
                    format!("kernels/{file} is the kernel of {other} too, which is not worked on here"),
                )
                .expected(format!("kernels/{stem}.cu or kernels/{stem}.toml", stem = node.file_stem()))),
                None => Ok(Some(node)),
            };
        }
        let node = self.options.node.as_ref().map_or("the node".into(), ToString::to_string);
        let stem = self.options.node.as_ref().map_or("<op>.<types>".into(), Node::file_stem);
        let also =
            if self.options.shared { ", or a header in kernels/common, kernels/quant or kernels/many" } else { "" };
        Err(Error::new(&TOOL_REFUSED, format!("`{}` is no file of {node}'s to write", shown(file)))
            .expected(format!("kernels/{stem}.cu or kernels/{stem}.toml{also}")))
    }
}

impl Desk {
    /// Another node whose kernel is the file of a whole op that `node`'s agent would write. Where shared files may be
    /// written, or any node worked on, that is nobody else's matter.
    fn leaning_on(&self, node: &Node, file: &str) -> Result<Option<Node>> {
        let own = file.strip_suffix(".cu").or_else(|| file.strip_suffix(".toml")) == Some(&node.file_stem());
        if own || self.options.shared || self.options.any_node {
            return Ok(None);
        }
        let tree = KernelTree::open(&self.bench.kernels())?;
        let leans = |n: &&Node| matches!(tree.kernel(n), Some(Ok(kernel)) if kernel.stem == node.op);
        Ok(self.nodes.iter().filter(|n| **n != *node && n.op == node.op).find(leans).cloned())
    }
}

fn manifest_problem(node: &Node, file: &str, text: &str) -> Option<String> {
    let contract = ops::find(&node.op)?.contract();
    Manifest::parse(&format!("kernels/{file}"), text, contract).err().map(|e| cap(e.to_string(), 1000))
}
