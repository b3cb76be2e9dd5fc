//! Servers that are wrong, slow, or not there: what each of them comes to.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use grey_client::{AddRequest, Address, Client, Config, Error, InferCall, Limit, ProveRequest};
use grey_core::{DType, ErrorKind, Label, ModelId, Tensor};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Long enough that only a hang reaches it.
const LONG: Duration = Duration::from_secs(30);

fn client(address: impl std::fmt::Display) -> Client {
    configured(address, Config::default())
}

fn configured(address: impl std::fmt::Display, config: Config) -> Client {
    Client::new(Address::parse(&format!("http://{address}")).unwrap(), config)
}

fn call() -> InferCall {
    let x = Tensor::new("x", DType::Uint8, vec![2], vec![7, 8]).unwrap();
    InferCall { timeout: Limit::After(LONG), ..InferCall::new(ModelId::new("m").unwrap(), vec![x]) }
}

fn short() -> InferCall {
    InferCall { timeout: Limit::After(Duration::from_millis(300)), ..call() }
}

/// Reads one whole request and returns its head and body; `None` once the peer is done.
async fn request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(end) = all.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8(all[..end].to_vec()).unwrap().to_ascii_lowercase();
            let length =
                head.lines().find_map(|l| l.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
            let mut body = all.split_off(end + 4);
            while body.len() < length {
                let n = stream.read(&mut piece).await.ok().filter(|n| *n > 0)?;
                body.extend_from_slice(&piece[..n]);
            }
            return Some((head, body));
        }
        let n = stream.read(&mut piece).await.ok().filter(|n| *n > 0)?;
        all.extend_from_slice(&piece[..n]);
    }
}

/// Accepts connections, `each` of which is numbered from 0.
async fn server<F, W>(each: F) -> (SocketAddr, JoinHandle<()>)
where
    F: Fn(usize, TcpStream) -> W + Send + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        for n in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(each(n, stream));
        }
    });
    (at, task)
}

/// A server that answers every request with the same bytes and ends the connection.
async fn answering(bytes: impl Into<Vec<u8>>) -> SocketAddr {
    let bytes = Arc::new(bytes.into());
    let each = move |_, mut stream: TcpStream| {
        let bytes = bytes.clone();
        async move {
            if request(&mut stream).await.is_some() {
                // The client may hang up in the middle.
                let _ = stream.write_all(&bytes).await;
            }
        }
    };
    server(each).await.0
}

fn http(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len()).as_bytes(), body].concat()
}

/// An answer as a node gives it.
fn good() -> Vec<u8> {
    let head = r#"{"model_name":"m","model_version":"1","outputs":[{"name":"y","datatype":"UINT8","shape":[2],"parameters":{"binary_data_size":2}}]}"#;
    let body = [head.as_bytes(), &[1, 2]].concat();
    http("200 OK", &format!("Inference-Header-Content-Length: {}\r\n", head.len()), &body)
}

async fn fails(bytes: impl Into<Vec<u8>>) -> Error {
    client(answering(bytes).await).infer(&call()).await.unwrap_err()
}

#[tokio::test]
async fn a_good_answer_is_read() {
    let (answer, proven) = client(answering(good()).await).infer(&call()).await.unwrap();
    assert_eq!(answer.outputs[0].data().to_contiguous()[..], [1, 2]);
    assert!(proven.is_none());
}

#[tokio::test]
async fn nobody_listens() {
    let at = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let e = client(at).infer(&call()).await.unwrap_err();
    assert!(matches!(&e, Error::Connect(m) if m.contains(&at.to_string()) && m.contains("refused")), "{e:?}");
    let e = client("no-such-host.invalid:80").infer(&call()).await.unwrap_err();
    assert!(matches!(&e, Error::Connect(m) if m.contains("no-such-host.invalid")), "{e:?}");
}

#[tokio::test]
async fn a_server_that_never_answers_costs_the_deadline_and_no_more() {
    let (at, _task) = server(|_, mut stream| async move { while request(&mut stream).await.is_some() {} }).await;
    let e = client(at).infer(&short()).await.unwrap_err();
    assert!(matches!(&e, Error::Deadline(m) if m.ends_with("within 0.3 s: it waited for the answer")), "{e:?}");
    assert_eq!(e.kind(), Some(ErrorKind::DeadlineExceeded));
}

#[tokio::test]
async fn a_listener_that_accepts_nothing_is_told_from_one_that_answers_late() {
    // The system completes the handshake for a full listener only so often; then connections hang.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let at = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(at)).await {
        waiting.push(stream);
    }
    let config = Config { connect_timeout: Duration::from_millis(200), ..Config::default() };
    let e = configured(at, config).infer(&call()).await.unwrap_err();
    assert!(matches!(&e, Error::Connect(m) if m.contains("no connection within 0.2 s")), "{e:?}");
    let e = client(at).infer(&short()).await.unwrap_err();
    assert!(matches!(&e, Error::Deadline(m) if m.ends_with("it waited for a connection")), "{e:?}");
}

#[tokio::test]
async fn a_slow_drip_does_not_outlive_the_deadline() {
    let (at, _task) = server(|_, mut stream| async move {
        request(&mut stream).await;
        for byte in good() {
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(matches!(client(at).infer(&short()).await, Err(Error::Deadline(_))));
    client(at).infer(&call()).await.unwrap();
}

#[tokio::test]
async fn connections_that_end_in_the_middle() {
    assert!(matches!(fails("").await, Error::Broken(m) if m.contains("before it answered")));
    let e = fails("HTTP/1.1 200 OK\r\nContent-Le").await;
    assert!(matches!(&e, Error::Broken(m) if m.contains("before it answered")), "{e:?}");
    let whole = good();
    let e = fails(&whole[..whole.len() - 1]).await;
    assert!(matches!(&e, Error::Broken(m) if m.contains("broke off after")), "{e:?}");
    let e = fails("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc").await;
    assert!(matches!(&e, Error::Broken(m) if m.contains("broke off after")), "{e:?}");
}

#[tokio::test]
async fn what_is_no_node() {
    for bytes in [
        b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(),
        b"\x15\x03\x03\x00\x02\x02\x46".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_vec(),
        http("404 Not Found", "Content-Type: text/html\r\n", b"<html>nothing here</html>"),
        http("301 Moved Permanently", "Location: https://elsewhere.example/\r\n", b""),
        [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'a'; 2 << 20], b"\r\n\r\n".to_vec()].concat(),
        [b"HTTP/1.1 200 OK\r\n".to_vec(), b"X: y\r\n".repeat(5000), b"\r\n".to_vec()].concat(),
    ] {
        let start = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        let e = fails(bytes).await;
        assert!(
            matches!(&e, Error::NotANode(m) if m.ends_with("is it a Grey node?") && m.len() < 500),
            "{start}: {e:?}"
        );
    }
    let at = answering(http("200 OK", "", b"{\"models\": 7}")).await;
    assert!(matches!(client(at).models(Limit::Usual).await, Err(Error::NotANode(_))));
    let at = answering(http("200 OK", "", b"<html>")).await;
    assert!(matches!(client(at).node(Limit::Usual).await, Err(Error::NotANode(_))));
}

#[tokio::test]
async fn answers_that_lie_about_sizes_or_are_too_large() {
    let lie = |headers: &str, body: &[u8]| http("200 OK", headers, body);
    for (bytes, says) in [
        (lie("Inference-Header-Content-Length: 99\r\n", b"{}"), "says 99 bytes of JSON, but the answer has 2"),
        (lie("Inference-Header-Content-Length: -1\r\n", b"{}"), "is '-1', expected a number of bytes"),
        (lie("Content-Encoding: gzip\r\n", b"x"), "it is encoded as 'gzip'"),
        (lie("", b"{\"model_name\":\"other\",\"outputs\":[]}"), "expected 'm', found 'other'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n".to_vec(), "larger than the 1073741824 bytes"),
    ] {
        let e = fails(bytes).await;
        assert!(matches!(&e, Error::Answer(m) if m.contains(says)), "{e:?} should say {says}");
    }
    // Without a length it is the bytes that count.
    let endless =
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(), b"10\r\n0123456789abcdef\r\n".repeat(100)]
            .concat();
    let config = Config { answer_bytes_max: 1000, ..Config::default() };
    let e = configured(answering(endless).await, config).infer(&call()).await.unwrap_err();
    assert!(matches!(&e, Error::Answer(m) if m.contains("larger than the 1000 bytes")), "{e:?}");
}

#[tokio::test]
async fn refusals_keep_status_kind_and_message() {
    let e = fails(http("503 Service Unavailable", "Grey-Error-Kind: host_died\r\n", b"{\"error\":\"gone\\u001b[2J\"}"))
        .await;
    let r = e.refusal().unwrap();
    assert_eq!((r.status, r.kind, r.message.as_str()), (503, ErrorKind::HostDied, "gone [2J"));
    // Other servers of the protocol name no kind, gateways not even a reason.
    assert_eq!(
        fails(http("400 Bad Request", "", b"{\"error\":\"no\"}")).await.kind(),
        Some(ErrorKind::InvalidArgument)
    );
    assert_eq!(
        fails(http("418 I'm a teapot", "", b"{\"error\":\"no\"}")).await.kind(),
        Some(ErrorKind::InvalidArgument)
    );
    assert_eq!(fails(http("502 Bad Gateway", "", b"<html>")).await.kind(), Some(ErrorKind::Internal));
    let e = fails(http("504 Gateway Timeout", "", b"<html>")).await;
    assert_eq!(e.kind(), Some(ErrorKind::DeadlineExceeded));
}

/// A server whose n-th request, over all connections, gets the n-th answer, the last one forever.
async fn in_turn(answers: Vec<Vec<u8>>) -> (SocketAddr, Arc<AtomicUsize>) {
    let (answers, requests) = (Arc::new(answers), Arc::new(AtomicUsize::new(0)));
    let seen = requests.clone();
    let each = move |_, mut stream: TcpStream| {
        let (answers, seen) = (answers.clone(), seen.clone());
        async move {
            while request(&mut stream).await.is_some() {
                let n = seen.fetch_add(1, SeqCst).min(answers.len() - 1);
                if stream.write_all(&answers[n]).await.is_err() {
                    return;
                }
            }
        }
    };
    (server(each).await.0, requests)
}

fn full(after: &str) -> Vec<u8> {
    http("503 Service Unavailable", &format!("Retry-After: {after}\r\n"), b"{\"error\":\"full\"}")
}

#[tokio::test]
async fn a_full_node_is_asked_again_as_it_says() {
    let (at, requests) = in_turn(vec![full("1"), full("0"), good()]).await;
    client(at).infer(&call()).await.unwrap();
    assert_eq!(requests.load(SeqCst), 3);
    // Not later than the deadline, not without a time, not forever, not if nobody wants it.
    for (answer, call, expected) in [
        (full("9"), short(), 1),
        (full("Fri, 27 Nov 2026 09:00:00 GMT"), call(), 1),
        (full("999999999"), InferCall { timeout: Limit::Never, ..call() }, 1),
        (full("0"), call(), 1 + Config::default().retries_max as usize),
    ] {
        let (at, requests) = in_turn(vec![answer]).await;
        let e = client(at).infer(&call).await.unwrap_err();
        assert_eq!((e.kind(), requests.load(SeqCst)), (Some(ErrorKind::Unavailable), expected), "{e:?}");
    }
    let (at, requests) = in_turn(vec![full("0")]).await;
    configured(at, Config { retries_max: 0, ..Config::default() }).infer(&call()).await.unwrap_err();
    assert_eq!(requests.load(SeqCst), 1);
    // A wait that would be cut short by the deadline is not begun; one under way ends with it.
    let (at, _) = in_turn(vec![full("0")]).await;
    let patient = Config { retries_max: u32::MAX, ..Config::default() };
    let e = configured(at, patient).infer(&short()).await.unwrap_err();
    assert!(matches!(e, Error::Deadline(_) | Error::Refused(_)), "{e:?}");
}

#[tokio::test]
async fn connections_are_kept_and_those_closed_while_idle_replaced() {
    let (opened, closing) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Notify::new()));
    let (seen, close) = (opened.clone(), closing.clone());
    let (at, _task) = server(move |n, mut stream| {
        let (seen, close) = (seen.clone(), close.clone());
        async move {
            seen.fetch_add(1, SeqCst);
            loop {
                tokio::select! {
                    _ = close.notified() => return,
                    got = request(&mut stream) => {
                        // The second connection is cut while its second request is on its way.
                        if got.is_none() || stream.write_all(&good()).await.is_err() || (n == 1 && request(&mut stream).await.is_some()) {
                            return;
                        }
                    }
                }
            }
        }
    })
    .await;
    let client = client(at);
    for _ in 0..3 {
        client.infer(&call()).await.unwrap();
    }
    assert_eq!(opened.load(SeqCst), 1);
    closing.notify_waiters();
    for _ in 0..3 {
        client.infer(&call()).await.unwrap();
    }
    assert_eq!(opened.load(SeqCst), 3, "one that was closed, one that was cut, one that lasts");
    // What may not be sent twice takes a new connection each time.
    let id = ModelId::new("m").unwrap();
    let _ = client.remove(&id, None, Limit::Usual).await.unwrap_err();
    assert_eq!(opened.load(SeqCst), 4);
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_nobody_s() {
    let forged = {
        let mut bytes = good();
        let last = bytes.len() - 1;
        bytes[last] = 99;
        bytes
    };
    let each = move |_, mut stream: TcpStream| {
        let both = [good(), forged.clone()].concat();
        async move {
            while request(&mut stream).await.is_some() {
                // In one piece, so that the second one is there as soon as the first.
                if stream.write_all(&both).await.is_err() {
                    return;
                }
            }
        }
    };
    let client = client(server(each).await.0);
    for _ in 0..50 {
        let (answer, _) = client.infer(&call()).await.unwrap();
        assert_eq!(answer.outputs[0].data().to_contiguous()[..], [1, 2]);
    }
}

#[tokio::test]
async fn no_more_connections_than_allowed() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (open, peak) = (now.clone(), most.clone());
    let (at, _task) = server(move |_, mut stream| {
        let (open, peak) = (open.clone(), peak.clone());
        async move {
            peak.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
            while request(&mut stream).await.is_some() {
                tokio::task::yield_now().await;
                stream.write_all(&good()).await.unwrap();
            }
            open.fetch_sub(1, SeqCst);
        }
    })
    .await;
    let client = configured(at, Config { connections_max: 3, ..Config::default() });
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.infer(&call()).await.map(drop) })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert!(most.load(SeqCst) <= 3, "{most:?}");
}

#[tokio::test]
async fn a_dropped_call_hangs_up_and_a_closed_client_answers_nobody() {
    let (gone, told) = tokio::sync::mpsc::channel(1);
    let (at, _task) = server(move |_, mut stream| {
        let gone = gone.clone();
        async move {
            request(&mut stream).await;
            // Ends when the client hangs up.
            let rest = request(&mut stream).await;
            gone.send(rest.is_none()).await.unwrap();
        }
    })
    .await;
    let (client, mut told) = (client(at), told);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.infer(&call()).await.map(drop) }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    waiting.abort();
    assert_eq!(tokio::time::timeout(LONG, told.recv()).await.unwrap(), Some(true));

    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.infer(&call()).await.map(drop) }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.close();
    assert!(matches!(waiting.await.unwrap(), Err(Error::Closed)));
    assert_eq!(tokio::time::timeout(LONG, told.recv()).await.unwrap(), Some(true));
    assert!(matches!(client.infer(&call()).await, Err(Error::Closed)));
}

#[tokio::test]
async fn a_proof_that_does_not_come_is_an_answer_that_lies() {
    let at = answering(good()).await;
    let proven = InferCall { prove: Some(ProveRequest::default()), ..call() };
    let e = client(at).infer(&proven).await.unwrap_err();
    assert!(matches!(&e, Error::Answer(m) if m.contains("it has no proof, though one was asked for")), "{e:?}");
    let bad = ProveRequest { nonce: Some(vec![1; 7]), salt: None };
    let e = client(at).infer(&InferCall { prove: Some(bad), ..call() }).await.unwrap_err();
    assert!(matches!(&e, Error::Argument(m) if m.contains("7 bytes, expected 8 to 64")), "{e:?}");
}

#[tokio::test]
async fn files_are_streamed_and_those_that_cannot_be_read_named() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("model.onnx");
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    std::fs::write(&file, &bytes)?;
    let (got, mut sent) = tokio::sync::mpsc::channel(1);
    let (at, _task) = server(move |_, mut stream| {
        let got = got.clone();
        async move {
            got.send(request(&mut stream).await.unwrap()).await.unwrap();
            stream
                .write_all(&http("409 Conflict", "Grey-Error-Kind: already_exists\r\n", b"{\"error\":\"other bytes\"}"))
                .await
                .unwrap();
        }
    })
    .await;
    let add = AddRequest {
        id: ModelId::new("m").unwrap(),
        version: None,
        labels: vec![Label::new("prod").unwrap()],
        files: vec![("model.onnx".to_owned(), file)],
        example: Some("{}".into()),
        load: false,
        metadata: [("a b".to_owned(), "c&d".to_owned())].into(),
        timeout: Limit::Usual,
    };
    let e = client(at).add(&add).await.unwrap_err();
    assert_eq!(e.kind(), Some(ErrorKind::AlreadyExists));
    let (head, body) = sent.recv().await.unwrap();
    assert!(head.starts_with("post /grey/v1/models/m?load=false&label=prod&meta.a%20b=c%26d http/1.1"), "{head}");
    let boundary = head.split("boundary=").nth(1).unwrap().split_whitespace().next().unwrap();
    let part = |name: &str, file: &str| {
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{file}\"\r\nContent-Type: \
             application/octet-stream\r\n\r\n"
        )
    };
    let (example, file) = (part("example", "example.json"), part("file", "model.onnx"));
    let end = format!("\r\n--{boundary}--\r\n");
    assert!(body == [example.as_bytes(), b"{}\r\n", file.as_bytes(), &bytes, end.as_bytes()].concat());
    for (path, says) in [(folder.path().join("none"), "No such file"), (folder.path().to_owned(), "is not a file")] {
        let e =
            client(at).add(&AddRequest { files: vec![("m.onnx".to_owned(), path)], ..add.clone() }).await.unwrap_err();
        assert!(matches!(&e, Error::Argument(m) if m.contains(says)), "{e:?}");
    }
    Ok(())
}

#[tokio::test]
async fn readiness_is_a_question_not_an_error() {
    let at = answering(http("503 Service Unavailable", "", b"{\"error\":\"draining\"}")).await;
    assert!(!client(at).ready(None, Limit::Usual).await.unwrap());
    let at = answering(http("200 OK", "", b"")).await;
    let id = ModelId::new("m").unwrap();
    assert!(client(at).ready(Some((&id, None)), Limit::Usual).await.unwrap());
    let at = answering(http("404 Not Found", "Grey-Error-Kind: not_found\r\n", b"{\"error\":\"no model\"}")).await;
    assert_eq!(client(at).ready(Some((&id, None)), Limit::Usual).await.unwrap_err().kind(), Some(ErrorKind::NotFound));
}
