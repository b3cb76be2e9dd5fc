"""Verify proofs of inference: :mod:`grey.proofs` under the names of the integrations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from grey.proofs import InferenceProof, PolicyLike, Proof, Verdict, verify

__all__ = ["InferenceProof", "Verdict", "verify_inference_proof"]


def verify_inference_proof(
    proof: Proof,
    expected_mrenclave: str | bytes | None = None,
    expected_model_hash: str | bytes | None = None,
    *,
    expected_measurement: str | bytes | None = None,
    software_keys: str | Iterable[str | bytes] | None = None,
    policy: PolicyLike | None = None,
    **known: Any,
) -> Verdict:
    """Judge a proof; the verdict is true only if the proof is valid.

    :param proof: an :class:`InferenceProof`, a bundle, its JSON, or the ``Path`` of a file with either.
    :param known: further parameters of :func:`grey.verify`, such as ``inputs``, ``outputs``, ``nonce`` and ``now``.
    :raises ProofInputError: as :func:`grey.verify` does: a bad question, or JSON in which there is no bundle. Any
        other bad proof is a verdict.

    The other parameters are those of :func:`grey.verify`.
    """
    return verify(
        proof,
        policy=policy,
        software_keys=software_keys,
        expected_measurement=expected_measurement,
        expected_mrenclave=expected_mrenclave,
        expected_model_hash=expected_model_hash,
        **known,
    )
