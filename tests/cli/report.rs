//! `assay report` and `assay history`'s pictures, read as a stranger's browser would.

use std::collections::BTreeSet;
use std::path::Path;

use assay::history;
use assay::ledger::Stage;
use regex::Regex;

use crate::bench::Bench;
use crate::recorded::{Recorded, git};

/// Texts that would do something if any format let them.
const HOSTILE: &str = "<script>alert(1)</script> \"'><img src=http://evil.example/x.png onerror=alert(1)> [x](javascript:alert(1)) | \
                       </svg></code></q> `a` ``b`` &amp; \u{1b}[2J\u{202e}";

fn recorded() -> Recorded {
    let mut r = Recorded::new();
    r.pass(&["rms_norm", "embed[f16]"]);
    r.red("rope_tail", Stage::Unit, HOSTILE);
    r.pass(&["rope_tail"]);
    r.verdict("rms_norm", |v| v.informative.device = HOSTILE.into());
    r.verdict("matmul[q8_0]", |v| {
        v.stages[3].figures.insert("evil<b>.relative_rms".into(), assay::ledger::Figure::Real(f64::NAN));
    });
    r.bench("pp512<i>", 3120.5);
    r.append();
    r.bench.write(
        "claims.json",
        &serde_json::json!({
            "kernels": { "rms_norm": "done", "ds4_gpu_rope_tail_tensor": "done", HOSTILE: "done", "swiglu": HOSTILE },
            "prefill_working": true, "prefill_tps": 2718.28,
        })
        .to_string(),
    );
    r
}

fn page(r: &Recorded, args: &[&str]) -> String {
    let out = r.run(&[&["report"], args].concat());
    assert_eq!(out.code, 0, "{}", out.stderr);
    out.stdout
}

/// Every tag is closed, in order; gives the attributes of all.
fn well_formed(html: &str) -> Vec<(String, String)> {
    let tag = Regex::new(r#"<(/?)([a-zA-Z0-9]+)((?:\s+[a-zA-Z:-]+(?:="[^"<]*")?)*)\s*(/?)>|<!DOCTYPE html>"#).unwrap();
    let attribute = Regex::new(r#"([a-zA-Z:-]+)="([^"]*)""#).unwrap();
    let (mut open, mut attributes, mut end): (Vec<String>, Vec<(String, String)>, usize) = Default::default();
    for found in tag.captures_iter(html) {
        let whole = found.get(0).unwrap();
        assert!(!html[end..whole.start()].contains('<'), "a stray `<`: {}", &html[end..whole.end()]);
        end = whole.end();
        let Some(name) = found.get(2) else { continue };
        let name = name.as_str().to_lowercase();
        for a in attribute.captures_iter(&found[3]) {
            attributes.push((a[1].to_lowercase(), a[2].to_string()));
        }
        match (&found[1], &found[4]) {
            ("/", _) => assert_eq!(open.pop(), Some(name)),
            (_, "/") => {}
            _ if ["meta", "link", "br"].contains(&name.as_str()) => {}
            _ => open.push(name),
        }
    }
    assert!(open.is_empty() && !html[end..].contains('<'), "{open:?}");
    attributes
}

/// What stands in the elements of these names, and what is left without them.
fn without(html: &str, names: &[&str]) -> String {
    let mut out = html.to_string();
    for name in names {
        let element = Regex::new(&format!(r"(?s)<{name}(?:\s[^>]*)?>.*?</{name}>")).unwrap();
        out = element.replace_all(&out, " ").into_owned();
    }
    out
}

#[test]
fn the_page_is_one_file_that_asks_for_nothing_and_runs_nothing() {
    let r = recorded();
    let out = r.run(&["report", "--format", "html", "--out", "report.html", "--claims", "claims.json"]);
    assert_eq!((out.code, out.stdout.as_str()), (0, "report.html\n"), "{}", out.stderr);
    let html = std::fs::read_to_string(r.bench.path("report.html")).unwrap();
    let attributes = well_formed(&html);
    let ids: Vec<&str> = attributes.iter().filter(|(name, _)| name == "id").map(|(_, id)| id.as_str()).collect();
    let distinct: BTreeSet<&str> = ids.iter().copied().collect();
    let tips = ids.iter().filter(|id| **id == "tip").count();
    assert_eq!(ids.len(), distinct.len() + tips.saturating_sub(1), "an id stands twice: {ids:?}");
    for (name, value) in &attributes {
        assert!(!name.starts_with("on") && name != "src" && name != "srcset" && name != "action", "{name}={value}");
        if name == "href" || name == "xlink:href" {
            let target = value.strip_prefix('#').map(|id| distinct.contains(id));
            assert!(target == Some(true) || value == "data:,", "{name}={value}");
        }
    }
    let marked = without(&html, &["code", "q", "style"]);
    assert!(!html.contains("<script") && !html.contains("@import") && !html.contains("url(http"), "{html}");
    assert!(!html.contains(['\u{1b}', '\u{202e}']) && html.contains("&lt;script&gt;"));
    assert!(html.contains("Content-Security-Policy") && html.contains("prefers-color-scheme:dark"));
    assert!(html.contains("name=\"viewport\""));
    assert!(!marked.contains("http-equiv=\"refresh\""));
    for id in ["node-rope_tail", "node-matmul-q8_0", "row-3", "graph", "claims", "postmortem"] {
        assert!(distinct.contains(id), "{id} is missing");
    }
}

/// POSTMORTEM.md §8. What looks measured and is no quotation stands in a link to a row.
#[test]
fn a_figure_without_a_row_is_not_rendered() {
    let r = recorded();
    let measured = Regex::new(r"\d\.\d|\d(?:\.\d+)?e-?\d|NaN|\binf\b").unwrap();
    // A key's id is drawn anew in every run, and one in five looks like a number with an exponent.
    let key = Regex::new(r"\bkey [0-9a-f]{12}\b").unwrap();
    let html = page(&r, &["--format", "html", "--claims", "claims.json"]);
    let html = without(&html, &["style", "code", "q", "title"]);
    let link = Regex::new(r##"(?s)<a href="#row-\d+">(.*?)</a>"##).unwrap();
    let figures = link.captures_iter(&html).filter(|a| measured.is_match(&a[1])).count();
    assert!(figures > 20, "{figures}");
    let said = Regex::new(r##"(?s)<span class="said">[^<]*<a href="#row-\d+">.*?</span>"##).unwrap();
    let rest = said.replace_all(&html, " ");
    let rest = link.replace_all(&rest, " ");
    let text = Regex::new(r"(?s)<[^>]*>").unwrap().replace_all(&rest, " ");
    let text = key.replace_all(&text, "key");
    let stray: Vec<&str> = text.lines().filter(|l| measured.is_match(l)).collect();
    // Formulas of the contracts are the program's own words: they have sections, not figures.
    let stray: Vec<&str> = stray.into_iter().filter(|l| !l.contains('§')).collect();
    assert_eq!(stray, Vec::<&str>::new());
    assert!(!html.contains("2718.28"), "a claim is shown as a quotation alone");

    let md = page(&r, &["--claims", "claims.json"]);
    let anchors: BTreeSet<String> =
        Regex::new("<a id=\"([^\"]+)\"></a>").unwrap().captures_iter(&md).map(|a| a[1].to_string()).collect();
    let code = Regex::new(r"(?s)(`+)[^`].*?`+").unwrap();
    let plain = code.replace_all(&md, " ").replace("\\[", "").replace("\\]", "").replace("\\(", "").replace("\\)", "");
    let links = Regex::new(r"\]\(([^)]*)\)").unwrap();
    for target in links.captures_iter(&plain) {
        let id = target[1].strip_prefix('#').unwrap_or_else(|| panic!("{}", &target[0]));
        assert!(anchors.contains(id), "no {id}");
    }
    let plain = Regex::new(r"\[[^\]]*\]\(#row-\d+\)").unwrap().replace_all(&plain, " ");
    let plain = key.replace_all(&plain, "key");
    let stray: Vec<&str> =
        plain.lines().filter(|l| measured.is_match(l) && !l.contains('§') && !l.contains("(row ")).collect();
    let stray: Vec<&str> = stray.into_iter().filter(|l| !l.contains("tokens a second on")).collect();
    assert_eq!(stray, Vec::<&str>::new());
    assert!(!plain.contains("<script") && !plain.contains("<img") && !plain.contains("http:"), "{plain}");
}

#[test]
fn a_report_says_what_status_says_and_what_the_claims_come_to() {
    let r = recorded();
    let md = page(&r, &["--claims", "claims.json"]);
    for line in [
        "# What is proved of `small.gguf`",
        "nodes are simulated, which is no evidence of a device, on `sm_90`.",
        "prefill\\_working: no.",
        "| `ds4_gpu_rope_tail_tensor` | `done` | confirmed |",
        "| `prefill_tps` | `2718.28` | confirmed |",
        "## Postmortem",
        "*What let it pass: to be written",
        "## Gates",
        "never attempted: neither a verdict nor an attempt is on record",
    ] {
        let line = line.replace("\\_", "_");
        assert!(md.contains(&line), "no `{line}` in:\n{md}");
    }
    let plain = page(&r, &[]);
    assert!(!plain.contains("Postmortem") && !plain.contains("Claims"), "nobody asked for them");
    assert!(page(&r, &["--postmortem"]).contains("No claim file was given"));
    let doc: serde_json::Value = serde_json::from_str(&page(&r, &["--json", "--format", "html"])).unwrap();
    assert_eq!((&doc["schema"], &doc["format"]), (&"assay.report/1".into(), &"html".into()));
    assert!(doc["text"].as_str().unwrap().starts_with("<!DOCTYPE html>") && doc["rows"].as_array().unwrap().len() > 4);
    for (args, code) in [
        (&["report", "--out", "no/such/folder/x.html"][..], 3),
        (&["report", "--claims", "nowhere.json"], 3),
        (&["report", "--format", "pdf"], 2),
    ] {
        assert_eq!(r.run(args).code, code, "{args:?}");
    }
}

#[test]
fn a_workbench_without_a_row_reports_that_nothing_is_proved() {
    let bench = Bench::new();
    let md = bench.stdout(&["report"]);
    assert!(md.contains("Nothing is proved: no row speaks of one of the 27 nodes"), "{md}");
    assert!(md.contains("No row holds a speed"), "{md}");
    well_formed(&bench.stdout(&["report", "--format", "html"]));
}

#[test]
fn a_nodes_history_has_every_attempt_with_its_figures_and_a_picture() {
    let mut r = Recorded::new();
    let root = r.root();
    assert!(git(&root, &["init", "-q"]).0);
    assert!(
        git(&root, &["config", "user.name", "tester"]).0 && git(&root, &["config", "user.email", "t@example.org"]).0
    );
    r.red("rope_tail", Stage::Unit, HOSTILE);
    let target = "rope_tail".parse().unwrap();
    history::record_attempt(&root, &target, r.last()).unwrap().unwrap();
    r.pass(&["rope_tail", "rms_norm"]);
    r.verdict("rope_tail", |v| {
        v.stages[3].figures.insert("relative_rms".into(), assay::ledger::Figure::Real(f64::INFINITY));
        v.stages[6].figures.insert("time_us".into(), assay::ledger::Figure::Real(12.5));
    });
    r.append();
    let out = r.run(&["history", "rope_tail", "--svg", "rope.svg"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    for part in [
        "red in unit",
        "error 3.40e-7 relative RMS, 0.5 absolute; 81.25 µs",
        "12.5 µs",
        "refs/assay/attempts/rope_tail/1  row 1",
    ] {
        assert!(out.stdout.contains(part), "no `{part}` in {}", out.stdout);
    }
    assert!(!out.stdout.contains("rms_norm") && !out.stdout.contains('\u{1b}'), "{}", out.stdout);
    let svg = std::fs::read_to_string(r.bench.path("rope.svg")).unwrap();
    well_formed(&svg);
    assert_eq!(svg, r.run(&["history", "rope_tail", "--format", "svg"]).stdout);
    assert!(svg.contains("row 1: red") && svg.contains("row 4: pass") && svg.contains("time, µs"), "{svg}");
    assert!(!svg.contains("href") && !svg.contains("NaN") && svg.contains("prefers-color-scheme"), "{svg}");
    let doc: serde_json::Value = serde_json::from_str(&r.run(&["history", "rope_tail", "--json"]).stdout).unwrap();
    assert_eq!((&doc["rows"][0]["outcome"], &doc["rows"][0]["stage"]), (&"red".into(), &"unit".into()));
    assert_eq!(doc["rows"][0]["attempt"], "refs/assay/attempts/rope_tail/1");
    assert_eq!((&doc["rows"][1]["relative_rms"], &doc["rows"][1]["time_us"]), (&3.4e-7.into(), &81.25.into()));
    for args in
        [&["history", "--svg", "x.svg"][..], &["history", "--format", "svg"], &["history", "swiglu", "--format", "svg"]]
    {
        let out = r.run(args);
        assert_eq!(out.code, 2, "{args:?}: {}", out.stderr);
    }
}

/// The whole way: a kernel that was broken by hand, judged on the emulator, kept, listed, and held against a claim.
#[test]
fn a_red_kernel_is_kept_and_refutes_its_claim() {
    let r = Recorded::new();
    let root = r.root();
    assert!(git(&root, &["init", "-q"]).0);
    assert!(
        git(&root, &["config", "user.name", "tester"]).0 && git(&root, &["config", "user.email", "t@example.org"]).0
    );
    assert!(git(&root, &["add", "kernels", "assay.toml"]).0 && git(&root, &["commit", "-q", "-m", "base"]).0);
    let path = r.bench.path("kernels/swiglu.cu");
    let honest = std::fs::read_to_string(&path).unwrap();
    assert!(honest.contains("fminf"), "mend this test: {honest}");
    std::fs::write(&path, honest.replacen("fminf", "fmaxf", 1)).unwrap();
    let out = r.run(&["verify", "swiglu", "--backend", "emulator", "--record"]);
    if out.stderr.contains("emulator-no-compiler") {
        return println!("could not run: no C++ compiler");
    }
    assert_eq!(out.code, 1, "{}{}", out.stdout, out.stderr);
    let said = r.run(&["history", "swiglu"]).stdout;
    for part in ["red in unit", "kernels kept as refs/assay/attempts/swiglu/1", "refs/assay/attempts/swiglu/1  row 1"] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
    let (_, kept) = git(&root, &["show", "refs/assay/attempts/swiglu/1:kernels/swiglu.cu"]);
    assert_eq!(kept, honest.replacen("fminf", "fmaxf", 1));
    assert_eq!(git(&root, &["show", "HEAD:kernels/swiglu.cu"]).1, honest, "the branch does not move");
    assert!(r.run(&["show", "1"]).stdout.contains("kernels kept as  refs/assay/attempts/swiglu/1"));
    let (_, history) = git(&root, &["log", "--format=%s", "-1", "refs/assay/attempts/swiglu/1"]);
    assert!(history.starts_with("swiglu: attempt at swiglu, red in unit: "), "{history}");
    // The kernel is taken back; what was claimed of it stays refuted until something passes.
    std::fs::write(&path, honest).unwrap();
    r.bench.write("claims.json", r#"["ds4_gpu_swiglu_tensor"]"#);
    let out = r.run(&["reconcile", "claims.json"]);
    assert!(out.code == 1 && out.stdout.contains("REFUTED"), "{}{}", out.stdout, out.stderr);
    assert!(out.stdout.contains("since then changed: closure"), "{}", out.stdout);
}

/// By hand: ASSAY_BROWSER=chromium cargo test --release --test cli in_a_browser
#[test]
fn the_page_is_quiet_in_a_browser() {
    let Some(browser) = std::env::var_os("ASSAY_BROWSER") else {
        return println!("could not run: no browser (ASSAY_BROWSER names a Chromium)");
    };
    let r = recorded();
    page(&r, &["--format", "html", "--out", "report.html", "--claims", "claims.json"]);
    let dir = tempfile::tempdir().unwrap();
    for width in ["1280", "400"] {
        let shot = dir.path().join(format!("{width}.png"));
        let out = std::process::Command::new(&browser)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"])
            .arg(format!("--screenshot={}", shot.display()))
            .arg(format!("--window-size={width},900"))
            .arg(format!("file://{}", Path::new(&r.bench.path("report.html")).display()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(shot.is_file(), "{said}");
        assert!(!said.contains("CONSOLE"), "{said}");
    }
}
