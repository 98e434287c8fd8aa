//! Doors to compilers: a text that breaks the rules is refused by commands that judge nothing, too.

use crate::bench::Bench;

#[test]
fn a_run_on_the_emulator_compiles_nothing_that_breaks_the_rules() {
    let bench = Bench::new();
    bench.kernel("rms_norm", &[]);
    bench.write("kernels/rms_norm.cu", "int f() { asm(\".incbin \\\"/etc/passwd\\\"\"); return 0; }\n");
    let out = bench.run(&["logits", "--backend", "emulator", "--allow-oracle", "-p", "a", "--json"]);
    assert_eq!(out.code, 1, "{}{}", out.stdout, out.stderr);
    assert!(out.stderr.contains("kernels/rms_norm.cu:1: inline assembly"), "{}", out.stderr);
    assert!(out.stderr.contains("[source-rule]"), "{}", out.stderr);
}

#[test]
fn every_command_has_the_same_backends_and_verify_refuses_the_oracle() {
    let bench = Bench::new();
    for command in ["run", "logits", "verify"] {
        let help = bench.stdout(&[command, "--help"]);
        let at = |text: &str| help.find(text).unwrap_or_else(|| panic!("{command}: {text} is missing in {help}"));
        let backends = ["- auto: ", "- device: ", "- emulator: ", "- oracle: "].map(at);
        assert!(backends.is_sorted(), "{command}");
    }
    let out = bench.run(&["verify", "--backend", "oracle"]);
    assert_eq!(out.code, 2, "{}", out.stderr);
    assert!(out.stderr.contains("the oracle is never a subject"), "{}", out.stderr);
}
