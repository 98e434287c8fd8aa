//! `assay bisect`: by commit and by kernel, in repositories made for it.

use std::path::Path;

use git2::build::TreeUpdateBuilder;
use git2::{FileMode, Oid, Repository, Signature};
use serde_json::Value;

use crate::bench::{Bench, Output, assay_with};

const SEED: &str = "00000000000000000000000000000000000000000000000000000000b15ec700";

/// A workbench in git, with the repository's kernels and a config directory of its own.
struct History {
    bench: Bench,
    home: tempfile::TempDir,
    git: Repository,
    tip: Oid,
}

/// The planted mistake: a clamp from below where it is from above.
fn broken_swiglu(text: &str) -> String {
    replaced(text, "g = fminf(g, clamp)", "g = fmaxf(g, clamp)")
}

fn replaced(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from}");
    text.replace(from, to)
}

impl History {
    fn new() -> History {
        let bench = Bench::light();
        let git = Repository::init(bench.path("")).unwrap();
        let mut config = git.config().unwrap();
        config.set_str("user.name", "tester").unwrap();
        config.set_str("user.email", "tester@example.org").unwrap();
        drop(config);
        let empty = git.treebuilder(None).unwrap().write().unwrap();
        let mut update = TreeUpdateBuilder::new();
        fn add(git: &Repository, dir: &Path, below: &str, update: &mut TreeUpdateBuilder) {
            for entry in std::fs::read_dir(dir).unwrap().flatten() {
                let name = format!("{below}{}", entry.file_name().to_str().unwrap());
                match entry.path().is_dir() {
                    true => add(git, &entry.path(), &format!("{name}/"), update),
                    false => drop(update.upsert(
                        name,
                        git.blob(&std::fs::read(entry.path()).unwrap()).unwrap(),
                        FileMode::Blob,
                    )),
                }
            }
        }
        add(&git, &bench.path("kernels"), "kernels/", &mut update);
        update.upsert(
            "assay.toml",
            git.blob(&std::fs::read(bench.path("assay.toml")).unwrap()).unwrap(),
            FileMode::Blob,
        );
        let tree = update.create_updated(&git, &git.find_tree(empty).unwrap()).unwrap();
        let tip = write(&git, tree, "base", &[]);
        git.reference("refs/heads/main", tip, true, "test").unwrap();
        git.set_head("refs/heads/main").unwrap();
        History { bench, home: tempfile::tempdir().unwrap(), git, tip }
    }

    /// The text of a file at a commit.
    fn text(&self, at: Oid, path: &str) -> String {
        let tree = self.git.find_commit(at).unwrap().tree().unwrap();
        let blob = tree.get_path(Path::new(path)).unwrap().id();
        String::from_utf8(self.git.find_blob(blob).unwrap().content().to_vec()).unwrap()
    }

    /// A commit on `parents` in which the file is what `edit` makes of it; the branch does not move.
    fn on(&self, parents: &[Oid], path: &str, edit: impl Fn(&str) -> String) -> Oid {
        let before = self.git.find_commit(parents[0]).unwrap().tree().unwrap();
        let text = match before.get_path(Path::new(path)) {
            Ok(_) => self.text(parents[0], path),
            Err(_) => String::new(),
        };
        let mut update = TreeUpdateBuilder::new();
        update.upsert(path, self.git.blob(edit(&text).as_bytes()).unwrap(), FileMode::Blob);
        let tree = update.create_updated(&self.git, &before).unwrap();
        write(&self.git, tree, &format!("{path}: {} before", parents.len()), parents)
    }

    fn commit(&mut self, path: &str, edit: impl Fn(&str) -> String) -> Oid {
        self.tip = self.on(&[self.tip], path, edit);
        self.git.reference("refs/heads/main", self.tip, true, "test").unwrap();
        self.tip
    }

    /// A commit that changes a comment.
    fn remark(&mut self, path: &str) -> Oid {
        let n = self.tip.to_string();
        self.commit(path, |text| format!("{text}// {n}\n"))
    }

    fn run(&self, args: &[&str]) -> Output {
        assay_with(&self.bench.path(""), args, &[("ASSAY_CONFIG_DIR", self.home.path())])
    }

    fn bisect(&self, good: Option<Oid>, more: &[&str]) -> Output {
        let good = good.map(|g| g.to_string());
        let mut args = vec!["bisect"];
        args.extend(good.iter().flat_map(|good| ["--good", good.as_str()]));
        self.run(&[&args, more].concat())
    }

    /// The answer of a bisect on the emulator; `None` where the host has no compiler for it.
    fn answer(&self, good: Option<Oid>, code: i32, more: &[&str]) -> Option<Value> {
        let backend = if more.contains(&"--backend") { &[][..] } else { &["--backend", "emulator"] };
        let options = [backend, &["--seed", SEED, "--json"]].concat();
        let out = self.bisect(good, &[&options[..], more].concat());
        if out.stderr.contains("emulator-no-compiler") {
            println!("could not run: no C++ compiler");
            return None;
        }
        assert_eq!(out.code, code, "{}{}", out.stdout, out.stderr);
        Some(serde_json::from_str(&out.stdout).unwrap())
    }

    /// Answers of the unfinished bisect that are on disk.
    fn kept(&self) -> usize {
        let text = std::fs::read_to_string(self.bench.path(".git/assay/bisect.json")).unwrap_or_default();
        let state: Value = serde_json::from_str(&text).unwrap_or_default();
        state["answers"].as_object().map_or(0, |answers| answers.len())
    }

    /// Runs a command and sends it a signal when so many answers are kept; its exit code and what it said.
    fn cut(&self, args: &[&str], answers: usize, signal: rustix::process::Signal) -> (Option<i32>, String) {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_assay"))
            .current_dir(self.bench.path(""))
            .args(args)
            .env("CUDA_VISIBLE_DEVICES", "")
            .env("ASSAY_CONFIG_DIR", self.home.path())
            .stderr(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while self.kept() < answers {
            assert!(child.try_wait().unwrap().is_none(), "it ended before {answers} answers were kept");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        let out = child.wait_with_output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    }

    /// The outcome of asking a shell's text.
    fn ask(&self, good: Oid, code: i32, more: &[&str], command: &str) -> Value {
        let out = self.bisect(Some(good), &[&["--json"], more, &["--cmd", command]].concat());
        assert_eq!(out.code, code, "{}{}", out.stdout, out.stderr);
        serde_json::from_str(&out.stdout).unwrap()
    }
}

fn write(git: &Repository, tree: Oid, message: &str, parents: &[Oid]) -> Oid {
    let author = Signature::new("tester", "tester@example.org", &git2::Time::new(1_000_000_000, 0)).unwrap();
    let parents: Vec<_> = parents.iter().map(|id| git.find_commit(*id).unwrap()).collect();
    let parents: Vec<_> = parents.iter().collect();
    git.commit(None, &author, &author, message, &git.find_tree(tree).unwrap(), &parents).unwrap()
}

fn candidates(result: &Value) -> Vec<&str> {
    result["candidates"].as_array().unwrap().iter().map(|c| c["commit"].as_str().unwrap()).collect()
}

/// A reviewer's task: more than a hundred commits to kernels, one of them wrong, and nobody says which or where.
#[test]
fn a_planted_regression_in_a_hundred_commits_is_named_with_its_kernel() {
    let mut history = History::new();
    let base = history.tip;
    let files = ["kernels/swiglu.cu", "kernels/output_hc_weights.cu", "kernels/router_hash.cu"];
    let (mut planted, mut before) = (base, base);
    for i in 0..120 {
        if i == 77 {
            before = history.tip;
            planted = history.commit("kernels/swiglu.cu", broken_swiglu);
        } else {
            history.remark(files[i % 3]);
        }
    }
    let Some(all) = history.answer(Some(base), 0, &[]) else { return };
    assert_eq!(all["schema"], "assay.bisect/1");
    let [found] = all["results"].as_array().unwrap().as_slice() else { panic!("{all:#}") };
    assert_eq!((&found["node"], &found["outcome"]), (&"swiglu".into(), &"found".into()), "{found:#}");
    assert_eq!(found["first_bad"]["commit"], planted.to_string());
    assert_eq!(found["last_good"]["commit"], before.to_string());
    assert_eq!(found["changed"], serde_json::json!(["kernels/swiglu.cu"]));
    assert_eq!(
        (&found["commits"], &found["places"]),
        (&121.into(), &42.into()),
        "40 remarks, one mistake and the base"
    );
    assert_eq!(all["good_at_bad"], serde_json::json!(["router_hash", "output_hc_weights"]));
    // Each of the three once at the bad commit, then the guilty one in ⌈log₂ 42⌉; by its name alone no more than that.
    let cost = |answer: &Value| answer["verifications"].as_u64().unwrap();
    assert!(cost(&all) <= 3 + 6, "{} verifications", cost(&all));
    let named = history.answer(Some(base), 0, &["swiglu"]).unwrap();
    assert_eq!(named["results"][0]["first_bad"]["commit"], planted.to_string());
    assert!(cost(&named) as f64 <= 42f64.log2() + 1.0, "{} verifications", cost(&named));
    // Nothing was checked out in the work tree, and nothing is left to resume.
    assert_eq!(std::fs::read_dir(history.bench.path(".git/assay")).unwrap().count(), 0);
    // With neither node nor good commit.
    let nothing_said = history.answer(None, 0, &[]).unwrap();
    assert_eq!(nothing_said["results"][0]["first_bad"]["commit"], planted.to_string());
    assert_eq!(nothing_said["good_at_bad"], serde_json::json!(["router_hash", "output_hc_weights"]));
    // The ends the wrong way round.
    let late = history.bisect(Some(planted), &["swiglu", "--backend", "emulator", "--seed", SEED]);
    assert_eq!(late.code, 1, "{}", late.stderr);
    assert!(late.stderr.contains("[bisect-good-is-bad]") && late.stderr.contains("next: "), "{}", late.stderr);
    let early = before.to_string();
    let early = history.bisect(Some(base), &["--bad", &early, "swiglu", "--backend", "emulator", "--seed", SEED]);
    assert!(early.code == 1 && early.stderr.contains("[bisect-bad-is-good]"), "{}", early.stderr);
}

#[test]
fn a_command_is_asked_by_its_exit_codes() {
    let mut history = History::new();
    let base = history.tip;
    let commits: Vec<Oid> = (0..20).map(|i| history.commit("notes.txt", |_| format!("{i}\n"))).collect();
    let at = |n: usize| commits[n].to_string();
    let found = history.ask(base, 0, &[], "test $(cat notes.txt || echo 0) -lt 13");
    assert_eq!(found["results"][0]["first_bad"]["commit"], at(13));
    assert!(found["verifications"].as_u64().unwrap() <= 5, "{found:#}");
    // What one may look at is the commit as a whole, in a folder that is not the work tree.
    let command = "test -f kernels/swiglu.cu && test \"$PWD\" != \"$OLD\" && test -n \"$ASSAY_BISECT_COMMIT\" && test -e model.gguf || exit 70; \
                   test $(cat notes.txt || echo 0) -lt 13";
    history.ask(base, 0, &[], command);
    // 125 and 3 skip, around the turn and elsewhere.
    for skip in ["125", "3"] {
        let command =
            format!("n=$(cat notes.txt || echo 0); test $n -ge 11 && test $n -le 14 && exit {skip}; test $n -lt 13");
        let told = history.ask(base, 3, &[], &command);
        let result = &told["results"][0];
        assert_eq!(result["outcome"], "cannot_tell");
        assert_eq!(candidates(result), [at(11), at(12), at(13), at(14), at(15)]);
        assert_eq!(result["unjudged"].as_array().unwrap().len(), 4);
    }
    let plain = history.ask(base, 0, &["--git-exit-codes"], "n=$(cat notes.txt || echo 0); test $n -lt 13 || exit 70");
    assert_eq!(plain["results"][0]["first_bad"]["commit"], at(13));
    for (code, id) in [(4, "bisect-integrity"), (70, "bisect-command-bug"), (3, "bisect-command")] {
        let exit = if code == 3 { 127 } else { code };
        let error = history.ask(base, code, &[], &format!("exit {exit}"));
        assert_eq!(error["code"], id, "{error:#}");
    }
    let error = history.ask(base, 3, &["--git-exit-codes"], "exit 128");
    assert_eq!(error["code"], "bisect-command");
    assert_eq!(history.ask(base, 1, &[], "exit 1")["code"], "bisect-good-is-bad");
    assert_eq!(history.ask(base, 1, &[], "exit 0")["code"], "bisect-bad-is-good");
    // Every argument behind --cmd is the command's.
    let good = base.to_string();
    let out = history.run(&["bisect", "--good", &good, "--json", "--cmd", "grep", "-q", "-v", "1.", "notes.txt"]);
    let grep: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(grep["results"][0]["first_bad"]["commit"], at(10), "{}", out.stderr);
    let unknown = history.run(&["bisect", "--good", "no-such-branch", "swiglu"]);
    assert!(unknown.code == 2 && unknown.stderr.contains("[git-revision]"), "{}", unknown.stderr);
}

#[test]
fn what_does_not_come_out_alike_twice_is_flaky() {
    let mut history = History::new();
    let base = history.tip;
    for i in 0..6 {
        history.commit("notes.txt", |_| format!("{i}\n"));
    }
    let counter = history.home.path().join("counter");
    let flaky = format!(
        "n=$(cat notes.txt || echo 0); case $n in 2|3) echo >> {0}; test $(($(wc -l < {0}) % 2)) -eq 0;; *) test $n -lt 3;; esac",
        counter.display()
    );
    let told = history.ask(base, 3, &["--repeat", "3"], &flaky);
    let result = &told["results"][0];
    assert_eq!(result["outcome"], "cannot_tell", "{result:#}");
    let unjudged = result["unjudged"].as_array().unwrap();
    assert!(unjudged.iter().all(|u| u["answer"] == "flaky") && unjudged.len() == 2, "{result:#}");
    assert!(unjudged[0]["why"].as_str().unwrap().contains("of 2 times"), "{result:#}");
}

#[test]
fn an_interrupted_bisect_goes_on_without_asking_again() {
    let mut history = History::new();
    let base = history.tip;
    let commits: Vec<Oid> = (0..30).map(|i| history.commit("notes.txt", |_| format!("{i}\n"))).collect();
    let none = history.run(&["bisect", "--resume"]);
    assert!(none.code == 3 && none.stderr.contains("[bisect-state]"), "{}", none.stderr);
    // The command interrupts the bisect once, when it is asked for the third time, and hangs as commands do.
    let log = history.home.path().join("log");
    let command = format!(
        "echo $ASSAY_BISECT_COMMIT >> {0}; test $(wc -l < {0}) -eq 3 && {{ kill -INT $PPID; sleep 60; }}; \
         test $(cat notes.txt || echo 0) -lt 21",
        log.display()
    );
    let good = base.to_string();
    let cut = history.run(&["bisect", "--good", &good, "--cmd", &command]);
    assert_eq!(cut.code, 130, "{}", cut.stderr);
    assert!(cut.stderr.contains("assay bisect --resume"), "{}", cut.stderr);
    // The branch moves on meanwhile: what is looked for stays.
    history.commit("notes.txt", |_| "0\n".into());
    let out = history.run(&["bisect", "--resume", "--json"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let found: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(found["results"][0]["first_bad"]["commit"], commits[21].to_string());
    let asked = std::fs::read_to_string(&log).unwrap();
    let mut asked: Vec<&str> = asked.lines().collect();
    assert_eq!(
        found["verifications"].as_u64().unwrap() as usize,
        asked.len() - 1,
        "all but the one that was cut short"
    );
    asked.sort_unstable();
    let all = asked.len();
    asked.dedup();
    assert_eq!(asked.len(), all - 1, "only the one that was cut short is asked twice");
    assert_eq!(history.run(&["bisect", "--resume"]).code, 3, "it is over");
}

#[test]
fn a_merge_is_followed_into_the_branch_that_it_brought_in() {
    let mut history = History::new();
    let base = history.tip;
    let mut side = base;
    let mut culprit = base;
    for i in 0..5 {
        side = history.on(&[side], "side.txt", |_| if i < 2 { "good\n".repeat(i + 1) } else { "bad\n".repeat(i) });
        culprit = if i == 2 { side } else { culprit };
    }
    for i in 0..5 {
        history.commit("notes.txt", |_| format!("{i}\n"));
    }
    let text = history.text(side, "side.txt");
    let merge = history.on(&[history.tip, side], "side.txt", |_| text.clone());
    history.tip = merge;
    let last = history.commit("notes.txt", |_| "after\n".into());
    let found = history.ask(base, 0, &["--bad", &last.to_string()], "! grep -q bad side.txt");
    let result = &found["results"][0];
    assert_eq!(result["first_bad"]["commit"], culprit.to_string(), "{result:#}");
    assert_eq!(result["merged_by"][0]["commit"], merge.to_string());
    // Sides that are good each for itself: it is the merge.
    let evil = history.on(&[history.tip, base], "notes.txt", |_| "bad\n".into());
    let found = history.ask(last, 0, &["--bad", &evil.to_string()], "! grep -q bad notes.txt");
    assert_eq!(found["results"][0]["first_bad"]["commit"], evil.to_string());
    assert_eq!(found["results"][0]["merge"], true);
    // A good commit beside the line: from where it forked off.
    let beside = history.on(&[base], "beside.txt", |_| "x".into());
    let found = history.ask(beside, 0, &["--bad", &last.to_string()], "! grep -q bad side.txt");
    assert_eq!(found["results"][0]["first_bad"]["commit"], culprit.to_string());
    let after = history.bisect(Some(last), &["--bad", &base.to_string(), "--cmd", "true"]);
    assert!(after.code == 2 && after.stderr.contains("is an ancestor of"), "{}", after.stderr);
}

/// A shared header is another in every kernel that includes it, so versions of it must live side by side.
#[test]
fn kernels_are_swapped_until_the_guilty_one_is_left() {
    let mut history = History::new();
    let good = history.tip;
    history.remark("kernels/store_rows.cu");
    // Other code, but no other results.
    history.commit("kernels/take_rows.cu", |text| replaced(text, "row >= rows || d >= a.D", "d >= a.D || row >= rows"));
    history.commit("kernels/common/router.cuh", |text| replaced(text, "x > 20.0f", "x > 21.0f"));
    history.commit("kernels/swiglu.cu", broken_swiglu);
    let by_kernel = ["--kernels", "--numerics", "exact", "--prompt-len", "5"];
    let Some(found) = history.answer(Some(good), 0, &by_kernel) else { return };
    assert_eq!((&found["mode"], &found["outcome"]), (&"kernels".into(), &"found".into()), "{found:#}");
    let [cause] = found["causes"].as_array().unwrap().as_slice() else { panic!("{found:#}") };
    assert_eq!(cause.as_array().unwrap().len(), 1);
    assert_eq!(cause[0]["nodes"], serde_json::json!(["swiglu"]));
    assert_eq!(cause[0]["files"], serde_json::json!(["kernels/swiglu.cu"]));
    assert_eq!(found["proof"]["good_with_these_from_bad"]["answer"], "bad");
    assert_eq!(found["proof"]["bad_with_these_from_good"]["answer"], "good");
    assert_eq!(found["measure"]["against"], "oracle");
    let differences = found["differences"].as_array().unwrap().len();
    assert_eq!(differences, 4, "take_rows, swiglu, and two that include the header: {found:#}");
    assert_eq!(found["in_comments_alone"], serde_json::json!(["store_rows"]));
    assert!(found["verifications"].as_u64().unwrap() <= 10, "{found:#}");

    // A mistake in the header is one of each kernel that uses what is wrong in it, and each suffices.
    let after = history.tip;
    history.commit("kernels/common/router.cuh", |text| replaced(text, "/ sum * scale", "/ sum * scale * 3.0f"));
    history.commit("kernels/swiglu.cu", |text| replaced(text, "g = fmaxf(g, clamp)", "g = fminf(g, clamp)"));
    let found = history.answer(Some(good), 0, &by_kernel).unwrap();
    let causes = found["causes"].as_array().unwrap();
    assert_eq!(causes.len(), 2, "{found:#}");
    for cause in causes {
        assert_eq!(cause[0]["files"], serde_json::json!(["kernels/common/router.cuh"]), "{found:#}");
    }
    let same = history.bisect(Some(after), &["--kernels", "--bad", &after.to_string()]);
    assert!(same.code == 2 && same.stderr.contains("[bisect-range]"), "{}", same.stderr);
    let remark = history.remark("kernels/take_rows.cu").to_string();
    let before = history.git.find_commit(history.tip).unwrap().parent_id(0).unwrap();
    let options = ["--kernels", "--bad", &remark, "--backend", "emulator", "--prompt-len", "5"];
    let same = history.bisect(Some(before), &options);
    assert!(same.code == 1 && same.stderr.contains("[bisect-no-difference]"), "{}", same.stderr);
}

/// Killed, begun again, interrupted, resumed: the answer is the one of a run that nobody disturbed, and costs no more.
#[test]
fn an_interrupted_bisect_by_kernel_goes_on_without_asking_again() {
    use rustix::process::Signal;
    let mut history = History::new();
    let good = history.tip;
    history.commit("kernels/take_rows.cu", |text| replaced(text, "row >= rows || d >= a.D", "d >= a.D || row >= rows"));
    history.commit("kernels/common/router.cuh", |text| replaced(text, "x > 20.0f", "x > 21.0f"));
    let last = history.commit("kernels/swiglu.cu", broken_swiglu);
    let by_kernel = ["--kernels", "--numerics", "exact", "--prompt-len", "5"];
    let Some(whole) = history.answer(Some(good), 0, &by_kernel) else { return };
    assert_eq!(whole["causes"][0][0]["nodes"], serde_json::json!(["swiglu"]));
    let (from, to, seed) = (good.to_string(), last.to_string(), ["--backend", "emulator", "--seed", SEED]);
    let begin = [&["bisect", "--good", &from], &by_kernel[..], &seed[..]].concat();

    let (code, said) = history.cut(&begin, 1, Signal::KILL);
    assert_eq!(code, None, "{said}");
    let kept = history.kept();
    // The branch moves on meanwhile: what is looked for stays.
    history.commit("kernels/swiglu.cu", |text| replaced(text, "g = fmaxf(g, clamp)", "g = fminf(g, clamp)"));
    let again = [&begin[..], &["--bad", &to]].concat();
    let (code, said) = history.cut(&again, kept + 1, Signal::INT);
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("going on with the interrupted bisect") && said.contains("assay bisect --resume"), "{said}");
    assert!(history.kept() > kept, "{said}");
    let out = history.run(&["bisect", "--resume", "--json"]);
    assert_eq!(out.code, 0, "{}{}", out.stdout, out.stderr);
    let found: Value = serde_json::from_str(&out.stdout).unwrap();
    for field in ["causes", "proof", "measure", "differences", "tests", "good", "bad", "verifications"] {
        assert_eq!(found[field], whole[field], "{field}");
    }
    assert_eq!(history.run(&["bisect", "--resume"]).code, 3, "it is over");
}

/// Verdicts on a commit's kernels that somebody recorded cost nothing, and need no compiler.
#[test]
fn what_the_ledger_says_is_not_judged_again() {
    use assay::ledger::{
        Class, ClosureSource, Config, Evidence, Informative, Ledger, Outcome, Seed, Stage, StageOutcome, StageRecord,
        Statement, Target, Trust, Verdict,
    };
    use assay::plan::Numerics;
    use assay::verify::binding::Workshop;
    let mut history = History::new();
    let base = history.tip;
    let node: assay::ops::Node = "take_rows".parse().unwrap();
    let model = assay::model::Model::open(&history.bench.path("model.gguf")).unwrap();
    let workshop = Workshop::new(&model).unwrap();
    let config = Config::at(history.home.path());
    let key = config.new_key("me").unwrap();
    let root = history.bench.path("");
    let record = |text: &str, red: bool| {
        history.bench.write("kernels/take_rows.cu", text);
        let binding = workshop.tree(&root.join("kernels")).unwrap().binding(&node, "sm_90", Numerics::Ds4).unwrap();
        let stage = |name, outcome| StageRecord { name, outcome, figures: Default::default(), note: String::new() };
        let target = Target::Node(node.clone());
        let mut stages: Vec<_> = Stage::required(&target).iter().map(|s| stage(*s, StageOutcome::Pass)).collect();
        let mut outcome = Outcome::Pass;
        if red {
            stages.truncate(3);
            stages.push(stage(Stage::Unit, StageOutcome::Red));
            outcome = Outcome::Red { stage: Stage::Unit, reason: "wrong".into(), first_bad: String::new() };
        }
        let verdict = Verdict {
            node: target,
            class: Class::Device,
            outcome,
            binding,
            stages,
            outputs: Default::default(),
            seed: Seed([1; 32]),
            informative: Informative {
                sandbox: r#"{"level":"full","landlock_abi":7,"seccomp":true,"namespaces":false}"#.into(),
                ..Informative::default()
            },
            parts: Default::default(),
        };
        let evidence = Evidence::sign(Statement::Verdict(Box::new(verdict)), &key).unwrap();
        Ledger::open(&root).unwrap().append(&[evidence], &key).unwrap()
    };
    let original = history.text(base, "kernels/take_rows.cu");
    let text = |n: usize| format!("{original}// {n}\n");
    record(&original, false);
    for n in 0..9 {
        record(&text(n), n >= 5);
    }
    let commits: Vec<Oid> = (0..9).map(|n| history.commit("kernels/take_rows.cu", |_| text(n))).collect();
    let untrusted = history.bisect(Some(base), &["take_rows", "--backend", "device"]);
    assert!(untrusted.code == 3 && untrusted.stderr.contains("you do not trust it"), "{}", untrusted.stderr);
    Trust::load(&config, None, &root).unwrap().trust(key.public().clone(), false).unwrap();
    // Without any node named, and on a machine that could judge none.
    let found = history.answer(Some(base), 0, &["--backend", "device"]).unwrap();
    let result = &found["results"][0];
    assert_eq!(result["first_bad"]["commit"], commits[5].to_string());
    assert_eq!(
        (&result["node"], &result["bad"]["by"], &result["bad"]["on"]),
        (&"take_rows".into(), &"row".into(), &"sm_90".into())
    );
    assert_eq!(found["verifications"], 0, "{found:#}");
    assert!(!found["rows"].as_array().unwrap().is_empty());
}
