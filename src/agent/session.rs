//! What an outside agent did at a desk: a transcript for each client of `assay mcp`, chained and redacted as a run's is.
//!
//! A call is written before it is carried out, so that none can act unseen. What was refused is an event of its own.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::codes::SESSION_NONE;
use super::desk::{ANSWER, Desk, Ruling, ToolError, ToolResult, cap, printable};
use super::kept;
use super::redact::Redactor;
use super::transcript::{self, Story, Transcript};
use crate::error::{Error, Result};
use crate::ledger::Digest;
use crate::ops::Node;

/// Bytes of one argument that are kept; of a longer one its size and digest are.
const ARGUMENT: usize = 64 << 10;
/// What was asked for that no agent gets, beside what the desk itself calls a refusal.
const REFUSALS: [&str; 3] = ["tool-unknown", "tool-size", "landing-early"];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Opened {
        assay: String,
        /// `assay mcp`, `assay tool`.
        by: String,
        model: String,
        /// The only one that may be worked on; none: any.
        node: Option<Node>,
        shared: bool,
        /// Whether verdicts become rows.
        records: bool,
    },
    /// Who the client says it is.
    Client {
        name: String,
        version: String,
    },
    /// A tool is called. This event's digest is the `transcript` of the row that comes of it.
    Called {
        call: u64,
        tool: String,
        arguments: Value,
    },
    Answered {
        call: u64,
        ok: bool,
        text: String,
    },
    /// The agent reached for what is not its own.
    Refused {
        call: u64,
        code: String,
        why: String,
    },
    /// A verdict, whenever it was ready.
    Verdict {
        call: u64,
        outcome: String,
        green: bool,
        row: Option<u64>,
    },
    /// The person is asked, through the client, whether a node may land.
    Asked {
        call: u64,
        node: Node,
    },
    Said {
        call: u64,
        answer: String,
    },
    Closed,
}

pub type Record = transcript::Record<Event>;

impl Story for Event {
    const DAMAGED: &'static str =
        "it is to be believed in nothing; each client of assay mcp begins another: assay mcp log NAME";
    const UNWRITTEN: &'static str = "make room for it; the next client of assay mcp has a transcript of its own";
}

/// A call that was written down.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub number: u64,
    pub digest: Digest,
}

pub struct Session {
    dir: PathBuf,
    began: Instant,
    inner: Mutex<Inner>,
}

struct Inner {
    transcript: Transcript,
    calls: u64,
    client: bool,
}

impl Session {
    pub fn open(desk: &Desk, by: &str) -> Result<Session> {
        let dir = kept::create(&folder(&desk.bench().root)?)?;
        let transcript = Transcript::create(&dir, Redactor::of_user())?;
        let inner = Mutex::new(Inner { transcript, calls: 0, client: false });
        let session = Session { dir, began: Instant::now(), inner };
        let options = desk.options();
        session.write(&Event::Opened {
            assay: env!("CARGO_PKG_VERSION").into(),
            by: by.into(),
            model: kept::id(desk.model().path()),
            node: desk.node().filter(|_| !options.any_node).cloned(),
            shared: options.shared,
            records: options.record.is_some(),
        })?;
        Ok(session)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes an event; gives its digest.
    pub fn write(&self, event: &Event) -> Result<Digest> {
        self.append(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner), event)
    }

    fn append(&self, inner: &mut Inner, event: &Event) -> Result<Digest> {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(inner.transcript.append(ms, event)?.digest)
    }

    /// Who the client says it is, once.
    pub fn client(&self, name: &str, version: &str) -> Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut inner.client, true) {
            return Ok(());
        }
        let [name, version] = [name, version].map(|text| cap(printable(text), 200));
        self.append(&mut inner, &Event::Client { name, version }).map(drop)
    }

    pub fn called(&self, tool: &str, arguments: &Value) -> Result<Call> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.calls += 1;
        let (number, tool) = (inner.calls, cap(printable(tool), 200));
        let digest = self.append(&mut inner, &Event::Called { call: number, tool, arguments: shortened(arguments) })?;
        Ok(Call { number, digest })
    }

    pub fn answered(&self, call: Call, ok: bool, text: &str) -> Result<()> {
        self.write(&Event::Answered { call: call.number, ok, text: cap(text.into(), ANSWER) }).map(drop)
    }

    /// An error that the agent is told: a refusal where it reached for what is not its own.
    pub fn failed(&self, call: Call, error: &ToolError) -> Result<()> {
        if error.is_refusal() || REFUSALS.contains(&error.code()) {
            let (code, why) = (error.code().into(), cap(error.text(), ANSWER));
            return self.write(&Event::Refused { call: call.number, code, why }).map(drop);
        }
        self.answered(call, false, &error.text())
    }

    pub fn judged(&self, call: Call, result: &ToolResult) -> Result<()> {
        for Ruling { outcome, green, row } in &result.judged {
            let (outcome, green, row) = (outcome.to_string(), *green, *row);
            self.write(&Event::Verdict { call: call.number, outcome, green, row })?;
        }
        Ok(())
    }
}

/// Where a workbench's transcripts of outside agents are.
pub fn folder(root: &Path) -> Result<PathBuf> {
    kept::folder(root, "mcp")
}

/// The transcript of this name, or the newest.
pub fn find(root: &Path, name: Option<&str>) -> Result<PathBuf> {
    kept::find(&folder(root)?, name, |name| {
        let what = match name {
            None => "no outside agent has worked in this workbench yet".to_string(),
            Some(name) => format!("there is no transcript {name} of an outside agent in this workbench"),
        };
        Error::new(&SESSION_NONE, what).hint("assay mcp config says how to let one")
    })
}

/// Arguments as they are kept.
fn shortened(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let short = |v: &Value| match v.to_string() {
                text if text.len() <= ARGUMENT => v.clone(),
                text => json!({ "bytes": text.len(), "sha256": Digest::of(text.as_bytes()).to_string() }),
            };
            // So many fields no tool has.
            map.iter().take(16).map(|(name, v)| (cap(name.clone(), 200), short(v))).collect()
        }
        Value::Null => json!({}),
        other => json!({ "no object": cap(other.to_string(), 1000) }),
    }
}

/// An event in a line, for people.
pub fn line(event: &Event) -> String {
    let short = |text: &str| cap(printable(text.lines().next().unwrap_or_default()), 200);
    match event {
        Event::Opened { by, model, node, shared, records, .. } => {
            let what = node.as_ref().map_or("any node".into(), |n| format!("{n} alone"));
            let shared = if *shared { " and shared headers" } else { "" };
            let rows = if *records { "" } else { "; verdicts are not recorded" };
            format!("{by} serves {what}{shared} of {model}{rows}")
        }
        Event::Client { name, version } => format!("the client is {} {}", short(name), short(version)),
        Event::Called { call, tool, arguments } => {
            let named = |(name, value): (&String, &Value)| match value.as_str() {
                Some(text) if text.len() > 120 => format!("{name}: {} bytes", text.len()),
                _ => format!("{name}: {}", cap(printable(&value.to_string()), 120)),
            };
            let arguments: Vec<_> = arguments.as_object().into_iter().flatten().map(named).collect();
            format!("{call}. {}({})", short(tool), arguments.join(", "))
        }
        Event::Answered { call, ok: true, text } => format!("{call}. {}", short(text)),
        Event::Answered { call, ok: false, text } => format!("{call}. error: {}", short(text)),
        Event::Refused { call, code, why } => format!("{call}. REFUSED [{code}]: {}", short(why)),
        Event::Verdict { call, outcome, green, row } => {
            let green = if *green { ", green" } else { "" };
            let row = row.map_or(String::new(), |row| format!(" (row {row})"));
            format!("{call}. verdict: {outcome}{green}{row}")
        }
        Event::Asked { call, node } => format!("{call}. the person is asked whether {node} may land"),
        Event::Said { call, answer } => format!("{call}. the person says: {}", short(answer)),
        Event::Closed => "the client is gone".into(),
    }
}
