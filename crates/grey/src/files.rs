//! The user's files.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{ErrorKind, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::failure::Failure;

/// Largest file that is read, in bytes: a request that a node takes by default.
const BYTES_MAX: u64 = 256 << 20;

/// A whole file; `-` is standard input.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = if is_standard_input(path) {
        std::io::stdin().lock().take(BYTES_MAX + 1).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|f| f.take(BYTES_MAX + 1).read_to_end(&mut bytes))
    };
    read.map_err(|e| Failure::refused(format!("cannot read {}: {e}", shown(path))))?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(Failure::refused(format!("{} is larger than {BYTES_MAX} bytes", shown(path))));
    }
    Ok(bytes)
}

/// Whether a path stands for standard input, where a file is read.
pub(crate) fn is_standard_input(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// What a path is called in messages.
pub(crate) fn shown(path: &Path) -> String {
    if is_standard_input(path) { "standard input".to_owned() } else { path.display().to_string() }
}

/// A whole file of text.
pub(crate) fn read_text(path: &Path) -> Result<String, Failure> {
    text(path, read(path)?)
}

/// The content of `path` as text.
pub(crate) fn text(path: &Path, bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Failure::refused(format!("{} is not UTF-8: invalid at byte {at}", shown(path)))
    })
}

/// Writes a whole file.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes).map_err(|e| cannot_write(path, &e))
}

/// A flag, and the file that it names.
pub(crate) type Named<'a> = (&'static str, &'a Path);

/// Sees to it, before there is anything to lose, that each file of `written` can be written, and that it is
/// no other of them and none of `read`. What lies there stays as it is.
pub(crate) fn can_write(read: &[Named<'_>], written: &[Named<'_>]) -> Result<(), Failure> {
    let read = read.iter().filter(|(_, path)| !is_standard_input(path));
    let mut taken: Vec<(&str, Identity)> =
        read.filter_map(|(flag, path)| Some((*flag, identity(&std::fs::metadata(path).ok()?)?))).collect();
    // Until the end: the number of a file that is gone may be given to the next.
    let mut trials = Vec::new();
    for (flag, path) in written {
        if is_standard_input(path) {
            return Err(Failure::usage(format!("{flag}: expected the name of a file to write, found '-'"))
                .hint("'-' is standard input where a file is read; a file of that name is ./-"));
        }
        let trial = Trial::of(path)?;
        if let Some(identity) = trial.identity {
            if let Some((other, _)) = taken.iter().find(|(_, taken)| *taken == identity) {
                let path = path.display();
                return Err(Failure::usage(format!("{flag} would overwrite {path}, which {other} names as well"))
                    .hint("give each of them a file of its own"));
            }
            taken.push((flag, identity));
        }
        trials.push(trial);
    }
    Ok(())
}

/// Device and number: the same for all names and links of a file.
type Identity = (u64, u64);

/// None of what is no regular file: terminals and pipes may be named twice.
fn identity(metadata: &Metadata) -> Option<Identity> {
    metadata.is_file().then(|| (metadata.dev(), metadata.ino()))
}

/// A file that was opened to be written, to see whether it can be.
struct Trial {
    identity: Option<Identity>,
    /// What was not there before.
    made: Option<PathBuf>,
}

impl Trial {
    fn of(path: &Path) -> Result<Trial, Failure> {
        let refused = |e: std::io::Error| cannot_write(path, &e);
        match std::fs::metadata(path) {
            // To open a pipe would wait for its reader.
            Ok(m) if !m.is_file() && !m.is_dir() => return Ok(Trial { identity: None, made: None }),
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(refused(e)),
        }
        let mut options = OpenOptions::new();
        options.write(true);
        let (file, made) = match options.clone().create_new(true).open(path) {
            Ok(file) => (file, Some(path.to_owned())),
            // Also a link to a file that is not there yet.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                (options.create(true).truncate(false).open(path).map_err(refused)?, None)
            }
            Err(e) => return Err(refused(e)),
        };
        let mut trial = Trial { identity: None, made };
        trial.identity = identity(&file.metadata().map_err(refused)?);
        Ok(trial)
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Some(path) = &self.made {
            // An empty file that stays does no harm.
            let _stays = std::fs::remove_file(path);
        }
    }
}

fn cannot_write(path: &Path, e: &std::io::Error) -> Failure {
    Failure::refused(format!("cannot write {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EXIT_REFUSED, EXIT_USAGE};

    #[test]
    fn no_file_is_written_over_another() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("x"), "kept").unwrap();
        std::os::unix::fs::symlink(at("x"), at("link")).unwrap();
        std::fs::hard_link(at("x"), at("hard")).unwrap();
        std::os::unix::fs::symlink(at("new"), at("dangling")).unwrap();
        std::fs::create_dir(at("d")).unwrap();
        let check = |input: &str, output: &str, prove: &str| {
            can_write(&[("--input", &at(input))], &[("--output", &at(output)), ("--prove", &at(prove))])
        };
        for (input, output, prove, says) in [
            ("x", "x", "p", "--output would overwrite "),
            ("x", "y", "x", "/x, which --input names as well"),
            ("x", "y", "link", "--prove would overwrite "),
            ("x", "hard", "p", "--output would overwrite "),
            ("x", "d/../x", "p", "--output would overwrite "),
            ("x", "y", "y", "/y, which --output names as well"),
            ("x", "y", "d/../y", "which --output names as well"),
            ("x", "dangling", "new", "/new, which --output names as well"),
        ] {
            let f = check(input, output, prove).unwrap_err();
            assert!(f.exit == EXIT_USAGE && f.message.contains(says), "{f:?} should say {says}");
        }
        for (output, prove) in [("none/y", "p"), ("y", "none/p"), ("d", "p"), ("x/y", "p")] {
            let f = check("x", output, prove).unwrap_err();
            assert!(f.exit == EXIT_REFUSED && f.message.starts_with("cannot write "), "{f:?}");
        }
        check("x", "y", "p").unwrap();
        check("none", "hard", "p").unwrap();
        let devices = ("--output", Path::new("/dev/null"));
        can_write(&[("--input", Path::new("-"))], &[devices, ("--prove", Path::new("/dev/null"))]).unwrap();
        let f = can_write(&[], &[("--prove", Path::new("-"))]).unwrap_err();
        assert!(f.exit == EXIT_USAGE && f.message.ends_with("found '-'"), "{f:?}");
        // The check leaves everything as it was.
        assert_eq!(std::fs::read(at("x")).unwrap(), b"kept");
        assert!(!at("y").exists() && !at("p").exists());
    }
}
