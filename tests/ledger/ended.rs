//! Keys that are rotated and revoked: what goes on counting, who may say so, and what a forger gets for trying.

use std::fs;
use std::process::Output;

use assay::error::Kind;
use assay::history;
use assay::ledger::{
    Config, Digest, Evidence, KeyId, KeyJoin, Ledger, Revocation, Rotation, SecretKey, Standing, Statement, Trust,
    canonical, read_evidence,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::binary::{assay, says};
use crate::fixture::*;
use crate::git::{audit, commit, init};

fn key(name: &str) -> SecretKey {
    SecretKey::generate(name).unwrap()
}

fn row_0(ledger: &Ledger) -> Digest {
    ledger.rows()[0].hash
}

fn rotation(ledger: &Ledger, from: &SecretKey, to: &SecretKey) -> Evidence {
    let keeps = ledger.kept(&from.public().id(), ledger.rows().len());
    let (old, new) = (from.public().clone(), to.public().clone());
    let rotation = Rotation { from: old, to: new, ledger: row_0(ledger), keeps, time: String::new() };
    Evidence::sign(Statement::Rotation(Box::new(rotation)), from).unwrap().welcomed_by(to).unwrap()
}

/// `by` revokes `whose`, keeping what lies before row `from`.
fn revocation(ledger: &Ledger, whose: &SecretKey, from: usize, by: &SecretKey) -> Evidence {
    let keeps = ledger.kept(&whose.public().id(), from);
    revocation_in(row_0(ledger), whose, keeps, by)
}

fn revocation_in(ledger: Digest, whose: &SecretKey, keeps: Vec<Digest>, by: &SecretKey) -> Evidence {
    let key = whose.public().clone();
    let revocation = Revocation { key, why: "stolen".into(), ledger, keeps, time: String::new() };
    Evidence::sign(Statement::Revocation(Box::new(revocation)), by).unwrap()
}

/// The ledger's own key, a host's, and a stranger's that joined as everybody can: rows 0, 1, 2; then the host's verdicts
/// on closures 1 and 2 (rows 3 and 4) and the stranger's on 3 (row 5).
struct Three {
    bench: Workbench,
    host: SecretKey,
    stranger: SecretKey,
}

fn three() -> Three {
    let (bench, host, stranger) = (Workbench::new(), key("gpu"), key("stranger"));
    let evidence = [
        Evidence::join(&host).unwrap(),
        Evidence::join(&stranger).unwrap(),
        sign(verdict(1), &host),
        sign(verdict(2), &host),
        sign(verdict(3), &stranger),
    ];
    assert_eq!(bench.open().append(&evidence, &bench.key).unwrap(), [1, 2, 3, 4, 5]);
    Three { bench, host, stranger }
}

fn trusting(keys: &[&SecretKey]) -> (tempfile::TempDir, Trust) {
    let dir = tempfile::tempdir().unwrap();
    let mut trust = Trust::load(&Config::at(dir.path()), None, tempfile::tempdir().unwrap().path()).unwrap();
    keys.iter().for_each(|key| trust.trust(key.public().clone(), false).unwrap());
    (dir, trust)
}

fn standing(bench: &Workbench, closure: u8, trusted: &SecretKey) -> String {
    let (_dir, trust) = trusting(&[trusted]);
    match bench.open().standing(&node(), &binding(closure), &trust) {
        Standing::Green(row) => format!("green {}", row.seq),
        Standing::Void(row, why) => format!("void {}: {why}", row.seq),
        Standing::Red(row) => format!("red {}", row.seq),
        Standing::Untrusted(row, _) => format!("untrusted {}", row.seq),
        Standing::Stale(row, _) => format!("stale {}", row.seq),
        _ => "unproved".into(),
    }
}

fn proved(bench: &Workbench) -> Vec<u64> {
    let mut rows: Vec<u64> = bench.open().progress().proved.iter().map(|p| p.row).collect();
    rows.sort_unstable();
    rows
}

fn ended(bench: &Workbench, key: &SecretKey) -> bool {
    bench.open().chain().roll.ended(&key.public().id()).is_some()
}

fn refused(result: assay::Result<Vec<u64>>, id: &str, says: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.code().id, id, "{error}");
    assert!(error.to_string().contains(says), "expected `{says}` in {error}");
}

/// A row that the ledger's own writer would not write: put at the end of the file by whoever holds `writer`.
fn forge(bench: &Workbench, evidence: &Evidence, writer: &SecretKey) {
    let (ledger, id): (Ledger, KeyId) = (Ledger::read(bench.root()).unwrap(), writer.public().id());
    let mut row = json!({
        "seq": ledger.rows().len(), "prev": ledger.chain().head(), "evidence": evidence.to_value().unwrap(), "writer": id,
    });
    let message = [b"assay ledger row 1\n".to_vec(), canonical::write(&row).unwrap()].concat();
    row["sig"] = json!(STANDARD.encode(writer.sign(&message)));
    let line = [canonical::write(&row).unwrap(), b"\n".to_vec()].concat();
    bench.put("ledger.jsonl", [bench.bytes("ledger.jsonl"), line].concat());
}

fn damaged(bench: &Workbench, says: &str) {
    let error = Ledger::read(bench.root()).unwrap_err();
    assert_eq!((error.code().id, error.kind()), ("ledger-damaged", Kind::Integrity), "{error}");
    assert!(error.to_string().contains(says), "expected `{says}` in {error}");
}

#[test]
fn a_rotated_key_keeps_its_rows_and_gets_no_new_ones() {
    let Three { bench, host, .. } = three();
    let new = key("gpu-2");
    let handed = rotation(&bench.open(), &host, &new);
    assert_eq!(bench.open().append(&[handed], &bench.key).unwrap(), [6]);
    assert_eq!(standing(&bench, 1, &host), "green 3", "what it had proved is proved");
    assert_eq!(proved(&bench), [3, 4, 5]);
    refused(bench.open().append(&[sign(verdict(7), &host)], &bench.key), "evidence-void", "was rotated to");
    refused(bench.open().append(&[sign(verdict(7), &host)], &host), "key-ended", "its successor is");
    assert_eq!(bench.open().append(&[sign(verdict(7), &new)], &new).unwrap(), [7], "the successor joined by it");
    assert_eq!(standing(&bench, 7, &new), "green 7");
    assert_eq!(standing(&bench, 7, &host), "untrusted 7", "trust in a key is no trust in its successor");
    let other = rotation(&bench.open(), &host, &key("thief"));
    refused(bench.open().append(&[other], &bench.key), "key-no-force", "was rotated to");
    damaged_by_row_of(&bench, &host);
}

/// What an ended key still can do to the file itself.
fn damaged_by_row_of(bench: &Workbench, ended: &SecretKey) {
    let good = bench.bytes("ledger.jsonl");
    forge(bench, &Evidence::join(&key("x")).unwrap(), ended);
    damaged(bench, &format!("it is written by {}", ended.public().name()));
    bench.put("ledger.jsonl", good);
}

#[test]
fn a_revoked_key_counts_only_where_the_revocation_keeps_it() {
    let Three { bench, host, stranger } = three();
    // All but the last row that the host had signed.
    let evidence = revocation(&bench.open(), &host, 4, &bench.key);
    assert_eq!(bench.open().append(&[evidence], &bench.key).unwrap(), [6]);
    assert_eq!(standing(&bench, 1, &host), "green 3");
    let void = standing(&bench, 2, &host);
    assert!(void.starts_with("void 4: its key") && void.ends_with("was revoked in row 6 (stolen)"), "{void}");
    assert_eq!(proved(&bench), [3, 5], "progress.json does not claim it either");
    assert_eq!(standing(&bench, 3, &stranger), "green 5", "nobody else's rows are touched");
    let (_dir, trust) = trusting(&[&host]);
    let error = bench.open().admit(vec![sign(verdict(8), &host)], &trust).unwrap_err();
    assert_eq!((error.code().id, error.kind().exit_code()), ("evidence-void", 1), "{error}");
    // Joining again is no way back.
    let again = KeyJoin { key: host.public().clone(), time: "later".into() };
    let again = Evidence::sign(Statement::Key(Box::new(again)), &host).unwrap();
    refused(bench.open().append(&[again], &bench.key), "evidence-void", "was revoked");
    refused(bench.open().append(&[sign(verdict(8), &bench.key)], &host), "key-ended", "was revoked");
    // A Red of it takes nothing back, a new proof by another key stands.
    bench.open().append(&[sign(verdict(2), &bench.key)], &bench.key).unwrap();
    assert_eq!(standing(&bench, 2, &bench.key), "green 7");
    damaged_by_row_of(&bench, &host);
}

/// A worker cannot end the key that found it out.
#[test]
fn a_red_outlives_the_key_that_signed_it() {
    let Three { bench, host, .. } = three();
    bench.open().append(&[sign(red(3), &host)], &bench.key).unwrap();
    assert_eq!(proved(&bench), [3, 4], "the stranger's proof is taken back");
    // Of all that the host signed, the one piece that serves.
    let keeps = vec![bench.open().rows()[3].evidence.digest()];
    let chosen = revocation_in(row_0(&bench.open()), &host, keeps, &host);
    bench.open().append(&[chosen], &host).unwrap();
    assert_eq!(proved(&bench), [3]);
    assert_eq!(standing(&bench, 3, &host), "red 6");
    bench.open().append(&[sign(verdict(3), &bench.key)], &bench.key).unwrap();
    assert_eq!(proved(&bench), [3, 8], "a new pass overrules it");
    assert_eq!(standing(&bench, 3, &bench.key), "green 8");
}

#[test]
fn revoked_twice_a_key_keeps_what_both_rows_keep() {
    let Three { bench, host, .. } = three();
    let (all, none) =
        (revocation(&bench.open(), &host, 6, &bench.key), revocation(&bench.open(), &host, 0, &bench.key));
    bench.open().append(&[all], &bench.key).unwrap();
    assert_eq!(proved(&bench), [3, 4, 5]);
    bench.open().append(&[none], &bench.key).unwrap();
    assert_eq!(proved(&bench), [5]);
    let late = revocation_in(row_0(&bench.open()), &host, vec![bench.open().rows()[3].evidence.digest()], &bench.key);
    bench.open().append(&[late], &bench.key).unwrap();
    assert_eq!(proved(&bench), [5], "what was taken back does not come again");
}

#[test]
fn a_key_is_ended_by_itself_its_successors_and_the_founder_alone() {
    let Three { bench, host, stranger } = three();
    let wrong = revocation(&bench.open(), &host, 0, &stranger);
    refused(bench.open().append(std::slice::from_ref(&wrong), &bench.key), "key-no-force", "may not revoke");
    forge(&bench, &wrong, &stranger);
    damaged(&bench, "may not revoke");

    // By a successor of its own.
    let Three { bench, host, stranger } = three();
    let (second, third) = (key("gpu-2"), key("gpu-3"));
    for (from, to) in [(&host, &second), (&second, &third)] {
        let handed = rotation(&bench.open(), from, to);
        bench.open().append(&[handed], &bench.key).unwrap();
    }
    let by_successor = revocation(&bench.open(), &host, 0, &third);
    bench.open().append(&[by_successor], &third).unwrap();
    assert_eq!(proved(&bench), [5]);
    let back = revocation(&bench.open(), &third, 0, &stranger);
    refused(bench.open().append(&[back], &bench.key), "key-no-force", "may not revoke");

    // By itself; others go on.
    let itself = revocation(&bench.open(), &stranger, 9, &stranger);
    let row = bench.open().append(&[itself], &stranger).unwrap()[0];
    assert_eq!(Ledger::read(bench.root()).unwrap().rows().len() as u64, row + 1, "its last checkpoint is good");
    bench.append(verdict(9));

    // By the founder's successor.
    let heir = key("heir");
    let handed = rotation(&bench.open(), &bench.key, &heir);
    bench.open().append(&[handed], &bench.key).unwrap();
    let by_heir = revocation(&bench.open(), &third, 0, &heir);
    bench.open().append(&[by_heir], &heir).unwrap();
    assert!(ended(&bench, &third) && ended(&bench, &bench.key) && !ended(&bench, &heir));
}

#[test]
fn a_revoked_key_revokes_nobody() {
    let Three { bench, host, stranger } = three();
    let heir = key("heir");
    let handed = rotation(&bench.open(), &bench.key, &heir);
    bench.open().append(&[handed], &bench.key).unwrap();
    let stolen = revocation(&bench.open(), &bench.key, 99, &heir);
    bench.open().append(&[stolen], &heir).unwrap();
    // The thief of the founder's key: by the front door, and by the file, under a key that joins as anybody's can.
    let wrong = revocation(&bench.open(), &host, 0, &bench.key);
    refused(bench.open().append(std::slice::from_ref(&wrong), &heir), "key-no-force", "was revoked");
    let successor = rotation(&bench.open(), &bench.key, &stranger);
    refused(bench.open().append(std::slice::from_ref(&successor), &heir), "key-no-force", "was revoked");
    let thief = key("thief");
    forge(&bench, &Evidence::join(&thief).unwrap(), &thief);
    Ledger::read(bench.root()).unwrap();
    let before = bench.open().rows().len() as u64;
    bench.append_by(&heir, 9);
    forge(&bench, &wrong, &thief);
    let ledger = bench.open();
    assert!(!ended(&bench, &host), "it is held and has no force");
    assert_eq!(ledger.chain().roll.idle().keys().copied().collect::<Vec<_>>(), [before + 1]);
    let notes = audit(bench.root()).unwrap().notes;
    assert!(notes.iter().any(|n| n.contains(&format!("row {} rotates or revokes a key and has no force", before + 1))));
    bench.append_by(&heir, 10);
    forge(&bench, &successor, &thief);
    bench.append_by(&heir, 11);
    // Nor does a successor without force get the say of one.
    let by_idle = revocation(&bench.open(), &host, 0, &stranger);
    refused(bench.open().append(std::slice::from_ref(&by_idle), &heir), "key-no-force", "no successor in force");
    forge(&bench, &by_idle, &thief);
    assert!(!ended(&bench, &host));
    assert_eq!(standing(&bench, 1, &host), "green 3");
}

#[test]
fn a_revocation_of_another_ledger_or_twice_ends_nothing() {
    let Three { bench, host, stranger } = three();
    let other = three();
    let elsewhere = revocation_in(row_0(&other.bench.open()), &host, Vec::new(), &host);
    refused(bench.open().append(std::slice::from_ref(&elsewhere), &bench.key), "key-no-force", "of another ledger");
    forge(&bench, &elsewhere, &stranger);
    assert!(!ended(&bench, &host));
    bench.append(verdict(8));

    let once = revocation(&bench.open(), &stranger, 0, &stranger);
    bench.open().append(std::slice::from_ref(&once), &bench.key).unwrap();
    let rows = bench.open().rows().len();
    assert_eq!(
        bench.open().append(std::slice::from_ref(&once), &bench.key).unwrap(),
        [rows as u64 - 1],
        "it is there already"
    );
    forge(&bench, &once, &bench.key);
    damaged(&bench, "its evidence is that of row");
}

#[test]
fn a_rotation_needs_both_signatures_in_their_order() {
    let Three { bench, host, stranger } = three();
    let ledger = bench.open();
    let keeps = Vec::new();
    let (from, to) = (host.public().clone(), stranger.public().clone());
    let statement =
        Statement::Rotation(Box::new(Rotation { from, to, ledger: row_0(&ledger), keeps, time: String::new() }));
    let sign =
        |keys: [&SecretKey; 2]| Evidence::sign(statement.clone(), keys[0]).unwrap().welcomed_by(keys[1]).unwrap();
    for wrong in [[&stranger, &host], [&host, &bench.key], [&stranger, &stranger], [&bench.key, &stranger]] {
        let good = bench.bytes("ledger.jsonl");
        forge(&bench, &sign(wrong), &bench.key);
        damaged(&bench, "the old key, then by the new one");
        bench.put("ledger.jsonl", good);
    }
    let alone = Evidence::sign(statement.clone(), &host).unwrap();
    forge(&bench, &alone, &bench.key);
    damaged(&bench, "1 signatures on a rotation");
}

#[test]
fn a_checkpoint_by_a_key_that_was_ended_before_is_refused() {
    let Three { bench, stranger, .. } = three();
    let itself = revocation(&bench.open(), &stranger, 9, &stranger);
    bench.open().append(&[itself], &stranger).unwrap();
    let by_stranger = bench.bytes("checkpoint");
    bench.append(verdict(8));
    let text = String::from_utf8(bench.bytes("checkpoint")).unwrap();
    let body = text.split_once("\n\n").unwrap().0.to_string() + "\n";
    let named = String::from_utf8(by_stranger).unwrap();
    let named = named.split_once("\n\n").unwrap().1.strip_prefix("\u{2014} stranger ").unwrap().trim_end().to_string();
    let hash = STANDARD.decode(named).unwrap()[..4].to_vec();
    let signature = [hash, stranger.sign(body.as_bytes()).to_vec()].concat();
    bench.put("checkpoint", format!("{body}\n\u{2014} stranger {}\n", STANDARD.encode(signature)));
    let error = Ledger::read(bench.root()).unwrap_err();
    assert_eq!((error.code().id, error.kind().exit_code()), ("ledger-checkpoint", 4), "{error}");
    assert!(error.to_string().contains("was revoked in row 6"), "{error}");
}

#[test]
fn a_ledger_that_is_imported_brings_what_counts_in_it() {
    let Three { bench, host, stranger } = three();
    let evidence = revocation(&bench.open(), &host, 4, &bench.key);
    bench.open().append(&[evidence], &bench.key).unwrap();
    let other = Workbench::new();
    other.append(verdict(9));
    let (_dir, trust) = trusting(&[&bench.key, &host, &stranger]);
    let read = read_evidence(&bench.path("ledger.jsonl"), other.root()).unwrap();
    let new = other.open().admit(read, &trust).unwrap();
    other.open().append(&new, &other.key).unwrap();
    let kinds: Vec<_> = other.open().rows()[2..].iter().map(|row| row.statement().kind()).collect();
    assert_eq!(kinds, ["key", "key", "key", "verdict", "verdict"], "no revocation, and not what it took back");
    assert_eq!(standing(&other, 1, &host), "green 5");
    assert!(standing(&other, 2, &host).starts_with("stale"));
}

/// One branch revokes the host's key, on the other it goes on signing: whichever is merged into which, nothing is lost, and
/// what the revocation does not know of counts for nothing.
#[test]
fn a_merge_with_a_branch_that_revokes() {
    for revoking_first in [true, false] {
        let Three { bench, host, .. } = three();
        let repo = init(&bench);
        let base = commit(&repo, "base", &[]);
        let files = bench.snapshot();
        let revoke = revocation(&bench.open(), &host, 99, &bench.key);
        bench.open().append(&[revoke], &bench.key).unwrap();
        let revoking = commit(&repo, "revoked", &[base]);
        let revoked = bench.snapshot();

        files.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
        repo.set_head_detached(base).unwrap();
        bench.open().append(&[sign(verdict(7), &host)], &host).unwrap();
        let signing = commit(&repo, "signed on", &[base]);
        let (ours, theirs) = if revoking_first { (revoking, signing) } else { (signing, revoking) };
        if revoking_first {
            revoked.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
        }
        repo.set_head_detached(ours).unwrap();
        let evidence = history::evidence_of(bench.root(), &theirs.to_string()).unwrap();
        if revoking_first {
            refused(bench.open().append(&evidence, &bench.key), "evidence-void", "was revoked in row 6");
        }
        bench.open().adopt(&evidence, &bench.key).unwrap();
        commit(&repo, "merge", &[ours, theirs]);
        let report = audit(bench.root()).unwrap();
        assert_eq!((report.rows, report.commits), (8, 4));
        assert_eq!(proved(&bench), [3, 4, 5], "revoking first: {revoking_first}");
        assert!(standing(&bench, 7, &host).starts_with("void"), "revoking first: {revoking_first}");
        let of_host = report.signers.iter().find(|s| s.name == "gpu").unwrap();
        assert_eq!((of_host.evidence, of_host.void), (3, 1));
        assert!(of_host.ended.as_deref().unwrap().contains("(stolen)"));
    }
}

/// The writer of a merge is ended by a row that it brings in: nothing is written.
#[test]
fn a_merge_by_a_key_that_it_ends_writes_nothing() {
    let Three { bench, .. } = three();
    let (other, heir) = (bench.open(), key("heir"));
    let before = bench.snapshot();
    let evidence = [rotation(&other, &bench.key, &heir), sign(verdict(8), &heir)];
    refused(bench.open().adopt(&evidence, &bench.key), "key-ended", "was rotated to");
    assert_eq!(before, bench.snapshot());
    bench.open().adopt(&evidence, &heir).unwrap();
    assert_eq!(standing(&bench, 8, &heir), "green 8");
}

#[test]
fn keys_are_rotated_and_revoked_from_the_command_line() {
    let (bench, home) = (Workbench::new(), tempfile::tempdir().unwrap());
    let run = |args: &[&str]| -> Output { assay(bench.root(), home.path(), args) };
    says(&run(&["key", "new", "me"]), 0, "trusted here");
    says(&run(&["key", "rotate", "me-2"]), 1, "key-no-force");
    assert!(!home.path().join("keys/me-2.pem").exists(), "a refusal makes no key");
    let me = Config::at(home.path()).key(Some("me")).unwrap();
    bench.open().append(&[sign(verdict(1), &me)], &me).unwrap();
    let said = says(&run(&["key", "rotate", "me-2"]), 0, "row 3  key me (");
    assert!(said.contains("hands over to me-2") && said.contains("1 piece of evidence that it had signed goes on"));
    let listed = says(&run(&["key", "list"]), 0, "me-2  trusted here, yours, signs in this workbench");
    assert!(listed.contains("me  trusted here, yours, was rotated to"), "{listed}");
    says(&run(&["key", "rotate", "me-3", "--key", "me"]), 3, "was rotated to");
    // Of two private keys the one that still signs here is meant.
    let file = home.path().join("evidence.jsonl");
    let new = Config::at(home.path()).key(Some("me-2")).unwrap();
    fs::write(&file, sign(verdict(2), &new).to_line().unwrap()).unwrap();
    says(&run(&["import", file.to_str().unwrap()]), 0, "row 4  matmul[q8_0]");
    let json = run(&["key", "revoke", "me", "--why", "found in a backup", "--from", "0", "--key", "me-2", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((json["schema"].as_str(), json["void"].as_u64()), (Some("assay.key-revoke/1"), Some(1)));
    let said = says(&run(&["audit"]), 0, "was revoked in row 5 (found in a backup)");
    assert!(said.contains("signed 1 piece of evidence, of which 1 counts for nothing"), "{said}");
    says(&run(&["show", "1"]), 0, "counts for nothing: its key");
    says(&run(&["show", "5"]), 0, "found in a backup");
    says(&run(&["history"]), 0, "is revoked: found in a backup");
    says(&run(&["key", "revoke", "me", "--why", "two\nlines", "--key", "me-2"]), 2, "one line of 1 to 500");
    says(&run(&["key", "revoke", "me", "--why", "x", "--from", "9", "--key", "me-2"]), 2, "there is no row 9");
    says(&run(&["key", "revoke", "nobody", "--why", "x", "--key", "me-2"]), 2, "no key goes by");
    says(&run(&["key", "new", "stranger"]), 0, "trusted here");
    says(&run(&["key", "revoke", "me-2", "--why", "x", "--key", "stranger"]), 1, "may not revoke");
}
