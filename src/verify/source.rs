//! Stage 2: the kernel's text, before any compiler sees it.
//!
//! A kernel must be one text for every compiler, so that what a GPU runs is what the emulator ran: [`rules`] says what
//! it may hold. Its arguments must be the contract's, and its entries the manifest's.

use crate::ops::{Contract, header};
use crate::plan::manifest::Manifest;
use crate::plan::rules;
use crate::plan::source::SourceSet;
use crate::plan::tokens::{Kind, Token, statements, tokens};

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
    let main = tokens(source.files.get(&source.main).map_or("", String::as_str));
    let main = statements(&main);
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

/// Whether the code defines `extern "C" __global__ void … entry(const Args name)`.
fn has_entry(code: &[&Token], entry: &str, struct_name: &str) -> bool {
    let named = code.iter().enumerate().filter(|(_, t)| t.kind == Kind::Word && t.text == entry);
    named.map(|(i, _)| (&code[..i], &code[i + 1..])).any(|(before, after)| {
        let parameter = match after.split_first() {
            Some((open, rest)) if open.is("(") => {
                rest[..rest.len().min(4)].split(|t| t.is(")")).next().unwrap_or_default()
            }
            _ => return false,
        };
        let words: Vec<&str> = parameter.iter().map(|t| t.text.as_str()).collect();
        let fits = matches!(words.as_slice(), ["const", s, _] | [s, "const", _] | [s, _] if *s == struct_name);
        // Attributes and launch bounds stand before the name, and nothing that is longer.
        let near = &before[before.len().saturating_sub(64)..];
        let head = near.rsplit(|t| t.is(";") || t.is("}")).next().unwrap_or_default();
        let linked = head.windows(2).any(|pair| pair[0].is("extern") && pair[1].text == "\"C\"");
        fits && linked && head.iter().any(|t| t.is("__global__"))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::ops;
    use crate::plan::kernels::KernelTree;

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
        for (from, to) in [
            ("SwigluArgs", "OtherArgs"),
            ("extern \"C\" ", ""),
            ("__global__", "__device__"),
            ("extern", "/* extern */"),
            ("extern", "#define NEVER \\\nextern"),
            ("extern", "const char* s = R\"( extern"),
        ] {
            let faults = check(&GOOD.replace(from, to));
            assert!(faults.iter().any(|f| f.contains("no entry")), "{from} to {to}: {faults:?}");
        }
        assert!(check(&GOOD.replace("swiglu_f32(", "swiglu_f3(")).iter().any(|f| f.contains("no entry")));
    }

    #[test]
    fn every_kernel_of_the_tree_has_its_entries() {
        let tree = KernelTree::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")).unwrap();
        let mut seen = 0;
        for (stem, manifest) in tree.manifests() {
            let contract = ops::find(&manifest.op).unwrap().contract();
            let set = SourceSet::load(tree.root(), &format!("{stem}.cu")).unwrap();
            assert_eq!(faults(&set, manifest, contract), Vec::<String>::new(), "{stem}");
            seen += 1;
        }
        assert!(seen > 20);
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
