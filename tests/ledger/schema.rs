//! The published schema says what is really signed. A validator of just the keywords that it uses; `pattern`s are
//! checked by the strict reader instead, whose own tests are in `statement.rs`.

use assay::ledger::{Bench, Class, Digest, KeyJoin, Revocation, Rotation, SecretKey, Statement, Target};
use serde_json::{Value, json};

use crate::fixture::*;

fn valid(schema: &Value, root: &Value, value: &Value) -> Result<(), String> {
    let rules = schema.as_object().unwrap();
    for (keyword, rule) in rules {
        let ok = match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" | "pattern" => true,
            "$ref" => {
                let target = root.pointer(rule.as_str().unwrap().strip_prefix('#').unwrap()).unwrap();
                valid(target, root, value)?;
                true
            }
            "const" => rule == value,
            "enum" => rule.as_array().unwrap().contains(value),
            "type" => match rule.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "integer" => value.is_i64() || value.is_u64(),
                other => panic!("type {other}"),
            },
            "minimum" => value.as_i64().is_none_or(|v| v >= rule.as_i64().unwrap()),
            "maximum" => value.as_i64().is_none_or(|v| v <= rule.as_i64().unwrap()),
            "minItems" => value.as_array().is_none_or(|v| v.len() >= rule.as_u64().unwrap() as usize),
            "maxItems" => value.as_array().is_none_or(|v| v.len() <= rule.as_u64().unwrap() as usize),
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    valid(rule, root, item)?;
                }
                true
            }
            "required" => rule.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some()),
            "properties" => {
                for (name, rule) in rule.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        valid(rule, root, value)?;
                    }
                }
                true
            }
            "additionalProperties" => {
                let known = rules.get("properties").and_then(Value::as_object);
                for (name, value) in value.as_object().unwrap() {
                    match rule {
                        _ if known.is_some_and(|k| k.contains_key(name)) => {}
                        Value::Bool(false) => return Err(format!("`{name}` is not in the schema")),
                        rule => valid(rule, root, value)?,
                    }
                }
                true
            }
            "oneOf" => rule.as_array().unwrap().iter().filter(|rule| valid(rule, root, value).is_ok()).count() == 1,
            other => panic!("the schema uses `{other}`, which this test does not check"),
        };
        if !ok {
            return Err(format!("{value} breaks {keyword}: {rule}"));
        }
    }
    Ok(())
}

#[test]
fn statements_are_as_the_schema_says() {
    let schema: Value = serde_json::from_str(include_str!("../../docs/evidence.schema.json")).unwrap();
    let key = SecretKey::generate("k").unwrap();
    let bench = Bench {
        node: Target::Schedule,
        class: Class::Device,
        binding: binding(1),
        runs: [("pp512".to_string(), [("tokens".to_string(), assay::ledger::Figure::Count(512))].into())].into(),
        informative: Default::default(),
    };
    let statements = [
        Statement::Verdict(Box::new(verdict(1))),
        Statement::Verdict(Box::new(red(1))),
        Statement::Verdict(Box::new(whole(&[("rms_norm", 1)]))),
        Statement::Verdict(Box::new(of_class(verdict(1), Class::Emulated))),
        Statement::Bench(Box::new(bench)),
        Statement::Key(Box::new(KeyJoin { key: key.public().clone(), time: String::new() })),
        Statement::Rotation(Box::new(Rotation {
            from: key.public().clone(),
            to: SecretKey::generate("l").unwrap().public().clone(),
            ledger: Digest([1; 32]),
            keeps: vec![Digest([2; 32])],
            time: String::new(),
        })),
        Statement::Revocation(Box::new(Revocation {
            key: key.public().clone(),
            why: "lost".into(),
            ledger: Digest([1; 32]),
            keeps: Vec::new(),
            time: String::new(),
        })),
    ];
    for statement in statements {
        let value = statement.to_value().unwrap();
        valid(&schema, &schema, &value).unwrap();
        for pointer in ["/predicate", "/subject/0", ""] {
            let mut extra = value.clone();
            extra.pointer_mut(pointer).unwrap()["extra"] = json!(1);
            assert!(valid(&schema, &schema, &extra).is_err(), "the schema lets `extra` pass at `{pointer}`");
        }
        let mut other = value.clone();
        other["predicateType"] = json!("urn:assay:other:1");
        assert!(valid(&schema, &schema, &other).is_err());
    }
}
