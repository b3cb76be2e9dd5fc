"""Inclusion in a Merkle tree, RFC 9162 section 2.1.3.2."""

from __future__ import annotations

import hashlib


def leaf_hash(claims: bytes) -> bytes:
    """The leaf of a request."""
    return hashlib.sha256(b"\x00" + claims).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The node above two hashes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def included(leaf: bytes, index: int, size: int, path: list[bytes], root: bytes) -> bool:
    """Whether the path leads from the leaf to the root of a tree of this size."""
    if index >= size:
        return False
    at, last, result = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            result = node_hash(sibling, result)
            while not at & 1 and at != 0:
                at, last = at >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and result == root
