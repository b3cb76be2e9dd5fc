//! The files of a model, as a user names them: one, several, or a folder.

use std::{
    collections::BTreeMap,
    fs::Metadata,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

use grey_registry::FilePath;
use grey_serving::main_file;

use crate::failure::Failure;

/// Files of one model: as many as a registry takes.
const FILES_MAX: usize = 10_000;
/// Deepest folder that is looked into.
const DEPTH_MAX: usize = 64;

/// A file of a model.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Its name in the version.
    pub(super) name: FilePath,
    /// Where it is.
    pub(super) path: PathBuf,
    /// Bytes.
    pub(super) size: u64,
}

/// The files that make up one model, of a file, several, or a folder: the name of each in the version, and where it
/// is.
///
/// # Errors
/// [`grey_core::ErrorKind::InvalidArgument`] where something cannot be read, is no regular file, or is no model.
pub fn model_files(paths: &[PathBuf]) -> grey_core::Result<Vec<(FilePath, PathBuf)>> {
    let found = collect(paths).map_err(|f| {
        let hints: String = f.hints.iter().map(|h| format!("; {h}")).collect();
        grey_core::Error::invalid(format!("{}{hints}", f.message))
    })?;
    Ok(found.into_iter().map(|s| (s.name, s.path)).collect())
}

/// Finds the files that make up one model, each by the name that it has in the version, in the order of names.
pub(super) fn collect(paths: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    let mut found = BTreeMap::new();
    for path in paths {
        let meta = std::fs::metadata(path).map_err(|e| unreadable(path, &e))?;
        if meta.is_dir() {
            if paths.len() > 1 {
                return Err(Failure::usage(format!(
                    "{} is a folder: expected one folder alone, or several files",
                    path.display()
                )));
            }
            walk(path, "", 0, &mut found)?;
            if found.is_empty() {
                return Err(Failure::refused(format!("the folder {} is empty", path.display())));
            }
        } else {
            let name = path.file_name().ok_or_else(|| Failure::usage(format!("{} names no file", path.display())))?;
            put(&mut found, text_of(path, name)?, path, &meta)?;
        }
    }
    let found: Vec<Source> = found.into_values().collect();
    let main = main_file(found.iter().map(|s| s.name.as_str()));
    main.map_err(|e| Failure::refused(e.message()))?;
    Ok(found)
}

fn walk(folder: &Path, prefix: &str, depth: usize, found: &mut BTreeMap<String, Source>) -> Result<(), Failure> {
    if depth > DEPTH_MAX {
        return Err(Failure::refused(format!("{}: folders lie more than {DEPTH_MAX} deep", folder.display())));
    }
    let entries = std::fs::read_dir(folder).map_err(|e| unreadable(folder, &e))?;
    for entry in entries {
        let entry = entry.map_err(|e| unreadable(folder, &e))?;
        let path = entry.path();
        let name = text_of(&path, &entry.file_name())?;
        if name.starts_with('.') {
            return Err(Failure::refused(format!(
                "{} is hidden, and would be registered with the model",
                path.display()
            ))
            .hint("remove it from the folder, or name the model's files one by one"));
        }
        // Of the link itself, should it be one.
        let meta = entry.metadata().map_err(|e| unreadable(&path, &e))?;
        if meta.is_symlink() {
            return Err(Failure::refused(format!(
                "{} is a symbolic link: a folder's files are registered as they are",
                path.display()
            ))
            .hint(format!("copy the folder with what its links mean: cp -rL {} FOLDER", folder.display())));
        }
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if meta.is_dir() {
            walk(&path, &name, depth + 1, found)?;
        } else {
            put(found, name, &path, &meta)?;
        }
    }
    Ok(())
}

fn put(found: &mut BTreeMap<String, Source>, name: String, path: &Path, meta: &Metadata) -> Result<(), Failure> {
    if !meta.is_file() {
        let kind = meta.file_type();
        let what = match () {
            () if kind.is_fifo() => "a pipe",
            () if kind.is_socket() => "a socket",
            () if kind.is_block_device() || kind.is_char_device() => "a device",
            () => "no regular file",
        };
        return Err(Failure::refused(format!("{} is {what}: a model's files are regular files", path.display())));
    }
    let source = Source {
        name: FilePath::new(name.clone())
            .map_err(|e| Failure::refused(format!("{}: {}", path.display(), e.message())))?,
        path: path.to_owned(),
        size: meta.len(),
    };
    if let Some(other) = found.insert(name, source) {
        return Err(Failure::usage(format!(
            "{} and {} have the same name: in a version names are unique",
            other.path.display(),
            path.display()
        ))
        .hint("put the files into one folder, and name that"));
    }
    if found.len() > FILES_MAX {
        return Err(Failure::refused(format!("there are more than {FILES_MAX} files, which one version may have")));
    }
    Ok(())
}

fn text_of(path: &Path, name: &std::ffi::OsStr) -> Result<String, Failure> {
    name.to_str().map(str::to_owned).ok_or_else(|| {
        Failure::refused(format!("the name of {} is not UTF-8, which names in a version are", path.display()))
    })
}

fn unreadable(path: &Path, e: &std::io::Error) -> Failure {
    Failure::refused(format!("cannot read {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

    use super::*;

    fn names(paths: &[PathBuf]) -> Vec<String> {
        collect(paths).unwrap().into_iter().map(|s| s.name.to_string()).collect()
    }

    #[test]
    fn a_folder_a_file_and_files() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("sub")).unwrap();
        for name in ["m.onnx", "m.data", "sub/w"] {
            std::fs::write(at(name), name).unwrap();
        }
        assert_eq!(names(&[dir.path().to_owned()]), ["m.data", "m.onnx", "sub/w"]);
        assert_eq!(names(&[at("m.onnx")]), ["m.onnx"]);
        assert_eq!(names(&[at("sub/w"), at("m.onnx")]), ["m.onnx", "w"]);
        // Named itself, a link is what it points to.
        std::os::unix::fs::symlink(at("m.onnx"), at("link.onnx")).unwrap();
        assert_eq!(names(&[at("link.onnx")]), ["link.onnx"]);
        let f = collect(&[at("m.onnx"), at("sub")]).unwrap_err();
        assert!(
            f.exit == crate::EXIT_USAGE && f.message.contains("sub is a folder: expected one folder alone"),
            "{f:?}"
        );
        std::fs::write(at("sub/m.onnx"), "x").unwrap();
        assert!(collect(&[at("m.onnx"), at("sub/m.onnx")]).unwrap_err().message.contains("have the same name"));
    }

    #[test]
    fn what_a_folder_must_not_have_is_named() {
        let says = |make: &dyn Fn(&Path), says: &str| {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("m.onnx"), "x").unwrap();
            make(dir.path());
            let f = collect(&[dir.path().to_owned()]).unwrap_err();
            assert!(f.message.contains(says), "{f:?} should say {says}");
        };
        says(&|d| std::os::unix::fs::symlink("m.onnx", d.join("l.data")).unwrap(), "l.data is a symbolic link");
        says(&|d| std::fs::write(d.join(".DS_Store"), "x").unwrap(), ".DS_Store is hidden");
        says(&|d| std::fs::create_dir(d.join(".git")).unwrap(), ".git is hidden");
        says(&|d| drop(std::os::unix::net::UnixListener::bind(d.join("s")).unwrap()), "s is a socket");
        says(&|d| std::fs::write(d.join(OsStr::from_bytes(b"w\xff")), "x").unwrap(), "is not UTF-8");
        says(&|d| std::fs::write(d.join("a\\b"), "x").unwrap(), "invalid file name");
        says(&|d| std::fs::write(d.join("n.onnx"), "x").unwrap(), "2 files are models (m.onnx, n.onnx)");
        says(&|d| std::fs::remove_file(d.join("m.onnx")).unwrap(), "is empty");
        let none = |d: &Path| std::fs::rename(d.join("m.onnx"), d.join("m.bin")).unwrap();
        says(&none, "cannot tell the engine of 'm.bin'");
        assert!(collect(&["/none".into()]).unwrap_err().message.starts_with("cannot read /none: "));
        assert!(collect(&["/dev/null".into()]).unwrap_err().message.contains("/dev/null is a device"));
    }
}
