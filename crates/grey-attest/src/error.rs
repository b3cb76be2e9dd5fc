use std::io;
use std::path::PathBuf;

use grey_core::ErrorKind;
use grey_proof::{FormatError, Platform};

use crate::files::hex;

/// Why evidence, a key or a session cannot be had. Messages name paths of the node's machine: they are
/// for the operator. What a client may see are those of [`AttestError::NonceLength`] and
/// [`AttestError::NotRenewable`], which name none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// A file or folder cannot be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The verb and what it is of, e.g. `read the key`.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Somebody else than the owner may use a secret.
    #[error(
        "{} has mode {mode:04o}, so that others than its owner can use it; expected 0600 (chmod 600, and consider \
         whether the key has been read)",
        path.display()
    )]
    SecretMode {
        /// The secret's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A secret belongs to another user.
    #[error("{} belongs to user {found}; expected user {expected}, as whom this node runs", path.display())]
    SecretOwner {
        /// The secret's file.
        path: PathBuf,
        /// Its owner's number.
        found: u32,
        /// The effective user's number.
        expected: u32,
    },
    /// Something else than a file stands where a secret should.
    #[error("{} is {found}; expected a regular file", path.display())]
    SecretKind {
        /// Where.
        path: PathBuf,
        /// What stands there.
        found: &'static str,
    },
    /// A secret's file has another length.
    #[error("{} holds {found}; expected exactly 32 bytes. Restore it from a backup", path.display())]
    SecretLength {
        /// The secret's file.
        path: PathBuf,
        /// Its length in words.
        found: String,
    },
    /// The public half is there and the secret one is not.
    #[error(
        "node.key, the secret key of node {public}, is missing in {}. Proofs that verifiers expect of that node \
         cannot be made without it. Restore node.key, or delete node.pub there to begin a new identity",
        folder.display()
    )]
    NodeKeyMissing {
        /// The data folder.
        folder: PathBuf,
        /// The public key in hex.
        public: String,
    },
    /// `node.pub` is no public key.
    #[error(
        "{} holds '{found}'; expected a public key as 64 hex digits. If node.key beside it is the right one, delete \
         node.pub and it is written again",
        path.display()
    )]
    PublicKeyMalformed {
        /// The file.
        path: PathBuf,
        /// Its beginning, escaped.
        found: String,
    },
    /// `node.pub` is of another key than `node.key`.
    #[error(
        "node.key in {} is that of node {found}, node.pub names node {expected}. Restore the node.key that belongs \
         to it, or delete node.pub to go on as node {found}",
        folder.display()
    )]
    KeysDisagree {
        /// The data folder.
        folder: PathBuf,
        /// The key that `node.pub` names.
        expected: String,
        /// The key that `node.key` has.
        found: String,
    },
    /// The file that holds Grey's code cannot be told or read.
    #[error("cannot hash the file that holds Grey's code: {why}")]
    Code {
        /// What was looked for and found.
        why: String,
    },
    /// The source of random numbers failed.
    #[error("cannot draw random bytes: {0}")]
    Random(#[source] io::Error),
    /// A setting is out of its range.
    #[error("{name}: expected {expected}, found {found}")]
    Setting {
        /// The member of [`Settings`](crate::Settings).
        name: &'static str,
        /// Its range.
        expected: String,
        /// What was given.
        found: u64,
    },
    /// A client's nonce has a length that the format does not allow.
    #[error("nonce: expected 8 to 64 bytes, found {found}")]
    NonceLength {
        /// Its bytes.
        found: usize,
    },
    /// New evidence was asked for a session that only its stored evidence vouches for.
    #[error(
        "session {}: expected one that can get new evidence; {why}. Its stored evidence is served without a nonce",
        hex(digest)
    )]
    NotRenewable {
        /// Its name.
        digest: [u8; 32],
        /// Why this node does not vouch for it.
        why: &'static str,
    },
    /// An attester could not make evidence.
    #[error("cannot make {} evidence: {why}", platform.name())]
    Evidence {
        /// The attester's.
        platform: Platform,
        /// Its words.
        why: String,
    },
    /// What was made is not well formed.
    #[error("cannot encode a session: {0}")]
    Format(#[from] FormatError),
}

impl AttestError {
    /// What it is to a caller of the node.
    pub fn kind(&self) -> ErrorKind {
        match self {
            AttestError::NonceLength { .. } | AttestError::Setting { .. } => ErrorKind::InvalidArgument,
            AttestError::SecretMode { .. }
            | AttestError::SecretOwner { .. }
            | AttestError::SecretKind { .. }
            | AttestError::SecretLength { .. }
            | AttestError::NodeKeyMissing { .. }
            | AttestError::PublicKeyMalformed { .. }
            | AttestError::KeysDisagree { .. }
            | AttestError::NotRenewable { .. } => ErrorKind::FailedPrecondition,
            AttestError::Io { .. }
            | AttestError::Code { .. }
            | AttestError::Random(_)
            | AttestError::Evidence { .. }
            | AttestError::Format(_) => ErrorKind::Internal,
        }
    }
}
