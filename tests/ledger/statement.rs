//! Statements: what contradicts itself is not signed and not read.

use assay::ledger::{
    Bench, Class, Evidence, Figure, KeyJoin, Outcome, SecretKey, Stage, StageOutcome, Statement, Target, Verdict,
};

use crate::fixture::*;

fn refused(edit: impl Fn(&mut Verdict), says: &str) {
    let mut v = verdict(1);
    edit(&mut v);
    let error = Statement::Verdict(Box::new(v)).to_bytes().unwrap_err().to_string();
    assert!(error.contains(says), "{error}");
}

/// POSTMORTEM.md §8.
#[test]
fn contradictions_are_not_signed() {
    refused(|v| v.binding.arch = "emulator".into(), "class device does not go with");
    refused(|v| v.binding.arch = "sm_9x0".into(), "class device does not go with");
    refused(|v| v.class = Class::Emulated, "class emulated does not go with");
    refused(|v| v.stages.swap(0, 1), "is recorded after");
    refused(|v| v.stages[3].outcome = StageOutcome::Red, "a Pass although stage unit");
    refused(|v| v.stages.clear(), "no stage passed");
    refused(
        |v| v.outcome = Outcome::Red { stage: Stage::Teeth, reason: String::new(), first_bad: String::new() },
        "Red in stage teeth",
    );
}

#[test]
fn statements_survive_their_bytes() {
    let mut odd = verdict(1);
    for (name, figure) in [
        ("nan", Figure::Real(f64::NAN)),
        ("inf", Figure::Real(f64::NEG_INFINITY)),
        ("zero", Figure::Real(-0.0)),
        ("tiny", Figure::Real(f64::from_bits(1))),
        ("third", Figure::Real(1.0 / 3.0)),
        ("count", Figure::Count(-12)),
    ] {
        odd.stages[0].figures.insert(name.into(), figure);
    }
    odd.stages[0].note = "two\nlines, \"quoted\", ünïcode \u{1f980}".into();
    let bench = Bench {
        node: Target::Schedule,
        class: Class::Device,
        binding: binding(1),
        runs: [("pp512".to_string(), [("tokens_per_s".to_string(), Figure::Real(1234.5))].into())].into(),
        informative: Default::default(),
    };
    let key = SecretKey::generate("k").unwrap();
    let join = KeyJoin { key: key.public().clone(), time: String::new() };
    let all = [
        Statement::Verdict(Box::new(odd)),
        Statement::Verdict(Box::new(red(2))),
        Statement::Verdict(Box::new(whole(&[("matmul[q8_0]", 3), ("rms_norm", 4)]))),
        Statement::Bench(Box::new(bench)),
        Statement::Key(Box::new(join)),
    ];
    for statement in all {
        let bytes = statement.to_bytes().unwrap();
        assert_eq!(Statement::from_bytes(&bytes).unwrap(), statement);
        let evidence = Evidence::sign(statement.clone(), &key).unwrap();
        let again = Evidence::from_value(&evidence.to_value().unwrap()).unwrap();
        assert_eq!((again.digest(), again.statement()), (evidence.digest(), &statement));
        let text = String::from_utf8(bytes).unwrap();
        for (from, to) in [
            ("in-toto.io/Statement/v1", "in-toto.io/Statement/v2"),
            (":1\",\"subject\"", ":2\",\"subject\""),
            ("\"name\":\"", "\"name\":\"x"),
            ("\"predicate\":{", "\"predicate\":{\"aaa\":0,"),
        ] {
            let edited = text.replacen(from, to, 1);
            assert_ne!(edited, text);
            assert!(Statement::from_bytes(edited.as_bytes()).is_err(), "{from} → {to}: {edited}");
        }
    }
}

#[test]
fn a_figure_has_one_spelling() {
    let text = String::from_utf8(Statement::Verdict(Box::new(verdict(1))).to_bytes().unwrap()).unwrap();
    for other in ["3.40e-7", "0.00000034", "34e-8", "+3.4e-7", "3.4E-7"] {
        let edited = text.replace("3.4e-7", other);
        assert!(Statement::from_bytes(edited.as_bytes()).is_err(), "{other}");
    }
}

#[test]
fn the_worst_figure_is_that_of_any_stage_or_variant() {
    let mut v = verdict(1);
    assert_eq!(v.worst("max_abs"), Some(0.5));
    v.stages[5].figures.insert("wide.max_abs".into(), Figure::Real(0.75));
    v.stages[5].figures.insert("not_max_abs".into(), Figure::Real(9.0));
    assert_eq!(v.worst("max_abs"), Some(0.75));
    v.stages[0].figures.insert("a.b.max_abs".into(), Figure::Real(f64::NAN));
    assert!(v.worst("max_abs").unwrap().is_nan());
    assert_eq!(v.worst("no_such"), None);
}

#[test]
fn stages_are_numbered_in_the_order_in_which_they_run_and_written_by_name() {
    for (number, stage) in (1..).zip(Stage::ALL) {
        assert_eq!(stage.number(), number);
        assert_eq!(serde_json::to_value(stage).unwrap(), stage.name());
    }
    assert!(Stage::ALL.is_sorted());
    for class in [Class::Device, Class::Emulated, Class::Simulated] {
        assert_eq!(serde_json::to_value(class).unwrap(), class.name());
    }
}

/// A claim about a whole schedule is a claim about kernels: which ones, it must say itself.
#[test]
fn a_schedule_lists_the_closures_that_its_own_closure_is_of() {
    let honest = whole(&[("matmul[q8_0]", 3), ("rms_norm", 4)]);
    let of = |verdict: Verdict| Statement::Verdict(Box::new(verdict)).to_bytes();
    assert!(of(honest.clone()).is_ok());
    let mut another = honest.clone();
    another.parts.insert("rms_norm".into(), assay::ledger::Digest([5; 32]));
    let mut fewer = honest.clone();
    fewer.parts.remove("rms_norm");
    let mut no_node = whole(&[("matmul[q8_0]", 3), ("RMS norm", 4)]);
    no_node.node = Target::Schedule;
    let of_a_node = Verdict { parts: honest.parts.clone(), ..verdict(1) };
    for wrong in [another, fewer, no_node, of_a_node] {
        assert!(of(wrong.clone()).is_err(), "{:?}", wrong.parts);
    }
}
