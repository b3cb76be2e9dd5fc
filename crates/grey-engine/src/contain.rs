//! Containment of a host, applied by the host to itself before it opens a runtime or starts a
//! thread: models are untrusted, and what holds for the main thread holds for all later ones.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use serde::{Deserialize, Serialize};

/// Open files a host may have: a runtime needs its libraries and a few of `/proc` and `/sys`.
const OPEN_FILES_MAX: u64 = 1024;
/// Largest file that a host may write, should one be writable at all: libraries keep small ones in memory.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// First descriptor that a host has no use for when it starts.
const FIRST_FOREIGN_DESCRIPTOR: u32 = 3;

/// What every runtime reads: the loader, system libraries, the CPU's description. Absent ones are skipped.
const SYSTEM_READ: [&str; 14] = [
    "/usr",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/sys/vm",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/dev/urandom",
    "/dev/random",
];
/// What a runtime may write.
const SYSTEM_WRITE: [&str; 1] = ["/dev/null"];

/// What a host may use and read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Private memory that the process may write (`RLIMIT_DATA`: heap, anonymous mappings, data of
    /// libraries; not the segments), bytes; `None`: no limit.
    pub data_bytes: Option<u64>,
    /// Folders and files that may be read beside the runtime's own: the versions' folders.
    pub readable: Vec<PathBuf>,
}

/// A layer that holds.
const HOLDS: &str = "yes";
/// Stands before why a layer does not hold.
const MISSING: &str = "no: ";
/// Why a layer holds nowhere.
const NOT_BUILT: &str = "not built yet";

/// Whether a host's report on a layer says that this machine lacks it.
pub fn is_missing(report: &str) -> bool {
    report.strip_prefix(MISSING).is_some_and(|why| why != NOT_BUILT)
}

/// Closes every descriptor but standard input, output and error.
pub fn close_foreign_descriptors() -> io::Result<()> {
    // SAFETY: called at the start of a host, when no other descriptor is in use by this process.
    let closed = unsafe { libc::close_range(FIRST_FOREIGN_DESCRIPTOR, libc::c_uint::MAX, 0) };
    if closed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ignores the signals that tell a node to drain. A terminal and a service manager send them to the
/// node's hosts as well, which must still finish what the node lets them finish; a host's life hangs
/// on its node, not on signals.
pub fn outlive_signals_for_the_node() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: ignoring a signal runs no code of ours and is allowed at any time.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Raises this process's limit of open files as far as it may, and returns it. The usual soft limit
/// of 1024 is there for programs that use `select`.
pub fn raise_open_files() -> io::Result<u64> {
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard })?;
    Ok(hard.unwrap_or(u64::MAX))
}

/// Keeps other processes of the same user from reading this one's memory.
pub fn protect_memory() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// The version of Landlock's interface that this kernel has; `None` if there is none, or it is switched off.
pub fn landlock_version() -> Option<u32> {
    const VERSION: libc::c_long = 1;
    // SAFETY: with this flag the call takes no pointer and makes nothing: it returns a number, or an error.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0 as libc::c_long, VERSION)
    };
    u32::try_from(version).ok().filter(|v| *v > 0)
}

/// Applies every layer that the kernel has; the report says for each whether it holds, else why not.
pub fn apply(limits: &Limits, library: &Path) -> BTreeMap<String, String> {
    let mut report = BTreeMap::new();
    let mut layer = |name: &str, result: Result<String, String>| {
        report.insert(name.to_owned(), result.unwrap_or_else(|why| format!("{MISSING}{why}")));
    };
    let plain = |r: Result<(), rustix::io::Errno>| r.map(|()| HOLDS.to_owned()).map_err(|e| e.to_string());
    layer("no_new_privs", plain(rustix::thread::set_no_new_privs(true)));
    layer("not_dumpable", protect_memory().map(|()| HOLDS.to_owned()).map_err(|e| e.to_string()));
    let memory = limits.data_bytes.map_or_else(|| "unlimited".to_owned(), |b| format!("{} MiB", b >> 20));
    let limited = format!("{HOLDS} (private memory {memory}, no core dumps, {OPEN_FILES_MAX} open files)");
    layer("limits", set_limits(limits).map(|()| limited).map_err(|e| e.to_string()));
    layer("descriptors", Ok(HOLDS.to_owned()));
    layer("landlock", restrict(limits, library));
    layer("seccomp", Err(NOT_BUILT.to_owned()));
    report
}

fn set_limits(limits: &Limits) -> Result<(), rustix::io::Errno> {
    let both = |n| Rlimit { current: Some(n), maximum: Some(n) };
    setrlimit(Resource::Core, both(0))?;
    let allowed = rustix::process::getrlimit(Resource::Nofile).maximum.unwrap_or(OPEN_FILES_MAX);
    setrlimit(Resource::Nofile, both(OPEN_FILES_MAX.min(allowed)))?;
    setrlimit(Resource::Fsize, both(FILE_BYTES_MAX))?;
    if let Some(bytes) = limits.data_bytes {
        setrlimit(Resource::Data, both(bytes))?;
    }
    Ok(())
}

/// What may be read so that a library opens: the folder of packages that it belongs to, so that
/// libraries of sibling packages that it links to (CUDA's, say) are found; outside of such a folder
/// the shared libraries beside it and nothing else, since that folder may be anybody's home.
fn library_files(library: &Path) -> Vec<PathBuf> {
    let packages = |p: &&Path| p.file_name().is_some_and(|n| n == "site-packages" || n == "dist-packages");
    if let Some(root) = library.ancestors().find(packages) {
        return vec![root.to_owned()];
    }
    let shared = |name: &str| name.ends_with(".so") || name.contains(".so.");
    let beside = library.parent().into_iter().flat_map(|d| std::fs::read_dir(d).into_iter().flatten().flatten());
    let beside = beside.filter(|e| e.file_name().to_str().is_some_and(shared)).map(|e| e.path());
    beside.chain([library.to_owned()]).collect()
}

fn restrict(limits: &Limits, library: &Path) -> Result<String, String> {
    let abi = ABI::V7;
    let read: BitFlags<AccessFs> = AccessFs::from_read(abi);
    let write = AccessFs::WriteFile | AccessFs::ReadFile;
    let real = std::fs::canonicalize(library).unwrap_or_else(|_| library.to_owned());
    let readable = SYSTEM_READ
        .iter()
        .map(PathBuf::from)
        .chain(library_files(library))
        .chain(library_files(&real))
        .chain(limits.readable.iter().cloned());
    let made = || -> Result<RestrictionStatus, landlock::RulesetError> {
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::from_all(abi))?
            .scope(Scope::from_all(abi))?
            .create()?;
        for path in readable {
            if let Ok(fd) = PathFd::new(&path) {
                let access = if path.is_dir() { read } else { read & AccessFs::from_file(abi) };
                rules = rules.add_rule(PathBeneath::new(fd, access))?;
            }
        }
        for path in SYSTEM_WRITE {
            if let Ok(fd) = PathFd::new(path) {
                rules = rules.add_rule(PathBeneath::new(fd, write))?;
            }
        }
        rules.restrict_self()
    };
    let status = made().map_err(|e| e.to_string())?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok(format!("{HOLDS} (files, TCP, signals, abstract sockets)")),
        RulesetStatus::PartiallyEnforced => Ok(format!("{HOLDS}, as far as this kernel can")),
        RulesetStatus::NotEnforced => Err("this kernel has no Landlock, or it is switched off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_libraries_are_readable_beside_a_library_outside_a_wheel() {
        let in_wheel = Path::new("/v/lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime.so.1.32.0");
        assert_eq!(library_files(in_wheel), [Path::new("/v/lib/python3.11/site-packages")]);
        let home = tempfile::tempdir().unwrap();
        for name in ["libonnxruntime.so.1.32.0", "libother.so", "secret.txt", "a.sorry"] {
            std::fs::write(home.path().join(name), b"").unwrap();
        }
        let mut files = library_files(&home.path().join("libonnxruntime.so.1.32.0"));
        files.sort();
        files.dedup();
        let names: Vec<_> = files.iter().map(|f| f.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["libonnxruntime.so.1.32.0", "libother.so"]);
    }
}
