//! What this process may use of the machine: the processor affinity and the limits of its cgroup, of both
//! versions and of all groups above it.

use std::{
    fmt,
    path::{Component, Path, PathBuf},
};

/// Most groups above one another that are looked at: the kernel itself nests fewer.
const GROUPS_DEPTH_MAX: usize = 64;

/// What this process may use of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Cores, rounded up from a quota; at least 1.
    pub cores: u32,
    /// What says so.
    pub cores_by: LimitedBy,
    /// Bytes of memory, if it can be told.
    pub memory_bytes: Option<u64>,
    /// What says so.
    pub memory_by: LimitedBy,
}

/// What sets a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitedBy {
    /// What there is.
    Machine,
    /// The cores on which this process may run (`taskset`, cpusets).
    Affinity,
    /// A file of a cgroup.
    Cgroup(PathBuf),
}

impl fmt::Display for LimitedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LimitedBy::Machine => f.write_str("the machine"),
            LimitedBy::Affinity => f.write_str("processor affinity"),
            LimitedBy::Cgroup(file) => write!(f, "cgroup: {}", file.display()),
        }
    }
}

impl Machine {
    /// Looks at this process.
    pub fn read() -> Machine {
        let of_machine = rustix::thread::sched_getaffinity(None).ok().map(|set| set.count());
        Machine::read_under(Path::new("/"), of_machine.unwrap_or(1))
    }

    /// The same with `/proc` and `/sys` under another root, and so many cores by affinity.
    fn read_under(root: &Path, affinity: u32) -> Machine {
        let text = |path: &Path| std::fs::read_to_string(path).ok();
        let proc_text = |name: &str| text(&root.join("proc").join(name));
        let (mut cores, mut cores_by) = (u64::from(affinity.max(1)), LimitedBy::Machine);
        if proc_text("cpuinfo").is_some_and(|t| processors(&t) > cores) {
            cores_by = LimitedBy::Affinity;
        }
        let (mut memory, mut memory_by) = (proc_text("meminfo").as_deref().and_then(meminfo_total), LimitedBy::Machine);
        let (groups, mounts) =
            (proc_text("self/cgroup").unwrap_or_default(), proc_text("self/mountinfo").unwrap_or_default());
        for Hierarchy { version, mounted, group } in hierarchies(&groups, &mounts) {
            let mounted = under(root, &mounted);
            // Limits of every group above hold, too; each file is absent where a group has no such limit.
            let dir = mounted.join(&group);
            let above = dir.ancestors().take_while(|d| d.starts_with(&mounted)).take(GROUPS_DEPTH_MAX);
            for dir in above {
                let (quota_file, quota) = match version {
                    Version::V2 => {
                        let file = dir.join("cpu.max");
                        let quota = text(&file).as_deref().and_then(cpu_max);
                        (file, quota)
                    }
                    Version::V1 => {
                        let file = dir.join("cpu.cfs_quota_us");
                        let quota =
                            text(&file).and_then(|q| cores_of(q.trim(), &text(&dir.join("cpu.cfs_period_us"))?));
                        (file, quota)
                    }
                };
                if let Some(n) = quota.filter(|n| *n < cores) {
                    (cores, cores_by) = (n, LimitedBy::Cgroup(quota_file));
                }
                let file = dir.join(match version {
                    Version::V2 => "memory.max",
                    Version::V1 => "memory.limit_in_bytes",
                });
                let limit = text(&file).and_then(|t| t.trim().parse::<u64>().ok());
                if let Some(bytes) = limit.filter(|b| memory.is_none_or(|all| *b < all)) {
                    (memory, memory_by) = (Some(bytes), LimitedBy::Cgroup(file));
                }
            }
        }
        Machine { cores: u32::try_from(cores).unwrap_or(u32::MAX), cores_by, memory_bytes: memory, memory_by }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// A mounted hierarchy of groups, and this process's group in it.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    version: Version,
    mounted: PathBuf,
    /// Relative to where it is mounted.
    group: PathBuf,
}

/// The hierarchies that limit cores or memory, from `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn hierarchies(groups: &str, mounts: &str) -> Vec<Hierarchy> {
    let mut all = Vec::new();
    for mount in mounts.lines().filter_map(Mount::parse) {
        let (version, group) = match mount.kind {
            "cgroup2" => (Version::V2, group_of(groups, |controllers| controllers.is_empty())),
            "cgroup" => {
                let of_mount = |c: &str| mount.options.split(',').any(|o| o == c && matches!(c, "cpu" | "memory"));
                (Version::V1, group_of(groups, |controllers| controllers.split(',').any(of_mount)))
            }
            _ => continue,
        };
        let Some(group) = group else { continue };
        let group = Path::new(group);
        // In a container without a namespace of its own for groups the path is the host's, and what is
        // mounted begins somewhere on it; a path that leads elsewhere is seen as the mount's own root.
        let inside = group.strip_prefix(&mount.root).unwrap_or(Path::new(""));
        let is_below = inside.components().all(|c| matches!(c, Component::Normal(_)));
        let group = if is_below { inside.to_owned() } else { PathBuf::new() };
        all.push(Hierarchy { version, mounted: mount.point, group });
    }
    all
}

/// The path of the group with these controllers: lines of `number:controllers:path`.
fn group_of(groups: &str, is_it: impl Fn(&str) -> bool) -> Option<&str> {
    groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        is_it(controllers).then_some(path)
    })
}

/// A line of `mountinfo` (proc(5)): `id parent dev root point options [fields…] - type source super-options`.
struct Mount<'a> {
    root: PathBuf,
    point: PathBuf,
    kind: &'a str,
    options: &'a str,
}

impl Mount<'_> {
    fn parse(line: &str) -> Option<Mount<'_>> {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, point) = (unescaped(fields.next()?), unescaped(fields.next()?));
        let mut after = after.split(' ');
        let kind = after.next()?;
        Some(Mount { root: root.into(), point: point.into(), kind, options: after.nth(1).unwrap_or_default() })
    }
}

/// `mountinfo` writes blanks and backslashes as octal numbers.
fn unescaped(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(field.to_owned(), |text, (written, meant)| text.replace(written, meant))
}

fn under(root: &Path, absolute: &Path) -> PathBuf {
    root.join(absolute.strip_prefix("/").unwrap_or(absolute))
}

/// `cpu.max` holds `quota period` in microseconds, or `max period`.
fn cpu_max(text: &str) -> Option<u64> {
    let (quota, period) = text.trim().split_once(' ')?;
    cores_of(quota, period)
}

/// Cores of a quota per period; none for `max`, and for -1, which version 1 has for no quota.
fn cores_of(quota: &str, period: &str) -> Option<u64> {
    let (quota, period) = (quota.parse::<u64>().ok()?, period.trim().parse::<u64>().ok()?);
    Some(quota.div_ceil(period.max(1)).max(1))
}

fn meminfo_total(text: &str) -> Option<u64> {
    let kib: u64 = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

fn processors(cpuinfo: &str) -> u64 {
    cpuinfo.lines().filter(|l| l.starts_with("processor")).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const V2_MOUNT: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    /// A recorded tree: `/proc` and the files of groups, under a folder that goes with the test.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(groups: &str, mounts: &str) -> Tree {
            let tree = Tree(tempfile::tempdir().unwrap());
            tree.put("proc/self/cgroup", groups).put("proc/self/mountinfo", mounts);
            tree.put("proc/meminfo", "MemTotal:       16777216 kB\nMemFree:  1 kB\n");
            tree.put("proc/cpuinfo", &"processor\t: 0\nmodel\t: x\n\n".repeat(8));
            tree
        }

        fn put(&self, path: &str, text: &str) -> &Tree {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
            self
        }

        fn cores(&self, affinity: u32) -> (u32, String) {
            let m = Machine::read_under(self.0.path(), affinity);
            (m.cores, self.by(&m.cores_by))
        }

        fn memory(&self) -> (Option<u64>, String) {
            let m = Machine::read_under(self.0.path(), 8);
            (m.memory_bytes, self.by(&m.memory_by))
        }

        fn by(&self, by: &LimitedBy) -> String {
            by.to_string().replace(&format!("{}/", self.0.path().display()), "/")
        }
    }

    #[test]
    fn without_limits_it_is_the_machine() {
        let tree = Tree::new("0::/user.slice\n", V2_MOUNT);
        tree.put("sys/fs/cgroup/user.slice/cpu.max", "max 100000\n");
        tree.put("sys/fs/cgroup/user.slice/memory.max", "max\n");
        assert_eq!(tree.cores(8), (8, "the machine".into()));
        assert_eq!(tree.cores(3), (3, "processor affinity".into()));
        assert_eq!(tree.memory(), (Some(16 * GIB), "the machine".into()));
        // Nothing can be read at all.
        let nothing = Machine::read_under(Path::new("/nonexistent"), 2);
        assert_eq!((nothing.cores, nothing.memory_bytes), (2, None));
    }

    #[test]
    fn version_2_counts_on_the_whole_path_upward() {
        let tree = Tree::new("0::/kubepods/pod1/box\n", V2_MOUNT);
        tree.put("sys/fs/cgroup/kubepods/pod1/box/cpu.max", "max 100000\n");
        tree.put("sys/fs/cgroup/kubepods/pod1/cpu.max", "250000 100000\n");
        tree.put("sys/fs/cgroup/kubepods/cpu.max", "600000 100000\n");
        tree.put("sys/fs/cgroup/kubepods/pod1/box/memory.max", "4294967296\n");
        tree.put("sys/fs/cgroup/kubepods/memory.max", "2147483648\n");
        assert_eq!(tree.cores(8), (3, "cgroup: /sys/fs/cgroup/kubepods/pod1/cpu.max".into()), "rounded up");
        assert_eq!(tree.cores(2), (2, "processor affinity".into()), "the least counts");
        assert_eq!(tree.memory(), (Some(2 * GIB), "cgroup: /sys/fs/cgroup/kubepods/memory.max".into()));
    }

    #[test]
    fn version_1_has_a_hierarchy_for_each() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let tree =
            Tree::new("9:name=systemd:/x\n4:memory:/docker/m\n2:cpuacct,cpu:/docker/c\n3:cpuset:/\n0::/\n", mounts);
        tree.put("sys/fs/cgroup/cpu,cpuacct/docker/c/cpu.cfs_quota_us", "150000\n");
        tree.put("sys/fs/cgroup/cpu,cpuacct/docker/c/cpu.cfs_period_us", "100000\n");
        tree.put("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
        tree.put("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
        tree.put("sys/fs/cgroup/memory/docker/m/memory.limit_in_bytes", "9223372036854771712\n");
        tree.put("sys/fs/cgroup/memory/docker/memory.limit_in_bytes", "1073741824\n");
        assert_eq!(tree.cores(8), (2, "cgroup: /sys/fs/cgroup/cpu,cpuacct/docker/c/cpu.cfs_quota_us".into()));
        assert_eq!(tree.memory(), (Some(GIB), "cgroup: /sys/fs/cgroup/memory/docker/memory.limit_in_bytes".into()));
    }

    #[test]
    fn a_container_that_sees_the_host_s_paths() {
        // The group's path is the host's, and its folder is what is mounted.
        let mounts = "32 31 0:29 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n\
                      35 31 0:32 /docker/abc /sys/fs/cgroup/memory\\040here ro - cgroup cgroup rw,memory\n";
        let tree = Tree::new("4:memory:/docker/abc/inner\n2:cpu:/docker/abc\n", mounts);
        tree.put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "400000").put("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000");
        tree.put("sys/fs/cgroup/memory here/inner/memory.limit_in_bytes", "1048576");
        assert_eq!(tree.cores(8).0, 4);
        assert_eq!(tree.memory().0, Some(1 << 20));
        // A group outside of what is mounted, as a namespace shows it.
        let tree = Tree::new("0::/../../other\n", V2_MOUNT);
        tree.put("sys/fs/cgroup/cpu.max", "100000 100000\n").put("other/cpu.max", "1 100000\n");
        assert_eq!(tree.cores(8), (1, "cgroup: /sys/fs/cgroup/cpu.max".into()));
    }

    #[test]
    fn texts_that_mean_nothing_are_no_limits() {
        assert_eq!(cpu_max("150000 100000\n"), Some(2));
        assert_eq!(cpu_max("max 100000\n"), None);
        assert_eq!(cpu_max("1000 100000"), Some(1));
        assert_eq!(cpu_max("1000 0"), Some(1000));
        for nonsense in ["", "5", "a b", "-1 100000"] {
            assert_eq!(cpu_max(nonsense), None, "{nonsense}");
        }
        assert_eq!(meminfo_total("MemTotal:       1024 kB\nMemFree: 1 kB\n"), Some(1 << 20));
        assert_eq!(meminfo_total("MemTotal: 18446744073709551615 kB\n"), None);
        assert!(Mount::parse("").is_none() && Mount::parse("1 2 3 - x").is_none());
    }

    #[test]
    fn this_machine_can_be_read() {
        let m = Machine::read();
        assert!(m.cores >= 1 && m.memory_bytes.is_some_and(|b| b > 1 << 20), "{m:?}");
        assert!(u64::from(m.cores) <= processors(&std::fs::read_to_string("/proc/cpuinfo").unwrap()));
    }
}
