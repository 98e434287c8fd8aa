//! Server-sent events: bytes in any pieces, events with data out.

use super::MOST_BYTES;

/// What some servers begin a text with.
pub const MARK: char = '\u{feff}';

/// What an event calls itself that is an error, whatever its form.
pub const ERROR: &str = "error";

/// One event: what it calls itself, if it does, and its data.
#[derive(Debug, PartialEq)]
pub struct Event {
    pub name: String,
    pub data: String,
}

/// Splits lines on bytes, so that a character cut in two by the network is whole again before it is read.
#[derive(Default)]
pub struct Events {
    line: Vec<u8>,
    /// `data` lines of the event that is being read.
    data: Vec<String>,
    /// What it calls itself.
    name: String,
    /// The last line ended in a carriage return, to which a newline would belong.
    returned: bool,
    ready: Vec<Event>,
}

impl Events {
    pub fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' if std::mem::take(&mut self.returned) => {}
                b'\n' | b'\r' => {
                    self.returned = byte == b'\r';
                    self.end_line();
                }
                _ => {
                    self.returned = false;
                    self.line.push(byte);
                }
            }
        }
        debug_assert!(self.line.len() as u64 <= MOST_BYTES);
    }

    /// What has come in whole.
    pub fn take(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.ready)
    }

    /// The stream is at its end: an event without its blank line counts.
    pub fn finish(&mut self) -> Vec<Event> {
        self.end_line();
        self.end_event();
        self.take()
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if line.is_empty() {
            return self.end_event();
        }
        // A byte order mark may stand before the first.
        let line = line.trim_start_matches(MARK);
        let value = |field: &str| line.strip_prefix(field).map(|v| v.strip_prefix(' ').unwrap_or(v).to_string());
        if let Some(data) = value("data:") {
            self.data.push(data);
        } else if let Some(name) = value("event:") {
            self.name = name.trim().into();
        }
    }

    fn end_event(&mut self) {
        let (lines, name) = (std::mem::take(&mut self.data), std::mem::take(&mut self.name));
        let event = |data: String| Event { name: name.clone(), data };
        let whole = |text: &str| text.trim() == "[DONE]" || serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
        // Some servers leave out the blank lines, and each line is an event.
        if lines.len() > 1 && lines.iter().all(|line| whole(line)) {
            self.ready.extend(lines.into_iter().map(event));
        } else if !lines.is_empty() || name == ERROR {
            // Without a word of what it is it is one still.
            self.ready.push(event(lines.join("\n")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut events: Events) -> Vec<(String, String)> {
        events.finish().into_iter().map(|event| (event.name, event.data)).collect()
    }

    fn own(events: &[(&str, &str)]) -> Vec<(String, String)> {
        events.iter().map(|(name, data)| (name.to_string(), data.to_string())).collect()
    }

    #[test]
    fn any_cut_gives_the_same_events() {
        let text =
            "\u{feff}data: first\n\n: hello\r\ndata: {\"a\":\"größe 🦀\"}\r\n\r\nevent: x\rdata:{\"b\":\rdata: 2}\r\r\
                    data: [DONE]\n\n"
                .as_bytes();
        let want = own(&[("", "first"), ("", "{\"a\":\"größe 🦀\"}"), ("x", "{\"b\":\n2}"), ("", "[DONE]")]);
        for cut in 0..text.len() {
            let mut events = Events::default();
            events.push(&text[..cut]);
            events.push(&text[cut..]);
            assert_eq!(read(events), want, "cut at {cut}");
        }
    }

    #[test]
    fn events_without_blank_lines_or_an_end_are_kept_apart() {
        let mut events = Events::default();
        events.push(b"data: {\"a\":1}\ndata: {\"a\":2}\ndata: [DONE]");
        assert_eq!(read(events), own(&[("", "{\"a\":1}"), ("", "{\"a\":2}"), ("", "[DONE]")]));
    }
}
