"""Deterministic CBOR, narrowed as in "Encoding": one item has one encoding, and a reader takes no other.

Items are int, bytes, str, bool, list, dict (keys int or str) and Tag.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 16
COSE_SIGN1 = 18
INT_LIMIT = 2**63  # integers lie within -INT_LIMIT and INT_LIMIT - 1
FALSE, TRUE = 0xF4, 0xF5
UNSIGNED, NEGATIVE, BYTES, TEXT, ARRAY, MAP, TAG, SIMPLE = range(8)


class CborError(ValueError):
    """The bytes are not one item in its only encoding."""


@dataclass(frozen=True)
class Tag:
    """A tagged item; the only number read is 18."""

    number: int
    item: Any


def head(major: int, argument: int) -> bytes:
    """The first bytes of an item, in the shortest form."""
    if argument < 24:
        return bytes([major << 5 | argument])
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << 8 * size:
            return bytes([major << 5 | code]) + argument.to_bytes(size, "big")
    raise CborError("number too large")


def encode(item: Any) -> bytes:
    """The encoding of an item; map keys are put into their order."""
    if isinstance(item, bool):
        return bytes([TRUE if item else FALSE])
    if isinstance(item, int):
        return head(UNSIGNED, item) if item >= 0 else head(NEGATIVE, -1 - item)
    if isinstance(item, bytes):
        return head(BYTES, len(item)) + item
    if isinstance(item, str):
        data = item.encode()
        return head(TEXT, len(data)) + data
    if isinstance(item, list):
        return head(ARRAY, len(item)) + b"".join(encode(i) for i in item)
    if isinstance(item, dict):
        pairs = sorted((encode(k), encode(v)) for k, v in item.items())
        return head(MAP, len(item)) + b"".join(k + v for k, v in pairs)
    if isinstance(item, Tag):
        return head(TAG, item.number) + encode(item.item)
    raise TypeError(f"no CBOR for {type(item).__name__}")


class Reader:
    """Reads items one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count > len(self.data) - self.at:
            raise CborError("cut off")
        self.at += count
        return self.data[self.at - count : self.at]

    def head(self) -> tuple[int, int]:
        """Major type and argument; for SIMPLE the argument is the initial byte itself."""
        first = self.take(1)[0]
        major, low = first >> 5, first & 31
        if major == SIMPLE:
            return major, first
        if low < 24:
            return major, low
        if low > 27:
            raise CborError("indefinite length or reserved head")
        size = 1 << (low - 24)
        argument = int.from_bytes(self.take(size), "big")
        if head(major, argument)[0] & 31 != low:
            raise CborError("head is not the shortest")
        return major, argument

    def item(self, depth: int = 0) -> Any:
        """One item; `depth` counts the arrays, maps and tags around it."""
        major, argument = self.head()
        if major == SIMPLE:
            if argument not in (FALSE, TRUE):
                raise CborError("float, null or unknown simple value")
            return argument == TRUE
        if major in (UNSIGNED, NEGATIVE):
            if argument >= INT_LIMIT:
                raise CborError("integer out of range")
            return argument if major == UNSIGNED else -1 - argument
        if major == BYTES:
            return self.take(argument)
        if major == TEXT:
            try:
                return self.take(argument).decode("utf-8")
            except UnicodeDecodeError as e:
                raise CborError("text is not UTF-8") from e
        if depth == MAX_DEPTH:
            raise CborError("nested too deep")
        if major == ARRAY:
            return [self.item(depth + 1) for _ in range(argument)]
        if major == MAP:
            return self.map(argument, depth + 1)
        if argument != COSE_SIGN1:
            raise CborError("unknown tag")
        return Tag(argument, self.item(depth + 1))

    def map(self, count: int, depth: int) -> dict[int | str, Any]:
        """The pairs of a map, their keys strictly ascending as encoded."""
        pairs: dict[int | str, Any] = {}
        last = b""
        for _ in range(count):
            start = self.at
            key = self.item(depth)
            if isinstance(key, bool) or not isinstance(key, int | str):
                raise CborError("map key is neither integer nor text")
            encoded = self.data[start : self.at]
            if encoded <= last:
                raise CborError("map keys are not strictly ascending")
            last = encoded
            pairs[key] = self.item(depth)
        return pairs


def decode(data: bytes) -> Any:
    """The one item that the bytes are."""
    reader = Reader(data)
    item = reader.item()
    if reader.at != len(data):
        raise CborError("bytes after the item")
    if encode(item) != data:
        raise CborError("would not encode to the same bytes")
    return item
