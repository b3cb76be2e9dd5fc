"""What callers hand to the verifier, brought to the JSON that it reads.

Whether a member is known and of the right form is for the verifier to say. Here is refused what could
not be handed on as it was meant: a member twice, a value that is no JSON.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grey import _native
from grey._native import ProofInputError

if TYPE_CHECKING:
    from grey.policy import Policy

NOW_MAX = 2**63 - 1


def as_text(place: str, data: bytes) -> str:
    """UTF-8 as a text."""
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        raise ProofInputError(f"{place}: expected UTF-8, found {e.reason} at byte {e.start}") from e


def json_object(place: str, text: str, number: Callable[[str], Any] | None = None) -> dict[str, Any]:
    """A JSON object's members, of which none stands twice at any level; ``number`` reads the numbers."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        read: dict[str, Any] = {}
        for name, value in pairs:
            if name in read:
                raise ProofInputError(f"{place}: expected each member once, found {name[:80]!r} twice")
            read[name] = value
        return read

    def constant(name: str) -> Any:
        raise ProofInputError(f"{place}: expected JSON, found {name}")

    try:
        read = json.loads(
            text, object_pairs_hook=members, parse_int=number, parse_float=number, parse_constant=constant
        )
    except ProofInputError:
        raise
    except (ValueError, RecursionError) as e:
        raise ProofInputError(f"{place}: expected JSON, found {e}") from e
    if not isinstance(read, dict):
        raise ProofInputError(f"{place}: expected an object, found {kind(read)}")
    return read


def json_text(place: str, members: Mapping[str, Any]) -> str:
    """An object in JSON."""
    try:
        return json.dumps(dict(members), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as e:
        raise ProofInputError(f"{place}: expected values that JSON has, found {e}") from e


def policy_text(policy: Policy | Mapping[str, Any] | str | os.PathLike[str] | None) -> str:
    """A policy in JSON: of a :class:`grey.Policy`, a mapping, a text in JSON, or a file in YAML (`.json`: JSON).

    A policy is the caller's own, so a ``str`` that is no JSON object may name a file.
    """
    from grey.policy import Policy

    if isinstance(policy, Policy):
        policy = policy.to_dict()
    if policy is None or isinstance(policy, Mapping):
        return json_text("policy", policy or {})
    if isinstance(policy, str) and policy.lstrip().startswith("{"):
        return policy
    if not isinstance(policy, (str, os.PathLike)):
        raise ProofInputError(f"policy: expected a Policy, a mapping, JSON or a path, found {kind(policy)}")
    text = as_text("policy", Path(policy).read_bytes())
    return text if Path(policy).suffix == ".json" else _native.policy_from_yaml(text)


def known_text(known: Mapping[str, Any] | str | None) -> str:
    """Known values in JSON: of a mapping, or of a text in JSON."""
    if known is None or isinstance(known, Mapping):
        return json_text("known", known or {})
    if not isinstance(known, str):
        raise ProofInputError(f"known: expected a mapping or JSON, found {kind(known)}")
    return known


def with_members(place: str, text: str, **members: Any) -> str:
    """An object in JSON with further members; ``None`` is none.

    The text stays as it is, with all digits of its numbers. A member that it has already is one that stands
    twice, which the verifier refuses.
    """
    added = {name: value for name, value in members.items() if value is not None}
    given = json_object(place, text, number=str)
    if not added:
        return text
    head = text.strip().removesuffix("}")
    return head + (", " if given else "") + json_text(place, added).removeprefix("{")


def hex_text(place: str, value: str | bytes | None) -> str | None:
    """Bytes in hex; a text is hex already."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        raise ProofInputError(f"{place}: expected bytes, or their hex, found {kind(value)}")
    return value.hex()


def base64_text(place: str, value: bytes | None) -> str | None:
    """Bytes in base64. A text is refused: it could be hex, base64 or the bytes themselves."""
    if value is None:
        return None
    if not isinstance(value, bytes):
        raise ProofInputError(f"{place}: expected bytes, found {kind(value)}")
    return base64.b64encode(value).decode()


def base64_bytes(place: str, text: Any) -> bytes:
    """What a text in base64 stands for: standard, padded, and of the one form that encoding gives."""
    if not isinstance(text, str):
        raise ProofInputError(f"{place}: expected base64, found {kind(text)}")
    try:
        read = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:
        raise ProofInputError(f"{place}: expected base64, found {e}") from e
    # Bits after the last byte are dropped when decoding: two texts would be one proof.
    if base64.b64encode(read).decode() != text:
        raise ProofInputError(f"{place}: expected standard, padded base64, found another encoding of {len(read)} bytes")
    return read


def software_keys(keys: str | Iterable[str | bytes] | None) -> str | list[str | None] | None:
    """``any``, or node keys in hex."""
    if keys is None or isinstance(keys, str):
        return keys
    if isinstance(keys, bytes) or not isinstance(keys, Iterable):
        raise ProofInputError(f"policy/software_keys: expected a list, or 'any', found {kind(keys)}")
    return [hex_text(f"policy/software_keys/{at}", key) for at, key in enumerate(keys)]


def model_hash(value: str | bytes | None) -> tuple[str | None, str | None]:
    """Hash and scheme: of ``HASH``, or of ``SCHEME:HASH`` as ``grey model show`` prints it."""
    text = hex_text("known/model_hash", value)
    if text is None or ":" not in text:
        return text, None
    scheme, _, digest = text.partition(":")
    return digest, scheme


def unix_seconds(now: int | datetime | None) -> int:
    """Unix seconds; by default this machine's clock."""
    if now is None:
        return int(time.time())
    if isinstance(now, datetime):
        if now.tzinfo is None:
            raise ProofInputError("now: expected a datetime with its time zone, found none")
        now = int(now.timestamp())
    if isinstance(now, bool) or not isinstance(now, int) or not 0 <= now <= NOW_MAX:
        raise ProofInputError(f"now: expected Unix seconds from 0 to 2^63-1, found {now!r:.80}")
    return now


def kind(value: object) -> str:
    """A value's type, for messages."""
    return type(value).__name__
