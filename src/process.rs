//! What the system says of a process: /proc/PID/stat (proc(5)).

use std::time::Duration;

/// One process, as it was when it was looked at.
pub struct Stat(Vec<String>);

impl Stat {
    /// None where there is no process of this number.
    pub fn of(pid: u32) -> Option<Stat> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // A program's name may hold anything, a parenthesis too.
        Some(Stat(text.rsplit_once(')')?.1.split_whitespace().map(str::to_string).collect()))
    }

    /// By its number in proc(5), where the state is field 3.
    fn field(&self, number: usize) -> Option<&str> {
        self.0.get(number.checked_sub(3)?).map(String::as_str)
    }

    /// Whether it has ended, and its parent has not looked yet.
    pub fn ended(&self) -> bool {
        self.field(3).is_some_and(|state| matches!(state, "Z" | "X" | "x"))
    }

    /// When it began, in ticks since the system started: tells it from a later one of its number.
    pub fn began(&self) -> Option<u64> {
        self.field(22)?.parse().ok()
    }
}

/// What the processes of a group have had of the processors, with the children that they have waited for.
pub fn processor_time(group: u32) -> Duration {
    let ticks = |stat: Stat| -> Option<u64> {
        let of_group = stat.field(5)?.parse() == Ok(group);
        of_group.then(|| (14..18).map(|n| stat.field(n)?.parse::<u64>().ok()).sum())?
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|p| p.file_name().to_str()?.parse().ok());
    let total: u64 = numbers.filter_map(Stat::of).filter_map(ticks).sum();
    // SAFETY: asks for a constant of the system.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1);
    Duration::from_secs_f64(total as f64 / per_second as f64)
}
