//! Hashes of files and of versions (`model_hash`), and the paths that they cover.

use std::{fmt, str::FromStr};

use grey_core::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Longest path of a file in a version, in bytes: fits every object store's key.
const PATH_BYTES_MAX: usize = 512;
/// Longest part of such a path, in bytes: what file systems take, less what the local store adds to
/// a file that it is writing.
const SEGMENT_BYTES_MAX: usize = 200;

/// A SHA-256 hash; lower-case hex in text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256Hash(pub [u8; 32]);

impl Sha256Hash {
    /// Of bytes.
    pub fn of(data: &[u8]) -> Self {
        Sha256Hash(Sha256::digest(data).into())
    }
}

impl fmt::Display for Sha256Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base16ct::lower::encode_string(&self.0))
    }
}

impl fmt::Debug for Sha256Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Sha256Hash {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let mut hash = [0; 32];
        match base16ct::lower::decode(s, &mut hash) {
            Ok(read) if read.len() == 32 => Ok(Sha256Hash(hash)),
            _ => Err(Error::invalid("a SHA-256 hash is 64 lower-case hex digits")),
        }
    }
}

impl TryFrom<String> for Sha256Hash {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<Sha256Hash> for String {
    fn from(h: Sha256Hash) -> String {
        h.to_string()
    }
}

/// How a version's hash covers its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HashScheme {
    /// One file: its SHA-256.
    #[serde(rename = "sha256-file")]
    File,
    /// Several: the SHA-256 of what `sha256sum` prints for them in byte order of their paths.
    #[serde(rename = "sha256-files")]
    Files,
}

impl HashScheme {
    /// The scheme's name in manifests and proofs.
    pub const fn name(self) -> &'static str {
        match self {
            HashScheme::File => "sha256-file",
            HashScheme::Files => "sha256-files",
        }
    }
}

/// A version's hash. Scheme and hash are compared together: a file that holds the lines of
/// `sha256sum` would else pass for the files they name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelHash {
    /// How it covers the files.
    pub scheme: HashScheme,
    /// The hash.
    pub sha256: Sha256Hash,
}

impl ModelHash {
    /// Of files by path and hash; `None` of none.
    pub fn of<'a>(files: impl IntoIterator<Item = (&'a FilePath, Sha256Hash)>) -> Option<ModelHash> {
        let mut files: Vec<_> = files.into_iter().collect();
        files.sort_by(|a, b| a.0.as_str().as_bytes().cmp(b.0.as_str().as_bytes()));
        match files.as_slice() {
            [] => None,
            [(_, sha256)] => Some(ModelHash { scheme: HashScheme::File, sha256: *sha256 }),
            several => {
                let lines: String = several.iter().map(|(path, hash)| format!("{hash}  {path}\n")).collect();
                Some(ModelHash { scheme: HashScheme::Files, sha256: Sha256Hash::of(lines.as_bytes()) })
            }
        }
    }
}

impl fmt::Display for ModelHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.scheme.name(), self.sha256)
    }
}

/// Path of a file within a version: relative, `/` between segments, none of them empty, `.` or
/// `..` or very long, no backslash, no control character.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FilePath(String);

impl FilePath {
    /// Checks the rules above.
    pub fn new(path: impl Into<String>) -> Result<Self> {
        let path = path.into();
        let segment = |s: &str| !s.is_empty() && s != "." && s != ".." && s.len() <= SEGMENT_BYTES_MAX;
        let ok = path.len() <= PATH_BYTES_MAX
            && path.split('/').all(segment)
            && !path.chars().any(|c| c == '\\' || c < ' ' || c == '\u{7f}');
        if ok {
            return Ok(FilePath(path));
        }
        let shown: String = path.chars().take(80).flat_map(char::escape_default).collect();
        Err(Error::invalid(format!(
            "invalid file name '{shown}': expected a relative path of at most {PATH_BYTES_MAX} bytes, with '/' between \
             its parts, none of them empty, '.', '..' or longer than {SEGMENT_BYTES_MAX} bytes, and without \
             backslashes or control characters"
        )))
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for FilePath {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        FilePath::new(s)
    }
}

impl From<FilePath> for String {
    fn from(p: FilePath) -> String {
        p.0
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn path(p: &str) -> FilePath {
        FilePath::new(p).unwrap()
    }

    /// The real program is the authority on what it prints.
    #[test]
    fn model_hash_is_what_sha256sum_prints() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        let files = [("b.txt", "two"), ("a b.onnx", "one"), ("sub/z", "three"), ("B", "")];
        for (p, text) in files {
            std::fs::write(dir.path().join(p), text).unwrap();
        }
        let sum = |args: &[&str]| {
            let out = Command::new("sha256sum").args(args).current_dir(dir.path()).output().unwrap();
            assert!(out.status.success());
            out.stdout
        };
        let of = |p: &str| files.iter().find(|f| f.0 == p).map(|f| Sha256Hash::of(f.1.as_bytes())).unwrap();
        let one = ModelHash::of([(&path("b.txt"), of("b.txt"))]).unwrap();
        assert!(sum(&["b.txt"]).starts_with(one.sha256.to_string().as_bytes()));
        assert_eq!(one.scheme, HashScheme::File);

        let paths: Vec<FilePath> = files.iter().map(|f| path(f.0)).collect();
        let all = ModelHash::of(paths.iter().map(|p| (p, of(p.as_str())))).unwrap();
        // Byte order of the paths.
        let printed = sum(&["B", "a b.onnx", "b.txt", "sub/z"]);
        assert_eq!(all, ModelHash { scheme: HashScheme::Files, sha256: Sha256Hash::of(&printed) });
    }

    #[test]
    fn path_tricks_are_refused() {
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            "../a",
            "a/../b",
            "./a",
            "a\\b",
            "a\nb",
            "a\0",
            "a\u{7f}",
            &"x".repeat(201),
            &"x/".repeat(300),
        ] {
            assert!(FilePath::new(bad).is_err(), "{bad:?}");
        }
        for good in ["model.onnx", "a/b c/é.bin", "..a"] {
            assert_eq!(path(good).as_str(), good);
        }
        assert!("ABCD".parse::<Sha256Hash>().is_err());
    }
}
