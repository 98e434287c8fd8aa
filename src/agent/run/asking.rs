//! What a person is asked, what they are shown of it, and how long it waits for them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{BEAT, Run};
use crate::agent::events::{About, Event};
use crate::agent::state::{Ask, WRITE, Work};
use crate::agent::{desk, diff, tools};
use crate::error::Result;

/// Bytes of what a question is about, and changed lines of one file in it.
const SHOWN: usize = 12 << 10;
const DIFF: usize = 120;

impl Run<'_> {
    /// Asks, and looks for an answer until one is there or the time for it is over.
    pub(super) fn await_answer(&mut self, ask: &Ask) -> Result<()> {
        let wait = Duration::from_secs(self.state.started.as_ref().map_or(0, |s| s.wait_s));
        let since = Instant::now();
        while self.state.ask.as_ref() == Some(ask) && !self.state.paused {
            if self.signals.stop() || self.signals.pause() {
                if self.signals.pause() {
                    self.emit(Event::Paused { id: String::new(), by: "Ctrl-C".into() })?;
                }
                return Ok(());
            }
            if let Some((yes, text)) = self.view.answer(ask) {
                self.emit(Event::Answered { id: ask.id, by: "person".into(), yes, text })?;
                return Ok(());
            }
            let late = self.state.spent.wall(&self.state.limits, self.ms()).is_err();
            if since.elapsed() >= wait || late {
                let text = match ask.about {
                    About::Question => "Nobody answered. Go on as you think best, or give_up.".to_string(),
                    _ => format!("nobody answered within {} s", since.elapsed().as_secs()),
                };
                self.emit(Event::Answered { id: ask.id, by: "nobody".into(), yes: None, text })?;
                return Ok(());
            }
            std::thread::sleep(BEAT);
            self.hear()?;
        }
        Ok(())
    }

    /// Asks. `shown` is what the question is about.
    pub(super) fn ask(&mut self, about: About, text: String, shown: String) -> Result<()> {
        let id = self.state.asks + 1;
        let [text, shown] = [text, shown].map(|text| desk::cap(desk::printable(&text), SHOWN));
        self.emit(Event::Asked { id, about, text, shown }).map(|_| ())
    }

    /// What the calls of a step would change, for who is asked whether they may.
    pub(super) fn preview(&self, work: &Work) -> String {
        let (mut out, mut written) = (String::new(), BTreeMap::<&str, &str>::new());
        for call in &self.state.pending {
            let text = |name: &str| call.arguments.get(name).and_then(|v| v.as_str());
            match (call.name.as_str(), text("file"), text("text")) {
                (WRITE, Some(file), Some(after)) => {
                    let path = file.strip_prefix("kernels/").unwrap_or(file);
                    let before = match written.get(path) {
                        Some(text) => Ok(Some(text.to_string())),
                        None => self.shop.file(path),
                    };
                    let name = desk::folder::shown(path);
                    match before {
                        Err(e) => out += &format!("kernels/{name} will not be written: {}\n", e.what()),
                        Ok(before) => {
                            let lines = diff::diff(before.as_deref().unwrap_or_default(), after, DIFF)
                                .unwrap_or_else(|e| format!("(how cannot be shown: {})\n", e.message()));
                            let what = match (before, lines.is_empty()) {
                                (None, _) => "is new",
                                (Some(_), true) => "stays as it is",
                                (Some(_), false) => "changes",
                            };
                            out += &format!("kernels/{name} {what}\n{}", desk::cap(lines, SHOWN / 2));
                            if !out.ends_with('\n') {
                                out.push('\n');
                            }
                        }
                    }
                    written.insert(path, after);
                }
                (tools::VERIFY, ..) => {
                    let last = work.attempts.last();
                    let last = last.map_or("none yet".into(), |a| format!("attempt {}, {}", a.number, a.said));
                    out += &format!("verify judges the kernel as it is then; the last verdict: {last}\n");
                }
                _ => {}
            }
        }
        out
    }
}
