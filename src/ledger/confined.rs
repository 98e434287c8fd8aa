//! Which confinement a verdict needs: what the kernel could have reached while it was judged is part of what the verdict
//! is worth.
//!
//! The level that was reached is a field of the row ([`super::Informative::sandbox`]), and that of the compiler, which
//! had the kernel's text before, stands in its stage 3 ([`figure::COMPILER`]); which one counts is policy: full
//! confinement, or what the user's own trust file says; a workbench (`sandbox` in `assay.toml`) may ask for more.
//!
//! Rows from before the compiler's was asked do not all say it. They count as they did; what is recorded now has to.

use super::statement::{Class, Outcome, Stage, StageOutcome, StageRecord, Statement, Verdict};
use super::{Evidence, Figure, SANDBOX, figure};
use crate::backend::worker::{Level, Sandbox};
use crate::error::{Error, Result};

const SILENT: &str = "it does not say how its kernel was confined";
const COMPILER_SILENT: &str = "it does not say how its compiler was confined";
/// Who was confined, for messages.
const KERNEL: &str = "its kernel ran";
const COMPILED: &str = "its kernel was compiled";

/// What is asked for where nobody says otherwise.
pub const ASKED: Level = Level::Full;

/// Refuses a statement whose kernel ran, or was compiled, under less than `asked`, or that does not say believably under
/// what. Of the compiler it need not say anything.
pub fn check(statement: &Statement, asked: Level) -> Result<(), String> {
    match statement {
        Statement::Verdict(verdict) => of_verdict(verdict, asked),
        // Timings are taken in the program itself, of kernels that have been judged.
        _ => Ok(()),
    }
}

/// The same as an error, of evidence that was to be recorded or brought in.
pub fn demand(evidence: &Evidence, asked: Level) -> Result<()> {
    refused(evidence, check(evidence.statement(), asked), asked)
}

/// The same of evidence that was made here and now, which says all of it.
pub fn demand_all(evidence: &Evidence, asked: Level) -> Result<()> {
    demand(evidence, asked)?;
    let silent = evidence
        .statement()
        .verdict()
        .is_some_and(|v| v.class != Class::Simulated && built(v).is_some_and(|stage| compiler(stage).is_none()));
    refused(evidence, if silent { Err(COMPILER_SILENT.into()) } else { Ok(()) }, asked)
}

fn refused(evidence: &Evidence, checked: Result<(), String>, asked: Level) -> Result<()> {
    checked.map_err(|why| refusal(&format!("evidence {}: {why}", evidence.digest().short()), asked))
}

/// The same of a place before anything is judged in it.
pub fn demand_of(sandbox: Option<&Sandbox>, asked: Level) -> Result<()> {
    let reached = sandbox.map_or_else(|| Err(SILENT.into()), |sandbox| reached(KERNEL, sandbox, asked));
    reached.map_err(|why| refusal(&format!("what is judged here cannot be recorded: {why}"), asked))
}

fn refusal(what: &str, asked: Level) -> Error {
    Error::new(&SANDBOX, what).expected(format!("confinement `{}`, or more", asked.name())).hint(
        "assay doctor says what this machine gives; `sandbox` in your trust file lowers what is asked, and in assay.toml raises it",
    )
}

fn of_verdict(verdict: &Verdict, asked: Level) -> Result<(), String> {
    if let Some(compiler) = built(verdict).and_then(compiler) {
        reached(COMPILED, &compiler?, asked)?;
    }
    let text = verdict.informative.sandbox.as_str();
    if text.is_empty() && !needs_one(verdict) {
        return Ok(());
    }
    if text.is_empty() {
        return Err(SILENT.into());
    }
    let sandbox: Sandbox = serde_json::from_str(text)
        .map_err(|_| "what it says of its kernel's confinement is nothing that assay writes".to_string())?;
    reached(KERNEL, &sandbox, asked)
}

/// Stage 3, of a kernel that was compiled.
fn built(verdict: &Verdict) -> Option<&StageRecord> {
    verdict.stages.iter().find(|s| s.name == Stage::Build && s.outcome == StageOutcome::Pass)
}

/// The confinement of the compiler that made what was judged. A level is no figure: it is what the parts come to.
fn compiler(build: &StageRecord) -> Option<Result<Sandbox, String>> {
    let part = |name| build.figures.get(&format!("{}.{name}", figure::COMPILER)).copied();
    let flag = |figure| match figure {
        Some(Figure::Count(n @ (0 | 1))) => Some(n == 1),
        _ => None,
    };
    let (landlock, seccomp, namespaces) = (part("landlock_abi"), part("seccomp"), part("namespaces"));
    if [landlock, seccomp, namespaces].iter().all(Option::is_none) {
        return None;
    }
    let abi = match landlock {
        Some(Figure::Count(abi)) => u32::try_from(abi).ok(),
        _ => None,
    };
    let parts = abi.zip(flag(seccomp)).zip(flag(namespaces));
    Some(match parts {
        Some(((abi, seccomp), namespaces)) => Ok(Sandbox::new(abi, seccomp, namespaces)),
        None => Err("what it says of its compiler's confinement is nothing that assay writes".into()),
    })
}

/// No kernel runs before it is built, and nothing runs for a verdict that is made up.
fn needs_one(verdict: &Verdict) -> bool {
    let built = |s: &super::StageRecord| s.name >= Stage::Build && s.outcome == StageOutcome::Pass;
    verdict.class != Class::Simulated && (verdict.outcome == Outcome::Pass || verdict.stages.iter().any(built))
}

fn reached(what: &str, sandbox: &Sandbox, asked: Level) -> Result<(), String> {
    let (level, real) = (sandbox.level, sandbox.comes_to());
    if real != level {
        return Err(format!("it claims confinement `{}`, and what it lists comes to `{}`", level.name(), real.name()));
    }
    if !level.reaches(asked) {
        return Err(format!("{what} under confinement `{}`, and `{}` is asked for", level.name(), asked.name()));
    }
    Ok(())
}
