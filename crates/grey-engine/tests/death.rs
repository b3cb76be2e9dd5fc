//! How hosts in processes of their own end, lie and hang, and what the node makes of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::Path,
    time::Duration,
};

use grey_core::{DType, Dim, Signature, TensorSpec};
use grey_engine::{
    EngineInfo, EngineKind, Host, HostCommand, HostError, Isolation, Launcher, LoadOptions, RunError, RunOutputs,
    protocol::{FromHost, HEADER_BYTES, Header, PROTOCOL_VERSION, TensorPlace, ToHost, decode, encode},
};
use support::{HOST_GUARD, RUN_LIMIT, again, echoes, launcher, run, start, test_engine, x};

/// Which lie a process that stands in for a host is to tell.
const LIAR_GUARD: &str = "GREY_TEST_LIAR";
/// Where a process that stands in for a node writes the pid of its host.
const NODE_GUARD: &str = "GREY_TEST_NODE";
/// How often, every 20 ms, the end of a process is looked for: far more than the 2 s it may take.
const LOOKS_MAX: u32 = 500;

#[test]
fn host_entry() {
    support::become_host(test_engine::open);
}

fn processes() -> Launcher {
    launcher(Isolation::Process, test_engine::open)
}

fn command(program: &str, args: &[&str]) -> HostCommand {
    HostCommand { program: program.into(), args: args.iter().map(Into::into).collect() }
}

async fn launch_error(command: HostCommand, load_timeout: Duration) -> HostError {
    let l = Launcher { command, load_timeout, ..processes() };
    l.launch(EngineKind::OnnxRuntime, Path::new("/nowhere/libtest.so")).await.unwrap_err()
}

#[tokio::test]
async fn a_host_that_is_killed_in_a_run_is_named_with_its_signal() {
    let (host, model) = start(&processes(), "spin").await;
    let killer = host.clone();
    let (result, ()) = tokio::join!(run(&host, &model, x(&[1, 1], &[1.0])), async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let pid = rustix::process::Pid::from_raw(i32::try_from(killer.pid().unwrap()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    });
    let e = result.unwrap_err();
    assert_eq!(e.to_string(), "the engine host died: killed by signal 9 (SIGKILL)");
    assert!(matches!(e, RunError::HostDied(_)));
    let e = run(&host, &model, x(&[1, 1], &[1.0])).await.unwrap_err();
    assert!(matches!(&e, RunError::HostDied(exit) if exit.status.contains("SIGKILL")), "{e}");
}

#[tokio::test]
async fn a_host_that_aborts_leaves_its_last_words() {
    let (host, model) = start(&processes(), "abort").await;
    let e = run(&host, &model, x(&[1, 1], &[1.0])).await.unwrap_err();
    let RunError::HostDied(exit) = &e else { panic!("{e}") };
    assert_eq!(exit.status, "killed by signal 6 (SIGABRT)");
    assert!(exit.stderr.contains("the test's last words"), "{exit}");
}

#[tokio::test]
async fn a_panic_in_a_host_is_its_death() {
    let (host, model) = start(&processes(), "panic").await;
    let e = run(&host, &model, x(&[1, 1], &[1.0])).await.unwrap_err();
    assert!(matches!(&e, RunError::HostDied(exit) if exit.stderr.contains("as the test asks")), "{e}");
    let (host, model) = start(&launcher(Isolation::Inline, test_engine::open), "panic").await;
    let e = run(&host, &model, x(&[1, 1], &[1.0])).await.unwrap_err();
    assert_eq!(e.to_string(), "the engine host died: its thread panicked");
}

#[tokio::test]
async fn the_run_timeout_ends_a_host_that_spins() {
    let (host, model) = start(&processes(), "spin").await;
    let limit = Duration::from_millis(200);
    let e = host.run(model.handle, x(&[1, 1], &[1.0]), vec![0], Some(limit)).await.unwrap_err();
    let RunError::Timeout { limit: told, exit } = &e else { panic!("{e}") };
    assert_eq!((*told, exit.status.as_str()), (limit, "killed by signal 9 (SIGKILL)"));
    assert_eq!(host.exited().await, *exit);
}

/// What is hashed and what is sent are the node's own bytes, whatever the host does with its memory.
#[tokio::test]
async fn outputs_do_not_change_after_the_run() {
    // Small ones, and such that are copied into memory that is used again.
    for floats in [100usize, 100_000] {
        let (host, model) = start(&processes(), "scribble").await;
        let mut seen = Vec::new();
        for _ in 0..5 {
            let out = run(&host, &model, x(&[1, floats as u64], &vec![0.5; floats])).await.unwrap();
            let data = out.outputs[0].data.clone();
            seen.push((data.to_vec(), data));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(seen.iter().all(|(then, now)| then == now));
        assert!(seen.windows(2).any(|w| w[0].0 != w[1].0), "the host did write meanwhile");
    }
}

#[tokio::test]
async fn dropping_the_last_clone_ends_the_process() {
    let (host, _) = start(&processes(), "identity").await;
    let pid = host.pid().unwrap();
    drop(host.clone());
    assert!(alive(pid));
    drop(host);
    ended(pid).await;
}

#[tokio::test]
async fn a_host_that_never_greets_is_an_error() {
    let long = Duration::from_secs(30);
    let e = launch_error(command("/bin/sh", &["-c", "echo no runtime here >&2; exit 7"]), long).await;
    assert!(matches!(&e, HostError::Died(x) if x.status == "exit code 7" && x.stderr == "no runtime here"), "{e}");
    let e = launch_error(command("/bin/sh", &["-c", "kill -SEGV $$"]), long).await;
    assert!(e.to_string().contains("killed by signal 11 (SIGSEGV)"), "{e}");
    let e = launch_error(command("/nowhere/program", &[]), long).await;
    assert!(matches!(&e, HostError::System { .. }) && e.to_string().starts_with("start an engine host"), "{e}");
    let e = launch_error(command("/bin/sh", &["-c", "exec sleep 1000"]), Duration::from_millis(200)).await;
    assert!(matches!(&e, HostError::TooSlow { what: "greet its node", .. }), "{e}");
    // Closes its socket early but lives on.
    let e = launch_error(command("/bin/sh", &["-c", "exec 0<&-; exec sleep 1000"]), long).await;
    assert!(matches!(&e, HostError::Died(x) if x.status.contains("SIGKILL")), "{e}");
}

#[tokio::test]
async fn standard_error_without_end_is_bounded() {
    let e = launch_error(command("/bin/sh", &["-c", "head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 1"]), RUN_LIMIT)
        .await;
    let HostError::Died(exit) = &e else { panic!("{e}") };
    assert!(exit.stderr.len() <= 20 * 2003, "{} bytes kept", exit.stderr.len());
}

// ---- Hosts that lie ----

fn info() -> EngineInfo {
    EngineInfo {
        engine: "liar".into(),
        version: "0".into(),
        library: "/nowhere".into(),
        library_sha256: String::new(),
        devices: Vec::new(),
        utf8_strings: false,
    }
}

fn receive(socket: &mut UnixStream) -> Option<ToHost> {
    let mut header = [0; HEADER_BYTES];
    socket.read_exact(&mut header).ok()?;
    let mut payload = vec![0; Header::parse(header).unwrap().len];
    socket.read_exact(&mut payload).unwrap();
    Some(decode(&payload).unwrap())
}

/// Stands in for a host: honest until the moment of its lie.
#[test]
fn liar_entry() {
    let Ok(lie) = std::env::var(LIAR_GUARD) else { return };
    let mut socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let say = |socket: &mut UnixStream, m: &FromHost| {
        // The node hangs up when it has seen the lie.
        if socket.write_all(&encode(m, 0).unwrap()).is_err() {
            std::process::exit(0);
        }
    };
    while let Some(message) = receive(&mut socket) {
        match message {
            ToHost::Init { .. } => match lie.as_str() {
                "garbage first" => socket.write_all(&[0xAB; 4096]).unwrap(),
                "wrong first" => say(
                    &mut socket,
                    &FromHost::Failed { run: 0, kind: grey_engine::protocol::FailKind::Model, message: String::new() },
                ),
                _ => say(&mut socket, &FromHost::Hello { engine: info(), containment: BTreeMap::new() }),
            },
            ToHost::Load { model, .. } => {
                let spec = |name: &str| TensorSpec {
                    name: name.into(),
                    datatype: DType::Fp32,
                    shape: vec![Dim::Any, Dim::Any],
                };
                let honest = Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] };
                let signature = match lie.as_str() {
                    "signature" => "{".to_owned(),
                    _ => serde_json::to_string(&honest).unwrap(),
                };
                let mut determinism = test_engine::determinism(&LoadOptions::default());
                match lie.as_str() {
                    "long reason" => determinism.reason = "r".repeat(1 << 20),
                    "long switch" => determinism.switches = vec!["s".repeat(1 << 20)],
                    "many switches" => determinism.switches = (0..100_000).map(|n| format!("{n:06}")).collect(),
                    "switches unordered" => determinism.switches = vec!["b".into(), "a".into()],
                    "precision" => determinism.precision = "fp32\n".into(),
                    _ => {}
                }
                let model = if lie == "handle" { grey_engine::ModelHandle(77) } else { model };
                say(&mut socket, &FromHost::Ready { model, signature, determinism, memory_bytes: 0 });
            }
            ToHost::Run { run, output_segment, .. } => {
                let truth = TensorPlace {
                    index: 0,
                    dtype: DType::Fp32,
                    shape: vec![1, 1],
                    segment: output_segment,
                    offset: 0,
                    len: 4,
                };
                let done = |outputs| FromHost::Done { run, outputs, nanos: 0 };
                let changed = |change: fn(&mut TensorPlace)| {
                    let mut place = truth.clone();
                    change(&mut place);
                    done(vec![place])
                };
                let told = match lie.as_str() {
                    "offset" => changed(|p| p.offset = 1 << 40),
                    "offset wraps" => changed(|p| p.offset = u64::MAX - 1),
                    "offset at the end" => changed(|p| p.offset = (64 << 10) - 3),
                    "length" => changed(|p| p.len = 8),
                    "shape" => changed(|p| p.shape = vec![1 << 33, 1 << 33]),
                    "large" => changed(|p| (p.shape, p.len) = (vec![1 << 40], 1 << 42)),
                    "segment" => changed(|p| p.segment = 999),
                    "type" => changed(|p| p.dtype = DType::Int32),
                    "bytes" => changed(|p| (p.dtype, p.len) = (DType::Bytes, 4096)),
                    "index" => changed(|p| p.index = u32::MAX),
                    "nothing" => done(Vec::new()),
                    "twice" => done(vec![truth.clone(), truth]),
                    "another run" => FromHost::Done { run: run + 1, outputs: vec![truth], nanos: 0 },
                    "load again" => FromHost::LoadFailed { model: grey_engine::ModelHandle(1), message: String::new() },
                    "version" => {
                        let mut frame = encode(&done(vec![truth]), 0).unwrap();
                        frame[4..6].copy_from_slice(&(PROTOCOL_VERSION + 1).to_le_bytes());
                        socket.write_all(&frame).unwrap();
                        continue;
                    }
                    "giant frame" => {
                        let [v0, v1] = PROTOCOL_VERSION.to_le_bytes();
                        socket.write_all(&[255, 255, 255, 255, v0, v1, 0, 0]).unwrap();
                        continue;
                    }
                    "trailing bytes" => {
                        let mut frame = encode(&done(vec![truth]), 0).unwrap();
                        frame[0] += 1;
                        frame.push(0);
                        socket.write_all(&frame).unwrap();
                        continue;
                    }
                    "half a frame" => {
                        socket.write_all(&encode(&done(vec![truth]), 0).unwrap()[..9]).unwrap();
                        return;
                    }
                    "endless memory" => loop {
                        say(&mut socket, &FromHost::NeedSegment { run, bytes: 1 });
                        receive(&mut socket);
                    },
                    "impossible memory" => loop {
                        say(&mut socket, &FromHost::NeedSegment { run, bytes: u64::MAX });
                        receive(&mut socket);
                    },
                    other => panic!("no such lie: {other}"),
                };
                say(&mut socket, &told);
            }
            ToHost::Segment { .. } | ToHost::Cancel { .. } | ToHost::Unload { .. } => {}
        }
    }
}

async fn lied_to(lie: &str) -> (Host, Result<RunOutputs, RunError>) {
    let l = Launcher { command: again("liar_entry", &[(LIAR_GUARD, lie)]), ..processes() };
    let (host, model) = start(&l, "anything").await;
    let result = run(&host, &model, x(&[1, 1], &[1.0])).await;
    (host, result)
}

#[tokio::test]
async fn a_host_that_lies_in_a_run_is_ended() {
    let lies = [
        ("offset", "not possible"),
        ("offset wraps", "not possible"),
        ("offset at the end", "not possible"),
        ("length", "not possible"),
        ("shape", "not possible"),
        ("large", "not possible"),
        ("segment", "not possible"),
        ("type", "output 0 is INT32, but the model declares FP32"),
        ("bytes", "output 0 is BYTES, but the model declares FP32"),
        ("index", "output 0 is missing"),
        ("nothing", "output 0 is missing"),
        ("twice", "output 0 came twice"),
        ("another run", "another run"),
        ("load again", "another run"),
        ("version", "speaks host protocol"),
        ("giant frame", "4294967295 bytes"),
        ("trailing bytes", "1 bytes follow the message"),
        ("endless memory", "does not stop asking"),
        ("impossible memory", "does not stop asking"),
    ];
    for (lie, says) in lies {
        let (host, result) = lied_to(lie).await;
        let e = result.unwrap_err();
        let RunError::HostDied(exit) = &e else { panic!("{lie}: {e}") };
        assert!(exit.status.starts_with("it broke the protocol and was ended: "), "{lie}: {e}");
        assert!(exit.status.contains(says), "{lie}: {e}");
        ended(host.pid().unwrap()).await;
    }
    let (_, result) = lied_to("half a frame").await;
    assert!(matches!(result, Err(RunError::HostDied(_))), "{result:?}");
}

#[tokio::test]
async fn a_host_that_lies_before_a_run_is_ended() {
    for (lie, says) in [("garbage first", "host protocol"), ("wrong first", "greeting")] {
        let e = launch_error(again("liar_entry", &[(LIAR_GUARD, lie)]), RUN_LIMIT).await;
        assert!(matches!(&e, HostError::Protocol(m) if m.contains(says)), "{lie}: {e}");
    }
    let lies = [
        ("signature", "signature cannot be read"),
        ("handle", "something else"),
        ("long reason", "a reason of 1048576 bytes"),
        ("long switch", "a switch of 1048576 bytes"),
        ("many switches", "100000 switches"),
        ("switches unordered", "not strictly ascending"),
        ("precision", "a precision with a control character"),
    ];
    for (lie, says) in lies {
        let l = Launcher { command: again("liar_entry", &[(LIAR_GUARD, lie)]), ..processes() };
        let host = l.launch(EngineKind::OnnxRuntime, Path::new("/nowhere/libtest.so")).await.unwrap();
        let e = host.load(support::sealed("m", b"m"), Default::default()).await.unwrap_err();
        assert!(matches!(&e, HostError::Protocol(m) if m.contains(says)), "{lie}: {e}");
        ended(host.pid().unwrap()).await;
    }
}

// ---- A node that dies ----

/// Stands in for a node: starts a host, tells its pid, and runs a model that never ends.
#[test]
fn node_entry() {
    let Some(tell) = std::env::var_os(NODE_GUARD) else { return };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let l = Launcher { command: again("host_entry", &[(HOST_GUARD, "1")]), ..processes() };
        let (host, model) = start(&l, "spin").await;
        let spinning = host.run(model.handle, x(&[1, 1], &[1.0]), vec![0], None);
        let telling = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let unfinished = Path::new(&tell).with_extension("part");
            std::fs::write(&unfinished, host.pid().unwrap().to_string()).unwrap();
            std::fs::rename(unfinished, &tell).unwrap();
        };
        let (ended, ()) = tokio::join!(spinning, telling);
        panic!("{ended:?}");
    });
}

#[tokio::test]
async fn a_host_that_hangs_ends_with_its_node() {
    let dir = tempfile::tempdir().unwrap();
    let tell = dir.path().join("pid");
    let node = again("node_entry", &[(NODE_GUARD, tell.to_str().unwrap())]);
    let mut node = std::process::Command::new(node.program).args(node.args).spawn().unwrap();
    let mut host = None;
    for _ in 0..LOOKS_MAX {
        if let Ok(text) = std::fs::read_to_string(&tell) {
            host = Some(text.parse().unwrap());
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let host = host.expect("the node started no host");
    assert!(alive(host));
    node.kill().unwrap();
    node.wait().unwrap();
    ended(host).await;
}

/// Whether a process runs; one that ended and that nobody has collected does not.
fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

async fn ended(pid: u32) {
    for _ in 0..LOOKS_MAX {
        if !alive(pid) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("process {pid} lives on");
}

#[tokio::test]
async fn a_second_host_is_not_touched_by_the_death_of_the_first() {
    let (first, _) = start(&processes(), "identity").await;
    let (second, model) = start(&processes(), "identity").await;
    first.kill();
    first.exited().await;
    echoes(&second, &model, &[1.0]).await;
}
