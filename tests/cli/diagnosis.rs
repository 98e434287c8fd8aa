//! `bench` and `run --trace-values`: where time and numbers go. On the emulator, whose times mean nothing.

use serde_json::Value;

use crate::bench::Bench;
use crate::faults::{edit, with_kernels};

/// Lines of comma-separated values; nothing here is quoted but what has a comma in it.
fn table(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|l| l.split(',').collect()).collect()
}

#[test]
fn a_benchmark_says_the_same_in_every_format() {
    let Some(bench) = with_kernels() else { return };
    let common = ["bench", "--backend", "emulator", "-p", "3", "-n", "0", "--per-node"];
    let run = |more: &[&str]| {
        let out = bench.run(&[&common, more].concat());
        assert_eq!(out.code, 0, "{}", out.stderr);
        out
    };
    let out = run(&["-d", "0,2", "-r", "2", "--json", "--trace", "trace.json"]);
    let doc: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(doc["schema"], "assay.bench/1");
    let tests = doc["tests"].as_array().unwrap();
    let names: Vec<&str> = tests.iter().map(|t| t["test"].as_str().unwrap()).collect();
    assert_eq!(names, ["pp3", "pp3@d2"]);
    // It was there twice, as `rows` too.
    assert_eq!(doc["rows"], Value::Null);
    for test in tests {
        assert_eq!(test["seconds"].as_array().unwrap().len(), 2);
        assert!(test["tokens_per_second"].as_f64().unwrap() > 0.0 && test["bytes_per_token"].as_f64().unwrap() > 1e5);
        assert!(test["device_ms"][0].as_f64().unwrap() > 0.0, "{test}");
    }
    for breakdown in doc["per_node"].as_array().unwrap() {
        assert!(breakdown["step_ms"].as_f64().unwrap() > 0.0);
        let nodes = breakdown["shares"].as_array().unwrap();
        assert!(nodes.iter().all(|n| n["bytes"].as_f64().unwrap() + n["flops"].as_f64().unwrap() >= 0.0));
        let product = nodes.iter().find(|n| n["node"] == "matmul[q8_0]").unwrap();
        assert!(product["bytes"].as_f64() > Some(1e5) && product["flops"].as_f64() > Some(1e5), "{product}");
        assert_eq!(breakdown["large"], serde_json::json!([]), "no matrix of this model has 32 MB");
        assert!(
            nodes.iter().any(|n| n["node"] == "moe_down[q2_k]" && n["instances"].as_u64() == Some(2)),
            "{breakdown}"
        );
    }
    // A process for each test; the launches of each lie one behind the other, and cover what the nodes took.
    let trace: Value = serde_json::from_str(&std::fs::read_to_string(bench.path("trace.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    for (process, breakdown) in doc["per_node"].as_array().unwrap().iter().enumerate() {
        let launches: Vec<&Value> =
            events.iter().filter(|e| e["pid"] == process && e["ph"] == "X" && e["tid"] == 1).collect();
        assert!(launches.len() > 80, "{}", launches.len());
        let mut at = 0.0;
        for launch in &launches {
            assert!((launch["ts"].as_f64().unwrap() - at).abs() < 1e-3, "{launch}");
            at += launch["dur"].as_f64().unwrap();
        }
        let sum: f64 = breakdown["shares"].as_array().unwrap().iter().map(|n| n["ms"].as_f64().unwrap()).sum();
        assert!((at / 1e3 - sum).abs() < 1e-6 * sum, "{at} µs, {sum} ms");
        // What the clock itself took is in no node's share: these are never more than the step.
        let (step, clock) = (breakdown["step_ms"].as_f64().unwrap(), breakdown["clock_ms"].as_f64().unwrap());
        assert!(sum <= step * (1.0 + 1e-4) && clock >= 0.0, "{sum} of {step} ms, {clock} between two launches");
        let between = breakdown["between_ms"].as_f64().unwrap();
        assert!((sum + between - step).abs() < 1e-4 * step && between >= 0.0, "{sum} + {between} of {step} ms");
        assert_eq!(launches[0]["args"]["instance"], "token_embd");
        let layers = events.iter().filter(|e| e["pid"] == process && e["ph"] == "X" && e["tid"] == 0);
        assert!(layers.map(|e| e["name"].as_str().unwrap()).any(|n| n == "layer 1"));
    }

    let out = run(&["-r", "1", "-o", "csv"]);
    let (measured, nodes) = out.stdout.split_once("\n\n").unwrap();
    let (measured, nodes) = (table(measured), table(nodes));
    assert_eq!((measured.len(), measured[0][0], measured[1][0]), (2, "test", "pp3"));
    assert_eq!(measured[0].last(), Some(&"verified"));
    assert!(measured[1][measured[0].len() - 1].starts_with("\"UNVERIFIED: "), "{measured:?}");
    for column in ["tokens_per_second", "deviation", "device_ms", "chunk", "numerics", "verified", "share_of_copy_rate"]
    {
        assert!(measured[0].contains(&column), "{column}: {:?}", measured[0]);
    }
    let columns = ["test", "node", "instances", "ms", "share", "bytes", "flops"];
    assert_eq!(nodes[0][..7], columns);
    assert_eq!(nodes[0][7..], ["share_of_copy_rate", "share_of_tensor_peak"]);
    assert!(nodes.iter().any(|row| row[1] == "between launches"));

    // The oracle has no clock of a device: 0.00 ms was the fastest of all.
    let oracle = ["bench", "--backend", "oracle", "-p", "1", "-n", "0", "-r", "1"];
    let page = bench.stdout(&oracle);
    assert!(page.contains("; 1 repetition after 1 unmeasured;"), "{page}");
    let row: Vec<&str> = page.lines().find(|l| l.starts_with("| pp1 ")).unwrap().split('|').map(str::trim).collect();
    assert_eq!(row[3], "-", "{page}");
    let page = bench.stdout(&[&oracle[..], &["-o", "csv"]].concat());
    let of_oracle = table(&page);
    let column = of_oracle[0].iter().position(|c| *c == "device_ms").unwrap();
    assert_eq!(of_oracle[1][column], "", "{page}");

    let lines = run(&["-r", "1", "-o", "jsonl"]).stdout;
    let lines: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    let keys = |v: &Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&lines[0]), keys(&tests[0]));
    assert_eq!((&lines[1]["test"], lines[1]["per_node"].is_object()), (&"pp3".into(), true));
}

/// What the clock took on average was taken off launches that took less, whose times came out negative; and the rows
/// were no step.
#[test]
fn no_node_has_a_negative_time_and_the_rows_add_up_to_the_step() {
    let Some(bench) = with_kernels() else { return };
    let page = bench.stdout(&["bench", "--backend", "emulator", "-p", "0", "-n", "1", "-r", "1", "--per-node"]);
    assert_eq!(page.matches(", one step as one graph: ").count(), 1, "{page}");
    for part in page.split(", one step as one graph: ").skip(1) {
        let step: f64 = part.split(' ').next().unwrap().parse().unwrap();
        let rows = part.lines().skip_while(|l| !l.starts_with("|---")).skip(1).take_while(|l| l.starts_with('|'));
        let times: Vec<f64> = rows.map(|l| l.split('|').nth(3).unwrap().trim().parse().unwrap()).collect();
        assert!(times.len() > 15 && times.iter().all(|ms| *ms >= 0.0) && !part.contains("-0.0"), "{part}");
        // Each is rounded to a microsecond.
        let (sum, most) = (times.iter().sum::<f64>(), 0.0005 * (times.len() + 2) as f64);
        assert!((sum - step).abs() <= most + 1e-4 * step, "{sum} of {step}: {part}");
    }
}

#[test]
fn every_option_of_bench_is_explained() {
    let help = Bench::new().stdout(&["bench", "--help"]);
    let lines: Vec<&str> = help.lines().collect();
    for (i, line) in lines.iter().enumerate() {
        let option = line.trim_start();
        if option.starts_with('-') && !option.starts_with("- ") && line.starts_with("  ") && i > 3 {
            let said = lines.get(i + 1).is_some_and(|l| l.trim().len() > 5 && !l.trim().starts_with('['));
            assert!(said, "{line}\n{:?}", lines.get(i + 1));
        }
    }
}

#[test]
fn bench_refuses_what_it_cannot_do() {
    let bench = Bench::new();
    for (args, part) in [
        (&["-p", "0", "-n", "0"][..], "nothing to measure"),
        (&["--chunk", "0"], "at least 1 token"),
        (&["-d", "2000000"], "the model's context does not hold these tests"),
        (&["-d", "18446744073709551615"], "the model's context does not hold these tests"),
        (&["--backend", "oracle", "--per-node"], "the oracle launches nothing"),
        (&["--json", "-o", "csv"], "cannot be used with"),
        (&["--backend", "emulator", "--record"], "times of the emulator are no figures of speed"),
        (&["--backend", "oracle", "--evidence", "e.jsonl"], "times of the oracle are no figures of speed"),
    ] {
        let out = bench.run(&[&["bench"], args].concat());
        assert!(out.code == 2 && out.stderr.contains(part), "{args:?}: {}", out.stderr);
    }
    let out = bench.run(&["bench", "--trace", "no/such/folder/t.json"]);
    assert!(out.code == 3 && out.stderr.contains("no/such/folder"), "{}", out.stderr);
}

#[test]
fn values_are_traced_and_the_first_that_is_no_number_is_named() {
    let Some(bench) = with_kernels() else { return };
    let args = ["run", "--backend", "emulator", "-p", "38+45=", "--trace-values"];
    let out = bench.run(&args);
    assert_eq!(out.code, 0, "{}", out.stderr);
    for part in ["on the emulator", "token_embd", "blk.0.hc_attn_expand", "blk.1.hc_ffn_expand", "growth"] {
        assert!(out.stdout.contains(part), "{part}: {}", out.stdout);
    }
    edit(&bench, "swiglu", "  if (threadIdx.x == 1) { a.h[4 * threadIdx.x + 2] = sqrtf(-1.0f); return; }");
    let out = bench.run(&args);
    assert_eq!(out.code, 1, "{}", out.stderr);
    assert!(out.stderr.contains("[not-finite]") && out.stderr.contains("blk.0."), "{}", out.stderr);
    assert!(out.stderr.contains("h[T=0, F=6] = NaN") && out.stderr.contains("assay verify swiglu"), "{}", out.stderr);
    assert!(
        out.stdout.contains("blk.0.hc_attn_expand") && !out.stdout.contains("blk.0.hc_ffn_expand"),
        "{}",
        out.stdout
    );
    let out = bench.run(&[&args[..], &["--json"]].concat());
    let doc: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!((out.code, &doc["schema"]), (1, &"assay.trace-values/1".into()));
    let bad = &doc["trace"]["not_finite"];
    assert_eq!((&bad["output"], &bad["at"], &bad["node"]), (&"h".into(), &"h[T=0, F=6]".into(), &"swiglu".into()));
}

/// One kernel that could not be read ended every command with a bare error, and no other kernel was judged.
#[test]
fn an_unreadable_kernel_is_its_own_nodes_fault_alone() {
    let bench = Bench::light();
    bench.ledger();
    let path = |name: &str| bench.path(&format!("kernels/{name}"));
    let read = |name: &str| std::fs::read_to_string(path(name)).unwrap();
    std::fs::remove_file(path("take_rows.cu")).unwrap();
    std::fs::remove_file(path("head_rms_norm.cu")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", path("head_rms_norm.cu")).unwrap();
    std::fs::write(path("rope_tail.cu"), [read("rope_tail.cu").as_bytes(), b"// \xff\n"].concat()).unwrap();
    std::fs::write(path("hc_split.cu"), format!("#include \"../../x.h\"\n{}", read("hc_split.cu"))).unwrap();
    std::fs::write(path("store_rows.toml"), "[[[").unwrap();
    let lines = read("hc_expand.toml");
    let lines = lines.lines().map(|l| if l.starts_with("grid") { "grid = [\"999999999999\", 1, 1]" } else { l });
    std::fs::write(path("hc_expand.toml"), lines.collect::<Vec<_>>().join("\n")).unwrap();
    let broken = [
        ("take_rows", "take_rows.cu: No such file"),
        ("head_rms_norm", "head_rms_norm.cu, a link that leads outside"),
        ("rope_tail", "is not UTF-8"),
        ("hc_split", "no path below kernels/"),
        ("store_rows", "store_rows.toml: TOML parse error"),
    ];
    let status = bench.json(&["status", "--json"]);
    let next = bench.json(&["next", "-n", "30", "--json"]);
    for (node, why) in broken {
        let of = |list: &serde_json::Value| list.as_array().unwrap().iter().find(|n| n["node"] == node).cloned();
        for said in [of(&status["nodes"]), of(&next["gates"])] {
            let said = said.unwrap_or_else(|| panic!("{node} is not there"));
            assert_eq!(said["state"], "broken", "{said:#}");
            assert!(said["kernel_problem"].as_str().unwrap().contains(why), "{said:#}");
        }
    }
    let mut args = vec!["verify", "--backend", "emulator", "--json", "swiglu", "hc_expand"];
    args.extend(broken.iter().map(|(node, _)| node));
    let out = bench.run(&args);
    if out.stderr.contains("emulator-no-compiler") {
        return println!("could not run: no C++ compiler");
    }
    assert_eq!(out.code, 1, "{}{}", out.stdout, out.stderr);
    let doc: serde_json::Value = serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", out.stderr));
    let judged = |node: &str| {
        let verdicts = doc["verdicts"].as_array().unwrap();
        verdicts.iter().find(|v| v["node"] == node).cloned().unwrap_or_else(|| panic!("{node}: {doc:#}"))
    };
    assert_eq!(judged("swiglu")["summary"], "pass", "{:#}", judged("swiglu"));
    for (node, why) in broken.into_iter().chain([("hc_expand", "grid term `999999999999`")]) {
        let verdict = judged(node);
        let at = if node == "hc_expand" { "stage 4" } else { "stage 2" };
        let reason = verdict["reason"].as_str().unwrap();
        assert!(verdict["summary"] == "red" && reason.contains(at) && reason.contains(why), "{reason}");
    }
}

/// The guide's example was of other numbers than the program prints, and said `1 cases`.
#[test]
fn the_guides_wrong_kernel_is_refused_in_the_guides_words() {
    let Some(bench) = with_kernels() else { return };
    let source = std::fs::read_to_string(bench.path("kernels/swiglu.cu")).unwrap();
    bench.write("kernels/swiglu.cu", &source.replacen("fminf", "fmaxf", 1));
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/CONTRIBUTING.md")).unwrap();
    let at = guide.find("```\nRED   swiglu").unwrap() + 4;
    let example: Vec<&str> = guide[at..].lines().take(4).collect();
    let seed = example[3].rsplit(' ').next().unwrap();
    let out = bench.run(&["verify", "swiglu", "--backend", "emulator", "--seed", seed]);
    assert_eq!(out.code, 1, "{}{}", out.stdout, out.stderr);
    // Which values a seed draws changes with the cases.
    let numbers = regex::Regex::new(r"-?\d+(\.\d+)?(e-?\d+)?").unwrap();
    let shape = |line: &str| numbers.replace_all(line, "#").replace("  ", " ");
    let from = out.stdout.lines().position(|l| l.starts_with("RED ")).unwrap();
    let found: Vec<&str> = out.stdout.lines().skip(from).take(4).collect();
    for (example, found) in example[..3].iter().zip(&found) {
        assert_eq!(
            shape(example).split_whitespace().collect::<Vec<_>>(),
            shape(found).split_whitespace().collect::<Vec<_>>()
        );
    }
    assert_eq!(example[3], found[3]);
    assert!(
        out.stdout.contains("\n0 of 27 nodes pass on the CPU emulator. 1 is red, 0 indeterminate.\n"),
        "{}",
        out.stdout
    );
}
