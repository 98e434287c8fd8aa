//! Prompts whose answers are known (reference/tiny/prompts.json): each needs one mechanism of the model.

use std::ops::ControlFlow;

use assay::engine::{Sampler, Sampling, Stop, generate};
use assay::model::Tokenizer;
use assay::model::chat::{Conversation, Thinking};
use assay::plan::Numerics;
use serde_json::Value;

use crate::{bundled, session, tiny};

#[test]
fn every_answer_is_right_in_both_numerics() {
    let file: Value = serde_json::from_slice(&std::fs::read(tiny("prompts.json")).unwrap()).unwrap();
    let model = bundled();
    let tokenizer = Tokenizer::from_gguf(&model.gguf).unwrap();
    let prompts = file["prompts"].as_array().unwrap();
    assert!(prompts.len() >= 7);
    for p in prompts {
        let (name, text) = (p["name"].as_str().unwrap(), p["prompt"].as_str().unwrap());
        let ask = Conversation::ask(text);
        assert_eq!(ask.layout(Thinking::Off), p["layout"].as_str().unwrap(), "{name}");
        let tokens = ask.prompt(&tokenizer, Thinking::Off).unwrap();
        assert_eq!(tokens.len() as u64, p["tokens"].as_u64().unwrap(), "{name}");
        for numerics in [Numerics::Exact, Numerics::Ds4] {
            let mut s = session(model, numerics, 256, tokens.len() + 16, false);
            let mut sampler = Sampler::new(Sampling::default()).unwrap();
            let (mut stream, mut answer) = (tokenizer.decode_stream(), String::new());
            let mut emit = |token| {
                answer.push_str(&stream.push(token));
                Ok(ControlFlow::Continue(()))
            };
            let stops = tokenizer.stop_tokens();
            let g = generate(&mut s, &mut sampler, &tokens, &stops, 16, &mut emit).unwrap();
            assert_eq!(answer, p["answer"].as_str().unwrap(), "{name}, {}", numerics.name());
            assert_eq!(g.stop, Stop::EndOfText, "{name}");
            let said: Vec<Value> = g.tokens.iter().chain(&stops).map(|t| Value::from(*t)).collect();
            assert_eq!(&said, p["answer_tokens"].as_array().unwrap(), "{name}");
        }
    }
}

#[test]
fn a_generation_ends_where_it_is_told_to() {
    let model = bundled();
    let tokenizer = Tokenizer::from_gguf(&model.gguf).unwrap();
    let tokens = Conversation::ask("repeat: assay").prompt(&tokenizer, Thinking::Off).unwrap();
    let run = |most: usize, context: usize, breaks: usize| {
        let mut s = session(model, Numerics::Ds4, 64, context, false);
        let mut sampler = Sampler::new(Sampling::default()).unwrap();
        let mut seen = 0;
        let mut emit = |_| {
            seen += 1;
            Ok(if seen == breaks { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        };
        let g = generate(&mut s, &mut sampler, &tokens, &[], most, &mut emit).unwrap();
        (g.stop, g.tokens.len(), g.steps)
    };
    let n = tokens.len();
    assert_eq!(run(3, n + 9, 99), (Stop::Length, 3, 2));
    assert_eq!(run(9, n + 2, 99), (Stop::Context, 3, 2));
    assert_eq!(run(9, n + 9, 2), (Stop::Caller, 2, 1));
    assert_eq!(run(0, n, 1), (Stop::Length, 0, 0));
}
