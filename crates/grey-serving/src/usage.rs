//! What a process uses, by `/proc`.

use std::{fs, path::Path};

use serde::Serialize;

/// What a process uses of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessUsage {
    /// Memory that it has in use, pages that it shares with others among them.
    pub rss_bytes: u64,
    /// Of that, memory that is no file's and not shared: what would come back if the process ended.
    pub anonymous_bytes: u64,
    /// Processor time so far.
    pub cpu_ms: u64,
}

impl ProcessUsage {
    /// Of a process of any user; `None` if it has ended. Reads `status` and `stat`, which the kernel has at
    /// hand (`smaps_rollup` walks all pages, and is closed where the process is not dumpable).
    pub fn of(pid: u32) -> Option<ProcessUsage> {
        let read = |name: &str| fs::read_to_string(Path::new("/proc").join(pid.to_string()).join(name)).ok();
        let (rss_bytes, anonymous_bytes) = memory(&read("status")?)?;
        let ticks_per_second = rustix::param::clock_ticks_per_second();
        let cpu_ms = cpu_ticks(&read("stat")?)?.saturating_mul(1000) / ticks_per_second.max(1);
        Some(ProcessUsage { rss_bytes, anonymous_bytes, cpu_ms })
    }
}

fn memory(status: &str) -> Option<(u64, u64)> {
    let bytes = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|l| l.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    };
    // A zombie has none of these lines.
    Some((bytes("VmRSS:")?, bytes("RssAnon:")?))
}

/// User and system time: fields 14 and 15 of `stat` (proc_pid_stat(5)), counted from the end of the name.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()?.saturating_add(next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        assert_eq!(memory("Name:\tx\nVmRSS:\t    2048 kB\nRssAnon:\t    1024 kB\n"), Some((2 << 20, 1 << 20)));
        assert_eq!(memory("Name:\tx\nState:\tZ (zombie)\n"), None);
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 31 11 0 0 20 0 1 0 1 2 3";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("7 (a"), None);
        let own = ProcessUsage::of(std::process::id()).unwrap();
        assert!(own.rss_bytes > own.anonymous_bytes && own.anonymous_bytes > 1 << 12, "{own:?}");
        assert_eq!(ProcessUsage::of(u32::MAX), None);
    }
}
