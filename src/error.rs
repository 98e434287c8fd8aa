//! Errors: what is wrong, whose fault it is, what was expected and found, and the next command to type.
//!
//! Every error carries a [`Code`]. A module declares its own codes in a `CODES` table beside the code that raises
//! them; [`explain`] looks an id up across all tables, and a code's [`Kind`] alone decides the exit code.

use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault it is, and with it the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The answer is no: a kernel is Red, a gate is missing, a well-formed model does not fit. Exit 1.
    No,
    /// The command line is wrong. Exit 2.
    Usage,
    /// Something could not run: no device, no compiler, an unreadable or malformed file. Exit 3.
    CouldNotRun,
    /// The ledger, a signature, a digest or the sandbox is not what it must be. Exit 4.
    Integrity,
    /// Our bug. Exit 70.
    Internal,
    /// The user pressed Ctrl-C. Exit 130.
    Interrupted,
}

impl Kind {
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::No => 1,
            Kind::Usage => 2,
            Kind::CouldNotRun => 3,
            Kind::Integrity => 4,
            Kind::Internal => 70,
            Kind::Interrupted => 130,
        }
    }

    /// Whose fault it is, in words.
    pub fn describe(self) -> &'static str {
        match self {
            Kind::No => "the answer is no",
            Kind::Usage => "the command line is wrong",
            Kind::CouldNotRun => "something could not run",
            Kind::Integrity => "something is not what it must be",
            Kind::Internal => "a bug in assay",
            Kind::Interrupted => "interrupted",
        }
    }

    /// Of several outcomes the one that decides the exit code: integrity > no > could not run > yes.
    pub fn precedence(self) -> u8 {
        match self {
            Kind::Interrupted => 6,
            Kind::Internal => 5,
            Kind::Integrity => 4,
            Kind::No => 3,
            Kind::Usage => 2,
            Kind::CouldNotRun => 1,
        }
    }
}

/// A stable error identifier, e.g. `gguf-truncated`, with the text that `assay explain` prints.
#[derive(Debug)]
pub struct Code {
    pub id: &'static str,
    pub kind: Kind,
    pub explain: &'static str,
}

/// Declares a module's codes and its `CODES` table.
///
/// ```ignore
/// codes! {
///     GGUF_TRUNCATED: "gguf-truncated", CouldNotRun, "The file ends before …";
/// }
/// ```
#[macro_export]
macro_rules! codes {
    ($($name:ident : $id:literal, $kind:ident, $explain:expr;)*) => {
        $(pub static $name: $crate::error::Code = $crate::error::Code {
            id: $id, kind: $crate::error::Kind::$kind, explain: $explain };)*
        pub static CODES: &[&$crate::error::Code] = &[$(&$name),*];
    };
}

codes! {
    INTERNAL: "internal", Internal, "assay met a state that its own logic rules out. This is a bug in assay, not in your \
        kernel, model or command; please report it with the command line and the message.";
    IO: "io", CouldNotRun, "The operating system refused to read or write a file. The message names the path and the \
        system's reason.";
    INTERRUPTED: "interrupted", Interrupted, "You interrupted the command. What was already recorded stays recorded.";
    USAGE: "usage", Usage, "The command line does not say something that assay can do. `assay help COMMAND` lists what it takes.";
}

/// Every code table of the crate.
const TABLES: &[&[&Code]] = &[
    CODES,
    crate::files::CODES,
    crate::workbench::CODES,
    crate::model::gguf::CODES,
    crate::model::misfit::CODES,
    crate::model::tokenizer::CODES,
    crate::model::synth::CODES,
    crate::plan::CODES,
    crate::plan::source::CODES,
    crate::plan::kernels::CODES,
    crate::plan::manifest::CODES,
    crate::plan::port::CODES,
    crate::plan::rules::CODES,
    crate::backend::executor::CODES,
    crate::backend::emulator::CODES,
    crate::backend::cuda::CODES,
    crate::backend::emulator::conformance::CODES,
    crate::backend::worker::CODES,
    crate::engine::CODES,
    crate::engine::fit::CODES,
    crate::engine::values::CODES,
    crate::ledger::CODES,
    crate::ledger::KEY_CODES,
    crate::ledger::TRUST_CODES,
    crate::ledger::IMPORT_CODES,
    crate::history::CODES,
    crate::history::bisect::CODES,
    crate::verify::remote::CODES,
    crate::report::reconcile::claims::CODES,
    crate::verify::sanitize::CODES,
    crate::verify::teeth::CODES,
    crate::agent::codes::CODES,
    crate::agent::desk::CODES,
    crate::agent::landing::CODES,
    crate::fresh::CODES,
    crate::cli::VERIFY_CODES,
];

/// Every code that assay can raise.
pub fn registry() -> impl Iterator<Item = &'static Code> {
    TABLES.iter().flat_map(|table| table.iter().copied())
}

/// The code of this id.
pub fn explain(id: &str) -> Option<&'static Code> {
    registry().find(|code| code.id == id)
}

pub struct Error(Box<Inner>);

struct Inner {
    code: &'static Code,
    what: String,
    expected: Option<String>,
    found: Option<String>,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub fn new(code: &'static Code, what: impl Into<String>) -> Self {
        Error(Box::new(Inner { code, what: what.into(), expected: None, found: None, hint: None, source: None }))
    }

    pub fn internal(what: impl Into<String>) -> Self {
        Self::new(&INTERNAL, what)
    }

    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(&USAGE, what)
    }

    /// Somebody stopped the work, and nothing is to be said of how far it came.
    pub fn interrupted() -> Self {
        Self::new(&INTERRUPTED, "interrupted")
    }

    /// An I/O failure on `path`.
    pub fn io(path: impl AsRef<std::path::Path>, source: std::io::Error) -> Self {
        Self::new(&IO, format!("{}: {source}", path.as_ref().display())).because(source)
    }

    pub fn expected(mut self, text: impl fmt::Display) -> Self {
        self.0.expected = Some(text.to_string());
        self
    }

    pub fn found(mut self, text: impl fmt::Display) -> Self {
        self.0.found = Some(text.to_string());
        self
    }

    /// The next command to type, or the one thing to change.
    pub fn hint(mut self, text: impl fmt::Display) -> Self {
        self.0.hint = Some(text.to_string());
        self
    }

    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same error with what it is about in front.
    pub fn about(mut self, subject: impl fmt::Display) -> Self {
        self.0.what = format!("{subject}: {}", self.0.what);
        self
    }

    pub fn code(&self) -> &'static Code {
        self.0.code
    }

    pub fn kind(&self) -> Kind {
        self.0.code.kind
    }

    pub fn what(&self) -> &str {
        &self.0.what
    }

    pub fn expected_text(&self) -> Option<&str> {
        self.0.expected.as_deref()
    }

    pub fn found_text(&self) -> Option<&str> {
        self.0.found.as_deref()
    }

    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "code": self.code().id,
            "kind": self.kind(),
            "what": self.what(),
            "expected": self.expected_text(),
            "found": self.found_text(),
            "hint": self.hint_text(),
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.0.what, self.0.code.id)?;
        if let Some(expected) = &self.0.expected {
            write!(f, "\n  expected: {expected}")?;
        }
        if let Some(found) = &self.0.found {
            write!(f, "\n  found:    {found}")?;
        }
        if let Some(hint) = &self.0.hint {
            write!(f, "\n  next:     {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|e| &**e as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids that the sources declare, found by reading them: a table that nobody registered shows here.
    fn declared(dir: &std::path::Path, out: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                declared(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let Some((_, table)) = text.split_once("\ncrate::codes! {").or_else(|| text.split_once("\ncodes! {"))
                else {
                    continue;
                };
                let table = table.split_once("\n}").unwrap().0;
                let ids = table.lines().filter_map(|l| l.split_once(": \"")?.1.split_once("\", "));
                out.extend(ids.map(|(id, _)| (id.to_string(), path.display().to_string())));
            }
        }
    }

    #[test]
    fn every_code_is_declared_once_and_can_be_explained() {
        let mut ids = Vec::new();
        declared(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut ids);
        assert!(ids.len() > 20, "{ids:?}");
        for (i, (id, file)) in ids.iter().enumerate() {
            assert!(explain(id).is_some(), "{id} of {file} is missing from error::TABLES");
            let twin = ids[..i].iter().find(|(other, _)| other == id);
            assert!(twin.is_none(), "{id} is declared in {file} and in {}", twin.unwrap().1);
        }
        for code in registry() {
            assert!(ids.iter().any(|(id, _)| id == code.id), "{} is in a table that the sources do not show", code.id);
            assert!(registry().filter(|c| c.id == code.id).count() == 1, "{} is registered twice", code.id);
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(
                code.id.chars().all(plain) && code.explain.len() > 20 && code.explain.ends_with('.'),
                "{}",
                code.id
            );
        }
    }
}
