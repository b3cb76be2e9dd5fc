//! `grey top`: a node, looked at again and again.

mod look;
mod screen;
mod text;

use std::{
    io::{self, IsTerminal as _, Write as _},
    pin::pin,
    time::Duration,
};

use serde_json::json;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at},
};

use self::{
    look::{Picture, Status, picture},
    screen::Screen,
};
use crate::{args::TopArgs, client::Client, encoding::escaped, failure::Failure, say};

/// How long a look may take before the node counts as silent.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(5);

/// Keys that end it: q, Q, Escape, and what Ctrl-C, Ctrl-D and Ctrl-\ send.
const QUIT: [u8; 6] = [b'q', b'Q', 0x1b, 3, 4, 0x1c];

/// How lines look, as SGR parameters.
const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const YELLOW: &str = "33";

/// Looks at a node until it is told to end, or once.
pub(crate) fn run(url: &str, args: &TopArgs, json: bool) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::unexpected(format!("cannot start: {e}")))?;
    let client = Client::with_patience(url, LOOK_WAIT_MAX);
    let done = runtime.block_on(async {
        // Said at once and as an error: an address that was wrong from the start.
        let first = look(&client, url).await?;
        let mut top = Top { client, url, last: first, picture: None, trouble: None };
        if args.once {
            tokio::time::sleep(args.interval.0).await;
            top.look().await;
            return match &top.trouble {
                Some(why) => Err(Failure::unexpected(why.clone())),
                None => print(&top.plain(json)).map(drop),
            };
        }
        top.picture = Some(picture(&top.last, None));
        let screen = match io::stdout().is_terminal() && !json {
            true => Some(Screen::enter().map_err(|e| Failure::unexpected(format!("cannot use the terminal: {e}")))?),
            false => None,
        };
        top.forever(args.interval.0, json, screen).await
    });
    // A look that is under way is not waited for.
    runtime.shutdown_background();
    done
}

async fn look(client: &Client, url: &str) -> Result<Status, Failure> {
    let client = client.clone();
    let looked = tokio::task::spawn_blocking(move || client.get("/grey/v1/status"));
    let answer = looked.await.map_err(|e| Failure::unexpected(format!("the look failed: {e}")))??;
    serde_json::from_value(answer).map_err(|e| {
        Failure::unexpected(format!("{url} answered with what is no status of a node: {e}"))
            .hint("is it a Grey node, and not an older one than this command?")
    })
}

struct Top<'a> {
    client: Client,
    url: &'a str,
    last: Status,
    picture: Option<Picture>,
    /// Why the last look saw nothing.
    trouble: Option<String>,
}

/// What ends `top` besides a key.
struct Ends {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Ends {
    fn listen() -> io::Result<Ends> {
        Ok(Ends {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

impl Top<'_> {
    async fn look(&mut self) {
        self.take(look(&self.client, self.url).await);
    }

    fn take(&mut self, looked: Result<Status, Failure>) {
        match looked {
            Ok(now) => {
                self.picture = Some(picture(&now, Some(&self.last)));
                self.last = now;
                self.trouble = None;
            }
            Err(f) => self.trouble = Some(f.message),
        }
    }

    async fn forever(&mut self, every: Duration, json: bool, screen: Option<Screen>) -> Result<(), Failure> {
        let listening = |e: io::Error| Failure::unexpected(format!("cannot listen for signals: {e}"));
        let mut ends = Ends::listen().map_err(listening)?;
        let mut resized = signal(SignalKind::window_change()).map_err(listening)?;
        let mut keys = if screen.is_some() { screen::keys() } else { mpsc::channel(1).1 };
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            match &screen {
                Some(screen) => {
                    if screen.draw(&self.lines(screen.size().1)).is_err() {
                        return Ok(());
                    }
                }
                None => {
                    if !self.tell(json)? {
                        return Ok(());
                    }
                }
            }
            // The next tick and then the look, either of which a key or a signal cuts short.
            let (client, url) = (self.client.clone(), self.url);
            let mut next = pin!(async {
                ticks.tick().await;
                look(&client, url).await
            });
            let looked = loop {
                tokio::select! {
                    looked = &mut next => break looked,
                    () = ends.any() => return Ok(()),
                    Some(key) = keys.recv() => if QUIT.contains(&key) { return Ok(()) },
                    _ = resized.recv(), if screen.is_some() => {
                        if let Some(screen) = &screen && screen.draw(&self.lines(screen.size().1)).is_err() {
                            return Ok(());
                        }
                    }
                }
            };
            self.take(looked);
        }
    }

    /// Where there is no screen: what is new, as text or a line of JSON. False if nobody reads it any more.
    fn tell(&self, json: bool) -> Result<bool, Failure> {
        match &self.trouble {
            None => print(&self.plain(json)),
            Some(why) if json => print(&format!("{}\n", json!({"error": why}))),
            Some(why) => {
                say(&format!("no answer: {why}\n"));
                Ok(true)
            }
        }
    }

    fn plain(&self, json: bool) -> String {
        let Some(picture) = &self.picture else { return String::new() };
        if json {
            // Numbers and texts only: nothing that JSON could not hold.
            return serde_json::to_string(picture).map(|line| line + "\n").unwrap_or_default();
        }
        let lines = text::lines(picture, self.url, usize::MAX);
        let all =
            lines.head.into_iter().chain([String::new(), lines.columns]).chain(lines.models).chain([String::new()]);
        all.map(|l| l + "\n").collect()
    }

    /// For a screen of that many rows: each line, and how it looks.
    fn lines(&self, rows: usize) -> Vec<(&'static str, String)> {
        let Some(picture) = &self.picture else { return Vec::new() };
        // Head, what is wrong, an empty line, columns and the last line have rows of their own.
        let taken = picture.node.warnings.len() + 7;
        let lines = text::lines(picture, self.url, rows.saturating_sub(taken).max(1));
        let mut out: Vec<(&str, String)> = Vec::with_capacity(rows);
        let head = lines.head.into_iter().enumerate();
        out.extend(head.map(|(i, l)| {
            (
                if i == 0 {
                    BOLD
                } else if l.starts_with("warning") {
                    YELLOW
                } else {
                    ""
                },
                l,
            )
        }));
        out.push(match &self.trouble {
            Some(why) => (RED, format!("no answer, trying again: {}", escaped(why))),
            None => ("", String::new()),
        });
        out.push((DIM, lines.columns));
        out.extend(lines.models.into_iter().map(|l| ("", l)));
        out.push(("", String::new()));
        out.push((DIM, "q quits".to_owned()));
        out
    }
}

/// Writes to standard output; false if its reader went away.
fn print(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Failure::unexpected(format!("cannot write to standard output: {e}"))),
    }
}
