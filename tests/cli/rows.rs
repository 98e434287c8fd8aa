use crate::bench::Bench;

/// Notes were printed as the JSON that is recorded, 1300 characters in a line.
#[test]
fn a_row_is_shown_a_field_a_line() {
    let bench = Bench::new();
    bench.ledger();
    let out = bench.stdout(&["show", "5"]);
    assert!(out.lines().all(|l| l.chars().count() <= 120 && !l.contains("{\"") && !l.contains("[{")), "{out}");
    let teeth: Vec<_> = out.lines().skip_while(|l| !l.starts_with("  teeth")).take(8).collect();
    insta::assert_snapshot!(teeth.join("\n"), @r"
      teeth            pass
        mutants.zeros             applies 8, killed 8
        mutants.last_call         applies 7, killed 7
        mutants.last_tile_skipped applies 8, killed 8
        mutants.scale_wrong       applies 0, killed 0, left_out: none of its weights has block scales
        mutants.rows_transposed   applies 6, killed 6
        mutants.head_swapped      applies 0, killed 0, left_out: its outputs have no heads
        mutants.lower_precision   applies 0, killed 0, left_out: its outputs are compared bit by bit
    ");
    let doc = bench.json(&["show", "5", "--json"]);
    assert_eq!(doc["schema"], "assay.show/1");
    let notes = doc["statement"]["predicate"]["stages"].as_array().unwrap().iter().filter(|s| s["note"].is_string());
    assert!(notes.count() > 3, "--json has them as they are recorded");
}

#[test]
fn two_rows_are_compared_a_field_a_line() {
    let bench = Bench::new();
    bench.ledger();
    let out = bench.stdout(&["diff", "5", "31"]);
    assert!(out.lines().all(|l| !l.contains("{\"") && !l.contains("[{")), "{out}");
    let lines: Vec<_> = out.lines().collect();
    assert!(lines[0].starts_with("- row 5  fp8_kv_round_trip") && lines[1].starts_with("+ row 31  moe_down[q8_0]"));
    let arrow = |l: &&str| l.chars().collect::<Vec<_>>().windows(3).position(|w| w == [' ', '→', ' ']);
    assert!(lines[2..].iter().all(|l| arrow(l).is_some()), "{out}");
    let narrow: std::collections::BTreeSet<_> =
        lines[2..].iter().filter(|l| l.contains(".figures.")).map(arrow).collect();
    assert_eq!(narrow.len(), 1, "{out}");
    assert!(out.contains("stages.teeth.mutants.zeros ") && out.contains(" → applies 38, killed 38\n"), "{out}");
    assert!(out.contains("stages.graph.figures.launches ") && out.contains(" → 90  (×0.185)\n"), "{out}");
    assert!(bench.stdout(&["diff", "5", "5"]).contains("no field differs"));
    assert!(bench.json(&["diff", "5", "31", "--json"])["changed"].as_array().unwrap().len() > 30);
}

/// Evidence could be made by a seed whose cases the kernel's author knew.
#[test]
fn a_chosen_seed_is_not_recorded() {
    let bench = Bench::new();
    bench.copy("kernels");
    let seed = "0".repeat(64);
    let ways = [&["--record"][..], &["--evidence", "e.json"], &["--runner", "env"], &["--runner", "env", "--record"]];
    let named = ways.iter().map(|way| [&["verify", "take_rows", "--seed", &seed], *way].concat());
    let whole = ways[..2].iter().map(|way| [&["verify", "--all", "--seed", &seed], *way].concat());
    for args in named.chain(whole) {
        let out = bench.run(&args);
        assert_eq!(out.code, 2, "{args:?}: {}{}", out.stdout, out.stderr);
        assert!(out.stderr.contains("chosen seed") && out.stderr.contains("next: "), "{args:?}: {}", out.stderr);
    }
    assert!(!bench.path("state").exists() && !bench.path("e.json").exists());
}

/// Two keys that sign all of what is green were in no place that a reader could compare them with.
#[test]
fn the_tree_proposes_every_key_that_signs_what_is_green() {
    use assay::ledger::{Class, Ledger, Outcome, PublicKey};
    let repository = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let settings = std::fs::read_to_string(repository.join("assay.toml")).unwrap();
    let settings: toml::Value = toml::from_str(&settings).unwrap();
    let proposed = settings["verifiers"].as_array().unwrap().iter().map(|k| k.as_str().unwrap().parse::<PublicKey>());
    let proposed: Vec<_> = proposed.map(|k| k.unwrap().id()).collect();
    let ledger = Ledger::read(repository).unwrap();
    let mut last = std::collections::BTreeMap::new();
    for row in ledger.rows() {
        if let Some(v) = row.statement().verdict().filter(|v| v.class == Class::Device) {
            last.insert((v.node.to_string(), v.binding.arch.clone()), (row.seq, row.evidence.signer(), &v.outcome));
        }
    }
    for (what, (row, signer, _)) in last.iter().filter(|(_, (_, _, outcome))| matches!(outcome, Outcome::Pass)) {
        assert!(proposed.contains(signer), "{what:?}: row {row} is signed by {}", signer.short());
    }
}
