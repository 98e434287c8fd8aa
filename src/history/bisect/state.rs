//! What a bisect has asked so far: a file in the repository's own folder, never in the tree.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Answer, STATE};
use crate::error::{Error, Result};
use crate::files;
use crate::history::Repo;
use crate::plan::Numerics;

/// Most bytes of what a bisect keeps: an answer per commit and node.
const LARGEST: u64 = 256 << 20;

const SCHEMA: &str = "assay.bisect-state/1";

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The first commit at which a node is red.
    Nodes,
    /// The first commit at which a command says no.
    Command,
    /// The kernels that make one commit's prefill another's.
    Kernels,
}

/// Everything that the answers depend on. An interrupted bisect goes on with the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub mode: Mode,
    /// Full digests: a branch may move on meanwhile.
    pub good: Option<String>,
    pub bad: String,
    /// As they were named; none: every node that differs.
    pub nodes: Vec<String>,
    pub command: Vec<String>,
    pub git_exit_codes: bool,
    pub repeat: u32,
    pub numerics: Option<Numerics>,
    /// As on the command line.
    pub backend: String,
    pub arch: Option<String>,
    pub prompt_len: Option<usize>,
    pub model: Option<PathBuf>,
    pub seed: String,
}

/// An answer and where it was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    pub answer: Answer,
    pub on: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    schema: String,
    pub request: Request,
    /// What the answers hold for beside the request: weights, verifier, the place that judged.
    pub context: String,
    /// By what was asked.
    pub answers: BTreeMap<String, Kept>,
    /// Verifications that they cost.
    pub judged: usize,
    #[serde(skip)]
    file: PathBuf,
}

fn file(repo: &Repo) -> PathBuf {
    // A repository may hold several workbenches.
    let name = repo.prefix.trim_end_matches('/').replace('/', "-");
    let name = if name.is_empty() { "bisect.json".into() } else { format!("bisect-{name}.json") };
    repo.git.path().join("assay").join(name)
}

impl State {
    /// The unfinished bisect of this repository, if there is one.
    pub fn load(repo: &Repo) -> Result<Option<State>> {
        let file = file(repo);
        let Some(text) = files::read_text_if_any(&file, LARGEST)? else { return Ok(None) };
        let unreadable = |what: String| {
            Error::new(&STATE, format!("{} cannot be resumed: {what}", file.display()))
                .hint(format!("rm {} and begin again", crate::words::shell_path(&file)))
        };
        let state: State = serde_json::from_str(&text).map_err(|e| unreadable(e.to_string()))?;
        if state.schema != SCHEMA {
            return Err(unreadable(format!("it is `{}`, not `{SCHEMA}`", state.schema)));
        }
        Ok(Some(State { file, ..state }))
    }

    pub fn resume(repo: &Repo) -> Result<State> {
        State::load(repo)?.ok_or_else(|| {
            Error::new(&STATE, "there is no interrupted bisect here")
                .hint("assay bisect --good REVISION --bad REVISION")
        })
    }

    pub fn new(repo: &Repo, request: Request) -> State {
        State {
            schema: SCHEMA.into(),
            request,
            context: String::new(),
            answers: BTreeMap::new(),
            judged: 0,
            file: file(repo),
        }
    }

    /// Answers hold for one context; those of another are dropped, which is said by `false`.
    pub fn hold_for(&mut self, context: String) -> bool {
        let same = self.context == context || self.answers.is_empty();
        if !same {
            self.answers.clear();
        }
        self.context = context;
        same
    }

    /// Keeps one more answer, at once on disk.
    pub fn keep(&mut self, question: &str, answer: &Answer, on: &str, cost: usize) -> Result<()> {
        self.answers.insert(question.into(), Kept { answer: answer.clone(), on: on.into() });
        self.judged += cost;
        self.save()
    }

    pub fn save(&self) -> Result<()> {
        let dir = self.file.parent().unwrap_or(&self.file);
        let io = |e: std::io::Error| Error::io(&self.file, e);
        std::fs::create_dir_all(dir).map_err(io)?;
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| Error::internal(e.to_string()))?;
        text.push(b'\n');
        let mut new = tempfile::NamedTempFile::new_in(dir).map_err(io)?;
        new.write_all(&text).map_err(io)?;
        new.persist(&self.file).map_err(|e| io(e.error))?;
        Ok(())
    }

    /// The search is over.
    pub fn remove(&self) -> Result<()> {
        match std::fs::remove_file(&self.file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&self.file, e)),
            _ => Ok(()),
        }
    }
}
