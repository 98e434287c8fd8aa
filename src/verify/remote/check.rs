//! Whether what a host says answers what it was asked.

use super::{ANSWER, Ask, Bundle, Hello, REMOTE, SPEECH};
use crate::error::{Error, Result};
use crate::ledger::{ClosureSource, Evidence, Ledger, Seed, Trust, UNTRUSTED, VOID, Verdict};
use crate::verify::PROTOCOL;

/// Refuses a host before it is asked anything.
pub fn welcome(hello: &Hello, bundle: &Bundle, ledger: &Ledger, trust: &Trust) -> Result<()> {
    let speech = |what: &str, ours: String, theirs: String| {
        Err(Error::new(&SPEECH, what.to_string())
            .expected(ours)
            .found(format!("{theirs}, assay {} on {}", hello.assay, hello.host))
            .hint("install the same version of assay on both sides"))
    };
    if hello.remote != REMOTE {
        return speech(
            "the host speaks another protocol",
            format!("messages {REMOTE}"),
            format!("messages {}", hello.remote),
        );
    }
    if hello.verifier != PROTOCOL {
        let (ours, theirs) = (format!("verifier protocol {PROTOCOL}"), format!("verifier protocol {}", hello.verifier));
        return speech("the host judges by another protocol", ours, theirs);
    }
    if hello.nonce != bundle.nonce {
        return speech("the greeting is not to this request", "its nonce".into(), "another one".into());
    }
    if hello.weights != bundle.weights {
        return Err(Error::new(&ANSWER, "the host has another model")
            .expected(format!("weights {}", bundle.weights))
            .found(format!("weights {}", hello.weights))
            .hint("--remote-model names the file there"));
    }
    if !trust.trusts(&hello.key.id()) {
        return Err(Error::new(
            &UNTRUSTED,
            format!("{} signs with key {}, which you do not trust", hello.host, hello.key),
        )
        .hint(format!("compare it with what `assay key list` shows there, then: assay key trust '{}'", hello.key)));
    }
    if let Some(ended) = ledger.chain().roll.ended(&hello.key.id()) {
        return Err(Error::new(&VOID, format!("{} signs with key {}, which {}", hello.host, hello.key, ended.says()))
            .expected("a key in force: what this one signs counts for nothing")
            .hint("move its private key away there: the host makes another when it is asked again"));
    }
    Ok(())
}

/// The new evidence in an answer, and its verdict, if it is about what was asked.
pub fn answers(
    ask: &Ask,
    hello: &Hello,
    (evidence, share): (Vec<Evidence>, Seed),
    here: &dyn ClosureSource,
    ledger: &Ledger,
    trust: &Trust,
) -> Result<(Vec<Evidence>, Verdict)> {
    let wrong = |what: String| Error::new(&ANSWER, format!("the answer on {} is refused: {what}", ask.node));
    let verdicts: Vec<Verdict> = evidence.iter().filter_map(|e| e.statement().verdict().cloned()).collect();
    let [verdict] = verdicts.as_slice() else {
        return Err(wrong(format!("it holds {} verdicts", verdicts.len())).expected("one"));
    };
    let signers: Vec<_> = evidence.iter().map(Evidence::signer).collect();
    if let Some(other) = signers.iter().find(|signer| **signer != hello.key.id()) {
        return Err(wrong("another key signed it".into())
            .expected(format!("key {} of the greeting", hello.key))
            .found(format!("key {}", other.short())));
    }
    // Signatures, and trust in the key for the class of the evidence.
    let new = ledger.admit(evidence, trust)?;
    if verdict.node.to_string() != ask.node.to_string() {
        return Err(wrong("it is about another node".into()).found(&verdict.node));
    }
    let seed = ask.seed_with(&share);
    if verdict.seed != seed {
        return Err(wrong("it was judged by another seed".into()).expected(seed).found(verdict.seed));
    }
    let (led, wanted) = (&verdict.informative, (&ask.prompt, &ask.transcript));
    if (&led.prompt, &led.transcript) != wanted {
        return Err(wrong("it names another transcript or prompt".into())
            .expected(format!("transcript {}", ask.transcript))
            .found(format!("transcript {}", led.transcript)));
    }
    let theirs = &verdict.binding;
    if theirs.arch != hello.arch {
        return Err(wrong("it is from another architecture".into()).expected(&hello.arch).found(&theirs.arch));
    }
    let ours = here.binding(&ask.node, &theirs.arch, theirs.numerics)?;
    let differences = ours.differences(theirs);
    let what = differences.first().map(|first| match *first {
        "weights" => ("another model", ours.weights.to_string(), theirs.weights.to_string()),
        "protocol" => ("another verifier protocol", ours.protocol.to_string(), theirs.protocol.to_string()),
        "cases" | "oracle_outputs" => ("another version of assay", String::new(), String::new()),
        _ => ("another tree", ours.closure.to_string(), theirs.closure.to_string()),
    });
    match what {
        None => Ok((new, verdict.clone())),
        Some((what, ours, theirs)) => {
            let error = wrong(format!("it is of {what}; its {} differ", differences.join(", ").replace('_', " ")));
            Err(if ours.is_empty() { error } else { error.expected(ours).found(theirs) })
        }
    }
}
