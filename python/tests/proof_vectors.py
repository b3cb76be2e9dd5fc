"""The vectors of grey-proof: bundles, what is asked of them, and what must come of it."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grey

FOLDER = Path(__file__).parents[2] / "crates" / "grey-proof" / "vectors"
PROOFS = sorted(FOLDER.glob("*.json"))
SESSIONS = sorted((FOLDER / "sessions").glob("*.json"))
ERRORS = sorted((FOLDER / "errors").glob("*.json"))


@dataclass(frozen=True)
class Vector:
    """One file. ``overall`` and ``check`` are what is expected; of an error there is neither.

    Policy and known values are there as texts too, since no digit of a number may be lost.
    """

    bundle: bytes
    policy: dict[str, Any]
    policy_text: str
    now: int
    known: dict[str, Any]
    known_text: str
    overall: str | None
    check: str | None


def read(path: Path) -> Vector:
    """Read a vector of any kind."""
    text = path.read_text()
    v = json.loads(text)
    expect = v.get("expect", {})
    bundle = base64.b64decode(v.get("bundle", ""), validate=True)
    texts = []
    for part in ("policy", "known"):
        [part_text] = re.findall(f'^  "{part}": (.*),$', text, re.MULTILINE)
        assert json.loads(part_text) == v[part]
        texts.append(part_text)
    policy, known = texts
    return Vector(
        bundle, v["policy"], policy, v.get("now", 0), v["known"], known, expect.get("overall"), expect.get("check")
    )


def good() -> Vector:
    """A proof that is valid, knows inputs and outputs, and expects nothing but one node key."""
    for path in PROOFS:
        v = read(path)
        if v.overall == "valid" and set(v.policy) == {"software_keys"} and {"inputs", "outputs"} <= set(v.known):
            proof = grey.InferenceProof.from_bundle(v.bundle)
            if proof.model_hash and proof.nonce and len(v.policy["software_keys"]) == 1:
                return v
    raise AssertionError(f"no vector in {FOLDER} that is valid and knows its tensors")
