"""The vectors of grey-proof, judged by a verifier that was written from docs/proof-format.md alone."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest
from support.second_verifier import (
    CHECKS,
    SESSION_CHECKS,
    InputError,
    cbor,
    ed25519,
    load_json,
    maker,
    merkle,
    parse_known,
    parse_policy,
    verify,
    verify_session,
)
from support.second_verifier import structures as s
from support.second_verifier.jsontext import number_form
from support.second_verifier.tensors import Tensor, tensor_hash
from support.second_verifier.view import view_of

VECTORS = Path(__file__).parent.parent / "crates" / "grey-proof" / "vectors"
PROOFS = sorted(VECTORS.glob("*.json"))
SESSIONS = sorted((VECTORS / "sessions").glob("*.json"))
ERRORS = sorted((VECTORS / "errors").glob("*.json"))
LEAST_PROOFS = 60
ANYONE: dict[str, Any] = {"software_keys": "any"}
NOW = maker.START + 200


def failing(verdict: dict[str, Any]) -> set[str]:
    """The names of the checks that fail."""
    return {c["name"] for c in verdict["checks"] if c["result"] == "fail"}


def result(verdict: dict[str, Any], name: str) -> str:
    """The result of one check."""
    return next(str(c["result"]) for c in verdict["checks"] if c["name"] == name)


def judge(
    making: maker.Making, policy: dict[str, Any] | None = None, known: dict[str, Any] | None = None, now: int = NOW
) -> dict[str, Any]:
    """The verdict on a bundle in the making; by default SOFTWARE of any key is allowed."""
    return verify(making.bundle(), ANYONE | (policy or {}), now, known or {})


def compare_with_vector(path: Path, function: Any, names: tuple[str, ...]) -> None:
    """Overall and the set of failing checks are those of the vector."""
    vector = load_json(path.read_bytes())
    bundle = base64.b64decode(vector["bundle"], validate=True)
    verdict = function(bundle, vector["policy"], vector["now"], vector["known"])
    assert tuple(c["name"] for c in verdict["checks"]) == names
    expected = vector["expect"]
    assert failing(verdict) == ({expected["check"]} - {None}), verdict
    assert verdict["overall"] == expected["overall"], verdict


# The vectors.


def test_there_are_vectors_for_every_check() -> None:
    assert len(PROOFS) >= LEAST_PROOFS
    assert SESSIONS
    assert ERRORS
    failed = {load_json(path.read_bytes())["expect"]["check"] for path in PROOFS}
    assert set(CHECKS[:1] + CHECKS[6:]) <= failed


@pytest.mark.parametrize("path", PROOFS, ids=lambda p: p.stem)
def test_proof_vector(path: Path) -> None:
    compare_with_vector(path, verify, CHECKS)


@pytest.mark.parametrize("path", SESSIONS, ids=lambda p: p.stem)
def test_session_vector(path: Path) -> None:
    compare_with_vector(path, verify_session, SESSION_CHECKS)


@pytest.mark.parametrize("path", ERRORS, ids=lambda p: p.stem)
def test_error_vector(path: Path) -> None:
    vector = load_json(path.read_bytes())
    for part, parse in (("policy", parse_policy), ("known", parse_known)):
        try:
            parse(vector[part])
            raised = False
        except InputError:
            raised = True
        assert raised == (vector["error"] == part), part


# CBOR.


@pytest.mark.parametrize(
    "data",
    [
        "1817",  # 23 in two bytes
        "1900ff",
        "1a0000ffff",
        "1b00000000ffffffff",
        "1b8000000000000000",  # 2^63
        "3b8000000000000000",  # -2^63 - 1
        "5803010203",
        "5f41014102ff",
        "7f6161ff",
        "9f01ff",
        "bf0102ff",
        "a202010101",  # keys 2, 1
        "a220010101",  # -1 before 1
        "a201010102",  # 1 twice
        "a2626161016162 01",  # a longer text first
        "a1410101",  # a byte string as key
        "a1f501",
        "f6",
        "f7",
        "f93c00",
        "fa3f800000",
        "fb3ff0000000000000",
        "f8f5",
        "e0",
        "c001",
        "d81201",
        "d9d9f700",
        "0000",
        "",
        "1c",
        "62c328",
        "63eda080",  # a surrogate
        "8201",
        "5bffffffffffffffff00",
    ],
)
def test_cbor_refuses(data: str) -> None:
    with pytest.raises(cbor.CborError):
        cbor.decode(bytes.fromhex(data))


@pytest.mark.parametrize(
    "item",
    [
        0,
        23,
        24,
        255,
        256,
        65_536,
        2**32,
        2**63 - 1,
        -1,
        -(2**63),
        b"",
        "é",
        [],
        {},
        [True, False],
        {1: 2, 265: 3, -1: 4, -70001: 5, "": 6, "b": 7, "aa": 8},
        cbor.Tag(18, [b"", {}, b"", b""]),
    ],
    ids=str,
)
def test_cbor_reads_what_it_writes(item: Any) -> None:
    assert cbor.decode(cbor.encode(item)) == item


def test_cbor_nests_16_deep() -> None:
    for deep in (b"\x81", b"\xa1\x00", b"\xd2"):
        assert cbor.decode(deep * 16 + b"\x00") is not None
        with pytest.raises(cbor.CborError):
            cbor.decode(deep * 17 + b"\x00")
    cbor.decode(b"\x81" * 15 + b"\x80")
    with pytest.raises(cbor.CborError):
        cbor.decode(b"\x81" * 16 + b"\x80")


# Ed25519.

RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd"
        "25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c3"
        "87b2eaeb4302aeeb00d291612bb0c00",
    ),
]


@pytest.mark.parametrize(("seed", "key", "message", "signature"), RFC_8032)
def test_ed25519_of_rfc_8032(seed: str, key: str, message: str, signature: str) -> None:
    assert ed25519.public_key(bytes.fromhex(seed)).hex() == key
    assert ed25519.sign(bytes.fromhex(seed), bytes.fromhex(message)).hex() == signature
    assert ed25519.verify(bytes.fromhex(key), bytes.fromhex(message), bytes.fromhex(signature))
    assert not ed25519.verify(bytes.fromhex(key), bytes.fromhex(message) + b"!", bytes.fromhex(signature))


def small_order_points() -> list[bytes]:
    """The eight points whose order divides eight, in their canonical encodings."""
    for seed in range(2, 100):
        point = ed25519.decompress(seed.to_bytes(32, "little"))
        if point is None:
            continue
        torsion = ed25519.multiply(ed25519.L, point)
        points = {ed25519.compress(ed25519.multiply(i, torsion)) for i in range(8)}
        if len(points) == 8:
            return sorted(points)
    raise AssertionError("no generator of the torsion found")


def test_ed25519_refuses_points_of_small_order() -> None:
    points = small_order_points()
    for point in points:
        read = ed25519.decompress(point)
        assert read is not None
        assert ed25519.small_order(read)
        # R = point, S = 0: with a small-order key the equation itself can hold.
        assert not ed25519.verify(point, b"m", points[0] + bytes(32))
        assert not ed25519.verify(ed25519.public_key(bytes(32)), b"m", point + bytes(32))
    assert not ed25519.small_order(ed25519.BASE)


def test_ed25519_refuses_non_canonical_points() -> None:
    for y in range(19):
        for sign in (0, 1 << 255):
            assert ed25519.decompress((y + ed25519.P | sign).to_bytes(32, "little")) is None
    for y in (1, ed25519.P - 1):  # x is 0 and has no sign
        assert ed25519.decompress((y | 1 << 255).to_bytes(32, "little")) is None


def test_ed25519_refuses_a_scalar_that_is_not_reduced() -> None:
    _, key, message, signature = (bytes.fromhex(part) for part in RFC_8032[1])
    larger = int.from_bytes(signature[32:], "little") + ed25519.L
    assert not ed25519.verify(key, message, signature[:32] + larger.to_bytes(32, "little"))


def test_ed25519_counts_torsion() -> None:
    """Without cofactor, a signature that holds only after multiplying by eight is refused."""
    seed, message = bytes(32), b"m"
    key = ed25519.public_key(seed)
    scalar, prefix = ed25519.expand(seed)
    r = ed25519.hash_to_scalar(prefix, message)
    torsion = next(p for p in small_order_points() if p != ed25519.compress(ed25519.IDENTITY))
    shifted = ed25519.add(ed25519.multiply(r, ed25519.BASE), ed25519.decompress(torsion) or ed25519.IDENTITY)
    r_bytes = ed25519.compress(shifted)
    s_number = (r + ed25519.hash_to_scalar(r_bytes, key, message) * scalar) % ed25519.L
    assert not ed25519.verify(key, message, r_bytes + s_number.to_bytes(32, "little"))


# Hashes and numbers.


def test_the_worked_example_of_the_page() -> None:
    x = Tensor("x", "FP32", [1, 2], bytes.fromhex("0000803f00000080"))
    plain = "4509962d510da5a8845093d09d3c24873401238c6902de3ee99904713f38702f"
    salted = "8fff1734c663d9d5c65447fe5ad510e4f057c14bd3552eb990f0cfd29458ad63"
    nothing = "e22c5702b48e5fa273bde2f954abc05bbcf24ef7f578ec3eb0ccaebef709b7e0"
    assert tensor_hash([x], None).hex() == plain
    assert tensor_hash([x], b"\x07" * 32).hex() == salted
    assert tensor_hash([], None).hex() == nothing


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 8])
def test_inclusion_in_a_tree_of_any_size(size: int) -> None:
    leaves = [hashlib.sha256(bytes([i])).digest() for i in range(size)]

    def tree(part: list[bytes]) -> tuple[bytes, list[list[bytes]]]:
        if len(part) == 1:
            return part[0], [[]]
        cut = 1 << (len(part) - 1).bit_length() - 1
        (left, left_paths), (right, right_paths) = tree(part[:cut]), tree(part[cut:])
        return merkle.node_hash(left, right), [[*p, right] for p in left_paths] + [[*p, left] for p in right_paths]

    root, paths = tree(leaves)
    for i, path in enumerate(paths):
        assert merkle.included(leaves[i], i, size, path, root)
        assert not merkle.included(leaves[i], i + size, size, path, root)
        assert not merkle.included(leaves[i], i, size, [*path, root], root)
        assert not merkle.included(leaves[i], i, size, path[:-1], root) or not path


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (0.5, "0.5"),
        (-0.0, "0"),
        (1e21, "1e+21"),
        (1e20, "100000000000000000000"),
        (123456789012345680000.0, "123456789012345680000"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (5e-324, "5e-324"),
        (-1.7976931348623157e308, "-1.7976931348623157e+308"),
        (333333333.3333333, "333333333.3333333"),
        (1.5e-9, "1.5e-9"),
        (18446744073709551616.0, "18446744073709552000"),
    ],
)
def test_number_form_of_rfc_8785(value: float, form: str) -> None:
    assert number_form(value) == form


@pytest.mark.parametrize(
    ("number", "claim"),
    [
        ("1", 1),
        ("1.0", 1),
        ("1e0", 1),
        ("10e-1", 1),
        ("0.00001e5", 1),
        ("-0.0", 0),
        ("-0", 0),
        ("0e999999999999999999999", 0),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775807.0", 2**63 - 1),
        ("-9.223372036854775808e18", -(2**63)),
        ("9223372036854775808", "9223372036854776000"),
        ("9223372036854775808.0", "9223372036854776000"),
        ("18446744073709551616", "18446744073709552000"),
        ("0.50", "0.5"),
        ("1e300", "1e+300"),
        ('"0.5"', "0.5"),
        ("true", True),
    ],
)
def test_parameters_are_judged_by_their_digits(number: str, claim: Any) -> None:
    request = parse_known(load_json(f'{{"request": {{"parameters": {{"p": {number}}}}}}}')).request
    assert request is not None
    assert request["parameters"] == {"p": claim}
    assert type(request["parameters"]["p"]) is type(claim)


# Policy and known.


@pytest.mark.parametrize(
    "policy",
    [
        "[]",
        '{"unknown": 1}',
        '{"max_age": null}',
        '{"max_age": "60"}',
        '{"max_age": true}',
        '{"max_age": 60.5}',
        '{"max_age": 60.0}',
        '{"max_age": -1}',
        '{"max_skew": 9223372036854775808}',
        '{"min_tcb": {"snp": -1}}',
        '{"outcomes": [9]}',
        '{"platforms": ["SNP"]}',
        '{"expected_measurement": ""}',
        '{"strict": 1}',
        '{"mode": "old"}',
        '{"execution": "all"}',
        '{"platforms": "SGX"}',
        '{"expected_mrenclave": "00"}',
        '{"expected_measurement": "0"}',
        '{"expected_measurement": "0x00"}',
        '{"expected_mrsigner": "%s"}' % ("00" * 32),
        '{"expected_mrsigner": "%s", "expected_product": 1}' % ("00" * 32),
        '{"expected_rtmrs": ["%s"]}' % ("00" * 48),
        '{"software_keys": "all"}',
        '{"software_keys": ["00"]}',
        '{"min_tcb": {"cpu": 1}}',
        '{"roots": {"arm": []}}',
        '{"roots": {"amd": ["A"]}}',
        '{"outcomes": [0.5]}',
        '{"max_age": 1, "max_age": 1}',
    ],
)
def test_policy_errors(policy: str) -> None:
    with pytest.raises(InputError):
        parse_policy(load_json(policy))


@pytest.mark.parametrize(
    "known",
    [
        "null",
        '{"policy": {}}',
        '{"nonce": "AAA"}',
        '{"nonce": "AA-_"}',
        '{"nonce": "AB=="}',
        '{"nonce": " AAAA"}',
        '{"model_hash": "0g"}',
        '{"model_hash_scheme": "sha256-file"}',
        '{"model_hash": "00"}',
        '{"request": {"tenant_tag": "00"}}',
        '{"seen": ["0190"]}',
        '{"seen": ["{0190a1b2-c3d4-7e5f-8a0b-0c0d0e0f1011}"]}',
        '{"model_hash": "%s", "model_hash_scheme": "sha512"}' % ("00" * 32),
        '{"request": {"model": "m"}}',
        '{"view": {"a": %s}}' % ("[" * 31 + "]" * 31),
        '{"request": {"parameters": {"p": null}}}',
        '{"request": {"parameters": {"p": []}}}',
        '{"request": {"parameters": {"p": {}}}}',
        '{"request": {"parameters": {"p": 1e400}}}',
        '{"request": {"parameters": {"p": 1%s}}}' % ("0" * 5000),
        '{"request": {"model_id": "\\ud800"}}',
        '{"view": []}',
        '{"view": {"exec": {"a": 1, "a": 1}}}',
        '{"inputs": {}}',
        '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}',
        '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1.5], "data": ""}]}',
        '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": "", "parameters": {}}]}',
    ],
)
def test_known_errors(known: str) -> None:
    with pytest.raises(InputError):
        parse_known(load_json(known))


def test_known_may_nest_32_deep() -> None:
    parse_known(load_json(f'{{"view": {{"a": {"[" * 30 + "]" * 30}}}}}'))


# Verdicts on bundles made here.


@pytest.mark.parametrize("making", [maker.Making(), maker.Making(leaves=8, index=5), maker.Making(leaves=1, index=0)])
def test_a_bundle_is_valid(making: maker.Making) -> None:
    verdict = judge(making)
    assert tuple(c["name"] for c in verdict["checks"]) == CHECKS
    assert verdict["overall"] == "valid", verdict
    results = [c["result"] for c in verdict["checks"]]
    assert results[:11] == ["pass", *["not applicable"] * 5, *["pass"] * 5]
    assert results[11:] == [*["skipped"] * 8, "not applicable", "skipped"]


def test_only_valid_is_without_a_cap() -> None:
    assert judge(maker.Making(), {"mode": "archival"})["overall"] == "valid at claimed time"


@pytest.mark.parametrize("making", [maker.Making(), maker.Making(leaves=4, index=2, strict=True)])
def test_no_flipped_bit_is_valid(making: maker.Making) -> None:
    policy = ANYONE | {"strict": making.strict}
    bundle = making.bundle()
    assert verify(bundle, policy, NOW, {})["overall"] == "valid"
    for at in range(0, len(bundle), 3):
        flipped = bundle[:at] + bytes([bundle[at] ^ 1 << at % 8]) + bundle[at + 1 :]
        verdict = verify(flipped, policy, NOW, {})
        assert verdict["overall"] == "not valid", at
        assert failing(verdict), at


def test_everything_asked_and_answered() -> None:
    def tensors(them: list[Tensor]) -> list[dict[str, Any]]:
        return [
            {"name": t.name, "datatype": t.datatype, "shape": t.shape, "data": base64.b64encode(t.data).decode()}
            for t in them
        ]

    making = maker.Making(leaves=2, strict=True, nonce32=hashlib.sha256(maker.NONCE).digest())
    nonce = base64.b64encode(maker.NONCE).decode()
    known: dict[str, Any] = {
        "inputs": tensors(maker.INPUTS),
        "outputs": tensors(maker.OUTPUTS),
        "nonce": nonce,
        "session_nonce": nonce,
        "model_hash": "00" * 32,
        "model_hash_scheme": "sha256-file",
        "request": {
            "model_id": "mlp",
            "model_version": "1",
            "parameters": load_json('{"temperature": 0.50, "top": 1e0, "greedy": true}'),
            "task_id": "0190A1B2-C3D4-7E5F-8A0B-0C0D0E0F1011",
            "tenant_tag": bytes(range(16)).hex(),
        },
        "view": view_of(s.read_bundle(making.bundle())),
        "seen": ["00" * 16],
    }
    policy = {
        "platforms": ["SOFTWARE"],
        "expected_measurement": maker.CODE_HASH.hex(),
        "software_keys": [ed25519.public_key(maker.NODE_SEED).hex()],
        "max_age": 100,
        "execution": "slot",
        "strict": True,
    }
    verdict = judge(making, policy, known)
    assert verdict["overall"] == "valid", verdict
    assert [c["result"] for c in verdict["checks"][11:]] == ["pass"] * 10

    worse: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("measurement", {"expected_measurement": "00" * 32, "strict": False}, {}),
        ("measurement", {"expected_host_data": "00" * 32, "strict": False}, {}),
        ("measurement", {"software_keys": ["00" * 32], "strict": False}, {}),
        ("measurement", {"platforms": ["SGX"], "strict": False}, {}),
        ("key-binding", {}, {"session_nonce": "AAAAAAAAAAA="}),
        ("outcome", {"outcomes": []}, {}),
        ("model-hash", {}, {"model_hash": "01" * 32}),
        ("model-hash", {}, {"model_hash_scheme": "sha256-files"}),
        ("input-hash", {}, {"inputs": []}),
        ("input-hash", {}, {"inputs": tensors(maker.INPUTS * 2)}),
        ("output-hash", {}, {"outputs": tensors(maker.OUTPUTS[:1])}),
        ("request", {}, {"request": {"parameters": {}}}),
        ("request", {}, {"request": {"parameters": {"temperature": "0.5", "top": True, "greedy": True}}}),
        ("nonce", {}, {"nonce": ""}),
        ("freshness", {"max_age": 99}, {}),
        ("replay", {}, {"seen": ["0190a1b2c3d47e5f8a0b0c0d0e0f1011"]}),
        ("execution", {"execution": "invariant"}, {}),
        ("view", {}, {"view": {}}),
        ("view", {}, {"view": known["view"] | {"timestamp": str(maker.START + 100)}}),
        ("view", {}, {"view": known["view"] | {"more": 1}}),
    ]
    for name, policy_change, known_change in worse:
        assert failing(judge(making, policy | policy_change, known | known_change)) == {name}
    del known["view"]["proof"]
    assert judge(making, policy, known)["overall"] == "valid"


def test_nothing_expected() -> None:
    verdict = verify(maker.Making().bundle(), {}, NOW, {})
    assert failing(verdict) == {"measurement"}
    assert verdict["checks"][6]["found"] == "nothing expected"


def test_salt() -> None:
    salted = {
        s.TENSOR_SCHEME: "grey-tensor-v1+salt",
        s.INPUT_HASH: tensor_hash(maker.INPUTS, maker.SALT),
        s.OUTPUT_HASH: tensor_hash(maker.OUTPUTS, maker.SALT),
    }
    inputs = load_json('{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": "AACAPwAAAIA="}]}')
    salt = {"salt": base64.b64encode(maker.SALT).decode()}
    short = {"salt": "AAAA"}
    making = maker.Making(claim_changes=salted)
    assert result(judge(making, known=inputs | salt), "input-hash") == "pass"
    without = judge(making, known=inputs)
    assert (result(without, "input-hash"), without["overall"]) == ("skipped", "not valid")
    assert failing(judge(making, known=inputs | short)) == {"input-hash"}
    assert failing(judge(maker.Making(), known=inputs | salt)) == {"input-hash"}
    assert judge(maker.Making(), known=short)["overall"] == "valid"
    truth = {"inputs": [{"name": "x", "datatype": "BOOL", "shape": [1], "data": "Ag=="}]}
    assert failing(judge(making, known=truth)) == {"input-hash"}
    inputs["inputs"][0]["shape"] = [2**63]
    assert failing(judge(making, known=inputs)) == {"input-hash"}


def test_executors() -> None:
    making = maker.Making(claim_changes={s.EXEC: maker.upstream_run()})
    assert failing(judge(making)) == {"execution"}
    assert failing(judge(making, {"executors": ["other"]})) == {"execution"}
    assert failing(judge(making, {"executors": ["up"], "execution": "slot"})) == {"execution"}
    assert judge(making, {"executors": ["up"]})["overall"] == "valid"
    assert judge(making, {"executors": "any", "execution": "none"})["overall"] == "valid"


@pytest.mark.parametrize(
    "session",
    [
        maker.manifest(m7=maker.START - 1),
        maker.manifest(m7=maker.START + 150),
        maker.manifest(m8=maker.START + 50),
        maker.manifest(m9=bytes(32)),
    ],
)
def test_session_fails(session: dict[int, Any]) -> None:
    assert failing(judge(maker.Making(session))) == {"session"}


def test_times_of_a_session() -> None:
    making, end = maker.Making(), maker.START + 86_400
    assert failing(judge(making, now=end + 2_592_001)) == {"session"}
    assert judge(making, now=end + 2_592_000)["overall"] == "valid"
    assert judge(making, {"mode": "archival"}, now=end + 2_592_001)["overall"] == "valid at claimed time"
    assert failing(judge(making, now=maker.START + 39)) == {"session"}
    assert judge(making, now=maker.START + 40)["overall"] == "valid"

    bundle = making.session_bundle()
    verdict = verify_session(bundle, ANYONE | {"mode": "archival"}, end, {})
    assert (verdict["overall"], len(verdict["checks"])) == ("valid", 9)
    for now in (maker.START - 1, end + 1):
        assert failing(verify_session(bundle, ANYONE, now, {})) == {"session"}
    assert failing(verify_session(making.bundle(), ANYONE, NOW, {})) == {"well-formed"}
    assert failing(verify(bundle, ANYONE, NOW, {})) == {"well-formed"}


@pytest.mark.parametrize(
    "changes",
    [
        {s.CTI: bytes(16)},
        {s.NONCE: bytes(7)},
        {265: "urn:uuid:00000000-0000-0000-0000-000000000000"},
        {s.MODEL_HASH: None},
        {s.OUTCOME: 9},
        {s.OUTCOME: True},
        {s.OUTCOME: 2},
        {s.EXEC: None},
        {s.OUTPUT_NAMES: ["b", "a"]},
        {s.OUTPUT_NAMES: []},
        {s.PARAMETERS: {}},
        {s.PARAMETERS: {1: 1}},
        {s.PARAMETERS: {"p": b""}},
        {s.MEASUREMENT: bytes(48)},
        {-70013: bytes(32)},
        {s.CHILDREN: []},
        {s.EXEC: maker.run(e5=[[4, 3, 2]])},
        {s.EXEC: maker.run(e5=[[4, 0, 0]])},
        {s.EXEC: maker.run(e5=[])},
        {s.EXEC: maker.run(e10="zero")},
        {s.EXEC: maker.run(e11=["b", "a"])},
        {s.EXEC: maker.upstream_run() | {4: 1}},
        {s.EXEC: maker.upstream_run() | {10: "self"}},
        {s.EXEC: maker.upstream_run() | {5: [[4, 0, 3]]}},
        {s.MODEL_ID: "m" * 4096},
    ],
    ids=str,
)
def test_claims_that_are_not_well_formed(changes: dict[int, Any]) -> None:
    verdict = judge(maker.Making(claim_changes=changes))
    assert failing(verdict) == {"well-formed"}
    assert {c["result"] for c in verdict["checks"][1:]} == {"skipped"}


def test_claims_that_are_well_formed() -> None:
    for changes in ({s.EXEC: None, s.CHILDREN: [bytes(32)]}, {s.PARAMETERS: None}, {s.MODEL_ID: ""}):
        assert judge(maker.Making(claim_changes=changes))["overall"] == "valid"


def test_other_members() -> None:
    for changes in ({4: {3: b""}}, {10: b""}, {5: "token"}, {5: bytes(s.MAX_BUNDLE)}):
        assert failing(judge(maker.Making(members=changes))) == {"well-formed"}
    for key in (5, 6, 7, 8, 9):
        assert judge(maker.Making(members={key: b"anything"}))["overall"] == "valid"
    assert failing(judge(maker.Making(members={9: b"anything"}, leaves=2), {"strict": True})) == {"batch-report"}
    assert failing(judge(maker.Making(strict=True), {"strict": True})) == {"batch-report"}


@pytest.mark.parametrize(("platform", "least"), s.LEAST_EVIDENCE.items())
def test_hardware_is_read_and_never_valid(platform: str, least: int) -> None:
    measurement = bytes(s.MEASUREMENT_SIZE[platform])
    making = maker.Making(maker.manifest(m5=platform, m6=measurement))
    for size, well_formed in ((least - 1, False), (least, True), (8000, True)):
        making.members = {3: {1: platform, 2: bytes(size), 3: bytes(32)}}
        verdict = judge(making)
        assert (result(verdict, "well-formed") == "pass") == well_formed
        assert verdict["overall"] == "not valid"
    certificates: dict[int, Any] = {1: [b"der"]}
    for collateral, fits in ((certificates, platform == "SEV-SNP"), ({3: b"{}"}, platform != "SEV-SNP")):
        making.members[4] = collateral
        assert (result(judge(making), "well-formed") == "pass") == fits
