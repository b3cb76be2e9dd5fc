use std::sync::Mutex;

use axum::{Router, routing::get};
use hyper_util::service::TowerToHyperService;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, oneshot},
};

use super::*;
use crate::config::Address;
use crate::http::{Lingering, with_edges};

async fn start(router: Router, connections_max: u32) -> (SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let service = TowerToHyperService::new(with_edges(router, Lingering::new()));
    let task = tokio::spawn(async move {
        let until = async move {
            let _ = stopped.await;
        };
        serve(listener, service, &Connections::new(connections_max), until).await;
    });
    (address, stop, task)
}

async fn send(address: SocketAddr, request: &str) -> TcpStream {
    let mut s = TcpStream::connect(address).await.unwrap();
    s.write_all(request.as_bytes()).await.unwrap();
    s
}

async fn answer(address: SocketAddr, request: &str) -> String {
    let mut text = String::new();
    send(address, request).await.read_to_string(&mut text).await.unwrap();
    text
}

fn head(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
}

struct OnDrop(mpsc::UnboundedSender<&'static str>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

#[tokio::test]
async fn a_dropped_connection_cancels_the_handler() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let router = Router::new().route(
        "/wait",
        get(move || {
            let tell = tell.clone();
            async move {
                let _guard = OnDrop(tell.clone());
                let _ = tell.send("started");
                std::future::pending::<()>().await;
            }
        }),
    );
    let (address, _stop, _task) = start(router, 10).await;
    let client = send(address, "GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(told.recv().await, Some("started"));
    drop(client);
    assert_eq!(told.recv().await, Some("dropped"));
}

#[tokio::test]
async fn panics_unknown_routes_and_wrong_methods_are_json() {
    async fn broken() -> &'static str {
        panic!("a bug")
    }
    let (address, _stop, _task) = start(Router::new().route("/broken", get(broken)), 10).await;
    let text = answer(address, &head("GET", "/broken")).await;
    assert!(
        text.starts_with("HTTP/1.1 500 ") && text.ends_with("{\"error\":\"internal error: see the node's log\"}"),
        "{text}"
    );
    let text = answer(address, &head("GET", "/nope")).await;
    assert!(text.starts_with("HTTP/1.1 404 ") && text.contains("{\"error\":\"unknown route '/nope'\"}"), "{text}");
    let text = answer(address, &head("POST", "/broken")).await;
    assert!(text.starts_with("HTTP/1.1 405 ") && text.contains("method POST is not allowed"), "{text}");
    assert!(text.to_ascii_lowercase().contains("allow: get"), "{text}");
}

#[tokio::test]
async fn connections_are_bounded_and_running_requests_finish() {
    let (release, released) = oneshot::channel::<()>();
    let (tell, mut told) = mpsc::unbounded_channel();
    let released = Arc::new(Mutex::new(Some(released)));
    let router = Router::new()
        .route(
            "/wait",
            get(move || {
                let (released, tell) = (released.lock().unwrap().take(), tell.clone());
                async move {
                    let _ = tell.send(());
                    released.unwrap().await.unwrap();
                    "done"
                }
            }),
        )
        .route("/quick", get(|| async { "quick" }));
    let (address, stop, task) = start(router, 1).await;
    let mut first = send(address, &head("GET", "/wait")).await;
    told.recv().await.unwrap();
    let mut second = send(address, &head("GET", "/quick")).await;
    // The only slot is taken, so that the second connection is not even accepted; it is refused
    // when the listener goes.
    stop.send(()).unwrap();
    let mut text = String::new();
    let refused = second.read_to_string(&mut text).await;
    assert!(refused.is_err() || text.is_empty(), "{text}");
    release.send(()).unwrap();
    first.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("done"), "{text}");
    task.await.unwrap();
}

/// Time goes on by itself here whenever everybody waits.
#[tokio::test(start_paused = true)]
async fn connections_of_which_nothing_comes_are_cut_and_others_not() {
    let router = Router::new().route(
        "/slow",
        get(|| async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            "done"
        }),
    );
    let (address, _stop, _task) = start(router, 10).await;
    let slow = tokio::spawn(async move { answer(address, &head("GET", "/slow")).await });
    for begun in ["", "GET /slow HTTP/1.1\r\nhost: loc"] {
        let before = tokio::time::Instant::now();
        let mut text = String::new();
        let mut stream = send(address, begun).await;
        tokio::time::timeout(Duration::from_secs(300), stream.read_to_string(&mut text)).await.unwrap().unwrap();
        let waited = before.elapsed();
        assert!(text.is_empty() && (60..=90).contains(&waited.as_secs()), "{begun:?}: {waited:?} {text}");
    }
    // Kept after an answer, and no longer than another.
    let mut kept = send(address, "GET /nope HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let mut text = String::new();
    tokio::time::timeout(Duration::from_secs(300), kept.read_to_string(&mut text)).await.unwrap().unwrap();
    assert!(text.starts_with("HTTP/1.1 404 "), "{text}");
    assert!(slow.await.unwrap().ends_with("done"), "an hour's request is no idle connection");
}

#[test]
fn open_addresses_need_a_word() {
    let config = |insecure| NodeConfig { http: Address::new("0.0.0.0:0").unwrap(), insecure, ..NodeConfig::default() };
    let open = ["0.0.0.0:0".parse().unwrap()];
    let e = choose(&open, &config(false)).unwrap_err();
    assert!(e.message().contains("--insecure"), "{e}");
    assert_eq!(choose(&open, &config(true)).unwrap(), open[0]);
    let local = ["[::1]:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap()];
    assert_eq!(choose(&local, &config(false)).unwrap(), local[0]);
    assert!(choose(&[], &config(false)).is_err());
}
