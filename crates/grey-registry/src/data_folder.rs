//! The folder that a node owns: its format, its lock, and the local store in it.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use grey_core::{Error, ErrorKind, Result};
use object_store::local::LocalFileSystem;
use rustix::fs::{FlockOperation, flock};

/// Format of the folder that this build makes.
const FORMAT: &str = "1";
/// Where copies of files lie while hosts open them.
const OPEN: &str = "open";
/// Bytes of the lock file that are looked at.
const LOCK_BYTES_MAX: u64 = 4096;
/// Bytes of the format file that are looked at: more than any format has.
const FORMAT_BYTES_MAX: u64 = 20;

/// A data folder, locked for as long as this value lives.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    lock: File,
}

impl Drop for DataFolder {
    /// Unlocks in so many words: a process that is just being forked holds a copy of the descriptor
    /// until it executes its program, and closing ours alone would leave the folder locked till then.
    fn drop(&mut self) {
        self.release();
    }
}

fn failed(what: &str, path: &Path, e: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::FailedPrecondition, format!("cannot {what} {}: {e}", path.display()))
}

impl DataFolder {
    /// Opens or makes `path` and locks it against other nodes.
    pub fn open(path: &Path) -> Result<DataFolder> {
        let path = std::path::absolute(path).map_err(|e| failed("find", path, &e))?;
        std::fs::create_dir_all(path.join("registry")).map_err(|e| failed("make the data folder", &path, &e))?;
        let lock = lock(&path)?;
        // Before anything in it is touched: a newer Grey may keep what this one takes for leftovers.
        let format = path.join("format");
        match read_format(&format).map_err(|e| failed("read", &format, &e))? {
            Some(found) if found == FORMAT => {}
            Some(found) => {
                return Err(Error::new(
                    ErrorKind::FailedPrecondition,
                    format!("the data folder {} has format '{found}'; this Grey reads up to {FORMAT}", path.display()),
                ));
            }
            None => write_format(&path, &format).map_err(|e| failed("write", &format, &e))?,
        }
        // Nobody else is here: whatever is half-written was interrupted.
        sweep_half_written(&path.join("registry"), 0);
        clear(&path.join(OPEN)).map_err(|e| failed("clear", &path.join(OPEN), &e))?;
        Ok(DataFolder { path, lock })
    }

    /// Leaves the folder to other nodes, before its owner is gone: nothing may be written any more.
    pub fn release(&self) {
        if let Err(e) = flock(&self.lock, FlockOperation::Unlock) {
            tracing::warn!("cannot unlock the data folder {}: {e}", self.path.display());
        }
    }

    /// Whether a node has made this folder, or begun to.
    pub fn is_one(path: &Path) -> bool {
        path.join("format").is_file()
    }

    /// Who uses the folder now; `None` if nobody does, or if that cannot be told.
    pub fn holder(path: &Path) -> Option<Holder> {
        let mut file = File::open(path.join("lock")).ok()?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => Some(Holder::read(&mut file)),
            // Unlocked as the file is closed.
            _ => None,
        }
    }

    /// Writes into the lock where this node is reached, for those who find the folder locked.
    pub fn announce(&self, url: &str) -> Result<()> {
        write_lock(&self.lock, Some(url)).map_err(|e| failed("write", &self.path.join("lock"), &e))
    }

    /// Where it is, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the store's objects lie as files.
    pub fn store_path(&self) -> PathBuf {
        self.path.join("registry")
    }

    /// Where copies of files may lie while hosts open them.
    pub fn open_path(&self) -> PathBuf {
        self.path.join(OPEN)
    }

    /// The local object store in it.
    pub fn store(&self) -> Result<Arc<LocalFileSystem>> {
        let path = self.store_path();
        let store = LocalFileSystem::new_with_prefix(&path).map_err(|e| failed("open the registry", &path, &e))?;
        // A registered version survives the loss of power: the store syncs each file and the folders
        // that name it before a write returns, and the index entry is written last.
        Ok(Arc::new(store.with_automatic_cleanup(true).with_fsync(true)))
    }
}

/// Who uses a folder, as the lock says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// Its process.
    pub pid: Option<u32>,
    /// Where it is reached, once it listens.
    pub url: Option<String>,
}

impl Holder {
    /// Only for messages: without it they say less.
    fn read(file: &mut File) -> Holder {
        let mut text = String::new();
        let _unreadable = file.take(LOCK_BYTES_MAX).read_to_string(&mut text);
        let mut lines = text.lines().map(str::trim);
        Holder {
            pid: lines.next().and_then(|l| l.parse().ok()),
            url: lines.next().filter(|l| l.starts_with("http")).map(str::to_owned),
        }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("another node")?;
        match (self.pid, &self.url) {
            (None, None) => Ok(()),
            (Some(pid), None) => write!(f, " (process {pid})"),
            (None, Some(url)) => write!(f, " ({url})"),
            (Some(pid), Some(url)) => write!(f, " (process {pid}, {url})"),
        }
    }
}

fn write_lock(mut file: &File, url: Option<&str>) -> std::io::Result<()> {
    file.rewind()?;
    file.set_len(0)?;
    let url = url.map_or_else(String::new, |u| format!("{u}\n"));
    // In one piece, since others read it at any time.
    file.write_all(format!("{}\n{url}", std::process::id()).as_bytes())
}

/// What the format file says, its beginning at most; `None` if there is none yet, or an empty one,
/// which a node that ended as it made the folder could leave.
fn read_format(path: &Path) -> std::io::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(f) => f,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    file.take(FORMAT_BYTES_MAX).read_to_end(&mut found)?;
    let text = String::from_utf8_lossy(&found);
    // Where only a beginning was read, no blank counts for nothing: it is another format, whatever follows.
    let text = if found.len() as u64 == FORMAT_BYTES_MAX { &text } else { text.trim() };
    Ok((!text.is_empty()).then(|| text.escape_default().to_string()))
}

/// Writes the format file whole or not at all, and syncs it with the folders beside it.
fn write_format(folder: &Path, path: &Path) -> std::io::Result<()> {
    let new = folder.join("format.new");
    let mut file = File::create(&new)?;
    writeln!(file, "{FORMAT}")?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

/// Deepest folder that is looked into; a file's path has at most half as many parts.
const DEPTH_MAX: usize = 600;

/// Whether a file's name is one that the local store gives its temporary files: `NAME#NUMBER`.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Deletes the temporary files of interrupted uploads, which the local store never lists. No file
/// of a version has such a name: they are refused as they come in.
///
/// What cannot be cleaned is a matter of its model alone, which says so when it is read.
fn sweep_half_written(folder: &Path, depth: usize) {
    let swept = || -> std::io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if entry.file_type()?.is_dir() {
                if depth < DEPTH_MAX {
                    sweep_half_written(&entry.path(), depth + 1);
                }
            } else if is_temporary(&name) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    };
    if let Err(e) = swept() {
        tracing::warn!("cannot clean {}: {e}", folder.display());
    }
}

/// Removes copies that a node left which did not end by itself.
fn clear(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open.map_err(|e| failed("open", &path, &e))?;
    if let Err(e) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if e != rustix::io::Errno::WOULDBLOCK {
            return Err(failed("lock", &path, &e));
        }
        let holder = Holder::read(&mut file);
        return Err(Error::new(
            ErrorKind::FailedPrecondition,
            format!("the data folder {} is in use by {holder}; give each node its own with --data", folder.display()),
        ));
    }
    write_lock(&file, None).map_err(|e| failed("write", &path, &e))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataFolder::open(dir.path()).unwrap();
        let e = DataFolder::open(dir.path()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::FailedPrecondition);
        assert!(e.message().contains(&format!("in use by another node (process {})", std::process::id())), "{e}");
        first.announce("http://127.0.0.1:8000").unwrap();
        let holder = DataFolder::holder(dir.path()).unwrap();
        assert_eq!((holder.pid, holder.url.as_deref()), (Some(std::process::id()), Some("http://127.0.0.1:8000")));
        assert!(DataFolder::open(dir.path()).unwrap_err().message().contains(", http://127.0.0.1:8000); give"));
        drop(first);
        assert_eq!(DataFolder::holder(dir.path()), None);
        assert!(DataFolder::is_one(dir.path()) && !DataFolder::is_one(&dir.path().join("none")));
        DataFolder::open(dir.path()).unwrap();
    }

    #[test]
    fn half_written_files_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataFolder::open(dir.path()).unwrap());
        let files = dir.path().join("registry/models/m/files/u");
        std::fs::create_dir_all(&files).unwrap();
        for name in ["m.onnx#1", "m.onnx", "a#b"] {
            std::fs::write(files.join(name), "x").unwrap();
        }
        drop(DataFolder::open(dir.path()).unwrap());
        let left: std::collections::BTreeSet<_> =
            std::fs::read_dir(&files).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(left.into_iter().collect::<Vec<_>>(), ["a#b", "m.onnx"]);
    }

    #[test]
    fn a_newer_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataFolder::open(dir.path()).unwrap());
        std::fs::write(dir.path().join("format"), "2\n").unwrap();
        assert!(DataFolder::open(dir.path()).unwrap_err().message().contains("has format '2'"));
        // What follows blanks that fill all that is read is not seen, and so not taken for an empty file or for 1.
        for beginning in ["", "1"] {
            let format = format!("{beginning:<20}2");
            std::fs::write(dir.path().join("format"), &format).unwrap();
            let e = DataFolder::open(dir.path()).unwrap_err();
            assert!(e.message().contains(&format!("has format '{beginning}")), "{e}");
            assert_eq!(std::fs::read_to_string(dir.path().join("format")).unwrap(), format, "left as it is");
        }
    }
}
