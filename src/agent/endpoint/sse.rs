//! Server-sent events: bytes in any pieces, `data` out.

use super::MOST_BYTES;

/// Splits lines on bytes, so that a character cut in two by the network is whole again before it is read.
#[derive(Default)]
pub struct Events {
    line: Vec<u8>,
    /// `data` lines of the event that is being read.
    data: Vec<String>,
    /// The last line ended in a carriage return, to which a newline would belong.
    returned: bool,
    ready: Vec<String>,
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
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.ready)
    }

    /// The stream is at its end: an event without its blank line counts.
    pub fn finish(&mut self) -> Vec<String> {
        self.end_line();
        self.end_event();
        self.take()
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if line.is_empty() {
            return self.end_event();
        }
        if let Some(data) = line.strip_prefix("data:") {
            self.data.push(data.strip_prefix(' ').unwrap_or(data).to_string());
        }
    }

    fn end_event(&mut self) {
        let lines = std::mem::take(&mut self.data);
        let whole = |text: &str| text.trim() == "[DONE]" || serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
        // Some servers leave out the blank lines, and each line is an event.
        if lines.len() > 1 && lines.iter().all(|line| whole(line)) {
            self.ready.extend(lines);
        } else if !lines.is_empty() {
            self.ready.push(lines.join("\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same_events() {
        let text = ": hello\r\ndata: {\"a\":\"größe 🦀\"}\r\n\r\nevent: x\rdata:{\"b\":\rdata: 2}\r\rdata: [DONE]\n\n"
            .as_bytes();
        for cut in 0..text.len() {
            let mut events = Events::default();
            events.push(&text[..cut]);
            events.push(&text[cut..]);
            assert_eq!(events.finish(), ["{\"a\":\"größe 🦀\"}", "{\"b\":\n2}", "[DONE]"], "cut at {cut}");
        }
    }

    #[test]
    fn events_without_blank_lines_or_an_end_are_kept_apart() {
        let mut events = Events::default();
        events.push(b"data: {\"a\":1}\ndata: {\"a\":2}\ndata: [DONE]");
        assert_eq!(events.finish(), ["{\"a\":1}", "{\"a\":2}", "[DONE]"]);
    }
}
