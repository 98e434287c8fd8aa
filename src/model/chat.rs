//! The prompt layout: turns of a conversation → one text with the markers between them (docs/model.md §16.4).
//!
//! No newline or space stands around a marker, and the layout is encoded as a whole, so that literals of special tokens
//! within a turn count as such: that is how the model was trained to see tool calls.

use super::tokenizer::{Special, Tokenizer};
use crate::Result;

/// Whether the model thinks before it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Thinking {
    #[default]
    Off,
    On,
}

/// One turn. Earlier reasoning is dropped from the layout unless [`Conversation::keep_reasoning`] says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    User(String),
    Assistant { reasoning: Option<String>, text: String },
}

impl Turn {
    pub fn user(text: impl Into<String>) -> Turn {
        Turn::User(text.into())
    }

    pub fn assistant(text: impl Into<String>) -> Turn {
        Turn::Assistant { reasoning: None, text: text.into() }
    }
}

/// What is said so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// System messages; they are joined by a blank line and have no marker of their own.
    pub system: Vec<String>,
    pub turns: Vec<Turn>,
    /// Keep the reasoning of turns before the last user turn, as conversations with tools do.
    pub keep_reasoning: bool,
}

impl Conversation {
    /// One user turn and nothing else: what `assay run -p` asks.
    pub fn ask(text: impl Into<String>) -> Conversation {
        Conversation { turns: vec![Turn::user(text)], ..Conversation::default() }
    }

    /// The prompt as text, up to and with the marker that asks for the next answer.
    pub fn layout(&self, thinking: Thinking) -> String {
        let mut out = String::from(Special::Bos.literal());
        out.push_str(&self.system.join("\n\n"));
        let last_user = self.turns.iter().rposition(|t| matches!(t, Turn::User(_)));
        for (i, turn) in self.turns.iter().enumerate() {
            match turn {
                Turn::User(text) => {
                    out.push_str(Special::User.literal());
                    out.push_str(text);
                }
                Turn::Assistant { reasoning, text } => {
                    let kept = self.keep_reasoning || last_user.is_none_or(|last| i > last);
                    out.push_str(Special::Assistant.literal());
                    if let Some(reasoning) = reasoning.as_ref().filter(|_| kept) {
                        out.push_str(Special::Think.literal());
                        out.push_str(reasoning);
                    }
                    out.push_str(Special::EndThink.literal());
                    out.push_str(text);
                    out.push_str(Special::Eos.literal());
                }
            }
        }
        out.push_str(Special::Assistant.literal());
        out.push_str(match thinking {
            Thinking::On => Special::Think.literal(),
            Thinking::Off => Special::EndThink.literal(),
        });
        out
    }

    /// The prompt as token ids. Errors: `tokenizer-special` where the vocabulary lacks a marker, `tokenizer-byte`.
    pub fn prompt(&self, tokenizer: &Tokenizer, thinking: Thinking) -> Result<Vec<u32>> {
        // Without its token, a marker would be spelled out and the model would read it as text.
        for marker in [Special::Bos, Special::Eos, Special::User, Special::Assistant, Special::Think, Special::EndThink]
        {
            tokenizer.require(marker)?;
        }
        tokenizer.encode(&self.layout(thinking))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_question() {
        let ask = Conversation::ask("Hi");
        assert_eq!(ask.layout(Thinking::Off), "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜></think>");
        assert_eq!(ask.layout(Thinking::On), "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜><think>");
    }

    #[test]
    fn earlier_reasoning_is_dropped() {
        let mut c = Conversation {
            system: vec!["Be brief.".into(), "Be right.".into()],
            turns: vec![
                Turn::user("1+1?"),
                Turn::Assistant { reasoning: Some("easy".into()), text: "2".into() },
                Turn::user("2+2?"),
            ],
            keep_reasoning: false,
        };
        assert_eq!(
            c.layout(Thinking::On),
            "<｜begin▁of▁sentence｜>Be brief.\n\nBe right.<｜User｜>1+1?<｜Assistant｜></think>2<｜end▁of▁sentence｜>\
             <｜User｜>2+2?<｜Assistant｜><think>"
        );
        c.keep_reasoning = true;
        assert!(c.layout(Thinking::On).contains("<｜Assistant｜><think>easy</think>2"));
    }
}
