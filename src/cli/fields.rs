//! What a row records, a field a line: for people. `--json` gives it as it is recorded.

use serde_json::{Map, Value};

/// Name and text of every field below `path`. A list of objects has a field for each, by its first text; what is null
/// is left out.
pub fn flatten(path: &str, value: &Value, out: &mut Vec<(String, String)>) {
    let below = |name: &str| if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
    match value {
        Value::Null => {}
        Value::Object(map) => map.iter().for_each(|(name, value)| flatten(&below(name), value, out)),
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_object) => {
            for (i, item) in items.iter().filter_map(Value::as_object).enumerate() {
                let name = item.iter().find_map(|(key, value)| Some((key, value.as_str()?)));
                let title = name.map_or(i.to_string(), |(_, text)| text.to_string());
                out.push((below(&title), inline(item, name.map(|(key, _)| key.as_str()))));
            }
        }
        leaf => out.push((path.to_string(), text(leaf))),
    }
}

/// `registers 20, stack 0`, without the field `but`.
fn inline(map: &Map<String, Value>, but: Option<&str>) -> String {
    let fields = map.iter().filter(|(key, value)| Some(key.as_str()) != but && !value.is_null());
    let said = fields.map(|(key, value)| match value {
        Value::String(said) => format!("{key}: {said}"),
        other => format!("{key} {}", text(other)),
    });
    said.collect::<Vec<_>>().join(", ")
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => recorded(text),
        Value::Array(items) => items.iter().map(short_list).collect::<Vec<_>>().join(", "),
        Value::Object(map) => inline(map, None),
        other => other.to_string(),
    }
}

/// Lists in a list keep their brackets.
fn short_list(value: &Value) -> String {
    match value {
        Value::Array(_) => format!("[{}]", text(value)),
        other => text(other),
    }
}

/// A text that is itself a document, such as the sandbox of a row, said in words.
pub fn recorded(text: &str) -> String {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => inline(&map, None),
        _ => text.to_string(),
    }
}

/// The fields of a stage's note, whose lines are `name: value`. A line that is a sentence is the stage's reason.
pub fn note(note: &str, out: &mut Vec<(String, String)>) {
    for line in note.lines().filter(|line| !line.is_empty()) {
        match line.split_once(": ") {
            Some((name, value)) if !name.contains(' ') => {
                let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.into()));
                flatten(name, &value, out);
            }
            _ => out.push(("reason".into(), line.into())),
        }
    }
}

/// Fields as lines below a heading, their texts below one another.
pub fn lines(fields: &[(String, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    fields.iter().map(|(name, text)| format!("    {name:<width$} {text}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_told_field_by_field() {
        let mut out = Vec::new();
        let text = "no CUDA device: none is here\nnvrtc: 13.0\nmutants: [{\"mutant\":\"zeros\",\"killed\":8,\"left_out\":null},\
                    {\"mutant\":\"head_swapped\",\"killed\":0,\"left_out\":\"no heads\"}]\nprompts: [[1,5],[23]]";
        note(text, &mut out);
        assert_eq!(
            lines(&out),
            "    reason               no CUDA device: none is here\n    nvrtc                13.0\n    \
             mutants.zeros        killed 8\n    mutants.head_swapped killed 0, left_out: no heads\n    \
             prompts              [1, 5], [23]\n"
        );
        assert_eq!(recorded("{\"level\":\"full\",\"seccomp\":true}"), "level: full, seccomp true");
        assert_eq!(recorded("1"), "1");
    }
}
