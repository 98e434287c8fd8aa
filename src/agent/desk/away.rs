//! A verdict from another host: what `assay verify --runner` asks for, for one node and the kernel as it is on the desk.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::json;

use super::judge::{self, Judged};
use super::tool::{Ruling, ToolResult, cap, printable, untrusted};
use super::{Desk, Hands, Provenance, Quiet};
use crate::error::{Error, Kind, Result};
use crate::history;
use crate::ledger::{Class, Config, Evidence, Outcome, Seed, Stage, Target, Trust};
use crate::ops::Node;
use crate::plan::kernels::KernelTree;
use crate::report::standing;
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
    /// Why the red attempt was not kept; among the notes too.
    pub unkept: Option<String>,
    /// Hosts that could not, and attempts that were not kept.
    pub notes: Vec<String>,
}

impl Fetched {
    /// What the tool `verify` answers: the host's word, and in a line what the emulator's was.
    fn result(&self, node: &Node, here: Option<&Judged>) -> Result<ToolResult> {
        let statement = self.evidence.statement().verdict();
        let v = statement.ok_or_else(|| Error::internal(format!("evidence on {node} without a verdict")))?;
        let green = v.class == Class::Device && v.complete();
        let arch = &v.binding.arch;
        let mut text = match (&v.outcome, green) {
            (_, true) => format!("{node}: GREEN on {arch}"),
            (Outcome::Pass, _) => format!("{node}: PASS on {arch} as far as it ran, not green"),
            (Outcome::Red { stage, .. }, _) => format!("{node}: RED on {arch}, in stage {}", stage.name()),
            (Outcome::Indeterminate { .. }, _) => format!("{node}: INDETERMINATE on {arch}: it could not be told"),
        };
        text += &format!("; judged by {}\n", printable(&self.runner));
        let (reason, first_bad) = match &v.outcome {
            Outcome::Pass => (None, None),
            Outcome::Red { reason, first_bad, .. } => (Some(reason), Some(first_bad).filter(|bad| !bad.is_empty())),
            Outcome::Indeterminate { reason } => (Some(reason), None),
        };
        let cut = |text: &String| cap(printable(text), 2000);
        if let Some(reason) = reason {
            let told = first_bad.map_or(String::new(), |bad| format!("\nfirst bad: {bad}"));
            let source = "the host's reason, which may repeat what a compiler or a kernel wrote";
            text += &untrusted(source, &cap(format!("{reason}{told}"), 4000));
        }
        text += &self.row.map_or("not recorded\n".into(), |row| format!("recorded as row {row}\n"));
        if let Some(here) = here {
            let row = here.row.map_or(String::new(), |row| format!(", row {row}"));
            text += &format!("on the emulator before that: {}{row}\n", here.ruling().outcome);
        }
        let notes: Vec<String> = self.notes.iter().take(8).map(|note| cap(printable(note), 300)).collect();
        for note in &notes {
            text += &format!("note: {note}\n");
        }
        let data = json!({
            "node": node.to_string(),
            "summary": v.outcome.name(),
            "green": green,
            "class": v.class,
            "arch": arch,
            "runner": printable(&self.runner),
            "reason": reason.map(cut),
            "first_bad": first_bad.map(cut),
            "row": self.row,
            "emulated": here.map(|here| json!({ "summary": here.ruling().outcome, "row": here.row })),
            "notes": notes,
        });
        let judged = here.map(Judged::ruling).into_iter();
        let judged = judged.chain([Ruling { outcome: v.outcome.name(), green, row: self.row }]).collect();
        Ok(ToolResult { judged, ..ToolResult::new(text, data) })
    }
}

impl Desk {
    /// Has the hosts of this desk, if it has any, say who they are.
    pub fn greet_own(&self) -> Result<()> {
        let Some(away) = &self.options().away else { return Ok(()) };
        let (stop, provenance) = (AtomicBool::new(false), Provenance::default());
        let hands = Hands { progress: &Quiet, stop: &stop, until: None, provenance: &provenance };
        let trust = standing::trust(&self.bench().root, None, &mut Vec::new())?;
        self.greet(away, &trust, &hands).map(drop)
    }

    /// The word of a host on what passed here. Where none can be asked the emulator's stands, with why.
    pub(super) fn verify_away(
        &self,
        node: &Node,
        away: &Away,
        thorough: bool,
        here: Option<Judged>,
        hands: &Hands<'_>,
    ) -> Result<ToolResult> {
        let _one = self.only_one()?;
        let trust = standing::trust(&self.bench().root, None, &mut Vec::new())?;
        match (self.fetch(node, away, thorough, &trust, hands), here) {
            (Ok(fetched), here) => fetched.result(node, here.as_ref()),
            (Err(e), Some(mut here)) if e.kind() == Kind::CouldNotRun => {
                here.notes.insert(0, format!("not judged on a device: {}", e.what()));
                Ok(here.result())
            }
            (Err(e), _) => Err(e),
        }
    }

    /// Asks each host in turn who it is; gives the first that can be asked, or what is wrong with the last.
    pub fn greet(&self, away: &Away, trust: &Trust, hands: &Hands<'_>) -> Result<Hello> {
        let copied = self.copied()?;
        self.first(away, |runner| {
            let bundle = self.bundle(copied.dir.path(), runner, false)?;
            let host = Host::start(runner, &bundle, away.limits, hands.stop)?;
            welcome(&host.hello, &bundle, &history::open(&self.bench().root)?, trust)?;
            Ok((*host.hello).clone())
        })
        .map(|(hello, ..)| hello)
    }

    /// Has a host judge the node's kernel as it is now, and records what it signed where this desk records.
    pub fn fetch(&self, node: &Node, away: &Away, thorough: bool, trust: &Trust, hands: &Hands<'_>) -> Result<Fetched> {
        let mut copied = self.copied()?;
        copied.drop_broken(node)?;
        let here = Workshop::new(self.model())?.tree(&copied.kernels())?;
        let provenance = hands.provenance;
        let judge = |runner: &Runner, halt: &AtomicBool| {
            let bundle = self.bundle(copied.dir.path(), runner, thorough)?;
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
        let (mut row, mut unkept) = (None, None);
        if let Some(recorder) = &self.options().record {
            let root = &self.bench().root;
            let writer = Config::of_user()?.outside(root)?.key(recorder.key.as_deref())?;
            row = history::open(root)?.append(&evidence, &writer)?.last().copied();
            let red = own.statement().verdict().is_some_and(|v| matches!(v.outcome, Outcome::Red { .. }));
            if red
                && let Err(e) = history::record_attempt_of(
                    root,
                    copied.dir.path(),
                    &Target::Node(node.clone()),
                    &own,
                    provenance.attempt,
                )
            {
                notes.push(judge::unkept(&e));
                unkept = Some(judge::unkept(&e));
            }
        }
        Ok(Fetched { evidence: own, row, runner, unkept, notes })
    }

    /// Why the node's kernel can be bound to nothing, if so: no host can judge that, and none has to. It is kept as an
    /// attempt where this desk records; if it cannot be, why not.
    pub fn unreadable(&self, node: &Node, provenance: &Provenance) -> Result<Option<(String, Option<String>)>> {
        let mut copied = self.copied()?;
        copied.drop_broken(node)?;
        let tree = KernelTree::open(&copied.kernels())?;
        let Err(e) = tree.require(node).and_then(|kernel| tree.source(&kernel).map(drop)) else { return Ok(None) };
        let (reason, mut unkept) = (e.to_string(), None);
        if self.options().record.is_some() {
            let (root, copy) = (&self.bench().root, copied.dir.path());
            let Provenance { transcript, attempt, .. } = provenance;
            let kept = history::record_refusal(root, copy, node, (Stage::Source, &reason), transcript, *attempt);
            unkept = kept.err().map(|e| judge::unkept(&e));
        }
        Ok(Some((reason, unkept)))
    }

    fn bundle(&self, copy: &std::path::Path, runner: &Runner, thorough: bool) -> Result<Bundle> {
        let commit = history::Repo::find(&self.bench().root)?.and_then(|r| r.head_id().ok().flatten());
        let architectures = &self.bench().settings.architectures;
        let kernels = copy.join("kernels");
        let mut bundle = Bundle::of(self.model(), &kernels, architectures, "device", commit.unwrap_or_default())?;
        bundle.models.splice(0..0, runner.model.clone());
        bundle.thorough = thorough;
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
