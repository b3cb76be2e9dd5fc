//! Evidence, as a node produces it: the node's secrets in its data folder, the attester that vouches
//! for a session, and the sessions with whose keys proofs are signed.
//!
//! Its place in the whole: `grey-proof` says what evidence, manifests and bundles look like and reads
//! them anywhere; this crate makes them, on the one machine that may. The node signs the claims of an
//! executed batch with [`Sessions::current`], and its front answers `GET /grey/v1/sessions/<digest>`
//! with [`Sessions::bundle`]. It may use `grey-core`, `grey-proof` and the file system; it knows neither
//! models nor requests nor HTTP, starts no thread and has no runtime. Time comes in as Unix seconds,
//! chance as a [`Random`]. Files are read and written synchronously, so a caller inside a runtime opens
//! and [maintains](Sessions::maintain) sessions from a thread that may block.
//!
//! The data folder is the node's alone (the registry's `DataFolder` locks it); in it lie here `node.key`,
//! `node.pub`, `tenant-tag.key` and `sessions/`. `docs/proof-format.md` is the format's specification.

#![deny(unsafe_code)]

mod attester;
mod code;
mod error;
mod files;
mod keys;
mod random;
mod sessions;
mod store;

pub use attester::{Attester, SoftwareAttester};
pub use code::code_sha256;
pub use error::AttestError;
pub use keys::{NodeKey, TenantTagKey};
pub use random::{OsRandom, Random};
pub use sessions::{
    EVIDENCE_AGE_MAX_S, EVIDENCE_RENEWAL_S, LIVE_SESSIONS_MAX, NONCE_BYTES, SESSION_LIFETIME_MAX_S, SESSION_LIFETIME_S,
    SESSION_OVERLAP_S, SESSION_RETENTION_S, SESSIONS_KEPT_MAX, Session, Sessions, Settings,
};
