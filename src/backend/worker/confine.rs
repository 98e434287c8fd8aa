//! Confinement of a process that runs or compiles other people's code.
//!
//! What it may read and write is landlock's part; which system calls it may make is seccomp's. Where the kernel offers
//! no landlock, user and network namespaces at least take the network away. Resource limits always hold. Nothing here
//! fails: what could be had is in the [`Sandbox`], which becomes part of every verdict.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, Scope, path_beneath_rules,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use serde::{Deserialize, Serialize};

/// How much of the confinement this machine could give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Files, network and system calls.
    Full,
    /// Some of it.
    Partial,
    None,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::Full => "full",
            Level::Partial => "partial",
            Level::None => "none",
        }
    }

    /// Whether it is as much as `asked`, or more.
    pub fn reaches(self, asked: Level) -> bool {
        let rank = |level| match level {
            Level::None => 0,
            Level::Partial => 1,
            Level::Full => 2,
        };
        rank(self) >= rank(asked)
    }

    /// The one that is more.
    pub fn or(self, other: Level) -> Level {
        if self.reaches(other) { self } else { other }
    }
}

/// What confined a process. Goes into verdicts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sandbox {
    pub level: Level,
    /// 0: not available.
    pub landlock_abi: u32,
    pub seccomp: bool,
    pub namespaces: bool,
}

impl Sandbox {
    pub fn new(landlock_abi: u32, seccomp: bool, namespaces: bool) -> Self {
        let level = match (landlock_abi > 0, seccomp) {
            (true, true) => Level::Full,
            (false, false) if !namespaces => Level::None,
            _ => Level::Partial,
        };
        Sandbox { level, landlock_abi, seccomp, namespaces }
    }

    /// The level that its parts come to, which is its own unless somebody else wrote it.
    pub fn comes_to(&self) -> Level {
        Sandbox::new(self.landlock_abi, self.seccomp, self.namespaces).level
    }

    /// Whether it is what it says it is, and no less than that level.
    pub fn reaches(&self, least: Level) -> bool {
        self.comes_to() == self.level && self.level.reaches(least)
    }

    /// What this one and the other have in common.
    pub fn shared(&self, other: &Sandbox) -> Sandbox {
        Sandbox::new(
            self.landlock_abi.min(other.landlock_abi),
            self.seccomp && other.seccomp,
            self.namespaces && other.namespaces,
        )
    }
}

/// What a process may do.
pub struct Policy {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    /// Start programs: compilers do.
    exec: bool,
    /// Unix sockets: the CUDA driver may use them.
    unix_sockets: bool,
    cpu_seconds: u64,
    /// CUDA reserves terabytes of addresses.
    address_space: Option<u64>,
    file_size: u64,
    files: u64,
}

/// Bytes of addresses that NVRTC gets.
pub const NVRTC_MEMORY: u64 = 4 << 30;

/// Shared libraries and what the dynamic loader reads.
fn libraries() -> Vec<PathBuf> {
    let fixed = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/nix/store"];
    let mut paths: Vec<PathBuf> = fixed.map(PathBuf::from).to_vec();
    let set = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    // An empty part is the current folder, which may be the workbench.
    paths.extend(std::env::split_paths(&set).filter(|path| path.is_absolute()));
    // Thread counts and memory limits.
    paths.extend(["/sys/fs/cgroup", "/sys/devices/system/cpu", "/proc/self", "/dev/null"].map(PathBuf::from));
    paths
}

impl Policy {
    /// Runs compiled kernels from `read`; writes nothing.
    pub fn emulator(read: Vec<PathBuf>) -> Self {
        Policy {
            read: [libraries(), read].concat(),
            write: Vec::new(),
            exec: false,
            unix_sockets: false,
            cpu_seconds: 4 * 3600,
            address_space: Some(physical_memory().saturating_add(32 << 30)),
            file_size: 1 << 20,
            files: 512,
        }
    }

    /// The driver reads its configuration and the device tree, and writes device files.
    pub fn cuda(read: Vec<PathBuf>) -> Self {
        let system = ["/usr", "/etc", "/proc", "/sys", "/dev", "/opt", "/run", "/var/lib"].map(PathBuf::from).to_vec();
        Policy {
            read: [libraries(), system, read].concat(),
            write: vec!["/dev".into(), "/proc/self".into()],
            exec: false,
            unix_sockets: true,
            cpu_seconds: 24 * 3600,
            address_space: None,
            file_size: u64::MAX,
            files: 8192,
        }
    }

    /// Compiles in `scratch` with the toolchain that `compiler` belongs to.
    pub fn compiler(compiler: &Path, scratch: &Path) -> Self {
        let mut read = libraries();
        read.extend(["/usr", "/bin"].map(PathBuf::from));
        let real = compiler.canonicalize().unwrap_or_else(|_| compiler.to_path_buf());
        for path in [compiler, &real] {
            // prefix/bin/g++ → prefix; a compiler in the root or a home directory opens its own folder only.
            let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
            let prefix = folder.parent().filter(|p| folder.ends_with("bin") && p.components().count() > 2);
            read.push(prefix.map_or(folder.clone(), Path::to_path_buf));
        }
        Policy {
            read,
            write: vec![scratch.to_path_buf(), "/dev/null".into()],
            exec: true,
            unix_sockets: false,
            cpu_seconds: 300,
            address_space: Some(8 << 30),
            file_size: 256 << 20,
            files: 256,
        }
    }

    /// NVRTC, a library that compiles in memory: reads its own folders, which are `read`, and writes nothing, but for its
    /// headers when it unpacks them to `write`.
    ///
    /// The heaviest kernel here takes 216 MB of memory and 385 MB of addresses. How long one compilation may take is its
    /// parent's matter, since a child does many.
    pub fn nvrtc(read: Vec<PathBuf>, write: Option<PathBuf>) -> Self {
        Policy {
            read: [libraries(), read].concat(),
            write: write.into_iter().collect(),
            exec: false,
            unix_sockets: false,
            cpu_seconds: 24 * 3600,
            address_space: Some(NVRTC_MEMORY),
            file_size: 64 << 20,
            files: 256,
        }
    }

    /// Does all that allocates or opens, so that [`Prepared::apply`] is mere system calls.
    pub fn prepare(&self) -> Prepared {
        let abi = landlock_abi();
        let ruleset = if abi > 0 { self.ruleset() } else { None };
        let limits = vec![
            (libc::RLIMIT_CORE, 0),
            (libc::RLIMIT_CPU, self.cpu_seconds),
            (libc::RLIMIT_FSIZE, self.file_size),
            (libc::RLIMIT_NOFILE, self.files),
            (libc::RLIMIT_AS, self.address_space.unwrap_or(u64::MAX)),
        ];
        let (deny, absent) = self.filters();
        Prepared { landlock_abi: abi, ruleset, filters: deny.into_iter().chain(absent).collect(), limits }
    }

    fn ruleset(&self) -> Option<RulesetCreated> {
        let (newest, all) = (ABI::V6, AccessFs::from_all(ABI::V6));
        let mut read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
        if self.exec {
            read |= AccessFs::Execute;
        }
        let built = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(all)
            .and_then(|r| r.handle_access(AccessNet::from_all(newest)))
            .and_then(|r| r.scope(Scope::from_all(newest)))
            .and_then(Ruleset::create)
            .and_then(|r| r.add_rules(path_beneath_rules(&self.read, read)))
            .and_then(|r| r.add_rules(path_beneath_rules(&self.write, all)));
        built.ok()
    }

    /// Refused with EPERM, and refused as unknown (so that libraries fall back to what can be judged).
    fn filters(&self) -> (Option<BpfProgram>, Option<BpfProgram>) {
        let mut deny: BTreeMap<i64, Vec<SeccompRule>> = FORBIDDEN.iter().map(|&call| (call, vec![])).collect();
        let not = |argument, value| {
            let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value);
            condition.and_then(|c| SeccompRule::new(vec![c])).ok()
        };
        // The local end of an existing connection is all a process needs; new sockets are how it would get out.
        let sockets = if self.unix_sockets { not(0, libc::AF_UNIX as u64).into_iter().collect() } else { vec![] };
        deny.insert(libc::SYS_socket, sockets);
        let mut absent = BTreeMap::new();
        if !self.exec {
            deny.insert(libc::SYS_execve, vec![]);
            deny.insert(libc::SYS_execveat, vec![]);
            #[cfg(target_arch = "x86_64")]
            deny.extend([(libc::SYS_fork, vec![]), (libc::SYS_vfork, vec![])]);
            // New threads, but no new processes. clone3 hides its flags behind a pointer.
            let mask = libc::CLONE_THREAD as u64;
            let condition = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), 0);
            deny.insert(libc::SYS_clone, condition.and_then(|c| SeccompRule::new(vec![c])).into_iter().collect());
            absent.insert(libc::SYS_clone3, vec![]);
        }
        (filter(deny, libc::EPERM), filter(absent, libc::ENOSYS))
    }
}

/// Ways out of a process, into the kernel or into other processes, that neither kernels nor compilers need.
const FORBIDDEN: [i64; 31] = [
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_personality,
];

fn filter(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Option<BpfProgram> {
    if rules.is_empty() {
        return None;
    }
    let arch = TargetArch::try_from(std::env::consts::ARCH).ok()?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch).ok()?;
    filter.try_into().ok()
}

/// A confinement ready to be applied to the calling thread and all it starts.
pub struct Prepared {
    landlock_abi: u32,
    ruleset: Option<RulesetCreated>,
    filters: Vec<BpfProgram>,
    limits: Vec<(libc::__rlimit_resource_t, u64)>,
}

impl Prepared {
    /// The landlock version that [`Prepared::apply`] will try to use, 0 for none.
    pub fn landlock_abi(&self) -> u32 {
        self.landlock_abi
    }

    /// Takes the confinement on, as far as the kernel lets it. For good; must run before the process has threads.
    pub fn apply(&mut self) -> Sandbox {
        // SAFETY: plain system calls on values of their types.
        let namespaces = unsafe {
            for &(resource, value) in &self.limits {
                let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                libc::getrlimit(resource, &mut now);
                let value = value.min(now.rlim_max);
                libc::setrlimit(resource, &libc::rlimit { rlim_cur: value, rlim_max: value });
            }
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            self.ruleset.is_none() && libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) == 0
        };
        let landlock = self.ruleset.take().is_some_and(|r| r.restrict_self().is_ok());
        let seccomp = !self.filters.is_empty() && self.filters.iter().all(|f| seccompiler::apply_filter(f).is_ok());
        Sandbox::new(if landlock { self.landlock_abi } else { 0 }, seccomp, namespaces)
    }
}

/// Ends this process when the *thread* that started it ends.
pub fn die_with_parent() {
    // SAFETY: a plain system call.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
}

/// The kernel's landlock version, 0 without one.
fn landlock_abi() -> u32 {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the call reads no memory.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, VERSION) };
    u32::try_from(abi).unwrap_or(0)
}

fn physical_memory() -> u64 {
    // SAFETY: queries without side effects.
    let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    u64::try_from(pages).unwrap_or(0) * u64::try_from(size).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a process may not read has no rule above it.
    fn reads(policy: &Policy, file: &str) -> bool {
        policy.read.iter().chain(&policy.write).any(|rule| Path::new(file).starts_with(rule))
    }

    #[test]
    fn nvrtc_reads_its_folders_and_writes_where_headers_are_unpacked_only() {
        let policy = Policy::nvrtc(vec!["/opt/cuda/lib64".into()], None);
        assert!(policy.write.is_empty() && !policy.exec && !policy.unix_sockets);
        assert!(policy.address_space.is_some_and(|most| most <= 4 << 30));
        for own in ["/opt/cuda/lib64/libnvrtc.so.13", "/lib/x86_64-linux-gnu/libc.so.6", "/etc/ld.so.cache"] {
            assert!(reads(&policy, own), "{own}");
        }
        let others =
            ["/root/.config/assay/host.key", "/home/me/.ssh/id_ed25519", "/tmp/seed", "/etc/passwd", "/opt/cuda"];
        for other in others {
            assert!(!reads(&policy, other), "{other}");
        }
        let here = std::env::current_dir().unwrap();
        assert!(!reads(&policy, here.join("state/ledger.jsonl").to_str().unwrap()));
        assert_eq!(Policy::nvrtc(Vec::new(), Some("/cache/13.5".into())).write, [PathBuf::from("/cache/13.5")]);
    }

    #[test]
    fn nvrtc_opens_no_connection_and_starts_nothing() {
        let (deny, absent) = Policy::nvrtc(Vec::new(), None).filters();
        let [with, without] =
            [Policy::nvrtc(Vec::new(), None), Policy::compiler(Path::new("/usr/bin/g++"), Path::new("/x"))]
                .map(|p| p.filters().0.map_or(0, |program| program.len()));
        assert!(deny.is_some() && absent.is_some(), "neither is a filter of its own");
        assert!(with > without, "a compiler that may start programs is refused less: {with} and {without}");
    }
}
