//! Appending: what kills, full disks and other writers leave behind.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use assay::ledger::{Evidence, Ledger, SecretKey, Step};
use rustix::process::{Resource, Rlimit, Signal};

use crate::fixture::*;

#[test]
fn rows_are_found_again() {
    let bench = Workbench::new();
    assert!(bench.open().rows().is_empty());
    assert!(!bench.root().join("state").exists(), "reading makes nothing");
    assert_eq!(bench.append(verdict(1)), 1, "row 0 is the writer's key");
    assert_eq!(bench.append(verdict(1)), 1, "the same evidence keeps its row");
    assert_eq!(bench.append(verdict(2)), 2);
    let ledger = bench.open();
    let kinds: Vec<_> = ledger.rows().iter().map(|r| r.statement().kind()).collect();
    assert_eq!(kinds, ["key", "verdict", "verdict"]);
    assert_eq!(ledger.rows()[2].statement().verdict(), Some(&verdict(2)));
    assert!(ledger.notes().is_empty());
    assert_eq!(bench.bytes("progress.json"), ledger.progress().to_bytes().unwrap());
}

/// An evidence file begins with its host's key: that host's own ledger took it for a second one, and within one second for
/// the same one again.
#[test]
fn a_writer_that_brings_its_own_key_joins_by_it() {
    let bench = Workbench::new();
    let evidence = [Evidence::join(&bench.key).unwrap(), sign(verdict(1), &bench.key)];
    assert_eq!(bench.open().append(&evidence, &bench.key).unwrap(), [0, 1]);
    assert_eq!(bench.open().rows().len(), 2);
}

#[test]
fn an_unterminated_last_line_is_moved_aside_and_the_work_goes_on() {
    let bench = Workbench::with_rows(3);
    let good = bench.bytes("ledger.jsonl");
    bench.append(verdict(9));
    let row = bench.bytes("ledger.jsonl")[good.len()..].to_vec();
    let bench = Workbench::with_rows(3);
    for cut in [1, 2, 40, row.len() / 2, row.len() - 2, row.len() - 1] {
        let good = bench.bytes("ledger.jsonl");
        bench.put("ledger.jsonl", [&good[..], &row[..cut]].concat());
        let read = Ledger::read(bench.root()).unwrap();
        assert!(read.notes()[0].contains("row 3 was cut short"), "{:?}", read.notes());
        assert_eq!(bench.bytes("ledger.jsonl").len(), good.len() + cut, "a plain read changes nothing");
        let opened = bench.open();
        assert_eq!(opened.rows().len(), 3);
        assert!(opened.notes()[0].contains("moved to state/torn-"), "{:?}", opened.notes());
        assert_eq!(bench.bytes("ledger.jsonl"), good);
        let name = opened.notes()[0].rsplit('/').next().unwrap().to_string();
        assert_eq!(bench.bytes(&name), &row[..cut]);
    }
    assert_eq!(bench.append(verdict(9)), 3);
}

/// What a full disk or a kill leaves of a file that was to be replaced stayed beside it, in the way of a clean work tree.
#[test]
fn what_an_interrupted_write_left_is_removed_with_the_next_one() {
    let bench = Workbench::with_rows(2);
    for name in [".checkpoint.new", ".progress.json.new"] {
        bench.put(name, "half");
    }
    bench.append(verdict(1));
    for name in [".checkpoint.new", ".progress.json.new"] {
        assert!(!bench.path(name).exists(), "{name}");
    }
    // Nobody's file but whoever put it there.
    std::os::unix::fs::symlink("nowhere", bench.path(".progress.json.new")).unwrap();
    bench.append(verdict(1));
    assert!(bench.path(".progress.json.new").is_symlink());
}

#[test]
fn a_progress_file_left_behind_is_derived_anew() {
    let bench = Workbench::with_rows(2);
    let old = bench.bytes("progress.json");
    bench.append(verdict(5));
    let new = bench.bytes("progress.json");
    bench.put("progress.json", &old);
    let ledger = bench.open();
    assert!(ledger.notes()[0].contains("progress.json was behind (2 of 3 rows)"), "{:?}", ledger.notes());
    assert_eq!(bench.bytes("progress.json"), new);
    fs::remove_file(bench.path("progress.json")).unwrap();
    assert!(bench.open().notes()[0].contains("behind (0 of 3 rows)"));
    assert_eq!(bench.bytes("progress.json"), new);
    assert!(bench.open().notes().is_empty());
}

/// `assay new --upto` waited for the disk three times for each row that it brought along, for minutes where the disk was busy.
#[test]
fn a_new_workbench_waited_for_the_disk_at_every_row() {
    let (slow, new) = (Workbench::new(), Workbench::new());
    let evidence: Vec<_> = (1..20).map(|i| sign(verdict(i), &slow.key)).collect();
    let steps = |bench: &Workbench, unseen: bool| {
        let (mut seen, mut ledger) = (Vec::new(), bench.open());
        let mut observe = |step| seen.push(step);
        let rows = match unseen {
            true => ledger.append_unseen(&evidence, &slow.key, &mut observe),
            false => ledger.append_observed(&evidence, &slow.key, &mut observe),
        };
        assert_eq!(rows.unwrap(), (1..20).collect::<Vec<u64>>());
        let count = |step| seen.iter().filter(|s| **s == step).count();
        (count(Step::RowWritten), count(Step::RowSynced), count(Step::CheckpointNamed), count(Step::ProgressNamed))
    };
    assert_eq!(steps(&slow, false), (20, 20, 20, 1));
    assert_eq!(steps(&new, true), (20, 1, 1, 1));
    let ledger = new.open();
    assert!(ledger.notes().is_empty() && ledger.rows().len() == 20, "{:?}", ledger.notes());
    new.append(verdict(99));
    assert_eq!(new.open().rows().len(), 22, "with the key of its own that signed it");
}

/// Run as a child by the tests below; does nothing in a plain run.
#[test]
fn child() {
    let Ok(root) = std::env::var("ASSAY_TEST_ROOT") else { return };
    let step = std::env::var("ASSAY_TEST_STEP").unwrap_or_default();
    let key = SecretKey::generate("host").unwrap();
    if let Ok(room) = std::env::var("ASSAY_TEST_ROOM") {
        let limit = Some(room.parse().unwrap());
        rustix::process::setrlimit(Resource::Fsize, Rlimit { current: limit, maximum: limit }).unwrap();
    }
    // Read, not opened: opening would heal what the append is to be killed over.
    let mut ledger = Ledger::read(root.as_ref()).unwrap();
    for i in 0..std::env::var("ASSAY_TEST_ROWS").map_or(1, |n| n.parse().unwrap()) {
        let evidence = sign(verdict(i), &key);
        let kill = |at: Step| {
            if format!("{at:?}") == step {
                rustix::process::kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
                std::thread::sleep(std::time::Duration::from_secs(60));
            }
        };
        ledger.append_observed(&[evidence], &key, &mut { kill }).unwrap();
    }
}

fn child_command(bench: &Workbench) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "append::child", "--nocapture"]).env("ASSAY_TEST_ROOT", bench.root());
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command
}

#[test]
fn a_kill_at_every_step_loses_at_most_the_row_being_written() {
    for start in [0, 3] {
        for torn in [false, true] {
            for step in Step::ALL {
                let bench = if start == 0 { Workbench::new() } else { Workbench::with_rows(start) };
                let torn = torn && start > 0;
                if torn {
                    bench.put("ledger.jsonl", [bench.bytes("ledger.jsonl"), b"{\"evid".to_vec()].concat());
                }
                let status = child_command(&bench).env("ASSAY_TEST_STEP", format!("{step:?}")).status().unwrap();
                let reached = match step {
                    Step::LedgerCreated => start == 0,
                    Step::TornKept | Step::TornCut => torn,
                    _ => true,
                };
                assert_eq!(status.signal(), reached.then_some(9), "{step:?} from {start}, torn {torn}: {status}");
                let ledger = Ledger::open(bench.root()).unwrap_or_else(|e| panic!("{step:?} from {start}: {e}"));
                let rows = ledger.rows().len();
                assert!(rows >= start, "{step:?} lost a finished row");
                // The row is there once its write has returned; a kill keeps the page cache.
                let written = !matches!(step, Step::LedgerCreated | Step::Locked | Step::TornKept | Step::TornCut);
                assert_eq!(rows > start, written || !reached, "{step:?} from {start}");
                if rows > 0 {
                    assert_eq!(bench.bytes("progress.json"), ledger.progress().to_bytes().unwrap(), "{step:?}");
                }
                bench.append(verdict(99));
                assert!(bench.open().notes().is_empty(), "{step:?}: {:?}", bench.open().notes());
            }
        }
    }
}

#[test]
fn a_write_that_does_not_fit_is_taken_back() {
    let bench = Workbench::with_rows(3);
    let length = bench.bytes("ledger.jsonl").len();
    // The file size limit cuts the write as a full disk would; what was written is taken back.
    for room in [length + 1, length + 300] {
        let status = child_command(&bench).env("ASSAY_TEST_ROOM", room.to_string()).status().unwrap();
        assert!(!status.success());
        assert_eq!(bench.bytes("ledger.jsonl").len(), length, "the part that fitted is taken back");
        assert_eq!(bench.open().rows().len(), 3);
    }
    bench.append(verdict(9));
}

#[test]
fn two_writers_at_once_lose_nothing() {
    let bench = Workbench::with_rows(2);
    let mut children: Vec<_> =
        (0..3).map(|_| child_command(&bench).env("ASSAY_TEST_ROWS", "8").spawn().unwrap()).collect();
    // Readers see a consistent ledger all the while.
    while children.iter_mut().any(|c| c.try_wait().unwrap().is_none()) {
        Ledger::read(bench.root()).unwrap();
    }
    assert!(children.iter_mut().all(|c| c.wait().unwrap().success()));
    let ledger = bench.open();
    assert_eq!(ledger.rows().len(), 2 + 3 * (1 + 8), "each writer's key and its eight rows");
    assert!(ledger.notes().is_empty());
}

#[test]
fn a_lock_that_is_held_is_waited_for_and_then_said() {
    let bench = Workbench::with_rows(2);
    let file = fs::OpenOptions::new().append(true).open(bench.path("ledger.jsonl")).unwrap();
    file.lock().unwrap();
    let error = Ledger::open(bench.root()).unwrap_err();
    assert_eq!(error.code().id, "ledger-busy");
    drop(file);
    // A dead process holds no lock.
    child_command(&bench).env("ASSAY_TEST_STEP", "Locked").status().unwrap();
    bench.append(verdict(3));
}

#[test]
fn a_ledger_swapped_while_a_command_ran_is_not_appended_to() {
    let bench = Workbench::with_rows(3);
    let mut ledger = bench.open();
    let other = Workbench::with_rows(4);
    for name in ["ledger.jsonl", "checkpoint", "progress.json"] {
        bench.put(name, other.bytes(name));
    }
    let error = ledger.append(&[sign(verdict(9), &other.key)], &other.key).unwrap_err();
    assert_eq!(error.code().id, "ledger-rolled-back");
    assert_eq!(bench.lines(), other.lines());
}

#[test]
fn a_first_row_that_was_cut_short_is_no_damage() {
    let bench = Workbench::new();
    fs::create_dir(bench.root().join("state")).unwrap();
    bench.put("ledger.jsonl", b"{\"evidence\":");
    assert!(bench.open().notes()[0].contains("row 0 was cut short"));
    assert_eq!(bench.append(verdict(1)), 1);
    assert!(bench.open().notes().is_empty());
}
