"""What callers give as inputs, brought to what the native part takes: plain arrays by name.

Plain is an ``ndarray`` (no subclass) of a dtype that the protocol has, in C order and this machine's byte order.
Whatever else there is (texts, bfloat16) becomes a tuple ``(datatype, shape, bytes)``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from grey._tensors import DATATYPES, elements
from grey.errors import InvalidArgument
from grey.results import TensorSpec

Plain = dict[str, Any]

_DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items() if datatype != "BF16"}
# numpy's kinds of arrays whose elements are texts or bytes: str, bytes, StringDType, object.
_BYTES_KINDS = frozenset("USTO")


def prepare(inputs: Any, specs: Sequence[TensorSpec]) -> Plain:
    """The inputs as plain arrays by name.

    :param inputs: arrays by name; a pandas ``DataFrame`` whose columns are the model's inputs; or, where the model
        has one input, that input alone. An array is a numpy array or scalar, or anything that numpy makes one of:
        a list, a number, a text, a pandas ``Series``, a Pillow image. A numpy array keeps its dtype; whatever has
        none of its own (lists, numbers, frames, images) takes that of the model, if each value can be held by it.
    :param specs: what the model takes.
    :raises InvalidArgument: something that is no tensor; the text names the input.
    """
    by_name = {spec.name: spec for spec in specs}
    if _is_frame(inputs):
        inputs = _of_frame(inputs, specs)
    elif not isinstance(inputs, Mapping):
        if len(specs) != 1:
            names = ", ".join(repr(name) for name in by_name)
            raise InvalidArgument(f"inputs: expected arrays by name, since the model has {len(specs)} inputs: {names}")
        inputs = {specs[0].name: inputs}
    plain = {}
    for name, value in inputs.items():
        if not isinstance(name, str):
            raise InvalidArgument(f"inputs: expected texts as names, found {_kind(name)}")
        plain[name] = _plain(name, value, by_name.get(name))
    return plain


def request_json(inputs: Mapping[str, Any]) -> str:
    """The inputs as a request in the protocol's JSON.

    :raises InvalidArgument: values that JSON has not: bytes that are no UTF-8, infinities, bfloat16.
    """
    tensors = []
    for name, value in prepare(inputs, ()).items():
        if isinstance(value, tuple):
            datatype, shape, data = value
            if datatype != "BYTES":
                raise InvalidArgument(f"input {name!r}: JSON has no {datatype}; give it in another float type")
            texts = _texts(name, data)
            tensors.append({"name": name, "datatype": datatype, "shape": shape, "data": texts})
        else:
            datatype, flat = DATATYPES[value.dtype.name], value.reshape(-1).tolist()
            tensors.append({"name": name, "datatype": datatype, "shape": list(value.shape), "data": flat})
    try:
        return json.dumps({"inputs": tensors}, allow_nan=False)
    except ValueError as e:
        raise InvalidArgument(f"inputs: expected values that JSON has: {e}") from e


def _texts(name: str, data: bytes) -> list[str]:
    texts, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        try:
            texts.append(data[at + 4 : at + 4 + length].decode())
        except UnicodeDecodeError as e:
            raise InvalidArgument(f"input {name!r}: expected UTF-8, which JSON has: {e}") from e
        at += 4 + length
    return texts


def _is_frame(value: Any) -> bool:
    return hasattr(value, "columns") and hasattr(value, "to_numpy")


def _of_frame(frame: Any, specs: Sequence[TensorSpec]) -> dict[str, Any]:
    """One input takes the whole frame as its rows; several take a column each, by name."""
    columns = {str(column): column for column in frame.columns}
    if len(specs) == 1 and specs[0].name not in columns:
        return {specs[0].name: _Undecided(frame.to_numpy())}
    missing = [spec.name for spec in specs if spec.name not in columns]
    if missing:
        raise InvalidArgument(f"inputs: the frame has no column {missing[0]!r}; its columns are {', '.join(columns)}")
    inputs = {}
    for spec in specs:
        column = frame[columns[spec.name]].to_numpy()
        # A column for a model that takes [rows, 1].
        inputs[spec.name] = _Undecided(column.reshape(-1, 1) if len(spec.shape) == 2 else column)
    return inputs


class _Undecided:
    """An array whose dtype is not its owner's choice."""

    def __init__(self, array: Any) -> None:
        self.array = array


def _plain(name: str, value: Any, spec: TensorSpec | None) -> Any:
    import numpy as np

    place = f"input {name!r}"
    decided = isinstance(value, (np.ndarray, np.generic))
    array = value.array if isinstance(value, _Undecided) else value
    if np.ma.isMaskedArray(array) and np.ma.is_masked(array):
        raise InvalidArgument(f"{place}: expected an array without masked elements; fill them first")
    try:
        # As objects: numpy's own types of text end at the last byte that is not 0.
        array = np.asarray(array, dtype=object if _has_text(array) else None)
    except (TypeError, ValueError, RuntimeError) as e:
        raise InvalidArgument(
            f"{place}: expected an array, or what numpy makes one of, found {_kind(value)}: {e}"
        ) from e
    if array.dtype.kind in _BYTES_KINDS:
        return ("BYTES", list(array.shape), _bytes(place, array.reshape(-1).tolist()))
    if not decided and spec is not None:
        array = _cast(place, array, spec)
    if array.dtype.name == "bfloat16":
        return ("BF16", list(array.shape), array.tobytes())
    if array.dtype.name not in DATATYPES:
        known = ", ".join(DATATYPES)
        raise InvalidArgument(f"{place}: expected a dtype among {known}, or texts, found {array.dtype}")
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")


def _has_text(value: Any) -> bool:
    """Whether a text, bytes, or a list with one."""
    if isinstance(value, (list, tuple)):
        return any(_has_text(v) for v in value)
    return isinstance(value, (str, bytes))


def _cast(place: str, array: Any, spec: TensorSpec) -> Any:
    """To the model's dtype, if it holds the values: a fraction is no integer, 300 no ``uint8``."""
    import numpy as np

    wanted = _DTYPES.get(spec.datatype)
    if wanted is None or array.dtype.name == wanted:
        return array
    if array.dtype.kind not in "fiub":
        raise InvalidArgument(f"{place}: expected numbers for {spec.datatype}, found {array.dtype}")
    with np.errstate(all="ignore"):
        cast = array.astype(wanted)
    # Numbers of floating point are rounded, but to none that is infinite; all else must be the same again.
    lost = np.isfinite(array) & ~np.isfinite(cast) if cast.dtype.kind == "f" else cast != array
    if np.any(lost):
        raise InvalidArgument(
            f"{place}: expected values that {wanted} ({spec.datatype}) holds, found others among {_some(array)}"
        )
    return cast


def _some(array: Any) -> str:
    shown = ", ".join(str(x) for x in array.reshape(-1)[:5].tolist())
    return shown + (", …" if array.size > 5 else "")


def _bytes(place: str, values: Iterable[Any]) -> bytes:
    try:
        return elements(place, values)
    except ValueError as e:
        raise InvalidArgument(str(e)) from e


def _kind(value: object) -> str:
    return type(value).__name__
