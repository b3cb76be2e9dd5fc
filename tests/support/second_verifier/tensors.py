"""Tensor hashes, recomputed from tensors that a caller has."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from . import cbor

SALT_BYTES = 32
ELEMENT_BYTES = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
}


class ImpossibleTensors(ValueError):
    """Tensors or a salt that no request can have; the text says why."""


@dataclass(frozen=True)
class Tensor:
    """A tensor with its raw bytes."""

    name: str
    datatype: str
    shape: list[int]
    data: bytes


def count_bytes_elements(data: bytes) -> int | None:
    """How many elements the raw bytes of a BYTES tensor hold, if they end with one."""
    at = count = 0
    while at < len(data):
        if len(data) - at < 4:
            return None
        at += 4 + int.from_bytes(data[at : at + 4], "little")
        count += 1
    return count if at == len(data) else None


def check_tensors(tensors: list[Tensor]) -> None:
    """Raise ImpossibleTensors where a request cannot have these."""
    if len({t.name for t in tensors}) != len(tensors):
        raise ImpossibleTensors("a name twice")
    for t in tensors:
        if any(not 0 <= dimension < 2**63 for dimension in t.shape):
            raise ImpossibleTensors(f"{t.name}: a dimension out of range")
        product = math.prod(t.shape)
        if t.datatype == "BYTES":
            fits = count_bytes_elements(t.data) == product
        elif t.datatype in ELEMENT_BYTES:
            fits = len(t.data) == product * ELEMENT_BYTES[t.datatype]
        else:
            raise ImpossibleTensors(f"{t.name}: unknown dtype {t.datatype}")
        if t.datatype == "BOOL" and max(t.data, default=0) > 1:
            raise ImpossibleTensors(f"{t.name}: a BOOL that is neither 0 nor 1")
        if not fits:
            raise ImpossibleTensors(f"{t.name}: data of another size than dtype and shape say")


def check_salt(salt: bytes | None) -> None:
    """Raise ImpossibleTensors for a salt of another length."""
    if salt is not None and len(salt) != SALT_BYTES:
        raise ImpossibleTensors(f"a salt of {len(salt)} bytes")


def tensor_hash(tensors: list[Tensor], salt: bytes | None) -> bytes:
    """The hash of possible tensors, by the scheme with or without salt."""
    rows = [
        [t.name, t.datatype, t.shape, hashlib.sha256(t.data).digest()]
        for t in sorted(tensors, key=lambda t: t.name.encode())
    ]
    prefix = b"grey.tensor.v1\0" if salt is None else b"grey.tensor.v1+salt\0" + salt
    return hashlib.sha256(prefix + cbor.encode(rows)).digest()
