use crate::bench::Bench;

/// "Judging 1 nodes", it said.
#[test]
fn one_of_a_thing_is_not_called_several() {
    let bench = Bench::new();
    let out = bench.stdout(&["plan", "--prompt-len", "1"]);
    assert!(out.starts_with("prefill of 1 token, "), "{}", out.lines().next().unwrap_or_default());
    assert!(bench.stdout(&["graph", "--prompt-len", "1"]).contains(": prefill of 1 token, "));
    let out = bench.run(&["run", "-p", "38+45=", "-n", "2", "--backend", "oracle"]);
    assert!(out.stderr.contains("; decode 1 step, "), "{}", out.stderr);
    bench.kernel("swiglu", &[]);
    bench.write("kernels/swiglu.cu", "#error no kernel\n");
    let out = bench.run(&["verify", "swiglu", "--backend", "emulator"]);
    if out.stderr.contains("emulator-no-compiler") {
        return println!("could not run: no C++ compiler");
    }
    assert!(out.stdout.contains("\nJudging 1 node on the CPU emulator"), "{}{}", out.stdout, out.stderr);
}
