//! Stage 2: the kernel's text, before any compiler sees it.
//!
//! A kernel must be one text for every compiler, so that what a GPU runs is what the emulator ran: [`rules`] says what
//! it may hold. Its arguments must be the contract's, and its entries the manifest's.

use crate::ops::{Contract, header};
use crate::plan::manifest::Manifest;
use crate::plan::rules;
use crate::plan::source::SourceSet;

/// Everything that is wrong with the text, or nothing.
pub fn faults(source: &SourceSet, manifest: &Manifest, contract: &Contract) -> Vec<String> {
    let mut out = Vec::new();
    let args = format!("args/{}.h", contract.op);
    match source.files.get(&args) {
        None => out.push(format!("{} does not include \"{args}\", the arguments of its contract", source.main)),
        Some(text) if *text != header::generate(contract) => {
            out.push(format!("kernels/{args} is not what the contract generates: assay ops --write-headers"));
        }
        Some(_) => {}
    }
    if let Err(e) = rules::check(source) {
        out.push(e.to_string().replace("\n  ", ", "));
    }
    let main = strip(source.files.get(&source.main).map_or("", String::as_str));
    let struct_name = header::struct_name(contract.op);
    let mut entries: Vec<&str> =
        manifest.variants.iter().flat_map(|v| v.launches.iter().map(|l| l.entry.as_str())).collect();
    entries.sort_unstable();
    entries.dedup();
    for entry in entries {
        if !has_entry(&main, entry, &struct_name) {
            out.push(format!(
                "{}: no entry `extern \"C\" __global__ void {entry}(const {struct_name} a)`, which the manifest launches",
                source.main
            ));
        }
    }
    out.sort();
    out.dedup();
    out
}

/// Whether the text defines `extern "C" __global__ void … entry(const Args name)`.
fn has_entry(code: &str, entry: &str, struct_name: &str) -> bool {
    let mut from = 0;
    while let Some(at) = code[from..].find(entry) {
        let start = from + at;
        from = start + entry.len();
        let before_ok = code[..start].chars().next_back().is_none_or(|c| !is_word(c));
        let rest = code[from..].trim_start();
        if !before_ok || !rest.starts_with('(') {
            continue;
        }
        let Some(close) = rest.find(')') else { continue };
        let parameter = rest[1..close].split_whitespace().collect::<Vec<_>>();
        let fits = matches!(parameter.as_slice(), ["const", s, _] | [s, "const", _] | [s, _] if *s == struct_name);
        let head = &code[code[..start].rfind([';', '}']).map_or(0, |i| i + 1)..start];
        if fits && head.contains("__global__") && head.contains("extern \"C\"") {
            return true;
        }
    }
    false
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The text without comments and with continued lines joined, as a preprocessor sees it. String contents are dropped,
/// except that the quotes of `extern "C"` and of includes stay.
fn strip(text: &str) -> String {
    let joined = text.replace("\\\r\n", "").replace("\\\n", "");
    let mut out = String::with_capacity(joined.len());
    let mut rest = joined.as_str();
    while let Some(c) = rest.chars().next() {
        if let Some(tail) = rest.strip_prefix("//") {
            rest = tail.find('\n').map_or("", |i| &tail[i..]);
        } else if let Some(tail) = rest.strip_prefix("/*") {
            out.push(' ');
            rest = tail.find("*/").map_or("", |i| &tail[i + 2..]);
        } else if c == '"' {
            let end = rest[1..].char_indices().scan(false, |escaped, (i, c)| {
                let close = c == '"' && !*escaped;
                *escaped = c == '\\' && !*escaped;
                Some((i, close))
            });
            let close = end.filter(|(_, close)| *close).map(|(i, _)| i + 2).next().unwrap_or(rest.len());
            let literal = &rest[..close];
            let line = out.rsplit('\n').next().unwrap_or("").trim_start();
            let keep = literal == "\"C\"" || (line.starts_with('#') && line.contains("include"));
            out.push_str(if keep { literal } else { "\"\"" });
            rest = &rest[close..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops;

    const MANIFEST: &str = "op = \"swiglu\"\n[[variant]]\nname = \"a\"\n[[variant.launch]]\nentry = \"swiglu_f32\"\ngrid = [1, 1, 1]\nblock = [32, 1, 1]\n";
    const GOOD: &str = "#include \"common/cuda.cuh\"\n#include \"args/swiglu.h\"\n// asm is a word\nextern \"C\" __global__ void __launch_bounds__(32)\nswiglu_f32(const SwigluArgs a) { a.h[0] = 1; }\n";

    fn check(text: &str) -> Vec<String> {
        let contract = ops::find("swiglu").unwrap().contract();
        let manifest = Manifest::parse("kernels/swiglu.toml", MANIFEST, contract).unwrap();
        let mut set = SourceSet::single("swiglu.cu", text);
        set.files.insert("args/swiglu.h".into(), header::generate(contract));
        set.files.insert("common/cuda.cuh".into(), include_str!("../../kernels/common/cuda.cuh").into());
        faults(&set, &manifest, contract)
    }

    #[test]
    fn a_plain_kernel_has_no_faults() {
        assert_eq!(check(GOOD), Vec::<String>::new());
    }

    #[test]
    fn what_a_kernel_may_not_hold() {
        for (what, fragment) in [
            ("#ifdef __CUDACC__\n#endif\n", "__CUDACC__"),
            ("int f() { return __GNUC__; }\n", "__GNUC__"),
            ("int f() { return __linux; }\n", "__linux"),
            ("asm(\".incbin \\\"/etc/passwd\\\"\");\n", "`asm`"),
            ("#pragma GCC optimize(\"fast-math\")\n", "pragma"),
            ("void f() { assay_emu_swiglu(0); }\n", "emulator"),
        ] {
            let faults = check(&format!("{what}{GOOD}"));
            assert!(faults.iter().any(|f| f.contains(fragment)), "{what}: {faults:?}");
        }
        assert!(check(&GOOD.replace("SwigluArgs", "OtherArgs"))[0].contains("no entry"));
        assert!(check(&GOOD.replace("swiglu_f32(", "swiglu_f3(")).iter().any(|f| f.contains("no entry")));
    }

    #[test]
    fn an_edited_header_of_common_is_judged_like_any_kernel() {
        let contract = ops::find("swiglu").unwrap().contract();
        let manifest = Manifest::parse("kernels/swiglu.toml", MANIFEST, contract).unwrap();
        let mut set = SourceSet::single("swiglu.cu", GOOD);
        set.files.insert("args/swiglu.h".into(), header::generate(contract));
        set.files
            .insert("common/cuda.cuh".into(), format!("{}// edited\n", include_str!("../../kernels/common/cuda.cuh")));
        assert!(faults(&set, &manifest, contract).iter().any(|f| f.contains("common/cuda.cuh")));
    }
}
