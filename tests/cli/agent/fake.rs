//! A workbench that is made up, for a loop that is to be killed at any event in milliseconds.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use assay::agent::budget::Limits;
use assay::agent::context::Brief;
use assay::agent::endpoint::{Client, Message, Overrides, Settings, ToolSpec};
use assay::agent::events::{Approve, Event, Judged, NodeEnd, Place, Record, RunEnd};
use assay::agent::redact::Secret;
use assay::agent::run::{Run, View};
use assay::agent::shop::{Order, Reply as Said, Shop, Word};
use assay::agent::state::State;
use assay::agent::stuck;
use assay::agent::supervise::Signals;
use assay::agent::transcript;
use assay::error::{Error, Result};
use assay::ledger::{Config, Digest};
use assay::ops::Node;
use serde_json::{Map, Value, json};

use super::server::Server;

pub const KEY: &str = "sk-0123456789abcdef";

/// A workbench of one folder in memory. A source with `right` in it passes, everything else is red in its own words.
#[derive(Clone, Default)]
pub struct Fake(pub Rc<Inner>);

#[derive(Default)]
pub struct Inner {
    pub files: RefCell<BTreeMap<String, String>>,
    pub rows: RefCell<BTreeMap<String, Word2>>,
    pub judged: Cell<u64>,
    pub landed: RefCell<Vec<String>>,
    pub device: Cell<bool>,
    /// The last verdict was asked for with every size and length.
    pub thorough: Cell<bool>,
    /// Only what was written is there.
    pub strict: Cell<bool>,
    /// Attempts that others made.
    pub before: Cell<u64>,
    /// Sources that only the emulator passes.
    pub picky: Cell<bool>,
    /// Its judge never comes to an end.
    pub endless: Cell<bool>,
}

type Word2 = (Judged, String, Option<String>);

fn word((judged, text, failure): Word2) -> Word {
    Word { judged, text, failure }
}

impl Shop for Fake {
    fn tools(&self) -> Vec<ToolSpec> {
        ["read", "write_kernel", "verify"]
            .map(|name| ToolSpec { name: name.into(), description: String::new(), schema: json!({"type": "object"}) })
            .into()
    }

    fn choose(&mut self, _: &Node) -> Result<()> {
        Ok(())
    }

    fn next(&mut self, ended: &[&Node]) -> Result<Option<(Node, String)>> {
        let all = ["swiglu", "rms_norm"].map(|n| n.parse::<Node>().unwrap());
        Ok(all.into_iter().find(|n| !ended.contains(&n)).map(|n| (n, "it is a gate".into())))
    }

    fn call(&mut self, name: &str, arguments: &Map<String, Value>) -> Result<Said> {
        let text = |name: &str| arguments.get(name).and_then(Value::as_str).unwrap_or_default().to_string();
        if name == "write_kernel" {
            let file = text("file");
            if file.contains('/') {
                return Ok(Said { ok: false, text: "no path".into(), refused: true });
            }
            self.0.files.borrow_mut().insert(file, text("text"));
        }
        Ok(Said { ok: true, text: "done".into(), refused: false })
    }

    fn source(&self, node: &Node) -> Result<Vec<(String, String)>> {
        let files = self.0.files.borrow();
        let own = files.iter().filter(|(path, _)| path.starts_with(&node.op));
        let mut own: Vec<_> = own.map(|(path, text)| (path.clone(), text.clone())).collect();
        // Scripts that are about something else write no manifest.
        if !own.is_empty() && !self.0.strict.get() {
            own.push((format!("{}.toml", node.op), String::new()));
        }
        Ok(own)
    }

    fn judge(&mut self, node: &Node, order: &Order<'_>) -> Result<Word> {
        let (device, by) = (order.device, order.provenance);
        self.0.judged.set(self.0.judged.get() + 1);
        while self.0.endless.get() {
            std::thread::sleep(Duration::from_millis(5));
            if order.until.is_some_and(|until| Instant::now() >= until) || order.stop.load(Ordering::Relaxed) {
                return Err(Error::interrupted());
            }
        }
        self.0.thorough.set(order.thorough);
        let source: String = self.source(node)?.into_iter().map(|(_, text)| text).collect();
        let passes = source.contains("right") && !(device && self.0.picky.get());
        let judged = Judged {
            node: node.clone(),
            class: if device { "device" } else { "emulated" }.into(),
            arch: if device { "sm_90" } else { "emulator" }.into(),
            outcome: if passes { "pass" } else { "red" }.into(),
            stage: (!passes).then(|| "unit".into()),
            reason: (!passes).then(|| source.clone()),
            first_bad: None,
            error: source.split("error ").nth(1).map(|e| e.split(' ').next().unwrap().to_string()),
            green: passes && device,
            row: Some(self.0.judged.get()),
            evidence: None,
            unbound: false,
            unkept: None,
            seconds: 0,
        };
        let failure = (!passes).then(|| stuck::failure("unit", &source));
        let made = (judged.clone(), judged.words(), failure);
        self.0.rows.borrow_mut().insert(by.transcript.clone(), made.clone());
        Ok(word(made))
    }

    fn file(&self, path: &str) -> Result<Option<String>> {
        Ok(self.0.files.borrow().get(path).cloned())
    }

    fn last_attempt(&self, _: &Node) -> Result<u64> {
        Ok(self.0.before.get())
    }

    fn recorded(&mut self, _: &Node, transcript: &Digest, _: u64) -> Result<Option<Word>> {
        Ok(self.0.rows.borrow().get(&transcript.to_string()).cloned().map(word))
    }

    fn land(&mut self, node: &Node) -> Result<String> {
        self.0.landed.borrow_mut().push(node.to_string());
        Ok("0123456789abcdef".into())
    }

    fn landed(&mut self, node: &Node) -> Result<Option<String>> {
        Ok(self.0.landed.borrow().contains(&node.to_string()).then(|| "0123456789abcdef".into()))
    }

    fn context(&mut self, brief: &Brief<'_>) -> Result<Vec<Message>> {
        let said: Vec<_> = brief.attempts.iter().map(|a| a.said.clone()).collect();
        Ok(vec![
            Message::System { content: "you port".into() },
            Message::User { content: format!("port {}; so far: {}", brief.node, said.join("; ")) },
        ])
    }

    fn neighbour(&mut self, _: &Node) -> Result<Option<(Node, String)>> {
        Ok(Some(("matmul[q8_0]".parse().unwrap(), "a neighbour's kernel".into())))
    }

    fn emulator(&self) -> bool {
        true
    }

    fn device(&self) -> bool {
        self.0.device.get()
    }
}

/// Watches; dies when it is told to, before or after an event is on the disk.
#[derive(Default)]
pub struct Watch {
    pub log: Vec<String>,
    pub die_before: Option<u64>,
    pub die_after: Option<u64>,
    pub seen: u64,
    pub answers: Vec<(Option<bool>, String)>,
}

impl View for Watch {
    fn before(&mut self, _: &Event) {
        if self.die_before == Some(self.seen) {
            std::panic::panic_any("killed");
        }
    }

    fn event(&mut self, record: &Record, _: &State) {
        self.log.push(format!("{:?}", record.event));
        self.seen += 1;
        if self.die_after == Some(self.seen) {
            std::panic::panic_any("killed");
        }
    }

    fn answer(&mut self, _: &assay::agent::state::Ask) -> Option<(Option<bool>, String)> {
        self.answers.pop()
    }
}

pub fn client(server: &Server, change: impl FnOnce(&mut Settings)) -> Client {
    let (home, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let over = Overrides { url: Some(server.url.clone()), model: Some("m".into()), ..Overrides::default() };
    let mut settings = Settings::load(&Config::at(home.path()), root.path(), &over).unwrap();
    settings.key = Some(Secret::new(KEY).unwrap());
    (settings.backoff, settings.idle) = (Duration::from_millis(1), Duration::from_millis(300));
    change(&mut settings);
    Client::new(settings).unwrap()
}

pub fn limits() -> Limits {
    Limits { steps: 100, attempts: 8, tokens: 10_000_000, wall_ms: 600_000, cost: None }
}

pub fn started(client: &Client, approve: Approve, limits: Limits, nodes: &[&str]) -> Event {
    Event::Started {
        assay: "0".into(),
        model: "f.gguf".into(),
        llm: "m".into(),
        host: "h".into(),
        price: client.settings().price,
        limits,
        approve,
        nodes: nodes.iter().map(|n| n.parse().unwrap()).collect(),
        place: Place { place: "the emulator".into(), device: false },
        key: None,
        wait_s: 0,
    }
}

pub struct Outcome {
    pub end: RunEnd,
    pub state: State,
    pub log: Vec<String>,
    pub dir: tempfile::TempDir,
}

impl Outcome {
    pub fn ended(&self) -> Vec<(String, NodeEnd)> {
        self.state.ended.iter().map(|(node, how, _)| (node.to_string(), *how)).collect()
    }

    pub fn has(&self, event: &str) -> bool {
        self.log.iter().any(|l| l.contains(event))
    }
}

pub fn run_with(
    server: &Server,
    shop: &Fake,
    approve: Approve,
    limits: Limits,
    change: impl FnOnce(&mut Settings),
) -> Outcome {
    let client = client(server, change);
    let (dir, signals, mut view) = (tempfile::tempdir().unwrap(), Signals::default(), Watch::default());
    let mut shop = shop.clone();
    let event = started(&client, approve, limits, &["swiglu"]);
    let mut run = Run::begin(dir.path(), &mut shop, &client, &signals, &mut view, event).unwrap();
    let end = run.work().unwrap();
    let state = run.state().clone();
    let text = std::fs::read_to_string(dir.path().join(transcript::FILE)).unwrap();
    assert!(!text.contains(KEY), "the key is in the transcript");
    Outcome { end, state, log: view.log, dir }
}
