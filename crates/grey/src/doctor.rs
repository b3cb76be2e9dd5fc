//! `grey doctor`: what works on this machine, and what to do about what does not.

use std::{
    net::{TcpListener, ToSocketAddrs as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use clap::Args;
use grey_engine::contain;
use grey_registry::DataFolder;
use grey_server::{NodeConfig, config::CONNECTIONS_MAX_DEFAULT};
use grey_serving::{Machine, api::EngineReport};
use rustix::{
    fs::{Access, MemfdFlags, SealFlags},
    process::{PidfdFlags, Resource, getpid, getrlimit, pidfd_open},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    EXIT_OK, EXIT_REFUSED, HostContext,
    client::Client,
    engine::python,
    failure::Failure,
    local,
    running::default_data,
    verbs::{print, print_json, text},
};

/// Free space of a disk below which a warning is due: about what one model of today has.
const DISK_BYTES_WARN: u64 = 2 << 30;
/// Memory below which a warning is due: a runtime and a small model need some hundred MiB.
const MEMORY_BYTES_WARN: u64 = 1 << 30;
/// The version of Landlock's interface that holds files, TCP, signals and abstract sockets.
const LANDLOCK_FULL: u32 = 6;

#[derive(Debug, Args)]
#[command(
    after_help = "Each line is ok, a warning (it works, but worse), or missing. Exit code 0 if a node could serve a \
                  model here, 1 if not.\n\nExamples:\n  grey doctor\n  grey doctor --data ./data --http 0.0.0.0:9000 --json"
)]
pub(crate) struct DoctorArgs {
    /// The data folder that a node would use [default: the user's data directory]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The address that a node would listen on [default: 127.0.0.1:8000]
    #[arg(long, value_name = "HOST:PORT")]
    http: Option<String>,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// It works, but worse.
    Warning,
    /// It is not there.
    Missing,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Missing => "missing",
        }
    }
}

/// One line.
#[derive(Clone, Debug, Serialize)]
struct Check {
    group: &'static str,
    name: String,
    status: Status,
    /// What was found.
    found: String,
    /// What to do; empty if nothing.
    fix: String,
    /// Whether no model can be served unless this is ok, or a warning.
    needed: bool,
}

impl Check {
    fn new(group: &'static str, name: &str, status: Status, found: impl Into<String>) -> Check {
        Check { group, name: name.to_owned(), status, found: found.into(), fix: String::new(), needed: false }
    }

    fn ok(group: &'static str, name: &str, found: impl Into<String>) -> Check {
        Check::new(group, name, Status::Ok, found)
    }

    fn fix(mut self, fix: impl Into<String>) -> Check {
        self.fix = fix.into();
        self
    }

    fn needed(mut self) -> Check {
        self.needed = true;
        self
    }
}

/// Whether a node could serve a model.
fn serves(checks: &[Check]) -> bool {
    checks.iter().all(|c| !c.needed || c.status != Status::Missing)
}

pub(crate) fn run(args: &DoctorArgs, context: &HostContext, json: bool) -> Result<u8, Failure> {
    let config = NodeConfig::default();
    let http = args.http.clone().unwrap_or_else(|| config.http.as_str().to_owned());
    let outputs = config.to_serving().inflight_bytes_max;
    let engines = local::engines(&config, context.clone(), outputs);
    let report = local::runtime()?.block_on(engines.report());
    let mut checks = engine_checks(&report);
    checks.extend(python_checks(context));
    checks.extend(kernel_checks(&report));
    checks.extend(machine_checks(Machine::read()));
    checks.extend(device_checks(Path::new("/dev"), nvidia_smi()));
    checks.extend(tee_checks(Path::new("/")));
    checks.push(data_check(args.data.clone().or_else(default_data).as_deref()));
    checks.push(port_check(&http));
    let serves = serves(&checks);
    if json {
        print_json(&json!({"serves": serves, "checks": checks}))?;
    } else {
        print(&told(&checks, serves))?;
    }
    Ok(if serves { EXIT_OK } else { EXIT_REFUSED })
}

fn told(checks: &[Check], serves: bool) -> String {
    let width = checks.iter().map(|c| c.name.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    let mut group = "";
    for c in checks {
        if c.group != group {
            group = c.group;
            out.push_str(&format!("{}{group}\n", if out.is_empty() { "" } else { "\n" }));
        }
        let pad = " ".repeat(width.saturating_sub(c.name.chars().count()));
        out.push_str(&format!("  {:<7}  {}{pad}  {}\n", c.status.name(), c.name, c.found));
        if !c.fix.is_empty() {
            out.push_str(&format!("  {:<7}  {}  → {}\n", "", " ".repeat(width), c.fix));
        }
    }
    let lacking: Vec<&str> =
        checks.iter().filter(|c| c.needed && c.status == Status::Missing).map(|c| c.name.as_str()).collect();
    out.push_str(&if serves {
        "\na node can serve models here\n".to_owned()
    } else {
        format!("\na node cannot serve models here: {}\n", lacking.join(", "))
    });
    out
}

fn engine_checks(report: &[EngineReport]) -> Vec<Check> {
    let any = report.iter().any(|e| e.usable);
    let check = |e: &EngineReport| {
        let (version, source) = (e.version.clone().unwrap_or_default(), e.source.clone().unwrap_or_default());
        let check = match (&e.problem, e.usable) {
            (None, true) => {
                let library = e.library.clone().unwrap_or_default();
                Check::ok("engines", &e.engine, format!("{version}, {source}: {library}"))
            }
            (problem, _) => {
                // What is installed without an adapter keeps nobody from serving.
                let status = if e.install.is_none() { Status::Warning } else { Status::Missing };
                let problem = problem.clone().unwrap_or_default();
                // What to do has a line of its own.
                let install = e.install.as_ref().map(|i| format!("; install it with: {i}"));
                let problem = install.and_then(|i| problem.strip_suffix(&i).map(str::to_owned)).unwrap_or(problem);
                Check::new("engines", &e.engine, status, problem)
            }
        };
        let check = check.fix(e.install.clone().unwrap_or_default());
        if any { check } else { check.needed() }
    };
    report.iter().map(check).collect()
}

fn python_checks(context: &HostContext) -> Vec<Check> {
    const GROUP: &str = "Python, to install engines";
    let Some(python) = python::find(context) else {
        return vec![
            Check::new(GROUP, "python3", Status::Missing, "not on the search path")
                .fix("install it, e.g. apt install python3 python3-venv"),
        ];
    };
    let version = python::version(&python).unwrap_or_else(|| "does not run".to_owned());
    let mut checks = vec![Check::ok(GROUP, "python3", format!("{version}: {}", python.display()))];
    checks.push(if python::makes_environments(&python) {
        Check::ok(GROUP, "venv", "makes environments")
    } else {
        Check::new(GROUP, "venv", Status::Missing, "this Python cannot make environments").fix(python::NO_VENV_FIX)
    });
    let active = std::env::var_os("VIRTUAL_ENV").map(PathBuf::from).or_else(|| context.python_prefix.clone());
    if let Some(active) = active {
        checks.push(Check::ok(GROUP, "environment", format!("{} is active, and is looked at first", active.display())));
    }
    checks
}

fn kernel_checks(report: &[EngineReport]) -> Vec<Check> {
    const GROUP: &str = "isolation of models";
    let mut checks = Vec::new();
    let sealed = rustix::fs::memfd_create("grey-doctor", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC)
        .and_then(|fd| rustix::fs::fcntl_add_seals(fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
    let kernel = |name: &str, result: Result<(), rustix::io::Errno>, what: &str| match result {
        Ok(()) => Check::ok(GROUP, name, what).needed(),
        Err(e) => Check::new(GROUP, name, Status::Missing, format!("the kernel refuses: {e}"))
            .fix("a container's seccomp profile may forbid it; --isolation inline does without")
            .needed(),
    };
    checks.push(kernel("memfd seals", sealed, "tensors are shared with hosts, which cannot cut them off"));
    let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).map(drop);
    checks.push(kernel("pidfd", pidfd, "a host ends with its node, and is ended by it alone"));
    checks.push(match contain::landlock_version() {
        Some(v) if v >= LANDLOCK_FULL => {
            Check::ok(GROUP, "Landlock", format!("version {v}: files, TCP, signals, abstract sockets"))
        }
        Some(v) => Check::new(GROUP, "Landlock", Status::Warning, format!("version {v}: not all that it could hold"))
            .fix("Linux 6.12 or later has all of it"),
        None => Check::new(GROUP, "Landlock", Status::Missing, "models read what this user can read")
            .fix("boot a kernel of 5.13 or later with lsm=landlock,… on its command line"),
    });
    // What a real host says of the rest.
    let layers = report.iter().find(|e| e.usable).map(|e| &e.containment);
    for (layer, holds) in layers.into_iter().flatten().filter(|(l, _)| !matches!(l.as_str(), "landlock" | "seccomp")) {
        let status = if holds.starts_with("yes") { Status::Ok } else { Status::Warning };
        checks.push(Check::new(GROUP, layer, status, holds));
    }
    checks
}

fn machine_checks(machine: Machine) -> Vec<Check> {
    const GROUP: &str = "machine";
    let mut checks = vec![Check::ok(GROUP, "cores", format!("{} ({})", machine.cores, machine.cores_by))];
    checks.push(match machine.memory_bytes {
        None => Check::new(GROUP, "memory", Status::Warning, "cannot be told"),
        Some(b) => {
            let found = format!("{} MiB ({})", b >> 20, machine.memory_by);
            let status = if b < MEMORY_BYTES_WARN { Status::Warning } else { Status::Ok };
            Check::new(GROUP, "memory", status, found).fix(if status == Status::Ok {
                ""
            } else {
                "only small models fit; raise the container's limit"
            })
        }
    });
    let files = getrlimit(Resource::Nofile).maximum;
    let enough = files.is_none_or(|n| n >= CONNECTIONS_MAX_DEFAULT);
    let shown = files.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
    checks.push(if enough {
        Check::ok(GROUP, "open files", shown)
    } else {
        Check::new(GROUP, "open files", Status::Warning, format!("{shown}: that few connections at most"))
            .fix("raise the hard limit: ulimit -Hn, LimitNOFILE= of a systemd unit, or --ulimit nofile of a container")
    });
    checks
}

/// What `nvidia-smi -L` lists; `None` if there is no such program, or it fails.
fn nvidia_smi() -> Option<Vec<String>> {
    let done = Command::new("nvidia-smi").arg("-L").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let lines = String::from_utf8_lossy(&done.stdout);
    done.status.success().then(|| lines.lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect())
}

fn device_checks(dev: &Path, smi: Option<Vec<String>>) -> Vec<Check> {
    const GROUP: &str = "devices";
    let nodes = |prefix: &str| {
        let entries = std::fs::read_dir(dev).into_iter().flatten().flatten();
        let names = entries.filter_map(|e| e.file_name().into_string().ok());
        names
            .filter(|n| n.strip_prefix(prefix).is_some_and(|r| r.bytes().all(|b| b.is_ascii_digit()) && !r.is_empty()))
            .count()
    };
    let cpu_only = "this version of Grey runs models on the CPU";
    let gpu = match (smi, nodes("nvidia")) {
        (Some(gpus), _) if !gpus.is_empty() => {
            Check::new(GROUP, "GPU", Status::Warning, gpus.join("; ")).fix(format!("nothing to do: {cpu_only}"))
        }
        (_, 0) => Check::new(GROUP, "GPU", Status::Missing, format!("none; {cpu_only}")),
        (_, n) => {
            Check::new(GROUP, "GPU", Status::Warning, format!("{n} device files, and nvidia-smi does not answer"))
                .fix("check the driver with nvidia-smi")
        }
    };
    vec![Check::ok(GROUP, "CPU", std::env::consts::ARCH), gpu]
}

fn tee_checks(root: &Path) -> Vec<Check> {
    const GROUP: &str = "evidence for proofs";
    const PLACES: [(&str, &str); 4] = [
        ("configfs-tsm", "sys/kernel/config/tsm/report"),
        ("SGX", "dev/sgx_enclave"),
        ("SEV-SNP", "dev/sev-guest"),
        ("TDX", "dev/tdx_guest"),
    ];
    let mut checks = vec![Check::ok(GROUP, "SOFTWARE", "proofs are signed by the node's own key")];
    for (name, place) in PLACES {
        checks.push(if root.join(place).exists() {
            Check::new(GROUP, name, Status::Warning, format!("/{place} is there"))
                .fix("nothing to do: this version of Grey makes SOFTWARE evidence")
        } else {
            Check::new(GROUP, name, Status::Missing, format!("no /{place}"))
        });
    }
    checks
}

fn data_check(data: Option<&Path>) -> Check {
    const GROUP: &str = "a node here";
    let name = "data folder";
    let Some(path) = data else {
        return Check::new(GROUP, name, Status::Missing, "there is no home directory")
            .fix("name one with --data")
            .needed();
    };
    let shown = path.display();
    if let Some(holder) = DataFolder::holder(path) {
        return Check::ok(GROUP, name, format!("{shown}, in use by {holder}")).needed();
    }
    // It is made by the first node.
    let Some(there) =
        path.ancestors().map(|a| if a.as_os_str().is_empty() { Path::new(".") } else { a }).find(|p| p.exists())
    else {
        return Check::new(GROUP, name, Status::Missing, format!("{shown}: no folder above it")).needed();
    };
    if !there.is_dir() {
        let found = format!("{shown}: {} is no folder", there.display());
        return Check::new(GROUP, name, Status::Missing, found).fix("name another one with --data").needed();
    }
    if let Err(e) = rustix::fs::access(there, Access::WRITE_OK | Access::EXEC_OK) {
        return Check::new(GROUP, name, Status::Missing, format!("{shown}: cannot write to {}: {e}", there.display()))
            .fix("name another one with --data, or give it to this user")
            .needed();
    }
    let free = rustix::fs::statvfs(there).map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize));
    if free < DISK_BYTES_WARN {
        return Check::new(GROUP, name, Status::Warning, format!("{shown}, {} MiB free", free >> 20))
            .fix("make room, or name a folder on another disk with --data")
            .needed();
    }
    Check::ok(GROUP, name, format!("{shown}, {} GiB free", free >> 30)).needed()
}

fn port_check(http: &str) -> Check {
    const GROUP: &str = "a node here";
    let name = "address";
    let addresses = match http.to_socket_addrs() {
        Ok(a) => a.collect::<Vec<_>>(),
        Err(e) => {
            return Check::new(GROUP, name, Status::Missing, format!("'{http}' is no address: {e}"))
                .fix("an address looks like 127.0.0.1:8000")
                .needed();
        }
    };
    match TcpListener::bind(&addresses[..]) {
        Ok(_) => Check::ok(GROUP, name, format!("{http} is free")),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            // Somebody listens: a node, perhaps.
            let asked = Client::brief(&format!("http://{http}")).get("/grey/v1/node");
            match asked.ok().filter(|node| text(node, "name") == "grey") {
                Some(node) => Check::ok(GROUP, name, format!("grey {} runs at {http}", text(&node, "version"))),
                None => Check::new(GROUP, name, Status::Warning, format!("{http} is taken by another program"))
                    .fix("listen elsewhere: grey serve --http 127.0.0.1:PORT"),
            }
        }
        Err(e) => Check::new(GROUP, name, Status::Warning, format!("cannot listen on {http}: {e}"))
            .fix("listen elsewhere: grey serve --http 127.0.0.1:PORT"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_evidence_are_told_by_their_files() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        };
        let status = |checks: &[Check], name: &str| checks.iter().find(|c| c.name == name).unwrap().status;
        let dev = root.path().join("dev");
        assert_eq!(status(&device_checks(&dev, None), "GPU"), Status::Missing);
        assert!(tee_checks(root.path())[1..].iter().all(|c| c.status == Status::Missing));
        put("dev/nvidia0");
        put("dev/nvidiactl");
        put("dev/sev-guest");
        let gpu = device_checks(&dev, None);
        assert!(gpu[1].found.starts_with("1 device files"), "{gpu:?}");
        assert_eq!(device_checks(&dev, Some(vec!["GPU 0: X".into()]))[1].found, "GPU 0: X");
        assert_eq!(status(&tee_checks(root.path()), "SEV-SNP"), Status::Warning);
    }

    #[test]
    fn data_folders() {
        let dir = tempfile::tempdir().unwrap();
        let new = data_check(Some(&dir.path().join("a/b")));
        assert_ne!(new.status, Status::Missing, "{new:?}");
        assert!(!dir.path().join("a").exists(), "nothing is made");
        std::fs::write(dir.path().join("f"), b"").unwrap();
        let file = data_check(Some(&dir.path().join("f/x")));
        assert!(file.status == Status::Missing && file.found.contains("/f is no folder"), "{file:?}");
        let held = DataFolder::open(&dir.path().join("d")).unwrap();
        assert!(data_check(Some(held.path())).found.contains("in use by another node (process "));
        assert_eq!(data_check(None).status, Status::Missing);
    }

    #[test]
    fn only_what_is_needed_decides() {
        let gpu = Check::new("g", "GPU", Status::Missing, "");
        let disk = Check::new("g", "data", Status::Missing, "none").fix("do").needed();
        assert!(serves(std::slice::from_ref(&gpu)));
        assert!(!serves(&[gpu.clone(), disk.clone()]));
        let text = told(&[gpu, disk], false);
        assert_eq!(
            text,
            "g\n  missing  GPU   \n  missing  data  none\n                 → do\n\na node cannot serve models here: data\n"
        );
    }

    #[test]
    fn a_taken_port_is_a_warning() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = taken.local_addr().unwrap().to_string();
        // Nobody answers there: the question ends all the same.
        let check = port_check(&at);
        assert!(check.status == Status::Warning && check.found.ends_with("taken by another program"), "{check:?}");
        drop(taken);
        assert_eq!(port_check(&at).status, Status::Ok);
        assert_eq!(port_check("nonsense").status, Status::Missing);
    }
}
