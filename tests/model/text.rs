//! Text and tokens: against the bundled model's tokenizer file, and in pieces.

use std::path::Path;

use assay::model::chat::{Conversation, Thinking, Turn};
use assay::model::synth::{self, Shape, Spec};
use assay::model::tokenizer::Special;
use assay::model::{Gguf, Model, Tokenizer};
use proptest::prelude::*;

/// The bundled model's own vocabulary, read by us.
fn ours() -> &'static Tokenizer {
    static OURS: std::sync::OnceLock<Tokenizer> = std::sync::OnceLock::new();
    OURS.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/tiny/model.gguf");
        let model = Model::open(&path).unwrap();
        assert_eq!((model.weights_note(), model.notes().len()), (None, 0));
        let tokenizer = Tokenizer::from_gguf(&model.gguf).unwrap();
        assert_eq!(tokenizer.notes(), [""; 0]);
        tokenizer
    })
}

/// The file that it was made from, read by the library that trained it.
fn theirs() -> &'static tokenizers::Tokenizer {
    static THEIRS: std::sync::OnceLock<tokenizers::Tokenizer> = std::sync::OnceLock::new();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/tiny/tokenizer.json");
    THEIRS.get_or_init(|| tokenizers::Tokenizer::from_file(path).unwrap())
}

#[track_caller]
fn same(text: &str) {
    let expected = theirs().encode(text, false).unwrap();
    assert_eq!(ours().encode(text).unwrap(), expected.get_ids(), "{text:?}");
    assert_eq!(ours().decode(expected.get_ids()), text);
}

#[test]
fn agrees_with_the_bundled_tokenizer() {
    for text in [
        "",
        " ",
        "def f(self, x):\n    return x + 12345  # naïve café\n\n\n    pass\n",
        "<｜User｜>@QX=47;@LM=03; the cat  12 ?QX=<｜Assistant｜></think>47<｜end▁of▁sentence｜>",
        "a\t\tb \r\n c\u{a0}\u{3000}d\u{85}e",
        "漢字かなカナ・ー゛abc漢 字 1２٣½Ⅷ",
        "don't 'quoted' \"x\" $5.00 -1e-9 ≤ € «a» …",
        "\0\u{1}\u{7f} e\u{301}e\u{301} 👩‍👩‍👧 \u{200b}x\u{feff}",
        "<think>hm</think><think<｜User ｜>｜DSML｜｜DSML",
    ] {
        same(text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn agrees_on_any_text(text in "(\\PC|[ \\t\\r\\n]|[a-zA-Z0-9]|[!-/]|[\u{4e00}-\u{4e20}\u{3040}-\u{30ff}]| {1,3}|<think>){0,40}") {
        let expected = theirs().encode(text.as_str(), false).unwrap();
        prop_assert_eq!(ours().encode(&text).unwrap(), expected.get_ids().to_vec());
        prop_assert_eq!(ours().decode(expected.get_ids()), text);
    }

    /// Token by token gives the same text as all at once, and never half a character.
    #[test]
    fn streams(ids in prop::collection::vec(0u32..512, 0..40)) {
        let mut stream = ours().decode_stream();
        let mut text: String = ids.iter().map(|id| stream.push(*id)).collect();
        text.push_str(&stream.finish());
        let bytes: Vec<u8> = ids.iter().flat_map(|id| ours().bytes(*id).unwrap().to_vec()).collect();
        prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn a_stream_holds_back_half_characters() {
    let tokenizer = ours();
    let ids = tokenizer.encode("é👧").unwrap();
    assert_eq!(ids.len(), 6, "no merges across these bytes: {ids:?}");
    let mut stream = tokenizer.decode_stream();
    let pieces: Vec<_> = ids.iter().map(|id| stream.push(*id)).collect();
    assert_eq!(pieces, ["", "é", "", "", "", "👧"]);
    assert_eq!(stream.finish(), "");
    // Cut short: said, not swallowed.
    let mut stream = tokenizer.decode_stream();
    assert_eq!((stream.push(ids[0]), stream.finish()), (String::new(), "\u{fffd}".into()));
}

#[test]
fn special_tokens_are_found_by_their_text() {
    let t = ours();
    let ids: Vec<_> = Special::ALL.iter().map(|s| t.special(*s).unwrap()).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(t.stop_tokens(), [1]);
    assert_eq!(t.encode("<think></think>").unwrap(), [4, 5]);
    assert_eq!(t.decode(&[2, 3]), "<｜User｜><｜Assistant｜>");
}

#[test]
fn the_prompt_layout() {
    let t = ours();
    let ids = Conversation::ask("Hi").prompt(t, Thinking::Off).unwrap();
    assert_eq!((ids[0], ids[1]), (0, 2));
    assert_eq!(ids[ids.len() - 2..], [3, 5]);
    assert_eq!(t.decode(&ids[2..ids.len() - 2]), "Hi");
    let two = Conversation {
        system: vec!["S".into()],
        turns: vec![Turn::user("a"), Turn::assistant("b"), Turn::user("c")],
        keep_reasoning: false,
    };
    let text = "<｜begin▁of▁sentence｜>S<｜User｜>a<｜Assistant｜></think>b<｜end▁of▁sentence｜><｜User｜>c<｜Assistant｜><think>";
    assert_eq!(two.prompt(t, Thinking::On).unwrap(), t.encode(text).unwrap());
    let bare = Tokenizer::new(&[], &[]).unwrap();
    assert_eq!(Conversation::ask("Hi").prompt(&bare, Thinking::Off).unwrap_err().code().id, "tokenizer-special");
    assert_eq!(bare.encode("Hi").unwrap_err().code().id, "tokenizer-byte");
    assert_eq!(bare.encode("").unwrap(), [0; 0]);
}

#[test]
fn a_synthetic_vocabulary_is_usable() {
    let bytes = synth::to_bytes(&Spec::new(Shape { vocab: 500, ..Shape::small() })).unwrap();
    let t = Tokenizer::from_gguf(&Gguf::from_bytes(Path::new("s"), bytes).unwrap()).unwrap();
    assert_eq!((t.len(), t.notes()), (500, vec![]));
    let ids = t.encode("and the self of 3 naïve 漢").unwrap();
    assert!(ids.len() < 20, "merges were not used: {ids:?}");
    assert_eq!(t.decode(&ids), "and the self of 3 naïve 漢");
}

#[test]
fn tokens_beyond_the_vocabulary_are_left_out() {
    let bytes = synth::to_bytes(&Spec::new(Shape::small())).unwrap();
    let gguf = Gguf::from_bytes(Path::new("s"), bytes).unwrap();
    assert_eq!(Tokenizer::from_gguf(&gguf).unwrap().len(), 320);
    let no_keys = Gguf::from_bytes(Path::new("s"), crate::builder::File::valid().bytes()).unwrap();
    assert_eq!(Tokenizer::from_gguf(&no_keys).err().unwrap().code().id, "tokenizer-keys");
}
