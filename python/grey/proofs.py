"""Proofs of inference, and their verification. Nothing here needs a node or a network.

``docs/proof-format.md`` says what a proof is, what each check asks, and what policies and known values are.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from grey import _inputs, _native
from grey._native import ProofInputError
from grey._tensors import Tensors, known_tensors
from grey.policy import Policy
from grey.verdict import Check, Verdict

__all__ = ["Check", "InferenceProof", "ProofInputError", "Verdict", "bundle", "verify", "verify_session"]

# How much of a hash `print(proof)` shows, in characters.
_SHOWN = 16


@dataclass(frozen=True, repr=False)
class InferenceProof:
    """A proof as people and logs read it. Only ``proof`` is evidence: :func:`verify` compares the rest with it.

    Hashes and the measurement are lower-case hex. A hash that the proof does not state, as in one of a request
    that failed, is the empty text.
    """

    task_id: str
    model_id: str
    model_hash: str
    input_hash: str
    output_hash: str
    platform: str
    """SGX, TDX, SEV-SNP or SOFTWARE."""
    measurement: str
    report_data: bytes
    """The platform's evidence as it came."""
    signature: bytes
    """64 bytes, by the session's key over the claims, or over the batch's root."""
    timestamp: int
    """Unix seconds, by the node's clock."""
    model_version: str = ""
    nonce: bytes | None = None
    exec: Mapping[str, Any] | None = field(default=None, hash=False)
    """How it was computed: class, engine, device, threads, segments and so on."""
    proof: bytes = b""
    """The bundle, which holds all that a verifier needs."""

    @classmethod
    def from_bundle(cls, bundle: bytes) -> InferenceProof:
        """The view of a bundle. Nothing is verified but its form.

        :raises ProofInputError: the bundle is not well formed.
        """
        return cls._from_members(json.loads(_native.view(bundle)))

    @classmethod
    def from_json(cls, source: str | Mapping[str, Any] | os.PathLike[str]) -> InferenceProof:
        """Read a JSON view: a text, a mapping, or the path of a file. Nothing is verified.

        A ``str`` is the JSON itself; a path is a :class:`~pathlib.Path`.

        :raises ProofInputError: no JSON, or a member that is unknown, missing or of another type.
        :raises OSError: the file cannot be read.
        """
        if isinstance(source, Mapping):
            return cls._from_members(source)
        if not isinstance(source, str):
            source = _inputs.as_text("proof", Path(source).read_bytes())
        return cls._from_members(_inputs.json_object("proof", source))

    @classmethod
    def _from_members(cls, members: Mapping[str, Any]) -> InferenceProof:
        read = {name: _read_member(name, value) for name, value in members.items()}
        for name in (f.name for f in fields(cls)):
            if name not in read and name not in _ABSENT:
                raise ProofInputError(f"proof/{name}: expected the member, found none")
        return cls(**{**_ABSENT, **read})

    def to_dict(self) -> dict[str, Any]:
        """The JSON view: bytes in base64, and what is absent left out.

        :raises ProofInputError: a member that should be bytes is something else.
        """
        members = {f.name: getattr(self, f.name) for f in fields(self)}
        present = {name: value for name, value in members.items() if name not in _ABSENT or value != _ABSENT[name]}
        return {name: _encoded(name, value) if name in _BYTES else value for name, value in present.items()}

    def to_json(self) -> str:
        """The JSON view as a text; :meth:`from_json` reads it."""
        return _inputs.json_text("proof", self.to_dict())

    def __str__(self) -> str:
        """The labels and the start of each hash, as JSON."""
        names = ("platform", "measurement", "task_id", "model_id", "model_version")
        hashes = ("model_hash", "input_hash", "output_hash")
        shown = {name: getattr(self, name) for name in (*names, *hashes, "timestamp")}
        for name in ("measurement", *hashes):
            if len(shown[name]) > _SHOWN:
                shown[name] = f"{shown[name][:_SHOWN]}…"
        return json.dumps({name: value for name, value in shown.items() if value != ""}, ensure_ascii=False)

    def __repr__(self) -> str:
        return f"InferenceProof({self.platform}, model {self.model_id!r}, task {self.task_id})"


Proof = InferenceProof | bytes | str | Mapping[str, Any] | os.PathLike[str]
PolicyLike = Policy | Mapping[str, Any] | str | os.PathLike[str]

_BYTES = frozenset({"report_data", "signature", "nonce", "proof"})
# What stands for members that a view may leave out.
_ABSENT: dict[str, Any] = {"model_hash": "", "input_hash": "", "output_hash": "", "nonce": None, "exec": None}
_TEXTS = frozenset(
    {"task_id", "model_id", "model_version", "model_hash", "input_hash", "output_hash", "platform", "measurement"}
)


def verify(
    proof: Proof,
    *,
    policy: PolicyLike | None = None,
    known: Mapping[str, Any] | str | None = None,
    now: int | datetime | None = None,
    software_keys: str | Iterable[str | bytes] | None = None,
    expected_measurement: str | bytes | None = None,
    expected_mrenclave: str | bytes | None = None,
    expected_model_hash: str | bytes | None = None,
    inputs: Tensors | None = None,
    outputs: Tensors | None = None,
    salt: bytes | None = None,
    nonce: bytes | None = None,
    session_nonce: bytes | None = None,
    request: Mapping[str, Any] | None = None,
    seen: Iterable[str] | None = None,
) -> Verdict:
    """Judge a proof: whether it is genuine, and whether it is what the caller expects.

    Whatever is given must hold. Something must be expected of who made the proof: ``expected_measurement``,
    ``expected_mrenclave``, ``software_keys``, or members of ``policy``; any other proof is not valid.

    :param proof: a bundle as bytes, an :class:`InferenceProof`, its JSON as text or mapping, or the
        :class:`~pathlib.Path` of a file with a bundle or JSON. A ``str`` is never a path, since it may be what a
        stranger sent. Of JSON and :class:`InferenceProof` every member is compared with the bundle inside.
    :param policy: a :class:`grey.Policy`, a mapping, a JSON text, or the path of a file in YAML (``.json``: JSON).
    :param known: as in the proof format, a mapping or its JSON; the parameters below add to it.
    :param now: Unix seconds, or a datetime with a time zone; by default this machine's clock.
    :param software_keys: allows proofs without hardware, of these node keys (32 bytes, or hex), or of ``"any"``.
    :param expected_measurement: 32 or 48 bytes, or hex, of any platform.
    :param expected_mrenclave: 32 bytes, or hex: SGX only.
    :param expected_model_hash: 32 bytes, hex, or ``SCHEME:HEX``.
    :param inputs: the request's inputs: arrays by name, or a list of ``{name, datatype, shape, data}``.
        Dtype and shape must be what was sent; lists of texts or bytes are BYTES.
    :param outputs: the answer's outputs, in the same forms.
    :param salt: the 32 bytes that the request sent.
    :param nonce: the nonce that the request sent.
    :param session_nonce: the nonce that was sent for the session's evidence.
    :param request: any of ``model_id``, ``model_version``, ``parameters``, ``task_id``, ``tenant_tag``.
    :param seen: task ids of proofs that were accepted before.
    :raises ProofInputError: an argument that is not what it should be; the text names the member. Of ``proof``
        that is JSON (a text, a mapping, or a file that begins with ``{``) in which no bundle can be found: no
        JSON, a member twice, a value that JSON has not, no ``proof`` in standard base64; and an
        :class:`InferenceProof` without ``proof``, or with a member of another type where it has bytes. Whatever
        else is wrong with a proof is a verdict: bytes, files and members ``proof`` that are no bundle are not
        ``well-formed``, other members that are not the bundle's fail ``view``.
    :raises OSError: a file cannot be read.
    """
    bundle, view = _read_proof(proof)
    digest, scheme = _inputs.model_hash(expected_model_hash)
    asked = _policy(policy, software_keys, expected_measurement, expected_mrenclave)
    knows = _inputs.with_members(
        "known",
        _inputs.known_text(known),
        inputs=None if inputs is None else known_tensors("inputs", inputs),
        outputs=None if outputs is None else known_tensors("outputs", outputs),
        salt=_inputs.base64_text("known/salt", salt),
        nonce=_inputs.base64_text("known/nonce", nonce),
        session_nonce=_inputs.base64_text("known/session_nonce", session_nonce),
        model_hash=digest,
        model_hash_scheme=scheme,
        request=request,
        seen=None if seen is None else list(seen),
        view=view,
    )
    seconds = _inputs.unix_seconds(now)
    return Verdict.from_json(_native.verify(bundle, asked, seconds, knows))


def bundle(proof: bytes, session: bytes) -> bytes:
    """A proof, as an answer brings it, and the bundle of its session, as one bundle: what is kept and verified.

    :param proof: ``grey_proof`` of the response parameters, decoded from base64.
    :param session: what ``GET /grey/v1/sessions/DIGEST`` gives for ``grey_session`` of the same answer.
    :raises ProofInputError: one of them is not well formed; the text says where.
    """
    return _native.bundle(proof, session)


def verify_session(
    session: bytes | os.PathLike[str],
    *,
    policy: PolicyLike | None = None,
    known: Mapping[str, Any] | str | None = None,
    now: int | datetime | None = None,
    software_keys: str | Iterable[str | bytes] | None = None,
    expected_measurement: str | bytes | None = None,
    expected_mrenclave: str | bytes | None = None,
    session_nonce: bytes | None = None,
) -> Verdict:
    """Judge a session alone, before anything is sealed to its keys: checks 1 to 9, at the time ``now``.

    :param session: the session's bundle as a node gives it, or the :class:`~pathlib.Path` of a file with it.

    Everything else is as in :func:`verify`.
    """
    if not isinstance(session, (bytes, os.PathLike)):
        raise ProofInputError(f"session: expected bytes or a path, found {_inputs.kind(session)}")
    bundle = session if isinstance(session, bytes) else Path(session).read_bytes()
    asked = _policy(policy, software_keys, expected_measurement, expected_mrenclave)
    nonce = _inputs.base64_text("known/session_nonce", session_nonce)
    knows = _inputs.with_members("known", _inputs.known_text(known), session_nonce=nonce)
    return Verdict.from_json(_native.verify_session(bundle, asked, _inputs.unix_seconds(now), knows))


def _policy(
    policy: PolicyLike | None,
    software_keys: str | Iterable[str | bytes] | None,
    expected_measurement: str | bytes | None,
    expected_mrenclave: str | bytes | None,
) -> str:
    return _inputs.with_members(
        "policy",
        _inputs.policy_text(policy),
        software_keys=_inputs.software_keys(software_keys),
        expected_measurement=_inputs.hex_text("policy/expected_measurement", expected_measurement),
        expected_mrenclave=_inputs.hex_text("policy/expected_mrenclave", expected_mrenclave),
    )


def _read_proof(proof: Proof) -> tuple[bytes, Mapping[str, Any] | None]:
    """The bundle, and the view that came with it."""
    if isinstance(proof, bytes):
        return proof, None
    if isinstance(proof, InferenceProof):
        proof = proof.to_dict()
    if isinstance(proof, os.PathLike):
        data = Path(proof).read_bytes()
        # A bundle begins with the head of a map, which no JSON begins with.
        if not data.lstrip().startswith(b"{"):
            return data, None
        proof = _inputs.as_text("proof", data)
    if isinstance(proof, str):
        proof = _inputs.json_object("proof", proof)
    if not isinstance(proof, Mapping):
        raise ProofInputError(f"proof: expected an InferenceProof, bytes, JSON or a path, found {_inputs.kind(proof)}")
    bundle = _inputs.base64_bytes("proof/proof", proof.get("proof", ""))
    if not bundle:
        raise ProofInputError("proof/proof: expected the bundle, found none")
    return bundle, proof


def _read_member(name: str, value: Any) -> Any:
    """A member of a view as its field."""
    place = f"proof/{name}"
    if name in _BYTES:
        return _inputs.base64_bytes(place, value)
    if name in _TEXTS:
        expected, fits = "a text", isinstance(value, str) and (value != "" or name not in _ABSENT)
    elif name == "timestamp":
        expected, fits = "an integer", isinstance(value, int) and not isinstance(value, bool)
    elif name == "exec":
        expected, fits = "an object", isinstance(value, Mapping)
    else:
        raise ProofInputError(f"proof/{name[:80]}: expected no such member, found it")
    if not fits:
        raise ProofInputError(f"{place}: expected {expected}, found {_inputs.kind(value)}")
    return value


def _encoded(name: str, value: Any) -> str:
    if not isinstance(value, bytes):
        raise ProofInputError(f"proof/{name}: expected bytes, found {_inputs.kind(value)}")
    return base64.b64encode(value).decode()
