use crate::bench::Bench;

/// An expert's id that should be 3 was said to be `3.000000e0`, and in JSON 3.0.
#[test]
fn a_wrong_integer_is_printed_as_one() {
    let bench = Bench::new();
    bench.copy("kernels");
    let source = std::fs::read_to_string(bench.path("kernels/router_hash.cu")).unwrap();
    let wrong = source.replace("< a.E ? table[i] : 0", "< a.E ? (table[i] + 1) % a.E : 0");
    assert_ne!(source, wrong);
    bench.write("kernels/router_hash.cu", &wrong);
    let seed = "00000000000000000000000000000000000000000000000000000000000000ab";
    let args = ["verify", "router_hash", "--backend", "emulator", "--seed", seed];
    let out = bench.run(&args);
    if out.stderr.contains("emulator-no-compiler") {
        return println!("could not run: no C++ compiler");
    }
    assert_eq!(out.code, 1, "{}{}", out.stdout, out.stderr);
    let first = out.stdout.lines().find(|l| l.contains("first bad: ")).unwrap_or_else(|| panic!("{}", out.stdout));
    let number = regex::Regex::new(r"sel\[T=\d+, U=\d+\] should be (\d+) and is (\d+)$").unwrap();
    let found = number.captures(first).unwrap_or_else(|| panic!("{first}"));
    let doc: serde_json::Value = serde_json::from_str(&bench.run(&[&args[..], &["--json"]].concat()).stdout).unwrap();
    let stages = doc["verdicts"][0]["stages"].as_array().unwrap();
    let bad =
        stages.iter().find_map(|s| s.get("first_bad").filter(|b| b.is_object())).unwrap_or_else(|| panic!("{doc}"));
    assert_eq!((bad["expected"].to_string(), bad["found"].to_string()), (found[1].to_string(), found[2].to_string()));
}

/// The chunks of a thorough prefill were counted down from the longest window, and one of 4 rows came out negative.
#[test]
fn a_file_whose_longest_window_is_4_is_judged_thoroughly() {
    let out = Bench::light().run(&["verify", "output_hc_weights", "--thorough", "--backend", "emulator"]);
    if out.stderr.contains("emulator-no-compiler") {
        println!("could not run: no C++ compiler");
        return;
    }
    assert_eq!(out.code, 0, "{}{}", out.stdout, out.stderr);
}
