//! Stage 2: the kernel's text, before any compiler sees it.
//!
//! A kernel must be one text for every compiler: what a GPU runs is what the emulator ran. So conditionals on the
//! compiler, inline assembly and token pasting live in three headers of `kernels/common/` alone, where each has its twin
//! and its conformance case, and are refused elsewhere.

use crate::ops::{Contract, header};
use crate::plan::manifest::Manifest;
use crate::plan::source::SourceSet;

/// Identifiers that a kernel may not name.
const FORBIDDEN: &[(&str, &str)] = &[
    ("asm", "inline assembly"),
    ("__asm", "inline assembly"),
    ("__asm__", "inline assembly"),
    ("_Pragma", "a pragma operator"),
    ("__has_include", "a probe of the file system"),
    ("__has_include_next", "a probe of the file system"),
];

/// Macros by which one text could be two kernels.
const COMPILERS: &[&str] = &[
    "CUDACC", "CUDA_ARCH", "NVCC", "GNUC", "clang", "NVRTC", "ASSAY_EMULATOR", "CUDA_VER", "CUDACC_RTC", "x86_64", "aarch64", "linux", "unix",
    "STDC_HOSTED", "OPTIMIZE", "CUDA_API", "CUDART", "DEVICE_FUNCTIONS", "CPPRTTI", "INTEL", "MSC_VER", "EXCEPTIONS", "GLIBC", "GXX", "SSE", "AVX",
];

/// Headers that may do what kernels may not, because each construct in them has its emulator twin and its conformance
/// case. They are known by content: the verifier carries its own copy, and an edited one is judged like any kernel.
const TRUSTED: [(&str, &str); 3] = [
    ("common/cuda.cuh", include_str!("../../kernels/common/cuda.cuh")),
    ("common/mma.cuh", include_str!("../../kernels/common/mma.cuh")),
    ("common/async.cuh", include_str!("../../kernels/common/async.cuh")),
];

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
    for (path, text) in &source.files {
        let trusted = TRUSTED.iter().any(|(p, t)| p == path && t == text);
        let code = strip(text);
        if path.starts_with("args/") {
            continue;
        }
        for directive in code.lines().filter_map(|l| l.trim_start().strip_prefix('#')) {
            let directive = directive.trim_start();
            let word: String = directive.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            match word.as_str() {
                "include" => {
                    let target = directive["include".len()..].trim_start();
                    if !target.starts_with('"') && !(trusted && target.starts_with('<')) {
                        out.push(format!("{path}: `#{directive}`: a kernel includes headers of kernels/ by their names in quotes"));
                    }
                }
                "define" | "undef" | "if" | "ifdef" | "ifndef" | "elif" | "else" | "endif" | "error" | "" => {}
                "pragma" => {
                    let what = directive["pragma".len()..].trim_start();
                    if !what.starts_with("once") && !what.starts_with("unroll") {
                        out.push(format!("{path}: `#{directive}`: only `once` and `unroll` are pragmas of a kernel"));
                    }
                }
                other => out.push(format!("{path}: `#{other}` has no place in a kernel")),
            }
        }
        if trusted {
            continue;
        }
        if code.contains("##") || code.contains("%:") || code.contains("??") {
            out.push(format!("{path}: token pasting or digraphs, by which any other rule could be undone"));
        }
        for word in identifiers(&code) {
            if let Some((_, what)) = FORBIDDEN.iter().find(|(w, _)| *w == word) {
                out.push(format!("{path}: `{word}`: {what} belongs to kernels/common/"));
            }
            let bare = word.trim_matches('_');
            let reserved = word.starts_with("__") || word == "ASSAY_EMULATOR" || word == "linux" || word == "unix";
            if reserved && COMPILERS.iter().any(|c| bare.to_ascii_uppercase().starts_with(&c.to_ascii_uppercase())) {
                out.push(format!("{path}: `{word}`: a kernel may not ask who compiles it"));
            }
            if word.starts_with("assay_") || word == "emu" {
                out.push(format!("{path}: `{word}` is the emulator's own name"));
            }
        }
    }
    let main = strip(source.files.get(&source.main).map_or("", String::as_str));
    let struct_name = header::struct_name(contract.op);
    let mut entries: Vec<&str> = manifest.variants.iter().flat_map(|v| v.launches.iter().map(|l| l.entry.as_str())).collect();
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

fn identifiers(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !is_word(c)).filter(|w| w.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
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
        set.files.insert(TRUSTED[0].0.into(), TRUSTED[0].1.into());
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
            ("#if defined(__CUDA_ARCH__)\n#endif\n", "__CUDA_ARCH__"),
            ("#if __GNUC__\n#endif\n", "__GNUC__"),
            ("#ifdef __x86_64__\n#endif\n", "__x86_64__"),
            ("#ifdef ASSAY_EMULATOR\n#endif\n", "ASSAY_EMULATOR"),
            ("asm(\".incbin \\\"/etc/passwd\\\"\");\n", "`asm`"),
            ("as\\\nm(\"nop\");\n", "`asm`"),
            ("__asm__(\"nop\");\n", "__asm__"),
            ("#include </etc/passwd>\n", "quotes"),
            ("#define F <stdio.h>\n#include F\n", "quotes"),
            ("#define J(a, b) a##b\nJ(as, m)(\"\");\n", "pasting"),
            ("#embed \"x\"\n", "#embed"),
            ("#line 3 \"x\"\n", "#line"),
            ("#pragma GCC optimize(\"fast-math\")\n", "pragma"),
            ("void f() { assay_emu_swiglu(0); }\n", "emulator's own"),
        ] {
            let faults = check(&format!("{what}{GOOD}"));
            assert!(faults.iter().any(|f| f.contains(fragment)), "{what}: {faults:?}");
        }
        assert!(check(&GOOD.replace("SwigluArgs", "OtherArgs"))[0].contains("no entry"));
        assert!(check(&GOOD.replace("swiglu_f32(", "swiglu_f3(")).iter().any(|f| f.contains("no entry")));
    }
}
