//! Tensors of the C API, each released once.

use std::{ffi::CStr, ptr};

use ort::sys;

/// The runtime's message if a call failed; releases the status.
pub(super) fn status(s: sys::OrtStatusPtr) -> Result<(), String> {
    if s.0.is_null() {
        return Ok(());
    }
    // SAFETY: a status that is not null is owned by the caller and holds a NUL-terminated message.
    unsafe {
        let message = CStr::from_ptr((ort::api().GetErrorMessage)(s.0)).to_string_lossy().into_owned();
        (ort::api().ReleaseStatus)(s.0);
        Err(message)
    }
}

/// Says that memory is the CPU's.
pub(super) struct CpuMemory(*mut sys::OrtMemoryInfo);

// SAFETY: an immutable description.
unsafe impl Send for CpuMemory {}

impl CpuMemory {
    pub(super) fn new() -> Result<Self, String> {
        let mut info = ptr::null_mut();
        // SAFETY: the out-pointer is valid.
        status(unsafe {
            (ort::api().CreateCpuMemoryInfo)(
                sys::OrtAllocatorType::OrtDeviceAllocator,
                sys::OrtMemType::OrtMemTypeDefault,
                &mut info,
            )
        })?;
        Ok(CpuMemory(info))
    }
}

impl Drop for CpuMemory {
    fn drop(&mut self) {
        // SAFETY: made by `new`, released once.
        unsafe { (ort::api().ReleaseMemoryInfo)(self.0) };
    }
}

/// A tensor.
pub(super) struct Value(*mut sys::OrtValue);

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: owned and released once.
        unsafe { (ort::api().ReleaseValue)(self.0) };
    }
}

fn dims(shape: &[u64]) -> Result<Vec<i64>, String> {
    shape.iter().map(|d| i64::try_from(*d).map_err(|_| format!("dimension {d} is too large"))).collect()
}

impl Value {
    /// A tensor over memory that somebody else owns.
    ///
    /// # Safety
    /// `data` must be `len` bytes that stay valid until the value is dropped, writable if the value
    /// is used as an output.
    pub(super) unsafe fn over(
        memory: &CpuMemory,
        kind: sys::ONNXTensorElementDataType,
        shape: &[u64],
        data: *mut u8,
        len: usize,
    ) -> Result<Value, String> {
        let dims = dims(shape)?;
        let mut value = ptr::null_mut();
        // SAFETY: as promised by the caller; the runtime checks the length against the shape.
        status(unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(
                memory.0,
                data.cast(),
                len,
                dims.as_ptr(),
                dims.len(),
                kind,
                &mut value,
            )
        })?;
        Ok(Value(value))
    }

    /// A string tensor from length-prefixed elements; each must be UTF-8.
    pub(super) fn strings(shape: &[u64], data: &[u8]) -> Result<Value, String> {
        let dims = dims(shape)?;
        let (mut allocator, mut value) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: out-pointers are valid; the default allocator lives as long as the runtime.
        status(unsafe { (ort::api().GetAllocatorWithDefaultOptions)(&mut allocator) })?;
        // SAFETY: as above.
        status(unsafe {
            (ort::api().CreateTensorAsOrtValue)(
                allocator,
                dims.as_ptr(),
                dims.len(),
                sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
                &mut value,
            )
        })?;
        let value = Value(value);
        let count = grey_core::element_count(shape).ok_or("the shape is too large")?;
        let mut rest = data;
        for index in 0..count {
            let (head, tail) = rest.split_first_chunk().ok_or_else(|| format!("element {index} is missing"))?;
            let len = u32::from_le_bytes(*head) as usize;
            let text = tail.get(..len).ok_or_else(|| format!("element {index} is cut short"))?;
            rest = &tail[len..];
            if std::str::from_utf8(text).is_err() {
                return Err(format!("element {index} is not UTF-8, and ONNX strings are"));
            }
            let mut buffer = ptr::null_mut();
            // SAFETY: the index is within the tensor; the runtime gives a buffer of `len` bytes.
            status(unsafe { (ort::api().GetResizedStringTensorElementBuffer)(value.0, index, len, &mut buffer) })?;
            if len > 0 {
                // SAFETY: source and destination are `len` bytes and distinct.
                unsafe { ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast(), len) };
            }
        }
        Ok(value)
    }

    /// Takes over a value that the runtime made.
    ///
    /// # Safety
    /// `raw` must be a valid value that nobody else owns.
    pub(super) unsafe fn from_raw(raw: *mut sys::OrtValue) -> Value {
        Value(raw)
    }

    pub(super) fn as_ptr(&self) -> *mut sys::OrtValue {
        self.0
    }

    pub(super) fn shape_and_type(&self) -> Result<(Vec<u64>, sys::ONNXTensorElementDataType), String> {
        let mut is_tensor = 0;
        // SAFETY: valid value and out-pointer.
        status(unsafe { (ort::api().IsTensor)(self.0, &mut is_tensor) })?;
        if is_tensor == 0 {
            return Err("the runtime gave an output that is no tensor".into());
        }
        let mut info = ptr::null_mut();
        // SAFETY: as above; the info is released below.
        status(unsafe { (ort::api().GetTensorTypeAndShape)(self.0, &mut info) })?;
        let mut kind = sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        let mut rank = 0;
        let mut sizes = Vec::new();
        // SAFETY: `info` is valid until released; `sizes` has room for `rank` dimensions.
        let read = unsafe {
            status((ort::api().GetTensorElementType)(info, &mut kind))
                .and_then(|()| status((ort::api().GetDimensionsCount)(info, &mut rank)))
                .and_then(|()| {
                    sizes = vec![0i64; rank];
                    status((ort::api().GetDimensions)(info, sizes.as_mut_ptr(), rank))
                })
        };
        // SAFETY: released once.
        unsafe { (ort::api().ReleaseTensorTypeAndShapeInfo)(info) };
        read?;
        let shape =
            sizes.iter().map(|d| u64::try_from(*d).map_err(|_| "an output has a negative dimension".to_owned()));
        Ok((shape.collect::<Result<_, _>>()?, kind))
    }

    /// The bytes of a tensor of fixed-size elements; `len` is what shape and type say.
    pub(super) fn data(&self, len: usize) -> Result<&[u8], String> {
        if len == 0 {
            return Ok(&[]);
        }
        let mut data = ptr::null_mut();
        // SAFETY: valid value and out-pointer.
        status(unsafe { (ort::api().GetTensorMutableData)(self.0, &mut data) })?;
        if data.is_null() {
            return Err("the runtime gave an output without data".into());
        }
        // SAFETY: the runtime's tensor has as many bytes as its shape and type say, and lives as
        // long as the value that is borrowed here.
        Ok(unsafe { std::slice::from_raw_parts(data.cast(), len) })
    }

    /// The elements of a string tensor, length-prefixed.
    pub(super) fn strings_out(&self) -> Result<Vec<u8>, String> {
        let (shape, _) = self.shape_and_type()?;
        let count = grey_core::element_count(&shape).ok_or("an output is too large")?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut total = 0;
        // SAFETY: valid value and out-pointer.
        status(unsafe { (ort::api().GetStringTensorDataLength)(self.0, &mut total) })?;
        let (mut text, mut offsets) = (vec![0u8; total], vec![0usize; count]);
        // SAFETY: the buffers have the lengths given.
        status(unsafe {
            (ort::api().GetStringTensorContent)(self.0, text.as_mut_ptr().cast(), total, offsets.as_mut_ptr(), count)
        })?;
        let mut out = Vec::with_capacity(total + count * grey_core::ELEMENT_LENGTH_BYTES);
        for (i, start) in offsets.iter().enumerate() {
            let end = offsets.get(i + 1).copied().unwrap_or(total);
            let element = text.get(*start..end).ok_or("the runtime gave string offsets that are not possible")?;
            let len = u32::try_from(element.len()).map_err(|_| "a string is longer than 4 GiB".to_owned())?;
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(element);
        }
        Ok(out)
    }
}
