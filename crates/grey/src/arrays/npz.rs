//! Several arrays under their names: a zip whose members are `NAME.npy`.

use std::io::{Cursor, Read as _, Write as _};

use grey_core::{SIGNATURE_TENSORS_MAX, Tensor};
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

use super::npy::{self, Array};

/// Most bytes of all members together, unpacked: what a request may have by default.
const UNPACKED_BYTES_MAX: u64 = 256 << 20;
/// From which size on a zip's members need its 64-bit form, in bytes.
const LARGE_BYTES: usize = 0xffff_ffff;

/// Whether a file's first bytes are those of a zip.
pub(crate) fn is_npz(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06")
}

/// All arrays, in the file's order. The error names the member.
pub(crate) fn read(bytes: &[u8]) -> Result<Vec<(String, Array)>, String> {
    let mut zip = ZipArchive::new(Cursor::new(bytes)).map_err(|e| format!("expected an .npz, which is a zip: {e}"))?;
    if zip.is_empty() {
        return Err("it holds no arrays".to_owned());
    }
    if zip.len() > SIGNATURE_TENSORS_MAX {
        return Err(format!("it holds {} members, expected at most {SIGNATURE_TENSORS_MAX}", zip.len()));
    }
    let mut left = UNPACKED_BYTES_MAX;
    let mut arrays: Vec<(String, Array)> = Vec::with_capacity(zip.len());
    for i in 0..zip.len() {
        let member = zip.by_index(i).map_err(|e| format!("member {i}: {e}"))?;
        let file = member.name().map_err(|e| format!("member {i}: {e}"))?.into_owned();
        let shown: String = file.chars().take(80).flat_map(char::escape_debug).collect();
        let name = file.strip_suffix(".npy");
        let name = name.ok_or_else(|| format!("member '{shown}': expected arrays only, which are called NAME.npy"))?;
        if arrays.iter().any(|(n, _)| n == name) {
            return Err(format!("it holds '{shown}' twice"));
        }
        let mut unpacked = Vec::new();
        member.take(left + 1).read_to_end(&mut unpacked).map_err(|e| format!("member '{shown}': {e}"))?;
        left = left
            .checked_sub(unpacked.len() as u64)
            .ok_or_else(|| format!("its arrays are larger than {UNPACKED_BYTES_MAX} bytes"))?;
        let array = npy::read(&unpacked).map_err(|e| format!("member '{shown}': {e}"))?;
        arrays.push((name.to_owned(), array));
    }
    Ok(arrays)
}

/// Tensors as a file, which is the same for the same tensors.
pub(crate) fn write(tensors: &[Tensor]) -> Result<Vec<u8>, String> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for tensor in tensors {
        let named = |e: &dyn std::fmt::Display| format!("'{}': {e}", tensor.name().escape_debug());
        let array = npy::write(tensor).map_err(|e| named(&e))?;
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(array.len() >= LARGE_BYTES);
        zip.start_file(format!("{}.npy", tensor.name()), options).map_err(|e| named(&e))?;
        zip.write_all(&array).map_err(|e| named(&e))?;
    }
    zip.finish().map(Cursor::into_inner).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use grey_core::DType;
    use proptest::prelude::*;

    use super::*;

    fn two() -> Vec<Tensor> {
        vec![
            Tensor::new("x", DType::Fp32, vec![1, 2], vec![0, 0, 0xc0, 0x7f, 1, 2, 3, 4]).unwrap(),
            Tensor::new("a/b:0", DType::Bytes, vec![1], b"\x02\0\0\0hi".to_vec()).unwrap(),
        ]
    }

    #[test]
    fn arrays_keep_their_names_and_bytes() {
        let bytes = write(&two()).unwrap();
        assert!(is_npz(&bytes));
        assert_eq!(bytes, write(&two()).unwrap());
        let back = read(&bytes).unwrap();
        let back: Vec<Tensor> =
            back.into_iter().map(|(n, a)| Tensor::new(n, a.dtype, a.shape, a.data).unwrap()).collect();
        assert_eq!(back, two());
    }

    #[test]
    fn what_cannot_be_read_names_the_member() {
        let zip = |members: &[(&str, &[u8])]| {
            let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
            for (name, content) in members {
                zip.start_file(*name, SimpleFileOptions::default()).unwrap();
                zip.write_all(content).unwrap();
            }
            zip.finish().unwrap().into_inner()
        };
        assert!(read(&zip(&[("x.txt", b"")])).unwrap_err().starts_with("member 'x.txt': expected arrays only"));
        assert!(read(&zip(&[("x.npy", b"no")])).unwrap_err().starts_with("member 'x.npy': expected a NumPy array"));
        assert_eq!(read(&zip(&[])).unwrap_err(), "it holds no arrays");
        assert!(read(b"PK\x03\x04").unwrap_err().starts_with("expected an .npz, which is a zip: "));
        // A small file that unpacks to a large one.
        let bomb = zip(&[("x.npy", &vec![0; 300 << 20])]);
        assert!(bomb.len() < 1 << 20, "{}", bomb.len());
        assert_eq!(read(&bomb).unwrap_err(), "its arrays are larger than 268435456 bytes");
    }

    proptest! {
        #[test]
        fn any_change_is_read_or_refused(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(), cuts in any::<bool>()) {
            let mut bytes = write(&two()).unwrap();
            let i = at.index(bytes.len());
            bytes[i] = byte;
            if cuts { bytes.truncate(cut.index(bytes.len())); }
            let _read_or_refused = read(&bytes);
        }
    }
}
