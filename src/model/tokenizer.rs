//! Text → token ids and back, from the vocabulary in the file (docs/model.md §16).
//!
//! Byte-level BPE: each byte of a piece ([`super::split`]) has a printable stand-in, and adjacent pairs are merged in the
//! order of the file's merges. Nothing is normalised and no BOS is added. Seven special tokens are found in the text by
//! their literals first; the spans between them are encoded apart.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use regex::Regex;
use tokenizers::models::bpe::{BPE, Vocab};

use super::gguf::{Gguf, Value};
use super::split::Split;
use crate::{Error, Result};

crate::codes! {
    TOKENIZER_KEYS: "tokenizer-keys", No, "The file holds no byte-pair vocabulary (tokenizer.ggml.tokens and \
        tokenizer.ggml.merges), so text cannot be turned into tokens. Commands that take token ids still work.";
    TOKENIZER_BYTE: "tokenizer-byte", No, "The vocabulary has no token for a byte of the text: byte-level BPE needs all \
        256. The file's vocabulary is incomplete; give token ids instead of text.";
    TOKENIZER_SPECIAL: "tokenizer-special", No, "The vocabulary lacks a special token that the prompt layout needs. The \
        layout cannot be written; give token ids, or a text without a layout.";
}

/// The way out where text cannot be turned into tokens. One command takes them; `run` lays out a text of its own.
const TAKES_IDS: &str = "assay logits --tokens 1,2,… takes token ids instead of text";

/// The tokens that text is searched for before anything else.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Special {
    Bos,
    Eos,
    User,
    Assistant,
    Think,
    EndThink,
    Dsml,
}

impl Special {
    pub const ALL: [Special; 7] = [
        Special::Bos,
        Special::Eos,
        Special::User,
        Special::Assistant,
        Special::Think,
        Special::EndThink,
        Special::Dsml,
    ];

    /// The token's text. The bars are U+FF5C, the low blocks U+2581.
    pub fn literal(self) -> &'static str {
        match self {
            Special::Bos => "<｜begin▁of▁sentence｜>",
            Special::Eos => "<｜end▁of▁sentence｜>",
            Special::User => "<｜User｜>",
            Special::Assistant => "<｜Assistant｜>",
            Special::Think => "<think>",
            Special::EndThink => "</think>",
            Special::Dsml => "｜DSML｜",
        }
    }
}

/// A file's tokenizer.
pub struct Tokenizer {
    /// Each token's bytes.
    tokens: Vec<Vec<u8>>,
    bpe: BPE,
    split: Split,
    /// Finds the special tokens that the vocabulary has; `None` if it has none.
    literals: Option<Regex>,
    specials: [Option<u32>; Special::ALL.len()],
    /// Whether the stand-in of each byte is a token.
    has_byte: [bool; 256],
    skipped_merges: usize,
    /// The file that it is of, for messages.
    file: Option<PathBuf>,
}

impl Tokenizer {
    /// Reads `tokenizer.ggml.tokens` and `.merges`. Of tokens with the same text the first one counts; tokens beyond
    /// `deepseek4.vocab_size` have no embedding and are left out.
    ///
    /// Errors: `tokenizer-keys`. Odd vocabularies are no error here: what they cannot encode is one when it is needed.
    pub fn from_gguf(gguf: &Gguf) -> Result<Tokenizer> {
        let strings = |key: &str| {
            gguf.get(key).and_then(Value::as_strings).ok_or_else(|| {
                Error::new(&TOKENIZER_KEYS, format!("{} has no tokenizer", gguf.path().display()))
                    .expected(format!("{key}, an array of strings"))
                    .found(gguf.get(key).map_or("no such key".into(), Value::to_string))
                    .hint(TAKES_IDS)
            })
        };
        let (tokens, merges) = (strings("tokenizer.ggml.tokens")?, strings("tokenizer.ggml.merges")?);
        let vocab = gguf.get("deepseek4.vocab_size").and_then(Value::as_count).unwrap_or(u64::MAX);
        let used = tokens.len().min(usize::try_from(vocab).unwrap_or(usize::MAX)).min(u32::MAX as usize);
        Ok(Tokenizer { file: Some(gguf.path().to_owned()), ..Self::new(&tokens[..used], merges)? })
    }

    /// From a vocabulary in id order and merges in the order of their rank, each "left right".
    pub fn new(tokens: &[String], merges: &[String]) -> Result<Tokenizer> {
        let mut ids: HashMap<&str, u32> = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            ids.entry(token).or_insert(id as u32);
        }
        let pairs = usable_merges(&ids, merges);
        let skipped_merges = merges.len() - pairs.len();
        let vocab: Vocab = ids.iter().map(|(t, id)| ((*t).to_owned(), *id)).collect();
        let bpe = BPE::builder()
            .vocab_and_merges(vocab, pairs)
            .build()
            .map_err(|e| Error::internal(format!("merges that were checked are refused: {e}")))?;
        let specials = Special::ALL.map(|s| ids.get(s.literal()).copied());
        let mut has_byte = [false; 256];
        for (byte, has) in has_byte.iter_mut().enumerate() {
            *has = ids.contains_key(stand_in(byte as u8).encode_utf8(&mut [0; 4]) as &str);
        }
        let of_stand_in: HashMap<char, u8> = (0..=255).map(|b| (stand_in(b), b)).collect();
        let tokens = tokens.iter().map(|t| token_bytes(t, &of_stand_in)).collect();
        Ok(Tokenizer {
            tokens,
            bpe,
            split: Split::new()?,
            literals: literals(&specials)?,
            specials,
            has_byte,
            skipped_merges,
            file: None,
        })
    }

    /// `the vocabulary of m.gguf`.
    fn name(&self) -> String {
        let file = self.file.as_ref().map_or(String::new(), |file| format!(" of {}", file.display()));
        format!("the vocabulary{file}")
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The id of a special token; `None` where the vocabulary lacks it.
    pub fn special(&self, special: Special) -> Option<u32> {
        self.specials[special as usize]
    }

    /// The same, for callers that cannot go on without it. Errors: `tokenizer-special`.
    pub fn require(&self, special: Special) -> Result<u32> {
        self.special(special).ok_or_else(|| {
            Error::new(&TOKENIZER_SPECIAL, format!("{} lacks a special token", self.name()))
                .expected(special.literal())
                .found("no such token")
                .hint(TAKES_IDS)
        })
    }

    /// Ids that end a generation: EOS, and nothing else (docs/model.md §16.4).
    pub fn stop_tokens(&self) -> Vec<u32> {
        self.special(Special::Eos).into_iter().collect()
    }

    /// What is odd about the vocabulary: special tokens and bytes that it lacks, merges that can never apply (not two
    /// parts, or a part or the result is no token).
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let lacking: Vec<_> =
            Special::ALL.iter().filter(|s| self.special(**s).is_none()).map(|s| s.literal()).collect();
        if !lacking.is_empty() {
            notes.push(format!("the vocabulary lacks {}", lacking.join(", ")));
        }
        let bytes = self.has_byte.iter().filter(|has| !**has).count();
        if bytes > 0 {
            notes.push(format!(
                "the vocabulary lacks tokens for {bytes} of the 256 bytes: not every text can be encoded"
            ));
        }
        if self.skipped_merges > 0 {
            notes.push(format!("{} merges can never apply", self.skipped_merges));
        }
        notes
    }

    /// A token's bytes: not necessarily whole UTF-8. `None` for an id beyond the vocabulary.
    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        self.tokens.get(id as usize).map(Vec::as_slice)
    }

    /// The ids of `text`; special tokens are recognised by their literals. Errors: `tokenizer-byte`.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let mut at = 0;
        for found in self.literals.iter().flat_map(|l| l.find_iter(text)) {
            self.encode_span(&text[at..found.start()], &mut ids)?;
            ids.extend(Special::ALL.iter().find(|s| s.literal() == found.as_str()).and_then(|s| self.special(*s)));
            at = found.end();
        }
        self.encode_span(&text[at..], &mut ids)?;
        Ok(ids)
    }

    fn encode_span(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        // The library would drop a byte without a token in silence.
        if let Some(byte) = text.bytes().find(|b| !self.has_byte[*b as usize]) {
            return Err(Error::new(&TOKENIZER_BYTE, format!("{} cannot write this text", self.name()))
                .expected(format!("a token `{}` for the byte {byte:#04x}", stand_in(byte)))
                .found("no such token")
                .hint(TAKES_IDS));
        }
        let mut failed = None;
        let mut word = String::new();
        self.split.pieces(text, &mut |piece| {
            word.clear();
            word.extend(piece.bytes().map(stand_in));
            match tokenizers::Model::tokenize(&self.bpe, &word) {
                Ok(tokens) => ids.extend(tokens.iter().map(|t| t.id)),
                Err(e) => failed = Some(e),
            }
        });
        failed.map_or(Ok(()), |e| Err(Error::internal(format!("byte pairs of a checked text: {e}"))))
    }

    /// The text of `ids`; what is no UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut stream = self.decode_stream();
        let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
        text.push_str(&stream.finish());
        text
    }

    /// Decodes token by token, as they are generated.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream { tokenizer: self, held: Vec::new() }
    }
}

/// Holds back the first bytes of a character until the token with its last byte comes.
pub struct DecodeStream<'t> {
    tokenizer: &'t Tokenizer,
    /// At most three bytes: the beginning of a character.
    held: Vec<u8>,
}

impl DecodeStream<'_> {
    /// The text that this token completes; often empty in the middle of a character. An id beyond the vocabulary reads
    /// as U+FFFD.
    pub fn push(&mut self, id: u32) -> String {
        self.held.extend_from_slice(self.tokenizer.bytes(id).unwrap_or("\u{fffd}".as_bytes()));
        let mut text = String::new();
        let mut rest = self.held.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(whole) => {
                    text.push_str(whole);
                    rest = &[];
                    break;
                }
                Err(e) => {
                    let (valid, tail) = rest.split_at(e.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = tail;
                    // No length: the bytes may yet become a character.
                    let Some(wrong) = e.error_len() else { break };
                    text.push('\u{fffd}');
                    rest = &rest[wrong..];
                }
            }
        }
        self.held = rest.to_vec();
        text
    }

    /// What is left when no more tokens come: nothing, or U+FFFD for a character that was never finished.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.held).into_owned()
    }
}

/// Merges as pairs, in order: those that can apply, each pair once (its first place gives its rank).
fn usable_merges(ids: &HashMap<&str, u32>, merges: &[String]) -> Vec<(String, String)> {
    let mut seen = HashSet::new();
    let pairs = merges.iter().filter_map(|merge| merge.split_once(' '));
    pairs
        .filter(|&(a, b)| {
            let joined = format!("{a}{b}");
            // An empty part would join with anything, and with itself for ever.
            let usable = !a.is_empty() && !b.is_empty() && [a, b, &joined].iter().all(|t| ids.contains_key(t));
            usable && seen.insert((a, b))
        })
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .collect()
}

/// One pattern for all special tokens that there are, the longer first where one begins another.
fn literals(specials: &[Option<u32>]) -> Result<Option<Regex>> {
    let mut present: Vec<_> =
        Special::ALL.iter().filter(|s| specials[**s as usize].is_some()).map(|s| s.literal()).collect();
    if present.is_empty() {
        return Ok(None);
    }
    present.sort_by_key(|l| std::cmp::Reverse(l.len()));
    let pattern = present.iter().map(|l| regex::escape(l)).collect::<Vec<_>>().join("|");
    let compiled = Regex::new(&pattern).map_err(|e| Error::internal(format!("special tokens: {e}")))?;
    Ok(Some(compiled))
}

/// The printable character that stands for a byte in vocabulary and merges (GPT-2's table): printable Latin-1 is itself,
/// the other 68 bytes follow from U+0100 on.
pub(super) fn stand_in(byte: u8) -> char {
    match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        0..=0x20 => shifted(byte),
        0x7f..=0xa0 => shifted(byte - 0x7f + 0x21),
        0xad => shifted(0x43),
    }
}

/// U+0100 + n.
fn shifted(n: u8) -> char {
    char::from_u32(0x100 + u32::from(n)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// A token's text as bytes: literal where it holds U+FF5C, else stand-ins mapped back. A character that stands for no
/// byte, which only odd vocabularies have, is kept as it is.
fn token_bytes(token: &str, of_stand_in: &HashMap<char, u8>) -> Vec<u8> {
    if token.contains('\u{ff5c}') {
        return token.as_bytes().to_vec();
    }
    let mut bytes = Vec::with_capacity(token.len());
    for c in token.chars() {
        match of_stand_in.get(&c) {
            Some(byte) => bytes.push(*byte),
            None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}
