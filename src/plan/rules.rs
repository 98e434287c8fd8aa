//! What a kernel source may say, whoever compiles it: the rules that make one `.cu` mean one thing everywhere.
//!
//! Outside three headers of `common/` there is no inline assembly and nothing that tells the device compiler from the
//! emulator's, or a kernel could show one body to each. Includes name files of the kernels' folder or headers of the
//! compiler, by literal relative paths. The text is read by [`tokens`], the one reader of sources.
//!
//! [`check`] is asked twice, on purpose. Stage 2 asks it, so that a verdict can say what is wrong with the text beside
//! every other fault of it. And every door to a compiler asks it (`Nvrtc::build`, `EmulatorPlace::build`), because
//! `run`, `compile` and the other nodes of a prefill build kernels that no stage 2 has seen, and a compiler can be made
//! to read any file. Confinement of the compiler is the next line of defence.

use std::collections::BTreeSet;

use super::source::SourceSet;
use super::tokens::{Kind, Token, directives, statements, tokens};
use crate::error::{Error, Result};

crate::codes! {
    SOURCE_RULE: "source-rule", No, "A kernel source does what only three headers of kernels/common may do (inline \
        assembly), what no kernel may do (tell the device compiler from the emulator), or includes a file from outside \
        kernels/.";
}

/// Headers that may hold inline assembly and tests for the compiler, because each construct in them has its twin for
/// the emulator and its conformance case. They are known by content: an edited one is judged like any kernel.
const FREE: [(&str, &str); 3] = [
    ("common/cuda.cuh", include_str!("../../kernels/common/cuda.cuh")),
    ("common/mma.cuh", include_str!("../../kernels/common/mma.cuh")),
    ("common/async.cuh", include_str!("../../kernels/common/async.cuh")),
];
/// Reserved words of CUDA C++. Any other word of their form may be a macro that one compiler defines and another not.
const RESERVED: &[&str] = &[
    "__global__",
    "__device__",
    "__host__",
    "__shared__",
    "__constant__",
    "__restrict__",
    "__launch_bounds__",
    "__forceinline__",
    "__noinline__",
    "__align__",
    "__grid_constant__",
    "__managed__",
    "__cluster_dims__",
];
const ASM: &[&str] = &["asm", "__asm", "__asm__"];
const DIRECTIVES: &[&str] = &[
    "define", "undef", "if", "ifdef", "ifndef", "elif", "elifdef", "elifndef", "else", "endif", "include", "pragma",
    "error", "warning",
];

/// Whether a file is one of those headers as it should be.
pub fn is_free(path: &str, text: &str) -> bool {
    FREE.iter().any(|(p, own)| *p == path && *own == text)
}

/// Checks every file of the set and reports the first offence with file and line.
pub fn check(source: &SourceSet) -> Result<()> {
    let files: Vec<_> = source.files.iter().map(|(path, text)| (path.as_str(), tokens(text))).collect();
    let bound = |path: &str| !source.files.get(path).is_some_and(|text| is_free(path, text));
    // Macros that mean the same under every compiler: those that files under the rules define themselves.
    let own: BTreeSet<&str> = files
        .iter()
        .filter(|(path, _)| bound(path))
        .flat_map(|(_, tokens)| directives(tokens))
        .filter(|line| line.first().is_some_and(|t| t.is("define")))
        .filter_map(|line| line.get(1).map(|t| t.text.as_str()))
        .collect();
    for (path, text) in &source.files {
        unambiguous_lines(path, text)?;
    }
    for (path, tokens) in &files {
        for line in directives(tokens) {
            include_rule(path, line)?;
            if bound(path) {
                directive_rule(path, line, &own)?;
            }
        }
        if bound(path) {
            for token in tokens {
                token_rule(path, token)?;
            }
            state_rule(path, tokens)?;
        }
    }
    Ok(())
}

/// No variable outlives a launch: with one a kernel could count how often it was asked, and be right as long as a judge
/// asks. Tables are `const`, shared memory is a block's own.
fn state_rule(path: &str, tokens: &[Token]) -> Result<()> {
    let stays = |t: &Token| t.kind == Kind::Word && ["static", "__device__", "__managed__"].contains(&t.text.as_str());
    for line in directives(tokens) {
        if let Some(token) = line.iter().find(|t| stays(t)) {
            return Err(refuse(
                path,
                token,
                "a declaration inside a macro",
                "declarations that can be read where they stand",
            ));
        }
    }
    let code = statements(tokens);
    if let Some(token) = code.iter().find(|t| t.is("mutable")) {
        return Err(refuse(path, token, "a `mutable` member", "what is const, const"));
    }
    let mut start = 0;
    for (i, token) in code.iter().enumerate() {
        if token.is(";") || token.is("{") || token.is("}") {
            start = i + 1;
        }
        if !stays(token) {
            continue;
        }
        if variable(&code, i).is_some_and(|end| end - start > LONG || !lasting_constant(&code[start..end])) {
            return Err(refuse(
                path,
                token,
                "a variable that keeps its value from launch to launch, or a function without its body",
                "a `const` table, shared memory, scratch memory that the manifest asks for, a function's definition",
            ));
        }
    }
    Ok(())
}

/// Tokens of a declaration up to its value. A longer one is refused unread: reading takes the square of its length.
const LONG: usize = 512;

/// Where the declarator of a variable ends whose declaration has its word `static` or the like at `i`; `None`: it declares
/// a function.
fn variable(code: &[&Token], i: usize) -> Option<usize> {
    let mut at = i + 1;
    while let Some(token) = code.get(at) {
        if at - i > LONG {
            return Some(at);
        }
        let operator = code[at - 1].is("operator");
        if token.is("(") {
            let mut depth = 0;
            let close = code[at..].iter().take(8 * LONG).position(|t| {
                depth += i32::from(t.is("(")) - i32::from(t.is(")"));
                depth == 0
            });
            // No function has such parameters.
            let Some(close) = close else { return Some(at) };
            let next = code.get(at + close + 1);
            if close == 1 && next.is_some_and(|t| t.is(";")) {
                return None;
            }
            if next.is_some_and(|t| ["{", "const", "noexcept", "-", ":"].iter().any(|w| t.is(w))) {
                return None;
            }
            // `int n(0);`, which a function declared before its definition looks like too; an attribute like __align__(16) is followed by more.
            if next.is_none_or(|t| t.is(";") || t.is(",")) {
                return Some(at);
            }
            at += close + 1;
        } else if !operator && [";", "=", "{", "[", ","].iter().any(|w| token.is(w)) {
            // Commas of template arguments are not the declaration's.
            if !token.is(",") || angles(&code[i..at]) == 0 {
                return Some(at);
            }
            at += 1;
        } else {
            at += 1;
        }
    }
    Some(at)
}

fn angles(tokens: &[&Token]) -> i32 {
    tokens.iter().map(|t| i32::from(t.is("<")) - i32::from(t.is(">"))).sum()
}

/// Whether a declaration's words make its variable itself constant, or shared memory.
fn lasting_constant(words: &[&Token]) -> bool {
    let outside = |at: &usize| angles(&words[..*at]) == 0;
    let last = |word: &str| (0..words.len()).filter(outside).rfind(|i| words[*i].is(word));
    if words.iter().any(|t| t.is("volatile")) {
        return false;
    }
    last("constexpr").is_some()
        || last("__shared__").is_some()
        || last("__constant__").is_some()
        || last("const").is_some_and(|c| last("*").is_none_or(|p| p < c))
}

/// Compilers differ in where such lines end, and a comment that ends elsewhere can hide code.
fn unambiguous_lines(path: &str, text: &str) -> Result<()> {
    for (number, line) in (1..).zip(text.lines()) {
        let what = match () {
            _ if line.contains('\r') => "a carriage return inside a line",
            _ if line.trim_end() != line && line.trim_end().ends_with('\\') => "blanks after a line's last backslash",
            _ => continue,
        };
        return Err(Error::new(&SOURCE_RULE, format!("kernels/{path}:{number}: {what}"))
            .expected("lines whose end every compiler sees in the same place"));
    }
    Ok(())
}

fn refuse(path: &str, token: &Token, what: &str, expected: &str) -> Error {
    Error::new(&SOURCE_RULE, format!("kernels/{path}:{}: {what}", token.line))
        .expected(expected)
        .found(format!("`{}`", token.text))
}

fn include_rule(path: &str, line: &[Token]) -> Result<()> {
    let expected =
        "#include \"folder/file\" or <header>, relative to kernels/ or to the compiler's headers, without `..`";
    let Some(name) = line.first() else { return Ok(()) };
    if !DIRECTIVES.contains(&name.text.as_str()) {
        return Err(refuse(
            path,
            name,
            "an unusual preprocessor directive",
            &format!("one of {}", DIRECTIVES.join(", ")),
        ));
    }
    if !name.is("include") {
        return Ok(());
    }
    let operand = match line.get(1) {
        Some(t) if t.kind == Kind::Text && t.text.starts_with('"') => t.text.trim_matches('"').to_owned(),
        Some(t) if t.is("<") => line[2..].iter().take_while(|t| !t.is(">")).map(|t| t.text.as_str()).collect(),
        other => return Err(refuse(path, other.unwrap_or(name), "an include without a literal file name", expected)),
    };
    let outside = operand.is_empty()
        || operand.starts_with('/')
        || operand.contains('\\')
        || operand.split('/').any(|part| part == "..");
    match outside {
        true => Err(refuse(path, &line[1], &format!("an include of a file outside kernels/: {operand}"), expected)),
        false => Ok(()),
    }
}

/// Conditions test only what such files define themselves.
fn directive_rule(path: &str, line: &[Token], own: &BTreeSet<&str>) -> Result<()> {
    if let [pragma, what, ..] = line
        && pragma.is("pragma")
        && !what.is("once")
        && !what.is("unroll")
    {
        return Err(refuse(path, what, "a pragma that is one compiler's own", "#pragma once or #pragma unroll"));
    }
    let Some(name) = line.first().filter(|t| t.text.contains("if")) else { return Ok(()) };
    // An include guard defines its macro on the next line, so it is among `own`.
    for token in &line[1..] {
        if token.kind == Kind::Word && !token.is("defined") && !own.contains(token.text.as_str()) {
            let what = format!("#{} on a macro that no kernel file defines", name.text);
            return Err(refuse(path, token, &what, "code that is the same for every compiler"));
        }
    }
    Ok(())
}

fn token_rule(path: &str, token: &Token) -> Result<()> {
    if token.kind == Kind::Word && ASM.contains(&token.text.as_str()) {
        return Err(refuse(
            path,
            token,
            "inline assembly",
            "a function of kernels/common, where its emulator twin stands",
        ));
    }
    if token.kind == Kind::Word && ["thread_local", "__thread"].contains(&token.text.as_str()) {
        return Err(refuse(path, token, "a variable of a host's thread", "__shared__ or a local variable"));
    }
    if token.is("##") {
        return Err(refuse(path, token, "pasted tokens", "names that can be searched for"));
    }
    let word = token.text.as_str();
    let system = |w: &str| w.starts_with('_') && w[1..].starts_with(|c: char| c.is_ascii_uppercase());
    let predefined = ["__linux", "__unix", "__amd64", "__x86_64", "__k8", "__aarch64", "__cplusplus"].contains(&word);
    let tells = (word.starts_with("__") && word.ends_with("__") && !RESERVED.contains(&word))
        || word.starts_with("__CUDA")
        || predefined
        || system(word)
        || ["ASSAY_EMULATOR", "linux", "unix", "NDEBUG"].contains(&word);
    if token.kind == Kind::Word && (word.starts_with("assay_") || word.starts_with("__builtin")) {
        return Err(refuse(path, token, "a name that belongs to the emulator or to one compiler", "CUDA C++"));
    }
    match token.kind == Kind::Word && tells {
        true => Err(refuse(path, token, "a macro that differs between compilers", "code that is the same for each")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_main(text: &str) -> Result<()> {
        let files = [("k.cu".to_owned(), text.to_owned())];
        check(&SourceSet { main: "k.cu".into(), files: files.into() })
    }

    #[test]
    fn honest_sources_pass() {
        let text = r#"#pragma once
#include "common/cuda.cuh"
#include <cuda_fp16.h>
#ifndef TILE
#define TILE 64
#endif
#if TILE > 32 && defined(TILE)
// asm, #include "/etc/passwd" and __CUDA_ARCH__ in a comment /* are nothing
#endif
/* asm("nop") */ const char* s = "asm # ## __CUDACC__"; int n = 1'000'000; char c = '"'; int asmx;
const char* r = R"x( asm ## )" )x";
"#;
        check_main(text).unwrap();
    }

    #[test]
    fn every_disguise_is_refused() {
        let cases = [
            "int f() { asm(\"nop\"); }",
            "int f() { __asm__ volatile (\"nop\"); }",
            "void f() { thread_local int n = 0; ++n; }",
            "int f() { as\\\nm(\"nop\"); }",
            "#define CAT(a, b) a##b\nCAT(as, m)(\"nop\");",
            "#define CAT(a, b) a %:%: b\n",
            "/* */ # /* */ ifdef __CUDACC__\n#endif",
            "%:ifdef __CUDACC__\n%:endif",
            "#if defined(__GNUC__)\n#endif",
            "#ifdef ASSAY_EMULATOR\n#endif",
            "#if __has_include(\"x.h\")\n#endif",
            "#ifndef __NVCC__\n#endif",
            "int f() { return __CUDA_ARCH__; }",
            "#include \"/etc/passwd\"",
            "#include <../secret.h>",
            "#include \"common/../../secret.h\"",
            "#inc\\\nlude \"/etc/passwd\"",
            "#define WHERE \"/etc/passwd\"\n#include WHERE",
            "#embed \"x\"",
            "// comment \\ \nint a;",
            "// comment \r asm(1);\nint a;",
            "const char* s = R\"(\"; /* )\"; asm(\"nop\"); /* */",
        ];
        for text in cases {
            let error = check_main(text).expect_err(text);
            assert_eq!(error.code().id, "source-rule", "{text}");
        }
    }

    #[test]
    fn nothing_lasts_from_launch_to_launch() {
        for text in [
            "__device__ int n;",
            "__device__ const float* p;",
            "__device__ int n = 1, m;",
            "__managed__ int n;",
            "void f() { static int n = 0; ++n; }",
            "void f() { static int n(0); ++n; }",
            "struct S { static int n; };",
            "static __align__(16) int n[4];",
            "static decltype(0) n;",
            "static Box<const int> n;",
            "static Box<(1)> n;",
            "__device__ const volatile int n = 0;",
            "struct S { mutable int n; };",
            "#define KEEP __device__\nKEEP int n;",
            "template <int N>\n__device__\nint n{N};",
        ] {
            check_main(text).expect_err(text);
        }
        check_main(
            "__device__ const u64 grid[2] = {1, 2};\nstatic constexpr int kN = 3;\n__device__ inline int f(int a) { return a; }\n\
             struct S {\n  __device__ static float* after(char* c) { return 0; }\n  __device__ S& operator=(const S&) { return *this; }\n\
             __device__ int get() const { return 1; }\n  __device__ S(int a) : n(a) {}\n};\n__constant__ float t[2];\n\
             void g() { static __shared__ float x[3]; }\n__device__ const char* const s = 0;\n\
             template <class A, class B> __device__ static Box<A, B> make() { return {}; }\n\
             static_assert(sizeof(int) == 4, \"\");\n",
        )
        .unwrap();
    }

    #[test]
    fn three_headers_may_as_long_as_they_are_ours() {
        let set = |path: &str, text: &str| SourceSet {
            main: "k.cu".into(),
            files: [("k.cu".to_owned(), String::new()), (path.to_owned(), text.to_owned())].into(),
        };
        FREE.iter().for_each(|(path, text)| check(&set(path, text)).unwrap());
        check(&set("common/mma.cuh", "#ifdef ASSAY_EMULATOR\n#else\nasm(\"nop\");\n#endif")).unwrap_err();
        check(&set("quant/q8_0.cuh", "asm(\"nop\");")).unwrap_err();
        check(&set("common/mma.cuh", "#include \"/etc/passwd\"")).unwrap_err();
    }
}
