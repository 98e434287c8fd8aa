//! Which confinement a verdict needs: what the kernel could have reached while it was judged is part of what the verdict
//! is worth.
//!
//! The level that was reached is a field of the row ([`super::Informative::sandbox`]); which one counts is policy: full
//! confinement, or what the user's own trust file says; a workbench (`sandbox` in `assay.toml`) may ask for more.

use super::statement::{Class, Outcome, Stage, StageOutcome, Statement, Verdict};
use super::{Evidence, SANDBOX};
use crate::backend::worker::{Level, Sandbox};
use crate::error::{Error, Result};

const SILENT: &str = "it does not say how its kernel was confined";

/// What is asked for where nobody says otherwise.
pub const ASKED: Level = Level::Full;

/// Refuses a statement whose kernel ran under less than `asked`, or that does not say believably under what.
pub fn check(statement: &Statement, asked: Level) -> Result<(), String> {
    match statement {
        Statement::Verdict(verdict) => of_verdict(verdict, asked),
        // Timings are taken in the program itself, of kernels that have been judged.
        _ => Ok(()),
    }
}

/// The same as an error, of evidence that was to be recorded or brought in.
pub fn demand(evidence: &Evidence, asked: Level) -> Result<()> {
    check(evidence.statement(), asked)
        .map_err(|why| refusal(&format!("evidence {}: {why}", evidence.digest().short()), asked))
}

/// The same of a place before anything is judged in it.
pub fn demand_of(sandbox: Option<&Sandbox>, asked: Level) -> Result<()> {
    let reached = sandbox.map_or_else(|| Err(SILENT.into()), |sandbox| reached(sandbox, asked));
    reached.map_err(|why| refusal(&format!("what is judged here cannot be recorded: {why}"), asked))
}

fn refusal(what: &str, asked: Level) -> Error {
    Error::new(&SANDBOX, what).expected(format!("confinement `{}`, or more", asked.name())).hint(
        "assay doctor says what this machine gives; `sandbox` in your trust file lowers what is asked, and in assay.toml raises it",
    )
}

fn of_verdict(verdict: &Verdict, asked: Level) -> Result<(), String> {
    let text = verdict.informative.sandbox.as_str();
    if text.is_empty() && !needs_one(verdict) {
        return Ok(());
    }
    if text.is_empty() {
        return Err(SILENT.into());
    }
    let sandbox: Sandbox = serde_json::from_str(text)
        .map_err(|_| "what it says of its kernel's confinement is nothing that assay writes".to_string())?;
    reached(&sandbox, asked)
}

/// No kernel runs before it is built, and nothing runs for a verdict that is made up.
fn needs_one(verdict: &Verdict) -> bool {
    let built = |s: &super::StageRecord| s.name >= Stage::Build && s.outcome == StageOutcome::Pass;
    verdict.class != Class::Simulated && (verdict.outcome == Outcome::Pass || verdict.stages.iter().any(built))
}

fn reached(sandbox: &Sandbox, asked: Level) -> Result<(), String> {
    let Sandbox { level, landlock_abi, seccomp, namespaces } = *sandbox;
    let real = Sandbox::new(landlock_abi, seccomp, namespaces).level;
    if real != level {
        return Err(format!("it claims confinement `{}`, and what it lists comes to `{}`", level.name(), real.name()));
    }
    if !level.reaches(asked) {
        return Err(format!(
            "its kernel ran under confinement `{}`, and `{}` is asked for",
            level.name(),
            asked.name()
        ));
    }
    Ok(())
}
