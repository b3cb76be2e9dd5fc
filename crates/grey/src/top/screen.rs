//! The terminal: a screen of its own while `top` runs, and everything as it was afterwards.

use std::{
    io::{self, IsTerminal as _, Read as _, Write as _, stdin, stdout},
    os::fd::AsFd as _,
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// Size that is assumed where the terminal does not tell.
const SIZE_DEFAULT: (usize, usize) = (80, 24);
/// Keys that may wait to be looked at.
const KEYS_MAX: usize = 16;

/// Another screen, without a cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// The terminal while it is ours.
pub(crate) struct Screen {
    /// How standard input was set, if it is a terminal.
    before: Option<Termios>,
    colour: bool,
}

impl Screen {
    pub(crate) fn enter() -> io::Result<Screen> {
        let before = stdin().is_terminal().then(|| tcgetattr(stdin())).transpose()?;
        if let Some(before) = &before {
            let mut ours = before.clone();
            // Keys come at once and unseen. Those that make signals come as keys, too: a process that is
            // stopped or ended by one would leave the terminal like this.
            ours.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
            tcsetattr(stdin(), OptionalActions::Now, &ours)?;
        }
        let screen = Screen { before, colour: std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) };
        write(ENTER)?;
        Ok(screen)
    }

    /// Columns and rows.
    pub(crate) fn size(&self) -> (usize, usize) {
        match tcgetwinsize(stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => SIZE_DEFAULT,
        }
    }

    /// Shows these lines, cut to the screen. The first of a pair is how: an SGR parameter.
    pub(crate) fn draw(&self, lines: &[(&str, String)]) -> io::Result<()> {
        let (columns, rows) = self.size();
        let mut out = String::from("\x1b[H");
        for (i, (style, line)) in lines.iter().take(rows).enumerate() {
            if i > 0 {
                out.push_str("\r\n");
            }
            let cut: String = line.chars().take(columns).collect();
            match style {
                s if s.is_empty() || !self.colour => out.push_str(&cut),
                s => out.push_str(&format!("\x1b[{s}m{cut}\x1b[0m")),
            }
            out.push_str("\x1b[K");
        }
        out.push_str("\x1b[J");
        write(&out)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nothing to put back.
        let _gone = write(LEAVE);
        if let Some(before) = &self.before {
            let _gone = tcsetattr(stdin().as_fd(), OptionalActions::Now, before);
        }
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The bytes of keys, as they are pressed; none if standard input is no terminal.
pub(crate) fn keys() -> mpsc::Receiver<u8> {
    let (tell, keys) = mpsc::channel(KEYS_MAX);
    if stdin().is_terminal() {
        // Ends with the process: a read of a terminal cannot be called off.
        std::thread::spawn(move || {
            let mut one = [0];
            while stdin().read_exact(&mut one).is_ok() {
                let [key] = one;
                if tell.blocking_send(key).is_err() {
                    return;
                }
            }
        });
    }
    keys
}
