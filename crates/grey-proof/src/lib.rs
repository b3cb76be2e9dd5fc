//! Proofs of inference: hashes, claims, signatures and bundles, as a Grey node makes them and as anyone
//! reads them.
//!
//! [`verify`] and [`verify_session`] answer with a [`Verdict`]. What [`Bundle::parse`] and its like have
//! read is well formed (check 1 of §5), not yet believed.
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
mod input;
mod known;
mod merkle;
mod parameter;
mod policy;
mod session;
mod signature;
mod software;
mod uuid;
mod verdict;
mod verify;
mod view;

pub use bundle::{BUNDLE_BYTES_MAX, Bundle, Collateral, SessionBundle, SessionEvidence};
pub use claims::{
    CLAIMS_BYTES_MAX, Claims, Class, Exec, Filler, Leaf, ModelHash, ModelHashScheme, Outcome, OutcomeCode,
    ParameterValue, SealedRequest, Segment, TaskId, tenant_tag,
};
pub use cose::{BatchRoot, PROOF_BYTES_MAX, Proof, SignedBatchRoot, sign_single};
pub use error::FormatError;
pub use hash::{HashError, TensorScheme, hash_tensors};
pub use input::InputError;
pub use known::{Known, KnownModelHash, KnownRequest, KnownTensor};
pub use merkle::{PATH_HASHES_MAX, Tree, leaf_hash};
pub use policy::{Allowed, ExpectedMeasurement, ExpectedSigner, MinTcb, Mode, Policy, Roots, SoftwareKeys};
pub use session::{
    MANIFEST_BYTES_MAX, Manifest, Measurement, Platform, SealingKey, batch_report, binding, nonce32, session_digest,
};
pub use signature::{SigningKey, verify_strict};
pub use software::SoftwareEvidence;
pub use uuid::{parse_task_id, task_id_text};
pub use verdict::{Check, CheckReport, CheckResult, Overall, Verdict};
pub use verify::{verify, verify_session};
pub use view::view;
