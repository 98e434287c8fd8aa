//! A fresh workbench: all that a port needs but its kernels.
//!
//! Everything comes out of the program itself, so that an installed one needs no clone: generated argument headers, the
//! headers that kernels share, prompts, documents. Green kernels can be carried over from another workbench, with the
//! evidence that proves them, to practise on one gate.

mod carry;

pub use carry::Carried;

use std::path::{Path, PathBuf};

use crate::agent::desk::shelf;
use crate::error::{Error, Result};
use crate::history;
use crate::ledger::{Config, Evidence, Ledger, PublicKey, SecretKey, Trust};
use crate::model::Model;
use crate::ops::{self, Node, OPS, header};
use crate::plan::graph::Graph;
use crate::plan::kernels::KernelTree;
use crate::plan::schedule::canonical;
use crate::plan::{Numerics, Plan};
use crate::report::standing;
use crate::verify::binding::nodes_of;
use crate::workbench::Workbench;

crate::codes! {
    NEW_NOT_EMPTY: "new-not-empty", Usage, "`assay new` makes a workbench in a folder that does not exist yet or is empty, and \
        touches no other.";
    NEW_OP: "new-op", Usage, "`assay new --ops` names an op that there is none of, or that the model does not need.";
    NEW_UPTO: "new-upto", Usage, "`assay new --upto NODE` carries kernels over from another workbench, for a node that the model's \
        plan has.";
}

include!(concat!(env!("OUT_DIR"), "/carried.rs"));

/// Architectures that a new workbench builds for, where NVRTC is there.
const ARCHITECTURES: &str = r#"["sm_80", "sm_90a", "sm_120", "sm_121"]"#;

/// What to make.
pub struct Request<'a> {
    pub dir: &'a Path,
    pub model: &'a Model,
    /// Ops to port; empty: all.
    pub ops: &'a [String],
    /// A node, and the workbench that has green kernels of the nodes before it.
    pub upto: Option<(&'a Node, &'a Workbench)>,
    /// Which of the user's keys writes the ledger; a first one is made where there is none.
    pub key: Option<&'a str>,
}

/// What was made.
#[derive(Debug)]
pub struct Made {
    pub root: PathBuf,
    pub commit: String,
    pub files: usize,
    pub key: PublicKey,
    /// The user had none before.
    pub new_key: bool,
    /// Nodes of the model's plan.
    pub nodes: usize,
    pub carried: Option<Carried>,
    /// How the new workbench's nodes stand, as it says itself.
    pub standing: String,
    pub notes: Vec<String>,
}

pub fn make(request: &Request<'_>) -> Result<Made> {
    let dir = std::path::absolute(request.dir).map_err(|e| Error::io(request.dir, e))?;
    refuse_occupied(&dir)?;
    history::knows_author()?;
    let nodes = nodes_of(request.model)?;
    let ops = wanted_ops(request.ops, &nodes)?;
    if let Some((node, _)) = request.upto
        && !nodes.contains(node)
    {
        let error = Error::new(&NEW_UPTO, format!("{node} is no node of {}", request.model.path().display()));
        let near: Vec<_> = nodes.iter().filter(|n| n.op == node.op).map(ToString::to_string).collect();
        return Err(match near.first() {
            None => error.hint("assay plan -m MODEL lists them"),
            Some(first) => error.expected(near.join(", ")).hint(format!("--upto '{first}'")),
        });
    }
    let parent = dir.parent().ok_or_else(|| Error::usage("the root folder cannot be a workbench"))?;
    std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
    let config = Config::of_user()?;
    if config.dir().starts_with(&dir) {
        return Err(Error::usage(format!("{} would hold your private keys", dir.display()))
            .expected("ASSAY_CONFIG_DIR outside of the workbench"));
    }
    // Made beside its place and then moved there: what fails halfway leaves nothing behind.
    let staging =
        tempfile::Builder::new().prefix(".assay-new-").tempdir_in(parent).map_err(|e| Error::io(parent, e))?;
    let root = staging.path().join("workbench");
    std::fs::create_dir(&root).map_err(|e| Error::io(&root, e))?;
    let (key, new_key) = key(&config, request.key, &root)?;
    let mut notes = Vec::new();
    let model = request.model.path().canonicalize().map_err(|e| Error::io(request.model.path(), e))?;
    let tree = Files { root: &root };
    let mut files = tree.texts(&ops, request.ops)?;
    let mut verifiers = vec![key.public().to_string()];
    let carried = match request.upto {
        None => None,
        Some((node, from)) => {
            let carried = carry::choose(request.model, node, from, &mut notes)?;
            files += tree.kernels(&carried)?;
            let own = verifiers[0].clone();
            verifiers.extend(from.settings.verifiers.iter().filter(|v| **v != own).cloned());
            Some(carried)
        }
    };
    files += tree.settings(&model, request.ops, request.upto.map(|(node, _)| node), &verifiers)?;
    let mut evidence = vec![Evidence::join(&key)?];
    evidence.extend(carried.iter().flat_map(|c| c.evidence.iter().cloned()));
    Ledger::open(&root)?.append_unseen(&evidence, &key, &mut |_| ())?;
    KernelTree::open(&root.join("kernels"))?;
    let commit = history::first_commit(&root, &message(request, carried.as_ref()))?;
    let standing = standing(&root, request.model, &mut notes)?;
    // rename(2) takes the place of an empty folder, and of no other.
    std::fs::rename(&root, &dir).map_err(|e| Error::io(&dir, e))?;
    let key = key.public().clone();
    Ok(Made { root: dir, commit, files, key, new_key, nodes: nodes.len(), carried, standing, notes })
}

/// What `status` says there first.
fn standing(dir: &Path, model: &Model, notes: &mut Vec<String>) -> Result<String> {
    let bench = Workbench::open(dir)?;
    let plan = Plan::build(model, canonical(Numerics::Ds4))?;
    Ok(standing::status(&bench, model, &Graph::of(&plan, None), Numerics::Ds4, notes)?.sentence())
}

fn refuse_occupied(dir: &Path) -> Result<()> {
    let occupied = |what: &str| {
        Err(Error::new(&NEW_NOT_EMPTY, format!("{} {what}", dir.display()))
            .expected("a folder that does not exist yet, or an empty one")
            .hint("assay new OTHER"))
    };
    match std::fs::symlink_metadata(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(dir, e)),
        Ok(about) if !about.is_dir() => occupied("is there and is no folder"),
        Ok(_) => match std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?.next() {
            None => Ok(()),
            Some(_) => occupied("is not empty"),
        },
    }
}

fn wanted_ops(named: &[String], nodes: &[Node]) -> Result<Vec<&'static str>> {
    for name in named {
        if ops::find(name).is_none() {
            return Err(Error::new(&NEW_OP, format!("there is no op `{name}`")).hint("assay ops lists them"));
        }
        if !nodes.iter().any(|n| n.op == *name) {
            return Err(Error::new(&NEW_OP, format!("nothing in this model needs {name}")).hint("assay plan -m MODEL"));
        }
    }
    let all = OPS.iter().map(|op| op.contract().op);
    Ok(all.filter(|op| named.is_empty() || named.iter().any(|n| n == op)).collect())
}

/// The user's key, made and trusted here where there is none at all.
fn key(config: &Config, name: Option<&str>, root: &Path) -> Result<(SecretKey, bool)> {
    let config = config.clone().outside(root)?;
    if name.is_some() || !config.key_names()?.is_empty() {
        return Ok((config.key(name)?, false));
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(60).collect();
    let name = name.trim_start_matches('-');
    let key = config.new_key(if name.is_empty() { "host" } else { name })?;
    Trust::load(&config, None, root)?.trust(key.public().clone(), false)?;
    Ok((key, true))
}

fn message(request: &Request<'_>, carried: Option<&Carried>) -> String {
    let file = request.model.path().file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    let mut text = format!(
        "workbench: a port of {file} begins\n\nHeaders, prompts and documents of assay {}, an empty signed ledger, ",
        env!("CARGO_PKG_VERSION")
    );
    match (carried, request.upto) {
        (Some(carried), Some((node, _))) => {
            text += &format!(
                "and the kernels of {} nodes before {node}, with the evidence that proves them.\n",
                carried.nodes.len()
            );
        }
        _ => text += "and no kernel.\n",
    }
    text
}

/// The workbench's README, which says what is ported where that is not all.
fn readme(named: &[String]) -> String {
    let text = include_str!("README.md");
    if named.is_empty() {
        return text.into();
    }
    let ops: Vec<_> = named.iter().map(|op| format!("`{op}`")).collect();
    let goal = format!(
        "\nPorted here: {}.\n`assay next` and `assay agent` ask for no other op, and `assay status` says how many of their nodes are \
         green; the oracle\ncomputes the others. A prefill on a device needs all of them. The list is `ops` in `assay.toml`.\n",
        ops.join(", ")
    );
    // Behind the first paragraph.
    match text.split_once("\n\n```") {
        Some((head, rest)) => format!("{head}\n{goal}\n```{rest}"),
        None => format!("{text}{goal}"),
    }
}

/// Writes into a new workbench, and counts.
struct Files<'r> {
    root: &'r Path,
}

impl Files<'_> {
    fn put(&self, name: &str, text: &str) -> Result<usize> {
        let path = self.root.join(name);
        let folder = path.parent().unwrap_or(self.root);
        std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, text)).map_err(|e| Error::io(&path, e))?;
        Ok(1)
    }

    /// `named`: the ops that were asked for, if not all.
    fn texts(&self, ops: &[&'static str], named: &[String]) -> Result<usize> {
        let mut files = 0;
        for (name, text) in CARRIED {
            files += self.put(name, text)?;
        }
        for op in ops.iter().filter_map(|op| ops::find(op)) {
            let contract = op.contract();
            files += self.put(&format!("kernels/args/{}.h", contract.op), &header::generate(contract))?;
            let oracle = shelf::oracle(contract.op).unwrap_or_default();
            files += self.put(&format!("docs/oracle/{}.rs", contract.op), oracle)?;
        }
        for name in shelf::shared_oracles() {
            files += self.put(&format!("docs/oracle/{name}.rs"), shelf::oracle(name).unwrap_or_default())?;
        }
        for (name, text) in shelf::DOCS {
            files += self.put(name, text)?;
        }
        files += self.put(".gitignore", "/.assay\n*.gguf\n")?;
        files += self.put("README.md", &readme(named))?;
        files += self.put("AGENTS.md", include_str!("AGENTS.md"))?;
        Ok(files)
    }

    fn settings(&self, model: &Path, ops: &[String], first: Option<&Node>, verifiers: &[String]) -> Result<usize> {
        let model =
            model.to_str().ok_or_else(|| Error::usage(format!("{}: the name is not UTF-8", model.display())))?;
        let list = |items: &[String]| items.iter().map(|i| format!("    {i:?},\n")).collect::<String>();
        let mut text = String::from(
            "# What this workbench is about. Nothing here is trusted: keys are proposals, and runners are names whose commands\n\
             # stand in your own configuration.\n",
        );
        text += &format!("model = {}\narchitectures = {ARCHITECTURES}\n", toml::Value::from(model));
        if !ops.is_empty() {
            text += &format!(
                "\n# What is ported here: `assay next` and `assay agent` leave other ops out; the oracle computes them.\nops = [\n{}]\n",
                list(ops)
            );
        }
        if let Some(node) = first {
            text += &format!(
                "\n# Where to begin: `assay next` and `assay agent` name this node before any other until it is green.\nfirst = {:?}\n",
                node.to_string()
            );
        }
        text +=
            &format!("\n# Keys whose signatures this tree asks you to believe.\nverifiers = [\n{}]\n", list(verifiers));
        self.put(Workbench::FILE, &text)
    }

    fn kernels(&self, carried: &Carried) -> Result<usize> {
        let mut files = 0;
        for (name, text) in &carried.files {
            let known = CARRIED.iter().any(|(n, _)| *n == format!("kernels/{name}"));
            self.put(&format!("kernels/{name}"), text)?;
            files += usize::from(!known);
        }
        Ok(files)
    }
}
