//! The registry: immutable versions of models in an object store, their manifests, and an index
//! that says which exist and which is latest. Depends on `grey-core` alone; it knows files and
//! hashes, never engines or requests.
//!
//! The one primitive is conditional create, which every store has. A version's files go first, its
//! manifest next, and an index entry last: only what the newest index entry lists is visible, so
//! whatever was interrupted is invisible and is swept away at the next start.

mod catalog;
mod data_folder;
mod hash;
mod manifest;

pub use catalog::{AddSession, Catalog, Draft, Marks, holding_failed};
pub use data_folder::{DataFolder, Holder};
pub use hash::{FilePath, HashScheme, ModelHash, Sha256Hash};
pub use manifest::{Example, Index, IndexEntry, Manifest, ModelFile, UploadName};
