//! Closed-loop load: each connection sends its next request when the last one is answered, or some time later.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{LoadArgs, clock::now};

/// Unit of times in `/proc`: `USER_HZ`, which is 100 on all machines that Grey runs on.
const TICKS_PER_SECOND: f64 = 100.0;
/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 16 << 10;

fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// Runs the load and reports rate and latencies.
pub(crate) fn run(args: &LoadArgs) -> io::Result<Value> {
    let body = std::fs::read(&args.body)?;
    let mut request =
        format!("POST {} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n", args.path, args.address, body.len());
    for header in &args.header {
        request.push_str(header);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    let request: Arc<[u8]> = [request.as_bytes(), &body].concat().into();
    // The load shares the machine with the node: one thread of it is enough.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let begin = now() + Duration::from_secs_f64(args.seconds / 5.0);
        let end = begin + Duration::from_secs_f64(args.seconds);
        let pause = Duration::from_secs_f64(args.pause);
        let clients = (0..args.connections).map(|_| {
            let (request, address) = (request.clone(), args.address.clone());
            tokio::spawn(async move { client(&address, &request, pause, begin, end).await })
        });
        let clients: Vec<_> = clients.collect();
        let mut times = Vec::new();
        for client in clients {
            times.extend(client.await.map_err(io::Error::other)??);
        }
        times.sort_unstable();
        let at = |share: f64| times.get((times.len() as f64 * share) as usize).map_or(0.0, Duration::as_secs_f64);
        Ok(json!({
            "requests": times.len(),
            "requests_per_second": times.len() as f64 / args.seconds,
            "p50_seconds": at(0.5),
            "p99_seconds": at(0.99),
            "own_cpu_seconds": own_cpu_seconds()?,
        }))
    })
}

/// Processor time of this process so far (proc(5), fields 14 and 15), in seconds.
fn own_cpu_seconds() -> io::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field is the name, which may hold spaces.
    let (_, fields) = stat.rsplit_once(')').ok_or_else(|| bad("an odd /proc/self/stat"))?;
    let ticks: Option<u64> = fields.split_whitespace().skip(11).take(2).map(|f| f.parse::<u64>().ok()).sum();
    Ok(ticks.ok_or_else(|| bad("an odd /proc/self/stat"))? as f64 / TICKS_PER_SECOND)
}

/// The times of the requests that ended between `begin` and `end`.
async fn client(
    address: &str,
    request: &[u8],
    pause: Duration,
    begin: Instant,
    end: Instant,
) -> io::Result<Vec<Duration>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut times, mut buffer) = (Vec::new(), Vec::with_capacity(HEAD_BYTES_MAX));
    loop {
        let sent = now();
        stream.write_all(request).await?;
        answer(&mut stream, &mut buffer).await?;
        let done = now();
        if done > end {
            return Ok(times);
        }
        if done > begin {
            times.push(done - sent);
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// Reads one answer with `Content-Length`; anything but 200 is an error.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    let (head, length) = loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(bad("the connection was closed"));
        }
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(buffer.get(..end).unwrap_or_default()).to_ascii_lowercase();
            if !head.starts_with("http/1.1 200") {
                return Err(bad(String::from_utf8_lossy(buffer).into_owned()));
            }
            let length = head.lines().find_map(|l| l.strip_prefix("content-length:"));
            let length = length.and_then(|l| l.trim().parse::<usize>().ok());
            break (end + 4, length.ok_or_else(|| bad(format!("no Content-Length in: {head}")))?);
        }
        if buffer.len() > HEAD_BYTES_MAX {
            return Err(bad("an endless head"));
        }
    };
    while buffer.len() < head + length {
        if stream.read_buf(buffer).await? == 0 {
            return Err(bad("the connection was closed"));
        }
    }
    Ok(())
}
