//! compute-sanitizer: running a command under a checker of device memory accesses or races.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{SANITIZER, find::Places};
use crate::error::{Error, Result};

/// The exit code that the sanitizer gives a command in which it found something; no command of ours uses it.
const FOUND: i32 = 86;
/// Lines of the report that an outcome repeats.
const LINES: usize = 12;

/// What to check for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tool {
    /// Accesses out of bounds, misaligned, or to freed memory.
    Memcheck,
    /// Races on shared memory.
    Racecheck,
    /// Reads of device memory that nothing wrote.
    Initcheck,
    /// Barriers and warp intrinsics that not all named threads reach.
    Synccheck,
}

impl Tool {
    pub fn name(self) -> &'static str {
        match self {
            Tool::Memcheck => "memcheck",
            Tool::Racecheck => "racecheck",
            Tool::Initcheck => "initcheck",
            Tool::Synccheck => "synccheck",
        }
    }
}

/// What one run under the sanitizer showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub tool: Tool,
    /// Nothing found, and the command itself succeeded.
    pub clean: bool,
    /// Errors, or hazards, by the tool's own count.
    pub errors: u64,
    /// The command's exit code; none when a signal or the deadline ended it.
    pub exit: Option<i32>,
    pub timed_out: bool,
    /// The beginning of the report, without its margin.
    pub report: Vec<String>,
    /// And of what the command itself wrote to stderr.
    pub said: Vec<String>,
}

/// A compute-sanitizer that is installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sanitizer {
    pub path: PathBuf,
}

/// Looks in CUDA toolkits and on the path.
pub fn find() -> Result<Sanitizer> {
    find_in(&Places::from_env())
}

pub fn find_in(places: &Places) -> Result<Sanitizer> {
    let mut tried = Vec::new();
    for toolkit in places.toolkit_dirs() {
        tried.push(toolkit.join("bin"));
        tried.push(toolkit.join("compute-sanitizer"));
    }
    tried.extend(places.path.iter().cloned());
    // The file in `bin` is a script that starts the one beside the toolkit's folder; both work.
    let found = tried.iter().map(|dir| dir.join("compute-sanitizer")).find(|path| path.is_file());
    found.map(|path| Sanitizer { path }).ok_or_else(|| {
        Error::new(&SANITIZER, "compute-sanitizer is not installed")
            .found(format!("none in {} folders: the CUDA toolkits' and the path's", tried.len()))
            .hint("it comes with the CUDA toolkit (apt install cuda-sanitizer-13-0)")
    })
}

impl Sanitizer {
    /// Runs `command` (program and arguments) under `tool` for at most `deadline`.
    ///
    /// A sanitizer that could not watch the device is an error: its silence would mean nothing.
    pub fn run(&self, command: &[String], tool: Tool, deadline: Duration) -> Result<Outcome> {
        let dir = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), e))?;
        let (log, said) = (dir.path().join("report"), dir.path().join("said"));
        let errors = File::create(&said).map_err(|e| Error::io(&said, e))?;
        let mut child = Command::new(&self.path);
        child.args(["--tool", tool.name(), "--error-exitcode", &FOUND.to_string(), "--target-processes", "all"]);
        child.arg("--log-file").arg(&log);
        let mut child = child
            .args(command)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .map_err(|e| Error::io(&self.path, e))?;
        let start = Instant::now();
        let status = loop {
            match child.try_wait().map_err(|e| Error::io(&self.path, e))? {
                Some(status) => break Some(status),
                None if start.elapsed() > deadline => {
                    // It may have ended just now; either way it is waited for.
                    let _ = child.kill();
                    let _ = child.wait();
                    break None;
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let mut outcome = outcome(tool, status.and_then(|s| s.code()), status.is_none(), &read(&log))?;
        let said = read(&said);
        outcome.said = said.lines().filter(|l| !l.trim().is_empty()).take(LINES).map(str::to_owned).collect();
        Ok(outcome)
    }
}

fn read(log: &Path) -> String {
    std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn outcome(tool: Tool, exit: Option<i32>, timed_out: bool, report: &str) -> Result<Outcome> {
    let lines: Vec<&str> = report.lines().map(|l| l.trim_start_matches('=').trim()).filter(|l| !l.is_empty()).collect();
    let summary = |words: &str| {
        let line = lines.iter().find_map(|l| l.split_once(words))?;
        line.1.split_whitespace().find_map(|word| word.trim_start_matches('(').parse::<u64>().ok())
    };
    let errors = match tool {
        Tool::Racecheck => summary("RACECHECK SUMMARY:"),
        _ => summary("ERROR SUMMARY:"),
    };
    let blind =
        ["Device not supported", "Unable to", "could not initialize", "Failed to initialize", "Internal Sanitizer"];
    let excuse = lines.iter().find(|l| blind.iter().any(|b| l.contains(b)));
    let errors = match (errors, excuse) {
        (Some(errors), None) => errors,
        _ if timed_out => 0,
        (_, excuse) => {
            return Err(Error::new(&SANITIZER, format!("compute-sanitizer {} gave no verdict", tool.name()))
                .expected("a report with a summary")
                .found(excuse.or(lines.last()).map_or("no report at all".into(), |l| format!("`{l}`"))));
        }
    };
    let mut report: Vec<String> = lines.iter().take(LINES).map(|l| (*l).to_owned()).collect();
    if lines.len() > LINES {
        report.push(format!("… {} more lines", lines.len() - LINES));
    }
    Ok(Outcome { tool, clean: errors == 0 && exit == Some(0), errors, exit, timed_out, report, said: Vec::new() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const CLEAN: &str = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n";
    const DIRTY: &str = "========= COMPUTE-SANITIZER\n========= Invalid __global__ write of size 4 bytes\n\
        =========     at foo+0xa0\n=========     by thread (0,0,0) in block (0,0,0)\n=========\n\
        ========= ERROR SUMMARY: 3 errors\n";

    #[test]
    fn reports_are_read() {
        let clean = outcome(Tool::Memcheck, Some(0), false, CLEAN).unwrap();
        assert!(clean.clean && clean.errors == 0);
        let dirty = outcome(Tool::Memcheck, Some(FOUND), false, DIRTY).unwrap();
        assert!(!dirty.clean && dirty.errors == 3 && dirty.report[1].contains("Invalid __global__ write"));
        let hazards = "========= RACECHECK SUMMARY: 2 hazards displayed (1 error, 1 warning) \n";
        assert_eq!(outcome(Tool::Racecheck, Some(FOUND), false, hazards).unwrap().errors, 2);
        // The command failed by itself: not clean, though the sanitizer saw nothing.
        assert!(!outcome(Tool::Memcheck, Some(1), false, CLEAN).unwrap().clean);
        assert!(!outcome(Tool::Memcheck, None, true, "").unwrap().clean);
    }

    #[test]
    fn a_sanitizer_that_saw_nothing_is_no_verdict() {
        for report in
            ["", "========= Error: Device not supported. Please refer to …\n========= ERROR SUMMARY: 0 errors\n"]
        {
            assert_eq!(outcome(Tool::Memcheck, Some(0), false, report).unwrap_err().code().id, "sanitizer");
        }
    }

    /// A script that takes the sanitizer's place: it runs the command and writes a report.
    fn stand_in(dir: &Path, body: &str) -> Sanitizer {
        let path = dir.join("bin/compute-sanitizer");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("#!/bin/sh\nlog=$8\nshift 8\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let found = find_in(&Places { toolkits: vec![dir.to_path_buf()], ..Places::default() }).unwrap();
        assert_eq!(found.path, path);
        found
    }

    #[test]
    fn the_command_runs_under_it_within_its_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let command = ["sh", "-c", "echo 'w is wrong' >&2; exit 7"].map(str::to_owned);
        let tool = stand_in(dir.path(), "\"$@\"; code=$?; echo '========= ERROR SUMMARY: 0 errors' > $log; exit $code");
        let outcome = tool.run(&command, Tool::Memcheck, Duration::from_secs(10)).unwrap();
        assert_eq!((outcome.exit, outcome.clean, outcome.timed_out), (Some(7), false, false));
        // A verdict said that an application had returned an error, and not which.
        assert_eq!(outcome.said, ["w is wrong"]);
        let tool = stand_in(dir.path(), "exec sleep 30");
        let outcome = tool.run(&command, Tool::Memcheck, Duration::from_millis(100)).unwrap();
        assert!(outcome.timed_out && !outcome.clean);
        let none = find_in(&Places { path: vec![dir.path().join("empty")], ..Places::default() });
        assert_eq!(none.unwrap_err().code().id, "sanitizer");
    }
}
