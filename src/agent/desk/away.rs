//! A verdict from another host: what `assay verify --runner` asks for, for one node and the kernel as it is on the desk.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::{Desk, Hands};
use crate::error::{Error, Kind, Result};
use crate::history;
use crate::ledger::{Config, Evidence, Outcome, Seed, Target, Trust};
use crate::ops::Node;
use crate::verify::binding::Workshop;
use crate::verify::remote::{Ask, Bundle, Hello, Host, Limits, Runner, answers, welcome};

/// Hosts with a device, by the user's own commands, and how long they may take.
#[derive(Clone, Debug)]
pub struct Away {
    pub runners: Vec<Runner>,
    pub limits: Limits,
}

impl Away {
    pub fn new(runners: Vec<Runner>, silence: Duration) -> Away {
        Away { runners, limits: Limits { silence, node: silence.saturating_mul(60) } }
    }
}

/// Evidence that came home and was checked.
pub struct Fetched {
    pub evidence: Evidence,
    /// Its row, where this desk records.
    pub row: Option<u64>,
    pub runner: String,
    /// Hosts that could not, and attempts that were not kept.
    pub notes: Vec<String>,
}

impl Desk {
    /// Asks each host in turn who it is; gives the first that can be asked, or what is wrong with the last.
    pub fn greet(&self, away: &Away, trust: &Trust, hands: &Hands<'_>) -> Result<Hello> {
        let copied = self.copied()?;
        self.first(away, |runner| {
            let bundle = self.bundle(copied.dir.path(), runner)?;
            let host = Host::start(runner, &bundle, away.limits, hands.stop)?;
            welcome(&host.hello, &bundle, &history::open(&self.bench().root)?, trust)?;
            Ok((*host.hello).clone())
        })
        .map(|(hello, ..)| hello)
    }

    /// Has a host judge the node's kernel as it is now, and records what it signed where this desk records.
    pub fn fetch(&self, node: &Node, away: &Away, trust: &Trust, hands: &Hands<'_>) -> Result<Fetched> {
        let mut copied = self.copied()?;
        copied.drop_broken(node)?;
        let here = Workshop::new(self.model())?.tree(&copied.kernels())?;
        let provenance = hands.provenance;
        let judge = |runner: &Runner, halt: &AtomicBool| {
            let bundle = self.bundle(copied.dir.path(), runner)?;
            let mut host = Host::start(runner, &bundle, away.limits, halt)?;
            let open = || history::open(&self.bench().root);
            welcome(&host.hello, &bundle, &open()?, trust)?;
            let (prompt, transcript) = (provenance.prompt.clone(), provenance.transcript.clone());
            let ask = Ask { node: node.clone(), seed: Seed::random()?, prompt, transcript };
            let said = host.judge(&runner.name, &ask, halt)?;
            // Opened again: judging took minutes, in which others may have written.
            Ok(answers(&ask, &host.hello, said, &here, &open()?, trust)?.0)
        };
        let (evidence, runner, mut notes) = hands.watched(|halt| self.first(away, |runner| judge(runner, halt)))?;
        let own = evidence.last().cloned().ok_or_else(|| Error::internal("an answer without evidence"))?;
        let mut row = None;
        if let Some(recorder) = &self.options().record {
            let root = &self.bench().root;
            let writer = Config::of_user()?.outside(root)?.key(recorder.key.as_deref())?;
            row = history::open(root)?.append(&evidence, &writer)?.last().copied();
            let red = own.statement().verdict().is_some_and(|v| matches!(v.outcome, Outcome::Red { .. }));
            if red
                && let Err(e) = history::record_attempt_of(root, copied.dir.path(), &Target::Node(node.clone()), &own)
            {
                notes.push(format!("the attempt's source was not kept: {}", e.what()));
            }
        }
        Ok(Fetched { evidence: own, row, runner, notes })
    }

    fn bundle(&self, copy: &std::path::Path, runner: &Runner) -> Result<Bundle> {
        let commit = history::Repo::find(&self.bench().root)?.and_then(|r| r.head_id().ok().flatten());
        let architectures = &self.bench().settings.architectures;
        let kernels = copy.join("kernels");
        let mut bundle = Bundle::of(self.model(), &kernels, architectures, "device", commit.unwrap_or_default())?;
        bundle.models.splice(0..0, runner.model.clone());
        Ok(bundle)
    }

    /// The first host of which `ask` gets an answer. One that says what it must not ends it: that is no host to pass over.
    fn first<T>(&self, away: &Away, ask: impl Fn(&Runner) -> Result<T>) -> Result<(T, String, Vec<String>)> {
        let (mut notes, mut last) = (Vec::new(), None);
        for runner in &away.runners {
            match ask(runner) {
                Ok(answer) => return Ok((answer, runner.name.clone(), notes)),
                Err(e) if e.kind() == Kind::CouldNotRun => {
                    notes.push(format!("{}: {}", runner.name, e.what()));
                    last = Some(e.about(&runner.name));
                }
                Err(e) => return Err(e.about(&runner.name)),
            }
        }
        Err(last.unwrap_or_else(|| Error::internal("no runner to ask")))
    }
}
