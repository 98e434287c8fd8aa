//! What somebody else put into the folder of a run.

use std::os::unix::fs::symlink;
use std::path::Path;

use assay::agent::events::{Approve, Event, NodeEnd, RunEnd};
use assay::agent::run::Run;
use assay::agent::runs;
use assay::agent::state::State;
use assay::agent::supervise::{self, Signals, Word};
use assay::error::Result;
use serde_json::json;

use super::fake::{Fake, Watch, client, limits, started};
use super::run::write;
use super::server::{Reply, Server, answer};

/// A first attempt that is red, and a second that passes.
fn two_attempts() -> Server {
    Server::start(|n, _| {
        let text = if n == 0 { "wrong" } else { "right" };
        Reply::Json(answer("", &[write(text), ("verify", json!({}))], (10, 10)))
    })
}

fn go(server: &Server, dir: &Path, resume: bool) -> (Result<RunEnd>, State, Vec<String>) {
    let client = client(server, |_| {});
    let (signals, mut view, mut shop) = (Signals::default(), Watch::default(), Fake::default());
    let event = started(&client, Approve::NeverAsk, limits(), &["swiglu"]);
    let resumed = |state: &State, _| {
        let (limits, approve) = (state.limits.clone(), state.approve);
        Ok(Event::Resumed { limits, approve, note: String::new(), place: None, server: None, wait_s: None })
    };
    let mut run = match resume {
        false => Run::begin(dir, &mut shop, &client, &signals, &mut view, event).unwrap(),
        true => Run::resume(dir, &mut shop, &client, &signals, &mut view, resumed).unwrap(),
    };
    let end = run.work();
    let state = run.state().clone();
    (end, state, view.log)
}

/// It could not be removed as a word is, which was a fault that every resume met again.
#[test]
fn a_folder_among_the_words_ended_the_run() {
    let (dir, server) = (tempfile::tempdir().unwrap(), two_attempts());
    std::fs::create_dir_all(dir.path().join("control/1.json/deep")).unwrap();
    std::fs::write(dir.path().join("control/2.json"), "no word").unwrap();
    let (end, state, log) = go(&server, dir.path(), false);
    assert_eq!((end.unwrap(), state.ended[0].1), (RunEnd::Done, NodeEnd::Emulated));
    let refused: Vec<_> = log.iter().filter(|l| l.starts_with("Refused")).collect();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused[0].contains("control/1.json") && refused[0].contains("a folder and no word"), "{refused:?}");
    assert!(dir.path().join("control/1.json/deep").is_dir() && !dir.path().join("control/2.json").exists());
}

/// The kernel was written to where a link in `sources/` points, or the folder itself.
#[test]
fn a_link_in_a_runs_folder_was_written_through() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = two_attempts();
    symlink(outside.path(), dir.path().join("sources")).unwrap();
    let (end, state, _) = go(&server, dir.path(), false);
    let error = end.unwrap_err();
    assert_eq!(error.code().id, "agent-run-link", "{error}");
    assert!(error.to_string().contains("sources is a symlink") && error.to_string().contains("rm "), "{error}");
    assert_eq!((state.over.unwrap().0, std::fs::read_dir(outside.path()).unwrap().count()), (RunEnd::Fault, 0));
    // Without it the run goes on where it was.
    std::fs::remove_file(dir.path().join("sources")).unwrap();
    let (end, state, _) = go(&server, dir.path(), true);
    assert_eq!((end.unwrap(), state.ended[0].1), (RunEnd::Done, NodeEnd::Emulated));
    // A link in the place of a source is replaced, and what it points to is not shown either.
    let name = &state.last_verdict.as_ref().map(|_| {
        let mut names: Vec<_> =
            std::fs::read_dir(dir.path().join("sources")).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    });
    let secret = outside.path().join("secret");
    let (dir, server) = (tempfile::tempdir().unwrap(), two_attempts());
    std::fs::create_dir(dir.path().join("sources")).unwrap();
    for name in name.iter().flatten() {
        std::fs::write(&secret, "SECRET\n").unwrap();
        symlink(&secret, dir.path().join("sources").join(name)).unwrap();
    }
    let (end, _, log) = go(&server, dir.path(), false);
    assert_eq!(end.unwrap(), RunEnd::Done);
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "SECRET\n");
    assert!(!log.join("\n").contains("SECRET"));
    for entry in std::fs::read_dir(dir.path().join("sources")).unwrap() {
        assert!(entry.unwrap().file_type().unwrap().is_file());
    }
    // Nor are words left, or looked for, behind a link.
    let words = tempfile::tempdir().unwrap();
    symlink(words.path(), dir.path().join("control")).unwrap();
    assert_eq!(supervise::send(dir.path(), &Word::Pause).unwrap_err().code().id, "agent-run-link");
    assert_eq!(supervise::inbox(dir.path()).unwrap_err().code().id, "agent-run-link");
    assert_eq!(std::fs::read_dir(words.path()).unwrap().count(), 0);
}

/// The time worked and the end of the transcript were written over the file that had another name there, or a link was an
/// error without a word of what to do.
#[test]
fn a_hard_link_in_a_runs_folder_was_written_through() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = two_attempts();
    symlink(outside.path(), dir.path().join("sources")).unwrap();
    go(&server, dir.path(), false).0.unwrap_err();
    std::fs::remove_file(dir.path().join("sources")).unwrap();
    let (worked, head) = (outside.path().join("worked"), outside.path().join("head"));
    std::fs::write(&worked, "00000000000000009000\n").unwrap();
    std::fs::remove_file(dir.path().join("worked")).unwrap();
    std::fs::hard_link(&worked, dir.path().join("worked")).unwrap();
    std::fs::hard_link(dir.path().join("head"), &head).unwrap();
    let before = std::fs::read(&head).unwrap();
    let (end, state, _) = go(&server, dir.path(), true);
    assert_eq!((end.unwrap(), state.ended[0].1), (RunEnd::Done, NodeEnd::Emulated));
    assert_eq!(std::fs::read_to_string(&worked).unwrap(), "00000000000000009000\n");
    assert!(std::fs::read(&head).unwrap() == before && std::fs::read(dir.path().join("head")).unwrap() != before);
    // A link in the place of what has to be read is named. Of the time it is replaced.
    let target = outside.path().join("target");
    for name in ["worked", "head", "transcript.jsonl"] {
        let path = dir.path().join(name);
        std::fs::rename(&path, &target).unwrap();
        symlink(&target, &path).unwrap();
        let before = std::fs::read(&target).unwrap();
        match name {
            "worked" => {
                go(&server, dir.path(), true).0.unwrap();
                assert!(path.symlink_metadata().unwrap().is_file());
            }
            _ => {
                let error = runs::state(dir.path()).unwrap_err();
                assert_eq!(error.code().id, "agent-run-link", "{error}");
                let removes = format!("rm {}", path.display());
                assert!(error.to_string().contains("is a symlink") && error.to_string().contains(&removes), "{error}");
                std::fs::copy(&target, dir.path().join("own")).unwrap();
                std::fs::rename(dir.path().join("own"), &path).unwrap();
            }
        }
        assert_eq!(std::fs::read(&target).unwrap(), before);
    }
    runs::state(dir.path()).unwrap();
}
