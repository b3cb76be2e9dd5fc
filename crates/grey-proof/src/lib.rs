//! Proofs of inference: hashes, claims, signatures and bundles, as a Grey node makes them and as anyone
//! reads them.
//!
//! What has been read is well formed (check 1 of §5, for bytes), not yet believed: signatures, binding
//! and inclusion are functions of their own.
//!
//! The crate is pure. It performs no I/O, reads no clock, draws no random numbers and starts no
//! threads (`tests/purity.rs` sees to it), so it builds for `wasm32` and the same bytes, policy and
//! time give the same verdict everywhere. Keys, times and random values come in as arguments.
//!
//! Section numbers (§) in these docs are those of the Grey proof format, version 1.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

mod bundle;
mod cbor;
mod claims;
mod cose;
mod error;
mod hash;
mod merkle;
mod session;
mod signature;
mod software;

pub use bundle::{BUNDLE_BYTES_MAX, Bundle, Collateral, SessionBundle, SessionEvidence};
pub use claims::{
    CLAIMS_BYTES_MAX, Claims, Class, Exec, Filler, ModelHash, ModelHashScheme, Outcome, OutcomeCode, ParameterValue,
    SealedRequest, Segment, TaskId, tenant_tag,
};
pub use cose::{BatchRoot, PROOF_BYTES_MAX, Proof, SignedBatchRoot, sign_single};
pub use error::FormatError;
pub use hash::{HashError, TensorScheme, hash_tensors};
pub use merkle::{PATH_HASHES_MAX, Tree, leaf_hash};
pub use session::{
    MANIFEST_BYTES_MAX, Manifest, Measurement, Platform, SealingKey, batch_report, binding, nonce32, session_digest,
};
pub use signature::{SigningKey, verify_strict};
pub use software::SoftwareEvidence;
