//! numpy's arrays and Grey's tensors. Data is copied, both ways: a caller may go on writing to an array that
//! a call was made with, and owns what came back.

use bytes::Bytes;
use grey_core::{DType, ELEMENT_LENGTH_BYTES, RANK_MAX, Tensor};
use half::{bf16, f16};
use numpy::{
    Element, PyArray1, PyArrayDescrMethods as _, PyArrayDyn, PyArrayMethods as _, PyUntypedArray,
    PyUntypedArrayMethods as _,
};
use pyo3::{
    exceptions::{PyMemoryError, PyTypeError},
    prelude::*,
    sync::PyOnceLock,
    types::{PyBytes, PyDict, PyString, PyTuple},
};

use crate::errors::{bad_answer, raised};

/// Sees to it that numpy is there, without which its C interface would end the process.
fn import_numpy(py: Python<'_>) -> PyResult<()> {
    static NUMPY: PyOnceLock<()> = PyOnceLock::new();
    NUMPY.get_or_try_init(py, || py.import("numpy").map(|_| ())).copied()
}

/// Bytes of the arrays in `inputs`; `None` if one is not plain.
pub(crate) fn size(inputs: &Bound<'_, PyDict>) -> PyResult<Option<usize>> {
    import_numpy(inputs.py())?;
    let mut bytes = 0usize;
    for (name, value) in inputs.iter() {
        if !name.is_instance_of::<PyString>() {
            return Ok(None);
        }
        let size = if let Ok(array) = value.cast_exact::<PyUntypedArray>() {
            array.len().checked_mul(array.dtype().itemsize())
        } else if let Some((_, _, data)) = given(&value) {
            Some(data.as_bytes().len())
        } else {
            return Ok(None);
        };
        bytes = bytes.saturating_add(size.unwrap_or(usize::MAX));
    }
    Ok(Some(bytes))
}

/// The tensors of `inputs`: arrays by name that are plain, as [`plain`] calls it (no subclass: a masked array means
/// something else), or tuples `(datatype, shape, bytes)`. `None` if one is neither: then `grey._arrays` makes them plain.
pub(crate) fn tensors(inputs: &Bound<'_, PyDict>) -> PyResult<Option<Vec<Tensor>>> {
    import_numpy(inputs.py())?;
    let mut out = Vec::with_capacity(inputs.len());
    for (name, value) in inputs.iter() {
        let Ok(name) = name.cast::<PyString>() else { return Ok(None) };
        let name = name.to_str()?;
        let tensor = if let Ok(array) = value.cast_exact::<PyUntypedArray>() {
            let Some((dtype, shape, data)) = plain(array)? else { return Ok(None) };
            Tensor::new(name, dtype, shape, data)
        } else if let Some((dtype, shape, data)) = given(&value) {
            let dtype: DType =
                dtype.parse().map_err(|e: grey_core::UnknownDType| PyTypeError::new_err(e.to_string()))?;
            Tensor::new(name, dtype, shape, copied(data.as_bytes())?)
        } else {
            return Ok(None);
        };
        out.push(tensor.map_err(|e| raised(inputs.py(), &e))?);
    }
    Ok(Some(out))
}

/// A tensor as `grey._arrays` writes it. No tuple that numpy makes an array of is one.
fn given<'py>(value: &Bound<'py, PyAny>) -> Option<(String, Vec<u64>, Bound<'py, PyBytes>)> {
    value.cast::<PyTuple>().ok()?.extract().ok()
}

/// Of an array that lies in memory as a tensor does: row-major, without gaps, in this machine's byte order (which
/// is little-endian, as everywhere that Grey runs), of a dtype that the protocol has.
fn plain(array: &Bound<'_, PyUntypedArray>) -> PyResult<Option<(DType, Vec<u64>, Bytes)>> {
    let descr = array.dtype();
    let dtype = match (descr.kind(), descr.itemsize()) {
        (b'b', 1) => DType::Bool,
        (b'u', 1) => DType::Uint8,
        (b'u', 2) => DType::Uint16,
        (b'u', 4) => DType::Uint32,
        (b'u', 8) => DType::Uint64,
        (b'i', 1) => DType::Int8,
        (b'i', 2) => DType::Int16,
        (b'i', 4) => DType::Int32,
        (b'i', 8) => DType::Int64,
        (b'f', 2) => DType::Fp16,
        (b'f', 4) => DType::Fp32,
        (b'f', 8) => DType::Fp64,
        _ => return Ok(None),
    };
    // Extension dtypes may have these kinds and sizes, too, and mean something else.
    if !(0..=23).contains(&descr.num()) || descr.byteorder() == b'>' || !array.is_c_contiguous() {
        return Ok(None);
    }
    let shape = array.shape().iter().map(|d| *d as u64).collect();
    let Some(len) = array.len().checked_mul(descr.itemsize()) else { return Ok(None) };
    if len == 0 {
        return Ok(Some((dtype, shape, Bytes::new())));
    }
    // SAFETY: a C-contiguous array of `len` bytes begins at `data`, and nobody resizes it while this thread
    // holds the GIL. A thread that writes into it meanwhile (numpy lets go of the GIL in long operations) makes
    // for torn numbers, as in any copy that numpy itself makes.
    let data = unsafe { std::slice::from_raw_parts((*array.as_array_ptr()).fields.data.cast::<u8>(), len) };
    Ok(Some((dtype, shape, copied(data)?)))
}

/// A copy, or `MemoryError` where there is no room for one.
fn copied(data: &[u8]) -> PyResult<Bytes> {
    let mut copy = Vec::new();
    if copy.try_reserve_exact(data.len()).is_err() {
        let why = format!("no memory for a copy of an input's {} bytes", data.len());
        return Err(PyMemoryError::new_err(why));
    }
    copy.extend_from_slice(data);
    Ok(copy.into())
}

/// The tensors as numpy's arrays, by name.
pub(crate) fn arrays<'py>(py: Python<'py>, tensors: &[Tensor]) -> PyResult<Bound<'py, PyDict>> {
    import_numpy(py)?;
    let out = PyDict::new(py);
    for tensor in tensors {
        out.set_item(tensor.name(), array(py, tensor)?)?;
    }
    Ok(out)
}

fn array<'py>(py: Python<'py>, t: &Tensor) -> PyResult<Bound<'py, PyAny>> {
    let shape: Vec<usize> = t.shape().iter().map(|d| usize::try_from(*d)).collect::<Result<_, _>>()?;
    // numpy counts the bytes of an empty array as if no dimension were 0, and panics would end the call.
    let bytes = shape.iter().try_fold(ELEMENT_BYTES_MAX, |n, d| n.checked_mul((*d).max(1)));
    if shape.len() > RANK_MAX || bytes.is_none_or(|n| isize::try_from(n).is_err()) {
        return Err(bad_answer(py, format!("output '{}' has shape {shape:?}, which no array can have", t.name())));
    }
    Ok(match t.dtype() {
        DType::Bool => filled::<bool>(py, &shape, t),
        DType::Uint8 => filled::<u8>(py, &shape, t),
        DType::Uint16 => filled::<u16>(py, &shape, t),
        DType::Uint32 => filled::<u32>(py, &shape, t),
        DType::Uint64 => filled::<u64>(py, &shape, t),
        DType::Int8 => filled::<i8>(py, &shape, t),
        DType::Int16 => filled::<i16>(py, &shape, t),
        DType::Int32 => filled::<i32>(py, &shape, t),
        DType::Int64 => filled::<i64>(py, &shape, t),
        DType::Fp16 => filled::<f16>(py, &shape, t),
        DType::Fp32 => filled::<f32>(py, &shape, t),
        DType::Fp64 => filled::<f64>(py, &shape, t),
        DType::Bf16 => {
            let flat = t.data().to_contiguous();
            let values = flat.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32());
            PyArray1::from_iter(py, values).reshape(shape)?.into_any()
        }
        DType::Bytes => {
            let flat = t.data().to_contiguous();
            let elements: Vec<Py<PyAny>> = elements(&flat).map(|e| PyBytes::new(py, e).into_any().unbind()).collect();
            PyArray1::from_vec(py, elements).reshape(shape)?.into_any()
        }
    })
}

/// Bytes of the largest element.
const ELEMENT_BYTES_MAX: usize = 8;

fn filled<'py, T: Element>(py: Python<'py>, shape: &[usize], t: &Tensor) -> Bound<'py, PyAny> {
    // SAFETY: the elements are plain numbers, which is why any bytes are fine; all of them are written below. A
    // tensor's BOOL elements are 0 or 1, by its invariant.
    let array = unsafe { PyArrayDyn::<T>::new(py, shape, false) };
    let len = array.len() * size_of::<T>();
    // SAFETY: the array is new and C-contiguous, has `len` bytes, and nobody else knows of it.
    let into = unsafe { std::slice::from_raw_parts_mut(array.data().cast::<u8>(), len) };
    // By the tensor's invariant they are equally long.
    let copied = t.data().copy_to(into);
    debug_assert_eq!(copied, Some(len));
    array.into_any()
}

/// The elements of a BYTES tensor, each behind its length.
fn elements(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first_chunk::<ELEMENT_LENGTH_BYTES>()?;
        let (element, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        data = rest;
        Some(element)
    })
}
