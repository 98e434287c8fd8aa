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
