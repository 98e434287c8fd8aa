//! Faults where the file system is: at the system calls of an append, in a child that is traced.
//!
//! Nothing of the product is replaced for this. Between two calls that change files the disk stays as it is, so a kill
//! before each of them is a kill anywhere. Linux on x86-64, where tracing is allowed; elsewhere that is said.

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use assay::ledger::{Ledger, SecretKey};

use crate::fixture::{Workbench, sign, verdict};

/// What the child ends with when the append was refused, and said why.
const REFUSED: i32 = 9;

/// Run as a child by the tests below; does nothing in a plain run.
#[test]
fn child() {
    let Ok(root) = std::env::var("ASSAY_FAULT_ROOT") else { return };
    let rows = std::env::var("ASSAY_FAULT_ROWS").map_or(1, |n| n.parse().unwrap());
    let key = SecretKey::generate("host").unwrap();
    let mut ledger = Ledger::read(root.as_ref()).unwrap();
    for i in 0..rows {
        let evidence = sign(verdict(100 + i), &key);
        let appended = loop {
            mark();
            let appended = ledger.append(std::slice::from_ref(&evidence), &key);
            mark();
            match appended {
                // Many writers wait for one another, on a machine with other things to do.
                Err(e) if e.code().id == "ledger-busy" && rows > 1 => {}
                other => break other,
            }
        };
        if let Err(e) = appended {
            eprintln!("{e}");
            std::process::exit(REFUSED);
        }
    }
    std::process::exit(0);
}

/// A call that nothing else makes, for the tracer to see where an append begins and ends.
fn mark() {
    // SAFETY: a query.
    unsafe { libc::getppid() };
}

fn child_of(bench: &Workbench) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "syscalls::child", "--nocapture", "--test-threads=1"]);
    command.env("ASSAY_FAULT_ROOT", bench.root()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn sixteen_writers_at_once_lose_nothing() {
    let bench = Workbench::with_rows(2);
    let mut children: Vec<_> =
        (0..16).map(|_| child_of(&bench).env("ASSAY_FAULT_ROWS", "2").spawn().unwrap()).collect();
    assert!(children.iter_mut().all(|c| c.wait().unwrap().success()));
    let ledger = bench.open();
    assert_eq!(ledger.rows().len(), 2 + 16 * (1 + 2), "each writer's key and its two rows");
    assert!(ledger.notes().is_empty(), "{:?}", ledger.notes());
}

/// What is on disk when a write is cut short anywhere and its writer with it.
#[test]
fn a_row_cut_short_at_every_byte_is_set_aside() {
    let whole = Workbench::with_rows(4);
    let lines = whole.lines();
    let bench = Workbench::with_rows(4);
    let base = Workbench::with_rows(3);
    for name in ["checkpoint", "progress.json"] {
        bench.put(name, base.bytes(name));
    }
    let (before, row) = (base.bytes("ledger.jsonl"), &lines[3]);
    for cut in 1..row.len() {
        bench.put("ledger.jsonl", [&before, &row[..cut]].concat());
        let ledger = Ledger::read(bench.root()).unwrap_or_else(|e| panic!("{cut}: {e}"));
        assert_eq!(ledger.rows().len(), 3, "{cut}");
        assert!(ledger.notes()[0].contains("cut short"), "{cut}: {:?}", ledger.notes());
        if cut % 211 == 0 {
            assert_eq!(bench.open().rows().len(), 3);
            assert_eq!(bench.bytes("ledger.jsonl"), before);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod traced {
    use super::*;

    /// A call that changes files, and how much it writes.
    #[derive(Clone, Debug, PartialEq)]
    struct Call {
        name: &'static str,
        len: usize,
    }

    #[derive(Clone, Copy, Debug)]
    enum Fault {
        /// Killed instead of the call.
        Kill,
        /// The call fails.
        Fail(i32),
        /// So many bytes are written, then it is killed.
        Part(usize),
        /// So many bytes are written, and none after them: the disk is full.
        Full(usize),
    }

    struct Run {
        calls: Vec<Call>,
        /// `None`: it was killed.
        exit: Option<i32>,
    }

    fn name_of(regs: &libc::user_regs_struct) -> Option<&'static str> {
        match regs.orig_rax as i64 {
            libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev if regs.rdi > 2 => Some("write"),
            libc::SYS_openat if regs.rdx as i32 & libc::O_CREAT != 0 => Some("create"),
            libc::SYS_mkdir | libc::SYS_mkdirat => Some("mkdir"),
            libc::SYS_fsync | libc::SYS_fdatasync => Some("sync"),
            libc::SYS_ftruncate => Some("truncate"),
            libc::SYS_rename | libc::SYS_renameat | libc::SYS_renameat2 => Some("rename"),
            libc::SYS_unlink | libc::SYS_unlinkat => Some("unlink"),
            _ => None,
        }
    }

    /// Appends one row in a traced child, with faults at calls by their number. `None`: nothing can be traced here.
    fn append(bench: &Workbench, faults: &[(usize, Fault)]) -> Option<Run> {
        let mut command = child_of(bench);
        // SAFETY: one system call between fork and exec.
        unsafe {
            command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            })
        };
        let pid = match command.spawn() {
            Ok(child) => child.id() as i32,
            Err(e) => {
                println!("could not run: no process can be traced here ({e})");
                return None;
            }
        };
        let mut run = Run { calls: Vec::new(), exit: None };
        let (mut watching, mut full) = (false, false);
        // Threads that are inside of a call, with what is to become of its result.
        let mut inside: HashMap<i32, Option<Fault>> = HashMap::new();
        loop {
            let mut status = 0;
            // SAFETY: ptrace and waitpid on processes of our own; the structs are plain.
            unsafe {
                // Only what this thread has started: other tests have children too.
                let tid = libc::waitpid(-1, &mut status, libc::__WALL | libc::__WNOTHREAD);
                if tid < 0 {
                    return Some(run);
                }
                if !libc::WIFSTOPPED(status) {
                    if tid == pid && libc::WIFEXITED(status) {
                        run.exit = Some(libc::WEXITSTATUS(status));
                    }
                    continue;
                }
                let mut deliver = 0;
                match libc::WSTOPSIG(status) {
                    signal if signal == libc::SIGTRAP | 0x80 => {
                        let mut regs: libc::user_regs_struct = std::mem::zeroed();
                        libc::ptrace(libc::PTRACE_GETREGS, tid, 0, &mut regs);
                        match inside.remove(&tid) {
                            Some(fault) => leave(pid, tid, &mut regs, fault),
                            None => {
                                watching ^= regs.orig_rax as i64 == libc::SYS_getppid;
                                let fault = name_of(&regs).filter(|_| watching).and_then(|name| {
                                    let number = run.calls.len();
                                    run.calls
                                        .push(Call { name, len: if name == "write" { regs.rdx as usize } else { 0 } });
                                    let fault = faults.iter().find(|(at, _)| *at == number).map(|(_, fault)| *fault);
                                    let none = (full && name == "write").then_some(Fault::Fail(libc::ENOSPC));
                                    full |= matches!(fault, Some(Fault::Full(_)));
                                    fault.or(none)
                                });
                                enter(pid, tid, &mut regs, fault);
                                inside.insert(tid, fault);
                            }
                        }
                    }
                    libc::SIGTRAP | libc::SIGSTOP => {
                        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
                        libc::ptrace(libc::PTRACE_SETOPTIONS, tid, 0, options);
                    }
                    signal => deliver = signal,
                }
                libc::ptrace(libc::PTRACE_SYSCALL, tid, 0, deliver);
            }
        }
    }

    /// # Safety
    /// `tid` is stopped on its way into a call, with these registers.
    unsafe fn enter(pid: i32, tid: i32, regs: &mut libc::user_regs_struct, fault: Option<Fault>) {
        match fault {
            None => return,
            // No call has this number.
            Some(Fault::Kill | Fault::Fail(_)) => regs.orig_rax = u64::MAX,
            Some(Fault::Part(n) | Fault::Full(n)) => regs.rdx = n as u64,
        }
        // SAFETY: the caller's promise.
        unsafe {
            libc::ptrace(libc::PTRACE_SETREGS, tid, 0, regs);
            if let Some(Fault::Kill) = fault {
                libc::kill(pid, libc::SIGKILL);
            }
        }
    }

    /// # Safety
    /// `tid` is stopped on its way out of a call, with these registers.
    unsafe fn leave(pid: i32, tid: i32, regs: &mut libc::user_regs_struct, fault: Option<Fault>) {
        // SAFETY: the caller's promise.
        unsafe {
            match fault {
                Some(Fault::Fail(errno)) => {
                    regs.rax = (-i64::from(errno)) as u64;
                    libc::ptrace(libc::PTRACE_SETREGS, tid, 0, regs);
                }
                Some(Fault::Part(_)) => {
                    libc::kill(pid, libc::SIGKILL);
                }
                _ => {}
            }
        }
    }

    /// Workbenches to break, each as it was made.
    struct Stock {
        base: Workbench,
        rows: usize,
    }

    impl Stock {
        fn new(rows: usize) -> Stock {
            Stock { base: if rows == 0 { Workbench::new() } else { Workbench::with_rows(rows) }, rows }
        }

        fn take(&self) -> Workbench {
            let bench = Workbench::new();
            for (path, bytes) in self.base.snapshot() {
                fs::create_dir_all(bench.root().join("state")).unwrap();
                fs::write(bench.path(path.file_name().unwrap().to_str().unwrap()), bytes).unwrap();
            }
            bench
        }

        /// Whatever happened: no earlier row is lost, an acknowledged one is there, and the work goes on.
        fn check(&self, bench: &Workbench, exit: Option<i32>, what: &str) {
            let before = if self.rows == 0 { Vec::new() } else { self.base.lines() };
            let ledger = Ledger::open(bench.root()).unwrap_or_else(|e| panic!("{what}: {e}"));
            let rows = ledger.rows().len();
            assert!((self.rows..=self.rows + 2).contains(&rows), "{what}: {rows} rows");
            assert!(exit != Some(0) || rows == self.rows + 2, "{what}: an acknowledged row is lost");
            bench.append(verdict(99));
            assert!(bench.lines().starts_with(&before), "{what}: an earlier row is lost");
            let again = bench.open();
            assert!(again.notes().is_empty(), "{what}: {:?}", again.notes());
            assert!(again.rows().len() > rows, "{what}");
        }
    }

    fn all_calls(stock: &Stock) -> Option<Vec<Call>> {
        let bench = stock.take();
        let run = append(&bench, &[])?;
        assert_eq!(run.exit, Some(0));
        stock.check(&bench, run.exit, "nothing");
        for name in ["write", "sync", "rename", "create"] {
            assert!(run.calls.iter().any(|c| c.name == name), "{name} is not among {:?}", run.calls);
        }
        Some(run.calls)
    }

    #[test]
    fn a_kill_at_every_system_call_loses_no_row() {
        for rows in [0, 3] {
            let stock = Stock::new(rows);
            let Some(calls) = all_calls(&stock) else { return };
            for (i, call) in calls.iter().enumerate() {
                let bench = stock.take();
                let run = append(&bench, &[(i, Fault::Kill)]).unwrap();
                assert_eq!(run.exit, None, "call {i}, {call:?}");
                stock.check(&bench, run.exit, &format!("killed at call {i} from {rows} rows, {call:?}"));
            }
        }
    }

    #[test]
    fn a_system_call_that_fails_is_said_and_loses_no_row() {
        for rows in [0, 3] {
            let stock = Stock::new(rows);
            let Some(calls) = all_calls(&stock) else { return };
            for (i, call) in calls.iter().enumerate() {
                let errno = if call.name == "sync" || call.name == "rename" { libc::EIO } else { libc::ENOSPC };
                let bench = stock.take();
                let run = append(&bench, &[(i, Fault::Fail(errno))]).unwrap();
                let what = format!("call {i} fails from {rows} rows, {call:?}");
                assert_eq!(run.exit, Some(REFUSED), "{what}: nothing was said");
                stock.check(&bench, run.exit, &what);
            }
        }
    }

    #[test]
    fn a_write_cut_short_is_taken_back_or_set_aside() {
        let stock = Stock::new(3);
        let Some(calls) = all_calls(&stock) else { return };
        for (i, call) in calls.iter().enumerate().filter(|(_, c)| c.name == "write") {
            for part in [0, 1, call.len / 2, call.len - 1] {
                let what = format!("{part} of {} bytes at call {i}", call.len);
                let bench = stock.take();
                let run = append(&bench, &[(i, Fault::Part(part))]).unwrap();
                assert_eq!(run.exit, None, "{what}");
                stock.check(&bench, run.exit, &what);

                let bench = stock.take();
                let run = append(&bench, &[(i, Fault::Full(part))]).unwrap();
                assert_eq!(run.exit, Some(REFUSED), "{what}, then a full disk");
                assert!(bench.bytes("ledger.jsonl").ends_with(b"\n"), "{what}: a part stays behind");
                stock.check(&bench, run.exit, &what);

                // Not even that can be taken back: the next call of the first row's write is the one that would.
                let bench = stock.take();
                let run = append(&bench, &[(i, Fault::Full(part)), (i + 1, Fault::Fail(libc::EIO))]).unwrap();
                assert_eq!(run.exit, Some(REFUSED), "{what}, and it stays");
                stock.check(&bench, run.exit, &what);
            }
        }
    }
}
