//! How far an upload is, on a terminal; nothing elsewhere.

use std::{io::Read, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

/// How often what waits for a node's answer moves.
const TICK: Duration = Duration::from_millis(100);

/// A bar on standard error, which is drawn only if that is a terminal.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Of so many bytes. With `quiet` nothing is drawn.
    pub(crate) fn bytes(what: &str, total: u64, quiet: bool) -> Progress {
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(total) };
        let style = "{msg}  {wide_bar:.cyan/dim}  {bytes}/{total_bytes}  {bytes_per_sec}  {eta}";
        // A style that does not parse would be a mistake in the line above; the plain one says enough.
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what.to_owned());
        Progress(bar)
    }

    /// Passes on what `inner` reads, and counts it. At its end `then` is said until the bar is dropped.
    pub(crate) fn reading<R: Read>(&self, inner: R, then: &'static str) -> Reading<R> {
        Reading { inner, bar: self.0.clone(), then }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// See [`Progress::reading`].
pub(crate) struct Reading<R> {
    inner: R,
    bar: ProgressBar,
    then: &'static str,
}

impl<R: Read> Read for Reading<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(out)?;
        self.bar.inc(n as u64);
        if n == 0 && !out.is_empty() || self.bar.length().is_some_and(|l| self.bar.position() >= l) {
            self.bar.set_style(ProgressStyle::default_spinner());
            self.bar.set_message(self.then);
            self.bar.enable_steady_tick(TICK);
        }
        Ok(n)
    }
}
