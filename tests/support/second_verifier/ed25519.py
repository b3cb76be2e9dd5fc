"""Ed25519 as in "Signature rules": without cofactor, canonical points, none of small order. Not in constant time."""

from __future__ import annotations

import hashlib

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)

Point = tuple[int, int, int, int]  # x = X/Z, y = Y/Z, xy = T/Z
IDENTITY: Point = (0, 1, 1, 0)


def add(a: Point, b: Point) -> Point:
    """The sum of two points; the formulas are complete, so it doubles as well."""
    e1 = (a[1] - a[0]) * (b[1] - b[0]) % P
    e2 = (a[1] + a[0]) * (b[1] + b[0]) % P
    e3 = 2 * a[3] * b[3] * D % P
    e4 = 2 * a[2] * b[2] % P
    e, f, g, h = e2 - e1, e4 - e3, e4 + e3, e2 + e1
    return e * f % P, g * h % P, f * g % P, e * h % P


def multiply(scalar: int, point: Point) -> Point:
    """[scalar]point."""
    result = IDENTITY
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def negate(point: Point) -> Point:
    """-point."""
    return -point[0] % P, point[1], point[2], -point[3] % P


def compress(point: Point) -> bytes:
    """The canonical 32 bytes of a point."""
    inverse = pow(point[2], P - 2, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def decompress(data: bytes) -> Point | None:
    """The point with this canonical encoding, if there is one."""
    number = int.from_bytes(data, "little")
    y, sign = number & (2**255 - 1), number >> 255
    if len(data) != 32 or y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT_OF_MINUS_ONE % P
    if (x * x - square) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


def small_order(point: Point) -> bool:
    """Whether eight times the point is the identity."""
    x, y, z, _ = multiply(8, point)
    return x == 0 and (y - z) % P == 0


def hash_to_scalar(*parts: bytes) -> int:
    """SHA-512 of the parts as a scalar."""
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little") % L


BASE_Y = 4 * pow(5, P - 2, P) % P
BASE = decompress(BASE_Y.to_bytes(32, "little")) or IDENTITY


def verify(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature holds by the rules of the page."""
    if len(key) != 32 or len(signature) != 64:
        return False
    r_bytes, s = signature[:32], int.from_bytes(signature[32:], "little")
    a, r = decompress(key), decompress(r_bytes)
    if s >= L or a is None or r is None or small_order(a) or small_order(r):
        return False
    k = hash_to_scalar(r_bytes, key, message)
    return compress(add(multiply(s, BASE), multiply(k, negate(a)))) == r_bytes


def expand(seed: bytes) -> tuple[int, bytes]:
    """The secret scalar and the prefix of a seed."""
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little")
    return scalar & ((1 << 254) - 8) | 1 << 254, digest[32:]


def public_key(seed: bytes) -> bytes:
    """The public key of a seed of 32 bytes."""
    return compress(multiply(expand(seed)[0], BASE))


def sign(seed: bytes, message: bytes) -> bytes:
    """A signature, for bundles that the tests make themselves."""
    scalar, prefix = expand(seed)
    key = public_key(seed)
    r = hash_to_scalar(prefix, message)
    r_bytes = compress(multiply(r, BASE))
    s = (r + hash_to_scalar(r_bytes, key, message) * scalar) % L
    return r_bytes + s.to_bytes(32, "little")
