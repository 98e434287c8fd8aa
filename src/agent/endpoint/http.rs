//! One HTTP request and what comes back, bounded in bytes and in time.

use std::cell::Cell;
use std::future::Future;
use std::time::{Duration, Instant, SystemTime};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Response, redirect};
use serde_json::{Value, json};

use super::assemble::{Assembler, classify, complaint, mend};
use super::sse::{ERROR, Event, Events, MARK};
use super::{Answer, Failure, MOST_BYTES, Message, Request, Settings, Trouble, retry};
use crate::agent::codes::ENDPOINT_CONFIG;
use crate::agent::redact::Redactor;
use crate::error::{Error, Result};

/// How often a wait is interrupted to see whether it is still wanted.
const BEAT: Duration = Duration::from_millis(50);
/// How long a server may take to say how many tokens it counted.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// An error's document is shorter; a page of HTML need not be read to its end.
const MOST_COMPLAINT: usize = 64 << 10;
/// Characters of a complaint that are shown.
const MOST_SHOWN: usize = 340;

pub struct Client {
    settings: Settings,
    redactor: Redactor,
    http: reqwest::Client,
    runtime: tokio::runtime::Runtime,
    /// What the server turned out not to know.
    dropped: Cell<Dropped>,
}

#[derive(Clone, Copy, Default)]
struct Dropped {
    stream_options: bool,
    max_tokens: bool,
}

impl Client {
    pub fn new(settings: Settings) -> Result<Client> {
        let fail = |what: String| Error::new(&ENDPOINT_CONFIG, format!("no HTTP client can be made: {what}"));
        let mut http = reqwest::Client::builder()
            .connect_timeout(settings.idle.min(Duration::from_secs(20)))
            // A redirect would carry the conversation to somewhere that the user did not name.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("assay/", env!("CARGO_PKG_VERSION")));
        // A proxy to the world outside does not lead to this machine.
        if matches!(settings.url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            http = http.no_proxy();
        }
        let http = http.build().map_err(|e| fail(e.without_url().to_string()))?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| fail(e.to_string()))?;
        Ok(Client { redactor: settings.redactor(), settings, http, runtime, dropped: Cell::default() })
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Asks once. `limit` bounds the whole, `stop` is looked at while waiting.
    pub fn ask(&self, request: &Request<'_>, limit: Duration, stop: &dyn Fn() -> bool) -> Result<Answer, Failure> {
        let names: Vec<&str> = request.tools.iter().map(|t| t.name.as_str()).collect();
        let watch = Watch { idle: self.settings.idle, until: Instant::now() + limit.min(self.settings.total), stop };
        let (mut received, mut assembler) = (0, Assembler::default());
        let result = self.runtime.block_on(self.exchange(request, &watch, &mut received, &mut assembler));
        match result {
            Ok(()) => {
                let mut answer = assembler.answer(&names, &self.redactor);
                answer.bytes = received;
                Ok(answer)
            }
            Err(mut failure) => {
                // Redacted whole, and cut then.
                failure.what = self.redactor.text(&failure.what).chars().take(MOST_SHOWN).collect();
                (failure.received, failure.usage) = (received, assembler.usage());
                if failure.trouble == Trouble::Unsupported {
                    self.drop_field(&mut failure);
                }
                Err(failure)
            }
        }
    }

    /// The server told which field it does not take; if that one is left out already, it is of no use to ask again.
    fn drop_field(&self, failure: &mut Failure) {
        let mut dropped = self.dropped.get();
        let fresh = match failure.what.contains("stream_options") {
            true => !std::mem::replace(&mut dropped.stream_options, true),
            false => !std::mem::replace(&mut dropped.max_tokens, true),
        };
        self.dropped.set(dropped);
        if !fresh {
            failure.trouble = Trouble::Refused;
        }
    }

    /// Bytes of the request, which a server makes no more tokens of.
    pub fn bytes(&self, request: &Request<'_>) -> u64 {
        self.body(request).to_string().len() as u64
    }

    fn body(&self, request: &Request<'_>) -> Value {
        let dropped = self.dropped.get();
        let limit = if dropped.max_tokens { "max_completion_tokens" } else { "max_tokens" };
        let mut body = json!({
            "model": self.settings.model,
            "messages": request.messages.iter().map(Message::wire).collect::<Vec<_>>(),
            limit: request.answer_tokens,
        });
        if !request.tools.is_empty() {
            let tools = request.tools.iter().map(|tool| {
                let function = json!({"name": tool.name, "description": tool.description, "parameters": tool.schema});
                json!({"type": "function", "function": function})
            });
            body["tools"] = tools.collect();
        }
        if let Some(temperature) = self.settings.temperature {
            body["temperature"] = temperature.into();
        }
        if self.settings.stream {
            body["stream"] = true.into();
            if !dropped.stream_options {
                body["stream_options"] = json!({"include_usage": true});
            }
        }
        body
    }

    async fn exchange(
        &self,
        request: &Request<'_>,
        watch: &Watch<'_>,
        received: &mut u64,
        assembler: &mut Assembler,
    ) -> Result<(), Failure> {
        let mut post = self.http.post(self.settings.url.clone()).header(CONTENT_TYPE, "application/json");
        if let Some(key) = &self.settings.key {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.reveal()))
                .map_err(|_| Failure::new(Trouble::Refused, "the key fits in no HTTP header"))?;
            value.set_sensitive(true);
            post = post.header(AUTHORIZATION, value);
        }
        let sent = post.body(self.body(request).to_string()).send();
        let response = watch.wait(sent).await?.map_err(connection)?;
        let status = response.status();
        if !status.is_success() {
            return Err(self.refusal(response, watch).await);
        }
        let read = self.read(response, watch, received, assembler, request.answer_tokens).await;
        // A complaint in the place of an answer is none; one in the middle of an answer is.
        let broke = |failure: &Failure| matches!(failure.trouble, Trouble::Connection | Trouble::NotJson);
        if read.as_ref().is_err_and(|failure| !assembler.seen() && !broke(failure)) {
            *received = 0;
        }
        read
    }

    /// What an answer with a status other than 2xx means.
    async fn refusal(&self, mut response: Response, watch: &Watch<'_>) -> Failure {
        let status = response.status().as_u16();
        let after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok());
        let after = after.and_then(|v| retry::after(v, SystemTime::now()));
        let mut body = Vec::new();
        // A complaint that breaks off is as good as a short one.
        while let Ok(Ok(Some(bytes))) = watch.wait(response.chunk()).await {
            body.extend_from_slice(&bytes);
            if body.len() > MOST_COMPLAINT {
                break;
            }
        }
        let text = String::from_utf8_lossy(&body);
        let mut failure = match serde_json::from_str::<Value>(&text) {
            Ok(value) => {
                let error = value.get("error").filter(|e| !e.is_null()).cloned();
                complaint(status, &error.unwrap_or(value))
            }
            Err(_) => {
                let page = text.trim_start().starts_with('<');
                classify(status, if page { "" } else { &text }, if page { "a page of HTML" } else { text.trim() })
            }
        };
        if matches!(status, 401 | 403) {
            // Whose key that is, before what the server says at length.
            let name = &self.settings.key_name;
            let sent = match self.settings.key {
                Some(_) => format!("to the key in the variable {name}"),
                None => format!("to a request without a key, since the variable {name} is not set"),
            };
            failure.what = failure.what.replacen(&status.to_string(), &format!("{status} {sent}"), 1);
        }
        failure.after = after;
        failure
    }

    async fn read(
        &self,
        mut response: Response,
        watch: &Watch<'_>,
        received: &mut u64,
        assembler: &mut Assembler,
        allowed: u64,
    ) -> Result<(), Failure> {
        let mut body = Body::Unknown(Vec::new());
        let mut ended = false;
        // Since when, and how much had been said by then.
        let mut last_word: Option<(Instant, u64)> = None;
        while !ended {
            // After its last word a server owes at most a count of tokens; some keep the connection open, or talk on. Others say
            // too early why the answer ended: what still brings something of it comes before the last word.
            if assembler.finished() && last_word.is_none_or(|(_, said)| said != assembler.said()) {
                last_word = Some((Instant::now(), assembler.said()));
            }
            // One that never pauses is never waited for, so that its time is looked at here.
            match watch.over() {
                Some(_) if assembler.finished() => break,
                Some(failure) => return Err(failure),
                None => {}
            }
            if last_word.is_some_and(|(since, _)| since.elapsed() >= LAST_WORDS) {
                break;
            }
            let owed = |(since, _): (Instant, u64)| watch.idle.min(LAST_WORDS).saturating_sub(since.elapsed());
            let patience = last_word.map_or(watch.idle, owed);
            let chunk = match watch.wait_for(patience, response.chunk()).await {
                Ok(Ok(Some(bytes))) => bytes,
                Ok(Ok(None)) => break,
                Ok(Err(_)) | Err(_) if assembler.finished() => break,
                Ok(Err(e)) => return Err(connection(e)),
                Err(failure) => return Err(failure),
            };
            *received += chunk.len() as u64;
            if *received > MOST_BYTES {
                let what = format!("the answer is longer than {} MiB; it was not read further", MOST_BYTES >> 20);
                return Err(Failure::new(Trouble::TooLarge, what));
            }
            body.push(&chunk);
            if let Body::Stream(events) = &mut body {
                let fed = feed(events.take(), assembler);
                // What is nonsense behind its last word takes nothing from an answer.
                ended = if assembler.finished() { fed.unwrap_or(true) } else { fed? };
                // A server that knows no limit is not listened to beyond it, and stops when nobody listens.
                let longer = match assembler.finished() {
                    false => assembler.passes(allowed),
                    true => assembler.overflows(allowed),
                };
                if !ended && longer {
                    assembler.cut();
                    return Ok(());
                }
            }
        }
        match body {
            Body::Stream(mut events) => {
                // Nor does half an event.
                let rest = feed(events.finish(), assembler);
                if !ended && !assembler.finished() {
                    rest?;
                    return Err(Failure::new(Trouble::Connection, "the stream ended in the middle of the answer"));
                }
            }
            Body::Document(bytes) | Body::Unknown(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                let text = text.trim().trim_start_matches(MARK);
                let parsed = serde_json::from_str(text).or_else(|_| serde_json::from_str::<Value>(&mend(text)));
                if parsed.is_err() && !text.starts_with('{') {
                    // Half of a completion would begin as one.
                    *received = 0;
                }
                let document = parsed.map_err(|e| match text.is_empty() {
                    true => Failure::new(Trouble::NotJson, "the server answered with nothing at all"),
                    false if e.is_eof() => {
                        Failure::new(Trouble::Connection, "the answer ends in the middle of its JSON")
                    }
                    false if text.starts_with('<') => {
                        Failure::new(Trouble::NotJson, "the server answered with a page of HTML instead of JSON")
                    }
                    false => Failure::new(Trouble::NotJson, format!("the server's answer is not JSON ({e})")),
                })?;
                assembler.feed(&document)?;
            }
        }
        if !assembler.seen() {
            *received = 0;
            return Err(Failure::new(
                Trouble::NotJson,
                "the server's answer has no `choices`: it is no chat completion",
            ));
        }
        Ok(())
    }
}

/// Hands events on; says whether the stream has ended by its own word.
fn feed(events: Vec<Event>, assembler: &mut Assembler) -> Result<bool, Failure> {
    for Event { name, data } in events {
        if data.trim() == "[DONE]" {
            return Ok(true);
        }
        let parsed = serde_json::from_str(&data).or_else(|_| serde_json::from_str::<Value>(&mend(&data)));
        // What calls itself an error is one, whatever form it has.
        if name == ERROR {
            let document = parsed.unwrap_or(Value::String(data));
            let error = document.get("error").filter(|e| !e.is_null()).cloned();
            return Err(complaint(200, &error.unwrap_or(document)));
        }
        let document =
            parsed.map_err(|e| Failure::new(Trouble::NotJson, format!("an event of the stream is not JSON ({e})")))?;
        assembler.feed(&document)?;
    }
    Ok(false)
}

/// A body by what it is, not by what its header says: servers stream where nobody asked, and do not where one did.
enum Body {
    Unknown(Vec<u8>),
    Stream(Events),
    Document(Vec<u8>),
}

impl Body {
    fn push(&mut self, bytes: &[u8]) {
        match self {
            Body::Stream(events) => events.push(bytes),
            Body::Document(all) => all.extend_from_slice(bytes),
            Body::Unknown(all) => {
                all.extend_from_slice(bytes);
                let mut mark = [0; 3];
                let start = all.trim_ascii_start();
                let start =
                    start.strip_prefix(MARK.encode_utf8(&mut mark).as_bytes()).unwrap_or(start).trim_ascii_start();
                let start = &start[..start.len().min(6)];
                let event = [&b"data:"[..], b"event:", b"id:", b"retry:", b":"];
                if event.iter().any(|e| start.starts_with(e)) {
                    let mut events = Events::default();
                    events.push(all);
                    *self = Body::Stream(events);
                } else if start.len() == 6 {
                    *self = Body::Document(std::mem::take(all));
                }
            }
        }
    }
}

/// An I/O failure without the address: whoever reads it knows that, and a proxy's may hold a password.
fn connection(e: reqwest::Error) -> Failure {
    let timeout = e.is_timeout();
    let connect = e.is_connect();
    let e = e.without_url();
    // The outermost error says only that there was one.
    let mut cause: &dyn std::error::Error = &e;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match (timeout, connect) {
        (true, _) => Failure::new(Trouble::Timeout, "the server did not answer in time"),
        (_, true) => Failure::new(Trouble::Connection, format!("the server cannot be reached: {cause}")),
        _ => Failure::new(Trouble::Connection, format!("the connection broke: {cause}")),
    }
}

/// Bounds every wait.
struct Watch<'w> {
    idle: Duration,
    until: Instant,
    stop: &'w dyn Fn() -> bool,
}

impl Watch<'_> {
    /// Why nothing more is waited for, however much comes.
    fn over(&self) -> Option<Failure> {
        if (self.stop)() {
            return Some(Failure::new(Trouble::Stopped, "stopped while waiting for the server"));
        }
        let late = Instant::now() >= self.until;
        late.then(|| Failure::new(Trouble::Timeout, "the answer took too long"))
    }

    async fn wait<T>(&self, future: impl Future<Output = T>) -> Result<T, Failure> {
        self.wait_for(self.idle, future).await
    }

    async fn wait_for<T>(&self, idle: Duration, future: impl Future<Output = T>) -> Result<T, Failure> {
        let mut future = std::pin::pin!(future);
        let silent = Instant::now() + idle;
        loop {
            if let Ok(done) = tokio::time::timeout(BEAT, &mut future).await {
                return Ok(done);
            }
            if let Some(failure) = self.over() {
                return Err(failure);
            }
            if Instant::now() >= silent {
                let what = format!("nothing came from the server for {:.1} s", idle.as_secs_f64());
                return Err(Failure::new(Trouble::Timeout, what));
            }
        }
    }
}
