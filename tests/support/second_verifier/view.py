"""The JSON view of a bundle."""

from __future__ import annotations

import base64
import uuid
from typing import Any

from . import structures as s


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _exec(item: dict[int, Any]) -> dict[str, Any]:
    engine, version, library = item[2]
    view: dict[str, Any] = {
        "class": item[1],
        "engine": engine,
        "engine_version": version,
        "engine_sha256": library.hex(),
        "device": item[3],
        "threads": item[4],
        "segments": item[5],
        "precision": item[7],
    }
    for key, name in ((6, "lengths"), (9, "executor"), (10, "filler"), (11, "switches")):
        if key in item:
            view[name] = item[key]
    if 8 in item:
        view["sampling"] = {str(key): value for key, value in item[8].items()}
    return view


def view_of(bundle: s.Bundle) -> dict[str, Any]:
    """All members of the view, `proof` included."""
    claims = bundle.proof.claims
    view: dict[str, Any] = {
        "task_id": str(uuid.UUID(bytes=claims[s.CTI])),
        "model_id": claims[s.MODEL_ID],
        "model_version": claims[s.MODEL_VERSION],
        "platform": claims[s.PLATFORM],
        "measurement": claims[s.MEASUREMENT].hex(),
        "report_data": _base64(bundle.session.evidence),
        "signature": _base64(bundle.proof.signed.signature),
        "timestamp": claims[s.IAT],
        "proof": _base64(bundle.encoded),
    }
    for key, name in ((s.MODEL_HASH, "model_hash"), (s.INPUT_HASH, "input_hash"), (s.OUTPUT_HASH, "output_hash")):
        if key in claims:
            view[name] = claims[key].hex()
    if s.NONCE in claims:
        view["nonce"] = _base64(claims[s.NONCE])
    if s.EXEC in claims:
        view["exec"] = _exec(claims[s.EXEC])
    return view


def same(a: Any, b: Any) -> bool:
    """Equality of JSON values, in which true is not 1."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)


def differences(given: dict[str, Any], made: dict[str, Any]) -> list[str]:
    """The members that differ, are missing or added, in order of their names; `proof` is not compared."""
    names = (given.keys() | made.keys()) - {"proof"}
    return sorted(n for n in names if n not in given or n not in made or not same(given[n], made[n]))
