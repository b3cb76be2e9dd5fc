//! A form (`multipart/form-data`, RFC 7578) with files, which are read as they are sent.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Cursor, Read},
    path::PathBuf,
};

use rustix::rand::{GetRandomFlags, getrandom};

use super::sources::Source;
use crate::failure::Failure;

/// Random bytes of a boundary: no file has them.
const BOUNDARY_BYTES: usize = 24;

/// The body of a request.
pub(super) struct Form {
    boundary: String,
    pieces: VecDeque<Piece>,
    length: u64,
}

enum Piece {
    Text(Cursor<Vec<u8>>),
    /// Opened when its turn comes: there may be more files than a process may open.
    Waiting(PathBuf, u64),
    Open(File, PathBuf, u64),
}

impl Form {
    /// A form of these files, and an example if there is one.
    pub(super) fn new(files: Vec<Source>, example: Option<Vec<u8>>) -> Result<Form, Failure> {
        let mut bytes = [0; BOUNDARY_BYTES];
        getrandom(&mut bytes, GetRandomFlags::empty())
            .map_err(|e| Failure::unexpected(format!("the system gives no random bytes: {e}")))?;
        let boundary = format!("grey-{}", base16ct::lower::encode_string(&bytes));
        let mut form = Form { boundary, pieces: VecDeque::new(), length: 0 };
        // First, as it is small: what is wrong with it is said before the files are sent.
        if let Some(example) = example {
            form.text(form.head("example", "example.json"));
            form.text(example);
            form.text(b"\r\n".to_vec());
        }
        for file in files {
            form.text(form.head("file", file.name.as_str()));
            form.length += file.size;
            form.pieces.push_back(Piece::Waiting(file.path, file.size));
            form.text(b"\r\n".to_vec());
        }
        form.text(format!("--{}--\r\n", form.boundary).into_bytes());
        Ok(form)
    }

    fn head(&self, name: &str, file: &str) -> Vec<u8> {
        let (boundary, file) = (&self.boundary, file.replace('"', "\\\""));
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{file}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        )
        .into_bytes()
    }

    fn text(&mut self, text: Vec<u8>) {
        self.length += text.len() as u64;
        self.pieces.push_back(Piece::Text(Cursor::new(text)));
    }

    pub(super) fn content_type(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }

    /// Bytes of the whole form.
    pub(super) fn length(&self) -> u64 {
        self.length
    }
}

impl Read for Form {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        let named =
            |path: &PathBuf, e: io::Error| io::Error::new(e.kind(), format!("cannot read {}: {e}", path.display()));
        loop {
            let read = match self.pieces.front_mut() {
                None => return Ok(0),
                Some(Piece::Text(text)) => text.read(out)?,
                Some(Piece::Waiting(path, left)) => {
                    let file = File::open(&*path).map_err(|e| named(path, e))?;
                    let open = Piece::Open(file, std::mem::take(path), *left);
                    self.pieces[0] = open;
                    continue;
                }
                Some(Piece::Open(_, _, 0)) => 0,
                Some(Piece::Open(file, path, left)) => {
                    let room = usize::try_from(*left).map_or(out.len(), |n| n.min(out.len()));
                    let read = file.read(&mut out[..room]).map_err(|e| named(path, e))?;
                    if read == 0 {
                        let e = io::Error::other("it became shorter while it was sent");
                        return Err(named(path, e));
                    }
                    *left -= read as u64;
                    read
                }
            };
            if read > 0 {
                return Ok(read);
            }
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use grey_registry::FilePath;

    use super::*;

    fn source(dir: &tempfile::TempDir, name: &str, size: u64) -> Source {
        Source { name: FilePath::new(name).unwrap(), path: dir.path().join(name), size }
    }

    #[test]
    fn it_has_the_length_that_it_says() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "abc").unwrap();
        std::fs::write(dir.path().join("empty"), "").unwrap();
        std::fs::write(dir.path().join("q\"t"), "x").unwrap();
        let files = vec![source(&dir, "a", 3), source(&dir, "empty", 0), source(&dir, "q\"t", 1)];
        let mut form = Form::new(files, Some(b"{}".to_vec())).unwrap();
        let (length, boundary) = (form.length(), form.boundary.clone());
        let mut text = String::new();
        form.read_to_string(&mut text).unwrap();
        assert_eq!(text.len() as u64, length);
        assert_eq!(text.matches(&boundary).count(), 5);
        assert!(text.contains("filename=\"q\\\"t\"") && text.contains("\r\n\r\nabc\r\n--grey-"), "{text}");
    }

    #[test]
    fn a_file_that_shrinks_is_an_error_and_one_that_grows_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "abc").unwrap();
        let read = |size| {
            let mut form = Form::new(vec![source(&dir, "a", size)], None).unwrap();
            let length = form.length();
            let mut out = Vec::new();
            form.read_to_end(&mut out).map(|n| (n as u64, length))
        };
        assert!(read(4).unwrap_err().to_string().contains("a: it became shorter while it was sent"));
        let (n, length) = read(2).unwrap();
        assert_eq!(n, length);
    }
}
