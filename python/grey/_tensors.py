"""Arrays as the proof format knows tensors: ``{name, datatype, shape, data}``, data in base64.

numpy is not needed to import this, nor for texts: whoever has an array has numpy.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from grey._native import ProofInputError

Tensors = Mapping[str, Any] | Sequence[Mapping[str, Any]]

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
}
# numpy's kinds of arrays whose elements are texts or bytes: str, bytes, StringDType, object.
_BYTES_KINDS = frozenset("USTO")


def known_tensors(place: str, tensors: Tensors) -> list[dict[str, Any]]:
    """The tensors as a member of ``known``.

    :param place: the member, for messages: ``inputs`` or ``outputs``.
    :param tensors: arrays by name, or a list of ``{name, datatype, shape, data}`` with data as bytes or in
        base64. An array is a numpy array or scalar of any dtype of the format (``bfloat16`` is that of
        ml_dtypes; arrays of texts, bytes or objects are BYTES), whatever numpy makes an array of without
        guessing a dtype, or a list of texts or bytes (BYTES, of one dimension).
    :raises ProofInputError: an array of another dtype or of other objects.
    """
    if isinstance(tensors, Mapping):
        return [_of_array(f"known/{place}/{name}", str(name), array) for name, array in tensors.items()]
    if isinstance(tensors, (str, bytes)) or not isinstance(tensors, Sequence):
        raise ProofInputError(f"known/{place}: expected arrays by name or a list, found {_kind(tensors)}")
    return [_as_given(f"known/{place}/{at}", tensor) for at, tensor in enumerate(tensors)]


def _as_given(place: str, tensor: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(tensor, Mapping):
        raise ProofInputError(f"{place}: expected an object, found {_kind(tensor)}")
    data = tensor.get("data")
    return {**tensor, "data": _base64(data)} if isinstance(data, bytes) else dict(tensor)


def _of_array(place: str, name: str, array: Any) -> dict[str, Any]:
    if isinstance(array, (list, tuple)):
        return _tensor(name, "BYTES", [len(array)], elements(place, array))
    if not hasattr(array, "__array__"):
        raise ProofInputError(f"{place}: expected an array, or a list of texts, found {_kind(array)}")
    import numpy as np

    try:
        array = np.asarray(array)
    except (TypeError, ValueError, RuntimeError) as e:
        raise ProofInputError(f"{place}: expected an array that numpy can read, found {_kind(array)}: {e}") from e
    shape = list(array.shape)
    if array.dtype.kind in _BYTES_KINDS:
        return _tensor(name, "BYTES", shape, elements(place, array.reshape(-1).tolist()))
    datatype = DATATYPES.get(array.dtype.name)
    if datatype is None:
        known = ", ".join(DATATYPES)
        raise ProofInputError(f"{place}: expected a dtype among {known}, found {array.dtype}")
    return _tensor(name, datatype, shape, array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def elements(place: str, elements: Iterable[Any]) -> bytes:
    """Each element's length in 32 bits, little-endian, and its bytes."""
    out = bytearray()
    for element in elements:
        if not isinstance(element, (str, bytes)):
            raise ProofInputError(f"{place}: expected texts or bytes, found {_kind(element)}")
        try:
            data = element.encode() if isinstance(element, str) else element
            out += struct.pack("<I", len(data)) + data
        except (UnicodeEncodeError, struct.error) as e:
            raise ProofInputError(f"{place}: expected UTF-8 of less than 4 GiB, found {e}") from e
    return bytes(out)


def _tensor(name: str, datatype: str, shape: list[int], data: bytes) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": _base64(data)}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _kind(value: object) -> str:
    return type(value).__name__
