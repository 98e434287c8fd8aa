//! Everything that can be done to `state/` from outside: refused with exit 4, the row named, nothing overwritten.

use std::fs;
use std::os::unix::fs::symlink;

use assay::error::Kind;
use assay::ledger::{Evidence, Ledger, SecretKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::fixture::*;

/// The ledger must be refused, by reading and by appending, with `says` in the message and `state/` left as it was.
fn refused(bench: &Workbench, says: &str) {
    let before = bench.snapshot();
    for attempt in 0..3 {
        let error = match attempt {
            0 => Ledger::read(bench.root()).err(),
            1 => Ledger::open(bench.root()).err(),
            _ => {
                // A command that opened the ledger before the damage must not append to it either.
                let held = std::mem::take(&mut *bench.held.borrow_mut());
                held.and_then(|mut ledger| {
                    let error = ledger.append(&[sign(verdict(200), &bench.key)], &bench.key).err();
                    *bench.held.borrow_mut() = Some(ledger);
                    error
                })
                .or_else(|| Ledger::read(bench.root()).err())
            }
        };
        let error = error.unwrap_or_else(|| panic!("accepted; expected a refusal that says `{says}`"));
        assert_eq!(error.kind(), Kind::Integrity, "{error}");
        assert_eq!(error.kind().exit_code(), 4);
        let text = error.to_string();
        assert!(text.contains(says), "expected `{says}` in: {text}");
    }
    assert_eq!(before, bench.snapshot(), "a refusal changed state/");
}

/// Replaces row `row`'s payload by `edit` of it, leaving the signatures as they were.
fn edit_payload(bench: &Workbench, row: usize, edit: impl Fn(String) -> String) {
    let mut lines = bench.lines();
    let line = String::from_utf8(lines[row].clone()).unwrap();
    let start = line.find("\"payload\":\"").unwrap() + 11;
    let end = start + line[start..].find('"').unwrap();
    let payload = String::from_utf8(STANDARD.decode(&line[start..end]).unwrap()).unwrap();
    let edited = edit(payload.clone());
    assert_ne!(payload, edited, "the edit changes nothing");
    lines[row] = format!("{}{}{}", &line[..start], STANDARD.encode(edited), &line[end..]).into_bytes();
    bench.put_lines(&lines);
}

/// POSTMORTEM.md §1.
#[test]
fn an_edited_figure() {
    for row in [1, 2, 3] {
        let bench = Workbench::with_rows(4);
        edit_payload(&bench, row, |p| p.replace("3.4e-7", "3.4e-9"));
        refused(&bench, &format!("row {row} of the ledger is damaged"));
    }
}

#[test]
fn an_edited_verdict_closure_or_class() {
    for (from, to) in [("\"pass\"", "\"red\""), ("0101", "0201"), ("\"device\"", "\"simulated\""), ("H200", "H100")] {
        let bench = Workbench::with_rows(3);
        edit_payload(&bench, 1, |p| p.replacen(from, to, 1));
        refused(&bench, "row 1 of the ledger is damaged");
    }
}

#[test]
fn every_single_byte_changed() {
    let bench = Workbench::with_rows(3);
    let good = bench.bytes("ledger.jsonl");
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        bench.put("ledger.jsonl", &bad);
        let error = Ledger::read(bench.root()).err().unwrap_or_else(|| panic!("a changed byte {at} was accepted"));
        assert_eq!(error.kind(), Kind::Integrity, "{error}");
        let row = good[..at].iter().filter(|b| **b == b'\n').count();
        let named = error.what().contains("row ");
        assert!(
            named && (row..row + 2).any(|r| error.what().contains(&format!("row {r}"))),
            "byte {at}, row {row}: {error}"
        );
    }
    bench.put("ledger.jsonl", &good);
    assert_eq!(bench.open().rows().len(), 3);
}

/// POSTMORTEM.md §1.
#[test]
fn rows_reordered_doubled_or_missing() {
    let bench = Workbench::with_rows(5);
    let good = bench.lines();
    let with = |edit: &dyn Fn(&mut Vec<Vec<u8>>), says: &str| {
        let mut lines = good.clone();
        edit(&mut lines);
        bench.put_lines(&lines);
        refused(&bench, says);
    };
    with(&|l| l.swap(1, 2), "row 1 of the ledger is damaged: it says it is row 2");
    with(&|l| l.swap(3, 4), "row 3 of the ledger is damaged");
    with(&|l| l.insert(2, l[2].clone()), "row 3 of the ledger is damaged: it says it is row 2");
    with(&|l| l.push(l[4].clone()), "row 5 of the ledger is damaged");
    with(&|l| drop(l.remove(0)), "row 0 of the ledger is damaged");
    with(&|l| drop(l.remove(2)), "row 2 of the ledger is damaged");
    with(&|l| l.truncate(4), "row 4 of the ledger is missing");
    with(&|l| l.truncate(1), "row 1 of the ledger is missing");
    with(&|l| l.clear(), "row 0 of the ledger is missing");
    with(&|l| l[4].truncate(100), "row 4 of the ledger is missing");
    with(&|l| assert_eq!(l[4].pop(), Some(b'\n')), "row 4 of the ledger is missing");
}

#[test]
fn lines_that_are_no_rows() {
    let bench = Workbench::with_rows(3);
    let good = bench.lines();
    let with = |line: &[u8], says: &str| {
        for at in [0, 1, 3] {
            let mut lines = good.clone();
            lines.insert(at, line.to_vec());
            bench.put_lines(&lines);
            refused(&bench, &format!("row {at} of the ledger is damaged"));
            assert!(Ledger::read(bench.root()).unwrap_err().to_string().contains(says));
        }
    };
    with(b"\n", "no JSON value");
    with(b"{}\n", "no `sig`");
    with(b"{\"sig\":\"\"}\n", "its fields are []");
    with(b"[]\n", "no object");
    with(b"# a comment\n", "no JSON value");
    with(b"<<<<<<< HEAD\n", "no JSON value");
    with(b"\"\xff\"\n", "UTF-8");
    with(b"\"\0\"\n", "NUL");
    with(b"\xef\xbb\xbf\n", "no JSON value");
}

#[test]
fn rows_in_another_spelling() {
    let bench = Workbench::with_rows(3);
    let good = bench.lines();
    let text = String::from_utf8(good[1].clone()).unwrap();
    let line = text.trim_end();
    for (edited, says) in [
        (format!("{line}\r\n"), "carriage return"),
        (format!("{line} \n"), "after the value"),
        (format!(" {line}\n"), "white space"),
        (line.replace("\"seq\":1", "\"seq\":1,\"seq\":1") + "\n", "twice"),
        (line.replace("\"seq\":1", "\"seq\":01") + "\n", "canonical integer"),
        (line.replace("\"seq\":1", "\"seq\":1.0") + "\n", "no integer"),
        (line.replace("\"seq\":1", "\"seq\":\"1\"") + "\n", "it says it is row \"1\""),
        (line.replace("\"seq\":1", "\"seq\": 1") + "\n", "white space"),
        (line.replace("\"seq\":1", "\"note\":\"\",\"seq\":1") + "\n", "out of order"),
        (line.replace("\"seq\":1", "\"q\":0,\"seq\":1") + "\n", "its fields are"),
        (line.replace("\"payloadType\"", "\"payloadKind\"") + "\n", "row 1"),
        (line.replace("\"sig\":", "\"\\u0073ig\":") + "\n", "escape"),
    ] {
        let mut lines = good.clone();
        lines[1] = edited.into_bytes();
        bench.put_lines(&lines);
        refused(&bench, says);
        assert!(Ledger::read(bench.root()).unwrap_err().what().contains("row 1"));
    }
}

#[test]
fn a_row_signed_by_another_key() {
    // The same evidence rowed by a key that never joined: the row's writer is swapped for a stranger's.
    let bench = Workbench::with_rows(2);
    let stranger = Workbench::with_rows(2);
    let mut lines = bench.lines();
    lines[1] = stranger.lines()[1].clone();
    bench.put_lines(&lines);
    refused(&bench, "row 1 of the ledger is damaged: it follows a row with hash");

    // A whole ledger of a stranger under our checkpoint.
    let bench = Workbench::with_rows(3);
    bench.put_lines(&stranger.lines());
    bench.put("progress.json", stranger.bytes("progress.json"));
    refused(&bench, "row 2 of the ledger is missing");
}

#[test]
fn a_signature_exchanged_for_the_rows_own_other_signature() {
    let bench = Workbench::with_rows(3);
    let mut lines = bench.lines();
    let sig = |line: &[u8]| {
        let text = String::from_utf8(line.to_vec()).unwrap();
        text[text.rfind("\"sig\":\"").unwrap() + 7..text.rfind("\",\"writer\"").unwrap()].to_string()
    };
    let (first, second) = (sig(&lines[1]), sig(&lines[2]));
    lines[2] = String::from_utf8(lines[2].clone()).unwrap().replace(&second, &first).into_bytes();
    bench.put_lines(&lines);
    refused(&bench, "row 2 of the ledger is damaged: its signature by host");
}

#[test]
fn evidence_of_a_key_that_never_joined_is_not_appended() {
    let bench = Workbench::with_rows(2);
    let before = bench.snapshot();
    let stranger = SecretKey::generate("stranger").unwrap();
    let error = bench.open().append(&[sign(verdict(9), &stranger)], &bench.key).unwrap_err();
    assert!(error.to_string().contains("never joined"), "{error}");
    assert_eq!(before, bench.snapshot());
    let both = [Evidence::join(&stranger).unwrap(), sign(verdict(9), &stranger)];
    assert_eq!(bench.open().append(&both, &bench.key).unwrap(), [2, 3]);
}

#[test]
fn the_checkpoint_removed_forged_or_of_another_ledger() {
    let bench = Workbench::with_rows(4);
    let good = bench.bytes("checkpoint");
    let text = String::from_utf8(good.clone()).unwrap();
    fs::remove_file(bench.path("checkpoint")).unwrap();
    refused(&bench, "no checkpoint covers row 0");

    let other = Workbench::with_rows(4);
    for (bytes, says) in [
        (text.replace("\n4\n", "\n3\n"), "signature by host is wrong"),
        (text.replace("\n4\n", "\n5\n"), "signature by host is wrong"),
        (text.replace("\n4\n", "\n04\n"), "another way"),
        (text.replace("host", "hosts"), "no key of this ledger signed it"),
        (text.replace('\n', "\r\n"), "no signature"),
        (text.trim_end().into(), "another way"),
        (String::new(), "no signature"),
        (text.split_once("\n\n").unwrap().0.to_string() + "\n\n", "another way"),
        (String::from_utf8(other.bytes("checkpoint")).unwrap(), "checkpoint is not to be believed"),
    ] {
        bench.put("checkpoint", bytes);
        refused(&bench, says);
    }
    bench.put("checkpoint", good);
    bench.open();
}

#[test]
fn a_rolled_back_checkpoint_hides_no_rows() {
    let bench = Workbench::with_rows(2);
    let (checkpoint, progress) = (bench.bytes("checkpoint"), bench.bytes("progress.json"));
    bench.append(verdict(7));
    bench.append(verdict(8));
    bench.put("checkpoint", &checkpoint);
    bench.put("progress.json", &progress);
    refused(&bench, "no checkpoint covers row 2");
}

#[test]
fn rows_rewritten_by_the_key_holder_do_not_extend_an_old_checkpoint() {
    let bench = Workbench::with_rows(3);
    let kept = bench.bytes("checkpoint");
    fs::remove_dir_all(bench.root().join("state")).unwrap();
    for closure in [1, 9, 3] {
        bench.append(verdict(closure));
    }
    bench.put("checkpoint", kept);
    refused(&bench, "the checkpoint is of another ledger, or rows up to it were rewritten");
}

/// POSTMORTEM.md §1.
#[test]
fn progress_edited_ahead_or_of_another_ledger() {
    let bench = Workbench::with_rows(4);
    let good = String::from_utf8(bench.bytes("progress.json")).unwrap();
    for (bytes, says) in [
        (
            good.replacen("\"node\": \"matmul[q8_0]\"", "\"node\": \"moe_down[q2_k]\"", 1),
            "is not what the ledger proves",
        ),
        (good.replacen("0101", "0201", 1), "is not what the ledger proves"),
        (good.replace("\"rows\": 4", "\"rows\": 3"), "is not what the ledger proves up to row 2"),
        (good.replace("\"rows\": 4", "\"rows\": 5"), "ahead of the ledger"),
        (good.replace("\"rows\": 4", "\"rows\": 99999999999999999999"), "does not say"),
        (good.replace("\"rows\": 4", "\"rows\": -1"), "does not say"),
        (good.replace("\n", "\r\n"), "is not what the ledger proves"),
        (good.trim_end().into(), "is not what the ledger proves"),
        ("{}".into(), "does not say"),
        (String::new(), "does not say"),
        ("prefill_working: true\n".into(), "does not say"),
    ] {
        assert_ne!(bytes, good, "the edit changes nothing");
        bench.put("progress.json", bytes);
        refused(&bench, says);
    }
}

/// POSTMORTEM.md §1.
#[test]
fn the_whole_ledger_removed() {
    let bench = Workbench::with_rows(3);
    fs::remove_file(bench.path("ledger.jsonl")).unwrap();
    refused(&bench, "row 0 of the ledger is missing");
    fs::remove_file(bench.path("checkpoint")).unwrap();
    refused(&bench, "row 0 of the ledger is missing");
}

#[test]
fn links_and_other_things_in_place_of_files() {
    for name in ["ledger.jsonl", "checkpoint", "progress.json"] {
        let bench = Workbench::with_rows(3);
        let elsewhere = bench.root().join("elsewhere");
        fs::rename(bench.path(name), &elsewhere).unwrap();
        symlink(&elsewhere, bench.path(name)).unwrap();
        refused(&bench, "is a symlink or no plain file");
        fs::remove_file(bench.path(name)).unwrap();
        symlink("/dev/null", bench.path(name)).unwrap();
        refused(&bench, "is a symlink or no plain file");
        fs::remove_file(bench.path(name)).unwrap();
        fs::create_dir(bench.path(name)).unwrap();
        refused(&bench, "is a symlink or no plain file");
    }
    let bench = Workbench::with_rows(3);
    let elsewhere = tempfile::tempdir().unwrap();
    fs::rename(bench.root().join("state"), elsewhere.path().join("state")).unwrap();
    symlink(elsewhere.path().join("state"), bench.root().join("state")).unwrap();
    refused(&bench, "is a symlink or no plain file");
}
