//! Standard input and output, a message a line. What is no message is answered as JSON-RPC asks, so that no client waits
//! for an answer that never comes; what is a call and cannot be read as one stands in the transcript like every other.
//!
//! rmcp's own transport passes over such lines without a word.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::mpsc as blocking;

use rmcp::model::{ClientRequest, ErrorCode, GetMeta as _, ProtocolVersion};
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::{RoleServer, model};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::agent::desk::{cap, printable};
use crate::agent::session::Session;

/// Bytes of a message: more than any tool takes, written as JSON.
const MOST: usize = 16 << 20;
/// Bytes of one that is longer in which its id is looked for.
const HEAD: usize = 64 << 10;

/// What was read.
enum Line {
    Whole(Vec<u8>),
    /// Longer than [`MOST`]: its beginning.
    TooLong(Vec<u8>),
}

type Written = (Vec<u8>, oneshot::Sender<std::io::Result<()>>);

pub(super) struct Door {
    lines: mpsc::Receiver<Line>,
    out: Option<blocking::Sender<Written>>,
    /// Answers of the door's own that are not written yet.
    refusals: Vec<oneshot::Receiver<std::io::Result<()>>>,
    session: Arc<Session>,
    /// The client has said who it is.
    met: bool,
}

impl Door {
    /// A thread for each direction: neither waits for the other, nor for a verdict.
    pub(super) fn new(session: Arc<Session>) -> Door {
        let (to, lines) = mpsc::channel(4);
        std::thread::spawn(move || {
            let mut input = std::io::stdin().lock();
            while let Ok(Some(line)) = line(&mut input)
                && to.blocking_send(line).is_ok()
            {}
        });
        let (out, from) = blocking::channel::<Written>();
        std::thread::spawn(move || {
            let mut output = std::io::stdout().lock();
            for (bytes, done) in from {
                // Nobody may wait for it any more.
                let _ = done.send(output.write_all(&bytes).and_then(|()| output.flush()));
            }
        });
        Door { lines, out: Some(out), refusals: Vec::new(), session, met: false }
    }

    /// Hands a line to the thread that writes; gives when it is written.
    fn write(&self, value: Vec<u8>) -> oneshot::Receiver<std::io::Result<()>> {
        let (done, written) = oneshot::channel();
        if let Some(out) = &self.out {
            // Where that thread is gone the receiver says so.
            let _ = out.send((value, done));
        }
        written
    }

    fn refuse(&mut self, id: &Value, code: ErrorCode, what: &str) {
        let error = json!({ "code": code.0, "message": what });
        let text = json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string() + "\n";
        let written = self.write(text.into_bytes());
        self.refusals.push(written);
    }

    /// The message that a line holds, if it holds one.
    fn message(&mut self, line: Line) -> Option<RxJsonRpcMessage<RoleServer>> {
        let bytes = match line {
            Line::Whole(bytes) => bytes,
            Line::TooLong(head) => {
                let what = format!("a message has at most {MOST} bytes; this one was not read");
                self.refuse(&id_in(&head), ErrorCode::INVALID_REQUEST, &what);
                return None;
            }
        };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        let value: Value = match serde_json::from_slice(&bytes) {
            Ok(value) => value,
            Err(e) => {
                self.refuse(&Value::Null, ErrorCode::PARSE_ERROR, &format!("this line is no JSON: {e}"));
                return None;
            }
        };
        let method = value.get("method").and_then(Value::as_str).map(|name| cap(printable(name), 60));
        let named = value.get("method").is_some();
        let asks = value.get("id").is_some();
        let id = value.get("id").filter(|id| id.is_string() || id.is_i64() || id.is_u64()).cloned();
        let answers = value.get("result").is_some() || value.get("error").is_some();
        let params = value.get("params").cloned().unwrap_or_default();
        let bare = without_params(&value);
        let read = serde_json::from_value::<RxJsonRpcMessage<RoleServer>>(value);
        match (read, method) {
            (Ok(message), method) if !self.met && !self.meets(&message) => {
                if let (model::JsonRpcMessage::Request(request), Some(method)) = (message, method) {
                    let what = format!(
                        "{method} came before initialize: a client says first who it is, with initialize and then \
                         notifications/initialized"
                    );
                    self.note(&method, &params, &what);
                    self.refuse(&json!(request.id), ErrorCode::INVALID_REQUEST, &what);
                }
                // A notification is no reason to be gone for the client that comes now.
                None
            }
            (Ok(model::JsonRpcMessage::Request(request)), method) => match (&request.request, method) {
                (ClientRequest::CustomRequest(custom), Some(method)) if METHODS.contains(&custom.method.as_str()) => {
                    self.misfit(&method, &json!(request.id), &params);
                    None
                }
                _ => Some(model::JsonRpcMessage::Request(request)),
            },
            (Ok(message), _) => Some(message),
            // Of a notification, and of an answer, nobody waits for a word.
            (Err(_), _) if (named && !asks) || (!named && answers) => None,
            (Err(_), method) => {
                match (method, id, bare) {
                    // But for the parameters it is a request.
                    (Some(method), Some(id), Some(false)) => self.misfit(&method, &id, &params),
                    (Some(method), Some(id), Some(true)) => {
                        self.refuse(&id, ErrorCode::METHOD_NOT_FOUND, &format!("there is no method {method}"));
                    }
                    (_, id, _) => {
                        let what = "this is no request: it needs \"jsonrpc\": \"2.0\", an \"id\" and a \"method\"";
                        self.refuse(&id.unwrap_or_default(), ErrorCode::INVALID_REQUEST, what);
                    }
                }
                None
            }
        }
    }

    /// Whether a client may begin with this message. A later protocol than those with `initialize` has the client's name in
    /// every request.
    fn meets(&mut self, message: &RxJsonRpcMessage<RoleServer>) -> bool {
        let model::JsonRpcMessage::Request(request) = message else { return false };
        let (fits, met) = match &request.request {
            ClientRequest::PingRequest(_) => (true, false),
            ClientRequest::InitializeRequest(_) => (true, true),
            request => {
                let whole = request.get_meta().missing_required_keys(&ProtocolVersion::V_2026_07_28).is_empty();
                (whole, whole && !matches!(request, ClientRequest::DiscoverRequest(_)))
            }
        };
        self.met = met;
        fits
    }

    /// Answers a request with other parameters than its method takes.
    fn misfit(&mut self, method: &str, id: &Value, params: &Value) {
        let what = needs(method);
        self.note(method, params, &what);
        self.refuse(id, ErrorCode::INVALID_PARAMS, &what);
    }

    /// A call that could not be read is one that was tried.
    fn note(&self, method: &str, params: &Value, what: &str) {
        if [CALL, READ].contains(&method)
            && let Ok(call) = self.session.called(method, params)
        {
            // The line before it says what came; without this one it only has no answer.
            let _ = self.session.answered(call, false, what);
        }
    }
}

const CALL: &str = "tools/call";
/// Methods of this server that take parameters: what it cannot read of them is no unknown method.
const METHODS: [&str; 5] = [CALL, READ, "initialize", "tools/list", "resources/list"];
const READ: &str = "resources/read";

fn needs(method: &str) -> String {
    let params = match method {
        CALL => r#"{"name": TOOL, "arguments": {…}}"#,
        READ => r#"{"uri": URI}"#,
        "initialize" => r#"{"protocolVersion": …, "capabilities": {…}, "clientInfo": {…}}"#,
        "tools/list" | "resources/list" => "none, or {\"cursor\": …}",
        _ => "an object, or none",
    };
    format!("the parameters of {method} are not what it takes: {params}")
}

/// Whether a line with parameters that are no object would be a request of a method that is not known here; `None`: it would
/// be none, or there is nothing wrong with its parameters.
fn without_params(value: &Value) -> Option<bool> {
    value.get("params").filter(|params| !params.is_object())?;
    let field = |name: &str| value.get(name).cloned().unwrap_or_default();
    let bare = json!({ "jsonrpc": field("jsonrpc"), "id": field("id"), "method": field("method") });
    match serde_json::from_value(bare).ok()? {
        RxJsonRpcMessage::<RoleServer>::Request(request) => Some(match &request.request {
            ClientRequest::CustomRequest(custom) => !METHODS.contains(&custom.method.as_str()),
            _ => false,
        }),
        _ => None,
    }
}

/// The next line. A longer one than [`MOST`] is passed over but for its beginning.
fn line(input: &mut impl BufRead) -> std::io::Result<Option<Line>> {
    let (mut bytes, mut long) = (Vec::new(), false);
    loop {
        let piece = input.fill_buf()?;
        if piece.is_empty() {
            // What no newline ends is no message.
            return Ok(None);
        }
        let end = piece.iter().position(|b| *b == b'\n');
        let taken = end.map_or(piece.len(), |at| at + 1);
        if !long {
            bytes.extend_from_slice(&piece[..taken]);
        }
        input.consume(taken);
        if bytes.len() > MOST {
            long = true;
            bytes.truncate(HEAD);
            bytes.shrink_to_fit();
        }
        if end.is_some() {
            return Ok(Some(if long { Line::TooLong(bytes) } else { Line::Whole(bytes) }));
        }
    }
}

/// The id in the beginning of a message that is too long to be read: the value of `id` in the outermost object.
fn id_in(head: &[u8]) -> Value {
    let (mut depth, mut at) = (0, 0);
    while at < head.len() {
        match head[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b'"' => {
                let end = string_end(head, at);
                let key = head.get(at..end).unwrap_or_default();
                let rest = head.get(end..).unwrap_or_default().trim_ascii_start();
                if depth == 1
                    && key == br#""id""#
                    && let Some(value) = rest.strip_prefix(b":")
                {
                    let mut values = serde_json::Deserializer::from_slice(value).into_iter::<Value>();
                    let id = values.next().and_then(Result::ok);
                    return id.filter(|id| id.is_string() || id.is_i64() || id.is_u64()).unwrap_or_default();
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    Value::Null
}

/// Behind the string that begins at `at`.
fn string_end(text: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while end < text.len() {
        match text[end] {
            b'\\' => end += 2,
            b'"' => return end + 1,
            _ => end += 1,
        }
    }
    text.len()
}

impl Transport<RoleServer> for Door {
    type Error = std::io::Error;

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = std::io::Result<()>> + Send + 'static {
        let written = serde_json::to_vec(&item).map(|mut bytes| {
            bytes.push(b'\n');
            self.write(bytes)
        });
        async move {
            let closed = || std::io::Error::from(std::io::ErrorKind::NotConnected);
            written?.await.map_err(|_| closed())?
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            // Before the input ends, and the process with it.
            while let Some(written) = self.refusals.pop() {
                // Where it cannot be written the client is gone, which is seen by its next line.
                let _ = written.await;
            }
            let line = self.lines.recv().await?;
            if let Some(message) = self.message(line) {
                return Some(message);
            }
        }
    }

    async fn close(&mut self) -> std::io::Result<()> {
        self.out = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_message_that_is_too_long_is_found_in_its_beginning() {
        for (head, id) in [
            (r#"{"jsonrpc":"2.0","id":7,"params":{"text":"aaaa"#, json!(7)),
            (r#"{"params":{"id":3,"a":"}\"id\":4"},"id" : "x","#, json!("x")),
            (r#"{"params":{"text":"aaaa"#, Value::Null),
            (r#"{"method":"id","id":[1]"#, Value::Null),
            ("\"", Value::Null),
            ("]]{\"id\":1\\", Value::Null),
        ] {
            assert_eq!(id_in(head.as_bytes()), id, "{head}");
        }
    }
}
