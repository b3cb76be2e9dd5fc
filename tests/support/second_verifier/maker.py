"""Makes sessions and proofs on SOFTWARE, for tests that need bundles of their own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from . import ed25519, merkle
from . import structures as s
from .cbor import Tag, encode
from .tensors import Tensor, tensor_hash

START = 1_800_000_000
NODE_SEED, SESSION_SEED = b"\x01" * 32, b"\x02" * 32
CODE_HASH = hashlib.sha256(b"code").digest()
INPUTS = [Tensor("x", "FP32", [1, 2], bytes.fromhex("0000803f00000080"))]
OUTPUTS = [Tensor("b", "INT64", [1], bytes(8)), Tensor("a", "BYTES", [2], b"\x01\0\0\0!\0\0\0\0")]
NONCE = b"nonce of a client"
SALT = b"\x07" * 32


def manifest(**changes: Any) -> dict[int, Any]:
    """A manifest of a day; changes are given as `m7=…`."""
    made = {
        1: "grey.session.v1",
        2: bytes(16),
        3: {1: 1, -1: 6, -2: ed25519.public_key(SESSION_SEED)},
        4: [{1: 1, 2: 32, 3: 1, 4: 3, 5: bytes(range(32))}],
        5: "SOFTWARE",
        6: CODE_HASH,
        7: START,
        8: START + 86_400,
        9: CODE_HASH,
    }
    return made | {int(name[1:]): value for name, value in changes.items()}


def run(**changes: Any) -> dict[int, Any]:
    """An exec of class slot; changes are given as `e7=…`."""
    made = {1: "slot", 2: ["onnx", "1.0", bytes(32)], 3: "amd/x86-64-v4", 4: 2, 5: [[4, 1, 2]], 7: "fp32"}
    return made | {int(name[1:]): value for name, value in changes.items()}


def upstream_run() -> dict[int, Any]:
    """The exec of a run with an executor."""
    made = run(e1="none", e2=["up", "1", bytes(32)], e3="upstream", e4=0, e5=[[3, 0, 3]], e7="unknown")
    return made | {9: ["up", "1"]}


def claims(session: dict[int, Any], changes: dict[int, Any] | None = None) -> dict[int, Any]:
    """Claims of outcome 0 that restate the manifest; a change to None leaves the claim out."""
    made = {
        1: "grey",
        s.IAT: START + 100,
        s.CTI: bytes.fromhex("0190a1b2c3d47e5f8a0b0c0d0e0f1011"),
        s.NONCE: NONCE,
        265: s.PROFILE,
        s.TENANT_TAG: bytes(range(16)),
        s.MODEL_ID: "mlp",
        s.MODEL_VERSION: "1",
        s.MODEL_HASH: bytes(32),
        s.MODEL_HASH_SCHEME: "sha256-file",
        s.INPUT_HASH: tensor_hash(INPUTS, None),
        s.OUTPUT_HASH: tensor_hash(OUTPUTS, None),
        s.TENSOR_SCHEME: "grey-tensor-v1",
        s.EXEC: run(),
        s.PLATFORM: session[5],
        s.MEASUREMENT: session[6],
        s.SESSION_DIGEST: hashlib.sha256(encode(session)).digest(),
        -70014: bytes(16),
        s.OUTCOME: 0,
        s.OUTPUT_NAMES: ["a", "b"],
        s.PARAMETERS: {"temperature": "0.5", "top": 1, "greedy": True},
    }
    made |= changes or {}
    return {key: value for key, value in made.items() if value is not None}


def software_evidence(binding: bytes, seed: bytes = NODE_SEED) -> bytes:
    """Evidence by the node's key."""
    signature = ed25519.sign(seed, b"grey.software.v1\0" + binding)
    return encode(["grey.software.v1", binding, ed25519.public_key(seed), signature])


def sign1(protected: dict[int, Any], payload: bytes, external: bytes) -> Tag:
    """A COSE_Sign1 by the session's key."""
    header = encode(protected)
    message = encode(["Signature1", header, external, payload])
    return Tag(18, [header, {}, payload, ed25519.sign(SESSION_SEED, message)])


@dataclass
class Making:
    """A bundle in the making; change a field before `bundle` to get another one."""

    session: dict[int, Any] = field(default_factory=manifest)
    claim_changes: dict[int, Any] = field(default_factory=dict)
    nonce32: bytes = bytes(32)
    members: dict[int, Any] = field(default_factory=dict)
    leaves: int = 0  # 0: the single form
    index: int = 1
    strict: bool = False

    def session_members(self) -> dict[int, Any]:
        """Members 2 and 3."""
        encoded = encode(self.session)
        digest = hashlib.sha256(encoded).digest()
        binding = hashlib.sha512(b"grey.binding.v1\0" + digest + self.nonce32).digest()
        return {2: encoded, 3: {1: "SOFTWARE", 2: software_evidence(binding), 3: self.nonce32}}

    def proof(self) -> tuple[bytes, bytes]:
        """The proof, and the payload that is signed."""
        payload = encode(claims(self.session, self.claim_changes))
        digest = hashlib.sha256(encode(self.session)).digest()
        if not self.leaves:
            return encode(sign1({1: -19, 3: 61, 4: digest[:8]}, payload, b"grey.inference.v1")), payload
        row = [hashlib.sha256(bytes([i])).digest() for i in range(self.leaves)]
        row[self.index] = merkle.leaf_hash(payload)
        at, path = self.index, []
        while len(row) > 1:
            path.append(row[at ^ 1])
            row = [merkle.node_hash(a, b) for a, b in zip(row[::2], row[1::2], strict=True)]
            at >>= 1
        root = encode({1: "grey.batch.v1", 2: row[0], 3: self.leaves, 4: digest})
        signed = sign1({1: -19, 4: digest[:8]}, root, b"grey.batch.v1")
        return encode([payload, self.index, path, signed]), root

    def bundle(self) -> bytes:
        """The bundle."""
        proof, payload = self.proof()
        made = {1: proof} | self.session_members()
        if self.strict:
            made[9] = software_evidence(hashlib.sha512(b"grey.batch-report.v1\0" + payload).digest())
        return encode(made | self.members)

    def session_bundle(self) -> bytes:
        """The session's bundle."""
        return encode(self.session_members() | self.members)
