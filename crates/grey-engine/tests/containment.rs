//! What a contained process cannot do any more. Containment cannot be undone, so each case runs in
//! this test binary started again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{
    io::ErrorKind,
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
};

use grey_engine::contain::{self, Limits};

/// Set in the process that contains itself: the folder that stands for the runtime's.
const GUARD: &str = "GREY_TEST_CONTAINED";
const PORT: &str = "GREY_TEST_PORT";
const DATA_BYTES: u64 = 8 << 30;

#[test]
fn contained_entry() {
    let Some(folder) = std::env::var_os(GUARD).map(PathBuf::from) else { return };
    let port: u16 = std::env::var(PORT).unwrap().parse().unwrap();
    let (library, model) = (folder.join("runtime/lib.so"), folder.join("model"));
    TcpStream::connect(("127.0.0.1", port)).expect("before, the listener can be reached");
    let limits = Limits { data_bytes: Some(DATA_BYTES), readable: vec![model.clone()] };
    let report = contain::apply(&limits, &library);
    for layer in ["no_new_privs", "not_dumpable", "descriptors"] {
        assert_eq!(report[layer], "yes", "{layer}");
    }
    assert_eq!(report["limits"], "yes (private memory 8192 MiB, no core dumps, 1024 open files)");
    assert!(report["landlock"].starts_with("yes"), "this kernel cannot contain hosts: {}", report["landlock"]);

    let denied = |what: &str, result: std::io::Result<()>| {
        let kind = result.map_err(|e| e.kind());
        assert_eq!(kind, Err(ErrorKind::PermissionDenied), "{what}");
    };
    denied("read /etc/passwd", std::fs::read("/etc/passwd").map(drop));
    denied("list the home folder", std::fs::read_dir(std::env::var_os("HOME").unwrap()).map(drop));
    denied("list the root", std::fs::read_dir("/").map(drop));
    denied("read beside its folders", std::fs::read(folder.join("secret")).map(drop));
    denied("climb out of them", std::fs::read(model.join("../secret")).map(drop));
    denied("follow a link out of them", std::fs::read(model.join("link")).map(drop));
    denied(
        "read its node's environment",
        std::fs::read(format!("/proc/{}/environ", std::os::unix::process::parent_id())).map(drop),
    );
    denied("write to /tmp", std::fs::write(std::env::temp_dir().join("grey-contained"), "x"));
    denied("write to the model", std::fs::write(model.join("weights"), "x"));
    denied("remove the model", std::fs::remove_file(model.join("weights")));
    denied("run a program outside", Command::new(folder.join("secret")).status().map(drop));
    denied("connect", TcpStream::connect(("127.0.0.1", port)).map(drop));
    denied("listen", TcpListener::bind(("127.0.0.1", 0)).map(drop));
    let parent = rustix::process::getppid().unwrap();
    let signal = rustix::process::test_kill_process(parent).map_err(std::io::Error::from);
    denied("signal its node", signal);

    assert_eq!(std::fs::read(&library).unwrap(), b"runtime");
    assert_eq!(std::fs::read(model.join("weights")).unwrap(), b"weights");
    std::fs::write("/dev/null", "x").unwrap();
    std::fs::read("/proc/self/status").unwrap();
    std::thread::spawn(move || denied("read in a later thread", std::fs::read("/etc/passwd").map(drop)))
        .join()
        .unwrap();

    let status = std::fs::read_to_string("/proc/self/limits").unwrap();
    let limit = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(limit("Max core file size"), "0");
    assert_eq!(limit("Max data size"), DATA_BYTES.to_string());
    assert_eq!(limit("Max file size"), (64 << 20).to_string());
}

#[test]
fn a_contained_process_reaches_its_own_folders_alone() {
    let dir = tempfile::tempdir().unwrap();
    let put = |path: &str, content: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    put("runtime/lib.so", "runtime");
    put("model/weights", "weights");
    put("secret", "secret");
    std::os::unix::fs::symlink(dir.path().join("secret"), dir.path().join("model/link")).unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let command = support::again("contained_entry", &[(GUARD, dir.path().to_str().unwrap()), (PORT, &port)]);
    let out = Command::new(command.program).args(command.args).output().unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(String::from_utf8_lossy(&out.stdout).contains("1 passed"), "the contained test did not run");
    assert_eq!(std::fs::read(dir.path().join("model/weights")).unwrap(), b"weights");
}
