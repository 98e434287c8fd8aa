//! A scripted server of chat completions on plain sockets: nothing else can cut a stream or reset a connection where a
//! test wants it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// What is done with one request.
pub enum Reply {
    /// 200 and this document.
    Json(Value),
    /// A status, header lines, a body.
    Status(u16, &'static str, String),
    /// 200, an event stream in these pieces, each followed by a flush; then the connection ends.
    Stream(Vec<Vec<u8>>),
    /// An event stream as well, with so many milliseconds before each piece.
    Slow(u64, Vec<Vec<u8>>),
    /// Stream, and then silence with the connection open.
    StreamThenSilence(Vec<Vec<u8>>),
    /// The connection is reset.
    Reset,
    /// No answer at all.
    Silence,
    /// So many megabytes of one string.
    Huge(usize),
    /// These bytes, and nothing else.
    Raw(Vec<u8>),
    /// 200, an event stream that begins with these bytes and goes on with comments, a byte at a time, for ever.
    Drip(Vec<u8>),
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub head: String,
    pub body: Value,
}

impl Seen {
    pub fn messages(&self) -> &[Value] {
        self.body["messages"].as_array().unwrap()
    }
}

pub struct Server {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
}

type Script = dyn Fn(usize, &Seen) -> Reply + Send + Sync;

impl Server {
    /// `script` is asked with the number of the request, from 0, and the request.
    pub fn start(script: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let script: Arc<Script> = Arc::new(script);
        let (log, over) = (seen.clone(), stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let (script, log, over) = (script.clone(), log.clone(), over.clone());
                std::thread::spawn(move || drop(serve(stream, &*script, &log, &over)));
            }
        });
        Server { url, seen, stop }
    }

    /// Answers in turn; the last one is given for ever.
    pub fn with(replies: Vec<fn() -> Reply>) -> Server {
        Server::start(move |n, _| replies[n.min(replies.len() - 1)]())
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let address = self.url.trim_start_matches("http://").trim_end_matches("/v1").to_string();
        let _ = TcpStream::connect(address);
    }
}

fn serve(mut stream: TcpStream, script: &Script, log: &Mutex<Vec<Seen>>, over: &AtomicBool) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 65536];
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let length = head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let length: usize = length.unwrap_or(0);
    while bytes.len() < end + 4 + length {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    }
    let body = serde_json::from_slice(&bytes[end + 4..]).unwrap_or(Value::Null);
    let seen = Seen { head, body };
    let number = {
        let mut log = log.lock().unwrap();
        log.push(seen.clone());
        log.len() - 1
    };
    let mut send = |text: &str| stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
    match script(number, &seen) {
        Reply::Json(value) => {
            let text = value.to_string();
            send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                text.len()
            ))
        }
        Reply::Status(status, headers, body) => send(&format!(
            "HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )),
        reply @ (Reply::Stream(_) | Reply::StreamThenSilence(_)) => {
            send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")?;
            let silent = matches!(reply, Reply::StreamThenSilence(_));
            let (Reply::Stream(pieces) | Reply::StreamThenSilence(pieces)) = reply else { unreachable!() };
            for piece in pieces {
                stream.write_all(&piece)?;
                stream.flush()?;
                std::thread::sleep(Duration::from_millis(2));
            }
            while silent && !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        }
        Reply::Slow(pause, pieces) => {
            send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")?;
            for piece in pieces {
                std::thread::sleep(Duration::from_millis(pause));
                stream.write_all(&piece)?;
                stream.flush()?;
            }
            Ok(())
        }
        Reply::Reset => {
            // Nothing lingers: what is closed is reset.
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))
        }
        Reply::Silence => {
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        }
        Reply::Raw(bytes) => stream.write_all(&bytes),
        Reply::Drip(bytes) => {
            send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")?;
            stream.write_all(&bytes)?;
            for byte in b": still at work\n".iter().cycle() {
                stream.write_all(&[*byte])?;
                std::thread::sleep(Duration::from_millis(10));
                if over.load(Ordering::Relaxed) {
                    break;
                }
            }
            Ok(())
        }
        Reply::Huge(megabytes) => {
            send("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")?;
            send("{\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"")?;
            let block = vec![b'a'; 1 << 20];
            for _ in 0..megabytes {
                stream.write_all(&block)?;
            }
            stream.write_all(b"\"}}]}")
        }
    }
}

/// A whole answer: text, calls as (name, arguments), and a count of tokens.
pub fn answer(content: &str, calls: &[(&str, Value)], usage: (u64, u64)) -> Value {
    let calls: Vec<Value> = calls
        .iter()
        .enumerate()
        .map(|(i, (name, arguments))| {
            json!({"id": format!("c{i}"), "type": "function", "function": {"name": name, "arguments": arguments.to_string()}})
        })
        .collect();
    json!({
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content, "tool_calls": calls}}],
        "usage": {"prompt_tokens": usage.0, "completion_tokens": usage.1, "total_tokens": usage.0 + usage.1},
    })
}

/// The same as a stream, a piece of a call at a time.
pub fn streamed(content: &str, calls: &[(&str, Value)], usage: (u64, u64)) -> Vec<Vec<u8>> {
    let event = |value: Value| format!("data: {value}\n\n").into_bytes();
    let delta = |delta: Value| event(json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]}));
    let mut out = vec![delta(json!({"role": "assistant", "content": content}))];
    for (i, (name, arguments)) in calls.iter().enumerate() {
        out.push(delta(json!({"tool_calls": [{"index": i, "id": format!("c{i}"), "type": "function",
            "function": {"name": name, "arguments": ""}}]})));
        let text = arguments.to_string();
        let half = (0..=text.len() / 2).rev().find(|at| text.is_char_boundary(*at)).unwrap();
        for part in [&text[..half], &text[half..]] {
            out.push(delta(json!({"tool_calls": [{"index": i, "function": {"arguments": part}}]})));
        }
    }
    out.push(event(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})));
    out.push(event(json!({"choices": [], "usage": {"prompt_tokens": usage.0, "completion_tokens": usage.1}})));
    out.push(b"data: [DONE]\n\n".to_vec());
    out
}
