//! What is said to a run from another terminal.

use super::Run;
use crate::agent::desk;
use crate::agent::events::{About, Event};
use crate::agent::state::Ask;
use crate::agent::supervise::{self, Word as Said};
use crate::error::Result;

impl Run<'_> {
    /// Carries out what was said from another terminal. What has to wait for the end of a step, or for a node to be said
    /// to, stays where it is.
    pub(super) fn hear(&mut self) -> Result<()> {
        for (id, said) in supervise::inbox(&self.dir)? {
            if self.state.controls.contains(&id) {
                supervise::remove(&self.dir, &id)?;
                continue;
            }
            if said.is_none() && supervise::is_folder(&self.dir, &id) {
                if self.passed_over.insert(id.clone()) {
                    let what = format!("control/{}", desk::cap(desk::printable(&id), 200));
                    self.emit(Event::Refused {
                        what,
                        why: "it is a folder and no word; it is left where it is".into(),
                    })?;
                }
                continue;
            }
            let between = self.state.pending.is_empty() && self.state.judging.is_none();
            let by = "person".to_string();
            let ask = self.state.ask.clone();
            let event = match said {
                None => {
                    Event::Refused { what: "a control file".into(), why: "it says nothing that can be done".into() }
                }
                Some(Said::Pause) if self.state.paused => {
                    Event::Refused { what: "pause".into(), why: "the run is paused".into() }
                }
                Some(Said::Pause) if between || ask.is_some() => Event::Paused { id: id.clone(), by },
                Some(Said::Pause) => continue,
                Some(Said::Resume) => {
                    self.signals.clear();
                    Event::Continued { id: id.clone(), by }
                }
                Some(Said::Say { text }) => match ask {
                    Some(Ask { id, about: About::Question, .. }) => Event::Answered { id, by, yes: None, text },
                    Some(Ask { id, about: About::Stuck, .. }) => Event::Answered { id, by, yes: Some(true), text },
                    _ if self.state.work.is_some() && !self.state.messages.is_empty() => {
                        Event::Said { id: id.clone(), text }
                    }
                    _ => continue,
                },
                Some(Said::Approve { ask: n, text }) => match ask.filter(|a| a.id == n) {
                    Some(ask) => Event::Answered { id: ask.id, by, yes: Some(true), text },
                    None => refused("approve"),
                },
                Some(Said::Reject { ask: n, text }) => match ask.filter(|a| a.id == n) {
                    Some(ask) => Event::Answered { id: ask.id, by, yes: Some(false), text },
                    None => refused("reject"),
                },
            };
            self.emit(event)?;
            supervise::remove(&self.dir, &id)?;
        }
        Ok(())
    }
}

fn refused(what: &str) -> Event {
    Event::Refused { what: what.into(), why: "nothing waits for it".into() }
}
