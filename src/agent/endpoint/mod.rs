//! A language model behind an OpenAI-compatible chat-completions server.
//!
//! One call of [`Client::ask`] is one HTTP request: it gives an [`Answer`] or a [`Failure`] that says what may be done
//! about it. Whoever calls decides about trying again, because every try costs budget. What comes back is bounded,
//! redacted and brought into one form here, so that nothing behind this module sees a server's peculiarities:
//! [`sse`] splits a stream into events, [`assemble`] makes an answer of them, [`plain`] finds tool calls that a model
//! wrote as text, [`retry`] reads Retry-After and paces tries.

mod assemble;
mod config;
mod http;
mod plain;
pub mod retry;
mod sse;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use config::{Overrides, Price, Settings};
pub use http::Client;

/// One message of a conversation, as it is kept and as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Message {
    System { content: String },
    User { content: String },
    Assistant { content: String, calls: Vec<Call> },
    Tool { id: String, content: String },
}

/// A tool call with arguments that are a JSON object: what was not one never gets here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    pub id: String,
    pub name: String,
    pub arguments: Map<String, Value>,
    /// Why the call as it came cannot be carried out. Its arguments are empty then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flaw: Option<String>,
    /// The beginning of the name that came, where no such tool is offered: for people, and never sent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub called: String,
}

impl Call {
    /// What a person is told that was called.
    pub fn shown(&self) -> String {
        match self.called.is_empty() {
            true => self.name.clone(),
            false => format!("{:?}, which is not offered", self.called),
        }
    }
}

impl Message {
    /// As the server wants it.
    pub fn wire(&self) -> Value {
        match self {
            Message::System { content } => json!({"role": "system", "content": content}),
            Message::User { content } => json!({"role": "user", "content": content}),
            Message::Tool { id, content } => json!({"role": "tool", "tool_call_id": id, "content": content}),
            Message::Assistant { content, calls } => {
                let mut message = json!({"role": "assistant", "content": content});
                if !calls.is_empty() {
                    let calls = calls.iter().map(|call| {
                        let arguments = Value::Object(call.arguments.clone()).to_string();
                        json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}})
                    });
                    message["tool_calls"] = calls.collect();
                }
                message
            }
        }
    }

    /// Bytes of text in it, for estimates.
    pub fn bytes(&self) -> usize {
        match self {
            Message::System { content } | Message::User { content } | Message::Tool { content, .. } => content.len(),
            Message::Assistant { content, calls } => {
                let of_call = |c: &Call| c.name.len() + Value::Object(c.arguments.clone()).to_string().len();
                content.len() + calls.iter().map(of_call).sum::<usize>()
            }
        }
    }
}

/// A tool as the model is told of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolSpec {
    pub name: String,
    pub description: String,
    /// JSON Schema of its arguments.
    pub schema: Value,
}

/// Tokens that the server says it counted; 0 where it counted none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub prompt: u64,
    pub completion: u64,
}

/// What is asked.
pub struct Request<'r> {
    pub messages: &'r [Message],
    pub tools: &'r [ToolSpec],
    /// Tokens that the answer may have.
    pub answer_tokens: u64,
}

/// What a model said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub content: String,
    pub reasoning: String,
    pub calls: Vec<Call>,
    /// The calls were written as text: their results must come back as text too, since such a server may know no other.
    pub plain: bool,
    /// The server stopped at the limit of tokens.
    pub cut: bool,
    pub usage: Option<Usage>,
    /// Bytes that the model wrote, what could not be read among them: what is paid for where nobody counts.
    pub said: u64,
    /// Of the answer as it came.
    pub bytes: u64,
}

/// Why there is no answer, by what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// 429: wait as told.
    Limited,
    /// 5xx, or an error document.
    Server,
    /// Nothing came for too long, or the whole took too long.
    Timeout,
    /// The connection could not be made, was reset, or ended in mid-answer.
    Connection,
    /// HTML, or anything else that is no answer.
    NotJson,
    /// More than an answer can be.
    TooLarge,
    /// The conversation is too long for the model.
    Context,
    /// The server does not know a field that can be left out: it is, from here on.
    Unsupported,
    /// Wrong key, model, address, or request: trying again will not help.
    Refused,
    /// We were told to stop waiting.
    Stopped,
}

impl Trouble {
    /// Whether the same request may succeed later.
    pub fn passes(self) -> bool {
        use Trouble::*;
        matches!(self, Limited | Server | Timeout | Connection | NotJson | TooLarge | Unsupported)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub trouble: Trouble,
    /// In words, redacted.
    pub what: String,
    /// The server asked to be left alone for so long.
    pub after: Option<Duration>,
    /// Bytes of an answer that had come: a model was at work, and somebody pays for it. A complaint or a page of HTML is
    /// no answer.
    pub received: u64,
    /// What the server had counted by then.
    pub usage: Option<Usage>,
}

impl Failure {
    fn new(trouble: Trouble, what: impl Into<String>) -> Failure {
        Failure { trouble, what: what.into(), after: None, received: 0, usage: None }
    }
}

/// The most that is read of one answer. A kernel has some thousands of bytes.
const MOST_BYTES: u64 = 8 << 20;
/// What a call of a tool that there is not is named, so that nothing that a model makes up is sent back as a name.
pub const UNKNOWN: &str = "unknown";
/// The most calls of one message that are carried out.
const MOST_CALLS: usize = 16;
/// The most that are answered at all.
const MOST_ANSWERED: usize = 4 * MOST_CALLS;
