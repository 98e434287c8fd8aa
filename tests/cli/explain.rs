use crate::bench::Bench;

#[test]
fn a_code_is_explained() {
    let bench = Bench::new();
    insta::assert_snapshot!(bench.stdout(&["explain", "kernel-absent"]), @r"
    kernel-absent: the answer is no (exit code 1)

    The node has no kernel yet: neither kernels/<op>.<types>.toml nor a variant for its types in kernels/<op>.toml.
    ");
    let doc = bench.json(&["explain", "gguf-truncated", "--json"]);
    assert_eq!(doc["schema"], "assay.explain/1");
    assert_eq!(doc["codes"][0]["exit_code"], 3);
}

#[test]
fn all_codes_are_listed() {
    let bench = Bench::new();
    let list = bench.stdout(&["explain"]);
    let codes = bench.json(&["explain", "--json"]);
    let codes = codes["codes"].as_array().unwrap();
    assert!(codes.len() > 20 && list.lines().count() == codes.len() + 1, "{list}");
    for code in codes {
        assert!(list.contains(code["code"].as_str().unwrap()));
    }
}

#[test]
fn a_word_that_is_no_code_is_a_usage_error_with_the_closest_ones() {
    let out = Bench::new().run(&["explain", "kernel-missing"]);
    assert_eq!(out.code, 2);
    assert!(out.stderr.contains("kernel-absent") && out.stderr.contains("workbench-missing"), "{}", out.stderr);
}

#[test]
fn completions_know_every_command() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = bench.stdout(&["completions", shell]);
        for command in ["status", "next", "graph", "explain", "inspect"] {
            assert!(script.contains(command), "{shell} does not know {command}");
        }
    }
    assert_eq!(bench.run(&["completions", "ksh"]).code, 2);
}
