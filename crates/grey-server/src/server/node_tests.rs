//! The routes over a real node without models.

use std::{collections::BTreeMap, io::Write};

use flate2::{Compression, write::GzEncoder};
use grey_core::{ModelId, Signature, Version};
use grey_engine::{HostCommand, Isolation, Launcher, contain, discover::DiscoverEnv};
use grey_registry::{Catalog, DataFolder, Draft, FilePath};
use grey_serving::{Engines, LOAD_TIMEOUT_DEFAULT};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
};

use super::*;
use crate::config::{Address, Whole};

struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<()>>,
    _data: tempfile::TempDir,
}

async fn start(config: NodeConfig) -> Running {
    start_with(config, &[]).await
}

/// Starts over a registry with these versions of the model `m`, none of which could be loaded.
async fn start_with(mut config: NodeConfig, versions: &[&str]) -> Running {
    config.http = Address::new("127.0.0.1:0").unwrap();
    let data = tempfile::tempdir().unwrap();
    let launcher = Launcher {
        command: HostCommand { program: "/nonexistent".into(), args: vec![] },
        isolation: Isolation::Inline,
        limits: contain::Limits { data_bytes: None, readable: vec![] },
        open: grey_engine::engines::open,
        load_timeout: LOAD_TIMEOUT_DEFAULT,
        outputs_bytes_max: 1 << 30,
    };
    let engines = Engines::new(launcher, DiscoverEnv::read(None), None);
    let folder = DataFolder::open(data.path()).unwrap();
    let catalog = Catalog::open(folder.store().unwrap(), || 0).await.unwrap();
    for v in versions {
        let version = Version::new(v).unwrap();
        let mut session = catalog.begin_add(ModelId::new("m").unwrap(), Some(version)).await.unwrap();
        let body = futures_util::stream::iter([Ok(bytes::Bytes::copy_from_slice(v.as_bytes()))]);
        session.file(FilePath::new("m.onnx").unwrap(), body, 10).await.unwrap();
        let signature = Signature { inputs: vec![], outputs: vec![] };
        session.commit(Draft { engine: "onnxruntime".into(), signature, metadata: BTreeMap::new() }).await.unwrap();
    }
    let node = Node::start(config.to_serving(), folder, engines).await.unwrap();
    let server = Server::bind(&config, node).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let address = server.local_addr();
    let task = tokio::spawn(server.run(async move {
        let _ = stopped.await;
    }));
    Running { address, stop, task, _data: data }
}

async fn ask(r: &Running, method: &str, path: &str, headers: &str, body: &[u8]) -> String {
    let mut s = TcpStream::connect(r.address).await.unwrap();
    let host = if headers.contains("host:") { "" } else { "host: localhost\r\n" };
    let head = format!(
        "{method} {path} HTTP/1.1\r\n{host}{headers}content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    s.write_all(head.as_bytes()).await.unwrap();
    // The server may answer, and close, before it has read a body that it refuses.
    let _ = s.write_all(body).await;
    let mut out = Vec::new();
    let _ = s.read_to_end(&mut out).await;
    String::from_utf8(out).unwrap()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut e = GzEncoder::new(Vec::new(), Compression::fast());
    e.write_all(data).unwrap();
    e.finish().unwrap()
}

#[tokio::test]
async fn errors_have_their_codes() {
    let mut config = NodeConfig::default();
    config.limits.body_bytes_max = Whole::clamped(100_000);
    let r = start(config).await;
    let infer = "/v2/models/nope/infer";
    let empty = br#"{"inputs":[]}"#;
    let bomb = gzip(&vec![b' '; 1_000_000]);
    assert!(bomb.len() < 100_000);
    let gz = "content-encoding: gzip\r\n";
    let cut = &gzip(empty)[..10];
    for (method, path, headers, body, status, says) in [
        ("GET", "/v2", "", &b""[..], 200, "\"name\":\"grey\""),
        ("GET", "/v2/health/live", "", b"", 200, "{\"live\":true}"),
        ("GET", "/v2/health/ready", "", b"", 200, "{\"ready\":true}"),
        ("GET", "/grey/v1/models", "", b"", 200, "\"models\":[]"),
        ("GET", "/v2/models/stats", "", b"", 200, "{\"model_stats\":[]}"),
        ("POST", "/v2/repository/index", "", b"", 200, "[]"),
        ("GET", "/v2/models/nope", "", b"", 404, "nope"),
        ("GET", "/v2/models/..%2f..%2fetc", "", b"", 400, "invalid model name"),
        ("GET", "/v2/models/%ff", "", b"", 400, "path"),
        ("POST", infer, "", empty, 404, "nope"),
        ("POST", infer, "", b"{", 400, "JSON"),
        ("POST", infer, "", &[b' '; 100_001], 413, "100000 bytes"),
        ("POST", infer, gz, &gzip(empty), 404, "nope"),
        ("POST", infer, gz, &bomb, 413, "100000 bytes"),
        ("POST", infer, gz, b"nonsense", 400, "not valid gzip"),
        ("POST", infer, gz, cut, 400, "not valid gzip"),
        ("POST", infer, "content-encoding: br\r\n", empty, 415, "'br'"),
        ("POST", infer, "inference-header-content-length: -1\r\n", empty, 400, "number of bytes"),
        ("POST", infer, "inference-header-content-length: 0\r\n", empty, 404, "nope"),
        ("POST", infer, "grey-tenant: ../x\r\n", empty, 400, "Grey-Tenant"),
        ("GET", infer, "", b"", 405, "not allowed"),
        ("GET", "/v3", "", b"", 404, "unknown route"),
        ("POST", "/v2/repository/models/a/load", "", b"", 404, "'a'"),
        ("POST", "/v2/repository/models/a/unload", "", b"", 404, "'a'"),
        ("POST", "/v2/repository/r1/index", "", b"", 404, "unknown repository 'r1': this server has one repository"),
        ("POST", "/v2/repository/r1/models/a/load", "", b"{}", 404, "unknown repository 'r1'"),
        ("POST", "/v2/repository/models/models/index/load", "", b"", 404, "unknown repository 'models'"),
        ("POST", "/v2/repository/r1/models/a/unload", "", b"", 404, "leave the name out of the path"),
        ("POST", "/v2/repository/index", "", br#"{"ready":1}"#, 400, "ready is 1, expected true or false"),
        ("POST", "/v2/repository/index", "", br#"{"ready":null,"more":[1]}"#, 200, "[]"),
        ("POST", "/v2/repository/index", "", &[b'['; 1000], 400, "nested deeper than 128 levels"),
        ("POST", "/v2/repository/index", "", b"[]", 400, "expected an object"),
        ("POST", "/v2/repository/models/a/load", "", br#"{"parameters":[1]}"#, 400, "expected an object of parameters"),
        ("POST", "/grey/v1/models/a/versions/latest?file=m.onnx", "", b"x", 400, "'latest': the word is reserved"),
        ("DELETE", "/grey/v1/models/a/versions/latest", "", b"", 404, "'a'"),
        ("DELETE", "/grey/v1/models/a/versions/..", "", b"", 400, "invalid version '..'"),
        ("GET", "/v2/systemsharedmemory/status", "", b"", 200, "[]"),
        (
            "GET",
            "/v2/cudasharedmemory/region/r/status",
            "",
            b"",
            404,
            "region 'r' is registered: this server takes none",
        ),
        ("POST", "/v2/cudasharedmemory/unregister", "", b"", 200, "{}"),
        ("POST", "/v2/systemsharedmemory/region/r/unregister", "", b"", 200, "{}"),
        ("POST", "/v2/systemsharedmemory/region/r/register", "", b"{}", 501, "as binary data in the body"),
        ("GET", "/v2/trace/setting", "", b"", 200, "{\"trace_level\":[\"OFF\"]}"),
        ("POST", "/v2/trace/setting", "", br#"{"trace_level": ["OFF"], "trace_rate": null}"#, 200, "OFF"),
        ("POST", "/v2/trace/setting", "", br#"{"trace_level":["TIMESTAMPS"]}"#, 501, "setting 'trace_level'"),
        ("POST", "/v2/trace/setting", "", br#"{"log_frequency":"1"}"#, 501, "setting 'log_frequency'"),
        ("POST", "/v2/trace/setting", "", b"[]", 400, "expected an object"),
        ("GET", "/v2/models/nope/trace/setting", "", b"", 404, "nope"),
        ("POST", "/v2/models/nope/trace/setting", "", b"{}", 404, "nope"),
        ("GET", "/v2/logging", "", b"", 501, "--log FILTER"),
        ("POST", "/v2/repository/models/a/load", "", br#"{"parameters":{"config":"{}"}}"#, 403, "--allow-upload"),
        ("POST", "/v2/repository/models/a/load", "host: evil.example\r\n", b"", 403, "host 'evil.example'"),
        ("DELETE", "/grey/v1/models/a", "origin: http://evil.example\r\n", b"", 403, "origin"),
        ("GET", "/grey/v1/models/a", "origin: http://evil.example\r\n", b"", 404, "'a'"),
        ("POST", "/grey/v1/models/a", "", b"x", 400, "no 'file'"),
        ("POST", "/grey/v1/models/a?file=m.onnx&lod=true", "", b"x", 400, "'lod'"),
    ] {
        let text = ask(&r, method, path, headers, body).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path} {headers}: {text}");
        let body = text.split_once("\r\n\r\n").unwrap().1;
        assert!(body.contains(says), "{method} {path} {headers}: {text}");
        assert!(status < 400 || body.starts_with("{\"error\":\""), "{text}");
    }
    r.stop.send(()).unwrap();
    r.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_spent_budget_is_told_before_the_body_is_read() {
    let mut config = NodeConfig::default();
    config.limits.inflight_bytes_max = Some(Whole::clamped(1000));
    let r = start(config).await;
    // The bodies never come: the answers cannot have waited for them.
    let announce = async |length: usize| {
        let mut s = TcpStream::connect(r.address).await.unwrap();
        let head = format!("POST /v2/models/m/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
        s.write_all(head.as_bytes()).await.unwrap();
        s
    };
    let answer = async |mut s: TcpStream| {
        let mut text = String::new();
        s.read_to_string(&mut text).await.unwrap();
        text
    };
    let text = answer(announce(1001).await).await;
    assert!(text.starts_with("HTTP/1.1 413 ") && text.contains("inflight_bytes_max"), "no waiting helps: {text}");
    let holder = announce(900).await;
    // The holder's head is read a moment after it was sent.
    let mut text = String::new();
    for _ in 0..100 {
        text = ask(&r, "POST", "/v2/models/m/infer", "", &[b' '; 200]).await;
        if text.starts_with("HTTP/1.1 503 ") {
            break;
        }
    }
    assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    assert!(text.contains("retry-after: 1\r\n") && text.contains("inflight_bytes_max"), "{text}");
    drop(holder);
}

#[tokio::test]
async fn latest_in_a_path_is_one_version() {
    let r = start_with(NodeConfig::default(), &["1", "2", "3"]).await;
    let answer = |text: String| text.split_once("\r\n\r\n").unwrap().1.to_owned();
    let get = async |path: &str| answer(ask(&r, "GET", path, "", b"").await);
    assert!(get("/v2/models/m").await.contains(r#""versions":["1","2","3"]"#));
    assert!(get("/v2/models/m/versions/latest").await.contains(r#""versions":["3"]"#));

    let unload = ask(&r, "POST", "/grey/v1/models/m/versions/latest/unload", "", b"").await;
    assert!(unload.starts_with("HTTP/1.1 200 "), "{unload}");
    let states = async || {
        let all: serde_json::Value = serde_json::from_str(&get("/grey/v1/models").await).unwrap();
        let all = all["models"].as_array().unwrap().clone();
        all.iter().map(|m| format!("{} {}", m["version"].as_str().unwrap(), m["state"].as_str().unwrap())).collect()
    };
    let now: Vec<String> = states().await;
    assert_eq!(now, ["1 registered", "2 registered", "3 unloaded"]);

    let remove = async |path: &str| answer(ask(&r, "DELETE", path, "", b"").await);
    assert_eq!(remove("/grey/v1/models/m/versions/latest").await, r#"{"removed":["3"]}"#);
    let unload = ask(&r, "POST", "/v2/repository/models/m/unload", "", b"").await;
    assert!(unload.starts_with("HTTP/1.1 200 "), "{unload}");
    let now: Vec<String> = states().await;
    assert_eq!(now, ["1 unloaded", "2 unloaded"], "without a version all are meant");
    assert_eq!(remove("/grey/v1/models/m").await, r#"{"removed":["1","2"]}"#);
}

/// Sends all of a body before it reads, as Python's http.client does.
async fn send_all_then_read(r: &Running, head: &str, piece: &[u8], pieces: usize, tail: &[u8]) -> String {
    let mut s = TcpStream::connect(r.address).await.unwrap();
    s.write_all(format!("POST /v2/models/m/infer HTTP/1.1\r\nhost: localhost\r\n{head}\r\n").as_bytes()).await.unwrap();
    for _ in 0..pieces {
        s.write_all(piece).await.unwrap();
    }
    s.write_all(tail).await.unwrap();
    let mut text = String::new();
    s.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn a_client_that_sends_all_before_it_reads_sees_the_refusal() {
    const PIECE: usize = 1 << 20;
    // More than the system's buffers on both sides hold.
    const PIECES: usize = 48;
    let mut config = NodeConfig::default();
    config.limits.body_bytes_max = Whole::clamped((PIECES * PIECE / 3) as u64);
    let r = start(config).await;
    let length = format!("connection: close\r\ncontent-length: {}\r\n", PIECES * PIECE);
    let piece = vec![b' '; PIECE];
    let text = send_all_then_read(&r, &length, &piece, PIECES, b"").await;
    assert!(text.starts_with("HTTP/1.1 413 ") && text.contains("limits.body_bytes_max"), "{text}");
    // Refused on the way, since nothing was announced.
    let chunk = [b"100000\r\n", &piece[..], b"\r\n"].concat();
    let chunked = "connection: close\r\ntransfer-encoding: chunked\r\n";
    let text = send_all_then_read(&r, chunked, &chunk, PIECES, b"0\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 413 ") && text.contains("limits.body_bytes_max"), "{text}");
    // Refused for another reason before the body is looked at.
    let text = send_all_then_read(&r, &format!("{length}grey-tenant: ../x\r\n"), &piece, PIECES, b"").await;
    assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("Grey-Tenant"), "{text}");
    r.stop.send(()).unwrap();
    r.task.await.unwrap().unwrap();

    let mut config = NodeConfig::default();
    config.limits.inflight_bytes_max = Some(Whole::clamped(PIECE as u64));
    let r = start(config).await;
    let text = send_all_then_read(&r, &length, &piece, PIECES, b"").await;
    assert!(text.starts_with("HTTP/1.1 413 ") && text.contains("inflight_bytes_max"), "{text}");
}

#[tokio::test]
async fn a_client_that_waits_for_a_word_is_refused_without_one() {
    let mut config = NodeConfig::default();
    config.limits.body_bytes_max = Whole::clamped(1000);
    let r = start(config).await;
    let head = "expect: 100-continue\r\ncontent-length: 1001\r\n";
    let text = send_all_then_read(&r, head, b"", 0, b"").await;
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
}
