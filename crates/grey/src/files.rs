//! The user's files.

use std::{io::Read as _, path::Path};

use crate::failure::Failure;

/// Largest file that is read, in bytes: a request that a node takes by default.
const BYTES_MAX: u64 = 256 << 20;

/// A whole file; `-` is standard input.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(BYTES_MAX + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|f| f.take(BYTES_MAX + 1).read_to_end(&mut bytes))
    };
    read.map_err(|e| Failure::refused(format!("cannot read {}: {e}", path.display())))?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(Failure::refused(format!("{} is larger than {BYTES_MAX} bytes", path.display())));
    }
    Ok(bytes)
}

/// A whole file of text.
pub(crate) fn read_text(path: &Path) -> Result<String, Failure> {
    String::from_utf8(read(path)?).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Failure::refused(format!("{} is not UTF-8: invalid at byte {at}", path.display()))
    })
}

/// Writes a whole file.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes).map_err(|e| Failure::refused(format!("cannot write {}: {e}", path.display())))
}
