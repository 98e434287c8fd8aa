//! Requests to land, which an agent may make and only a person can grant.
//!
//! A request is a small file below `.git/assay/landings/`: nothing in it is believed. Whoever grants it has the node looked
//! up in the ledger again, and `history::land` lands what is proved as it is staged, or nothing.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::desk::{cap, printable};
use crate::error::{Error, Result};
use crate::history::{self, LandRequest, Landed, Repo};
use crate::ledger::{Config, Target, Trust, clock};
use crate::model::Model;
use crate::ops::Node;
use crate::plan::Numerics;
use crate::plan::Plan;
use crate::plan::graph::Graph;
use crate::plan::kernels::KernelTree;
use crate::plan::schedule::canonical;
use crate::plan::source::read_plain;
use crate::report::proof::State;
use crate::report::standing;
use crate::verify::binding::Workshop;
use crate::workbench::Workbench;

crate::codes! {
    LANDING_EARLY: "landing-early", No, "Only a node that is green here can be landed: passed on a device, through stage 7, as its \
        kernel is now, with evidence of a key that the user trusts.";
    LANDING_MANY: "landing-many", No, "So many requests to land are waiting that another one would be lost among them.";
    LANDING_NONE: "landing-none", Usage, "No request to land has this number. `assay approve` lists those that wait.";
}

/// Requests that may wait at a time.
const MOST: usize = 32;
/// Characters of what a request says, which becomes a commit's subject.
const WHAT: usize = 60;

/// Someone asks for a node to be landed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    #[serde(skip)]
    pub number: u64,
    pub node: Node,
    /// What the commit's subject is to say after the op.
    pub what: String,
    /// Who asks, as they said.
    pub from: String,
    pub time: String,
}

fn folder(root: &Path) -> Result<PathBuf> {
    let repo = Repo::find(root)?.ok_or_else(|| history::no_git(root).hint("git init"))?;
    Ok(repo.folder().join("assay/landings"))
}

/// One line without anything that a terminal or git would obey.
fn line(text: &str, most: usize) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    cap(printable(&words.join(" ")), most)
}

/// Files a request.
pub fn ask(root: &Path, node: &Node, what: &str, from: &str) -> Result<Request> {
    let folder = folder(root)?;
    let waiting = pending(root)?;
    if let Some(same) = waiting.iter().find(|r| r.node == *node) {
        return Ok(same.clone());
    }
    if waiting.len() >= MOST {
        return Err(Error::new(&LANDING_MANY, format!("{MOST} requests are waiting")).hint("assay approve"));
    }
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    let mut number = waiting.last().map_or(0, |r| r.number) + 1;
    let mut request =
        Request { number, node: node.clone(), what: line(what, WHAT), from: line(from, 80), time: clock::now() };
    loop {
        request.number = number;
        let path = folder.join(format!("{number}.json"));
        let text = serde_json::to_string(&request).map_err(|e| Error::internal(e.to_string()))?;
        match std::fs::File::create_new(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            file => {
                let mut file = file.map_err(|e| Error::io(&path, e))?;
                std::io::Write::write_all(&mut file, text.as_bytes()).map_err(|e| Error::io(&path, e))?;
                return Ok(request);
            }
        }
    }
}

/// The requests that wait, by number. A file that is none is passed over: anybody may have put it there.
pub fn pending(root: &Path) -> Result<Vec<Request>> {
    let folder = folder(root)?;
    let entries = match std::fs::read_dir(&folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| Error::io(&folder, e))?,
    };
    let mut out = Vec::new();
    for entry in entries.take(4 * MOST) {
        let path = entry.map_err(|e| Error::io(&folder, e))?.path();
        let number = path.file_stem().and_then(|n| n.to_str()).and_then(|n| n.parse().ok());
        let text = number.and_then(|_| read_plain(&path).ok());
        if let (Some(number), Some(text)) = (number, text)
            && let Ok(request) = serde_json::from_str::<Request>(&text)
        {
            let (what, from, time) = (line(&request.what, WHAT), line(&request.from, 80), line(&request.time, 40));
            out.push(Request { number, what, from, time, ..request });
        }
    }
    out.sort_by_key(|r| r.number);
    Ok(out)
}

pub fn find(root: &Path, number: u64) -> Result<Request> {
    let waiting = pending(root)?;
    let numbers: Vec<_> = waiting.iter().map(|r| r.number.to_string()).collect();
    waiting.into_iter().find(|r| r.number == number).ok_or_else(|| {
        Error::new(&LANDING_NONE, format!("there is no request {number}"))
            .expected(if numbers.is_empty() { "none is waiting".into() } else { numbers.join(", ") })
            .hint("assay approve")
    })
}

/// Takes a request away, granted or not.
pub fn remove(root: &Path, number: u64) -> Result<()> {
    let path = folder(root)?.join(format!("{number}.json"));
    std::fs::remove_file(&path).map_err(|e| Error::io(&path, e))
}

/// Whether the node could be landed now.
pub fn ready(bench: &Workbench, model: &Model, node: &Node) -> Result<()> {
    let plan = Plan::build(model, canonical(Numerics::Ds4))?;
    let status = standing::status(bench, model, &Graph::of(&plan, None), Numerics::Ds4, &mut Vec::new())?;
    match status.nodes.iter().find(|n| n.usage.node == *node) {
        Some(n) if matches!(n.state, State::Green | State::Simulated) => Ok(()),
        found => {
            let state = found.map_or("no node of this model".into(), |n| cap(n.detail(), 400));
            Err(Error::new(&LANDING_EARLY, format!("{node} cannot be landed"))
                .expected("green: passed on a device, by evidence that is trusted here")
                .found(state))
        }
    }
}

/// Stages the node's kernel, headers too, for what is proved is the kernel with all that it includes, and lands it.
pub fn land(
    bench: &Workbench,
    model: &Model,
    node: &Node,
    request: &LandRequest<'_>,
    trust: &Trust,
) -> Result<Vec<Landed>> {
    let tree = KernelTree::open(&bench.kernels())?;
    let kernel = tree.require(node)?;
    let mut files: Vec<String> = tree.source(&kernel)?.files.into_keys().collect();
    files.push(format!("{}.toml", kernel.stem));
    let workshop = Workshop::new(model)?;
    history::with_staged(&bench.root, &files, || history::land(&bench.root, request, &workshop, trust))
}

/// Lands a node if it is ready. What a person grants.
pub fn grant(bench: &Workbench, model: &Model, node: &Node, what: &str, key: Option<&str>) -> Result<Vec<Landed>> {
    ready(bench, model, node)?;
    let config = Config::of_user()?;
    let trust = Trust::load(&config, None, &bench.root)?;
    let nodes = [Target::Node(node.clone())];
    let writer = || config.clone().outside(&bench.root)?.key(key);
    let what = line(what, WHAT);
    let what = (!what.is_empty()).then_some(what.as_str());
    let request = LandRequest { nodes: &nodes, what, numerics: Numerics::Ds4, arch: None, writer: &writer };
    land(bench, model, node, &request, &trust)
}
