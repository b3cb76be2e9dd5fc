//! Arrays in NumPy's files: `.npy` holds one, `.npz` several under their names.

mod npy;
mod npz;

pub(crate) use npy::{Array, is_npy, read as read_npy};
pub(crate) use npz::{is_npz, read as read_npz, write as write_npz};
