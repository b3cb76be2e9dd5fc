use std::fmt;
use std::fs::Metadata;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use grey_proof::{SigningKey, tenant_tag};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::files::{
    HALF_WRITTEN, beside, create_new, failed, hex, kind_of, open_itself, read_file, remove_if_there, replace,
    sync_folder_of, unhex32,
};
use crate::{AttestError, Random};

const NODE_KEY: &str = "node.key";
const NODE_PUB: &str = "node.pub";
const TENANT_TAG_KEY: &str = "tenant-tag.key";

/// Length of every secret here.
const SECRET_BYTES: usize = 32;
/// Most of a public key's file that is looked at: 64 digits, an end of line, and room to show what
/// else stands there.
const PUBLIC_FILE_BYTES_MAX: usize = 256;
const SECRET_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;

type Secret = Zeroizing<[u8; SECRET_BYTES]>;

/// The node's identity: an Ed25519 key in the data folder, drawn once, whose public half verifiers may
/// expect. `node.key` holds the 32 secret bytes (RFC 8032 §5.1.5), `node.pub` the public key in hex.
pub struct NodeKey {
    key: SigningKey,
}

impl NodeKey {
    /// Reads the key in `folder`, the locked data folder, or draws one where there is neither half.
    ///
    /// `node.pub` is written after the key and is the record that one was there: a folder that names a
    /// node without its secret is refused rather than given a new identity behind the verifiers' backs.
    ///
    /// # Errors
    /// A secret that is missing, readable by others, another user's, a link, or of another length;
    /// halves that do not belong together; failing files or random numbers.
    pub fn open(folder: &Path, random: &dyn Random) -> Result<NodeKey, AttestError> {
        let (secret_path, public_path) = (folder.join(NODE_KEY), folder.join(NODE_PUB));
        let public = read_public(&public_path)?;
        let secret = match (read_secret(&secret_path)?, &public) {
            (Some(secret), _) => secret,
            (None, Some(public)) => {
                return Err(AttestError::NodeKeyMissing { folder: folder.to_owned(), public: hex(public) });
            }
            (None, None) => make_secret(&secret_path, random)?,
        };
        let key = NodeKey { key: SigningKey::from_bytes(&secret) };
        match public {
            Some(public) if public == key.public() => {}
            Some(public) => {
                let (expected, found) = (hex(&public), hex(&key.public()));
                return Err(AttestError::KeysDisagree { folder: folder.to_owned(), expected, found });
            }
            None => {
                let line = format!("{}\n", hex(&key.public()));
                replace(&public_path, line.as_bytes(), PUBLIC_MODE).map_err(failed("write", &public_path))?;
            }
        }
        Ok(key)
    }

    /// The public key: `node_key` of SOFTWARE evidence.
    pub fn public(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    pub(crate) fn signing_key(&self) -> &SigningKey {
        &self.key
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({})", hex(&self.public()))
    }
}

/// The key that turns tenants' names into the tags that stand in claims. Whoever lacks it can neither
/// read a name from a tag nor tell whether two nodes' tags are of one tenant; nodes that should give a
/// tenant one tag are configured with one key.
pub struct TenantTagKey {
    key: Secret,
}

impl TenantTagKey {
    /// Reads `tenant-tag.key` in `folder`, the locked data folder, or draws it.
    ///
    /// # Errors
    /// As [`NodeKey::open`], for one file.
    pub fn open(folder: &Path, random: &dyn Random) -> Result<TenantTagKey, AttestError> {
        let path = folder.join(TENANT_TAG_KEY);
        let key = match read_secret(&path)? {
            Some(key) => key,
            None => make_secret(&path, random)?,
        };
        Ok(TenantTagKey { key })
    }

    /// A key from the configuration.
    pub fn from_bytes(key: [u8; 32]) -> TenantTagKey {
        TenantTagKey { key: Zeroizing::new(key) }
    }

    /// The tag of `tenant`: claim −70001.
    pub fn tag(&self, tenant: &str) -> [u8; 16] {
        tenant_tag(&self.key, tenant)
    }
}

impl fmt::Debug for TenantTagKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TenantTagKey(..)")
    }
}

fn read_public(path: &Path) -> Result<Option<[u8; 32]>, AttestError> {
    let bytes = match read_file(path, PUBLIC_FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("read", path)(e)),
    };
    let text = String::from_utf8_lossy(&bytes);
    // Hex of either case, since an operator may have restored it from a note.
    match unhex32(&text.trim().to_ascii_lowercase()) {
        Some(public) => Ok(Some(public)),
        None => {
            let found = text.chars().take(80).flat_map(char::escape_default).collect();
            Err(AttestError::PublicKeyMalformed { path: path.to_owned(), found })
        }
    }
}

fn read_secret(path: &Path) -> Result<Option<Secret>, AttestError> {
    // Left by a start that was cut short: a key that nobody has seen, or a second name of this one. It
    // cannot be that of another node which is just starting, since the data folder is locked.
    let left = beside(path, HALF_WRITTEN);
    remove_if_there(&left).map_err(failed("remove", &left))?;
    let mut file = match open_itself(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) if e.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            return Err(AttestError::SecretKind { path: path.to_owned(), found: "a symbolic link" });
        }
        Err(e) => return Err(failed("open", path)(e)),
    };
    // Of the open file, not of its name, which may by now be another's.
    let found = file.metadata().map_err(failed("look at", path))?;
    check_kept_secret(path, &found, rustix::process::geteuid().as_raw())?;
    // One byte more than a secret has, so that a longer file shows.
    let mut bytes = Zeroizing::new([0; SECRET_BYTES + 1]);
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed("read", path)(e)),
        }
    }
    match bytes.first_chunk::<SECRET_BYTES>() {
        Some(secret) if filled == SECRET_BYTES => Ok(Some(Zeroizing::new(*secret))),
        _ => {
            let found =
                if filled > SECRET_BYTES { format!("{} bytes", found.len()) } else { format!("{filled} bytes") };
            Err(AttestError::SecretLength { path: path.to_owned(), found })
        }
    }
}

/// Whether only `user`, as whom we run, can have read or written it.
fn check_kept_secret(path: &Path, found: &Metadata, user: u32) -> Result<(), AttestError> {
    if !found.is_file() {
        return Err(AttestError::SecretKind { path: path.to_owned(), found: kind_of(found) });
    }
    if found.uid() != user {
        return Err(AttestError::SecretOwner { path: path.to_owned(), found: found.uid(), expected: user });
    }
    let mode = found.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(AttestError::SecretMode { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Draws a secret and writes it as `path`, which never holds less than all of it and is never
/// overwritten: it is written under another name, synced, and linked.
fn make_secret(path: &Path, random: &dyn Random) -> Result<Secret, AttestError> {
    let new = beside(path, HALF_WRITTEN);
    let mut secret = Zeroizing::new([0; SECRET_BYTES]);
    random.fill(secret.as_mut_slice()).map_err(AttestError::Random)?;
    create_new(&new, secret.as_slice(), SECRET_MODE).map_err(failed("write", &new))?;
    std::fs::hard_link(&new, path).map_err(failed("make", path))?;
    remove_if_there(&new).map_err(failed("remove", &new))?;
    sync_folder_of(path).map_err(failed("sync the folder of", path))?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::fs::Permissions;
    use std::path::PathBuf;

    use super::*;
    use crate::OsRandom;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        (dir, path)
    }

    fn refused(path: &Path) -> String {
        NodeKey::open(path, &OsRandom).unwrap_err().to_string()
    }

    struct Broken;
    impl Random for Broken {
        fn fill(&self, _: &mut [u8]) -> io::Result<()> {
            Err(io::Error::other("no entropy"))
        }
    }

    #[test]
    fn drawn_once_and_found_again() {
        let (_dir, path) = folder();
        let first = NodeKey::open(&path, &OsRandom).unwrap();
        assert_eq!(mode(&path.join("node.key")), 0o600);
        assert_eq!(mode(&path.join("node.pub")), 0o644);
        assert_eq!(fs::read_to_string(path.join("node.pub")).unwrap(), format!("{}\n", hex(&first.public())));
        assert_eq!(fs::read_dir(&path).unwrap().count(), 2, "no leftovers");
        // Neither the file nor a message shows the secret.
        let secret = fs::read(path.join("node.key")).unwrap();
        assert!(!format!("{first:?}").contains(&hex(&secret)));
        assert_eq!(NodeKey::open(&path, &Broken).unwrap().public(), first.public());
        let (_other, elsewhere) = folder();
        assert_ne!(NodeKey::open(&elsewhere, &OsRandom).unwrap().public(), first.public());
    }

    #[test]
    fn lost_secret_is_not_replaced() {
        let (_dir, path) = folder();
        let key = NodeKey::open(&path, &OsRandom).unwrap();
        fs::remove_file(path.join("node.key")).unwrap();
        let text = refused(&path);
        assert!(text.contains(&hex(&key.public())) && text.contains(path.to_str().unwrap()), "{text}");
        assert!(text.contains("delete node.pub"), "{text}");
        assert!(!path.join("node.key").exists());
        fs::remove_file(path.join("node.pub")).unwrap();
        assert_ne!(NodeKey::open(&path, &OsRandom).unwrap().public(), key.public());
    }

    #[test]
    fn public_half_is_written_again() {
        let (_dir, path) = folder();
        let key = NodeKey::open(&path, &OsRandom).unwrap();
        let written = fs::read(path.join("node.pub")).unwrap();
        fs::remove_file(path.join("node.pub")).unwrap();
        assert_eq!(NodeKey::open(&path, &OsRandom).unwrap().public(), key.public());
        assert_eq!(fs::read(path.join("node.pub")).unwrap(), written);
    }

    #[test]
    fn halves_of_two_keys_are_refused() {
        let ((_a, path), (_b, other)) = (folder(), folder());
        let (one, two) = (NodeKey::open(&path, &OsRandom).unwrap(), NodeKey::open(&other, &OsRandom).unwrap());
        fs::copy(other.join("node.pub"), path.join("node.pub")).unwrap();
        let text = refused(&path);
        assert!(text.contains(&hex(&one.public())) && text.contains(&hex(&two.public())), "{text}");
        fs::write(path.join("node.pub"), "ssh-ed25519 \n\u{7}").unwrap();
        assert!(refused(&path).contains("ssh-ed25519 \\n\\u{7}"));
        fs::write(path.join("node.pub"), "0".repeat(4096)).unwrap();
        assert!(refused(&path).contains("at most 256 bytes"));
        fs::write(path.join("node.pub"), hex(&one.public()).to_ascii_uppercase()).unwrap();
        NodeKey::open(&path, &OsRandom).unwrap();
    }

    #[test]
    fn secrets_that_others_could_read_are_refused() {
        let (_dir, path) = folder();
        let key = NodeKey::open(&path, &OsRandom).unwrap();
        TenantTagKey::open(&path, &OsRandom).unwrap();
        for name in ["node.key", "tenant-tag.key"] {
            let file = path.join(name);
            let open = || match name {
                "node.key" => NodeKey::open(&path, &OsRandom).map(|_| ()),
                _ => TenantTagKey::open(&path, &OsRandom).map(|_| ()),
            };
            for bits in [0o640, 0o604, 0o620, 0o610, 0o601, 0o666] {
                fs::set_permissions(&file, Permissions::from_mode(bits)).unwrap();
                let text = open().unwrap_err().to_string();
                assert!(text.contains(&format!("mode {bits:04o}")) && text.contains("0600"), "{text}");
                assert!(text.contains(file.to_str().unwrap()), "{text}");
            }
            fs::set_permissions(&file, Permissions::from_mode(0o400)).unwrap();
            open().unwrap();
        }
        assert_eq!(NodeKey::open(&path, &OsRandom).unwrap().public(), key.public());
    }

    #[test]
    fn another_users_secret_is_refused() {
        let (_dir, path) = folder();
        NodeKey::open(&path, &OsRandom).unwrap();
        let file = path.join("node.key");
        let (found, us) = (fs::metadata(&file).unwrap(), rustix::process::geteuid().as_raw());
        check_kept_secret(&file, &found, us).unwrap();
        let text = check_kept_secret(&file, &found, us + 1).unwrap_err().to_string();
        assert!(text.contains(&format!("belongs to user {us}; expected user {}", us + 1)), "{text}");
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let (_dir, path) = folder();
        NodeKey::open(&path, &OsRandom).unwrap();
        let file = path.join("node.key");
        let whole = fs::read(&file).unwrap();
        for length in [0, 31, 33, 1000] {
            fs::write(&file, vec![7; length]).unwrap();
            assert!(refused(&path).contains(&format!("holds {length} bytes; expected exactly 32")), "{length}");
        }
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert!(refused(&path).contains("is a folder; expected a regular file"));
        fs::remove_dir(&file).unwrap();
        fs::write(path.join("elsewhere"), &whole).unwrap();
        fs::set_permissions(path.join("elsewhere"), Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("elsewhere", &file).unwrap();
        assert!(refused(&path).contains("is a symbolic link"));
        fs::remove_file(&file).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert!(refused(&path).contains("is a named pipe"));
    }

    /// Every state of the folder in which the creation could have been cut short.
    #[test]
    fn opens_after_a_creation_that_was_cut_short() {
        let (_dir, whole) = folder();
        NodeKey::open(&whole, &OsRandom).unwrap();
        let secret = fs::read(whole.join("node.key")).unwrap();
        for half in [&secret[..0], &secret[..7], &secret[..]] {
            let (_dir, path) = folder();
            create_new(&path.join("node.key.new"), half, 0o600).unwrap();
            NodeKey::open(&path, &OsRandom).unwrap();
            assert_ne!(fs::read(path.join("node.key")).unwrap(), secret);
            assert_eq!(fs::read_dir(&path).unwrap().count(), 2);
        }
        // Linked, and the other name not removed yet.
        let (_dir, path) = folder();
        create_new(&path.join("node.key.new"), &secret, 0o600).unwrap();
        fs::hard_link(path.join("node.key.new"), path.join("node.key")).unwrap();
        NodeKey::open(&path, &OsRandom).unwrap();
        assert_eq!(fs::read(path.join("node.key")).unwrap(), secret);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 2);
        // The public half began.
        for half in ["", "00"] {
            let (_dir, path) = folder();
            create_new(&path.join("node.key"), &secret, 0o600).unwrap();
            fs::write(path.join("node.pub.new"), half).unwrap();
            NodeKey::open(&path, &OsRandom).unwrap();
            assert_eq!(fs::read(path.join("node.pub")).unwrap(), fs::read(whole.join("node.pub")).unwrap());
            assert_eq!(fs::read_dir(&path).unwrap().count(), 2);
        }
    }

    #[test]
    fn without_chance_nothing_is_made() {
        let (_dir, path) = folder();
        assert!(matches!(NodeKey::open(&path, &Broken), Err(AttestError::Random(_))));
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        assert!(matches!(NodeKey::open(&path.join("none"), &OsRandom), Err(AttestError::Io { .. })));
    }

    #[test]
    fn tenant_tags() {
        let (_dir, path) = folder();
        let key = TenantTagKey::open(&path, &OsRandom).unwrap();
        assert_eq!(mode(&path.join("tenant-tag.key")), 0o600);
        let bytes: [u8; 32] = fs::read(path.join("tenant-tag.key")).unwrap().try_into().unwrap();
        assert_eq!(key.tag("a"), TenantTagKey::from_bytes(bytes).tag("a"));
        assert_eq!(key.tag("a"), TenantTagKey::open(&path, &Broken).unwrap().tag("a"));
        assert_ne!(key.tag("a"), key.tag("b"));
        assert!(!format!("{key:?}").contains(&hex(&bytes)));
        fs::write(path.join("tenant-tag.key"), [1; 31]).unwrap();
        assert!(TenantTagKey::open(&path, &OsRandom).unwrap_err().to_string().contains("31 bytes"));
    }
}
