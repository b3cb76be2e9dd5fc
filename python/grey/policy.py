"""Whom to trust, as a typed value: the policy of ``docs/proof-format.md``."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from grey._inputs import hex_text, kind
from grey._native import ProofInputError

__all__ = ["MinTcb", "Policy", "Roots"]

Bytes = bytes | str
"""Bytes, or their hex."""


@dataclass(frozen=True, kw_only=True)
class MinTcb:
    """Floors of the trusted computing base of SEV-SNP; ``evaluation`` is of SGX and TDX."""

    boot_loader: int | None = None
    tee: int | None = None
    snp: int | None = None
    microcode: int | None = None
    fmc: int | None = None
    evaluation: int | None = None


@dataclass(frozen=True, kw_only=True)
class Roots:
    """Certificates in DER that are accepted beside the pinned ones of AMD and Intel. None of a timestamp authority is
    pinned.
    """

    amd: Sequence[bytes] = ()
    intel: Sequence[bytes] = ()
    tsa: Sequence[bytes] = ()


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What is asked of a proof. Whatever is given must hold; what is ``None`` asks for nothing.

    Something must be expected of who made the proof, or none is valid: ``expected_measurement``,
    ``expected_mrenclave``, ``expected_mrsigner``, or ``software_keys``.

    >>> policy = grey.Policy(software_keys=[node_key], max_skew=5)
    >>> bool(grey.verify(proof, policy=policy))
    True

    Whether a value is one that a policy may have is said where the policy is used, by ``grey.ProofInputError``.
    """

    platforms: Sequence[Literal["SGX", "TDX", "SEV-SNP", "SOFTWARE"]] | None = None
    """Platforms allowed; by default all that the rest allows."""
    expected_measurement: Bytes | None = None
    """Of any platform: 32 or 48 bytes."""
    expected_mrenclave: Bytes | None = None
    """SGX only: 32 bytes."""
    expected_mrsigner: Bytes | None = None
    """SGX only: 32 bytes, with ``expected_product`` and ``min_security_version``."""
    expected_product: int | None = None
    """SGX product id."""
    min_security_version: int | None = None
    """Least SGX security version."""
    expected_rtmrs: Sequence[Bytes] | None = None
    """TDX: RTMR 0 to 3, 48 bytes each."""
    expected_host_data: Bytes | None = None
    """SEV-SNP: HOST_DATA, 32 bytes."""
    expected_id_key: Bytes | None = None
    """SEV-SNP: ID_KEY_DIGEST, 48 bytes."""
    max_vmpl: int | None = None
    """SEV-SNP: highest VMPL; by default 0."""
    min_abi_minor: int | None = None
    """SEV-SNP: least ABI minor version in the guest's policy; by default 0."""
    software_keys: Literal["any"] | Sequence[Bytes] | None = None
    """Node keys whose proofs without hardware are allowed. Says nothing of hardware."""
    tcb_status: Sequence[str] | None = None
    """DCAP statuses allowed; by default ``UpToDate``."""
    min_tcb: MinTcb | None = None
    """Floors of the trusted computing base."""
    allow_debug: bool | None = None
    """Takes debug environments."""
    roots: Roots | None = None
    """Further roots."""
    mode: Literal["fresh", "archival"] | None = None
    """Which times count; by default ``fresh``."""
    max_age: int | None = None
    """Greatest age of a proof, seconds."""
    max_skew: int | None = None
    """Seconds by which the node's clock may be ahead; by default 60."""
    execution: str | None = None
    """Least determinism class."""
    executors: Literal["any"] | Sequence[str] | None = None
    """Executors allowed; by default none."""
    outcomes: Sequence[int] | None = None
    """Outcomes allowed; by default 0, success."""
    strict: bool | None = None
    """Asks for evidence over the executed batch."""

    def to_dict(self) -> dict[str, Any]:
        """The policy as ``docs/proof-format.md`` has it in JSON; what asks for nothing is left out.

        :raises ProofInputError: bytes, or their hex, that are something else.
        """
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: _member(name, value) for name, value in given.items() if value is not None}


_HEX = frozenset(
    {"expected_measurement", "expected_mrenclave", "expected_mrsigner", "expected_host_data", "expected_id_key"}
)


def _member(name: str, value: Any) -> Any:
    place = f"policy/{name}"
    if name in _HEX:
        return hex_text(place, value)
    if name in {"software_keys", "expected_rtmrs"} and not isinstance(value, str):
        return [hex_text(f"{place}/{at}", item) for at, item in enumerate(_list(place, value))]
    if isinstance(value, MinTcb):
        return {f.name: floor for f in fields(value) if (floor := getattr(value, f.name)) is not None}
    if isinstance(value, Roots):
        roots = {f.name: list(getattr(value, f.name)) for f in fields(value)}
        return {name: [base64.b64encode(der).decode() for der in ders] for name, ders in roots.items() if ders}
    return list(value) if isinstance(value, (tuple, set, frozenset)) else value


def _list(place: str, value: Any) -> list[Any]:
    if isinstance(value, bytes) or not hasattr(value, "__iter__"):
        raise ProofInputError(f"{place}: expected a list, found {kind(value)}")
    return list(value)
