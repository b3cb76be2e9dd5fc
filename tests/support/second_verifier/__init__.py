"""A second verifier of Grey proofs, written from docs/proof-format.md alone and sharing no code with grey-proof.

It knows SOFTWARE evidence. Bundles with hardware evidence are read, and what needs their evidence fails.
"""

from __future__ import annotations

from .inputs import InputError, parse_known, parse_policy
from .jsontext import load_json
from .verify import CHECKS, SESSION_CHECKS, verify, verify_session

__all__ = [
    "CHECKS",
    "SESSION_CHECKS",
    "InputError",
    "load_json",
    "parse_known",
    "parse_policy",
    "verify",
    "verify_session",
]
