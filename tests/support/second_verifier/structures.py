"""Bundles and what is in them: the forms that check `well-formed` asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import cbor
from .rules import (
    Malformed,
    any_of,
    ascending,
    data,
    inner,
    integer,
    listed,
    one_of,
    require,
    sized,
    struct,
    table,
    text,
    tuple_of,
    uint,
)

MAX_CLAIMS, MAX_MANIFEST, MAX_PROOF, MAX_BUNDLE = 4096, 8192, 16_384, 4_194_304
MAX_PATH = 32
MEASUREMENT_SIZE = {"SGX": 32, "TDX": 48, "SEV-SNP": 48, "SOFTWARE": 32}
LEAST_EVIDENCE = {"SGX": 432, "TDX": 632, "SEV-SNP": 1184}
PROFILE = "urn:uuid:7b0c9e52-3f64-4c1d-9a58-2d6f1e80a4c3"
MODEL_HASH_SCHEMES = ("sha256-file", "sha256-files")
CLASSES = ("none", "slot", "invariant", "portable")

# Claims that are read by name elsewhere.
IAT, CTI, NONCE = 6, 7, 10
TENANT_TAG, MODEL_ID, MODEL_VERSION, MODEL_HASH, MODEL_HASH_SCHEME = -70001, -70002, -70003, -70004, -70005
INPUT_HASH, OUTPUT_HASH, TENSOR_SCHEME, EXEC = -70006, -70007, -70008, -70009
PLATFORM, MEASUREMENT, SESSION_DIGEST = -70010, -70011, -70012
CHILDREN, OUTCOME, OUTPUT_NAMES, PARAMETERS = -70015, -70017, -70018, -70019

digest = sized(32)
signature = sized(64)
platform = one_of(*MEASUREMENT_SIZE)
measurement = any_of(sized(32), sized(48))

sealing_key = struct({1: uint, 2: one_of(32), 3: one_of(1), 4: one_of(3), 5: sized(32)})
manifest_form = struct(
    {
        1: one_of("grey.session.v1"),
        2: sized(16),
        3: struct({1: one_of(1), -1: one_of(6), -2: sized(32)}),
        4: listed(sealing_key),
        5: platform,
        6: measurement,
        7: uint,
        8: uint,
        9: digest,
    }
)
software_evidence = tuple_of(one_of("grey.software.v1"), sized(64), sized(32), signature)

exec_form = struct(
    {
        1: one_of(*CLASSES),
        2: tuple_of(text, text, digest),
        3: text,
        4: uint,
        5: listed(tuple_of(uint, uint, uint), 1),
        7: text,
    },
    {
        6: listed(uint, 1),
        8: table(uint, uint),
        9: tuple_of(text, text),
        10: one_of("self"),
        11: ascending(text),
    },
)
claims_form = struct(
    {
        1: text,
        IAT: uint,
        CTI: sized(16),
        265: one_of(PROFILE),
        TENANT_TAG: sized(16),
        MODEL_ID: text,
        MODEL_VERSION: text,
        TENSOR_SCHEME: one_of("grey-tensor-v1", "grey-tensor-v1+salt"),
        PLATFORM: platform,
        MEASUREMENT: measurement,
        SESSION_DIGEST: digest,
        -70014: sized(16),
        OUTCOME: one_of(*range(9)),
    },
    {
        NONCE: sized(8, 64),
        MODEL_HASH: digest,
        MODEL_HASH_SCHEME: one_of(*MODEL_HASH_SCHEMES),
        INPUT_HASH: digest,
        OUTPUT_HASH: digest,
        EXEC: exec_form,
        CHILDREN: listed(digest, 1),
        -70016: tuple_of(digest, uint),
        OUTPUT_NAMES: ascending(text),
        PARAMETERS: table(text, any_of(text, integer, one_of(True, False))),
    },
)

# Per outcome: must -70004, -70005 and -70006, must -70007 and -70018, must -70009 stand? None: either way.
PRESENCE: dict[int, tuple[bool, bool, bool | None]] = {
    0: (True, True, True),
    1: (False, False, False),
    2: (True, False, None),
    3: (True, False, None),
    4: (True, False, None),
    5: (True, False, None),
    6: (False, False, False),
    7: (False, False, False),
    8: (False, False, None),
}

root_form = struct({1: one_of("grey.batch.v1"), 2: digest, 3: uint, 4: digest})
kid = sized(8)
single_protected = struct({1: one_of(-19), 3: one_of(61), 4: kid})
root_protected = struct({1: one_of(-19), 4: kid})
collateral_forms = {
    "SEV-SNP": struct({1: listed(data, 1)}, {2: listed(data, 1)}),
    "SGX": struct({3: data}),
    "TDX": struct({3: data}),
}

session_members = {2: data, 3: struct({1: platform, 2: data, 3: sized(32)})}
# The form of member 4 follows from the platform and is judged there.
session_optional = {4: lambda _item, _what: None, 5: data, 6: data, 7: data, 8: data, 9: data}
bundle_form = struct({1: data} | session_members, session_optional)
session_bundle_form = struct(session_members, session_optional)


def check_measurement(of: str, value: bytes, what: str) -> None:
    """The size of a measurement follows from its platform."""
    require(len(value) == MEASUREMENT_SIZE[of], f"{what}: measurement of {len(value)} bytes for {of}")


def check_exec(item: dict[int, Any]) -> None:
    """Segments in range, and the form of an upstream's run."""
    for bucket, position, rows in item[5]:
        require(rows >= 1 and position + rows <= bucket, "exec: segment out of range")
    if 9 not in item:
        return
    one, at, rows = item[5][0]
    exact = (
        item[1] == "none"
        and item[2][2] == bytes(32)
        and item[3] == "upstream"
        and item[4] == 0
        and len(item[5]) == 1
        and (at, rows) == (0, one)
        and item[7] == "unknown"
        and not item.keys() & {6, 8, 10, 11}
    )
    require(exact, "exec: not the form of an upstream's run")


def read_claims(encoded: Any) -> dict[int, Any]:
    """Claims that follow every rule."""
    claims: dict[int, Any] = inner(encoded, "claims", claims_form, MAX_CLAIMS)
    check_measurement(claims[PLATFORM], claims[MEASUREMENT], "claims")
    task = claims[CTI]
    require(task[6] >> 4 == 7 and task[8] >> 6 == 2, "claims: cti is not a UUIDv7")
    want_input, want_output, want_exec = PRESENCE[claims[OUTCOME]]
    if claims[OUTCOME] == 0 and CHILDREN in claims:
        want_exec = None
    for key, want in (
        (MODEL_HASH, want_input),
        (MODEL_HASH_SCHEME, want_input),
        (INPUT_HASH, want_input),
        (OUTPUT_HASH, want_output),
        (OUTPUT_NAMES, want_output),
        (EXEC, want_exec),
    ):
        present = key in claims
        require(want is None or present == want, f"claims: {key} with outcome {claims[OUTCOME]}")
    if EXEC in claims:
        check_exec(claims[EXEC])
    return claims


def read_manifest(encoded: Any) -> dict[int, Any]:
    """A manifest that follows every rule."""
    manifest: dict[int, Any] = inner(encoded, "manifest", manifest_form, MAX_MANIFEST)
    check_measurement(manifest[5], manifest[6], "manifest")
    kids = [key[1] for key in manifest[4]]
    require(len(kids) == len(set(kids)), "manifest: a sealing kid twice")
    return manifest


@dataclass(frozen=True)
class Signed:
    """A COSE_Sign1, as it came."""

    protected: bytes
    kid: bytes
    payload: bytes
    signature: bytes

    def message(self, external: bytes) -> bytes:
        """The Sig_structure that is signed."""
        return cbor.encode(["Signature1", self.protected, external, self.payload])


@dataclass(frozen=True)
class Batch:
    """What the batch form adds."""

    leaf_index: int
    path: list[bytes]
    root: dict[int, Any]


@dataclass(frozen=True)
class Proof:
    """A proof of either form."""

    claims_bytes: bytes
    claims: dict[int, Any]
    signed: Signed
    batch: Batch | None


def read_signed(item: Any, what: str, protected_rule: Any) -> Signed:
    """A COSE_Sign1 with an empty unprotected header."""
    require(isinstance(item, cbor.Tag) and item.number == cbor.COSE_SIGN1, f"{what}: no COSE_Sign1")
    tuple_of(data, struct({}), data, signature)(item.item, what)
    protected, _, payload, signature_bytes = item.item
    header = inner(protected, f"{what}: protected header", protected_rule)
    return Signed(protected, header[4], payload, signature_bytes)


def read_proof(encoded: bytes) -> Proof:
    """A proof that follows every rule."""
    item = inner(encoded, "proof", lambda _item, _what: None, MAX_PROOF)
    if isinstance(item, cbor.Tag):
        signed = read_signed(item, "proof", single_protected)
        return Proof(signed.payload, read_claims(signed.payload), signed, None)
    tuple_of(data, uint, listed(digest, 0, MAX_PATH), lambda _item, _what: None)(item, "proof")
    claims_bytes, leaf_index, path, root_item = item
    signed = read_signed(root_item, "signed root", root_protected)
    root = inner(signed.payload, "root", root_form)
    require(root[3].bit_count() == 1, f"root: a batch of {root[3]} leaves")
    return Proof(claims_bytes, read_claims(claims_bytes), signed, Batch(leaf_index, path, root))


@dataclass(frozen=True)
class SoftwareEvidence:
    """A node's own signature over a binding."""

    binding: bytes
    node_key: bytes
    signature: bytes


def read_software_evidence(encoded: bytes) -> SoftwareEvidence:
    """Software evidence that follows every rule."""
    _, binding, node_key, signature_bytes = inner(encoded, "evidence", software_evidence)
    return SoftwareEvidence(binding, node_key, signature_bytes)


@dataclass(frozen=True)
class Session:
    """The members that both kinds of bundle have."""

    manifest_bytes: bytes
    manifest: dict[int, Any]
    platform: str
    evidence: bytes
    software: SoftwareEvidence | None
    nonce32: bytes
    batch_evidence: bytes | None


@dataclass(frozen=True)
class Bundle:
    """A proof with its session."""

    encoded: bytes
    proof: Proof
    session: Session


def read_session(item: dict[int, Any]) -> Session:
    """The session members of a bundle."""
    manifest = read_manifest(item[2])
    kind, evidence, nonce32 = item[3][1], item[3][2], item[3][3]
    software = None
    if kind == "SOFTWARE":
        require(4 not in item, "collateral: SOFTWARE has none")
        software = read_software_evidence(evidence)
    else:
        require(len(evidence) >= LEAST_EVIDENCE[kind], f"evidence: {len(evidence)} bytes for {kind}")
        if 4 in item:
            collateral_forms[kind](item[4], "collateral")
    return Session(item[2], manifest, kind, evidence, software, nonce32, item.get(9))


def read_bundle(encoded: bytes) -> Bundle:
    """A bundle in which everything follows every rule; raises Malformed otherwise."""
    item = inner(encoded, "bundle", bundle_form, MAX_BUNDLE)
    return Bundle(encoded, read_proof(item[1]), read_session(item))


def read_session_bundle(encoded: bytes) -> Session:
    """A bundle without a proof; raises Malformed otherwise."""
    return read_session(inner(encoded, "session bundle", session_bundle_form, MAX_BUNDLE))


__all__ = ["Bundle", "Malformed", "Proof", "Session", "read_bundle", "read_session_bundle"]
